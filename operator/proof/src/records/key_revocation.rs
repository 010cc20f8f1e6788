use serde::{Deserialize, Serialize};

use super::fields::{Origin, ProviderName};
use super::{Payload, names};
use crate::Digest;

/// From here on this identity key, and every key that it bound, signs nothing more. Signed by the hub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KeyRevocation {
    /// The origin of the log that this record is for.
    pub hub: Origin,
    /// The provider.
    pub provider: ProviderName,
    /// The key's id.
    pub key: Digest,
}

impl Payload for KeyRevocation {
    names!("key-revocation");
}
