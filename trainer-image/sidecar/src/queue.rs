//! Checkpoints, and a failure, that are not durable yet, in the order of their steps: which is next, and who waits for room.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use muster_proof::Digest;
use muster_trainer::failure::Failure;
use muster_trainer::work::WAITING;

/// A state that is a checkpoint on this disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sealed {
    /// Which state.
    pub step: u64,
    /// Digest of the state.
    pub state_root: Digest,
    /// Digest of its manifest.
    pub manifest: Digest,
}

/// A step that is not finite, as the worker's file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failed {
    /// The round whose worker wrote it.
    pub round: u32,
    /// The step that cannot be taken.
    pub step: u64,
    /// Digest of the state before it.
    pub before: Digest,
}

/// How an interval has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Item {
    /// With a checkpoint.
    Checkpoint(Sealed),
    /// In a step that is not finite.
    Failure(Failed),
}

impl Item {
    /// The state, or the failed step.
    pub fn step(&self) -> u64 {
        match self {
            Self::Checkpoint(sealed) => sealed.step,
            Self::Failure(failed) => failed.step,
        }
    }
}

/// Where it is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The relay has not taken it.
    Waiting,
    /// The relay has it, the hub not yet. It is kept here, for the relay may ask for another commit of it.
    Accepted,
}

/// What the uploading thread does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Next {
    /// With what.
    pub item: Item,
    /// [`Stage::Waiting`]: bring it. [`Stage::Accepted`]: all are; ask whether this last one is durable.
    pub stage: Stage,
}

#[derive(Debug, Default)]
struct Inner {
    items: VecDeque<(Item, Stage)>,
    /// Everything up to this step is durable.
    durable: u64,
    /// Why nothing more can be durable.
    refused: Option<Failure>,
}

impl Inner {
    fn waiting(&self) -> usize {
        self.items.iter().filter(|(_, stage)| *stage == Stage::Waiting).count()
    }

    fn next(&self) -> Option<Next> {
        let first = self.items.iter().find(|(_, stage)| *stage == Stage::Waiting);
        first.or(self.items.back()).map(|(item, stage)| Next { item: *item, stage: *stage })
    }
}

/// See the module; shared by the threads that fill and empty it.
#[derive(Debug, Clone, Default)]
pub struct Queue {
    shared: Arc<(Mutex<Inner>, Condvar)>,
}

impl Queue {
    /// An empty one, where everything up to a step is durable; 0 for nothing.
    pub fn after(durable: u64) -> Self {
        let queue = Self::default();
        queue.inner().durable = durable;
        queue
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until one more may wait.
    ///
    /// # Errors
    /// Nothing more can be durable.
    pub fn room(&self) -> Result<(), Failure> {
        let full = |inner: &mut Inner| inner.refused.is_none() && inner.waiting() >= WAITING;
        let inner = self.shared.1.wait_while(self.inner(), full).unwrap_or_else(PoisonError::into_inner);
        inner.refused.clone().map_or(Ok(()), Err)
    }

    /// Adds one at the place of its step. One that is there already stays as it is. `false`: it is durable, and was not added; that
    /// may have come to pass since whoever adds it has looked, and what is kept of it is gone then.
    pub fn push(&self, item: Item) -> bool {
        let mut inner = self.inner();
        if item.step() <= inner.durable {
            return false;
        }
        let at = inner.items.partition_point(|(other, _)| other.step() < item.step());
        if inner.items.get(at).is_none_or(|(other, _)| other.step() != item.step()) {
            inner.items.insert(at, (item, Stage::Waiting));
        }
        drop(inner);
        self.shared.1.notify_all();
        true
    }

    /// Waits for something to do.
    pub fn next(&self) -> Next {
        let mut inner = self.inner();
        loop {
            if let Some(next) = inner.next() {
                return next;
            }
            inner = self.shared.1.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Sleeps, but no longer than until a checkpoint waits.
    pub fn idle(&self, pause: Duration) {
        let none = |inner: &mut Inner| inner.waiting() == 0;
        drop(self.shared.1.wait_timeout_while(self.inner(), pause, none));
    }

    /// The relay has the checkpoint of this step.
    pub fn accepted(&self, step: u64) {
        self.change(|(item, stage)| {
            if item.step() == step {
                *stage = Stage::Accepted;
            }
        });
    }

    /// The relay has none from this step on, or none that counts. Whether that step is here.
    pub fn back_to(&self, step: u64) -> bool {
        let mut is_here = false;
        self.change(|(item, stage)| {
            is_here |= item.step() == step;
            if item.step() >= step {
                *stage = Stage::Waiting;
            }
        });
        is_here
    }

    /// Everything up to this step is durable.
    pub fn durable(&self, step: u64) {
        let mut inner = self.inner();
        inner.durable = inner.durable.max(step);
        inner.items.retain(|(item, _)| item.step() > step);
        drop(inner);
        self.shared.1.notify_all();
    }

    /// Nothing more can be durable. The steps that waited for it.
    pub fn refuse(&self, why: Failure) -> Vec<u64> {
        let mut inner = self.inner();
        inner.refused.get_or_insert(why);
        let steps = inner.items.drain(..).map(|(item, _)| item.step()).collect();
        drop(inner);
        self.shared.1.notify_all();
        steps
    }

    /// Whether a checkpoint is not at the relay.
    pub fn is_busy(&self) -> bool {
        self.inner().waiting() > 0
    }

    fn change(&self, change: impl FnMut(&mut (Item, Stage))) {
        self.inner().items.iter_mut().for_each(change);
        self.shared.1.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use muster_trainer::protocol::ExitCode;

    use super::*;

    fn sealed(step: u64) -> Item {
        Item::Checkpoint(Sealed { step, state_root: Digest::of(b"r"), manifest: Digest::of(b"m") })
    }

    fn next(queue: &Queue) -> (u64, Stage) {
        let Next { item, stage } = queue.next();
        (item.step(), stage)
    }

    #[test]
    fn the_oldest_goes_first_and_the_last_is_asked_about() {
        let queue = Queue::default();
        for step in [8, 4, 8, 12] {
            queue.push(sealed(step));
        }
        assert_eq!(next(&queue), (4, Stage::Waiting));
        queue.accepted(4);
        assert_eq!(next(&queue), (8, Stage::Waiting));
        queue.accepted(8);
        queue.accepted(12);
        assert_eq!(next(&queue), (12, Stage::Accepted));
        assert!(!queue.is_busy());
        queue.durable(4);
        assert!(queue.back_to(8), "the hub has forgotten what is not in the log");
        assert_eq!(next(&queue), (8, Stage::Waiting));
        assert!(!queue.back_to(4) && queue.is_busy());
        queue.durable(12);
        assert!(!queue.is_busy());
        assert!(
            !queue.push(sealed(12)) && !queue.push(sealed(4)) && !queue.is_busy(),
            "of these nothing is kept"
        );
        assert!(queue.push(sealed(16)) && queue.push(sealed(16)) && queue.is_busy());
        assert!(!Queue::after(16).push(sealed(16)), "another process's");
    }

    #[test]
    fn only_so_many_wait_and_a_refusal_is_for_all() {
        let queue = Queue::default();
        (1..=4).for_each(|step| assert!(queue.push(sealed(step))));
        let (other, (to, from)) = (queue.clone(), std::sync::mpsc::channel());
        let thread = std::thread::spawn(move || {
            for _ in 0..2 {
                to.send(other.room()).unwrap();
                other.push(sealed(5));
            }
        });
        assert!(from.recv_timeout(Duration::from_millis(100)).is_err(), "four wait");
        queue.accepted(1);
        from.recv().unwrap().unwrap();
        while queue.inner().items.len() < 5 {
            std::thread::yield_now();
        }
        assert_eq!(queue.refuse(Failure::new(ExitCode::PeerLost, "no")), [1, 2, 3, 4, 5]);
        assert_eq!(from.recv().unwrap().unwrap_err().code, ExitCode::PeerLost);
        thread.join().unwrap();
        assert!(queue.room().is_err());
    }
}
