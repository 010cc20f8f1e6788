//! Checkpoints off the training path: the loop hands over a copy of the state and goes on; a thread digests and
//! writes it.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use muster_numerics::graph::Graph;
use muster_numerics::spec::ModelSpec;
use muster_numerics::state::State;
use muster_proof::Digest;

use super::events::Events;
use crate::checkpoint::{self, Error, MANIFEST_FILE, Saved, Store};
use crate::failure::Failure;
use crate::protocol::{Event, ExitCode};
use crate::resolved;

/// What the thread needs to know of the job.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub store: Store,
    pub model: ModelSpec,
    pub graph: Graph,
    pub training_digest: Digest,
    pub keep_last: u32,
}

/// Writes checkpoints on a thread of its own, in order.
#[derive(Debug)]
pub(super) struct Saver {
    states: SyncSender<State>,
    /// Buffers come back to be filled again.
    spare: Receiver<State>,
    thread: JoinHandle<Result<Option<Saved>, Failure>>,
}

impl Saver {
    /// Starts the thread. A durable checkpoint is told to `events`.
    pub fn start(target: Target, events: Arc<Events>) -> Result<Self, Failure> {
        // One being written, one waiting; then the loop waits too, rather than fill the memory.
        let (states, to_save) = sync_channel::<State>(1);
        let (back, spare) = sync_channel(2);
        let thread = std::thread::Builder::new().name("saver".into()).spawn(move || {
            let mut last = None;
            for state in to_save {
                let saved = save(&target, &state)?;
                events.send(&Event::Checkpoint {
                    step: saved.step,
                    state_root: saved.state_root,
                    manifest: saved.manifest,
                    path: target.store.path(saved.step).display().to_string(),
                });
                last = Some(saved);
                target.store.keep_last(target.keep_last, saved.step)?;
                drop(back.try_send(state));
            }
            Ok(last)
        });
        let thread = thread.map_err(|error| Failure::usage(format!("cannot start a thread: {error}")))?;
        Ok(Self { states, spare, thread })
    }

    /// Hands over a copy of `state`. Gives the saver back, or why it ended.
    pub fn save(self, state: &State) -> Result<Self, Failure> {
        let mut copy = self.spare.try_recv().unwrap_or_else(|_| State {
            step: 0,
            b1p: 1.0,
            b2p: 1.0,
            w: Vec::new(),
            m: Vec::new(),
            v: Vec::new(),
        });
        (copy.step, copy.b1p, copy.b2p) = (state.step, state.b1p, state.b2p);
        copy.w.clone_from(&state.w);
        copy.m.clone_from(&state.m);
        copy.v.clone_from(&state.v);
        if self.states.send(copy).is_err() {
            return match self.finish() {
                Err(failure) => Err(failure),
                Ok(_) => Err(Failure::new(ExitCode::Disk, "the thread that writes checkpoints ended early")),
            };
        }
        Ok(self)
    }

    /// Whether the thread has ended, which before [`Saver::finish`] it does only with a failure.
    pub fn has_failed(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits until everything handed over is durable; gives the last checkpoint of this run.
    pub fn finish(self) -> Result<Option<Saved>, Failure> {
        drop(self.states);
        match self.thread.join() {
            Ok(result) => result,
            Err(_) => Err(Failure::new(ExitCode::Disk, "the thread that writes checkpoints panicked")),
        }
    }
}

/// Saves a state, or finds it saved: a run that started over passes states that are on the disk already.
fn save(target: &Target, state: &State) -> Result<Saved, Failure> {
    let path = target.store.path(state.step);
    if path.exists() {
        match target.store.load(state.step, &target.model, &target.graph, target.training_digest) {
            Ok((_, manifest)) => {
                let root = resolved::state_root(&target.graph, state)
                    .map_err(|error| Failure::usage(error.to_string()))?;
                if root != manifest.state_root() {
                    return Err(differs(&path.join(MANIFEST_FILE), manifest.state_root(), root));
                }
                let (_, digest) = checkpoint::read_manifest(&path)?;
                return Ok(Saved { step: state.step, state_root: root, manifest: digest });
            }
            Err(error @ Error::OtherJob { .. }) => return Err(error.into()),
            Err(_) => target.store.remove(state.step)?,
        }
    }
    Ok(checkpoint::save(&path, &target.model, &target.graph, target.training_digest, state)?)
}

/// Two computations of one state differ. That must not be: one machine is faulty.
fn differs(path: &std::path::Path, there: Digest, here: Digest) -> Failure {
    let message = format!(
        "{} says {there}, but this run computed {here} for the same step of the same job: one of the two was computed \
         wrongly; check this machine's memory, keep both, and compare with a third run",
        path.display()
    );
    Failure::new(ExitCode::BadCheckpoint, message)
}
