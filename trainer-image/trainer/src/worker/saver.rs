//! States to disk off the training path: the loop hands over a copy and goes on; a thread writes it, as a checkpoint or
//! for the sidecar, which makes a checkpoint of it. With each go the records of the steps since the one before.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use muster_numerics::graph::Graph;
use muster_numerics::spec::ModelSpec;
use muster_numerics::state::State;
use muster_proof::Digest;
use muster_proof::steps::Records;

use super::events::Events;
use crate::checkpoint::{self, Error, MANIFEST_FILE, Saved, Store};
use crate::failure::Failure;
use crate::files::Named as _;
use crate::protocol::{Event, ExitCode};
use crate::{records, resolved, work};

/// Between two looks whether the sidecar has taken a hand-over.
const PAUSE: Duration = Duration::from_millis(50);

/// What the thread needs to know of the job.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub store: Store,
    /// The job directory.
    pub out: PathBuf,
    pub model: ModelSpec,
    pub graph: Graph,
    pub training_digest: Digest,
    pub keep_last: u32,
    /// Where states are left for the sidecar, and the round; without it they become checkpoints here.
    pub handover: Option<(PathBuf, u32)>,
}

/// What became of a state.
#[derive(Debug, Clone, Copy)]
pub(super) enum Stored {
    /// It is a checkpoint.
    Saved(Saved),
    /// The sidecar may take it.
    HandedOver,
}

/// Writes states on a thread of its own, in order.
#[derive(Debug)]
pub(super) struct Saver {
    states: SyncSender<(State, Records)>,
    /// Buffers come back to be filled again.
    spare: Receiver<State>,
    thread: JoinHandle<Result<Option<Stored>, Failure>>,
}

impl Saver {
    /// Starts the thread. What is durable is told to `events`; once `stop` is set nothing is waited for.
    pub fn start(target: Target, events: Arc<Events>, stop: Arc<AtomicBool>) -> Result<Self, Failure> {
        // One being written, one waiting; then the loop waits too, rather than fill the memory.
        let (states, to_save) = sync_channel::<(State, Records)>(1);
        let (back, spare) = sync_channel(2);
        let thread = std::thread::Builder::new().name("saver".into()).spawn(move || {
            let mut last = None;
            for (state, records) in to_save {
                last = Some(match &target.handover {
                    Some((dir, round)) => {
                        let path = work::handover(dir, *round, state.step);
                        wait_for_room(dir, &path, &stop)?;
                        hand_over(&target, &path, &state, &records, &events)?
                    }
                    None => keep(&target, &state, &records, &events)?,
                });
                drop(back.try_send(state));
            }
            Ok(last)
        });
        let thread = thread.map_err(|error| Failure::usage(format!("cannot start a thread: {error}")))?;
        Ok(Self { states, spare, thread })
    }

    /// A state to overwrite with the one to be saved: one that was saved before, for its buffers, or an empty one.
    pub fn spare(&self) -> State {
        let empty = || State { step: 0, b1p: 1.0, b2p: 1.0, w: vec![], m: vec![], v: vec![] };
        self.spare.try_recv().unwrap_or_else(|_| empty())
    }

    /// Saves a state, and the records of the steps since the one before. Gives the saver back, or why it ended.
    pub fn save(self, copy: State, records: Records) -> Result<Self, Failure> {
        if self.states.send((copy, records)).is_err() {
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

    /// Waits until everything given is durable; says what became of the last state of this run.
    pub fn finish(self) -> Result<Option<Stored>, Failure> {
        drop(self.states);
        match self.thread.join() {
            Ok(result) => result,
            Err(_) => Err(Failure::new(ExitCode::Disk, "the thread that writes checkpoints panicked")),
        }
    }
}

/// Makes a checkpoint of a state, and forgets old ones.
fn keep(target: &Target, state: &State, records: &Records, events: &Events) -> Result<Stored, Failure> {
    // First, so that no checkpoint is without them.
    records::put(&records::path(&target.out, state.step), records)?;
    let saved = save(target, state)?;
    events.send(&Event::Checkpoint {
        step: saved.step,
        state_root: saved.state_root,
        manifest: saved.manifest,
        path: target.store.path(saved.step).display().to_string(),
    });
    target.store.keep_last(target.keep_last, saved.step)?;
    Ok(Stored::Saved(saved))
}

/// Waits until the sidecar has taken so many that one more may lie in `dir`. Whoever stops does not wait: what is in
/// memory is worth more than the room.
fn wait_for_room(dir: &Path, path: &Path, stop: &AtomicBool) -> Result<(), Failure> {
    while !stop.load(Ordering::Relaxed) && work::waiting(dir, path).map_err(Error::Write)? >= work::WAITING {
        thread::sleep(PAUSE);
    }
    Ok(())
}

/// Leaves a state for the sidecar.
fn hand_over(
    target: &Target,
    path: &Path,
    state: &State,
    records: &Records,
    events: &Events,
) -> Result<Stored, Failure> {
    if path.exists() {
        // Of a round of the same number before the agent forgot its rounds: the same state.
        std::fs::remove_dir_all(path).named("remove", path).map_err(Error::Write)?;
    }
    checkpoint::hand_over(path, &target.model, &target.graph, target.training_digest, state, records)?;
    events.send(&Event::Written { step: state.step, path: path.display().to_string() });
    Ok(Stored::HandedOver)
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
fn differs(path: &Path, there: Digest, here: Digest) -> Failure {
    let message = format!(
        "{} says {there}, but this run computed {here} for the same step of the same job: one of the two was computed \
         wrongly; check this machine's memory, keep both, and compare with a third run",
        path.display()
    );
    Failure::new(ExitCode::BadCheckpoint, message)
}
