//! Whose signature on an envelope is believed: the newest set of the hub's keys that this agent has accepted, kept in the
//! state directory. A newer one is taken only along the chain (docs/spec/gateway.md section 5).
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use muster_core::hub_keys::{self, KeySet};
use muster_proof::dsse::Envelope;
use muster_proof::key::{self, PublicKey};
use serde::{Deserialize, Serialize};

use super::gateway::{Gateway, GatewayError};
use crate::runtime::files::{self, Access};

const FILE: &str = "hub-keys.json";
const MAX_FILE: u64 = 64 * 1024;

/// Why there is no set, or no newer one. What was accepted before stays.
#[derive(Debug, thiserror::Error)]
pub enum HubKeysError {
    /// The state directory.
    #[error("hub's keys: {0}")]
    Io(#[from] std::io::Error),
    /// The file was changed or cut.
    #[error(
        "{path}: {problem}; restore it from a backup, or remove membership.json beside it and join with a new token"
    )]
    Damaged {
        /// The file.
        path: String,
        /// What is wrong.
        problem: String,
    },
    /// What was offered is no continuation of what is known.
    #[error(transparent)]
    Chain(#[from] hub_keys::Error),
    /// The gateway did not say.
    #[error(transparent)]
    Gateway(#[from] GatewayError),
    /// A key cannot be written.
    #[error("hub's keys: {0}")]
    Key(#[from] key::Error),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Kept {
    serial: u64,
    keys: Vec<String>,
}

/// See the module.
#[derive(Debug)]
pub struct HubKeys {
    path: PathBuf,
    set: RwLock<Arc<KeySet>>,
}

impl HubKeys {
    /// Keeps the set that a join found.
    ///
    /// # Errors
    /// [`HubKeysError`].
    pub fn adopt(state: &Path, set: KeySet) -> Result<Self, HubKeysError> {
        let path = state.join(FILE);
        save(&path, &set)?;
        Ok(Self { path, set: RwLock::new(Arc::new(set)) })
    }

    /// The set of an earlier start.
    ///
    /// # Errors
    /// [`HubKeysError`].
    pub fn open(state: &Path) -> Result<Self, HubKeysError> {
        let path = state.join(FILE);
        let damaged = |problem: String| HubKeysError::Damaged { path: path.display().to_string(), problem };
        let bytes = files::read_capped(&path, MAX_FILE)?;
        let kept: Kept = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        let keys: Result<Vec<_>, _> = kept.keys.iter().map(|pem| PublicKey::from_pem(pem)).collect();
        let keys = keys.map_err(|error| damaged(error.to_string()))?;
        let set = KeySet::kept(kept.serial, keys).map_err(|error| damaged(error.to_string()))?;
        Ok(Self { set: RwLock::new(Arc::new(set)), path })
    }

    /// The set to believe now.
    #[must_use]
    pub fn current(&self) -> Arc<KeySet> {
        self.set.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes the newest set of a chain if it continues ours; durable before anybody believes it. Says whether it is news.
    ///
    /// # Errors
    /// [`HubKeysError`].
    pub fn advance(&self, chain: &[Envelope]) -> Result<bool, HubKeysError> {
        let known = self.current();
        let newest = hub_keys::advance(&known, chain)?;
        if newest == *known {
            return Ok(false);
        }
        save(&self.path, &newest)?;
        tracing::info!(
            serial = newest.serial(),
            keys = newest.keys().len(),
            "the hub has handed its keys on"
        );
        *self.set.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(newest);
        Ok(true)
    }

    /// Whether a chain continues ours: whether it is the same hub's.
    #[must_use]
    pub fn leads_to(&self, chain: &[Envelope]) -> bool {
        hub_keys::advance(&self.current(), chain).is_ok()
    }

    /// Asks the gateway for the chain and follows it.
    ///
    /// # Errors
    /// [`HubKeysError`].
    pub async fn refresh(&self, gateway: &Gateway) -> Result<bool, HubKeysError> {
        self.advance(&gateway.hub().await?.keys)
    }

    /// Whether one of the keys that an envelope names is ours to believe; if none is, a newer set may have it.
    #[must_use]
    pub fn knows_signer(&self, envelope: &Envelope) -> bool {
        let set = self.current();
        envelope.signatures().iter().any(|s| set.keys().iter().any(|key| key.key_id() == s.keyid))
    }
}

fn save(path: &Path, set: &KeySet) -> Result<(), HubKeysError> {
    let keys: Result<Vec<_>, _> = set.keys().iter().map(PublicKey::to_pem).collect();
    let kept = Kept { serial: set.serial(), keys: keys? };
    let bytes = serde_json::to_vec_pretty(&kept).map_err(std::io::Error::from)?;
    files::write_atomic(path, &bytes, Access::Private)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use muster_proof::key::SigningKey;

    use super::*;

    #[test]
    fn survive_a_restart_and_change_only_along_the_chain() {
        let dir = tempfile::tempdir().unwrap();
        let keys: Vec<_> = (1..=3).map(|seed| SigningKey::generate([seed; 32]).unwrap()).collect();
        let first = hub_keys::sign(1, &[keys[0].public()], &keys[0]).unwrap();
        // The second set drops the key that signed it: it can only be believed by somebody who knows the first.
        let second = hub_keys::sign(2, &[keys[1].public()], &keys[0]).unwrap();
        let forged = hub_keys::sign(2, &[keys[2].public()], &keys[2]).unwrap();
        let set = hub_keys::trust_first(std::slice::from_ref(&first)).unwrap();
        let known = HubKeys::adopt(dir.path(), set).unwrap();
        assert!(known.advance(&[first.clone(), forged]).is_err());
        assert_eq!(HubKeys::open(dir.path()).unwrap().current().serial(), 1);
        assert!(known.advance(&[first.clone(), second.clone()]).unwrap());
        assert!(!known.advance(&[first, second]).unwrap());
        let again = HubKeys::open(dir.path()).unwrap();
        assert_eq!(again.current().keys(), [keys[1].public().clone()]);
    }

    #[test]
    fn damage_is_named_with_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        for text in ["{", r#"{"serial":0,"keys":[]}"#, r#"{"serial":1,"keys":["x"]}"#] {
            std::fs::write(dir.path().join(FILE), text).unwrap();
            let error = HubKeys::open(dir.path()).unwrap_err().to_string();
            assert!(error.contains(FILE) && error.contains("new token"), "{error}");
        }
    }
}
