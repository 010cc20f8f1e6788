//! One round after the other until the pod is done. A round is one start of all workers of an attempt.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGINT, SIGTERM};

use super::attend::{Attend, Message};
use super::child::Child;
use super::fetch::{self, Dirs};
use super::handover::Handover;
use super::progress::Reporter;
use super::{Ended, Options};
use crate::failure::Failure;
use crate::protocol::{Assignment, Desired, ExitCode, OtherRound};
use crate::relay::{Relay, Unavailable};
use crate::work::Work;

/// First and longest pause between tries.
pub(super) const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// From SIGTERM until a worker that is still in its step is killed.
pub(super) const GRACE: Duration = Duration::from_secs(12);
/// From SIGTERM until what was handed over is not waited for any more. The pod has 30 s; the rest is the sidecar's own.
pub(super) const LINGER: Duration = Duration::from_secs(20);
/// How long a rank other than 0 waits for what rank 0 does about a step that is not finite, and how often it asks.
const OTHERS: Duration = Duration::from_secs(600);
const ASK: Duration = Duration::from_secs(1);
/// How often children are reaped and signals looked at.
pub(super) const TICK: Duration = Duration::from_millis(50);
/// Wrong bytes for a blob are asked for again so often.
const WRONG_BLOBS: u32 = 3;
/// Crashes of the worker without a new step that end the pod.
const CRASHES: u32 = 3;
/// Rounds without a new step that end the pod, whoever's worker was lost.
const BARREN: u32 = 10;

/// How a round ended.
pub(super) enum End {
    /// The pod is done, with these words.
    Done(String),
    /// On to this round.
    Next(u32),
    /// The attempt is over.
    Over,
}

/// What lives as long as the pod.
pub(super) struct Pod<'a> {
    pub options: &'a Options,
    pub work: Work,
    pub relay: Relay,
    pub handover: Handover,
    pub reporter: Reporter,
    pub to: Sender<Message>,
    pub from: Receiver<Message>,
    /// Set by SIGTERM and SIGINT.
    pub stop: Arc<AtomicBool>,
    /// When the pod was first told to stop, by a signal or by the hub.
    pub stopped_at: Option<Instant>,
    /// What the hub wants.
    pub wish: Desired,
    /// The newest step any round has done.
    best: u64,
    crashes: u32,
    barren: u32,
}

/// Runs rounds until the pod is done; the words are the last ones.
pub(super) fn run(options: &Options) -> Result<String, Ended> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        signal_hook::flag::register(signal, stop.clone())
            .map_err(|error| Failure::usage(format!("cannot handle signals: {error}")))?;
    }
    let relay = Relay::new(&options.relay)?;
    let work = Work::new(&options.work);
    let (to, from) = channel();
    let mut pod = Pod {
        handover: Handover::start(&work, options.patience())?,
        reporter: Reporter::start(relay.clone(), to.clone())?,
        options,
        work,
        relay,
        to,
        from,
        stop,
        stopped_at: None,
        wish: Desired::Run,
        best: 0,
        crashes: 0,
        barren: 0,
    };
    let mut round = 1;
    loop {
        match pod.round(round)? {
            End::Done(words) => return Ok(words),
            End::Next(next) => {
                // A relay that sends us round in circles must not be flooded.
                pod.sleep(TICK);
                round = next;
            }
            End::Over => {
                return Err(
                    Failure::new(ExitCode::Stopped, "the agent says that this attempt is over").into()
                );
            }
        }
    }
}

impl Pod<'_> {
    fn round(&mut self, round: u32) -> Result<End, Ended> {
        let assignment = match self.assignment(round)? {
            Ok(assignment) => assignment,
            Err(end) => return Ok(end),
        };
        let dirs = self.fetch(&assignment)?;
        let swept = self.handover.sweep();
        swept.map_err(|error| Failure::new(ExitCode::Disk, error.to_string()))?;
        let start = assignment.start.as_ref().map_or(0, |start| start.step);
        eprintln!(
            "muster-trainer: {} attempt {} round {round}: worker {} of {}, from step {start}",
            assignment.unit, assignment.attempt, assignment.rank, assignment.workers
        );
        let child = Child::spawn(self.options, &self.work, &assignment, &dirs, round, self.to.clone())?;
        Attend::new(self, child, round, assignment).run()
    }

    /// Asks until the relay answers, within the pod's patience.
    fn assignment(&mut self, round: u32) -> Result<Result<Assignment, End>, Failure> {
        self.patiently(|pod| {
            let answer = pod.relay.round(round)?;
            match answer.status {
                200 => Ok(Ok(answer.json()?)),
                409 => Ok(Err(End::Next(answer.json::<OtherRound>()?.round))),
                410 => Ok(Err(End::Over)),
                _ => Err(answer.unexpected()),
            }
        })
    }

    fn fetch(&mut self, assignment: &Assignment) -> Result<Dirs, Failure> {
        let mut wrong = 0;
        self.patiently(|pod| match fetch::all(&pod.work, &pod.relay, assignment) {
            Ok(dirs) => Ok(Ok(dirs)),
            Err(fetch::Error::Later(error)) => Err(error),
            Err(fetch::Error::Fatal(failure)) => Ok(Err(failure)),
            Err(fetch::Error::Wrong(failure)) => {
                wrong += 1;
                if wrong < WRONG_BLOBS { Err(Unavailable(failure.message)) } else { Ok(Err(failure)) }
            }
        })?
    }

    fn patiently<T>(
        &mut self,
        mut ask: impl FnMut(&mut Self) -> Result<T, Unavailable>,
    ) -> Result<T, Failure> {
        let give_up = after(self.options.patience());
        let mut pause = PAUSE.0;
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return Err(Failure::new(ExitCode::Stopped, "stopped before training began"));
            }
            match ask(self) {
                Ok(answer) => return Ok(answer),
                Err(error) if give_up() => {
                    let message = format!("{error}; gave up after {} s", self.options.patience_seconds);
                    return Err(Failure::new(ExitCode::PeerLost, message));
                }
                Err(error) => {
                    eprintln!("muster-trainer: warning: {error}; trying again");
                    self.sleep(pause);
                    pause = (pause * 2).min(PAUSE.1);
                }
            }
        }
    }

    /// Sleeps, unless told to stop.
    fn sleep(&self, pause: Duration) {
        let over = after(pause);
        while !over() && !self.stop.load(Ordering::Relaxed) {
            thread::sleep(TICK.min(pause));
        }
    }

    /// Waits until the last checkpoint, or the failure, is durable: the pod's end says so. Only a signal shortens the waiting, and a
    /// sidecar that is gone ends it.
    pub fn settle(&self, words: &str) -> Result<(), Failure> {
        let told = Cell::new(None::<Instant>);
        let give_up = || {
            if self.stop.load(Ordering::Relaxed) && told.get().is_none() {
                told.set(Some(Instant::now()));
            }
            told.get().is_some_and(|since| since.elapsed() > LINGER)
        };
        self.handover.drain(give_up).map_err(|Failure { code, message }| {
            Failure::new(code, format!("{words}, but that is not durable at the hub: {message}"))
        })
    }

    /// The round that another rank has begun after this one; `None` once the attempt is over, or this has taken too long.
    pub fn round_after(&self, round: u32) -> Option<u32> {
        let give_up = after(OTHERS);
        while !give_up() && !self.stop.load(Ordering::Relaxed) {
            match self.relay.round(round) {
                Ok(answer) if answer.status == 409 => {
                    return answer.json::<OtherRound>().ok().map(|other| other.round);
                }
                Ok(answer) if answer.status == 410 => return None,
                Ok(_) | Err(_) => self.sleep(ASK),
            }
        }
        None
    }

    /// Counts a round that ended before its time; gives up when rounds lead nowhere.
    pub fn lost(&mut self, reached: u64, code: i32, crashed: bool, message: String) -> Result<(), Ended> {
        if reached > self.best {
            (self.best, self.crashes, self.barren) = (reached, 0, 0);
        }
        self.barren += 1;
        self.crashes += u32::from(crashed);
        if self.crashes >= CRASHES || self.barren >= BARREN {
            let message = format!("{message}; {} times in a row without a new step", self.barren);
            return Err(Ended { code: u8::try_from(code).unwrap_or(1), message });
        }
        eprintln!("muster-trainer: warning: {message}; asking for the next round");
        self.sleep((PAUSE.0 * 2u32.pow(self.barren.min(6) - 1)).min(PAUSE.1));
        Ok(())
    }
}

/// A condition that becomes true at a moment.
pub(super) fn after(limit: Duration) -> impl Fn() -> bool {
    let end = Instant::now() + limit;
    move || Instant::now() >= end
}
