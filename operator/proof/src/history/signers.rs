//! Whose signature a record needs. Exactly that: one that is not needed is refused.

use super::state::{KeyState, Role};
use super::{HUB_AUDITOR, History, Refusal};
use crate::Digest;
use crate::dsse::Envelope;
use crate::key::PublicKey;
use crate::records::fields::ProviderName;

impl History {
    /// The hub's key that signed.
    pub(super) fn hub_key(&self, envelope: &Envelope) -> Result<&PublicKey, Refusal> {
        let key = named(envelope);
        let own = self.hub_keys().iter().find(|own| Some(own.key_id()) == key);
        own.ok_or_else(|| wrong(envelope, "a key of the hub's newest set".to_owned()))
    }

    /// Signed by the hub and nobody else.
    pub(super) fn by_hub(&self, envelope: &Envelope) -> Result<Digest, Refusal> {
        let key = self.hub_key(envelope)?;
        Ok(envelope.verify_each(envelope.payload_type(), &[key])?.key_id())
    }

    /// Signed by an identity key of the provider that is not revoked.
    pub(super) fn by_identity(
        &self,
        envelope: &Envelope,
        provider: &ProviderName,
    ) -> Result<Digest, Refusal> {
        let want = || wrong(envelope, format!("an identity key of provider {provider}"));
        let state = self.key_of(envelope, provider).ok_or_else(want)?;
        match state.role {
            Role::Identity { .. } => self.by(envelope, state),
            Role::Bound { .. } => Err(want()),
        }
    }

    /// Signed by any key of the provider: a pod is gone when its work is asked about.
    pub(super) fn by_provider(
        &self,
        envelope: &Envelope,
        provider: &ProviderName,
    ) -> Result<Digest, Refusal> {
        if provider.as_str() == HUB_AUDITOR {
            return self.by_hub(envelope);
        }
        let state = self.key_of(envelope, provider);
        let state = state.ok_or_else(|| wrong(envelope, format!("a key of provider {provider}")))?;
        self.by(envelope, state)
    }

    /// Signed by `key`, which is live.
    pub(super) fn by(&self, envelope: &Envelope, state: &KeyState) -> Result<Digest, Refusal> {
        let id = state.key.key_id();
        if !self.is_live(&id) {
            return Err(Refusal::Revoked(id));
        }
        Ok(envelope.verify_each(envelope.payload_type(), &[&state.key])?.key_id())
    }

    /// Whether the key is known and neither it nor the key that bound it is revoked.
    pub(super) fn is_live(&self, key: &Digest) -> bool {
        let role = |id: &Digest| self.keys.get(id).map(|state| &state.role);
        let identity = match role(key) {
            Some(Role::Bound { by, .. }) => role(by),
            other => other,
        };
        matches!(identity, Some(Role::Identity { revoked: false }))
    }

    fn key_of(&self, envelope: &Envelope, provider: &ProviderName) -> Option<&KeyState> {
        let state = self.keys.get(&named(envelope)?)?;
        (state.provider == *provider).then_some(state)
    }
}

/// The key that the first signature names.
pub(super) fn named(envelope: &Envelope) -> Option<Digest> {
    envelope.signatures().first().map(|signature| signature.keyid)
}

pub(super) fn wrong(envelope: &Envelope, want: String) -> Refusal {
    let none = Digest::from_bytes([0; 32]);
    Refusal::Signer { key: named(envelope).unwrap_or(none), want }
}
