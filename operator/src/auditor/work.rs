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
use crate::hub::ledger::follow::{FollowError, Follower};
use crate::hub::ledger::way::Way;
use crate::hub::ledger::{Ledger, LedgerError};
use crate::hub::signer::Signer;
use crate::hub::state::{State, StateError};
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
    /// The log, submitted to.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The log, read.
    #[error(transparent)]
    Follow(#[from] FollowError),
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

/// A replay under way.
struct Running {
    assignment: Digest,
    stop: Shutdown,
    handle: JoinHandle<Result<Computed, String>>,
}

/// See the module.
pub struct Auditor {
    ledger: Ledger,
    follower: Follower,
    signer: Arc<Signer>,
    state: Arc<State>,
    store: Arc<Store>,
    answers: Answers,
    replay: Arc<dyn Replay>,
    work: PathBuf,
    running: Option<Running>,
    /// Replays that came to nothing: how often, and when the last did.
    failed: BTreeMap<Digest, (u32, Instant)>,
    /// What was said once.
    said: BTreeSet<Digest>,
}

impl Auditor {
    /// Nothing is asked yet.
    pub fn new(
        way: impl Way + 'static,
        (state, key): (Arc<State>, SigningKey),
        store: Arc<Store>,
        answers: Answers,
        replay: Arc<dyn Replay>,
        work: PathBuf,
    ) -> Self {
        let signer = Arc::new(Signer::new(key, state.clone()));
        let ledger = Ledger::new(way, state.clone(), signer.clone());
        let (follower, failed, said) = Default::default();
        Self { ledger, follower, signer, state, store, answers, replay, work, running: None, failed, said }
    }

    /// Works until `shutdown`; `well` is true while it can.
    pub async fn run(mut self, well: &watch::Sender<bool>, shutdown: Shutdown) {
        let mut trouble: Option<String> = None;
        loop {
            let problem = self.pass().await.err().map(|error| error.to_string());
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
                () = shutdown.wait() => break,
                () = tokio::time::sleep(EVERY) => {}
            }
        }
        // The trainer's processes go with us.
        if let Some(running) = self.running.take() {
            running.stop.trigger();
            running.handle.abort();
        }
    }

    /// Reads, opens, seals, replays.
    ///
    /// # Errors
    /// [`WorkError`]; what was not done is done by the next pass.
    pub async fn pass(&mut self) -> Result<(), WorkError> {
        // `muster hub rotate-key` may have changed it.
        let key = self.state.keys()?.signer().clone();
        self.signer.replace(key.clone());
        self.follower.advance(&self.ledger).await?;
        self.open(&key).await?;
        self.seal(&key).await
    }

    /// Shows what all have sealed.
    async fn open(&mut self, key: &SigningKey) -> Result<(), WorkError> {
        let due = self.follower.with(|history| history.due(&me()).answers);
        for assignment in due.unwrap_or_default() {
            match self.answers.get(&assignment)? {
                Some(answer) => self.submit("audit-opening", &answer.opening().sign(key)?).await?,
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
    async fn seal(&mut self, key: &SigningKey) -> Result<(), WorkError> {
        let tasks = self.follower.with(|history| tasks(history, &me())).unwrap_or_default();
        let wanted: BTreeSet<Digest> = tasks.iter().map(|task| task.assignment).collect();
        self.failed.retain(|assignment, _| wanted.contains(assignment));
        self.collect(&wanted).await?;
        let mut next = None;
        for task in tasks {
            match self.answers.get(&task.assignment)? {
                Some(answer) => self.submit("audit-seal", &answer.seal(key).sign(key)?).await?,
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
                let error =
                    ended.map_or_else(|panic| panic.to_string(), |ended| ended.err().unwrap_or_default());
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

    /// Logs a record. That the log has gone on meanwhile, and does not want it, is no error: the next pass sees why.
    async fn submit(&self, what: &'static str, envelope: &Envelope) -> Result<(), WorkError> {
        match self.ledger.submit(what, envelope).await {
            Ok(entry) => tracing::info!(what, index = entry.index, "logged"),
            Err(error @ LedgerError::Refused { .. }) => tracing::warn!(%error, "an answer is not wanted"),
            Err(error) => return Err(error.into()),
        }
        Ok(())
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

#[cfg(test)]
mod tests;
