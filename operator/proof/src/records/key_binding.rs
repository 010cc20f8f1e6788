use serde::{Deserialize, Serialize};

use super::fields::{Attempt, Epoch, Island, JobId, Rank, Uid, UnitName};
use super::{Payload, names};
use crate::key::PublicKey;

/// A sidecar's key may sign for a grant from here on. Signed by an identity key of the grant's provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KeyBinding {
    /// The job of the grant.
    pub job: JobId,
    /// Its island.
    pub island: Island,
    /// Its epoch.
    pub epoch: Epoch,
    /// The unit that the attempt was made for: after a restore of the hub an older one than the grant's.
    pub unit: UnitName,
    /// The attempt.
    pub attempt: Attempt,
    /// The worker beside which the sidecar runs.
    pub rank: Rank,
    /// Its pod.
    pub pod_uid: Uid,
    /// The key.
    pub key: PublicKey,
}

impl Payload for KeyBinding {
    names!("key-binding");
}
