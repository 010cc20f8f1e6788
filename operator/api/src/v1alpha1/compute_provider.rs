//! ComputeProvider: someone who lends a cluster, and what the hub's admin lets them do.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{TrustTier, rules, schema};

/// What the admin lets a provider do.
#[derive(CustomResource, Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[kube(
    group = "muster.dev",
    version = "v1alpha1",
    kind = "ComputeProvider",
    status = "ComputeProviderStatus",
    derive = "PartialEq",
    shortname = "cp",
    category = "muster",
    doc = "Someone who lends a cluster. The spec is the hub admin's, the status the hub's. Its namespace on \
           the hub is muster-p-<name>.",
    validation = rules::name(
        "size(self.metadata.name) <= 40",
        "must have at most 40 characters: a namespace is named after it"
    ),
    validation = rules::name(
        "self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",
        "must be a DNS label, without dots: a namespace is named after it"
    ),
    validation = rules::keeps_status(),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].status"
    ),
    printcolumn(name = "Scheduling", type_ = "string", json_path = ".spec.scheduling"),
    printcolumn(name = "Region", type_ = "string", json_path = ".spec.region"),
    printcolumn(name = "Trust", type_ = "string", json_path = ".spec.trustTier"),
    printcolumn(name = "Idle", type_ = "string", json_path = ".status.capacity.text"),
    printcolumn(name = "Units", type_ = "integer", json_path = ".status.units"),
    printcolumn(name = "Reliability", type_ = "integer", json_path = ".status.score.reliabilityPermille"),
    printcolumn(name = "Faults", type_ = "integer", json_path = ".status.score.faults"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Owner", type_ = "string", json_path = ".spec.owner", priority = 1),
    printcolumn(name = "Agent", type_ = "string", json_path = ".status.agentVersion", priority = 1),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].reason",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
pub struct ComputeProviderSpec {
    /// Who stands behind it. An auditor and whom it audits never have one owner. Immutable.
    #[schemars(schema_with = "schema::dns_label")]
    #[schemars(transform = rules::immutable)]
    pub owner: String,
    /// Where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::dns_label")]
    pub region: Option<String>,
    /// How far it is trusted.
    #[serde(default)]
    pub trust_tier: TrustTier,
    /// Identity keys that are let in. To accept a provider is to copy status.presentedKey here; to rotate,
    /// list two for a while.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 3))]
    #[schemars(transform = schema::map_by("fingerprint"))]
    pub accepted_keys: Vec<AcceptedKey>,
    /// Whether it gets work. Revoked is final.
    #[serde(default)]
    #[schemars(transform = rules::rule(
        "oldSelf != 'Revoked' || self == 'Revoked'",
        "Revoked is final: delete the provider and join it again",
    ))]
    pub scheduling: Scheduling,
    /// From then on it is as if scheduling were Drained, and until then as if it were Cordoned: what runs there has so long to end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain_at: Option<Time>,
    /// Most that the hub sends, whatever the provider reports.
    #[serde(default)]
    pub quota: Quota,
    /// A provider that has not renewed its lease for so long is not Ready. A shorter value counts from the first renewal under it.
    #[serde(default = "lease_duration")]
    #[schemars(range(min = 10, max = 600))]
    pub lease_duration_seconds: i32,
}

const fn lease_duration() -> i32 {
    15
}

/// An identity key of a provider's agent.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct AcceptedKey {
    /// SHA-256 of the key's SubjectPublicKeyInfo in DER.
    #[schemars(schema_with = "schema::digest")]
    pub fingerprint: String,
    /// The key is not accepted after this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<Time>,
}

/// Whether a provider gets work.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Scheduling {
    /// Yes.
    #[default]
    Enabled,
    /// Nothing new; what runs goes on.
    Cordoned,
    /// Nothing new; what runs moves away at its next interval.
    Drained,
    /// Nothing, at once and for ever.
    Revoked,
}

/// Most that the hub sends to a provider.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Quota {
    /// WorkUnits at once.
    #[schemars(range(min = 0, max = 10_000))]
    pub units: i32,
    /// Workers at once, over all units.
    #[schemars(range(min = 0, max = 100_000))]
    pub workers: i32,
}

impl Default for Quota {
    fn default() -> Self {
        Self { units: 10, workers: 64 }
    }
}

/// What the hub says about a provider.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = rules::keeps("minEpoch"))]
pub struct ComputeProviderStatus {
    /// The generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = schema::MAX_INTEGER))]
    pub observed_generation: Option<i64>,
    /// The provider's namespace on the hub.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::dns_label")]
    pub namespace: Option<String>,
    /// Fingerprint of the key that the provider's join presented.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::digest")]
    pub presented_key: Option<String>,
    /// Version of its agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub agent_version: Option<String>,
    /// What it lends, as it reports, cut down to the quota.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<Capacity>,
    /// WorkUnits on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100_000))]
    pub units: Option<i32>,
    /// How it has done so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<Score>,
    /// Units below this epoch are void. Grows when the provider is revoked and when the hub is restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = schema::MAX_INTEGER))]
    #[schemars(transform = rules::never_decreases)]
    pub min_epoch: Option<i64>,
    /// Ready sums up; the others say what holds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
}

/// What a provider lends.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Capacity {
    /// In one line: `6/8 cpu`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 48))]
    pub text: Option<String>,
    /// Workers in all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100_000))]
    pub workers: Option<i32>,
    /// Workers without work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100_000))]
    pub idle: Option<i32>,
    /// Device classes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::device_classes")]
    pub devices: Vec<String>,
}

/// How a provider has done so far.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Score {
    /// Intervals delivered of 1000 begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub reliability_permille: Option<i32>,
    /// Intervals delivered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = schema::MAX_INTEGER))]
    pub intervals: Option<i64>,
    /// Faults found by audits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = schema::MAX_INTEGER))]
    pub faults: Option<i64>,
}
