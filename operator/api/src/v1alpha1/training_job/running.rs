//! The parts of a TrainingJob that say how it is run. They never reach the bits of its result.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use super::{rules, schema};
use crate::v1alpha1::TrustTier;

/// The processes that train, each in a pod of its own.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = rules::rule_at(
    ".min",
    "!has(self.min) || self.min <= self.count",
    "must not exceed count",
))]
#[schemars(transform = rules::rule_at(
    ".max",
    "!has(self.max) || self.max >= self.count",
    "must not be below count",
))]
pub struct Workers {
    /// How many; at most training.shards.
    #[schemars(range(min = 1, max = 256))]
    pub count: i32,
    /// It also trains with fewer, down to so many, if nobody has room for count. Absent: count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 256))]
    pub min: Option<i32>,
    /// It takes more, up to so many, while nobody else waits for them; at most training.shards. Absent: count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 256))]
    pub max: Option<i32>,
    /// What each runs on: `cpu`, `nvidia-h100-80gb`, ..; providers report the classes they lend.
    #[serde(default = "device_class")]
    #[schemars(schema_with = "schema::device_class")]
    pub device_class: String,
    /// What each gets, as request and as limit.
    #[serde(default)]
    pub resources: WorkerResources,
    /// Which activations are computed again on the way back instead of kept. Layers: memory for the activations of one layer, for a
    /// third more computation. The result does not depend on it.
    #[serde(default)]
    pub recompute: Recompute,
    /// Where the optimiser's moments are. Sharded: a slice on each worker, which updates that slice of the parameters for all (ZeRO
    /// stage 1); two thirds of the state divided by the workers, for as many bytes on the network, and all moments to rank 0 at each
    /// checkpoint. The result does not depend on it.
    #[serde(default)]
    pub optimizer_state: OptimizerState,
}

/// Which activations are computed again.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Recompute {
    /// None.
    #[default]
    Never,
    /// Those inside of layers.
    Layers,
}

/// Where the optimiser's moments are.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OptimizerState {
    /// All of them on every worker.
    #[default]
    Replicated,
    /// A slice on each worker.
    Sharded,
}

fn device_class() -> String {
    "cpu".into()
}

/// Resources of one worker; limits are the requests.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct WorkerResources {
    /// CPUs: 1, "0.5" or 600m.
    #[serde(deserialize_with = "quantity")]
    #[schemars(schema_with = "schema::cpu")]
    pub cpu: Quantity,
    /// Memory: 1Gi.
    #[serde(deserialize_with = "quantity")]
    #[schemars(schema_with = "schema::memory")]
    pub memory: Quantity,
}

impl Default for WorkerResources {
    fn default() -> Self {
        Self { cpu: Quantity("600m".into()), memory: Quantity("1Gi".into()) }
    }
}

/// A quantity that YAML may have read as a number.
fn quantity<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Quantity, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum IntOrString {
        Int(u64),
        String(String),
    }
    Ok(Quantity(match IntOrString::deserialize(deserializer)? {
        IntOrString::Int(number) => number.to_string(),
        IntOrString::String(text) => text,
    }))
}

/// Where workers may run. An absent list allows all.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Placement {
    /// Only these providers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::dns_labels")]
    pub providers: Vec<String>,
    /// No provider of these owners.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::dns_labels")]
    pub exclude_owners: Vec<String>,
    /// Only these regions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::dns_labels")]
    pub regions: Vec<String>,
    /// Only providers that are trusted at least so far.
    pub min_trust_tier: TrustTier,
    /// Only providers that name this price or a lower one: micro-credits per 10^9 operations of the model. Nobody is billed yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = schema::MAX_INTEGER))]
    pub max_price: Option<i64>,
    /// How long a provider may go on without hearing from the hub before it stops.
    #[schemars(range(min = 0, max = 86400))]
    pub disconnect_grace_seconds: i32,
}

impl Default for Placement {
    fn default() -> Self {
        Self {
            providers: Vec::new(),
            exclude_owners: Vec::new(),
            regions: Vec::new(),
            min_trust_tier: TrustTier::Untrusted,
            max_price: None,
            disconnect_grace_seconds: 900,
        }
    }
}

/// Which checkpoints are kept. The last one of a finished job always is.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Checkpoints {
    /// So many of the newest.
    #[schemars(range(min = 1, max = 1000))]
    pub keep_last: i32,
    /// And each at a multiple of so many steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = schema::MAX_STEPS))]
    pub keep_every_steps: Option<i64>,
}

impl Default for Checkpoints {
    fn default() -> Self {
        Self { keep_last: 3, keep_every_steps: None }
    }
}

/// Most that the job may spend.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Budget {
    /// In millionths of a credit.
    #[schemars(range(min = 1, max = schema::MAX_INTEGER))]
    pub max_micro_credits: i64,
}

/// What happens when something breaks.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct FailurePolicy {
    /// Fails the job after so many restarts. What does not count: RestartFree, evictions, and what a provider takes back or lends for no
    /// longer.
    #[schemars(range(min = 0, max = 10_000))]
    pub max_restarts: i32,
    /// All workers run within so many seconds, or the unit goes back to placement, to another provider if one can have it.
    #[schemars(range(min = 10, max = 604_800))]
    pub schedule_timeout_seconds: i32,
    /// No step for so many seconds sends the unit to another provider if one can have it. Three times as long if it only has a checkpoint
    /// left to upload, or trains steps again after a restart and gets no further than it was.
    #[schemars(range(min = 30, max = 86_400))]
    pub progress_deadline_seconds: i32,
    /// The first rule that matches a failure decides, be it of a unit or of one attempt of it. None matches: the agent makes another
    /// attempt, at most three in a row without a new checkpoint after the job's own faults, then it is Restart.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[schemars(transform = schema::map_by("name"))]
    pub rules: Vec<FailureRule>,
}

impl Default for FailurePolicy {
    fn default() -> Self {
        Self {
            max_restarts: 20,
            schedule_timeout_seconds: 600,
            progress_deadline_seconds: 600,
            rules: Vec::new(),
        }
    }
}

/// What to do about failures of one kind.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = rules::rule(
    "has(self.onReasons) != has(self.onExitCodes)",
    "set exactly one of onReasons and onExitCodes",
))]
pub struct FailureRule {
    /// A name for people and for patches.
    #[schemars(schema_with = "schema::dns_label")]
    pub name: String,
    /// Matches a failure with one of these reasons.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16))]
    #[schemars(transform = schema::set)]
    pub on_reasons: Option<Vec<FailureReason>>,
    /// Matches a worker that ended with one of these exit codes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16), inner(range(min = 1, max = 255)))]
    #[schemars(transform = schema::set)]
    pub on_exit_codes: Option<Vec<i32>>,
    /// What to do.
    pub action: FailureAction,
}

/// Why a worker ended, as the agent classifies it.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FailureReason {
    /// The pod was evicted.
    Evicted,
    /// The provider took the capacity back.
    Preempted,
    /// The node is gone.
    NodeLost,
    /// Out of memory.
    #[serde(rename = "OOMKilled")]
    OomKilled,
    /// The image could not be pulled.
    ImagePullFailed,
    /// The pod is gone without a known reason.
    PodLost,
    /// The whole member is silent, or was given up.
    MemberLost,
    /// Not all workers ran within scheduleTimeoutSeconds.
    ScheduleTimeout,
    /// No new step within progressDeadlineSeconds.
    NoProgress,
}

/// What is done about a failure.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureAction {
    /// Another attempt; once its agent has given the unit up, a new epoch. Counts.
    Restart,
    /// The same, but the new epoch does not count.
    RestartFree,
    /// A new epoch after the first such failure, on another provider if one can have it. Counts.
    Move,
    /// The job fails after the first such failure.
    FailJob,
}
