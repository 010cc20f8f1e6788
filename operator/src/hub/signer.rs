//! With what the hub signs now. The key changes while the hub runs (`muster hub rotate-key`), the incarnation too, should
//! the database be restored under it.
use std::sync::{Arc, PoisonError, RwLock};

use muster_proof::key::SigningKey;

use super::state::State;

/// Who signs one envelope.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Signs.
    pub key: SigningKey,
    /// Goes into the payload.
    pub incarnation: i64,
}

/// See the module.
#[derive(Debug)]
pub struct Signer {
    key: RwLock<SigningKey>,
    state: Arc<State>,
}

impl Signer {
    /// Begins with the key that is in the state directory.
    #[must_use]
    pub fn new(key: SigningKey, state: Arc<State>) -> Self {
        Self { key: RwLock::new(key), state }
    }

    /// For the next envelope.
    #[must_use]
    pub fn identity(&self) -> Identity {
        let key = self.key.read().unwrap_or_else(PoisonError::into_inner).clone();
        Identity { key, incarnation: self.state.epochs().incarnation }
    }

    /// Signs with another key from now on. Agents must have been able to hear of it before.
    pub fn replace(&self, key: SigningKey) {
        *self.key.write().unwrap_or_else(PoisonError::into_inner) = key;
    }
}
