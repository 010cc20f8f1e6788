//! The heartbeat at the gateway: what has become void at the hub, and whether it has new keys (docs/spec/gateway.md
//! section 5). Beside it the Lease says to the hub that we are there.
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::fence::{Fence, Floor, Heard};
use super::gateway::GatewayError;
use super::hub::Contact;
use super::hub_keys::{HubKeys, HubKeysError};
use super::recover::{Reported, recover};
use super::session::Session;
use super::units::Units;
use crate::runtime::Shutdown;
use crate::wire::gateway::HeartbeatAnswer;

/// How often.
const BEAT: Duration = Duration::from_secs(5);

/// What a heartbeat acts on.
#[derive(Debug, Clone)]
pub struct Pulse {
    /// Asks.
    pub session: Session,
    /// What is void.
    pub fence: Arc<Fence>,
    /// Whose signatures count.
    pub keys: Arc<HubKeys>,
    /// Woken when any of it changes.
    pub units: Arc<Units>,
    /// Told when the hub was restored: what was watched is of the lost time.
    pub contact: Arc<Contact>,
    /// What a restored hub was told.
    pub reported: Arc<Reported>,
    /// The size of the hub's log, with every answer: the witness looks at it beside the heartbeat.
    pub log_size: watch::Sender<u64>,
}

impl Pulse {
    /// Beats until `shutdown`.
    pub async fn run(self, shutdown: Shutdown) {
        let mut trouble: Option<String> = None;
        loop {
            let problem = self.beat().await.err().map(|error| error.to_string());
            // Said once, not every five seconds.
            match (&problem, &trouble) {
                (Some(now), before) if before.as_ref() != Some(now) => {
                    tracing::warn!(error = now, "heartbeat");
                }
                (None, Some(_)) => tracing::info!("the heartbeat is well again"),
                _ => {}
            }
            trouble = problem;
            tokio::select! {
                biased;
                () = shutdown.wait() => return,
                () = tokio::time::sleep(BEAT) => {}
            }
        }
    }

    /// One heartbeat. Whatever fails, what was known before stays.
    ///
    /// # Errors
    /// What a person should know.
    pub async fn beat(&self) -> Result<(), BeatError> {
        // While nobody gives us tokens the session says why.
        if self.session.tokens().is_err() {
            return Ok(());
        }
        let answer = match self.session.heartbeat().await {
            Ok(answer) => answer,
            Err(error) => {
                self.session.learn(&error);
                return Err(error.into());
            }
        };
        self.log_size.send_replace(answer.log_size);
        let raised = self.raise(&answer);
        let advanced = self.advance(&answer).await;
        if matches!(raised, Ok(true)) || matches!(advanced, Ok(true)) {
            self.units.all().iter().for_each(|unit| unit.wake.notify_one());
        }
        // Also when only a number went back: what we hold does not depend on it.
        let incarnation = self.fence.floor().incarnation;
        let recovered = recover(&self.session, &self.units, &self.reported, incarnation).await;
        raised.and(advanced).and(recovered)
    }

    fn raise(&self, answer: &HeartbeatAnswer) -> Result<bool, BeatError> {
        let said = Floor { incarnation: answer.incarnation, min_epoch: answer.min_epoch };
        let before = self.fence.floor().incarnation;
        match self.fence.hear(said)? {
            Heard::Same => Ok(false),
            Heard::Raised => {
                tracing::info!(
                    incarnation = said.incarnation,
                    min_epoch = said.min_epoch,
                    "the hub's floor rose"
                );
                if said.incarnation > before {
                    self.contact.back.notify_one();
                }
                Ok(true)
            }
            Heard::Lower => Err(BeatError::Lower { said, known: self.fence.floor() }),
        }
    }

    async fn advance(&self, answer: &HeartbeatAnswer) -> Result<bool, BeatError> {
        if answer.key_serial == self.keys.current().serial() {
            return Ok(false);
        }
        Ok(self.keys.refresh(self.session.gateway()).await?)
    }
}

/// What a person should know about a heartbeat.
#[derive(Debug, thiserror::Error)]
pub enum BeatError {
    /// No answer, or a refusal.
    #[error(transparent)]
    Gateway(#[from] GatewayError),
    /// The hub's keys could not be followed; the known ones stay.
    #[error("the hub's new keys are refused, the known ones stay: {0}")]
    Keys(#[from] HubKeysError),
    /// The gateway went back.
    #[error(
        "the gateway says incarnation {}, minEpoch {}, but {} and {} were heard before and stay; was the hub restored without \
         raising its incarnation?", said.incarnation, said.min_epoch, known.incarnation, known.min_epoch
    )]
    Lower {
        /// What it says now.
        said: Floor,
        /// What counts.
        known: Floor,
    },
    /// The state directory.
    #[error("state directory: {0}")]
    Io(#[from] std::io::Error),
}
