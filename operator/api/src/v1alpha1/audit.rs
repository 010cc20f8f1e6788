//! Audit: one replay of one drawn interval, and what it came to. The log is the record; this is for people.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{rules, schema};

/// Which interval is replayed, and by whom. Fixed but for the auditor: one who declines or stays silent is followed by
/// the next of the draw's order.
#[derive(CustomResource, Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[kube(
    group = "muster.dev",
    version = "v1alpha1",
    kind = "Audit",
    namespaced,
    status = "AuditStatus",
    derive = "PartialEq",
    shortname = "au",
    category = "muster",
    doc = "The replay of one drawn interval of a TrainingJob, in the job's namespace, named <job>-<log index \
           of the draw>. Spec and status are the hub's; the log is the record. A job keeps its last 50 and \
           all that found a fault.",
    validation = rules::keeps_status(),
    printcolumn(name = "Job", type_ = "string", json_path = ".spec.job.name"),
    printcolumn(name = "Interval", type_ = "integer", json_path = ".spec.interval"),
    printcolumn(name = "Subject", type_ = "string", json_path = ".spec.subject"),
    printcolumn(name = "Auditor", type_ = "string", json_path = ".spec.auditor"),
    printcolumn(name = "Draw", type_ = "string", json_path = ".spec.draw"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Verdict", type_ = "string", json_path = ".status.verdict"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Log", type_ = "integer", json_path = ".status.logIndex", priority = 1),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Concluded')].reason",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = rules::rule_at(
    ".auditor",
    "!has(self.auditor) || self.auditor != self.subject",
    "must not be the subject: nobody audits himself",
))]
#[schemars(transform = rules::rule_at(
    ".lastStep",
    "self.firstStep <= self.lastStep",
    "must not be before firstStep",
))]
#[schemars(transform = rules::keeps("auditor"))]
pub struct AuditSpec {
    /// The job that the interval is of.
    #[schemars(transform = rules::immutable)]
    pub job: AuditedJob,
    /// Number of the island, from 0.
    #[schemars(range(min = 0, max = 1023))]
    #[schemars(transform = rules::immutable)]
    pub island: i32,
    /// Number of the interval, from 0.
    #[schemars(range(min = 0, max = schema::MAX_STEPS))]
    #[schemars(transform = rules::immutable)]
    pub interval: i64,
    /// First step of the interval.
    #[schemars(range(min = 1, max = schema::MAX_STEPS))]
    #[schemars(transform = rules::immutable)]
    pub first_step: i64,
    /// Last step of the interval.
    #[schemars(range(min = 1, max = schema::MAX_STEPS))]
    #[schemars(transform = rules::immutable)]
    pub last_step: i64,
    /// The provider that trained it.
    #[schemars(schema_with = "schema::dns_label")]
    #[schemars(transform = rules::immutable)]
    pub subject: String,
    /// The provider that was asked last; `hub` is the hub's own auditor. Absent before anybody was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::dns_label")]
    pub auditor: Option<String>,
    /// Why the interval was drawn.
    #[schemars(transform = rules::immutable)]
    pub draw: DrawKind,
}

/// A TrainingJob of the same namespace.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct AuditedJob {
    /// Its name.
    #[schemars(length(min = 1, max = 52))]
    pub name: String,
    /// Its UID.
    #[schemars(length(max = 36), regex(pattern = r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"))]
    pub uid: String,
}

/// Why an interval was drawn.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DrawKind {
    /// Chance, out of a window of intervals.
    Window,
    /// The first interval of a grant.
    First,
    /// The last interval of the job.
    Last,
    /// An interval that ended in a failure.
    Failed,
    /// An interval that was run again after a fault.
    Rerun,
    /// The tenant asked for it.
    Tenant,
}

/// What the hub says about an audit.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = rules::rule_at(
    ".fault",
    "!has(self.verdict) || self.verdict != 'Fault' || has(self.fault)",
    "is required with verdict Fault",
))]
#[schemars(transform = rules::keeps("verdict"))]
pub struct AuditStatus {
    /// The generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = schema::MAX_INTEGER))]
    pub observed_generation: Option<i64>,
    /// One word for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<AuditPhase>,
    /// The WorkUnit in which the auditor replays, in the auditor's namespace. Absent for the hub's own auditor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::dns_label")]
    pub work_unit: Option<String>,
    /// Everybody who was asked, in the order of the log.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[schemars(transform = schema::map_by("logIndex"))]
    pub auditors: Vec<AskedAuditor>,
    /// What it came to. Set once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = rules::immutable)]
    pub verdict: Option<AuditVerdict>,
    /// What was found, with verdict Fault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<AuditFault>,
    /// Where the log has the verdict.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = schema::MAX_INTEGER))]
    pub log_index: Option<i64>,
    /// When the hub saw the verdict.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
    /// Assigned: somebody replays. Concluded: there is a verdict.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
}

/// Where an audit is in its life.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AuditPhase {
    /// Nobody replays yet.
    Pending,
    /// An auditor replays and has not sealed its result.
    Replaying,
    /// Results are sealed; trainer and auditors show them.
    Revealing,
    /// Results differ or somebody is silent: one more owner replays.
    Disputed,
    /// There is a verdict.
    Concluded,
}

/// What an audit came to.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AuditVerdict {
    /// All say the same.
    Match,
    /// The trainer's claim is wrong.
    Fault,
    /// An auditor's claim is wrong.
    AuditorFault,
    /// Nobody can tell; the interval is run again.
    Inconclusive,
}

/// One who was asked to replay.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct AskedAuditor {
    /// Where the log has the assignment.
    #[schemars(range(min = 0, max = schema::MAX_INTEGER))]
    pub log_index: i64,
    /// The provider; `hub` is the hub's own auditor.
    #[schemars(schema_with = "schema::dns_label")]
    pub auditor: String,
    /// How far it has come.
    pub state: AuditorState,
}

/// How far an auditor has come.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AuditorState {
    /// Replays.
    Asked,
    /// Has sealed its result.
    Sealed,
    /// Has shown its result.
    Opened,
    /// Declined or stayed silent: the next one was asked.
    Replaced,
    /// Its result is wrong.
    Convicted,
}

/// What was found against the trainer.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct AuditFault {
    /// On what grounds.
    pub kind: FaultKind,
    /// The provider that is convicted.
    #[schemars(schema_with = "schema::dns_label")]
    pub party: String,
}

/// Grounds of a conviction.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// The replays of two owners say the same, and the trainer something else.
    Replays,
    /// The trainer did not open its commitment, and the replays of two owners contradict it.
    F4,
}
