//! An API server in memory, as far as the audits use one: objects by path, lists over all namespaces, patches.
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use axum::body::to_bytes;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use kube::Client;
use serde_json::{Value, json};

const KINDS: [&str; 5] = ["workunits", "computeproviders", "providerreports", "audits", "leases"];

#[derive(Default)]
pub struct Api {
    objects: Mutex<BTreeMap<String, Value>>,
    version: AtomicU64,
    /// Requests that changed something.
    pub writes: AtomicU64,
}

impl Api {
    pub fn client(self: &Arc<Self>) -> Client {
        Client::new(Router::new().fallback(answer).with_state(self.clone()), "default")
    }

    pub fn put(&self, path: &str, mut object: Value) -> Value {
        let version = self.version.fetch_add(1, Ordering::SeqCst) + 1;
        let mut objects = self.objects.lock().unwrap();
        let old = objects.get(path).map(|old| old["metadata"]["uid"].clone());
        object["metadata"]["name"] = json!(path.rsplit('/').next().unwrap());
        if let Some((_, rest)) = path.split_once("/namespaces/") {
            object["metadata"]["namespace"] = json!(rest.split('/').next().unwrap());
        }
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        object["metadata"]["uid"] =
            old.unwrap_or_else(|| json!(format!("00000000-0000-4000-8000-{version:012}")));
        objects.insert(path.to_owned(), object.clone());
        object
    }

    pub fn get(&self, path: &str) -> Option<Value> {
        self.objects.lock().unwrap().get(path).cloned()
    }

    /// All of a kind, by path.
    pub fn all(&self, kind: &str) -> BTreeMap<String, Value> {
        let part = format!("/{kind}/");
        let objects = self.objects.lock().unwrap();
        objects.iter().filter(|(path, _)| path.contains(&part)).map(|(p, o)| (p.clone(), o.clone())).collect()
    }

    pub fn merge(&self, path: &str, patch: &Value) -> Value {
        let mut object = self.get(path).unwrap_or_else(|| json!({"metadata": {}}));
        merge(&mut object, patch);
        self.put(path, object)
    }

    pub fn remove(&self, path: &str) -> Option<Value> {
        self.objects.lock().unwrap().remove(path)
    }

    fn list(&self, prefix: &str, kind: &str, query: &str) -> Response {
        let label = query.split('&').find_map(|pair| pair.strip_prefix("labelSelector="));
        let label = label.map(|text| text.replace("%2F", "/").replace("%3D", "="));
        let wanted = |object: &Value| {
            label
                .as_deref()
                .and_then(|label| label.split_once('='))
                .is_none_or(|(key, value)| object["metadata"]["labels"][key] == json!(value))
        };
        let all = self.all(kind).into_iter();
        let items: Vec<Value> =
            all.filter(|(path, object)| path.starts_with(prefix) && wanted(object)).map(|(_, o)| o).collect();
        let version = self.version.load(Ordering::SeqCst).to_string();
        Json(json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": version}, "items": items}))
            .into_response()
    }
}

fn merge(object: &mut Value, patch: &Value) {
    match (object, patch) {
        (Value::Object(object), Value::Object(patch)) => {
            for (key, value) in patch {
                if value.is_null() {
                    object.remove(key);
                } else {
                    merge(object.entry(key).or_insert(Value::Null), value);
                }
            }
        }
        (object, patch) => *object = patch.clone(),
    }
}

fn failed(code: StatusCode, reason: &str) -> Response {
    let body = json!({"kind": "Status", "status": "Failure", "code": code.as_u16(), "reason": reason, "message": ""});
    (code, Json(body)).into_response()
}

async fn answer(State(api): State<Arc<Api>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let bytes = to_bytes(body, 1 << 20).await.unwrap();
    let body: Value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    let (path, query) = (parts.uri.path(), parts.uri.query().unwrap_or_default());
    if parts.method != Method::GET {
        api.writes.fetch_add(1, Ordering::SeqCst);
    }
    let kind = path.rsplit('/').next().unwrap_or_default();
    match parts.method {
        Method::GET if KINDS.contains(&kind) => {
            api.list(path.strip_suffix(kind).unwrap_or_default(), kind, query)
        }
        Method::GET => match api.get(path) {
            Some(object) => Json(object).into_response(),
            None => failed(StatusCode::NOT_FOUND, "NotFound"),
        },
        Method::POST => {
            let path = format!("{path}/{}", body["metadata"]["name"].as_str().unwrap());
            if api.get(&path).is_some() {
                return failed(StatusCode::CONFLICT, "AlreadyExists");
            }
            (StatusCode::CREATED, Json(api.put(&path, body))).into_response()
        }
        Method::PATCH => {
            let (object, patch) = match path.strip_suffix("/status") {
                Some(object) => (object, json!({"status": body["status"]})),
                None => (path, body),
            };
            Json(api.merge(object, &patch)).into_response()
        }
        _ => match api.remove(path) {
            Some(object) => Json(object).into_response(),
            None => failed(StatusCode::NOT_FOUND, "NotFound"),
        },
    }
}
