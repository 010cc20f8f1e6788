use serde::{Deserialize, Serialize};

use super::fields::Nonce;
use super::{Payload, names};
use crate::Digest;
use crate::hash::{self, h};

/// An auditor has replayed, and says what came out without showing it. Signed by any key of the auditor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AuditSeal {
    /// Record id of the assignment.
    pub audit: Digest,
    /// [`audit_seal`].
    pub seal: Digest,
}

impl Payload for AuditSeal {
    names!("audit-seal");
}

/// `H("muster.audit-seal/1"; audit, key id of the seal's signer, StateRoot, record root, nonce)`. The key id makes a copy of
/// somebody else's seal worthless: it opens to nothing under another key.
pub fn audit_seal(
    audit: &Digest,
    key: &Digest,
    state_root: &Digest,
    record_root: &Digest,
    nonce: &Nonce,
) -> Digest {
    let parts = [audit, key, state_root, record_root].map(|part| part.as_bytes().as_slice());
    let [audit, key, state_root, record_root] = parts;
    h(hash::AUDIT_SEAL, &[audit, key, state_root, record_root, nonce.as_bytes()])
}
