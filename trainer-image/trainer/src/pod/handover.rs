//! States to the sidecar: what the worker has written is told to it over a socket, by a thread that tries for ever. A
//! sidecar that is not up yet, or was started again, is told everything that is not durable once more, in order.
//!
//! No state is given up. The worker writes no more while [`WAITING`] lie ready, so nothing here needs a limit.

use std::collections::VecDeque;
use std::fs;
use std::io::BufReader;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use muster_proof::Digest;

use super::rounds::TICK;
use crate::failure::Failure;
use crate::files::{self, FileError};
use crate::protocol::ExitCode;
use crate::protocol::handover::{self, Answer, FailedStep, Line, Written};
use crate::work::{FAILED, WAITING, Work};

/// Between two tries to reach the sidecar.
const PAUSE: Duration = Duration::from_millis(200);
/// A line is shorter than the socket's buffer: a sidecar that does not take it for so long is gone.
const WRITE: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
struct Queue {
    /// Told or to be told, not answered yet; in order.
    waiting: VecDeque<Written>,
    /// Checkpoints now, not durable yet; in order.
    sealed: VecDeque<Written>,
    /// The step that was not finite, until that is durable. Nothing comes after it.
    failed: Option<FailedStep>,
    /// Step and StateRoot of the newest checkpoint.
    newest: Option<(u64, Digest)>,
    /// Why a state cannot become a checkpoint, or a checkpoint durable: the end of the pod. What comes after it can be
    /// neither, for each commit names the one before.
    fatal: Option<Failure>,
    /// To the sidecar, while it is there.
    writer: Option<UnixStream>,
    /// Since when it is not there although it is needed.
    lost: Option<Instant>,
    /// Since when the worker waits for it.
    full: Option<Instant>,
}

/// The queue and its thread.
#[derive(Debug, Clone)]
pub(super) struct Handover {
    shared: Arc<(Mutex<Queue>, Condvar)>,
    work: Work,
    /// How long the sidecar may be away when nothing else is left to do.
    patience: Duration,
}

impl Handover {
    /// Starts the thread. It does nothing until there is a state.
    pub fn start(work: &Work, patience: Duration) -> Result<Self, Failure> {
        let handover = Self { shared: Arc::default(), work: work.clone(), patience };
        let mine = handover.clone();
        thread::Builder::new()
            .name("handover".into())
            .spawn(move || mine.run())
            .map_err(|error| Failure::usage(format!("cannot start a thread: {error}")))?;
        Ok(handover)
    }

    /// Hands a state over; never waits for the sidecar.
    pub fn push(&self, written: Written) {
        self.with(|queue| {
            queue.waiting.push_back(written);
            if queue.waiting.len() >= WAITING {
                queue.full.get_or_insert_with(Instant::now);
            }
            queue.tell(&Line::Written(written));
        });
        self.shared.1.notify_all();
    }

    /// Says that a step is not finite, after all states before it.
    pub fn fail(&self, failed: FailedStep) {
        self.with(|queue| {
            queue.failed = Some(failed);
            queue.tell(&Line::Failed(failed));
        });
        self.shared.1.notify_all();
    }

    /// Removes what a worker that died has left, before the next one starts.
    pub fn sweep(&self) -> Result<(), FileError> {
        let dir = self.work.handovers();
        files::create_dirs(&dir)?;
        files::remove_unfinished(&dir)?;
        let known: Vec<_> = self.with(|queue| {
            queue.waiting.iter().map(|written| self.work.handover(written.round, written.step)).collect()
        });
        for entry in files::Named::named(fs::read_dir(&dir), "list", &dir)? {
            let path = files::Named::named(entry, "list", &dir)?.path();
            if path.is_dir() && !known.contains(&path) {
                discard(&path);
            } else if path.to_string_lossy().ends_with(FAILED) {
                // A failed step that was told ends the pod: there is no other round.
                drop(fs::remove_file(&path));
            }
        }
        Ok(())
    }

    /// Why the pod must end, whatever its worker does.
    pub fn fatal(&self) -> Option<Failure> {
        self.with(|queue| {
            // While there is training to do it may be away for any time; here there is none before it is back.
            if let (Some(lost), Some(full)) = (queue.lost, queue.full)
                && lost.max(full).elapsed() > self.patience
            {
                queue.fatal.get_or_insert(self.unreachable());
            }
            queue.fatal.clone()
        })
    }

    fn unreachable(&self) -> Failure {
        let message = format!(
            "the sidecar cannot be reached for {} s; its log says why it ended",
            self.patience.as_secs()
        );
        Failure::new(ExitCode::PeerLost, message)
    }

    /// The StateRoot of the checkpoint of this step, if it is the newest.
    pub fn root_of(&self, step: u64) -> Option<Digest> {
        self.with(|queue| queue.newest).filter(|newest| newest.0 == step).map(|newest| newest.1)
    }

    /// Waits until everything handed over is durable at the hub, or `until` says to give up, or the sidecar is away for
    /// too long; then why it is not, and what the pod ends with.
    pub fn drain(&self, until: impl Fn() -> bool) -> Result<(), Failure> {
        let began = Instant::now();
        loop {
            let (settled, lost) = self.with(|queue| (queue.settled(), queue.lost));
            if let Some(settled) = settled {
                return settled;
            }
            if until() {
                let why =
                    lost.map_or("not in time; the sidecar's log says why", |_| "the sidecar is not there");
                return Err(Failure::new(ExitCode::Stopped, why));
            }
            // While there was training to do it could be away for any time.
            if lost.is_some_and(|since| since.max(began).elapsed() > self.patience) {
                return Err(self.unreachable());
            }
            thread::sleep(TICK);
        }
    }

    fn with<T>(&self, act: impl FnOnce(&mut Queue) -> T) -> T {
        // A panic of another thread while it held the lock leaves a queue that is still a queue.
        let mut queue = self.shared.0.lock().unwrap_or_else(PoisonError::into_inner);
        act(&mut queue)
    }

    fn run(&self) {
        loop {
            let queue = self.shared.0.lock().unwrap_or_else(PoisonError::into_inner);
            let idle = |queue: &mut Queue| queue.is_empty();
            drop(self.shared.1.wait_while(queue, idle).unwrap_or_else(PoisonError::into_inner));
            if let Err(error) = UnixStream::connect(self.work.socket()).and_then(|stream| self.talk(stream)) {
                let news = self.with(|queue| {
                    let news = queue.lost.is_none();
                    queue.lost.get_or_insert_with(Instant::now);
                    news
                });
                if news {
                    warn(&format!("the sidecar is not there: {error}; trying again"));
                }
            }
            thread::sleep(PAUSE);
        }
    }

    /// Talks over one connection until it ends. An error: it did not come about.
    fn talk(&self, stream: UnixStream) -> std::io::Result<()> {
        stream.set_write_timeout(Some(WRITE))?;
        let mut writer = stream.try_clone()?;
        self.with(|queue| {
            for written in queue.sealed.iter().chain(&queue.waiting) {
                handover::write(&mut writer, &Line::Written(*written))?;
            }
            if let Some(failed) = queue.failed {
                handover::write(&mut writer, &Line::Failed(failed))?;
            }
            queue.lost = None;
            queue.writer = Some(writer);
            Ok::<_, std::io::Error>(())
        })?;
        let mut from = BufReader::new(stream);
        loop {
            match handover::read(&mut from) {
                Ok(Some(answer)) => self.hear(answer),
                Ok(None) => break,
                Err(error) => {
                    warn(&format!("the sidecar's connection broke: {error}"));
                    break;
                }
            }
        }
        self.with(|queue| queue.writer = None);
        Ok(())
    }

    fn hear(&self, answer: Answer) {
        self.with(|queue| queue.hear(answer));
    }
}

impl Queue {
    /// How it ended, if nothing is to be waited for.
    fn settled(&self) -> Option<Result<(), Failure>> {
        if let Some(fatal) = &self.fatal {
            return Some(Err(fatal.clone()));
        }
        self.is_empty().then_some(Ok(()))
    }

    fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.sealed.is_empty() && self.failed.is_none()
    }

    fn tell(&mut self, line: &Line) {
        if let Some(writer) = &mut self.writer
            && handover::write(writer, line).is_err()
        {
            // The reader sees the end of the connection, and tells everything over the next one.
            drop(writer.shutdown(std::net::Shutdown::Both));
        }
    }

    fn hear(&mut self, answer: Answer) {
        match answer {
            Answer::Checkpoint { step, state_root, .. } => {
                if let Some(written) = self.answered(step) {
                    println!("checkpoint of step {step} stateRoot {state_root}");
                    self.newest = Some((step, state_root));
                    // Two rounds may pass the same step.
                    if self.sealed.iter().all(|sealed| sealed.step != step) {
                        self.sealed.push_back(written);
                    }
                }
            }
            Answer::Durable { step } => {
                self.sealed.retain(|sealed| sealed.step > step);
                self.waiting.retain(|written| written.step > step);
                self.failed = self.failed.filter(|failed| failed.step > step);
                self.make_room();
            }
            Answer::Refused { step, code, message } => {
                // A sidecar that refuses with success means nothing that a trainer knows: starting again may help.
                let known = ExitCode::from_code(code.into()).filter(|code| *code != ExitCode::Done);
                let code = known.unwrap_or(ExitCode::PeerLost);
                if self.answered(step).is_some() {
                    self.fatal.get_or_insert(Failure::new(code, message));
                } else if self.failed.is_some_and(|failed| failed.step == step) {
                    let message =
                        format!("that step {step} is not finite cannot be durable at the hub: {message}");
                    self.fatal.get_or_insert(Failure::new(code, message));
                } else if self.sealed.iter().any(|sealed| sealed.step == step) {
                    let message =
                        format!("the checkpoint of step {step} cannot be durable at the hub: {message}");
                    self.fatal.get_or_insert(Failure::new(code, message));
                }
            }
        }
    }

    /// The state that an answer is about; it waits no more.
    fn answered(&mut self, step: u64) -> Option<Written> {
        let at = self.waiting.iter().position(|written| written.step == step)?;
        let written = self.waiting.remove(at);
        self.make_room();
        written
    }

    fn make_room(&mut self) {
        if self.waiting.len() < WAITING {
            self.full = None;
        }
    }
}

/// Removes a hand-over. The sidecar may be about to make a checkpoint of it: the rename decides who has it, so that
/// nothing is taken out of a checkpoint.
fn discard(path: &Path) {
    let mut name = std::ffi::OsString::from(format!("{}old-", files::TEMPORARY));
    name.push(path.file_name().unwrap_or_default());
    let doomed = path.with_file_name(name);
    drop(fs::remove_dir_all(&doomed));
    if fs::rename(path, &doomed).is_ok() {
        // What stays is swept before the next round.
        drop(fs::remove_dir_all(&doomed));
    }
}

fn warn(text: &str) {
    eprintln!("muster-trainer: warning: {text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(step: u64) -> Written {
        Written { round: 1, step, keep_last: 2 }
    }

    fn checkpoint(step: u64) -> Answer {
        let digest = Digest::of(b"x");
        Answer::Checkpoint { step, state_root: digest, manifest: digest }
    }

    fn queue(steps: &[u64]) -> Queue {
        Queue { waiting: steps.iter().copied().map(written).collect(), ..Queue::default() }
    }

    fn sealed(queue: &Queue) -> Vec<u64> {
        queue.sealed.iter().map(|written| written.step).collect()
    }

    #[test]
    fn each_state_is_waited_for_until_it_or_a_later_one_is_durable() {
        let mut queue = queue(&[4, 8, 12]);
        queue.hear(checkpoint(4));
        queue.hear(checkpoint(8));
        assert_eq!((queue.waiting.len(), sealed(&queue)), (1, vec![4, 8]));
        assert!(queue.settled().is_none());
        // Told again after a restart of the sidecar, and by another round.
        queue.hear(checkpoint(4));
        queue.waiting.push_back(Written { round: 2, ..written(8) });
        queue.hear(checkpoint(8));
        assert_eq!((queue.waiting.len(), sealed(&queue)), (1, vec![4, 8]));
        queue.hear(Answer::Durable { step: 8 });
        assert_eq!((queue.waiting.len(), sealed(&queue)), (1, vec![]));
        // Durable before the answer that it is a checkpoint was heard.
        queue.hear(Answer::Durable { step: 12 });
        assert!(matches!(queue.settled(), Some(Ok(()))));
    }

    #[test]
    fn a_failed_step_is_waited_for_like_a_state() {
        let mut queue = queue(&[4]);
        queue.failed = Some(FailedStep { round: 1, step: 7 });
        queue.hear(checkpoint(4));
        queue.hear(Answer::Durable { step: 4 });
        assert!(queue.settled().is_none());
        let mut refused = Queue { failed: queue.failed, ..Queue::default() };
        refused.hear(Answer::refused(7, 67, "other records"));
        assert_eq!(refused.fatal.map(|fatal| fatal.code), Some(ExitCode::BadCheckpoint));
        queue.hear(Answer::Durable { step: 7 });
        assert!(matches!(queue.settled(), Some(Ok(()))));
    }

    #[test]
    fn a_refusal_of_anything_that_waits_is_the_end() {
        let mut first = queue(&[4, 8]);
        first.hear(checkpoint(4));
        first.hear(Answer::refused(4, 74, "no room"));
        let fatal = first.fatal.clone().unwrap();
        assert_eq!(fatal.code, ExitCode::Disk);
        assert!(fatal.message.contains("step 4") && fatal.message.contains("no room"), "{fatal}");
        assert!(matches!(first.settled(), Some(Err(_))));
        let mut second = queue(&[4]);
        second.hear(Answer::refused(4, 67, "other bits"));
        assert_eq!(second.fatal.map(|fatal| fatal.code), Some(ExitCode::BadCheckpoint));
        let mut odd = queue(&[4]);
        odd.hear(Answer::refused(4, 0, ""));
        assert_eq!(odd.fatal.map(|fatal| fatal.code), Some(ExitCode::PeerLost));
        let mut unknown = queue(&[4]);
        unknown.hear(checkpoint(5));
        unknown.hear(Answer::refused(6, 67, ""));
        assert_eq!((unknown.waiting.len(), unknown.fatal), (1, None), "nobody asked");
    }

    #[test]
    fn a_worker_that_waits_for_a_sidecar_that_is_gone_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let handover = Handover {
            shared: Arc::default(),
            work: Work::new(dir.path()),
            patience: Duration::from_millis(50),
        };
        handover.with(|queue| queue.lost = Some(Instant::now()));
        (1..=3).for_each(|step| handover.push(written(step)));
        thread::sleep(Duration::from_millis(100));
        assert_eq!(handover.fatal(), None, "the worker still trains");
        handover.push(written(4));
        assert_eq!(handover.fatal(), None);
        thread::sleep(Duration::from_millis(100));
        assert_eq!(handover.fatal().map(|fatal| fatal.code), Some(ExitCode::PeerLost));
    }
}
