//! Checkpoints to the relay. A thread of its own tries for ever: a relay that is down delays durability, not training.
//!
//! A checkpoint is linked into a directory of its own first, so that the worker may forget it meanwhile.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::fetch::Work;
use super::relay::{Relay, Unavailable};
use crate::checkpoint::{self, FILES, MANIFEST_FILE, Manifest};
use crate::failure::Failure;
use crate::files;
use crate::protocol::{CheckpointNotice, ExitCode};

/// Checkpoints that may wait; then the oldest is given up, because a newer one replaces it.
const WAITING: usize = 4;
/// First and longest pause between tries.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// A checkpoint to be uploaded.
#[derive(Debug, Clone)]
struct Item {
    notice: CheckpointNotice,
    dir: PathBuf,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Item>,
    /// The one being uploaded.
    busy: bool,
    /// Why uploading does not get on, for the last words.
    trouble: Option<String>,
    /// Why the newest checkpoint will never be durable.
    refused: Option<(ExitCode, String)>,
}

/// The queue and its thread.
#[derive(Debug, Clone)]
pub(super) struct Uploads {
    shared: Arc<(Mutex<Queue>, Condvar)>,
    dir: PathBuf,
}

impl Uploads {
    /// Starts the thread.
    pub fn start(relay: Relay, work: &Work) -> Result<Self, Failure> {
        let uploads = Self { shared: Arc::default(), dir: work.uploads() };
        // What an earlier process of this pod left: its checkpoints are in the worker's directory too.
        drop(fs::remove_dir_all(&uploads.dir));
        let mine = uploads.clone();
        thread::Builder::new()
            .name("uploads".into())
            .spawn(move || mine.run(&relay))
            .map_err(|error| Failure::usage(format!("cannot start a thread: {error}")))?;
        Ok(uploads)
    }

    /// Queues the checkpoint in `path`.
    pub fn push(&self, notice: CheckpointNotice, path: &Path) {
        let dir = self.dir.join(format!("step-{:08}", notice.step));
        if let Err(error) = link(path, &dir) {
            // The worker keeps only the last few; a newer one is on its way.
            warn(&format!("checkpoint of step {} is not uploaded: {error}", notice.step));
            return;
        }
        self.with(|queue| {
            // A new round may pass the same step again.
            queue.waiting.retain(|item| item.notice.step != notice.step);
            queue.waiting.push_back(Item { notice, dir });
            if queue.waiting.len() > WAITING
                && let Some(item) = queue.waiting.pop_front()
            {
                warn(&format!("checkpoint of step {} is not uploaded: newer ones wait", item.notice.step));
                drop(fs::remove_dir_all(&item.dir));
            }
        });
        self.shared.1.notify_all();
    }

    /// Waits until everything queued is durable at the hub, or `until` says to give up; then why it is not, and what
    /// the pod ends with.
    pub fn drain(&self, until: impl Fn() -> bool) -> Result<(), (ExitCode, String)> {
        loop {
            let (idle, trouble, refused) = self.with(|queue| {
                (queue.waiting.is_empty() && !queue.busy, queue.trouble.clone(), queue.refused.clone())
            });
            if idle {
                return refused.map_or(Ok(()), Err);
            }
            if until() {
                return Err((ExitCode::Stopped, trouble.unwrap_or_else(|| "not in time".into())));
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn with<T>(&self, act: impl FnOnce(&mut Queue) -> T) -> T {
        // A panic of another thread while it held the lock leaves a queue that is still a queue.
        let mut queue = self.shared.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        act(&mut queue)
    }

    fn take(&self) -> Item {
        let mut queue = self.shared.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        loop {
            if let Some(item) = queue.waiting.pop_front() {
                queue.busy = true;
                return item;
            }
            queue = self.shared.1.wait(queue).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
    }

    fn run(&self, relay: &Relay) {
        loop {
            let item = self.take();
            let mut pause = PAUSE.0;
            let refused = loop {
                match upload(relay, &item) {
                    Ok(Sent::Durable) => break None,
                    Ok(Sent::Refused(code, why)) => {
                        warn(&format!("checkpoint of step {}: {why}", item.notice.step));
                        break Some((code, why));
                    }
                    // The agent has it. While the hub is away a new attempt starts from the newest that the agent has, so
                    // a newer one does not wait for this one to be durable; its being durable is as good.
                    Ok(Sent::Accepted) if self.with(|queue| !queue.waiting.is_empty()) => break None,
                    // The agent is sending it on. No reason to wait longer and longer.
                    Ok(Sent::Accepted) => {
                        self.with(|queue| {
                            queue.trouble = Some("accepted, not yet durable at the hub".into())
                        });
                        thread::sleep(PAUSE.0);
                    }
                    Err(error) => {
                        if pause == PAUSE.0 {
                            warn(&format!("checkpoint of step {}: {error}; trying again", item.notice.step));
                        }
                        self.with(|queue| queue.trouble = Some(error.to_string()));
                        thread::sleep(pause);
                        pause = (pause * 2).min(PAUSE.1);
                    }
                }
            };
            drop(fs::remove_dir_all(&item.dir));
            self.with(|queue| {
                queue.busy = false;
                queue.trouble = None;
                queue.refused = refused;
            });
        }
    }
}

enum Sent {
    Durable,
    Accepted,
    /// It will never be durable; with what the pod ends if it was its last.
    Refused(ExitCode, String),
}

/// One try: what the relay lacks is put, then the checkpoint is announced.
fn upload(relay: &Relay, item: &Item) -> Result<Sent, Unavailable> {
    let manifest = match checkpoint::read_manifest(&item.dir) {
        Ok((manifest, digest)) if digest == item.notice.manifest => manifest,
        Ok((_, digest)) => return Ok(damaged(format!("its manifest is now {digest}"))),
        Err(error) => return Ok(damaged(error.to_string())),
    };
    for (digest, path) in blobs(&item.notice, &manifest) {
        if relay.has_blob(&digest)? {
            continue;
        }
        let path = item.dir.join(path);
        let file = File::open(&path).map_err(|error| Unavailable(format!("{}: {error}", path.display())))?;
        let answer = relay.put_blob(&digest, &file)?;
        match answer.status {
            200 | 201 => {}
            400 => {
                let whole = files::digest(&path).is_ok_and(|(got, _)| got == digest);
                let path = path.display();
                if whole {
                    return Err(Unavailable(format!("{path} was damaged on the way")));
                }
                return Ok(damaged(format!("{path} was damaged on the disk")));
            }
            413 => return Ok(Sent::Refused(ExitCode::Disk, answer.unexpected().to_string())),
            _ => return Err(answer.unexpected()),
        }
    }
    let answer = relay.checkpoint(&item.notice)?;
    match answer.status {
        200 => Ok(Sent::Durable),
        202 => Ok(Sent::Accepted),
        400 | 403 => Ok(damaged(answer.unexpected().to_string())),
        410 => Ok(Sent::Refused(ExitCode::Stopped, "this attempt is over".into())),
        // 409: a blob is missing, put it again at the next try.
        _ => Err(answer.unexpected()),
    }
}

fn damaged(why: String) -> Sent {
    Sent::Refused(ExitCode::BadCheckpoint, why)
}

fn blobs(notice: &CheckpointNotice, manifest: &Manifest) -> Vec<(muster_proof::Digest, String)> {
    // The manifest last: whoever sees it may ask for what it names.
    let files = manifest.files().iter().map(|file| (file.sha256, file.path.clone()));
    files.chain([(notice.manifest, MANIFEST_FILE.to_owned())]).collect()
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

fn warn(text: &str) {
    eprintln!("muster-trainer: warning: {text}");
}

/// A condition that becomes true at a moment.
pub(super) fn after(limit: Duration) -> impl Fn() -> bool {
    let end = Instant::now() + limit;
    move || Instant::now() >= end
}
