//! One look at a provider, against an API server that answers as told and remembers what it was asked to change.
use std::sync::Mutex;

use axum::Router;
use axum::body::to_bytes;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use kube::Client;
use muster_proof::Digest;
use serde_json::{Value, json};

use super::*;
use crate::hub::ledger::Ledger;
use crate::hub::ledger::testing::{Local, To};
use crate::hub::signer::Signer;
use crate::store::Store;
use crate::wire::join_record::claim_name;

/// Answers to GET by path, and bodies of PATCH in order.
#[derive(Default)]
struct Server {
    there: Mutex<Vec<(&'static str, Value)>>,
    patches: Mutex<Vec<(String, Value)>>,
}

const PROVIDER: &str = "/apis/muster.dev/v1alpha1/computeproviders/east";
const RECORDS: &str = "/api/v1/namespaces/muster-agents/configmaps";
const HOME: &str = "/api/v1/namespaces/muster-p-east";

async fn answer(State(server): State<Arc<Server>>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    if request.method() == Method::GET {
        let there = server.there.lock().unwrap();
        if let Some((_, value)) = there.iter().find(|(known, _)| *known == path) {
            return axum::Json(value.clone()).into_response();
        }
        if path.ends_with('s') {
            let list = json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": []});
            return axum::Json(list).into_response();
        }
        let status =
            json!({"kind": "Status", "status": "Failure", "code": 404, "reason": "NotFound", "message": ""});
        return (StatusCode::NOT_FOUND, axum::Json(status)).into_response();
    }
    let body = to_bytes(request.into_body(), 1 << 20).await.unwrap();
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    server.patches.lock().unwrap().push((path, body));
    axum::Json(provider(json!({}), json!({}))).into_response()
}

fn provider(metadata: Value, spec: Value) -> Value {
    let mut object = json!({
        "apiVersion": "muster.dev/v1alpha1", "kind": "ComputeProvider",
        "metadata": {"name": "east", "uid": "u", "resourceVersion": "42", "finalizers": ["muster.dev/provider"]},
        "spec": {"owner": "acme"},
    });
    for (part, more) in [("metadata", metadata), ("spec", spec)] {
        object[part].as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    }
    object
}

struct Site {
    server: Arc<Server>,
    ctx: Arc<Context>,
    _dir: tempfile::TempDir,
}

async fn site(there: Vec<(&'static str, Value)>) -> Site {
    let server = Arc::new(Server { there: Mutex::new(there), patches: Mutex::default() });
    let client = Client::new(Router::new().fallback(answer).with_state(server.clone()), "default");
    let dir = tempfile::tempdir().unwrap();
    let (state, keys) = crate::hub::state::State::open(&dir.path().join("state")).unwrap();
    let state = Arc::new(state);
    let signer = Arc::new(Signer::new(keys.signer().clone(), state.clone()));
    let store = Arc::new(Store::open(dir.path().join("store").as_path()).await.unwrap());
    let image = format!("trainer@sha256:{}", "a".repeat(64)).parse().unwrap();
    let ledger = Ledger::new(To(Local::new(keys.signer())), state.clone(), signer.clone());
    let ctx = Arc::new(Context::new(client, store, (signer, state), ledger, image));
    Site { server, ctx, _dir: dir }
}

impl Site {
    async fn look(&self, provider: Value) -> Vec<(String, Value)> {
        let object = serde_json::from_value(provider).unwrap();
        reconcile(Arc::new(object), self.ctx.clone()).await.unwrap();
        std::mem::take(&mut *self.server.patches.lock().unwrap())
    }
}

/// A token that promises to accept, and a claim on it.
fn joined() -> Value {
    let map = |name: &str, data: Value| json!({"metadata": {"name": name}, "data": data});
    let hash = Digest::of(b"t");
    let token = json!({"tokenHash": hash, "expires": "2026-11-22T19:15:00Z", "accept": "Auto"});
    let claim = json!({"tokenHash": hash, "fingerprint": Digest::of(b"k"), "publicKey": "PEM",
        "claimedAt": "2026-11-22T19:01:00Z"});
    json!({"apiVersion": "v1", "kind": "ConfigMapList", "metadata": {},
        "items": [map("token-east", token), map(&claim_name("east", &hash), claim)]})
}

#[tokio::test]
async fn a_promised_key_is_pinned_before_anything_is_said_of_it() {
    let site = site(vec![(RECORDS, joined())]).await;
    let patches = site.look(provider(json!({}), json!({}))).await;
    let pinned = patches.iter().find(|(path, _)| path == PROVIDER).unwrap();
    let changes = pinned.1.as_array().unwrap();
    assert_eq!(changes[0], json!({"op": "test", "path": "/metadata/resourceVersion", "value": "42"}));
    assert_eq!(changes[1]["value"][0]["fingerprint"], json!(Digest::of(b"k")));
    assert!(!patches.iter().any(|(path, _)| path.ends_with("/status")), "{patches:?}");

    let key = json!({"acceptedKeys": [{"fingerprint": Digest::of(b"k")}]});
    let note = json!({"annotations": {"muster.dev/auto-accepted": Digest::of(b"t")}});
    let patches = site.look(provider(note.clone(), key)).await;
    let [(path, body)] = patches.as_slice() else { panic!("{patches:?}") };
    assert_eq!(*path, format!("{PROVIDER}/status"));
    assert_eq!(body["status"]["presentedKey"], json!(Digest::of(b"k")));
    let said = |kind: &str| {
        let all = body["status"]["conditions"].as_array().unwrap();
        all.iter().find(|c| c["type"] == kind).unwrap()["reason"].clone()
    };
    assert_eq!((said("Joined"), said("Accepted")), (json!("KeyPresented"), json!("KeyPinned")));

    let patches = site.look(provider(note, json!({}))).await;
    assert!(patches.iter().all(|(path, _)| path.ends_with("/status")), "what the admin took out stays out");
}

#[tokio::test]
async fn a_leaving_provider_is_let_go_only_after_its_namespace() {
    let home = |metadata: Value| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata});
    let site = site(vec![(HOME, home(json!({"name": "muster-p-east"})))]).await;
    let leaving = || provider(json!({"deletionTimestamp": "2026-11-22T19:00:00Z"}), json!({}));
    assert_eq!(site.look(leaving()).await, []);
    let going = home(json!({"name": "muster-p-east", "deletionTimestamp": "2026-11-22T19:00:01Z"}));
    *site.server.there.lock().unwrap() = vec![(HOME, going)];
    let patches = site.look(leaving()).await;
    assert_eq!(
        patches,
        [(PROVIDER.to_owned(), json!({"metadata": {"resourceVersion": "42", "finalizers": []}}))]
    );
}
