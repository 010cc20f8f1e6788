//! Joining a hub with a token, once (docs/spec/gateway.md section 2). Afterwards the state directory knows all that the
//! token said but its secret, which is of no use any more.
use std::path::Path;
use std::time::Duration;

use muster_core::hub_keys::{self, KeySet};
use muster_proof::tlog::note::VerifierKey;

use super::fence::{Fence, Floor};
use super::gateway::{Gateway, GatewayError};
use super::hub_keys::{HubKeys, HubKeysError};
use super::identity::Identity;
use super::membership::Membership;
use super::pin::{self, PinError};
use super::witness::Witness;
use crate::runtime::{Shutdown, backoff};
use crate::wire::gateway::JoinRequest;
use crate::wire::join_token::JoinToken;

/// The longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Why the join will not happen with this token. Trouble that may pass is retried, not returned.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// What answered is not the gateway that the token is for.
    #[error(
        "{url} is not the gateway that the join token is for: {why}. If the gateway's CA or address was changed, make a new \
         token with `muster provider create-token`; if not, somebody is in between"
    )]
    NotTheGateway {
        /// The token's.
        url: String,
        /// What the handshake found.
        why: String,
    },
    /// The gateway said no.
    #[error("join as provider {provider}: {remedy} ({source})")]
    Refused {
        /// The token's.
        provider: String,
        /// What to do.
        remedy: &'static str,
        /// What it said.
        source: GatewayError,
    },
    /// Its answer contradicts the token or itself.
    #[error("join as provider {provider}: the gateway's answer is not to be believed: {problem}")]
    Answer {
        /// The token's.
        provider: String,
        /// What is wrong.
        problem: String,
    },
    /// The hub is the same, its log is not.
    #[error(
        "join as provider {provider}: the hub's log has another key than when this agent joined: {got}, not {known}. Ask the \
         hub's admin why; if it is meant so, join with an empty state directory"
    )]
    OtherLog {
        /// The token's.
        provider: String,
        /// As it was pinned.
        known: String,
        /// As it is said now.
        got: String,
    },
    /// The token is for no possible provider or address.
    #[error("join token: {0}; make a new one with `muster provider create-token`")]
    Token(String),
    /// The hub is another one than before, and what it said could not be written.
    #[error("{0}; start again with the same token, once the state directory can be written")]
    Between(#[source] Box<JoinError>),
    /// The state directory.
    #[error("state directory: {0}")]
    Io(#[from] std::io::Error),
    /// The state directory, or the hub's keys.
    #[error(transparent)]
    Keys(#[from] HubKeysError),
    /// No TLS.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// The gateway could not be asked now.
    #[error("the gateway cannot be asked now ({0}); the token is tried again at the next start")]
    Later(#[source] GatewayError),
    /// Told to stop before it was done.
    #[error("stopped before the join was done; start again with the same token")]
    Stopped,
}

/// How long to try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// Nothing can be done before.
    UntilJoined,
    /// There is an older join to live by; what runs must not wait for a gateway that is away.
    Once,
}

/// Joins, and records it under `state`. Says so in the log with the fingerprint that the admin needs.
///
/// # Errors
/// [`JoinError`]. Nothing is recorded then, but for [`JoinError::Between`], and the same token may be used again by this
/// identity.
pub async fn join(
    state: &Path,
    identity: &Identity,
    token: &JoinToken,
    patience: Patience,
    shutdown: &Shutdown,
) -> Result<Membership, JoinError> {
    let mut membership = Membership {
        provider: token.provider.clone(),
        url: token.url.clone(),
        ca: String::new(),
        log: String::new(),
        token: token.hash(),
    };
    membership.check_address().map_err(JoinError::Token)?;
    let (client, verifier) = pin::first_contact(identity, token.ca_spki)?;
    let gateway = Gateway::new(client, &token.url);
    let request = JoinRequest {
        provider: token.provider.clone(),
        secret: token.secret().to_owned(),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let mut failures = 0;
    let answer = loop {
        let error = match gateway.join(&request).await {
            Ok(answer) => break answer,
            Err(error) => error,
        };
        if let (GatewayError::Unreachable(_), Some(why)) = (&error, verifier.refused()) {
            return Err(JoinError::NotTheGateway { url: token.url.clone(), why });
        }
        // The gateway compares fingerprints: the same key may ask again when an answer was lost.
        if !error.is_transient() {
            return Err(refused(token, error));
        }
        if patience == Patience::Once {
            return Err(JoinError::Later(error));
        }
        failures += 1;
        let jitter = backoff::jitter_of(&identity.fingerprint().to_string());
        let pause = backoff::delay(Duration::from_secs(1), LONGEST_PAUSE, failures, jitter);
        let pause = pause.max(error.retry_after().unwrap_or_default());
        tracing::warn!(%error, url = token.url, seconds = pause.as_secs(), "not joined yet; will try again");
        tokio::select! {
            biased;
            () = shutdown.wait() => return Err(JoinError::Stopped),
            () = tokio::time::sleep(pause) => {}
        }
    };
    let wrong = |problem: String| JoinError::Answer { provider: token.provider.clone(), problem };
    if answer.provider != token.provider {
        return Err(wrong("it names another provider".to_owned()));
    }
    if answer.fingerprint != identity.fingerprint() {
        return Err(wrong(format!(
            "it saw key {}, this agent's is {}; something in between ends TLS, which the gateway must do itself",
            answer.fingerprint,
            identity.fingerprint()
        )));
    }
    // The newest set as it comes: this connection is the one thing that the token vouches for.
    let set = hub_keys::trust_first(&answer.hub.keys).map_err(|error| wrong(error.to_string()))?;
    membership.ca = verifier.ca().ok_or_else(|| wrong("no CA was seen".to_owned()))?;
    membership.log = answer.hub.log.clone().unwrap_or_default();
    let log: VerifierKey = membership
        .log
        .parse()
        .map_err(|error| wrong(format!("its log's key: {error}; the hub must be of the same release")))?;
    let floor = Floor { incarnation: answer.hub.incarnation, min_epoch: 0 };
    // A hub that cannot hand on from the keys that were known here is another hub, or one that lost its state: what the old
    // one declared void says nothing about the new one.
    let same_hub = HubKeys::open(state).is_ok_and(|known| known.leads_to(&answer.hub.keys));
    if same_hub {
        // A log with another key can show another history, and nobody could tell.
        let known = Membership::load(state)?.map(|before| before.log);
        if let Some(known) = known.filter(|known| *known != membership.log) {
            return Err(JoinError::OtherLog {
                provider: token.provider.clone(),
                known,
                got: log.to_string(),
            });
        }
        Fence::open(state)?.hear(floor)?;
        HubKeys::adopt(state, set)?;
        membership.save(state)?;
    } else {
        change_hubs(state, floor, set, &membership).map_err(|error| JoinError::Between(Box::new(error)))?;
    }
    tracing::info!(
        provider = membership.provider, gateway = membership.url, fingerprint = %identity.fingerprint(),
        accepted = answer.accepted, "joined"
    );
    Ok(membership)
}

/// Another hub's in the place of what is known of the last one. The old membership goes first: beside the new hub's keys it would
/// be taken for that hub's own. Who has none joins with the same key and token again, and is given the same answer.
fn change_hubs(state: &Path, floor: Floor, set: KeySet, membership: &Membership) -> Result<(), JoinError> {
    Membership::forget(state)?;
    Fence::begin(state, floor)?;
    Witness::forget(state)?;
    HubKeys::adopt(state, set)?;
    Ok(membership.save(state)?)
}

fn refused(token: &JoinToken, source: GatewayError) -> JoinError {
    let provider = token.provider.clone();
    let remedy = match source.reason() {
        Some("TokenReused") => {
            "another key came first with this token. If that was not you, have the admin look at `kubectl describe \
             computeprovider` and make a new token; if it was, use that agent's state directory"
        }
        Some("TokenExpired") => "the token is too old; make a new one with `muster provider create-token`",
        Some("TokenUnknown") => {
            "the hub knows no such token: a newer one was made, or the provider was made anew; make a new one with \
             `muster provider create-token`"
        }
        Some("Revoked") => {
            "the provider is revoked for good; the hub's admin can make another one with another name"
        }
        _ => "the gateway refuses it; see what it says",
    };
    JoinError::Refused { provider, remedy, source }
}

#[cfg(test)]
mod tests {
    use muster_proof::key::SigningKey;

    use super::*;
    use crate::agent::fake_gateway::{FakeGateway, tlog};
    use crate::agent::gateway_tests::Agent;

    /// An agent of one hub, the gateway of another, and that one's keys.
    async fn moving() -> (Agent, FakeGateway, KeySet) {
        let (first, _) = FakeGateway::simple().await;
        let agent = Agent::joined(&first).await;
        let key = SigningKey::generate([9; 32]).unwrap();
        let set = hub_keys::sign(1, &[key.public()], &key).unwrap();
        let keys = hub_keys::trust_first(std::slice::from_ref(&set)).unwrap();
        let second = FakeGateway::start("127.0.0.1", vec![set]).await;
        second.change(|hub| hub.public.log = Some(tlog::note_key(6).public().to_string()));
        (agent, second, keys)
    }

    async fn join_at(agent: &Agent, gateway: &FakeGateway) -> Result<Membership, JoinError> {
        let token = gateway.token();
        join(agent.dir.path(), &agent.identity, &token, Patience::Once, &Shutdown::manual()).await
    }

    /// The new hub's keys beside the old hub's log were another log of the same hub, for good.
    #[tokio::test]
    async fn a_move_to_another_hub_that_is_cut_anywhere_is_made_at_the_next_start() {
        let floor = Floor { incarnation: 1, min_epoch: 0 };
        for writes in 0..=4 {
            let (agent, second, keys) = moving().await;
            let state = agent.dir.path();
            let steps: [Box<dyn FnOnce()>; 4] = [
                Box::new(|| Membership::forget(state).unwrap()),
                Box::new(|| Fence::begin(state, floor).unwrap()),
                Box::new(|| Witness::forget(state).unwrap()),
                Box::new(|| drop(HubKeys::adopt(state, keys).unwrap())),
            ];
            steps.into_iter().take(writes).for_each(|step| step());
            let joined = join_at(&agent, &second).await.unwrap();
            assert_eq!(joined.url, second.url, "after {writes} writes");
            assert_eq!(Membership::load(state).unwrap(), Some(joined));
        }
    }

    #[tokio::test]
    async fn nothing_of_another_hub_is_written_beside_the_old_membership() {
        let (agent, second, _) = moving().await;
        let (state, file) = (agent.dir.path(), agent.dir.path().join("membership.json"));
        let known = HubKeys::open(state).unwrap().current();
        let kept = std::fs::read(&file).unwrap();
        // It can neither be removed nor replaced.
        std::fs::remove_file(&file).unwrap();
        std::fs::create_dir_all(file.join("in-the-way")).unwrap();
        let error = join_at(&agent, &second).await.unwrap_err();
        assert!(
            matches!(error, JoinError::Between(_)) && error.to_string().contains("same token"),
            "{error}"
        );
        assert_eq!(HubKeys::open(state).unwrap().current(), known);
        std::fs::remove_dir_all(&file).unwrap();
        std::fs::write(&file, kept).unwrap();
        assert_eq!(join_at(&agent, &second).await.unwrap().url, second.url);
    }
}
