//! The records of a provider's join: what an admin and the gateway have written into muster-agents, as facts for
//! `muster_core::provider::join`, and the one write that may follow.
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, ResourceExt};
use muster_api::v1alpha1::ComputeProvider;
use muster_core::provider::join::{self as core, Admission, Claim, Facts, Pin, Pinned, Token, Was};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::status::scheduling;
use crate::hub::apply;
use crate::hub::context::Context;
use crate::hub::error::Error;
use crate::hub::events::News;
use crate::hub::names::AUTO_ACCEPTED;
use crate::runtime::mirror::Age;
use crate::wire::join_record::{self as wire, TokenRecord};

/// What the namespace has of one provider.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Records {
    token: Option<Token>,
    claims: Vec<Claim>,
}

/// Reads them.
pub async fn records(ctx: &Context, provider: &ComputeProvider, age: Age) -> Result<Records, Error> {
    let (joins, mine) = (&ctx.mirrors.joins, provider.name_any());
    let maps = match age {
        Age::Told => joins.of(&[&mine]).await?,
        Age::Now => joins.list_of(&[&mine]).await?,
    };
    Ok(of(maps.iter().map(Arc::as_ref), provider))
}

/// Sorts them out. What belongs to an earlier provider of the same name, has a name of its own or does not parse counts
/// for nothing.
fn of<'a>(maps: impl IntoIterator<Item = &'a ConfigMap>, provider: &ComputeProvider) -> Records {
    let name = provider.name_any();
    let uid = provider.metadata.uid.as_deref().unwrap_or_default();
    let mut records = Records::default();
    for map in maps.into_iter().filter(|map| wire::is_of(map, uid)) {
        let found = map.name_any();
        if found == wire::token_name(&name) {
            records.token = read::<TokenRecord>(map).map(token);
        } else if let Some(claim) = found.strip_prefix("claim-").and_then(|_| read::<wire::Claim>(map)) {
            // The name is what makes a token single-use, so it must be the right one.
            if found == wire::claim_name(&name, &claim.token_hash) {
                records.claims.push(self::claim(&claim));
            }
        }
    }
    records
}

fn read<T: DeserializeOwned>(map: &ConfigMap) -> Option<T> {
    wire::read(map)
        .inspect_err(|error| {
            tracing::warn!(configmap = map.name_any(), %error, "muster-agents: a join's record does not parse");
        })
        .ok()
}

fn token(record: TokenRecord) -> Token {
    let accept = match record.accept {
        wire::Accept::Manual => core::Accept::Manual,
        wire::Accept::Auto => core::Accept::Auto,
    };
    Token { hash: record.token_hash, expires: record.expires, accept }
}

fn claim(claim: &wire::Claim) -> Claim {
    Claim { token: claim.token_hash, key: claim.fingerprint, at: claim.claimed_at }
}

/// What follows for the provider.
pub fn admission(provider: &ComputeProvider, records: &Records, now: Timestamp) -> Admission {
    let status = provider.status.clone().unwrap_or_default();
    let accepted = status.conditions.iter().find(|c| c.type_ == "Accepted");
    let was = accepted.is_some_and(|c| ["KeyPinned", "KeyNotPinned", "KeyExpired"].contains(&&*c.reason));
    let presented = status.presented_key.and_then(|text| text.parse().ok());
    let keys = provider.spec.accepted_keys.iter().filter_map(|key| {
        Some(Pinned { key: key.fingerprint.parse().ok()?, until: key.not_after.as_ref().map(|time| time.0) })
    });
    core::admission(&Facts {
        name: &provider.name_any(),
        scheduling: scheduling(provider, now),
        token: records.token.clone(),
        claims: records.claims.clone(),
        keys: keys.collect(),
        before: core::Before {
            presented,
            accepted: if was && presented.is_some() { Was::Accepted } else { Was::Never },
            pinned_for: provider.annotations().get(AUTO_ACCEPTED).and_then(|text| text.parse().ok()),
        },
        now,
    })
}

/// Keeps the admin's promise: adds the key and notes for which token, in one write, if nobody changed the provider since.
pub async fn pin(
    ctx: &Context,
    api: &Api<ComputeProvider>,
    provider: &ComputeProvider,
    pin: &Pin,
) -> Result<(), Error> {
    apply::json_patch(api, "computeprovider", provider, changes(provider, pin)).await?;
    if let Some(key) = pin.key {
        let name = provider.name_any();
        tracing::info!(provider = name, %key, "accepted, as its join token promised");
        let message = format!("key {key} was accepted: its join token was made with --auto-accept");
        let object = kube::Resource::object_ref(provider, &());
        ctx.recorder.tell(&object, &News::normal("KeyPinned", message), ctx.now());
    }
    Ok(())
}

fn changes(provider: &ComputeProvider, pin: &Pin) -> Vec<Value> {
    let mut changes = Vec::new();
    if let Some(key) = pin.key {
        let entry = json!({"fingerprint": key});
        changes.push(if provider.spec.accepted_keys.is_empty() {
            json!({"op": "add", "path": "/spec/acceptedKeys", "value": [entry]})
        } else {
            json!({"op": "add", "path": "/spec/acceptedKeys/-", "value": entry})
        });
    }
    let note = pin.token.to_string();
    // In a JSON pointer a slash is ~1.
    let path = format!("/metadata/annotations/{}", AUTO_ACCEPTED.replace('/', "~1"));
    changes.push(if provider.metadata.annotations.is_none() {
        json!({"op": "add", "path": "/metadata/annotations", "value": {AUTO_ACCEPTED: note}})
    } else {
        json!({"op": "add", "path": path, "value": note})
    });
    changes
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_proof::Digest;

    fn provider(spec: Value, annotations: Value) -> ComputeProvider {
        let mut object = json!({
            "apiVersion": "muster.dev/v1alpha1", "kind": "ComputeProvider",
            "metadata": {"name": "east", "uid": "u-2", "annotations": annotations},
            "spec": {"owner": "acme"},
        });
        object["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        serde_json::from_value(object).unwrap()
    }

    fn map(name: &str, owner: Option<&str>, data: Value) -> ConfigMap {
        let owner = owner.map(|uid| {
            json!([{"apiVersion": "muster.dev/v1alpha1", "kind": "ComputeProvider", "name": "east", "uid": uid}])
        });
        serde_json::from_value(json!({"metadata": {"name": name, "ownerReferences": owner}, "data": data}))
            .unwrap()
    }

    fn token_map(owner: Option<&str>, accept: &str) -> ConfigMap {
        let data =
            json!({"tokenHash": Digest::of(b"t"), "expires": "2026-11-22T19:15:00Z", "accept": accept});
        map("token-east", owner, data)
    }

    fn claim_map(name: &str, owner: &str) -> ConfigMap {
        let data = json!({
            "tokenHash": Digest::of(b"t"), "fingerprint": Digest::of(b"k"), "publicKey": "-----BEGIN",
            "claimedAt": "2026-11-22T19:01:00Z",
        });
        map(name, Some(owner), data)
    }

    fn claim_name() -> String {
        wire::claim_name("east", &Digest::of(b"t"))
    }

    #[test]
    fn records_become_facts_and_the_rest_counts_for_nothing() {
        let east = provider(json!({}), Value::Null);
        let good = of(&[token_map(None, "Auto"), claim_map(&claim_name(), "u-2")], &east);
        assert_eq!(good.token.as_ref().map(|token| token.accept), Some(core::Accept::Auto));
        assert_eq!(good.claims.iter().map(|claim| claim.key).collect::<Vec<_>>(), [Digest::of(b"k")]);

        for (why, map) in [
            ("an earlier provider's", token_map(Some("u-1"), "Auto")),
            ("an earlier provider's", claim_map(&claim_name(), "u-1")),
            ("another name", claim_map("claim-east-0000000000000000", "u-2")),
            ("no word for who pins", token_map(None, "Perhaps")),
            (
                "another provider's",
                map("token-west", None, token_map(None, "Auto").data.map_or(Value::Null, |d| json!(d))),
            ),
            ("empty", map("token-east", None, Value::Null)),
            (
                "more than is known",
                map(
                    "token-east",
                    None,
                    json!({"tokenHash": Digest::of(b"t"),
                "expires": "2026-11-22T19:15:00Z", "accept": "Auto", "secret": "x"}),
                ),
            ),
        ] {
            assert_eq!(of(&[map], &east), Records::default(), "{why}");
        }
    }

    #[test]
    fn a_promise_is_kept_in_one_write_and_noted() {
        let records = |provider: &ComputeProvider| {
            of(&[token_map(Some("u-2"), "Auto"), claim_map(&claim_name(), "u-2")], provider)
        };
        let now = "2026-11-22T19:02:00Z".parse().unwrap();
        let hash = Digest::of(b"t").to_string();
        let key = json!({"fingerprint": Digest::of(b"k")});

        let bare = provider(json!({}), Value::Null);
        let promised = admission(&bare, &records(&bare), now).pin.unwrap();
        assert_eq!(
            changes(&bare, &promised),
            [
                json!({"op": "add", "path": "/spec/acceptedKeys", "value": [key]}),
                json!({"op": "add", "path": "/metadata/annotations", "value": {"muster.dev/auto-accepted": hash}}),
            ]
        );

        let other = json!({"acceptedKeys": [{"fingerprint": Digest::of(b"other")}]});
        let second = provider(other.clone(), json!({"a": "b"}));
        let promised = admission(&second, &records(&second), now).pin.unwrap();
        assert_eq!(
            changes(&second, &promised),
            [
                json!({"op": "add", "path": "/spec/acceptedKeys/-", "value": key}),
                json!({"op": "add", "path": "/metadata/annotations/muster.dev~1auto-accepted", "value": hash}),
            ]
        );

        let noted = provider(other, json!({"muster.dev/auto-accepted": hash}));
        assert_eq!(admission(&noted, &records(&noted), now).pin, None, "once");
        let revoked = provider(json!({"scheduling": "Revoked"}), Value::Null);
        assert_eq!(admission(&revoked, &records(&revoked), now).pin, None);
    }
}
