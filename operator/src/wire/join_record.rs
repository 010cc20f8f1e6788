//! The two ConfigMaps through which a join goes (docs/spec/gateway.md section 2). Each has one writer: the token's record is
//! the admin's, the claim the gateway's; the hub reads both.
use jiff::Timestamp;
use muster_proof::Digest;
use serde::{Deserialize, Serialize};

/// Where they are.
pub const NAMESPACE: &str = "muster-agents";

/// Data of ConfigMap `token-<provider>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TokenRecord {
    /// SHA-256 of the secret.
    pub token_hash: Digest,
    /// Void from then on.
    pub expires: Timestamp,
    /// Who pins the key.
    pub accept: Accept,
}

/// Who pins the key that a join presents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Accept {
    /// The admin looks at it first.
    Manual,
    /// The admin said so when he made the token: whoever comes with it is the provider.
    Auto,
}

/// Data of ConfigMap `claim-<provider>-<16 hex>`: this key came first with the token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Claim {
    /// The token's.
    pub token_hash: Digest,
    /// The key's.
    pub fingerprint: Digest,
    /// The key, PEM.
    pub public_key: String,
    /// When.
    pub claimed_at: Timestamp,
}

/// Name of a provider's token record.
#[must_use]
pub fn token_name(provider: &str) -> String {
    format!("token-{provider}")
}

/// Name of the claim on a token: its being taken is what makes a token single-use.
#[must_use]
pub fn claim_name(provider: &str, token_hash: &Digest) -> String {
    format!("claim-{provider}-{}", &token_hash.to_hex()[..16])
}

/// Name of the Secret that a key's tokens are bound to.
#[must_use]
pub fn bound_secret_name(provider: &str, fingerprint: &Digest) -> String {
    format!("{provider}-{}", &fingerprint.to_hex()[..16])
}
