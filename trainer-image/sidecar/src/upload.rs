//! Checkpoints to the relay and their commits, oldest first, and the failure of the interval after them, if there is one. A thread of its own tries for ever: a relay that is down
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
use muster_trainer::commit::{self, Reached};
use muster_trainer::failure::Failure;
use muster_trainer::files;
use muster_trainer::protocol::handover::Answer;
use muster_trainer::protocol::{CheckpointNotice, Conflict, ExitCode, FailureNotice, Terms};
use muster_trainer::relay::{self, Known, Unavailable};

use crate::bind::{Binder, Unbound};
use crate::hear::Answers;
use crate::kept::Kept;
use crate::queue::{self, Item, Next, Queue, Sealed, Stage};
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
        let queue = Queue::after(kept.durable_step());
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

    /// Adds a checkpoint whose records, manifest and links are kept, or a failure. `false`: it is durable already.
    pub fn push(&self, item: Item) -> bool {
        self.queue.push(item)
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
    notice: Option<Notice>,
}

/// What is said of an interval's end.
enum Notice {
    Checkpoint(CheckpointNotice),
    Failure(FailureNotice),
}

impl Notice {
    fn step(&self) -> u64 {
        match self {
            Self::Checkpoint(notice) => notice.step,
            Self::Failure(notice) => notice.failed_step,
        }
    }
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
            match self.bring(&next) {
                Ok(sent) => {
                    pause = PAUSE.0;
                    ask = if next.stage == Stage::Waiting { PAUSE.0 } else { (ask * 2).min(ASK) };
                    match self.settle(&next.item, sent) {
                        Then::Go => {}
                        Then::Ask => self.queue.idle(ask),
                        Then::Pause => thread::sleep(PAUSE.0),
                    }
                }
                Err(error) => {
                    if pause == PAUSE.0 {
                        warn(&format!("{}: {error}; trying again", name(&next.item)));
                    }
                    thread::sleep(pause);
                    pause = (pause * 2).min(PAUSE.1);
                }
            }
        }
    }

    fn settle(&mut self, item: &Item, sent: Sent) -> Then {
        let step = item.step();
        match sent {
            Sent::Durable => {
                self.kept.forget(item);
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
                    self.refuse(item, ExitCode::PeerLost, why);
                }
                Then::Pause
            }
            Sent::Refused(code, why) => {
                self.refuse(item, code, why);
                Then::Go
            }
        }
    }

    /// Each commit names the one before, so what comes after one that is refused is refused, too.
    fn refuse(&self, item: &Item, code: ExitCode, why: String) {
        warn(&format!("{}: {why}", name(item)));
        for step in self.queue.refuse(Failure::new(code, why.clone())) {
            self.answers.send(&Answer::refused(step, code.code(), &why));
        }
    }

    /// One try: what the relay lacks is put, then the checkpoint is announced with its commit.
    fn bring(&mut self, next: &Next) -> Result<Sent, Unavailable> {
        if let (Stage::Waiting, Item::Checkpoint(sealed)) = (next.stage, &next.item)
            && let Some(refused) = self.put_all(sealed)?
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
        let notice = match self.notice.take().filter(|notice| notice.step() == next.item.step()) {
            Some(notice) => notice,
            None => match self.sign(&next.item)? {
                Ok(notice) => notice,
                Err(sent) => return Ok(sent),
            },
        };
        let answer = match &notice {
            Notice::Checkpoint(notice) => self.binder.relay().checkpoint(notice)?,
            Notice::Failure(notice) => self.binder.relay().failure(notice)?,
        };
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
                    self.queue.back_to(next.item.step());
                }
                Err(_) => self.notice = Some(notice),
            },
            // Not the notice's fault, which may be large: it is said again.
            _ => self.notice = Some(notice),
        }
        Err(answer.unexpected())
    }

    /// The commit or failure after the terms of the relay, or why there is none.
    fn sign(&mut self, item: &Item) -> Result<Result<Notice, Sent>, Unavailable> {
        let step = item.step();
        let answer = match item {
            Item::Checkpoint(_) => self.binder.relay().terms(step)?,
            Item::Failure(_) => self.binder.relay().terms_of_failed(step)?,
        };
        let terms: Terms = match answer.status {
            200 => answer.json()?,
            400 if matches!(item, Item::Failure(_)) => {
                return Ok(Err(damaged(answer.unexpected().to_string())));
            }
            403 if !self.binder.disowned() => return Ok(Err(damaged(answer.unexpected().to_string()))),
            410 => return Ok(Err(over())),
            409 => match answer.json()? {
                Conflict::NotNext { step: first } if first != step => return Ok(Err(Sent::First(first))),
                _ => return Err(answer.unexpected()),
            },
            _ => return Err(answer.unexpected()),
        };
        let (first, last) = (terms.first_step.get(), terms.last_step.get());
        let fits = match item {
            Item::Checkpoint(_) => last == step,
            Item::Failure(_) => (first..=last).contains(&step),
        };
        if !fits {
            return Err(Unavailable(format!("gave the terms of the steps {first} to {last} for {step}")));
        }
        Ok(match item {
            Item::Checkpoint(sealed) => self.sign_commit(&terms, sealed).map(Notice::Checkpoint),
            Item::Failure(failed) => self.sign_failure(&terms, failed).map(Notice::Failure),
        })
    }

    fn sign_failure(&self, terms: &Terms, failed: &queue::Failed) -> Result<FailureNotice, Sent> {
        let read = self.kept.failed(failed.round, failed.step);
        let read = read.map_err(|Failure { code, message }| Sent::Refused(code, message))?;
        if read.before() != failed.before {
            return Err(damaged("the file was changed on the disk".into()));
        }
        read.sign(terms, self.binder.key()).map_err(|error| damaged(error.to_string()))
    }

    fn sign_commit(&self, terms: &Terms, sealed: &Sealed) -> Result<CheckpointNotice, Sent> {
        let records = match self.kept.records(sealed.step) {
            Ok(records) => records,
            Err(Failure { code, message }) => return Err(Sent::Refused(code, message)),
        };
        let Some((manifest, digest)) = self.kept_manifest(sealed) else { return Err(changed()) };
        let ends = match self.kept.ends(&records, &manifest) {
            Ok(ends) => ends,
            Err(Failure { code, message }) => return Err(Sent::Refused(code, message)),
        };
        let reached = Reached { state_root: sealed.state_root, manifest: digest, ends };
        let key = self.binder.key();
        let signed = sign_files(&manifest, &digest, key).map_err(|error| error.to_string());
        let signed = signed.and_then(|model| {
            commit::sign(terms, &records, reached, model, key).map_err(|error| error.to_string())
        });
        signed.map_err(damaged)
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

/// For people.
fn name(item: &Item) -> String {
    match item {
        Item::Checkpoint(sealed) => format!("checkpoint of step {}", sealed.step),
        Item::Failure(failed) => format!("failure of step {}", failed.step),
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
