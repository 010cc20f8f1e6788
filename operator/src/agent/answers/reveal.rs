//! What the log waits for now is shown there: the gateway says which of our commits and audits are to be opened
//! (`GET /v1/audits`, docs/spec/gateway.md section 11), and we open those that we have. Asked at the start and whenever the log
//! has grown.
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use muster_proof::Digest;
use muster_proof::dsse::Envelope;
use reqwest::Method;
use tokio::sync::watch;

use super::{AnswerError, Answers};
use crate::agent::gateway::{Gateway, GatewayError, read, refusal};
use crate::agent::session::Session;
use crate::log::client::{ClientError, HttpLog, LogClient as _};
use crate::runtime::Shutdown;
use crate::wire::gateway::AuditsAnswer;

const TIMEOUT: Duration = Duration::from_secs(30);
/// After trouble, also if the log does not grow.
const AGAIN: Duration = Duration::from_secs(10);

/// The gateway, as far as it concerns us here. A trait, so that it can be told without one what there is to show.
pub trait Desk: Send + Sync {
    /// What may be opened now.
    fn due(&self) -> BoxFuture<'_, Result<AuditsAnswer, GatewayError>>;
    /// Has the log take a record.
    fn submit<'a>(&'a self, record: &'a Envelope) -> BoxFuture<'a, Result<u64, ClientError>>;
}

impl Desk for Session {
    fn due(&self) -> BoxFuture<'_, Result<AuditsAnswer, GatewayError>> {
        Box::pin(async move {
            let ask = |gateway: &Gateway| gateway.request(Method::GET, "/v1/audits").timeout(TIMEOUT);
            let answer = self.send(ask).await?;
            if !answer.status().is_success() {
                return Err(refusal(answer).await);
            }
            read("GET /v1/audits", answer).await
        })
    }

    fn submit<'a>(&'a self, record: &'a Envelope) -> BoxFuture<'a, Result<u64, ClientError>> {
        Box::pin(async move { Ok(HttpLog::new(self.clone()).submit(record).await?.index) })
    }
}

/// Why not everything was shown.
#[derive(Debug, thiserror::Error)]
pub enum RevealError {
    /// The gateway does not say what there is to show.
    #[error(transparent)]
    Gateway(#[from] GatewayError),
    /// The log did not take a record.
    #[error("an opening: {0}")]
    Log(#[from] ClientError),
    /// The state directory.
    #[error(transparent)]
    Answer(#[from] AnswerError),
}

/// See the module.
#[derive(Debug)]
pub struct Revealer<D> {
    desk: D,
    answers: Arc<Answers>,
    /// What was asked for and is not here: said once.
    missing: BTreeSet<Digest>,
    /// The pause after trouble.
    again: Duration,
}

/// Which of the two kinds a record is.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Commit,
    Replay,
}

impl<D: Desk> Revealer<D> {
    /// Shows `answers` to `desk`.
    pub fn new(desk: D, answers: Arc<Answers>) -> Self {
        Self { desk, answers, missing: BTreeSet::new(), again: AGAIN }
    }

    /// Shows what is waited for until `shutdown`; `sizes` are the log's, as heartbeats bring them.
    pub async fn run(mut self, mut sizes: watch::Receiver<u64>, shutdown: Shutdown) {
        let mut trouble: Option<String> = None;
        loop {
            sizes.mark_unchanged();
            let now = self.reveal().await.err().map(|error| error.to_string());
            if let Some(error) = now.as_ref().filter(|now| trouble.as_ref() != Some(*now)) {
                tracing::warn!(error, "not everything that audits wait for is shown; will try again");
            }
            trouble = now;
            let again = async {
                match trouble {
                    Some(_) => tokio::time::sleep(self.again).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = shutdown.wait() => return,
                changed = sizes.changed() => if changed.is_err() { return },
                () = again => {}
            }
        }
    }

    /// Asks what is waited for, and shows it. One that fails does not keep the others back.
    ///
    /// # Errors
    /// The first of what went wrong.
    pub async fn reveal(&mut self) -> Result<(), RevealError> {
        let AuditsAnswer { openings, answers } = self.desk.due().await?;
        let all = openings.into_iter().map(|of| (Kind::Commit, of));
        let all = all.chain(answers.into_iter().map(|of| (Kind::Replay, of)));
        let mut first = None;
        for (kind, of) in all {
            if let Err(error) = self.show(kind, of).await {
                first.get_or_insert(error);
            }
        }
        first.map_or(Ok(()), Err)
    }

    async fn show(&mut self, kind: Kind, of: Digest) -> Result<(), RevealError> {
        #[cfg(feature = "cheats")]
        if matches!(kind, Kind::Commit) && !crate::agent::cheat::opens_commits() {
            return Ok(());
        }
        let answers = self.answers.clone();
        let made = tokio::task::spawn_blocking(move || match kind {
            Kind::Commit => answers.opening(&of),
            Kind::Replay => answers.audit_opening(&of),
        });
        let record = match made.await.map_err(|error| AnswerError::Io(std::io::Error::other(error)))? {
            Ok(record) => record,
            Err(error @ AnswerError::Nothing(_)) => {
                if self.missing.insert(of) {
                    tracing::error!(?kind, %error, "an audit waits for what is not here, and will take it for silence");
                }
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        match self.desk.submit(&record).await {
            Ok(index) => tracing::info!(?kind, %of, index, "shown in the log"),
            // Of another try of ours, or nobody waits any more.
            Err(ClientError::Refused { reason, .. }) if reason == "Known" => {}
            Err(ClientError::Refused { reason, .. })
                if ["Decided", "Replaced"].contains(&reason.as_str()) =>
            {
                tracing::warn!(?kind, %of, reason, "shown too late");
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        }
        let forgotten = match kind {
            Kind::Commit => self.answers.forget_commit(&of),
            Kind::Replay => self.answers.forget_replay(&of),
        };
        Ok(forgotten.map_err(AnswerError::Io)?)
    }
}

#[cfg(test)]
mod tests;
