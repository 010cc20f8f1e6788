//! Against an API server that answers as told and remembers what it was asked.
use std::sync::Mutex;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::*;

/// What exists, by path; and what was asked to be changed, in order.
#[derive(Default)]
struct Server {
    there: Mutex<Vec<&'static str>>,
    asked: Mutex<Vec<String>>,
}

const NAMESPACE: &str = "/api/v1/namespaces/muster-p-east";
const ACCOUNT: &str = "/api/v1/namespaces/muster-agents/serviceaccounts/east";
const LEASE_PATH: &str = "/apis/coordination.k8s.io/v1/namespaces/muster-p-east/leases/agent";
const REPORT_PATH: &str = "/apis/muster.dev/v1alpha1/namespaces/muster-p-east/providerreports/report";
const UNITS: &str = "/apis/muster.dev/v1alpha1/namespaces/muster-p-east/workunits";
const BINDING: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/muster-p-east/rolebindings/muster-agent";

async fn answer(State(server): State<Arc<Server>>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let method = request.method().clone();
    let there = server.there.lock().unwrap().contains(&path.as_str());
    let object =
        json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": {"name": "x"}});
    let status = |status: &str, code: u16, reason: &str| json!({"apiVersion": "v1", "kind": "Status", "status": status, "code": code, "reason": reason});
    if method != Method::GET {
        server.asked.lock().unwrap().push(format!("{method} {path}"));
    }
    if method == Method::PATCH {
        // As server-side apply answers: with the object.
        return request.into_body().into_response();
    }
    if path == UNITS {
        let items: Vec<Value> = if there { vec![object] } else { vec![] };
        let list = json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": items});
        return axum::Json(list).into_response();
    }
    if !there {
        return (StatusCode::NOT_FOUND, axum::Json(status("Failure", 404, "NotFound"))).into_response();
    }
    axum::Json(if method == Method::DELETE { status("Success", 200, "") } else { object }).into_response()
}

fn registrar(there: &[&'static str]) -> (Arc<Server>, Registrar) {
    let server = Arc::new(Server::default());
    there.clone_into(&mut server.there.lock().unwrap());
    let router = Router::new().fallback(answer).with_state(server.clone());
    let registrar = Registrar {
        client: Client::new(router, "default"),
        upkeep: Arc::default(),
        failures: Backoff::new(Duration::from_secs(1), Duration::from_secs(1)),
    };
    (server, registrar)
}

fn provider(scheduling: &str, leaving: bool) -> ComputeProvider {
    let deleted = leaving.then_some("2026-11-22T19:00:00Z");
    serde_json::from_value(json!({
        "apiVersion": "muster.dev/v1alpha1", "kind": "ComputeProvider",
        "metadata": {"name": "east", "uid": "u", "generation": 1, "finalizers": ["muster.dev/provider"],
                     "deletionTimestamp": deleted},
        "spec": {"owner": "acme", "scheduling": scheduling},
    }))
    .unwrap()
}

async fn writes(server: &Server, registrar: &Registrar, provider: &ComputeProvider) -> Vec<String> {
    registrar.look(provider).await.unwrap();
    std::mem::take(&mut *server.asked.lock().unwrap())
}

#[tokio::test]
async fn makes_everything_once_and_again_when_something_is_missing() {
    let (server, registrar) = registrar(&[LEASE_PATH, REPORT_PATH]);
    let east = provider("Enabled", false);
    let expected = [NAMESPACE, LEASE_PATH, REPORT_PATH, ACCOUNT, BINDING].map(|path| format!("PATCH {path}"));
    assert_eq!(writes(&server, &registrar, &east).await, expected);
    assert_eq!(writes(&server, &registrar, &east).await, Vec::<String>::new(), "idle is silent");
    server.there.lock().unwrap().retain(|path| *path != LEASE_PATH);
    assert_eq!(writes(&server, &registrar, &east).await, expected);
}

#[tokio::test]
async fn a_revoked_provider_loses_binding_then_account_before_anything_else() {
    let (server, registrar) = registrar(&[BINDING, ACCOUNT, LEASE_PATH, REPORT_PATH]);
    let done = writes(&server, &registrar, &provider("Revoked", false)).await;
    assert_eq!(done[..2], [format!("DELETE {BINDING}"), format!("DELETE {ACCOUNT}")]);
    let made = |path: &str| done.contains(&format!("PATCH {path}"));
    assert!(!made(BINDING) && !made(ACCOUNT) && made(NAMESPACE), "{done:?}");
}

#[tokio::test]
async fn a_leaving_provider_keeps_its_rights_until_its_last_unit_is_gone() {
    let (server, registrar) = registrar(&[NAMESPACE, ACCOUNT, UNITS]);
    let east = provider("Enabled", true);
    assert_eq!(writes(&server, &registrar, &east).await, Vec::<String>::new());
    server.there.lock().unwrap().retain(|path| *path != UNITS);
    let expected = [ACCOUNT, NAMESPACE].map(|path| format!("DELETE {path}"));
    assert_eq!(writes(&server, &registrar, &east).await, expected);
}
