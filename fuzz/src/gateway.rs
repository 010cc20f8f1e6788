//! What arrives at the gateway from anybody on the network, and the join token that a provider pastes.
use axum::http::{HeaderMap, Method, Uri};
use muster::gateway::passthrough;
use muster::wire::gateway as wire;
use muster::wire::join_token::{JoinToken, secret_hash};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Target;

pub fn targets() -> Vec<Target> {
    vec![
        Target { name: "gateway-body", run: bodies, seeds: body_seeds },
        Target { name: "gateway-passthrough", run: pass, seeds: path_seeds },
        Target { name: "join-token", run: token, seeds: token_seeds },
    ]
}

/// Every body that some endpoint takes: what is read is written back the same.
fn bodies(data: &[u8]) {
    body::<wire::JoinRequest>(data);
    body::<wire::TokensRequest>(data);
    body::<wire::Heartbeat>(data);
    body::<wire::ManifestRef>(data);
    body::<wire::HubPublic>(data);
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

fn token(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let _ = secret_hash(&text);
    match JoinToken::parse(&text) {
        Ok(token) => assert_eq!(JoinToken::parse(&token.encode()).ok(), Some(token)),
        Err(error) => assert!(error.to_string().len() < 300),
    }
}

fn body_seeds() -> Vec<Vec<u8>> {
    let digest = muster_proof::Digest::of(b"x");
    [
        r#"{"provider":"east","secret":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA","agentVersion":"0.1.0"}"#.to_owned(),
        r#"{"nonce":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA","signature":"MEUCIQ=="}"#.to_owned(),
        r#"{"agentVersion":"0.1.0"}"#.to_owned(),
        format!(r#"{{"manifest":"{digest}"}}"#),
        r#"{"incarnation":1,"keys":[]}"#.to_owned(),
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
