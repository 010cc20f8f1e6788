//! TrainingJob: one model to train.
//!
//! [`identity`] is what the job is and never changes, [`running`] how it is run and may change at any time,
//! [`status`] what the hub says about it.

mod identity;
mod running;
mod status;

pub use identity::*;
pub use running::*;
pub use status::*;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{rules, schema};

/// What to train and how to run it. `model`, `data`, `init`, `training` and `assurance` are the job's identity: they
/// cannot change, and fix every bit of the result. The rest may change, but for `managedBy`. A unit that runs ends with
/// its interval when the job is suspended or no longer allows its number of workers; other changes of `workers`, and
/// those of `placement`, hold from the next unit on; all else counts as soon as the hub looks at it, and with the next
/// unit where the agent does.
#[derive(CustomResource, Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[kube(
    group = "muster.dev",
    version = "v1alpha1",
    kind = "TrainingJob",
    namespaced,
    status = "TrainingJobStatus",
    derive = "PartialEq",
    shortname = "tj",
    category = "muster",
    doc = "A model to train, bit for bit reproducibly, on capacity that providers lend. The spec is the \
           tenant's, the status the hub's.",
    selectable = ".status.phase",
    validation = rules::name(
        "size(self.metadata.name) <= 52",
        "must have at most 52 characters: names of pods are made from it"
    ),
    validation = rules::keeps_status(),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Step", type_ = "string", json_path = ".status.progress.text"),
    printcolumn(name = "Loss", type_ = "string", json_path = ".status.progress.loss"),
    printcolumn(name = "Tok/s", type_ = "integer", json_path = ".status.progress.tokensPerSecond"),
    printcolumn(name = "Providers", type_ = "string", json_path = ".status.providers"),
    printcolumn(name = "Audited", type_ = "string", json_path = ".status.audits.text"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].reason",
        priority = 1
    ),
    printcolumn(name = "Digest", type_ = "string", json_path = ".status.trainingDigest", priority = 1)
)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = rules::rule_at(
    ".workers.count",
    "self.workers.count <= self.training.shards",
    "must not exceed training.shards: a worker needs at least one shard",
))]
#[schemars(transform = rules::rule_at(
    ".workers.max",
    "!has(self.workers.max) || self.workers.max <= self.training.shards",
    "must not exceed training.shards: a worker needs at least one shard",
))]
#[schemars(transform = rules::rule_at(
    ".training.shards",
    "self.training.batch / self.training.shards * self.model.context <= 8192",
    "batch / shards * model.context must not exceed 8192 tokens per shard; raise shards",
))]
#[schemars(transform = rules::stays("init"))]
pub struct TrainingJobSpec {
    /// The network's shape. Immutable.
    #[schemars(transform = rules::identity)]
    pub model: Model,
    /// What it is trained on. Immutable.
    #[schemars(transform = rules::identity)]
    pub data: Data,
    /// What it begins with. Absent: weights that the seed makes. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = rules::identity)]
    pub init: Option<Init>,
    /// How it is trained. Immutable.
    #[schemars(transform = rules::identity)]
    pub training: Training,
    /// How much of the work is checked. Immutable.
    #[serde(default)]
    #[schemars(transform = rules::identity)]
    pub assurance: Assurance,
    /// The processes that train.
    pub workers: Workers,
    /// Where they may run.
    #[serde(default)]
    pub placement: Placement,
    /// Which checkpoints are kept.
    #[serde(default)]
    pub checkpoints: Checkpoints,
    /// Most that the job may spend. Not in use: a job that says it is not accepted, for there are no accounts yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
    /// Higher goes first.
    #[serde(default)]
    #[schemars(range(min = -1000, max = 1000))]
    pub priority: i32,
    /// True stops the job at the next interval and keeps its state; false goes on from there.
    #[serde(default)]
    pub suspend: bool,
    /// Who runs the job. Any value but `muster.dev/hub` makes this hub leave it alone. Immutable.
    #[serde(default = "managed_by")]
    #[schemars(length(max = 63), regex(pattern = r"^[a-z0-9.-]+/[a-zA-Z0-9._-]+$"))]
    #[schemars(transform = rules::immutable)]
    pub managed_by: String,
    /// Fails the job after so many seconds of running. Suspended time does not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 31_536_000))]
    pub active_deadline_seconds: Option<i64>,
    /// Removes the object so many seconds after its end. Its checkpoints and records have policies of their
    /// own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 31_536_000))]
    pub ttl_seconds_after_finished: Option<i64>,
    /// What happens when something breaks.
    #[serde(default)]
    pub failure_policy: FailurePolicy,
}

fn managed_by() -> String {
    crate::names::MANAGED_BY.to_owned()
}
