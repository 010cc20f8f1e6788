use serde::{Deserialize, Serialize};

use super::fields::Nonce;
use super::{Payload, names};
use crate::Digest;

/// The trainer shows what its commit sealed. Signed by any key of the provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Opening {
    /// Record id of the commit or failure.
    pub commit: Digest,
    /// Root of the tree over the interval's step records.
    pub record_root: Digest,
    /// What the seal was made with.
    pub salt: Nonce,
}

impl Payload for Opening {
    names!("opening");
}
