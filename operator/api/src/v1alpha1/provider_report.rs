//! ProviderReport: what a provider's agent says it has. One in each provider's namespace, made by the hub.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Arithmetic, rules, schema};

/// Nothing: nobody asks anything of a report, so the object has no `spec`.
#[derive(CustomResource, Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "muster.dev",
    version = "v1alpha1",
    kind = "ProviderReport",
    namespaced,
    no_spec,
    status = "ProviderReportStatus",
    derive = "PartialEq",
    derive = "Default",
    shortname = "pr",
    category = "muster",
    doc = "What a provider's agent says it has: capacity, prices, policy. The object is the hub's, the \
           status the agent's, written when something changed and at most every 30 seconds. The heartbeat \
           is a Lease.",
    validation = rules::name(
        "self.metadata.name == 'report'",
        "must be 'report': there is one in each provider's namespace, made by the hub"
    ),
    validation = rules::keeps_status(),
    printcolumn(name = "Agent", type_ = "string", json_path = ".status.agentVersion"),
    printcolumn(name = "K8s", type_ = "string", json_path = ".status.kubernetesVersion"),
    printcolumn(name = "Log", type_ = "integer", json_path = ".status.logHead.size"),
    printcolumn(name = "Observed", type_ = "date", json_path = ".status.observedAt")
)]
pub struct ProviderReportSpec {}

/// What the agent says. The hub sanitises and caps it before use.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = rules::keeps("logHead"))]
pub struct ProviderReportStatus {
    /// When the agent looked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_at: Option<Time>,
    /// The agent's version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub agent_version: Option<String>,
    /// Versions of the unit protocol it speaks: `muster.unit/1`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(max = 32)))]
    #[schemars(transform = schema::set)]
    pub protocols: Vec<String>,
    /// Version of the member's Kubernetes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub kubernetes_version: Option<String>,
    /// What it lends, by class.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[schemars(transform = schema::map_by("class"))]
    pub devices: Vec<Devices>,
    /// What it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepts: Option<Accepts>,
    /// The last head of the hub's log that the agent has witnessed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_head: Option<LogHead>,
    /// Whether the agent could find out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
}

/// Devices of one class.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = rules::rule_at(
    ".idle",
    "self.idle <= self.workers",
    "must not exceed workers",
))]
pub struct Devices {
    /// Their class.
    #[schemars(schema_with = "schema::device_class")]
    pub class: String,
    /// Workers that fit in all.
    #[schemars(range(min = 0, max = 100_000))]
    pub workers: i32,
    /// Workers that fit now.
    #[schemars(range(min = 0, max = 100_000))]
    pub idle: i32,
    /// Workers of the hub's units that `idle` leaves out: begun, and not over yet. Absent where nodes are counted: they have room until the
    /// pods are there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100_000))]
    pub in_use: Option<i32>,
    /// Micro-credits per 10^9 operations of the model, as the provider's policy names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = schema::MAX_INTEGER))]
    pub price: Option<i64>,
    /// The price holds until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price_valid_until: Option<Time>,
}

/// What a provider runs.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Accepts {
    /// Digests of trainer images.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::digests")]
    pub images: Vec<String>,
    /// Arithmetics its devices have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[schemars(transform = schema::set)]
    pub arithmetic: Vec<Arithmetic>,
    /// Whether it runs a tenant's own containers.
    #[serde(default)]
    pub containers: Containers,
    /// Whether it replays what others trained.
    #[serde(default)]
    pub audits: Replays,
}

/// Whether a provider replays what others trained.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Replays {
    /// Whatever it is asked to, as far as the rest of its policy allows.
    #[default]
    Any,
    /// Nothing.
    Never,
}

/// Whether a provider runs a tenant's own containers.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Containers {
    /// It does not.
    #[default]
    Never,
    /// Those it has on its list.
    ByDigest,
}

/// A head of the hub's log.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = rules::rule_at(
    ".size",
    "self.size >= oldSelf.size",
    "must not decrease: a witness never goes back",
))]
pub struct LogHead {
    /// Entries.
    #[schemars(range(min = 0, max = schema::MAX_INTEGER))]
    pub size: i64,
    /// Root of the tree over them, base64 as in the log's checkpoint.
    #[schemars(length(max = 44), regex(pattern = r"^[A-Za-z0-9+/]{43}=$"))]
    pub root: String,
}
