//! This agent's key in the hub's log (docs/spec/records.md, `provider-key`): everything that it signs for the log counts only
//! from there on. The agent signs the record with the key itself and leaves it with the gateway; the hub countersigns and logs it.
use std::sync::Arc;
use std::time::Duration;

use muster_proof::dsse;
use muster_proof::records::fields::Unfit;
use muster_proof::records::{self, Payload as _, ProviderKey};
use reqwest::{Method, StatusCode};

use super::gateway::{Gateway, GatewayError, read, refusal};
use super::identity::Identity;
use super::session::Session;
use super::witness::Witness;
use crate::runtime::{Shutdown, backoff};
use crate::wire::gateway::ProviderAnswer;
use crate::wire::log::Logged;

/// While the hub has not countersigned yet.
const WAITING: Duration = Duration::from_secs(5);
/// How often the agent looks whether the record is still what the hub says of it: its owner may change.
const LOOK: Duration = Duration::from_secs(600);
/// The longest pause after trouble.
const PATIENCE: Duration = Duration::from_secs(60);
const TIMEOUT: Duration = Duration::from_secs(30);

/// Why the record is not made.
#[derive(Debug, thiserror::Error)]
pub enum ProviderKeyError {
    /// No answer, or a refusal.
    #[error(transparent)]
    Gateway(#[from] GatewayError),
    /// The gateway takes us for somebody else.
    #[error("the gateway says that this agent is provider {0:?}; it joined as another one")]
    OtherProvider(String),
    /// The log's key is not the one of the join.
    #[error(
        "the hub's log has another key than when this agent joined: {got}, not {known}. Ask the hub's admin; if it is meant so, \
         join with an empty state directory"
    )]
    OtherLog {
        /// Said now.
        got: String,
        /// Pinned.
        known: String,
    },
    /// A field that no record can have.
    #[error("the record of this agent's key: {0}")]
    Unfit(#[from] Unfit),
    /// It cannot be signed.
    #[error("the record of this agent's key: {0}")]
    Record(#[from] records::Error),
    /// It has no JSON.
    #[error("the record of this agent's key: {0}")]
    Json(#[from] dsse::Error),
}

/// How the record stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Announced {
    /// The log has it.
    Logged,
    /// The hub has not countersigned it.
    Waiting,
}

/// What it takes.
#[derive(Debug, Clone)]
pub struct Announcer {
    /// Asks.
    pub session: Session,
    /// Whose key it is.
    pub identity: Arc<Identity>,
    /// Our name at the hub.
    pub provider: String,
    /// What we cosign with, and the log.
    pub witness: Arc<Witness>,
}

impl Announcer {
    /// Announces the key until `shutdown`, once tokens are given.
    pub async fn run(self, shutdown: Shutdown) {
        let (mut failures, mut said) = (0, None);
        loop {
            tokio::select! {
                biased;
                () = shutdown.wait() => return,
                () = self.session.ready() => {}
            }
            let pause = match self.announce().await {
                Ok(announced) => {
                    if said.as_ref() != Some(&Ok(announced)) {
                        tracing::info!(?announced, "the record of this agent's key");
                    }
                    (failures, said) = (0, Some(Ok(announced)));
                    if announced == Announced::Logged { LOOK } else { WAITING }
                }
                Err(error) => {
                    let text = error.to_string();
                    if said.as_ref() != Some(&Err(text.clone())) {
                        tracing::warn!(%error, "this agent's key is not in the log yet; will try again");
                    }
                    (failures, said) = (failures + 1, Some(Err(text)));
                    backoff::delay(WAITING, PATIENCE, failures, backoff::jitter_of(&self.provider))
                }
            };
            tokio::select! {
                biased;
                () = shutdown.wait() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Asks who we are to the hub, and leaves the record of that.
    ///
    /// # Errors
    /// [`ProviderKeyError`].
    pub async fn announce(&self) -> Result<Announced, ProviderKeyError> {
        let ask = |gateway: &Gateway| gateway.request(Method::GET, "/v1/provider").timeout(TIMEOUT);
        let answer = self.session.send(ask).await?;
        if answer.status() != StatusCode::OK {
            return Err(refusal(answer).await.into());
        }
        let ProviderAnswer { provider, owner, log } = read("GET /v1/provider", answer).await?;
        if provider != self.provider {
            return Err(ProviderKeyError::OtherProvider(provider.chars().take(63).collect()));
        }
        let known = self.witness.log().to_string();
        if log != known {
            let got = crate::runtime::sanitise::line(&log, 400);
            return Err(ProviderKeyError::OtherLog { got, known });
        }
        let record = ProviderKey {
            hub: self.witness.origin().parse()?,
            provider: provider.parse()?,
            owner: owner.parse()?,
            key: self.identity.signing().public().clone(),
            witness: self.witness.verifier().to_string().parse()?,
        };
        let record = record.sign(self.identity.signing())?;
        let json = record.to_json()?;
        let post = |gateway: &Gateway| {
            let request = gateway.request(Method::POST, "/v1/provider-key").timeout(TIMEOUT);
            request.header(reqwest::header::CONTENT_TYPE, "application/json").body(json.clone())
        };
        let answer = self.session.send(post).await?;
        match answer.status() {
            StatusCode::ACCEPTED => Ok(Announced::Waiting),
            StatusCode::OK => {
                let logged: Logged = read("POST /v1/provider-key", answer).await?;
                if logged.record_id == record.record_id() {
                    return Ok(Announced::Logged);
                }
                let problem = "it is about another record".to_owned();
                Err(GatewayError::Malformed { what: "POST /v1/provider-key", problem }.into())
            }
            _ => Err(refusal(answer).await.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::fake_gateway::{FakeGateway, tlog};
    use crate::agent::gateway_tests::Agent;
    use crate::agent::units::locked;

    async fn site() -> (FakeGateway, Agent, Announcer) {
        let (gateway, _) = FakeGateway::simple().await;
        let agent = Agent::joined(&gateway).await;
        agent.session.renew(0).await.unwrap();
        let witness = Witness::open(agent.dir.path(), "east", &agent.membership.log).unwrap();
        let announcer = Announcer {
            session: agent.session.clone(),
            identity: agent.identity.clone(),
            provider: "east".to_owned(),
            witness: Arc::new(witness),
        };
        (gateway, agent, announcer)
    }

    #[tokio::test]
    async fn the_key_is_left_for_the_hub_until_the_log_has_it() {
        let (gateway, agent, announcer) = site().await;
        assert_eq!(announcer.announce().await.unwrap(), Announced::Waiting);
        assert_eq!(announcer.announce().await.unwrap(), Announced::Waiting);
        gateway.change(|hub| hub.log.countersigns = true);
        assert_eq!(announcer.announce().await.unwrap(), Announced::Logged);
        let left = locked(&gateway.hub).log.pending.clone();
        assert!(left.windows(2).all(|two| two[0] == two[1]), "the same record each time");
        let own = agent.identity.signing().public();
        let verified = left[0].verify_each(ProviderKey::PAYLOAD_TYPE, &[own]).unwrap();
        let record = ProviderKey::from_payload(verified.payload()).unwrap();
        assert_eq!((record.hub.as_str(), record.provider.as_str()), (tlog::ORIGIN, "east"));
        assert_eq!((record.owner.as_str(), &record.key), ("acme", own));
        assert_eq!(record.witness.as_str(), announcer.witness.verifier().to_string());
        // Somebody else stands behind the provider: another record.
        gateway.change(|hub| hub.log.owner = "other".to_owned());
        assert_eq!(announcer.announce().await.unwrap(), Announced::Logged);
        assert_eq!(locked(&gateway.hub).log.entries.len(), 2);
    }

    #[tokio::test]
    async fn a_log_with_another_key_gets_nothing() {
        let (gateway, _agent, announcer) = site().await;
        gateway.change(|hub| hub.public.log = Some(tlog::note_key(6).public().to_string()));
        let error = announcer.announce().await.unwrap_err();
        assert!(matches!(error, ProviderKeyError::OtherLog { .. }), "{error}");
        gateway.change(|hub| {
            hub.public.log = Some(tlog::LOG.to_owned());
            hub.log.owner = "No Label".to_owned();
        });
        assert!(matches!(announcer.announce().await, Err(ProviderKeyError::Unfit(_))));
        assert!(locked(&gateway.hub).log.pending.is_empty());
    }
}
