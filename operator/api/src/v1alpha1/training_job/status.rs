//! What the hub says about a TrainingJob. Programs read conditions; the phase and the texts are for people.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{rules, schema};
use crate::v1alpha1::WorkUnitPhase;

/// What the hub says about the job.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = rules::rule_at(
    ".phase",
    "!has(oldSelf.phase) || !(oldSelf.phase in ['Succeeded', 'Failed']) || \
         (has(self.phase) && self.phase == oldSelf.phase)",
    "a finished job stays finished",
))]
#[schemars(transform = rules::keeps("trainingDigest"))]
#[schemars(transform = rules::keeps("resolved"))]
#[schemars(transform = rules::keeps("jobID"))]
pub struct TrainingJobStatus {
    /// The generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = schema::MAX_INTEGER))]
    pub observed_generation: Option<i64>,
    /// One word for people, derived from the conditions. Succeeded and Failed are final.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<TrainingJobPhase>,
    /// Digest of all that reaches the bits of the result. Set once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::digest")]
    #[schemars(transform = rules::immutable)]
    pub training_digest: Option<String>,
    /// What the names in the spec stood for when the job was accepted. Set once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = rules::immutable)]
    pub resolved: Option<Resolved>,
    /// What names the job in the hub's log. Set once.
    #[serde(default, rename = "jobID", skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::digest")]
    #[schemars(transform = rules::immutable)]
    pub job_id: Option<String>,
    /// Ready sums up; the others say what holds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
    /// How far it is. Written at most every 10 seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// The groups of workers, each on one provider.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[schemars(transform = schema::map_by("index"))]
    pub islands: Vec<Island>,
    /// The providers in one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub providers: Option<String>,
    /// The newest durable checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<JobCheckpoint>,
    /// Replays by auditors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audits: Option<Audits>,
    /// Restarts that count against failurePolicy.maxRestarts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub restarts: Option<i32>,
    /// Seconds of running up to the last time that Ready turned False; activeDeadlineSeconds counts these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = schema::MAX_INTEGER))]
    pub active_seconds: Option<i64>,
    /// When workers first ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// When the job succeeded or failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
    /// The final checkpoint, from phase Settling on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<JobCheckpoint>,
}

/// Where a job is in its life.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TrainingJobPhase {
    /// Not accepted yet.
    Pending,
    /// Looking for providers.
    Placing,
    /// Training.
    Running,
    /// Back to training after a loss.
    Recovering,
    /// Stopped on request, or waiting in the hub's Kueue.
    Suspended,
    /// All steps done, audits still open.
    Settling,
    /// Done.
    Succeeded,
    /// Given up.
    Failed,
}

impl TrainingJobPhase {
    /// Whether the phase is final: Succeeded or Failed.
    pub const fn is_finished(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }
}

/// Digests of what the spec's names stood for.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Resolved {
    /// The resolved spec, a blob.
    #[schemars(schema_with = "schema::digest")]
    pub spec: String,
    /// The dataset's manifest, a blob.
    #[schemars(schema_with = "schema::digest")]
    pub dataset: String,
    /// StateRoot of the state before the first step.
    #[schemars(schema_with = "schema::digest")]
    pub genesis: String,
    /// The trainer's image.
    #[schemars(schema_with = "schema::digest")]
    pub image: String,
}

/// How far a job is.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// Last finished step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = schema::MAX_STEPS))]
    pub step: Option<i64>,
    /// `step/steps`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub text: Option<String>,
    /// Training loss of that step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 24))]
    pub loss: Option<String>,
    /// Loss on held-out data, of the last step that evaluated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 24))]
    pub eval_loss: Option<String>,
    /// Over all workers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = schema::MAX_INTEGER))]
    pub tokens_per_second: Option<i64>,
    /// When the step was reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update_time: Option<Time>,
}

/// One group of workers on one provider.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Island {
    /// From 0.
    #[schemars(range(min = 0, max = 1023))]
    pub index: i32,
    /// Where it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::dns_label")]
    pub provider: Option<String>,
    /// Its WorkUnit, in the provider's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::dns_label")]
    pub work_unit: Option<String>,
    /// The WorkUnit's epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = schema::MAX_INTEGER))]
    pub epoch: Option<i64>,
    /// The WorkUnit's phase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<WorkUnitPhase>,
}

/// A durable checkpoint.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct JobCheckpoint {
    /// The state after this step.
    #[schemars(range(min = 0, max = schema::MAX_STEPS))]
    pub step: i64,
    /// Digest of the state.
    #[schemars(schema_with = "schema::digest")]
    pub state_root: String,
    /// Digest of the checkpoint's manifest, a blob.
    #[schemars(schema_with = "schema::digest")]
    pub manifest: String,
    /// Where the log has its commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = schema::MAX_INTEGER))]
    pub log_index: Option<i64>,
}

/// Replays by auditors.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Audits {
    /// `matched/drawn`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub text: Option<String>,
    /// Drawn so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10_000_000))]
    pub drawn: Option<i64>,
    /// With the same result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10_000_000))]
    pub matched: Option<i64>,
    /// With a fault found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10_000_000))]
    pub faults: Option<i64>,
    /// Not decided yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10_000_000))]
    pub open: Option<i64>,
}
