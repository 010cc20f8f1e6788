//! What arrives at the gateway from anybody on the network, the ConfigMaps that it reads, and the join token that a provider
//! pastes. Whole requests are in `requests`.
use std::collections::BTreeMap;

use axum::http::{HeaderMap, HeaderValue, Method, Uri, header};
use k8s_openapi::api::core::v1::ConfigMap;
use muster::gateway::reviews::{Audience, bearer};
use muster::gateway::urls::{Claims, Holder, Urls};
use muster::gateway::{foreign, passthrough};
use muster::runtime::sanitise::Terminal;
use muster::wire::gateway as wire;
use muster::wire::join_record::{self, Claim, TokenRecord};
use muster::wire::join_token::{JoinToken, secret_hash};
use muster::wire::{streams, urls};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Target;

pub fn targets() -> Vec<Target> {
    vec![
        Target { name: "gateway-body", run: bodies, seeds: body_seeds },
        Target { name: "gateway-passthrough", run: pass, seeds: path_seeds },
        Target { name: "gateway-bearer", run: authorization, seeds: bearer_seeds },
        Target { name: "gateway-certificate", run: certificate, seeds: certificate_seeds },
        Target { name: "gateway-challenge", run: challenge, seeds: challenge_seeds },
        Target { name: "gateway-records", run: records, seeds: record_seeds },
        Target { name: "join-token", run: token, seeds: token_seeds },
        Target { name: "object-url", run: object_url, seeds: object_url_seeds },
        Target { name: "log-text", run: log_text, seeds: log_seeds },
    ]
}

/// Every body that some endpoint takes: what is read is written back the same.
fn bodies(data: &[u8]) {
    body::<wire::JoinRequest>(data);
    body::<wire::TokensRequest>(data);
    body::<wire::Heartbeat>(data);
    body::<wire::ManifestRef>(data);
    body::<wire::CheckpointCommit>(data);
    body::<wire::UnitFailure>(data);
    body::<wire::HubPublic>(data);
    body::<streams::StreamRequest>(data);
    body::<streams::StreamRefusal>(data);
    body::<streams::KeptLogs>(data);
    body::<urls::UnitUrlRequest>(data);
    body::<urls::JobUrlRequest>(data);
    body::<urls::UrlAnswer>(data);
    body::<urls::PublishRequest>(data);
    body::<wire::RecoverRequest>(data);
    body::<wire::RecoverAnswer>(data);
}

fn body<T: Serialize + DeserializeOwned>(data: &[u8]) {
    if let Ok(value) = serde_json::from_slice::<T>(data) {
        let json = serde_json::to_vec(&value).unwrap_or_default();
        assert!(serde_json::from_slice::<T>(&json).is_ok());
    }
}

/// Whatever is asked for, what reaches the API server lies in the caller's own namespace.
fn pass(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (method, path) = text.split_once(' ').unwrap_or(("GET", &text));
    let (Ok(method), Ok(uri)) = (Method::from_bytes(method.as_bytes()), path.parse::<Uri>()) else { return };
    if let Ok(target) = passthrough::target(&method, &uri, &HeaderMap::new(), "east") {
        let path = target.path();
        let own = ["/apis/muster.dev/v1alpha1", "/apis/coordination.k8s.io/v1"]
            .iter()
            .any(|api| path.starts_with(&format!("{api}/namespaces/muster-p-east/")));
        assert!(own && !path.contains("..") && !path.contains('%') && !path.contains("//"), "{path}");
        assert!(matches!(method, Method::GET | Method::PATCH | Method::PUT));
    }
}

/// A token is one word of bounded length, and comes once.
fn authorization(data: &[u8]) {
    let mut headers = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n') {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append(header::AUTHORIZATION, value);
        }
    }
    for audience in [Audience::Gateway, Audience::Api] {
        if let Ok(token) = bearer(&headers, audience) {
            assert_eq!(headers.len(), 1);
            assert!(!token.is_empty() && token.len() <= 16 * 1024 && !token.contains(' '));
        }
    }
}

/// Whatever else stands in it, a certificate has one key and that key one fingerprint.
fn certificate(data: &[u8]) {
    assert_eq!(foreign::certificate(data), foreign::certificate(data));
}

fn challenge(data: &[u8]) {
    let (own, others) = (muster_proof::Digest::of(b"own"), muster_proof::Digest::of(b"other"));
    let text = String::from_utf8_lossy(data);
    let (good, issued) = foreign::challenge(&text, &own);
    // Only what was issued for this key comes through, in one spelling, and for no other key.
    if good.is_some() {
        assert!(foreign::challenge(&text, &others).0.is_none());
        assert_eq!(text.len(), issued.len());
    }
}

/// The ConfigMaps of the admin, the hub and the gateway itself: whoever may write one of them is not the gateway.
fn records(data: &[u8]) {
    let Ok(data) = serde_json::from_slice::<BTreeMap<String, String>>(data) else { return };
    if let Some((public, serial)) = foreign::hub_public(&data) {
        assert!(public.incarnation >= 1 && serial >= 1 && !public.keys.is_empty());
    }
    let map = ConfigMap { data: Some(data), ..ConfigMap::default() };
    for error in [
        join_record::read::<TokenRecord>(&map).err(),
        join_record::read::<Claim>(&map).err(),
        join_record::read::<wire::GatewayPublic>(&map).err(),
    ] {
        assert!(error.is_none_or(|error| error.chars().count() <= 201 && !error.contains('\n')));
    }
    let provider = map.data.as_ref().and_then(|data| data.get("provider")).map_or("", String::as_str);
    if join_record::is_provider_name(provider) {
        assert!(provider.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') && provider.len() <= 40);
    }
}

fn token(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let _ = secret_hash(&text);
    match JoinToken::parse(&text) {
        Ok(token) => assert_eq!(JoinToken::parse(&token.encode()).ok(), Some(token)),
        Err(error) => assert!(error.to_string().len() < 300),
    }
}

fn urls_of_a_gateway() -> Urls {
    Urls::new([7; 64], "https://10.0.0.1:8443")
}

/// Only what this gateway has made is believed, in the one spelling that it has.
fn object_url(data: &[u8]) {
    let (urls, text) = (urls_of_a_gateway(), String::from_utf8_lossy(data));
    if let Ok(claims) = urls.claims(&text, jiff::Timestamp::UNIX_EPOCH) {
        assert_eq!(urls.token(&claims), text);
        assert!(claims.until > 0);
    }
}

fn object_url_seeds() -> Vec<Vec<u8>> {
    let digest = muster_proof::Digest::of(b"x");
    let claims = |method, size, holder| Claims { method, digest, size, until: 1, holder };
    let unit = Holder::Unit { key: digest, unit: "4f2a9c1b-0-1".to_owned() };
    let user = Holder::User { name: "ann".to_owned() };
    let all = [claims(urls::UrlMethod::Put, Some(1), unit), claims(urls::UrlMethod::Get, None, user)];
    all.iter().map(|claims| urls_of_a_gateway().token(claims).into_bytes()).collect()
}

/// Whatever a worker writes, and however it is cut, no terminal is controlled by it, and the pieces do not matter.
fn log_text(data: &[u8]) {
    let mut whole = Terminal::default();
    let want = whole.push(data) + &whole.end();
    assert!(want.chars().all(|c| c == '\n' || c == '\t' || !c.is_control()));
    let mut pieces = Terminal::default();
    let mut got: String = data.chunks(3).map(|piece| pieces.push(piece)).collect();
    got += &pieces.end();
    assert_eq!(got, want);
}

fn log_seeds() -> Vec<Vec<u8>> {
    vec![
        "{\"event\":\"step\"}\n\u{1b}[31mäö€😀\u{202e}\t\r\n".as_bytes().to_vec(),
        vec![0xe2, 0x82, 0x80, 0xff, 0xf0],
    ]
}

fn body_seeds() -> Vec<Vec<u8>> {
    let digest = muster_proof::Digest::of(b"x");
    [
        r#"{"provider":"east","secret":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA","agentVersion":"0.1.0"}"#.to_owned(),
        r#"{"nonce":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA","signature":"MEUCIQ=="}"#.to_owned(),
        r#"{"agentVersion":"0.1.0"}"#.to_owned(),
        format!(r#"{{"manifest":"{digest}"}}"#),
        r#"{"incarnation":1,"keys":[]}"#.to_owned(),
        r#"{"id":"a1","unit":"4f2a9c1b-0-1","worker":0,"follow":true,"tailLines":10,"limitBytes":1}"#.to_owned(),
        r#"{"reason":"LogsRefused","message":"no"}"#.to_owned(),
        r#"{"logs":[{"unit":"4f2a9c1b-0-1","attempt":1,"worker":0}]}"#.to_owned(),
        format!(r#"{{"digest":"{digest}","method":"PUT","size":7}}"#),
        r#"{"url":"https://b/x","method":"GET","expiresInSeconds":600,"direct":true}"#.to_owned(),
        r#"{"staging":"0123456789abcdef0123456789abcdef"}"#.to_owned(),
        r#"{"incarnation":2,"units":[{"payloadType":"t","payload":"e30=","signatures":[]}],"complete":true}"#.to_owned(),
        r#"{"answers":["Wait","Stop",{"as":"4f2a9c1b-0-1001"}]}"#.to_owned(),
    ]
    .map(String::into_bytes)
    .to_vec()
}

fn path_seeds() -> Vec<Vec<u8>> {
    const EAST: &str = "/k8s/apis/muster.dev/v1alpha1/namespaces/muster-p-east";
    [
        format!("GET {EAST}/workunits?watch=true&resourceVersion=1"),
        format!("PATCH {EAST}/workunits/4f2a9c1b-0-1/status"),
        format!("GET {EAST}/providerreports/report"),
        "PUT /k8s/apis/coordination.k8s.io/v1/namespaces/muster-p-east/leases/agent".to_owned(),
        "GET /k8s/api/v1/namespaces/muster-p-west/secrets/%2e%2e//x".to_owned(),
    ]
    .map(String::into_bytes)
    .to_vec()
}

fn token_seeds() -> Vec<Vec<u8>> {
    let pin = muster_proof::Digest::of(b"ca");
    vec![JoinToken::new("https://10.0.0.1:8443", pin, "east", &[7; 32]).encode().into_bytes()]
}

fn bearer_seeds() -> Vec<Vec<u8>> {
    ["Bearer abc.def.ghi", "bearer x", "Bearer a\nBearer b", "Basic YTpi"]
        .map(|text| text.as_bytes().to_vec())
        .to_vec()
}

fn certificate_seeds() -> Vec<Vec<u8>> {
    let made = || {
        let key = rcgen::KeyPair::generate().ok()?;
        let plain = rcgen::CertificateParams::new(vec!["agent".to_owned()]).ok()?.self_signed(&key).ok()?;
        let other = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).ok()?;
        let wrong = rcgen::CertificateParams::new(vec![]).ok()?.self_signed(&other).ok()?;
        Some(vec![plain.der().to_vec(), wrong.der().to_vec()])
    };
    made().unwrap_or_default()
}

fn challenge_seeds() -> Vec<Vec<u8>> {
    vec![foreign::challenge("", &muster_proof::Digest::of(b"own")).1.into_bytes(), b"AAAA".to_vec()]
}

fn record_seeds() -> Vec<Vec<u8>> {
    let digest = muster_proof::Digest::of(b"x");
    let chain = muster_proof::key::SigningKey::generate([7; 32])
        .ok()
        .and_then(|key| muster_core::hub_keys::sign(1, &[key.public()], &key).ok())
        .and_then(|set| serde_json::to_string(&[set]).ok())
        .unwrap_or_default();
    [
        serde_json::json!({"tokenHash": digest, "expires": "2026-11-22T19:15:00Z", "accept": "Auto"}),
        serde_json::json!({"tokenHash": digest, "fingerprint": digest, "publicKey": "-----BEGIN", "claimedAt": "2026-11-22T19:15:00Z"}),
        serde_json::json!({"incarnation": "1", "keys": chain}),
        serde_json::json!({"url": "https://10.0.0.1:8443", "ca": "-----BEGIN", "caSpki": digest, "provider": "east"}),
    ]
    .map(|value| value.to_string().into_bytes())
    .to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seeds_are_accepted() {
        assert!(foreign::certificate(&certificate_seeds()[0]).is_some());
        assert!(foreign::certificate(&certificate_seeds()[1]).is_none(), "not a P-256 key");
        let nonce = String::from_utf8(challenge_seeds().remove(0)).unwrap();
        assert!(foreign::challenge(&nonce, &muster_proof::Digest::of(b"own")).0.is_some());
        let data: BTreeMap<String, String> = serde_json::from_slice(&record_seeds()[2]).unwrap();
        assert!(foreign::hub_public(&data).is_some());
    }
}
