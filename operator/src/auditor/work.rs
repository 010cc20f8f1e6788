//! The loop of the hub's auditor. One pass: read what is new in the log, open what is due, seal what is answered, and see
//! that one replay runs. Every step may be done again.
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use muster_proof::Digest;
use muster_proof::dsse::Envelope;
use muster_proof::history::HUB_AUDITOR;
use muster_proof::key::SigningKey;
use muster_proof::records::fields::{Nonce, ProviderName};
use muster_proof::records::{self, Payload as _};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::answers::{Answer, Answers};
use super::fetch::lay_out;
use super::task::{Task, tasks};
use super::{Computed, Replay};
use crate::hub::ledger::way::Way;
use crate::hub::state::{State, StateError};
use crate::log::client::{ClientError, LogClient};
use crate::log::follow::{Follow, FollowError};
use crate::runtime::Shutdown;
use crate::runtime::backoff::delay;
use crate::store::Store;

/// Between two looks at the log.
const EVERY: Duration = Duration::from_secs(2);
/// After a replay that came to nothing: first and longest pause before the next.
const AGAIN: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));

/// Why a pass did not do all.
#[derive(Debug, thiserror::Error)]
pub enum WorkError {
    /// The log, reached.
    #[error("the log: {0}")]
    Log(#[from] ClientError),
    /// The log, read.
    #[error(transparent)]
    Follow(#[from] FollowError),
    /// The way to it.
    #[error("the way to the log: {0}")]
    Way(String),
    /// The hub's state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// The answers.
    #[error("answers: {0}")]
    Answers(#[from] std::io::Error),
    /// A record.
    #[error("record: {0}")]
    Record(#[from] records::Error),
}

impl WorkError {
    /// Whether the log itself is wrong: no waiting makes it right.
    fn is_fatal(&self) -> bool {
        match self {
            Self::Follow(error) => !error.is_transient(),
            Self::State(StateError::OtherLog { .. }) => true,
            _ => false,
        }
    }
}

/// A replay under way.
struct Running {
    assignment: Digest,
    stop: Shutdown,
    handle: JoinHandle<Result<Computed, String>>,
}

/// See the module.
pub struct Auditor {
    way: Box<dyn Way>,
    state: Arc<State>,
    store: Arc<Store>,
    answers: Answers,
    replay: Arc<dyn Replay>,
    work: PathBuf,
    log: Option<Arc<dyn LogClient>>,
    follow: Option<Follow>,
    running: Option<Running>,
    /// Replays that came to nothing: how often, and when the last did.
    failed: BTreeMap<Digest, (u32, Instant)>,
    /// What was said once.
    said: BTreeSet<Digest>,
}

impl Auditor {
    /// Nothing is asked yet.
    pub fn new(
        way: Box<dyn Way>,
        state: Arc<State>,
        store: Arc<Store>,
        answers: Answers,
        replay: Arc<dyn Replay>,
        work: PathBuf,
    ) -> Self {
        let (failed, said) = Default::default();
        Self { way, state, store, answers, replay, work, log: None, follow: None, running: None, failed, said }
    }

    /// Works until `shutdown`; `well` is true while it can.
    ///
    /// # Errors
    /// The log contradicts itself.
    pub async fn run(mut self, well: &watch::Sender<bool>, shutdown: Shutdown) -> anyhow::Result<()> {
        let mut trouble: Option<String> = None;
        loop {
            let problem = match self.pass().await {
                Err(error) if error.is_fatal() => {
                    self.end();
                    return Err(error.into());
                }
                Err(error) => Some(error.to_string()),
                Ok(()) => None,
            };
            if problem != trouble {
                match &problem {
                    Some(error) => tracing::warn!(error, "cannot audit for now; trying again"),
                    None => tracing::info!("auditing again"),
                }
            }
            well.send_replace(problem.is_none());
            trouble = problem;
            tokio::select! {
                biased;
                () = shutdown.wait() => {
                    self.end();
                    return Ok(());
                }
                () = tokio::time::sleep(EVERY) => {}
            }
        }
    }

    /// Reads, opens, seals, replays.
    ///
    /// # Errors
    /// [`WorkError`]; what was not done is done by the next pass.
    pub async fn pass(&mut self) -> Result<(), WorkError> {
        let key = self.state.keys()?.signer().clone();
        let log = self.connect(&key).await?;
        let read = match &mut self.follow {
            Some(follow) => follow.catch_up(&*log).await,
            None => return Err(WorkError::Way("its key is not known".into())),
        };
        if let Err(error) = read {
            // The gateway may be somewhere else by now.
            self.log = None;
            return Err(error.into());
        }
        self.open(&*log, &key).await?;
        self.seal(&*log, &key).await
    }

    /// The log. What was read of it stays: it is the same one, or a hub's state says that it is not.
    async fn connect(&mut self, key: &SigningKey) -> Result<Arc<dyn LogClient>, WorkError> {
        if let Some(log) = &self.log {
            return Ok(log.clone());
        }
        let (log, vkey) = self.way.connect(key).await.map_err(WorkError::Way)?;
        self.state.pin_log(&vkey)?;
        if self.follow.is_none() {
            let parsed = vkey.parse().map_err(|_| WorkError::Way(format!("{vkey:?} is no key of a log")))?;
            self.follow = Some(Follow::new(parsed)?);
        }
        self.log = Some(log.clone());
        Ok(log)
    }

    /// Shows what all have sealed.
    async fn open(&mut self, log: &dyn LogClient, key: &SigningKey) -> Result<(), WorkError> {
        let Some(follow) = &self.follow else { return Ok(()) };
        for assignment in follow.history().due(&me()).answers {
            match self.answers.get(&assignment)? {
                Some(answer) => submit(log, "audit-opening", &answer.opening().sign(key)?).await?,
                None if self.said.insert(assignment) => tracing::error!(
                    %assignment,
                    "the hub's auditor has sealed this and has no answer to it; was its state restored from a backup?"
                ),
                None => {}
            }
        }
        Ok(())
    }

    /// Seals what is answered, takes what a replay came to, starts the next.
    async fn seal(&mut self, log: &dyn LogClient, key: &SigningKey) -> Result<(), WorkError> {
        let Some(follow) = &self.follow else { return Ok(()) };
        let tasks = tasks(follow, &me());
        let wanted: BTreeSet<Digest> = tasks.iter().map(|task| task.assignment).collect();
        self.failed.retain(|assignment, _| wanted.contains(assignment));
        self.collect(&wanted).await?;
        let mut next = None;
        for task in tasks {
            match self.answers.get(&task.assignment)? {
                Some(answer) => submit(log, "audit-seal", &answer.seal(key).sign(key)?).await?,
                None if next.is_none() && self.may_try(&task.assignment) => next = Some(task),
                None => {}
            }
        }
        if let (Some(task), None) = (next, &self.running) {
            self.start(task);
        }
        Ok(())
    }

    /// What has become of the replay under way. One that nobody waits for any more ends.
    async fn collect(&mut self, wanted: &BTreeSet<Digest>) -> Result<(), WorkError> {
        let Some(running) = self.running.take() else { return Ok(()) };
        let assignment = running.assignment;
        if !running.handle.is_finished() {
            if !wanted.contains(&assignment) {
                tracing::info!(%assignment, "this audit is over; its replay ends");
                running.stop.trigger();
            }
            self.running = Some(running);
            return Ok(());
        }
        match running.handle.await {
            Ok(Ok(Computed { state_root, record_root })) => {
                let nonce = nonce()?;
                self.answers.keep(Answer { assignment, state_root, record_root, nonce })?;
                tracing::info!(%assignment, %state_root, "replayed");
            }
            ended => {
                let error = ended.map_or_else(|panic| panic.to_string(), |ended| ended.err().unwrap_or_default());
                let failures = self.failed.get(&assignment).map_or(0, |(failures, _)| *failures) + 1;
                self.failed.insert(assignment, (failures, Instant::now()));
                tracing::warn!(%assignment, error, "a replay came to nothing; trying again");
            }
        }
        Ok(())
    }

    fn may_try(&self, assignment: &Digest) -> bool {
        let pause = |failures| delay(AGAIN.0, AGAIN.1, failures, 1000);
        self.failed.get(assignment).is_none_or(|(failures, at)| at.elapsed() >= pause(*failures))
    }

    fn start(&mut self, task: Task) {
        let (stop, assignment) = (Shutdown::manual(), task.assignment);
        let (store, replay, work) = (self.store.clone(), self.replay.clone(), self.work.clone());
        tracing::info!(%assignment, job = %task.job, interval = task.interval, last_step = task.last, "replaying");
        let until = stop.clone();
        let handle = tokio::spawn(async move {
            let laid = lay_out(&store, &work, &task).await.map_err(|error| error.to_string())?;
            replay.replay(laid, until).await
        });
        self.running = Some(Running { assignment, stop, handle });
    }

    /// The trainer's processes go with us.
    fn end(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop.trigger();
            running.handle.abort();
        }
    }

    /// Waits until no replay runs, for tests.
    #[cfg(test)]
    pub async fn idle(&self) {
        while self.running.as_ref().is_some_and(|running| !running.handle.is_finished()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn me() -> ProviderName {
    // A label, as every provider's name.
    HUB_AUDITOR.parse().unwrap_or_else(|_| unreachable!("{HUB_AUDITOR} is the name of a provider"))
}

fn nonce() -> Result<Nonce, std::io::Error> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(std::io::Error::other)?;
    Ok(Nonce::new(bytes))
}

/// Logs a record. That the log has gone on meanwhile, and does not want it, is no error: the next pass sees why.
async fn submit(log: &dyn LogClient, what: &str, envelope: &Envelope) -> Result<(), WorkError> {
    match log.submit(envelope).await {
        Ok(logged) => tracing::info!(what, index = logged.index, "logged"),
        Err(ClientError::Refused { status: 409, reason, message, .. }) => {
            tracing::warn!(what, reason, message, "the log does not want it");
        }
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

#[cfg(test)]
mod tests;
