//! Bodies of the gateway's endpoints (docs/spec/gateway.md, sections 1 to 7).
use muster_numerics::spec::ModelSpec;
use muster_proof::Digest;
use muster_proof::dsse::Envelope;
use muster_proof::hash::Context;
use muster_proof::key::PublicKey;
use serde::{Deserialize, Serialize};

/// Audience of the tokens that only the gateway takes.
pub const GATEWAY_AUDIENCE: &str = "muster-gateway";
/// Path under which the hub's API server is reached.
pub const API_PREFIX: &str = "/k8s";
/// Domain of the signature over a challenge.
pub const TOKEN_REQUEST_CONTEXT: Context = Context::new("muster.token-request/1");
/// Namespace and name of the ConfigMap in which the gateway publishes [`GatewayPublic`].
pub const GATEWAY_PUBLIC: (&str, &str) = ("muster-system", "muster-gateway-public");
/// Namespace and name of the ConfigMap in which the hub publishes [`HubPublic`], its fields as JSON texts.
pub const HUB_PUBLIC: (&str, &str) = ("muster-system", "muster-hub-public");

/// Every answer that is no success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// A CamelCase word.
    pub reason: String,
    /// For people, with the remedy.
    pub message: String,
}

/// Where the gateway is and whom to believe there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GatewayPublic {
    /// `https://HOST:PORT`.
    pub url: String,
    /// PEM of the CA.
    pub ca: String,
    /// SHA-256 of its SPKI.
    pub ca_spki: Digest,
}

/// `GET /v1/hub`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HubPublic {
    /// Grows when the hub's database is restored.
    pub incarnation: i64,
    /// The chain of key sets, oldest first (`muster_core::hub_keys`).
    pub keys: Vec<Envelope>,
    /// The verifier key of the hub's log, C2SP signed-note. The gateway adds it to what the hub publishes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<String>,
}

/// `POST /v1/join`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JoinRequest {
    /// Which ComputeProvider.
    pub provider: String,
    /// The token's secret as it stands in the token, base64url.
    pub secret: String,
    /// For people.
    pub agent_version: String,
}

/// Its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JoinAnswer {
    /// Which ComputeProvider.
    pub provider: String,
    /// The caller's key as the gateway saw it: what the admin pins.
    pub fingerprint: Digest,
    /// Whether it is pinned already.
    pub accepted: bool,
    /// The hub's keys at this moment.
    pub hub: HubPublic,
}

/// Answer to `POST /v1/challenge`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Challenge {
    /// 32 bytes, base64url.
    pub nonce: String,
}

/// `POST /v1/tokens`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TokensRequest {
    /// As in the challenge.
    pub nonce: String,
    /// Over [`token_request_message`], DER in base64.
    pub signature: String,
}

/// Its answer.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TokensAnswer {
    /// Whose.
    pub provider: String,
    /// For the API server, through [`API_PREFIX`].
    pub api_token: String,
    /// For the gateway itself.
    pub gateway_token: String,
    /// From now.
    pub expires_in_seconds: u64,
}

impl std::fmt::Debug for TokensAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Never the tokens.
        f.debug_struct("TokensAnswer").field("provider", &self.provider).finish_non_exhaustive()
    }
}

/// What the identity key signs to get tokens.
#[must_use]
pub fn token_request_message(nonce: &[u8], spki: &[u8]) -> Digest {
    muster_proof::hash::h(TOKEN_REQUEST_CONTEXT, &[nonce, spki])
}

/// `POST /v1/heartbeat`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Heartbeat {
    /// For people.
    pub agent_version: String,
}

/// Its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HeartbeatAnswer {
    /// Envelopes of a lower one are void.
    pub incarnation: i64,
    /// Envelopes of a lower epoch are void.
    pub min_epoch: i64,
    /// Serial of the hub's newest key set.
    pub key_serial: u64,
    /// Entries under the log's newest head.
    #[serde(default)]
    pub log_size: u64,
}

/// Most units of one [`RecoverRequest`]: an agent that has more sends several.
pub const MAX_OFFERS: usize = 16;

/// `POST /v1/recover`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RecoverRequest {
    /// The hub's, as the agent has heard it.
    pub incarnation: i64,
    /// Envelopes of lower incarnations whose units the agent holds.
    pub units: Vec<Envelope>,
    /// With these the agent has offered all that it holds.
    pub complete: bool,
}

/// Its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RecoverAnswer {
    /// In the order of the request.
    pub answers: Vec<Recovered>,
}

/// What becomes of a unit of an earlier incarnation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Recovered {
    /// The hub has not said yet: ask again.
    Wait,
    /// It must stop.
    Stop,
    /// The unit of this name continues it.
    #[serde(rename = "as")]
    As(String),
}

/// `POST /v1/units/{unit}/checkpoints/{step}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CheckpointCommit {
    /// The manifest's blob.
    pub manifest: Digest,
    /// The commit record, signed by the bound key.
    pub commit: Envelope,
    /// The statement of `model.sig` about the manifest's files, signed by the same key.
    pub model: Envelope,
    /// That key.
    pub key: PublicKey,
}

/// `POST /v1/units/{unit}/failures/{step}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UnitFailure {
    /// The failure record, signed by the bound key.
    pub failure: Envelope,
}

/// `GET /v1/namespaces/{ns}/jobs/{job}/checkpoints/{step}/signature`: what `model.sig` and `commit.tlog-proof` are made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CheckpointSignature {
    /// The verifier key of the log.
    pub log: String,
    /// Where the log has the commit.
    pub index: u64,
    /// The commit.
    pub commit: Envelope,
    /// The statement about the checkpoint's files, signed by the key that signed the commit; absent if none was left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<Envelope>,
}

/// `GET /v1/audits`: what audits wait for from the caller, and the log would take now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AuditsAnswer {
    /// Record ids of commits that are to be opened.
    pub openings: Vec<Digest>,
    /// Record ids of assignments whose seals are to be opened.
    pub answers: Vec<Digest>,
}

/// `GET /v1/provider`: what an agent must know for the record of its key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProviderAnswer {
    /// Which ComputeProvider the caller is.
    pub provider: String,
    /// Who stands behind it.
    pub owner: String,
    /// The verifier key of the hub's log.
    pub log: String,
}

/// `PUT /v1/namespaces/{ns}/datasets/{name}` and `.../models/{name}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ManifestRef {
    /// The manifest's blob.
    pub manifest: Digest,
}

/// `GET /v1/namespaces/{ns}/datasets`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Datasets {
    /// By name.
    pub datasets: Vec<Dataset>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Dataset {
    /// What jobs call it.
    pub name: String,
    /// The manifest's blob.
    pub manifest: Digest,
    /// How long it is.
    pub tokens: u64,
    /// How many different tokens there may be.
    pub vocabulary: u64,
}

/// `GET /v1/namespaces/{ns}/models`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Models {
    /// By name.
    pub models: Vec<Model>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Model {
    /// What jobs call it.
    pub name: String,
    /// The manifest's blob.
    pub manifest: Digest,
    /// Its shape.
    pub model: ModelSpec,
    /// Of all its files.
    pub bytes: u64,
    /// Of its weights as state 0.
    pub state_root: Digest,
}

/// `GET /v1/namespaces/{ns}/jobs/{job}/checkpoints`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Checkpoints {
    /// By step, ascending.
    pub checkpoints: Vec<Checkpoint>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Checkpoint {
    /// The state after this step.
    pub step: u64,
    /// The manifest's blob.
    pub manifest: Digest,
    /// What it is worth.
    pub state_root: Digest,
}
