use serde::{Deserialize, Serialize};

use super::fields::{Origin, OwnerName, ProviderName, WitnessKey};
use super::{Error, Payload, names};
use crate::dsse::Envelope;
use crate::key::{PublicKey, SigningKey};

/// A provider's identity key, from here on. Two signatures: the hub says whose it is, the key itself that it is held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProviderKey {
    /// The origin of the log that this record is for.
    pub hub: Origin,
    /// The provider.
    pub provider: ProviderName,
    /// Who stands behind it.
    pub owner: OwnerName,
    /// The key.
    pub key: PublicKey,
    /// What the provider's agent cosigns checkpoints of the log with.
    pub witness: WitnessKey,
}

impl Payload for ProviderKey {
    names!("provider-key");
}

impl ProviderKey {
    /// The record with both signatures, the hub's first.
    ///
    /// # Errors
    /// As [`Payload::to_payload`].
    pub fn sign_both(&self, hub: &SigningKey, identity: &SigningKey) -> Result<Envelope, Error> {
        let mut envelope = self.sign(hub)?;
        envelope.add_signature(identity)?;
        Ok(envelope)
    }
}
