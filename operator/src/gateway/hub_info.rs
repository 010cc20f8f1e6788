//! What the hub is (section 5): its incarnation and the chain of its keys, from the ConfigMap in which it publishes them. Checked
//! before it is handed on: agents check it again, but a hub that publishes rubbish should be noticed here.
use std::collections::BTreeMap;
use std::sync::{OnceLock, PoisonError, RwLock};

use axum::extract::{Request, State};
use axum::{Extension, Json};
use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use muster_core::hub_keys::{self, KeySet};
use muster_proof::dsse::Envelope;
use muster_proof::tlog::note::VerifierKey;

use super::access::{Agent, Refusal};
use super::{Shared, body};
use crate::runtime::Shutdown;
use crate::runtime::patience::Patience;
use crate::runtime::sanitise::line;
use crate::wire::gateway::{HUB_PUBLIC, Heartbeat, HeartbeatAnswer, HubPublic};

/// Sixteen sets of four keys, signed, need a quarter of it.
const MAX_KEYS_BYTES: usize = 128 * 1024;
/// No version is longer.
pub const MAX_VERSION: usize = 64;

/// Why what the hub published is not handed on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A field is missing.
    #[error("no field {0}; is the hub of an older version?")]
    Missing(&'static str),
    /// Not a number from 1.
    #[error("incarnation is {0:?}, not a number from 1")]
    Incarnation(String),
    /// Not a list of envelopes.
    #[error("keys: {0}")]
    Keys(String),
    /// The chain does not hold, or does not lead on from what is known.
    #[error("keys: {0}")]
    Chain(#[from] hub_keys::Error),
    /// It went back.
    #[error("incarnation went back from {known} to {got}; the hub's state was restored from an old backup")]
    WentBack {
        /// Known here.
        known: i64,
        /// Published now.
        got: i64,
    },
}

struct Known {
    public: HubPublic,
    newest: KeySet,
}

/// The newest that was good.
#[derive(Default)]
pub struct HubInfo {
    known: RwLock<Option<Known>>,
    /// The verifier key of the log that this gateway keeps.
    log: OnceLock<String>,
}

impl HubInfo {
    /// Has everybody told this key of the log: agents pin it. The first one stays.
    pub fn name_log(&self, key: &VerifierKey) {
        // An error is a second call, and a log has one key.
        let _ = self.log.set(key.to_string());
    }

    /// What `GET /v1/hub` answers, and the serial of its newest set.
    ///
    /// # Errors
    /// 503: the hub has not published it yet.
    pub fn get(&self) -> Result<(HubPublic, u64), Refusal> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let known = known.as_ref().ok_or_else(unpublished)?;
        let public = HubPublic { log: self.log.get().cloned(), ..known.public.clone() };
        Ok((public, known.newest.serial()))
    }

    /// The incarnation, and the keys that sign now: of one moment.
    ///
    /// # Errors
    /// 503: the hub has not published it yet.
    pub fn now(&self) -> Result<(i64, KeySet), Refusal> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let now = known.as_ref().map(|known| (known.public.incarnation, known.newest.clone()));
        now.ok_or_else(unpublished)
    }

    /// The ConfigMap's data.
    ///
    /// # Errors
    /// [`Error`]; then the last good one stays.
    pub fn see(&self, data: &BTreeMap<String, String>) -> Result<(), Error> {
        let field = |name: &'static str| data.get(name).ok_or(Error::Missing(name));
        let (number, keys) = (field("incarnation")?, field("keys")?);
        let incarnation: i64 = number
            .parse()
            .ok()
            .filter(|&number| number >= 1)
            .ok_or_else(|| Error::Incarnation(line(number, 40)))?;
        if keys.len() > MAX_KEYS_BYTES {
            return Err(Error::Keys(format!("{} bytes, at most {MAX_KEYS_BYTES} are read", keys.len())));
        }
        let keys: Vec<Envelope> =
            serde_json::from_str(keys).map_err(|error| Error::Keys(line(&error.to_string(), 200)))?;
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let newest = match known.as_ref() {
            Some(before) if incarnation < before.public.incarnation => {
                return Err(Error::WentBack { known: before.public.incarnation, got: incarnation });
            }
            // Both: an agent that joins now takes the chain from its beginning.
            Some(before) => {
                hub_keys::trust_first(&keys)?;
                hub_keys::advance(&before.newest, &keys)?
            }
            None => hub_keys::trust_first(&keys)?,
        };
        *known = Some(Known { public: HubPublic { incarnation, keys, log: None }, newest });
        Ok(())
    }

    /// Follows the ConfigMap until shutdown.
    pub async fn follow(&self, client: Client, shutdown: Shutdown) {
        let (namespace, name) = HUB_PUBLIC;
        let api: Api<ConfigMap> = Api::namespaced(client, namespace);
        // The right to watch is for this one name, so the watch must ask for it.
        let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let watch = || watcher(api.clone(), config.clone()).backoff(Patience::default()).boxed();
        let mut events = watch();
        loop {
            let event = tokio::select! {
                biased;
                () = shutdown.wait() => return,
                event = events.next() => event,
            };
            match event {
                None => events = watch(),
                Some(Err(error)) => {
                    tracing::warn!(%error, "watch of ConfigMap {namespace}/{name} interrupted")
                }
                Some(Ok(watcher::Event::Apply(map) | watcher::Event::InitApply(map))) => {
                    if let Err(error) = self.see(&map.data.unwrap_or_default()) {
                        tracing::error!(%error, "ConfigMap {namespace}/{name}: not handed on to agents");
                    }
                }
                Some(Ok(watcher::Event::Delete(_))) => {
                    tracing::warn!("ConfigMap {namespace}/{name} is gone; going on with the last one");
                }
                Some(Ok(watcher::Event::Init | watcher::Event::InitDone)) => {}
            }
        }
    }
}

fn unpublished() -> Refusal {
    Refusal::unavailable("the hub has not published its keys yet; does `muster hub` run?")
}

/// `GET /v1/hub`.
pub async fn hub(State(gateway): State<Shared>) -> Result<Json<HubPublic>, Refusal> {
    Ok(Json(gateway.hub.get()?.0))
}

/// `POST /v1/heartbeat`.
pub async fn heartbeat(
    State(gateway): State<Shared>,
    Extension(agent): Extension<Agent>,
    request: Request,
) -> Result<Json<HeartbeatAnswer>, Refusal> {
    let heartbeat: Heartbeat = body::json(request.into_body()).await?;
    let version = version(&heartbeat.agent_version)?;
    tracing::debug!(provider = agent.provider, version, "heartbeat");
    let (public, key_serial) = gateway.hub.get()?;
    let (incarnation, min_epoch) = (public.incarnation, agent.min_epoch);
    let log_size = gateway.log.published.size();
    Ok(Json(HeartbeatAnswer { incarnation, min_epoch, key_serial, log_size }))
}

/// An agent's version as it may be printed.
///
/// # Errors
/// 400: it is too long.
pub fn version(text: &str) -> Result<String, Refusal> {
    if text.len() > MAX_VERSION {
        return Err(Refusal::bad_request(format!("agentVersion has more than {MAX_VERSION} bytes")));
    }
    Ok(line(text, MAX_VERSION))
}

#[cfg(test)]
mod tests {
    use muster_proof::key::SigningKey;
    use muster_proof::tlog::note::{Algorithm, KeyName, NoteKey};

    use super::*;

    fn key(seed: u8) -> SigningKey {
        SigningKey::generate([seed; 32]).unwrap()
    }

    fn data(incarnation: &str, chain: &[Envelope]) -> BTreeMap<String, String> {
        let keys = serde_json::to_string(chain).unwrap();
        [("incarnation", incarnation), ("keys", &keys), ("blobURL", "https://old")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into()
    }

    #[test]
    fn the_last_good_one_stays() {
        let (first, second, stranger) = (key(1), key(2), key(3));
        let one = hub_keys::sign(1, &[first.public()], &first).unwrap();
        let two = hub_keys::sign(2, &[second.public()], &first).unwrap();
        let forged = hub_keys::sign(2, &[stranger.public()], &stranger).unwrap();
        let info = HubInfo::default();
        assert_eq!(info.get().unwrap_err().status, 503);
        assert!(info.see(&BTreeMap::new()).is_err());
        info.see(&data("1", std::slice::from_ref(&one))).unwrap();
        assert_eq!(info.get().unwrap().1, 1);
        for bad in [
            data("1", &[one.clone(), forged.clone()]),
            data("1", &[hub_keys::sign(1, &[stranger.public()], &stranger).unwrap()]),
            data("1", &[]),
            data("zero", std::slice::from_ref(&one)),
            data("0", std::slice::from_ref(&one)),
        ] {
            info.see(&bad).unwrap_err();
            assert_eq!(
                info.get().unwrap(),
                (HubPublic { incarnation: 1, keys: vec![one.clone()], log: None }, 1)
            );
        }
        info.see(&data("2", &[one.clone(), two.clone()])).unwrap();
        assert!(matches!(info.see(&data("1", &[one.clone(), two])), Err(Error::WentBack { .. })));
        assert!(matches!(info.see(&data("2", &[one])), Err(Error::Chain(hub_keys::Error::Rollback { .. }))));
        let key = NoteKey::new(KeyName::new("hub.example/log").unwrap(), Algorithm::Ed25519, [7; 32]);
        info.name_log(key.public());
        let (public, serial) = info.get().unwrap();
        assert_eq!((public.incarnation, serial), (2, 2));
        assert_eq!(public.log, Some(key.public().to_string()));
    }
}
