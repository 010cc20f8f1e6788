//! Checkpoints to the relay and their commits, oldest first. A thread of its own tries for ever: a relay that is down
//! delays durability, and only when too much waits for it also training. Nothing is given up.
//!
//! A commit is signed after the relay's terms and with the step records, which are read from the disk for it. If the
//! terms change, because the hub was restored, what is not durable is signed anew.

use std::fs::File;
use std::io::ErrorKind;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use muster_proof::Digest;
use muster_trainer::checkpoint::{MANIFEST_FILE, Manifest, sign_files};
use muster_trainer::commit;
use muster_trainer::failure::Failure;
use muster_trainer::files;
use muster_trainer::protocol::handover::Answer;
use muster_trainer::protocol::{CheckpointNotice, Conflict, ExitCode, Terms};
use muster_trainer::relay::{self, Known, Unavailable};

use crate::bind::{Binder, Unbound};
use crate::hear::Answers;
use crate::kept::Kept;
use crate::queue::{Next, Queue, Sealed, Stage};
use crate::warn;

/// First and longest pause between tries.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// Longest pause between two questions whether a checkpoint is durable: the pod's end waits for the answer.
const ASK: Duration = Duration::from_secs(1);

/// The queue and its thread.
#[derive(Debug, Clone)]
pub struct Uploads {
    queue: Queue,
    thread: Arc<JoinHandle<()>>,
}

impl Uploads {
    /// Starts the thread. What becomes of a checkpoint is told to `answers`.
    ///
    /// # Errors
    /// No thread is to be had.
    pub fn start(binder: Binder, kept: Kept, answers: Arc<Answers>) -> Result<Self, Failure> {
        let queue = Queue::default();
        let uploader = Uploader { queue: queue.clone(), binder, kept, answers, notice: None };
        let thread = thread::Builder::new()
            .name("uploads".into())
            .spawn(move || uploader.run())
            .map_err(|error| Failure::usage(format!("cannot start a thread: {error}")))?;
        Ok(Self { queue, thread: Arc::new(thread) })
    }

    /// Waits until one more may wait for the relay.
    ///
    /// # Errors
    /// Nothing more can be durable.
    pub fn room(&self) -> Result<(), Failure> {
        self.queue.room()
    }

    /// Adds a checkpoint whose records, manifest and links are kept.
    pub fn push(&self, sealed: Sealed) {
        self.queue.push(sealed);
    }

    /// Whether a checkpoint is not at the relay. One that is there is left to it when the process ends.
    pub fn is_busy(&self) -> bool {
        self.queue.is_busy()
    }

    /// Whether the thread has ended, which it never should.
    pub fn has_died(&self) -> bool {
        self.thread.is_finished()
    }
}

/// The thread's own.
struct Uploader {
    queue: Queue,
    binder: Binder,
    kept: Kept,
    answers: Arc<Answers>,
    /// What was said last, to be said again until it is durable.
    notice: Option<CheckpointNotice>,
}

/// What came of one try.
enum Sent {
    Durable,
    Accepted,
    /// Another interval comes first: the one that ends with this step.
    First(u64),
    /// It will never be durable; with what the pod ends because of it.
    Refused(ExitCode, String),
}

/// What comes after a try.
enum Then {
    /// The next thing to do.
    Go,
    /// The next checkpoint at once, or the same question in a while.
    Ask,
    /// The next thing to do, but no endless circle.
    Pause,
}

impl Uploader {
    fn run(mut self) {
        let (mut pause, mut ask) = (PAUSE.0, PAUSE.0);
        loop {
            let next = self.queue.next();
            let step = next.sealed.step;
            match self.bring(&next) {
                Ok(sent) => {
                    pause = PAUSE.0;
                    ask = if next.stage == Stage::Waiting { PAUSE.0 } else { (ask * 2).min(ASK) };
                    match self.settle(step, sent) {
                        Then::Go => {}
                        Then::Ask => self.queue.idle(ask),
                        Then::Pause => thread::sleep(PAUSE.0),
                    }
                }
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

    fn settle(&mut self, step: u64, sent: Sent) -> Then {
        match sent {
            Sent::Durable => {
                if let Err(error) = self.kept.durable(step) {
                    warn(&format!("what is durable stays: {error}"));
                }
                self.notice = None;
                self.queue.durable(step);
                self.answers.send(&Answer::Durable { step });
                Then::Go
            }
            Sent::Accepted => {
                self.kept.uploaded(step);
                self.queue.accepted(step);
                Then::Ask
            }
            // The relay has gone on from it.
            Sent::First(first) if first > step => {
                self.queue.accepted(step);
                Then::Ask
            }
            Sent::First(first) => {
                if !self.queue.back_to(first) {
                    let why = format!(
                        "the relay wants the interval that ends with step {first} first, and of that nothing is here; \
                         a new attempt trains it again"
                    );
                    self.refuse(step, ExitCode::PeerLost, why);
                }
                Then::Pause
            }
            Sent::Refused(code, why) => {
                self.refuse(step, code, why);
                Then::Go
            }
        }
    }

    /// Each commit names the one before, so what comes after one that is refused is refused, too.
    fn refuse(&self, step: u64, code: ExitCode, why: String) {
        warn(&format!("checkpoint of step {step}: {why}"));
        for step in self.queue.refuse(Failure::new(code, why.clone())) {
            self.answers.send(&Answer::refused(step, code.code(), &why));
        }
    }

    /// One try: what the relay lacks is put, then the checkpoint is announced with its commit.
    fn bring(&mut self, next: &Next) -> Result<Sent, Unavailable> {
        if next.stage == Stage::Waiting
            && let Some(refused) = self.put_all(&next.sealed)?
        {
            return Ok(refused);
        }
        match self.binder.ensure() {
            Ok(()) => {}
            Err(Unbound::Over) => return Ok(over()),
            Err(Unbound::Later(error)) => return Err(error),
            // Another pod or key stands where this one should: only a new attempt helps.
            Err(Unbound::Refused(why)) => return Ok(Sent::Refused(ExitCode::PeerLost, why)),
        }
        let notice = match self.notice.take().filter(|notice| notice.step == next.sealed.step) {
            Some(notice) => notice,
            None => match self.sign(&next.sealed)? {
                Ok(notice) => notice,
                Err(sent) => return Ok(sent),
            },
        };
        let answer = self.binder.relay().checkpoint(&notice)?;
        match answer.status {
            200 => return Ok(Sent::Durable),
            202 => {
                self.notice = Some(notice);
                return Ok(Sent::Accepted);
            }
            400 => return Ok(damaged(answer.unexpected().to_string())),
            403 if !self.binder.disowned() => return Ok(damaged(answer.unexpected().to_string())),
            410 => return Ok(over()),
            409 => match answer.json::<Conflict>() {
                // Terms are asked for again.
                Ok(Conflict::TermsChanged {}) => {}
                Ok(Conflict::NotNext { step }) => return Ok(Sent::First(step)),
                Ok(Conflict::BlobMissing {}) => {
                    self.notice = Some(notice);
                    self.queue.back_to(next.sealed.step);
                }
                Err(_) => self.notice = Some(notice),
            },
            // Not the notice's fault, which may be large: it is said again.
            _ => self.notice = Some(notice),
        }
        Err(answer.unexpected())
    }

    /// The commit of a checkpoint after the terms of the relay, or why there is none.
    fn sign(&mut self, sealed: &Sealed) -> Result<Result<CheckpointNotice, Sent>, Unavailable> {
        let answer = self.binder.relay().terms(sealed.step)?;
        let terms: Terms = match answer.status {
            200 => answer.json()?,
            403 if !self.binder.disowned() => return Ok(Err(damaged(answer.unexpected().to_string()))),
            410 => return Ok(Err(over())),
            409 => match answer.json()? {
                Conflict::NotNext { step } if step != sealed.step => return Ok(Err(Sent::First(step))),
                _ => return Err(answer.unexpected()),
            },
            _ => return Err(answer.unexpected()),
        };
        if terms.last_step.get() != sealed.step {
            return Err(Unavailable(format!(
                "gave the terms of step {} for {}",
                terms.last_step, sealed.step
            )));
        }
        let records = match self.kept.records(sealed.step) {
            Ok(records) => records,
            Err(Failure { code, message }) => return Ok(Err(Sent::Refused(code, message))),
        };
        let Some((manifest, digest)) = self.kept_manifest(sealed) else { return Ok(Err(changed())) };
        let key = self.binder.key();
        let signed = sign_files(&manifest, &digest, key).map_err(|error| error.to_string());
        let signed = signed.and_then(|model| {
            commit::sign(&terms, &records, digest, sealed.state_root, model, key)
                .map_err(|error| error.to_string())
        });
        Ok(signed.map_err(damaged))
    }

    /// The manifest of a checkpoint, as it was when it was made.
    fn kept_manifest(&self, sealed: &Sealed) -> Option<(Manifest, Digest)> {
        self.kept.manifest(sealed.step).filter(|(_, digest)| *digest == sealed.manifest)
    }

    /// Puts what the relay lacks of a checkpoint; why that will never work.
    fn put_all(&self, sealed: &Sealed) -> Result<Option<Sent>, Unavailable> {
        let Some((manifest, _)) = self.kept_manifest(sealed) else { return Ok(Some(changed())) };
        // The manifest last: whoever sees it may ask for what it names.
        let files = manifest.files().iter().map(|file| (&file.sha256, file.path.as_str()));
        for (digest, name) in files.chain([(&sealed.manifest, MANIFEST_FILE)]) {
            if let Some(refused) = self.put(sealed.step, digest, name)? {
                return Ok(Some(refused));
            }
        }
        Ok(None)
    }

    fn put(&self, step: u64, digest: &Digest, name: &str) -> Result<Option<Sent>, Unavailable> {
        let relay = self.binder.relay();
        match relay.has_blob(digest)? {
            Known::Here => return Ok(None),
            Known::Over => return Ok(Some(over())),
            Known::Lacking => {}
        }
        let path = self.kept.file(step, name);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let why = format!(
                    "{name} is neither at the relay nor here any more; a new attempt trains it again"
                );
                return Ok(Some(Sent::Refused(ExitCode::PeerLost, why)));
            }
            Err(error) => return Err(Unavailable(format!("{}: {error}", path.display()))),
        };
        let answer: relay::Answer = relay.put_blob(digest, &file)?;
        match answer.status {
            200 | 201 => Ok(None),
            400 => {
                let whole = files::digest(&path).is_ok_and(|(got, _)| got == *digest);
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
}

fn over() -> Sent {
    Sent::Refused(ExitCode::Stopped, "this attempt is over".into())
}

fn changed() -> Sent {
    damaged("its manifest was changed on the disk".into())
}

fn damaged(why: String) -> Sent {
    Sent::Refused(ExitCode::BadCheckpoint, why)
}
