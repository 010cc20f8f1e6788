//! Checkpoints to the relay. A thread of its own tries for ever: a relay that is down delays durability, not training.
//!
//! A checkpoint is linked into a directory of its own first, so that the store may forget it meanwhile.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use muster_proof::Digest;
use muster_trainer::checkpoint::{self, FILES, MANIFEST_FILE, Manifest};
use muster_trainer::failure::Failure;
use muster_trainer::files::{self, FileError, Named as _};
use muster_trainer::protocol::ExitCode;
use muster_trainer::protocol::handover::Answer;
use muster_trainer::relay::{Known, Relay, Unavailable};

use crate::bind::{Binder, Unbound};
use crate::hear::Answers;
use crate::warn;

/// Checkpoints that may wait; then the oldest is given up, because a newer one replaces it.
const WAITING: usize = 4;
/// First and longest pause between tries.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

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

/// A checkpoint to be uploaded.
#[derive(Debug, Clone)]
struct Item {
    sealed: Sealed,
    dir: PathBuf,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Item>,
    /// One is being uploaded.
    busy: bool,
}

/// The queue and its thread.
#[derive(Debug, Clone)]
pub struct Uploads {
    shared: Arc<(Mutex<Queue>, Condvar)>,
    dir: PathBuf,
    thread: Arc<JoinHandle<()>>,
}

impl Uploads {
    /// Starts the thread. What becomes of a checkpoint is told to `answers`; once `stop` is set, a checkpoint that the
    /// agent has is left to it.
    pub fn start(
        binder: Binder,
        dir: PathBuf,
        answers: Arc<Answers>,
        stop: Arc<AtomicBool>,
    ) -> Result<Self, Failure> {
        let shared = Arc::<(Mutex<Queue>, Condvar)>::default();
        let mut uploader = Uploader { shared: shared.clone(), binder, answers, stop };
        let thread = thread::Builder::new()
            .name("uploads".into())
            .spawn(move || uploader.run())
            .map_err(|error| Failure::usage(format!("cannot start a thread: {error}")))?;
        Ok(Self { shared, dir, thread: Arc::new(thread) })
    }

    /// Queues the checkpoint in `path`.
    ///
    /// # Errors
    /// It could not be linked.
    pub fn push(&self, sealed: Sealed, path: &Path) -> Result<(), FileError> {
        let dir = self.dir.join(format!("step-{:08}", sealed.step));
        let mut queue = self.shared.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A new round may pass the same step again. If it is being uploaded now, that finds the same bytes.
        queue.waiting.retain(|item| item.sealed.step != sealed.step);
        link(path, &dir).named("link", path)?;
        queue.waiting.push_back(Item { sealed, dir });
        if queue.waiting.len() > WAITING
            && let Some(item) = queue.waiting.pop_front()
        {
            warn(&format!("checkpoint of step {} is not uploaded: newer ones wait", item.sealed.step));
            drop(fs::remove_dir_all(&item.dir));
        }
        drop(queue);
        self.shared.1.notify_all();
        Ok(())
    }

    /// Whether a checkpoint is on its way or waits.
    pub fn is_busy(&self) -> bool {
        let queue = self.shared.0.lock().unwrap_or_else(PoisonError::into_inner);
        queue.busy || !queue.waiting.is_empty()
    }

    /// Whether the thread has ended, which it never should.
    pub fn has_died(&self) -> bool {
        self.thread.is_finished()
    }
}

/// The thread's own.
struct Uploader {
    shared: Arc<(Mutex<Queue>, Condvar)>,
    binder: Binder,
    answers: Arc<Answers>,
    stop: Arc<AtomicBool>,
}

impl Uploader {
    fn run(&mut self) {
        loop {
            let item = self.take();
            if let Some(answer) = self.bring(&item) {
                self.answers.send(&answer);
            }
            let mut queue = self.shared.0.lock().unwrap_or_else(PoisonError::into_inner);
            queue.busy = false;
            // The same step may wait again, with links of the same name.
            if !queue.waiting.iter().any(|waiting| waiting.dir == item.dir) {
                drop(fs::remove_dir_all(&item.dir));
            }
        }
    }

    fn take(&self) -> Item {
        let mut queue = self.shared.0.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(item) = queue.waiting.pop_front() {
                queue.busy = true;
                return item;
            }
            queue = self.shared.1.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Tries until the checkpoint is durable, refused, or replaced by a newer one.
    fn bring(&mut self, item: &Item) -> Option<Answer> {
        let step = item.sealed.step;
        let mut pause = PAUSE.0;
        loop {
            match upload(&mut self.binder, item) {
                Ok(Sent::Durable) => return Some(Answer::Durable { step }),
                Ok(Sent::Refused(code, why)) => {
                    warn(&format!("checkpoint of step {step}: {why}"));
                    return Some(Answer::refused(step, code.code(), &why));
                }
                // The agent has it. While the hub is away a new attempt starts from the newest that the agent has, so a
                // newer one does not wait for this one to be durable; its being durable is as good.
                Ok(Sent::Accepted) if self.has_newer() || self.stop.load(Ordering::Relaxed) => return None,
                // The agent is sending it on. No reason to wait longer and longer.
                Ok(Sent::Accepted) => thread::sleep(PAUSE.0),
                Err(error) => {
                    if pause == PAUSE.0 {
                        warn(&format!("checkpoint of step {step}: {error}; trying again"));
                    }
                    thread::sleep(pause);
                    pause = (pause * 2).min(PAUSE.1);
                }
            }
        }
    }

    fn has_newer(&self) -> bool {
        !self.shared.0.lock().unwrap_or_else(PoisonError::into_inner).waiting.is_empty()
    }
}

enum Sent {
    Durable,
    Accepted,
    /// It will never be durable; with what the pod ends if it was its last.
    Refused(ExitCode, String),
}

/// One try: what the relay lacks is put, then the checkpoint is announced.
fn upload(binder: &mut Binder, item: &Item) -> Result<Sent, Unavailable> {
    let manifest = match checkpoint::read_manifest(&item.dir) {
        Ok((manifest, digest)) if digest == item.sealed.manifest => manifest,
        Ok((_, digest)) => return Ok(damaged(format!("its manifest is now {digest}"))),
        Err(error) => return Ok(damaged(error.to_string())),
    };
    for (digest, path) in blobs(&item.sealed, &manifest) {
        if let Some(refused) = put(binder.relay(), &digest, &item.dir.join(path))? {
            return Ok(refused);
        }
    }
    let notice = match binder.announce(&item.sealed) {
        Ok(notice) => notice,
        Err(Unbound::Over) => return Ok(over()),
        Err(Unbound::Later(error)) => return Err(error),
        // Another pod or key stands where this one should: only a new attempt helps.
        Err(Unbound::Refused(why)) => return Ok(Sent::Refused(ExitCode::PeerLost, why)),
    };
    let answer = binder.relay().checkpoint(&notice)?;
    match answer.status {
        200 => Ok(Sent::Durable),
        202 => Ok(Sent::Accepted),
        400 => Ok(damaged(answer.unexpected().to_string())),
        410 => Ok(over()),
        403 if binder.disowned() => Err(answer.unexpected()),
        403 => Ok(damaged(answer.unexpected().to_string())),
        // 409: a blob is missing, put it again at the next try.
        _ => Err(answer.unexpected()),
    }
}

/// Puts one blob that the relay lacks; the refusal if it cannot be put.
fn put(relay: &Relay, digest: &Digest, path: &Path) -> Result<Option<Sent>, Unavailable> {
    match relay.has_blob(digest)? {
        Known::Here => return Ok(None),
        Known::Over => return Ok(Some(over())),
        Known::Lacking => {}
    }
    let file = File::open(path).map_err(|error| Unavailable(format!("{}: {error}", path.display())))?;
    let answer = relay.put_blob(digest, &file)?;
    match answer.status {
        200 | 201 => Ok(None),
        400 => {
            let whole = files::digest(path).is_ok_and(|(got, _)| got == *digest);
            let path = path.display();
            if whole {
                return Err(Unavailable(format!("{path} was damaged on the way")));
            }
            Ok(Some(damaged(format!("{path} was damaged on the disk"))))
        }
        413 => Ok(Some(Sent::Refused(ExitCode::Disk, answer.unexpected().to_string()))),
        410 => Ok(Some(over())),
        _ => Err(answer.unexpected()),
    }
}

fn over() -> Sent {
    Sent::Refused(ExitCode::Stopped, "this attempt is over".into())
}

fn damaged(why: String) -> Sent {
    Sent::Refused(ExitCode::BadCheckpoint, why)
}

fn blobs(sealed: &Sealed, manifest: &Manifest) -> Vec<(Digest, String)> {
    // The manifest last: whoever sees it may ask for what it names.
    let files = manifest.files().iter().map(|file| (file.sha256, file.path.clone()));
    files.chain([(sealed.manifest, MANIFEST_FILE.to_owned())]).collect()
}

/// Hard links: no bytes are copied, and removing one name leaves the other.
fn link(from: &Path, to: &Path) -> std::io::Result<()> {
    drop(fs::remove_dir_all(to));
    fs::create_dir_all(to)?;
    for name in FILES.iter().chain([&MANIFEST_FILE]) {
        fs::hard_link(from.join(name), to.join(name))?;
    }
    Ok(())
}
