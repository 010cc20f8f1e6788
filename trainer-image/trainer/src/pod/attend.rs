//! Attending one worker from its start to its end: its events go out, wishes go in, its end is judged.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::thread;
use std::time::{Duration, Instant};

use muster_proof::Digest;

use super::Ended;
use super::child::Child;
use super::rounds::{End, GRACE, LINGER, PAUSE, Pod, TICK, after};
use crate::failure::Failure;
use crate::peers;
use crate::protocol::handover::{FailedStep, Written};
use crate::protocol::{
    Assignment, Command, Desired, Event, ExitCode, Join, Joined, OtherRound, Peer, Progress,
};
use crate::relay::{Relay, Unavailable};

/// How long a job that failed waits for its last checkpoint to be durable.
const FAREWELL: Duration = Duration::from_secs(30);

/// What the threads of a pod tell its main loop. A number is the round it is about.
#[derive(Debug)]
pub(super) enum Message {
    /// An event of the worker.
    Event(u32, Event),
    /// The worker's stdout has ended; its end follows.
    Silent(u32),
    /// The end of asking to join.
    Join(u32, JoinEnd),
    /// What the hub wants.
    Desired(Desired),
    /// The attempt is over.
    Over,
}

/// How asking to join a round ended.
#[derive(Debug)]
pub(super) enum JoinEnd {
    All(Vec<Peer>),
    Other(u32),
    Over,
    Lost(Unavailable),
}

/// A worker and what is known of it.
pub(super) struct Attend<'a, 'b> {
    pod: &'a mut Pod<'b>,
    child: Child,
    assignment: Assignment,
    round: u32,
    /// The worker's last error.
    error: Option<String>,
    /// Whether its stdout has ended, so that no event is still to come.
    silent: bool,
    /// Its newest step; ranks other than 0 know only where they started.
    reached: u64,
    /// Of the last step that evaluated.
    eval_loss: Option<String>,
    /// Its last words, if it ended well, and the state that they are about.
    finished: Option<(String, u64, Option<Digest>)>,
    terminated: bool,
    /// The relay could not be reached to join.
    relay_lost: Option<Unavailable>,
}

impl<'a, 'b> Attend<'a, 'b> {
    /// A worker that was just started.
    pub fn new(pod: &'a mut Pod<'b>, child: Child, round: u32, assignment: Assignment) -> Self {
        Self {
            pod,
            child,
            reached: assignment.start.as_ref().map_or(0, |start| start.step),
            assignment,
            round,
            error: None,
            eval_loss: None,
            silent: false,
            finished: None,
            terminated: false,
            relay_lost: None,
        }
    }

    /// Attends the worker to its end, and judges it.
    pub fn run(mut self) -> Result<End, Ended> {
        let mut exit = None;
        let mut next = None;
        // The exit alone is not the end: its events may still be in the pipe.
        while exit.is_none() || !self.silent {
            exit = exit.or_else(|| self.child.reap());
            self.obey();
            match self.pod.from.recv_timeout(TICK) {
                Ok(message) => next = self.hear(message).or(next),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
        }
        self.end(exit.unwrap_or(1), next)
    }

    /// Passes on what signals and the hub want. A state that cannot become a checkpoint ends the worker at once.
    fn obey(&mut self) {
        if self.pod.handover.fatal().is_some() {
            self.child.kill();
            return;
        }
        if !self.pod.stop.load(Ordering::Relaxed) && self.pod.wish != Desired::Stop {
            return;
        }
        let since = *self.pod.stopped_at.get_or_insert_with(Instant::now);
        if !self.terminated {
            self.terminated = true;
            self.child.terminate();
        }
        // A step that takes longer than the grace period is not waited for: nothing is lost but the step.
        if since.elapsed() > GRACE {
            self.child.kill();
        }
    }

    /// Takes in a message; the end of the round if it decides it.
    fn hear(&mut self, message: Message) -> Option<End> {
        match message {
            Message::Event(round, event) if round == self.round => self.event(event),
            Message::Silent(round) if round == self.round => self.silent = true,
            Message::Join(round, end) if round == self.round => return self.joined(end),
            Message::Desired(desired) => {
                if desired == Desired::Drain && self.pod.wish < Desired::Drain {
                    self.child.send(&Command::Drain {});
                }
                self.pod.wish = self.pod.wish.max(desired);
            }
            Message::Over => {
                self.child.terminate();
                return Some(End::Over);
            }
            // Of a round before.
            Message::Event(..) | Message::Silent(_) | Message::Join(..) => {}
        }
        None
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Listening { address, public_key } => self.join(Join { address, public_key }),
            // A wish that came in a round before.
            Event::Started { .. } if self.pod.wish == Desired::Drain => self.child.send(&Command::Drain {}),
            Event::Started { .. } => {}
            Event::Step { step, loss, eval_loss, tokens_per_second, eta_seconds, .. } => {
                self.reached = step;
                let evaluated =
                    eval_loss.as_deref().map_or(String::new(), |loss| format!(" evalLoss {loss}"));
                println!(
                    "step {step} loss {loss}{evaluated} tokens/s {tokens_per_second} eta {eta_seconds} s"
                );
                self.eval_loss = eval_loss.or(self.eval_loss.take());
                let eval_loss = self.eval_loss.clone();
                self.pod.reporter.note(Progress { step, loss, eval_loss, tokens_per_second });
            }
            Event::Written { step, .. } => {
                self.pod.handover.push(Written {
                    round: self.round,
                    step,
                    keep_last: self.assignment.keep_last,
                });
            }
            Event::Failed { step, .. } => self.pod.handover.fail(FailedStep { round: self.round, step }),
            // Not of a worker that hands its states over.
            Event::Checkpoint { .. } => {}
            Event::Drained { step } => {
                self.finished = Some((format!("drained after step {step}"), step, None));
            }
            Event::Finished { step, state_root } => {
                self.finished = Some((format!("finished after step {step}"), step, state_root));
            }
            Event::Error { message, .. } => self.error = Some(message),
        }
    }

    /// Asks to join, on a thread: the relay holds the request while others are missing.
    fn join(&self, join: Join) {
        let (relay, to, round, stop) =
            (self.pod.relay.clone(), self.pod.to.clone(), self.round, self.pod.stop.clone());
        let (patience, assignment) = (self.pod.options.patience(), self.assignment.clone());
        let ask = move || {
            let end = ask_to_join(&relay, round, &assignment, &join, patience, &stop);
            drop(to.send(Message::Join(round, end)));
        };
        if thread::Builder::new().name("join".into()).spawn(ask).is_err() {
            self.child.kill(); // no thread to be had: the next round may find one
        }
    }

    fn joined(&mut self, end: JoinEnd) -> Option<End> {
        match end {
            JoinEnd::All(peers) => {
                self.child.send(&Command::Peers { peers });
                return None;
            }
            JoinEnd::Lost(error) => self.relay_lost = Some(error),
            JoinEnd::Other(round) => {
                self.child.kill();
                return Some(End::Next(round));
            }
            JoinEnd::Over => {
                self.child.kill();
                return Some(End::Over);
            }
        }
        self.child.kill();
        None
    }

    /// What the worker's end means.
    fn end(self, exit: i32, next: Option<End>) -> Result<End, Ended> {
        let Self { pod, round, assignment, error, reached, finished, relay_lost, .. } = self;
        let message = error.unwrap_or_else(|| format!("the worker ended with {exit}"));
        let code = ExitCode::from_code(exit);
        if code == Some(ExitCode::Done) {
            let (words, step, root) = finished.unwrap_or_else(|| ("done".into(), reached, None));
            pod.settle(&words)?;
            let root = root.or_else(|| pod.handover.root_of(step));
            return Ok(End::Done(root.map_or(words.clone(), |root| format!("{words}, stateRoot {root}"))));
        }
        if let Some(fatal) = pod.handover.fatal() {
            return Err(fatal.into());
        }
        if let Some(since) = pod.stopped_at {
            // What is left of the grace period may still make the last checkpoint durable.
            drop(pod.handover.drain(|| since.elapsed() > LINGER));
            return Err(Failure::new(ExitCode::Stopped, message).into());
        }
        if let Some(error) = relay_lost {
            return Err(Failure::new(ExitCode::PeerLost, error.to_string()).into());
        }
        if let Some(next) = next {
            return Ok(next);
        }
        match code {
            // What it ends with is durable first: else nobody would believe it.
            Some(ExitCode::NonFinite) if assignment.rank == 0 => {
                pod.settle(&message)?;
                Err(Failure::new(ExitCode::NonFinite, message).into())
            }
            // All have found it. Rank 0 alone says so, and its pod needs the attempt until that is done.
            Some(ExitCode::NonFinite) => match pod.round_after(round) {
                Some(next) => Ok(End::Next(next)),
                None => Err(Failure::new(ExitCode::NonFinite, message).into()),
            },
            Some(
                code @ (ExitCode::BadSpec | ExitCode::BadData | ExitCode::BadCheckpoint | ExitCode::Disk),
            ) => {
                let (farewell, stop) = (after(FAREWELL), &pod.stop);
                drop(pod.handover.drain(|| farewell() || stop.load(Ordering::Relaxed)));
                Err(Failure::new(code, message).into())
            }
            // A peer is lost, or stopped and took this worker with it; or this worker crashed.
            known => {
                pod.lost(reached, exit, known.is_none(), message)?;
                Ok(End::Next(round + 1))
            }
        }
    }
}

fn ask_to_join(
    relay: &Relay,
    round: u32,
    assignment: &Assignment,
    join: &Join,
    patience: Duration,
    stop: &AtomicBool,
) -> JoinEnd {
    let mut give_up = after(patience);
    let mut pause = PAUSE.0;
    // Waiting for the other ranks has no limit here: their pods may still be on their way, and it is the agent that
    // counts the time. Only an unreachable relay has one.
    while !stop.load(Ordering::Relaxed) {
        let asked = relay.join(round, join).and_then(|answer| match answer.status {
            200 => Ok(Some(JoinEnd::All(believe(relay, &answer.json()?, round, assignment, join)?))),
            202 => Ok(None),
            409 => Ok(Some(JoinEnd::Other(answer.json::<OtherRound>()?.round))),
            410 => Ok(Some(JoinEnd::Over)),
            _ => Err(answer.unexpected()),
        });
        match asked {
            Ok(Some(end)) => return end,
            Ok(None) => (pause, give_up) = (PAUSE.0, after(patience)),
            Err(error) if give_up() => return JoinEnd::Lost(error),
            Err(_) => {
                thread::sleep(pause);
                pause = (pause * 2).min(PAUSE.1);
            }
        }
    }
    JoinEnd::Over
}

/// The peers of a list that is the relay's, of this round, and knows this pod's worker as it is. Any other answer is none.
fn believe(
    relay: &Relay,
    joined: &Joined,
    round: u32,
    assignment: &Assignment,
    join: &Join,
) -> Result<Vec<Peer>, Unavailable> {
    let Assignment { unit, attempt, rank, workers, .. } = assignment;
    let Peer { address, key } = join.peer();
    let expected =
        peers::Expected { unit, attempt: *attempt, round, workers: *workers, rank: *rank, address, key };
    peers::open(&joined.peers, relay.signers(), &expected)
        .map_err(|error| Unavailable(format!("gave a list of peers that cannot be believed: {error}")))
}
