//! The mean over all shards' gradients, on every worker, by one all-to-all and one all-gather.
//!
//! Each worker owns a contiguous range of shards and a slice of the parameters. It sends every other worker that
//! worker's slice of its subtree sums, finishes the tree over its own slice, and sends the result to all. Bytes sent
//! equal a ring all-reduce where the workers divide the shards. Workers that keep a slice of the optimiser's moments each
//! update their slice of the parameters first and send that instead: as many bytes.

use std::ops::Range;
use std::sync::atomic::AtomicBool;

use muster_numerics::graph::Graph;
use muster_numerics::optim::squares_in;
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
    /// Per rank: how many sums of squares its slice has.
    squares: Vec<usize>,
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
        let slices = reduce::slices(graph, workers as usize);
        let squares = slices.iter().map(|slice| squares_in(graph, slice)).collect();
        Ok(Self { shards, evaluated: graph.evaluated(), workers, slices, squares, keys })
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
            squares: f32s(self.squares.get(from as usize).copied().unwrap_or_default()),
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
        self.gather(Kind::Evaluation, step, losses)
    }

    /// Every worker's values in the order of ranks; `mine` are this one's.
    fn gather(&self, kind: Kind, step: u64, mine: &[f32]) -> Result<Vec<f32>, Error> {
        self.send_all(kind, step, |payload| encode(mine, payload))?;
        let mut all = Vec::new();
        for rank in 0..self.plan.workers {
            if rank == self.mesh.identity().rank {
                all.extend(mine);
            } else {
                all.extend(decode(&self.mesh.link(rank)?.receive(kind, step)?));
            }
        }
        Ok(all)
    }

    /// Makes every worker's slice of `values` that worker's.
    fn gather_slices(&self, kind: Kind, step: u64, values: &mut [f32]) -> Result<(), Error> {
        let mine = cut(values, &self.my_slice())?;
        self.send_all(kind, step, |payload| encode(mine, payload))?;
        for peer in self.mesh.peers() {
            let payload = self.mesh.link(peer)?.receive(kind, step)?;
            let slice = values.get_mut(self.plan.slice(peer)).ok_or_else(other_length)?;
            for (element, value) in slice.iter_mut().zip(decode(&payload)) {
                *element = value;
            }
        }
        Ok(())
    }

    fn send_all(&self, kind: Kind, step: u64, write: impl Fn(&mut Vec<u8>)) -> Result<(), Error> {
        for peer in self.mesh.peers() {
            let mut payload = Vec::new();
            write(&mut payload);
            self.mesh.link(peer)?.send(kind, step, payload)?;
        }
        Ok(())
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
        let all = self.reduce(step, votes, losses, sums)?;
        if self.plan.workers > 1 {
            self.gather_slices(Kind::Slice, step, sums.mean_mut().map_err(setup)?)?;
        }
        Ok(all)
    }

    /// As [`Reducer::exchange`], but of the mean `sums` gets only [`Reducer::my_slice`]; what is beside it means nothing.
    ///
    /// # Errors
    /// As [`Reducer::exchange`].
    pub fn reduce(
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
        let slice = sums.mean_mut().map_err(setup)?.get_mut(mine).ok_or_else(other_length)?;
        if slice.len() != mean.len() {
            return Err(other_length());
        }
        slice.copy_from_slice(&mean);
        Ok((all_losses, all_votes))
    }

    /// The parameters whose moments this worker keeps, where each keeps a slice.
    pub fn my_slice(&self) -> Range<usize> {
        self.plan.slice(self.mesh.identity().rank)
    }

    /// The sums of squares of the whole gradient, in order; `mine` are those of this worker's slice.
    ///
    /// # Errors
    /// [`Error::Lost`] naming the peer.
    pub fn exchange_squares(&self, step: u64, mine: &[f32]) -> Result<Vec<f32>, Error> {
        self.gather(Kind::Squares, step, mine)
    }

    /// Whether every worker says so.
    ///
    /// # Errors
    /// [`Error::Lost`] naming the peer.
    pub fn all_finite(&self, step: u64, mine: bool) -> Result<bool, Error> {
        self.send_all(Kind::Finite, step, |payload| payload.push(u8::from(mine)))?;
        let mut all = mine;
        for peer in self.mesh.peers() {
            all &= self.mesh.link(peer)?.receive(Kind::Finite, step)? == [1];
        }
        Ok(all)
    }

    /// Makes each slice of the parameters what its worker has made of it in this step.
    ///
    /// # Errors
    /// [`Error::Lost`] naming the peer.
    pub fn exchange_parameters(&self, step: u64, parameters: &mut [f32]) -> Result<(), Error> {
        self.gather_slices(Kind::Parameters, step, parameters)
    }

    /// Puts the moments of all workers' slices together on rank 0, into `all`; the others send theirs.
    ///
    /// # Errors
    /// [`Error::Lost`] naming rank 0, or on rank 0 the peer.
    pub fn collect_moments(
        &self,
        step: u64,
        (m, v): (&[f32], &[f32]),
        all: (&mut Vec<f32>, &mut Vec<f32>),
    ) -> Result<(), Error> {
        if self.mesh.identity().rank != 0 {
            let mut payload = Vec::new();
            encode(m, &mut payload);
            encode(v, &mut payload);
            return self.mesh.link(0)?.send(Kind::Moments, step, payload);
        }
        let (all_m, all_v) = all;
        all_m.clear();
        all_v.clear();
        all_m.extend(m);
        all_v.extend(v);
        // Ranks ascend, and so do their slices.
        for peer in self.mesh.peers() {
            let payload = self.mesh.link(peer)?.receive(Kind::Moments, step)?;
            let (m, v) = payload.split_at(payload.len() / 2);
            all_m.extend(decode(m));
            all_v.extend(decode(v));
        }
        Ok(())
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
    values.get(range.clone()).ok_or_else(other_length)
}

fn other_length() -> Error {
    Error::Setup("a sum of another length than the model".into())
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
