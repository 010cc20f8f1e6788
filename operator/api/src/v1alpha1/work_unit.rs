//! WorkUnit: one epoch of one island of a job on one provider. A move is a new object.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{rules, schema};

/// What the hub asks of a provider. The agent acts on the signed envelope alone; the fields beside it repeat
/// it for people and columns, and the agent refuses a unit where they differ.
#[derive(CustomResource, Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[kube(
    group = "muster.dev",
    version = "v1alpha1",
    kind = "WorkUnit",
    namespaced,
    status = "WorkUnitStatus",
    derive = "PartialEq",
    shortname = "wu",
    category = "muster",
    doc = "One epoch of one island of a job on one provider, or one replay of an interval by an auditor, in \
           the provider's namespace. The spec is the hub's, the status the agent's. A move is a new object \
           with the next epoch.",
    validation = rules::name(
        "size(self.metadata.name) <= 40",
        "must have at most 40 characters: names of Jobs and pods are made from it"
    ),
    validation = rules::name(
        "self.spec.kind != 'Train' || self.metadata.name == \
         '%s-%d-%d'.format([self.spec.jobUID.substring(0, 8), self.spec.island, self.spec.epoch])",
        "must be <first 8 of spec.jobUID>-<spec.island>-<spec.epoch>, so that it exists once"
    ),
    validation = rules::name(
        // By substrings: startsWith on a name, which has no bound of its own, is over the cost budget.
        "self.spec.kind != 'Audit' || (size(self.metadata.name) > 10 && self.metadata.name.substring(0, 10) == \
         '%s-a'.format([self.spec.jobUID.substring(0, 8)]) && \
         self.metadata.name.substring(self.metadata.name.lastIndexOf('-')) == '-%d'.format([self.spec.epoch]))",
        "must be <first 8 of spec.jobUID>-a<log index of the assignment>-<spec.epoch>, so that it exists once"
    ),
    validation = rules::keeps_status(),
    printcolumn(name = "Kind", type_ = "string", json_path = ".spec.kind"),
    printcolumn(name = "Epoch", type_ = "integer", json_path = ".spec.epoch"),
    printcolumn(name = "Desired", type_ = "string", json_path = ".spec.desired"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Step", type_ = "integer", json_path = ".status.step"),
    printcolumn(name = "Attempt", type_ = "integer", json_path = ".status.attempt"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Job", type_ = "string", json_path = ".spec.jobUID", priority = 1),
    printcolumn(name = "Progress", type_ = "date", json_path = ".status.progressTime", priority = 1)
)]
#[serde(rename_all = "camelCase")]
pub struct WorkUnitSpec {
    /// Train or Audit.
    #[schemars(transform = rules::mirror)]
    pub kind: WorkUnitKind,
    /// UID of the TrainingJob. Its name and namespace are none of the provider's business.
    #[serde(rename = "jobUID")]
    #[schemars(length(max = 36), regex(pattern = r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"))]
    #[schemars(transform = rules::mirror)]
    pub job_uid: String,
    /// Number of the island, from 0.
    #[schemars(range(min = 0, max = 1023))]
    #[schemars(transform = rules::mirror)]
    pub island: i32,
    /// Grows with each unit of the island. The highest epoch is the one whose effects count.
    #[schemars(range(min = 1, max = schema::MAX_INTEGER))]
    #[schemars(transform = rules::mirror)]
    pub epoch: i64,
    /// Workers.
    #[schemars(range(min = 1, max = 256))]
    #[schemars(transform = rules::mirror)]
    pub workers: i32,
    /// What the agent verifies and then obeys. Immutable.
    #[schemars(transform = rules::immutable)]
    pub envelope: Envelope,
    /// Run, then Drain, then Stop. Not signed: stopping is always safe.
    #[serde(default)]
    #[schemars(transform = rules::rule(
        "self == oldSelf || oldSelf == 'Run' || (oldSelf == 'Drain' && self == 'Stop')",
        "may only go from Run to Drain to Stop; to run again is a new WorkUnit",
    ))]
    pub desired: Desired,
}

/// What a unit is for.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WorkUnitKind {
    /// To train.
    Train,
    /// To replay an interval that another provider trained.
    Audit,
}

/// What the hub wants of a unit now. Ordered: it only grows.
#[derive(
    Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash,
)]
pub enum Desired {
    /// Work.
    #[default]
    Run,
    /// Stop at the next interval.
    Drain,
    /// Stop now.
    Stop,
}

/// A DSSE envelope: a payload and signatures over its exact bytes.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Envelope {
    /// Media type of the payload.
    #[schemars(length(min = 1, max = 128))]
    pub payload_type: String,
    /// The payload in base64, at most 6144 bytes.
    #[schemars(length(max = 8192), regex(pattern = r"^[A-Za-z0-9+/]*={0,2}$"))]
    pub payload: String,
    /// Signatures.
    #[schemars(length(min = 1, max = 4))]
    #[schemars(transform = schema::atomic)]
    pub signatures: Vec<EnvelopeSignature>,
}

/// One signature of an envelope.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct EnvelopeSignature {
    /// Which key signed: SHA-256 of its SubjectPublicKeyInfo in DER.
    #[schemars(length(min = 1, max = 128))]
    pub keyid: String,
    /// ECDSA P-256 with SHA-256 in DER, base64.
    #[schemars(length(max = 128), regex(pattern = r"^[A-Za-z0-9+/]+={0,2}$"))]
    pub sig: String,
}

/// What the agent says about a unit.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = rules::rule_at(
    ".phase",
    "!has(oldSelf.phase) || !(oldSelf.phase in ['Refused', 'Succeeded', 'Failed']) || \
         (has(self.phase) && self.phase in [oldSelf.phase, 'Released'])",
    "a finished unit can only become Released",
))]
#[schemars(transform = rules::rule_at(
    ".phase",
    "!has(oldSelf.phase) || oldSelf.phase != 'Released' || (has(self.phase) && self.phase == 'Released')",
    "Released is final",
))]
#[schemars(transform = rules::keeps("attempt"))]
#[schemars(transform = rules::keeps("checkpoint"))]
pub struct WorkUnitStatus {
    /// The generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = schema::MAX_INTEGER))]
    pub observed_generation: Option<i64>,
    /// One word for people, derived from the conditions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<WorkUnitPhase>,
    /// Attempts so far. Each is one Job, `<unit>-<attempt>`. Never decreases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000))]
    #[schemars(transform = rules::never_decreases)]
    pub attempt: Option<i32>,
    /// Restarts that count against the job's `maxRestarts`: attempts after the first, but for those whose predecessor had to make
    /// room (Evicted, Preempted) or lost its node. Without it, all after the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub restarts: Option<i32>,
    /// Furthest step that was finished.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = schema::MAX_STEPS))]
    pub step: Option<i64>,
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
    /// When a step was reported last, be it one that is trained again after a restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress_time: Option<Time>,
    /// The newest checkpoint that the gateway has recorded. Its step never decreases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<UnitCheckpoint>,
    /// Why the last attempt failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<UnitFailure>,
    /// Ready sums up; the others say what holds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
}

/// Where a unit is in its life.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WorkUnitPhase {
    /// The envelope is good and policy allows it.
    Accepted,
    /// The agent will not run it.
    Refused,
    /// Waiting for capacity.
    Queued,
    /// Pods are starting.
    Starting,
    /// Training, or auditing.
    Running,
    /// Stopping at the next interval.
    Draining,
    /// All steps done.
    Succeeded,
    /// Given up.
    Failed,
    /// Nothing of it is left on the member: the only proof that nothing runs any more.
    Released,
}

impl WorkUnitPhase {
    /// Whether nothing more will be computed: Refused, Succeeded, Failed or Released.
    pub const fn is_finished(self) -> bool {
        matches!(self, Self::Refused | Self::Succeeded | Self::Failed | Self::Released)
    }
}

/// A durable checkpoint of a unit.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = rules::rule_at(
    ".step",
    "self.step >= oldSelf.step",
    "must not decrease: a durable checkpoint stays",
))]
pub struct UnitCheckpoint {
    /// The state after this step.
    #[schemars(range(min = 0, max = schema::MAX_STEPS))]
    pub step: i64,
    /// Digest of the checkpoint's manifest, a blob.
    #[schemars(schema_with = "schema::digest")]
    pub manifest: String,
    /// Digest of the state.
    #[schemars(schema_with = "schema::digest")]
    pub state_root: String,
    /// Record id of its commit in the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::digest")]
    pub record: Option<String>,
    /// Whether the stop rule ends the job with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends: Option<bool>,
}

/// Why an attempt failed.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct UnitFailure {
    /// Which attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub attempt: Option<i32>,
    /// Which worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1023))]
    pub rank: Option<i32>,
    /// How its process ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 255))]
    pub exit_code: Option<i32>,
    /// The class of the failure, for the job's failure policy: Evicted, OOMKilled, ..
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub reason: Option<String>,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub message: Option<String>,
}
