//! The mean over all shards' gradients, on every worker, by one all-to-all and one all-gather.
//!
//! Each worker owns a contiguous range of shards and a slice of the parameters. It sends every other worker that
//! worker's slice of its subtree sums, finishes the tree over its own slice, and sends the result to all. Bytes sent
//! equal a ring all-reduce where the workers divide the shards.

use std::ops::Range;
use std::sync::atomic::AtomicBool;

use muster_numerics::graph::Graph;
use muster_numerics::reduce::{self, ReduceError, Subtree, SubtreeAccumulator, SubtreeRef, subtree_keys};

use super::wire::{Kind, Lengths};
use super::{Error, Identity, Listener, Mesh};
use crate::protocol::Peer;

/// The shards of worker `rank`: contiguous, as equal as can be.
pub fn shards_of(shards: u64, workers: u32, rank: u32) -> Range<u64> {
    let (workers, rank) = (u64::from(workers), u64::from(rank));
    shards * rank / workers..shards * (rank + 1) / workers
}

/// What a worker wants to happen after the step. If one wants it, all do it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StepVotes {
    /// Stop at the end of the current interval.
    pub drain: bool,
    /// Stop after this step.
    pub stop: bool,
}

impl StepVotes {
    fn to_byte(self) -> u8 {
        u8::from(self.drain) | u8::from(self.stop) << 1
    }

    fn merge(&mut self, byte: u8) {
        self.drain |= byte & 1 != 0;
        self.stop |= byte & 2 != 0;
    }
}

/// Who owns what in a run.
#[derive(Debug)]
struct Plan {
    shards: u64,
    /// Held-out sequences of an evaluation.
    evaluated: u64,
    workers: u32,
    slices: Vec<Range<usize>>,
    /// Per rank: the (level, index) of the subtrees it ships, ascending.
    keys: Vec<Vec<(u32, u64)>>,
}

impl Plan {
    fn new(graph: &Graph, workers: u32) -> Result<Self, Error> {
        let shards = graph.step_shape().shards;
        if workers == 0 || u64::from(workers) > shards {
            return Err(Error::Setup(format!(
                "{workers} workers for {shards} shards: every worker needs at least one; lower --workers or raise \
                 training.shards"
            )));
        }
        let keys = (0..workers)
            .map(|rank| subtree_keys(shards, shards_of(shards, workers, rank)).map_err(setup))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            shards,
            evaluated: graph.evaluated(),
            workers,
            slices: reduce::slices(graph, workers as usize),
            keys,
        })
    }

    fn slice(&self, rank: u32) -> Range<usize> {
        self.slices.get(rank as usize).cloned().unwrap_or_default()
    }

    fn keys(&self, rank: u32) -> &[(u32, u64)] {
        self.keys.get(rank as usize).map_or(&[], Vec::as_slice)
    }

    fn shards_of(&self, rank: u32) -> Range<u64> {
        shards_of(self.shards, self.workers, rank)
    }

    fn evaluated_by(&self, rank: u32) -> Range<u64> {
        shards_of(self.evaluated, self.workers, rank)
    }

    /// How long the frames are that rank `from` sends to rank `to`.
    fn lengths(&self, from: u32, to: u32) -> Lengths {
        let (shards, evaluated) = (self.shards_of(from), self.evaluated_by(from));
        let f32s = |n: usize| 4 * n as u64;
        Lengths {
            losses: 1 + 4 * (shards.end - shards.start),
            subtrees: f32s(self.keys(from).len() * self.slice(to).len()),
            slice: f32s(self.slice(from).len()),
            evaluation: 4 * (evaluated.end - evaluated.start),
        }
    }
}

fn setup(error: ReduceError) -> Error {
    Error::Setup(error.to_string())
}

/// Reduces the gradients of a run's steps over its workers.
#[derive(Debug)]
pub struct Reducer {
    plan: Plan,
    mesh: Mesh,
}

impl Reducer {
    /// Meets the other workers and agrees on who owns what. `stop` ends the waiting; `warn` hears of strangers that
    /// were turned away.
    ///
    /// # Errors
    /// [`Error::Setup`] for more workers than shards or a wrong list of peers, [`Error::Absent`],
    /// [`Error::Differs`], [`Error::Stopped`].
    pub fn meet(
        graph: &Graph,
        me: Identity,
        listener: Listener,
        peers: &[Peer],
        stop: &AtomicBool,
        warn: &dyn Fn(String),
    ) -> Result<Self, Error> {
        let plan = Plan::new(graph, me.workers)?;
        let mesh = Mesh::meet(listener, me, peers, &|rank| plan.lengths(rank, me.rank), stop, warn)?;
        Ok(Self { plan, mesh })
    }

    /// A run of one worker: no network.
    ///
    /// # Errors
    /// [`Error::Setup`] for a job without shards.
    pub fn alone(graph: &Graph, me: Identity) -> Result<Self, Error> {
        Ok(Self { plan: Plan::new(graph, 1)?, mesh: Mesh::alone(me) })
    }

    /// The shards this worker computes.
    pub fn my_shards(&self) -> Range<u64> {
        self.plan.shards_of(self.mesh.identity().rank)
    }

    /// The held-out sequences whose losses this worker computes; none if the job has fewer than workers.
    pub fn my_evaluated(&self) -> Range<u64> {
        self.plan.evaluated_by(self.mesh.identity().rank)
    }

    /// Exchanges the losses of held-out sequences after step `step`; `losses` are this worker's, in order. Gives those of all
    /// sequences in order, the same values on every worker.
    ///
    /// # Errors
    /// [`Error::Lost`] naming the peer.
    pub fn exchange_evaluation(&self, step: u64, losses: &[f32]) -> Result<Vec<f32>, Error> {
        let me = self.mesh.identity().rank;
        let mut payload = Vec::new();
        encode(losses, &mut payload);
        for peer in self.mesh.peers() {
            self.mesh.link(peer)?.send(Kind::Evaluation, step, payload.clone())?;
        }
        let mut all = Vec::new();
        for rank in 0..self.plan.workers {
            if rank == me {
                all.extend(losses);
            } else {
                all.extend(decode(&self.mesh.link(rank)?.receive(Kind::Evaluation, step)?));
            }
        }
        Ok(all)
    }

    /// Exchanges the gradients of a step. `losses` are those of this worker's shards in order, `sums` has its shards'
    /// gradients and gets the mean over all shards; gives the losses of all shards in order and what any worker voted
    /// for. The same values on every worker.
    ///
    /// # Errors
    /// [`Error::Lost`] naming the peer; [`Error::Setup`] if shards are missing.
    pub fn exchange(
        &self,
        step: u64,
        votes: StepVotes,
        losses: &[f32],
        sums: &mut SubtreeAccumulator,
    ) -> Result<(Vec<f32>, StepVotes), Error> {
        if self.plan.workers == 1 {
            sums.finish().map_err(setup)?;
            return Ok((losses.to_vec(), votes));
        }
        let subtrees = sums.subtrees().map_err(setup)?;
        let me = self.mesh.identity().rank;
        for peer in self.mesh.peers() {
            let link = self.mesh.link(peer)?;
            let mut payload = vec![votes.to_byte()];
            encode(losses, &mut payload);
            link.send(Kind::Losses, step, payload)?;
            let slice = self.plan.slice(peer);
            let mut payload = Vec::with_capacity(4 * slice.len() * subtrees.len());
            for subtree in subtrees {
                encode(cut(&subtree.sum, &slice)?, &mut payload);
            }
            link.send(Kind::Subtrees, step, payload)?;
        }

        let (mut all_losses, mut all_votes) = (Vec::new(), votes);
        let mut theirs = Vec::new();
        for rank in 0..self.plan.workers {
            if rank == me {
                all_losses.extend(losses);
                continue;
            }
            let link = self.mesh.link(rank)?;
            let payload = link.receive(Kind::Losses, step)?;
            if let Some((flags, values)) = payload.split_first() {
                all_votes.merge(*flags);
                all_losses.extend(decode(values));
            }
            theirs.push((rank, decode(&link.receive(Kind::Subtrees, step)?).collect::<Vec<f32>>()));
        }

        let mine = self.plan.slice(me);
        let mean = self.combine(&mine, subtrees, &theirs)?;
        let gradient = sums.mean_mut().map_err(setup)?;
        if gradient.len() < mine.end || mean.len() != mine.len() {
            return Err(Error::Setup("a gradient of another length than the model".into()));
        }
        gradient[mine.clone()].copy_from_slice(&mean);
        for peer in self.mesh.peers() {
            let mut payload = Vec::with_capacity(4 * mine.len());
            encode(&mean, &mut payload);
            self.mesh.link(peer)?.send(Kind::Slice, step, payload)?;
        }
        for peer in self.mesh.peers() {
            let payload = self.mesh.link(peer)?.receive(Kind::Slice, step)?;
            let slice = self.plan.slice(peer);
            for (element, value) in gradient[slice].iter_mut().zip(decode(&payload)) {
                *element = value;
            }
        }
        Ok((all_losses, all_votes))
    }

    /// Finishes the tree over this worker's slice.
    fn combine(
        &self,
        slice: &Range<usize>,
        subtrees: &[Subtree],
        theirs: &[(u32, Vec<f32>)],
    ) -> Result<Vec<f32>, Error> {
        let mut parts = Vec::new();
        for subtree in subtrees {
            let sum = cut(&subtree.sum, slice)?;
            parts.push(SubtreeRef { level: subtree.level, index: subtree.index, sum });
        }
        for (rank, sums) in theirs {
            for (i, (level, index)) in self.plan.keys(*rank).iter().enumerate() {
                let sum = cut(sums, &(i * slice.len()..(i + 1) * slice.len()))?;
                parts.push(SubtreeRef { level: *level, index: *index, sum });
            }
        }
        let mut sum = reduce::combine(self.plan.shards, &parts).map_err(setup)?;
        reduce::finish(&mut sum, self.plan.shards);
        Ok(sum)
    }

    /// Ends the links. To be called when all workers have finished the same step.
    pub fn close(self) {
        self.mesh.close();
    }
}

fn cut<'a>(values: &'a [f32], range: &Range<usize>) -> Result<&'a [f32], Error> {
    values.get(range.clone()).ok_or_else(|| Error::Setup("a sum of another length than the model".into()))
}

fn encode(values: &[f32], out: &mut Vec<u8>) {
    out.reserve(4 * values.len());
    for value in values {
        out.extend_from_slice(&value.to_le_bytes());
    }
}

fn decode(bytes: &[u8]) -> impl Iterator<Item = f32> + '_ {
    bytes.chunks_exact(4).map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]]))
}
