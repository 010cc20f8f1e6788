//! The canonical sum over logical shards (spec 5): a fixed binary tree, whoever computes its parts.
//!
//! Level 0 holds the shards' gradients; a node of level l + 1 is the sum of two neighbours of level l,
//! and an unpaired last node moves up unchanged. Node (level, index) covers shards
//! `index << level .. min((index + 1) << level, S)`. A worker that owns a contiguous range of shards
//! ships the largest nodes that lie wholly in its range: few, and enough to finish the tree.

use std::fmt;
use std::ops::Range;

use crate::env::{Env, Failed};
use crate::graph::Graph;
use crate::isa::Level;
use crate::kernel;

/// Elements per chunk of the gradient norm; slices begin at chunk boundaries inside tensors.
pub const CHUNK: usize = 4096;

/// Far beyond any job; keeps shard arithmetic away from overflow.
const MAX_SHARDS: u64 = 1 << 32;

/// A node of the tree.
#[derive(Clone, Debug, PartialEq)]
pub struct Subtree {
    /// 0 for a single shard.
    pub level: u32,
    /// Position within the level.
    pub index: u64,
    /// Element-wise sum of its shards' gradients, flat.
    pub sum: Vec<f32>,
}

/// A node of the tree, or a slice of one, received from a worker.
#[derive(Clone, Copy, Debug)]
pub struct SubtreeRef<'a> {
    /// 0 for a single shard.
    pub level: u32,
    /// Position within the level.
    pub index: u64,
    /// The elements of the slice being combined.
    pub sum: &'a [f32],
}

/// Why subtrees cannot be made or combined.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReduceError {
    /// The shard range is empty or beyond the number of shards, or that number is 0 or beyond 2^32.
    #[error("shards {start}..{end} are not a non-empty part of 0..{shards}")]
    Range {
        /// First shard.
        start: u64,
        /// One past the last shard.
        end: u64,
        /// S.
        shards: u64,
    },
    /// More shards were pushed than the range holds, or fewer before `subtrees`.
    #[error("{pushed} shard gradients were pushed where the range holds {expected}")]
    Count {
        /// How many were pushed.
        pushed: u64,
        /// How many belong there.
        expected: u64,
    },
    /// A buffer of the wrong length.
    #[error("a slice has {got} elements where {expected} belong")]
    Length {
        /// Its length.
        got: usize,
        /// The right length.
        expected: usize,
    },
    /// Threads could not be started, or one panicked.
    #[error("{threads} threads: {reason}")]
    Threads {
        /// Threads asked for; 0 if they ran.
        threads: usize,
        /// What went wrong.
        reason: String,
    },
    /// The subtrees at hand do not cover a node.
    #[error("no subtree covers shard {shard}: ask its worker again")]
    Missing {
        /// First shard that is not covered.
        shard: u64,
    },
    /// A subtree that lies inside another, lies outside the tree or occurs twice.
    #[error("subtree (level {level}, index {index}) does not belong into a tree of {shards} shards here")]
    Surplus {
        /// Its level.
        level: u32,
        /// Its index.
        index: u64,
        /// S.
        shards: u64,
    },
}

impl From<Failed> for ReduceError {
    fn from(failed: Failed) -> ReduceError {
        ReduceError::Threads { threads: 0, reason: failed.to_string() }
    }
}

fn environment(threads: usize) -> Result<Env, ReduceError> {
    Env::new(Level::detect(), threads).map_err(|e| ReduceError::Threads { threads, reason: e.to_string() })
}

/// Level of the root: ceil(log2 S).
fn root_level(shards: u64) -> u32 {
    64 - shards.saturating_sub(1).leading_zeros()
}

/// Adds up the shard gradients of one worker as they come, keeping at most one sum per level: a binary
/// counter, so memory is bounded by log2(S) + 1 buffers however many shards the worker owns; one for a
/// worker of one shard.
pub struct SubtreeAccumulator {
    shards: u64,
    range: Range<u64>,
    elements: usize,
    next: u64,
    done: Vec<Subtree>,
    /// Where the next shard's gradient goes, if someone has asked.
    leaf: Option<Vec<f32>>,
    spare: Vec<Vec<f32>>,
    env: Env,
}

impl SubtreeAccumulator {
    /// For a worker that owns `range` of `shards` logical shards; gradients have `elements` elements. Adds up on the
    /// calling thread.
    pub fn new(shards: u64, range: Range<u64>, elements: usize) -> Result<Self, ReduceError> {
        if range.start >= range.end || range.end > shards || shards > MAX_SHARDS {
            return Err(ReduceError::Range { start: range.start, end: range.end, shards });
        }
        let next = range.start;
        let (done, spare, env) = (vec![], vec![], environment(1)?);
        Ok(SubtreeAccumulator { shards, range, elements, next, done, leaf: None, spare, env })
    }

    /// Adds up on as many threads, the caller's included.
    pub fn with_threads(mut self, threads: usize) -> Result<Self, ReduceError> {
        self.env = environment(threads)?;
        Ok(self)
    }

    /// Where the gradient of the next shard of the range goes, in ascending order; its contents are arbitrary until
    /// they are overwritten, whole. Then [`end_leaf`](Self::end_leaf).
    pub fn leaf(&mut self) -> Result<&mut [f32], ReduceError> {
        let expected = self.range.end - self.range.start;
        if self.next >= self.range.end {
            return Err(ReduceError::Count { pushed: expected + 1, expected });
        }
        let spare = &mut self.spare;
        let n = self.elements;
        Ok(self.leaf.get_or_insert_with(|| spare.pop().unwrap_or_else(|| vec![0.0; n])))
    }

    /// Takes what is in [`leaf`](Self::leaf).
    pub fn end_leaf(&mut self) -> Result<(), ReduceError> {
        crate::float::normalize();
        self.leaf()?;
        let Some(sum) = self.leaf.take() else { return Ok(()) };
        self.done.push(Subtree { level: 0, index: self.next, sum });
        self.next += 1;
        self.merge()
    }

    /// [`leaf`](Self::leaf) and [`end_leaf`](Self::end_leaf) for a gradient that is elsewhere.
    pub fn push(&mut self, gradient: &[f32]) -> Result<(), ReduceError> {
        let leaf = self.leaf()?;
        if gradient.len() != leaf.len() {
            return Err(ReduceError::Length { got: gradient.len(), expected: leaf.len() });
        }
        leaf.copy_from_slice(gradient);
        self.end_leaf()
    }

    /// Joins finished neighbours and lifts an unpaired last node.
    fn merge(&mut self) -> Result<(), ReduceError> {
        loop {
            if let [.., left, right] = self.done.as_mut_slice()
                && left.level == right.level
                && left.index & 1 == 0
                && left.index + 1 == right.index
            {
                kernel::add_assign(&mut self.env, &mut left.sum, &right.sum)?;
                left.level += 1;
                left.index >>= 1;
                if let Some(right) = self.done.pop() {
                    self.spare.push(right.sum);
                }
                continue;
            }
            let Some(last) = self.done.last_mut() else { return Ok(()) };
            let sibling = last.index + 1;
            let unpaired = last.index & 1 == 0 && sibling << last.level >= self.shards;
            if !unpaired || last.level >= root_level(self.shards) {
                return Ok(());
            }
            last.level += 1;
            last.index >>= 1;
        }
    }

    /// Turns the sum of all shards, if this worker owns all, into their mean.
    pub fn finish(&mut self) -> Result<(), ReduceError> {
        crate::float::normalize();
        let (shards, range) = (self.shards, &self.range);
        let ([all], true) = (self.done.as_mut_slice(), *range == (0..shards) && self.next == shards) else {
            return Err(ReduceError::Missing { shard: if range.start > 0 { 0 } else { self.next } });
        };
        // Of one shard it is times one.
        if shards > 1 {
            kernel::scale(&mut self.env, &mut all.sum, reciprocal(shards))?;
        }
        Ok(())
    }

    /// After the exchange with other workers, the buffer for the mean over all shards: the sums are no longer needed.
    pub fn mean_mut(&mut self) -> Result<&mut [f32], ReduceError> {
        self.subtrees()?;
        self.spare.extend(self.done.drain(1..).map(|subtree| subtree.sum));
        self.done.first_mut().map(|first| &mut first.sum[..]).ok_or(ReduceError::Missing { shard: self.next })
    }

    /// What [`finish`](Self::finish) or the user of [`mean_mut`](Self::mean_mut) has left.
    pub fn mean(&self) -> &[f32] {
        self.done.first().map_or(&[], |first| &first.sum)
    }

    /// The maximal subtrees of the whole range, ascending, once every shard was pushed.
    pub fn subtrees(&self) -> Result<&[Subtree], ReduceError> {
        if self.next != self.range.end {
            return Err(ReduceError::Count {
                pushed: self.next - self.range.start,
                expected: self.range.end - self.range.start,
            });
        }
        Ok(&self.done)
    }

    /// Starts the next step, keeping the buffers.
    pub fn reset(&mut self) {
        self.next = self.range.start;
        self.spare.extend(self.done.drain(..).map(|s| s.sum));
    }
}

impl fmt::Debug for SubtreeAccumulator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SubtreeAccumulator { shards, range, next, .. } = self;
        write!(f, "SubtreeAccumulator of {range:?} of {shards} shards, at {next}")
    }
}

/// The (level, index) of the subtrees that a worker with these shards ships, ascending.
pub fn subtree_keys(shards: u64, range: Range<u64>) -> Result<Vec<(u32, u64)>, ReduceError> {
    let mut counter = SubtreeAccumulator::new(shards, range.clone(), 0)?;
    for _ in range {
        counter.push(&[])?;
    }
    Ok(counter.subtrees()?.iter().map(|s| (s.level, s.index)).collect())
}

/// Finishes the tree over one slice of the gradient: `parts` are the same slice of the subtrees of all
/// workers, in any order. The result is the sum over all shards, not yet divided.
pub fn combine(shards: u64, parts: &[SubtreeRef<'_>]) -> Result<Vec<f32>, ReduceError> {
    crate::float::normalize();
    if shards == 0 || shards > MAX_SHARDS {
        return Err(ReduceError::Range { start: 0, end: 0, shards });
    }
    let expected = parts.first().map_or(0, |p| p.sum.len());
    for part in parts {
        if part.sum.len() != expected {
            return Err(ReduceError::Length { got: part.sum.len(), expected });
        }
    }
    let mut used = vec![false; parts.len()];
    let mut out = vec![0.0; expected];
    fold(shards, parts, &mut used, root_level(shards), 0, &mut out)?;
    match used.iter().position(|used| !used) {
        Some(i) => Err(ReduceError::Surplus { level: parts[i].level, index: parts[i].index, shards }),
        None => Ok(out),
    }
}

fn fold(
    shards: u64,
    parts: &[SubtreeRef<'_>],
    used: &mut [bool],
    level: u32,
    index: u64,
    out: &mut [f32],
) -> Result<(), ReduceError> {
    if let Some(i) = parts.iter().position(|p| p.level == level && p.index == index) {
        used[i] = true;
        out.copy_from_slice(parts[i].sum);
        return Ok(());
    }
    if level == 0 {
        return Err(ReduceError::Missing { shard: index });
    }
    fold(shards, parts, used, level - 1, 2 * index, out)?;
    if (2 * index + 1) << (level - 1) < shards {
        let mut right = vec![0.0; out.len()];
        fold(shards, parts, used, level - 1, 2 * index + 1, &mut right)?;
        add(out, &right);
    }
    Ok(())
}

/// The mean over shards: each element of the combined sum times f32(1/S).
pub fn finish(sum: &mut [f32], shards: u64) {
    crate::float::normalize();
    let scale = reciprocal(shards);
    for x in sum {
        *x *= scale;
    }
}

/// f32(1/S)
fn reciprocal(shards: u64) -> f32 {
    (1.0 / shards as f64) as f32
}

fn add(left: &mut [f32], right: &[f32]) {
    for (l, r) in left.iter_mut().zip(right) {
        *l += *r;
    }
}

/// Cuts the flat parameters into `parts` contiguous ranges of about equal length, some possibly empty.
/// Cuts lie at tensor starts or at chunk boundaries inside tensors, so that no chunk of the gradient
/// norm is split. Where exactly they lie has no influence on any bit.
pub fn slices(graph: &Graph, parts: usize) -> Vec<Range<usize>> {
    let total = graph.parameters();
    let mut cuts = vec![0];
    for part in 1..parts {
        let ideal = (total as u128 * part as u128 / parts as u128) as usize;
        let tensor = graph.tensors().iter().rfind(|t| t.offset <= ideal);
        let cut = tensor.map_or(0, |t| t.offset + (ideal - t.offset) / CHUNK * CHUNK);
        cuts.push(cut);
    }
    cuts.push(total);
    cuts.windows(2).map(|w| w[0]..w[1]).collect()
}

#[cfg(test)]
mod tests;
