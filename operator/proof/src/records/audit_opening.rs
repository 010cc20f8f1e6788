use serde::{Deserialize, Serialize};

use super::fields::Nonce;
use super::{Payload, names};
use crate::Digest;

/// An auditor shows what it sealed. Signed by any key of the auditor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AuditOpening {
    /// Record id of the assignment.
    pub audit: Digest,
    /// StateRoot at the interval's end.
    pub state_root: Digest,
    /// Root of the tree over the interval's step records.
    pub record_root: Digest,
    /// What the seal was made with.
    pub nonce: Nonce,
}

impl Payload for AuditOpening {
    names!("audit-opening");
}
