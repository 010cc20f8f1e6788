//! What an agent reads of others: its owner's policy, its pods' requests, the gateway's answers.
use jiff::{SignedDuration, Timestamp};
use muster::wire::gateway as wire;
use muster_core::policy::{self, ProviderPolicy};
use muster_trainer::protocol;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Target;

pub fn targets() -> Vec<Target> {
    vec![
        Target { name: "provider-policy", run: policy, seeds: policy_seeds },
        Target { name: "relay-body", run: bodies, seeds: body_seeds },
        Target { name: "gateway-answer", run: answers, seeds: answer_seeds },
    ]
}

/// A policy that is accepted has bounded offers and an answer at any time.
fn policy(data: &[u8]) {
    let Ok(policy) = ProviderPolicy::parse(&String::from_utf8_lossy(data)) else { return };
    assert!(!policy.images().is_empty() && policy.workers() <= i64::from(policy::MAX_WORKERS));
    assert!(policy.images().iter().all(|image| image.contains("@sha256:")));
    let week = (0..7 * 24)
        .step_by(11)
        .filter_map(|hour| Timestamp::UNIX_EPOCH.checked_add(SignedDuration::from_hours(hour)).ok());
    for now in [Timestamp::MIN, Timestamp::MAX].into_iter().chain(week) {
        assert!(!policy.is_stopped() || policy.closed(now).is_some());
        let _ = policy.overrun(Timestamp::UNIX_EPOCH, now);
    }
}

/// Every body that the relay takes from a pod.
fn bodies(data: &[u8]) {
    same::<protocol::Join>(data);
    same::<protocol::CheckpointNotice>(data);
    same::<protocol::Progress>(data);
}

/// Every answer that an agent takes from its gateway.
fn answers(data: &[u8]) {
    same::<wire::Refused>(data);
    same::<wire::JoinAnswer>(data);
    same::<wire::Challenge>(data);
    same::<wire::TokensAnswer>(data);
    same::<wire::HeartbeatAnswer>(data);
    same::<wire::ProviderAnswer>(data);
    same::<muster::wire::log::Logged>(data);
    same::<muster::wire::log::LogEntry>(data);
}

/// What is read is written back the same.
fn same<T: Serialize + DeserializeOwned>(data: &[u8]) {
    if let Ok(value) = serde_json::from_slice::<T>(data) {
        let json = serde_json::to_vec(&value).unwrap_or_default();
        let again = serde_json::from_slice::<T>(&json).ok().and_then(|value| serde_json::to_vec(&value).ok());
        assert_eq!(again, Some(json));
    }
}

fn policy_seeds() -> Vec<Vec<u8>> {
    let image = format!("muster-trainer@{}", muster_proof::Digest::of(b"x"));
    [
        format!("images: ['{image}']\noffer: {{workers: 8}}\n"),
        format!(
            "images: ['{image}', 'other@{}']\nmaxRuntimeSeconds: 86400\noffer:\n  workers: 8\n  calendar:\n  - {{days: [Mon, Tue], \
             from: \"18:00\", to: \"08:00\", timezone: \"+01:00\"}}\n  - {{days: [Sun], from: \"00:00\", to: \"24:00\"}}\nstop: true\n",
            muster_proof::Digest::of(b"y")
        ),
        "images: &a [*a]\noffer: {workers: 1}\n".to_owned(),
    ]
    .map(String::into_bytes)
    .to_vec()
}

fn body_seeds() -> Vec<Vec<u8>> {
    let digest = muster_proof::Digest::of(b"x");
    [
        r#"{"address":"10.244.0.7:4242"}"#.to_owned(),
        format!(
            r#"{{"step":20,"manifest":"{digest}","stateRoot":"{digest}","commit":{{"payload":"e30=","payloadType":"x","signatures":[{{"keyid":"{digest}","sig":"AAAA"}}]}},"model":{{"payload":"e30=","payloadType":"x","signatures":[{{"keyid":"{digest}","sig":"AAAA"}}]}},"records":[{{"gradNorm":"3fc00000","learningRate":"3dcccccd","loss":"40000000","step":20}}]}}"#
        ),
        r#"{"step":20,"loss":"1.25","tokensPerSecond":1000}"#.to_owned(),
    ]
    .map(String::into_bytes)
    .to_vec()
}

fn answer_seeds() -> Vec<Vec<u8>> {
    let digest = muster_proof::Digest::of(b"x");
    [
        r#"{"reason":"Revoked","message":"no"}"#.to_owned(),
        format!(
            r#"{{"provider":"east","fingerprint":"{digest}","accepted":true,"hub":{{"incarnation":1,"keys":[]}}}}"#
        ),
        r#"{"nonce":"AAAA"}"#.to_owned(),
        r#"{"provider":"east","owner":"acme","log":"hub.example/log+d3e5df27+AW56HN0psLeP0Tr0xVmP7/TvKpcWbjym8uT7/M2AUFvx"}"#
            .to_owned(),
        r#"{"provider":"east","apiToken":"a","gatewayToken":"b","expiresInSeconds":3600}"#.to_owned(),
        r#"{"incarnation":1,"minEpoch":1,"keySerial":1,"logSize":2}"#.to_owned(),
        format!(r#"{{"index":1,"recordId":"{digest}"}}"#),
        r#"{"index":1,"envelope":{"payload":"e30=","payloadType":"t","signatures":[]}}"#.to_owned(),
    ]
    .map(String::into_bytes)
    .to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seeds_are_accepted() {
        for seed in &policy_seeds()[..2] {
            ProviderPolicy::parse(std::str::from_utf8(seed).unwrap()).unwrap();
        }
        serde_json::from_slice::<protocol::CheckpointNotice>(&body_seeds()[1]).unwrap();
        serde_json::from_slice::<protocol::Progress>(&body_seeds()[2]).unwrap();
        serde_json::from_slice::<wire::JoinAnswer>(&answer_seeds()[1]).unwrap();
    }
}
