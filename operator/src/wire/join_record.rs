//! The two ConfigMaps through which a join goes (docs/spec/gateway.md section 2). Each has one writer: the token's record is
//! the admin's, the claim the gateway's; the hub reads both.
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use muster_proof::Digest;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::runtime::sanitise::line;

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

/// A record out of a ConfigMap's data, whose values are all strings.
///
/// # Errors
/// Why it is none, fit to be logged: of a token's record that may quote its hash, which is no secret.
pub fn read<T: DeserializeOwned>(map: &ConfigMap) -> Result<T, String> {
    let data = serde_json::to_value(map.data.as_ref()).map_err(|error| error.to_string())?;
    serde_json::from_value(data).map_err(|error| line(&error.to_string(), 200))
}

/// Whether a record is of the ComputeProvider with this uid, and not of an earlier one of the same name. A record that nobody
/// owns was written by hand, and is.
#[must_use]
pub fn is_of(map: &ConfigMap, provider_uid: &str) -> bool {
    let owners = map.metadata.owner_references.iter().flatten();
    owners.filter(|owner| owner.kind == "ComputeProvider").all(|owner| owner.uid == provider_uid)
}

/// Whether the text is a ComputeProvider's name, as the API wants it: a DNS label of at most 40 characters. Nothing else may
/// become a part of a path or of another name.
#[must_use]
pub fn is_provider_name(name: &str) -> bool {
    name.len() <= 40 && crate::store::is_dns_label(name)
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn names_that_reach_a_path_are_names() {
        for good in ["east", "a", "a-1", &"a".repeat(40)] {
            assert!(is_provider_name(good), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a/b", "..", "a%2f", "ä", &"a".repeat(41)] {
            assert!(!is_provider_name(bad), "{bad}");
        }
    }

    #[test]
    fn a_record_of_another_shape_is_none() {
        let map = |data: Value| -> ConfigMap { serde_json::from_value(json!({"data": data})).unwrap() };
        let hash = Digest::of(b"x");
        let good = json!({"tokenHash": hash, "expires": "2026-01-01T00:00:00Z", "accept": "Auto"});
        assert_eq!(read::<TokenRecord>(&map(good)).unwrap().token_hash, hash);
        for bad in [
            Value::Null,
            json!({}),
            json!({"tokenHash": hash, "expires": "soon", "accept": "Auto"}),
            json!({"tokenHash": hash, "expires": "2026-01-01T00:00:00Z", "accept": "auto"}),
        ] {
            assert!(read::<TokenRecord>(&map(bad)).is_err());
        }
    }
}
