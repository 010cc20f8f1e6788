//! An API server in memory, as far as jobs, units and audits need one.
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::body::Bytes;
use axum::extract::State as Shared;
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use kube::Client;
use serde_json::{Value, json};

const COLLECTIONS: [&str; 7] =
    ["trainingjobs", "workunits", "computeproviders", "providerreports", "audits", "events", "leases"];

/// Objects by path.
#[derive(Default)]
pub struct Objects {
    by_path: BTreeMap<String, Value>,
    version: u64,
}

/// The server.
#[derive(Clone, Default)]
pub struct Server(Arc<Mutex<Objects>>);

impl Server {
    pub fn client(&self) -> Client {
        Client::new(Router::new().fallback(answer).with_state(self.clone()), "default")
    }

    pub fn put(&self, path: &str, object: Value) {
        self.0.lock().unwrap().write(path, object);
    }

    pub fn get(&self, path: &str) -> Option<Value> {
        self.0.lock().unwrap().by_path.get(path).cloned()
    }

    /// All of a kind.
    pub fn all(&self, plural: &str) -> Vec<Value> {
        let inside = format!("/{plural}/");
        let objects = self.0.lock().unwrap();
        objects.by_path.iter().filter(|(path, _)| path.contains(&inside)).map(|(_, o)| o.clone()).collect()
    }

    /// Changes an object as another client would.
    pub fn change(&self, path: &str, patch: &Value) {
        let mut object = self.get(path).unwrap();
        merge(&mut object, patch);
        self.put(path, object);
    }
}

impl Objects {
    fn write(&mut self, path: &str, mut object: Value) -> Value {
        self.version += 1;
        let uid = format!("00000000-0000-4000-8000-{:012}", self.version);
        let metadata = object["metadata"].as_object_mut().unwrap();
        metadata.insert("resourceVersion".into(), json!((1000 + self.version).to_string()));
        metadata.entry("uid").or_insert(json!(uid));
        let is_gone = !object["metadata"]["deletionTimestamp"].is_null()
            && object["metadata"]["finalizers"].as_array().is_none_or(Vec::is_empty);
        match is_gone {
            true => drop(self.by_path.remove(path)),
            false => drop(self.by_path.insert(path.to_owned(), object.clone())),
        }
        object
    }

    fn list(&self, path: &str, plural: &str, label: Option<(String, String)>) -> Value {
        let (inside, under) = (format!("/{plural}/"), format!("{path}/"));
        let is_in =
            |at: &String| at.contains(&inside) && (!path.contains("/namespaces/") || at.starts_with(&under));
        let fits = |object: &Value| {
            label.as_ref().is_none_or(|(key, value)| object["metadata"]["labels"][key] == json!(value))
        };
        let items: Vec<_> = self
            .by_path
            .iter()
            .filter(|(at, object)| is_in(at) && fits(object))
            .map(|(_, o)| o.clone())
            .collect();
        let version = (1000 + self.version).to_string();
        json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": version}, "items": items})
    }
}

/// RFC 7386, but for what the server decides.
fn merge(object: &mut Value, patch: &Value) {
    let (Some(into), Some(patch)) = (object.as_object_mut(), patch.as_object()) else {
        *object = patch.clone();
        return;
    };
    for (key, value) in patch {
        match value {
            Value::Null => drop(into.remove(key)),
            _ => merge(into.entry(key).or_insert(json!({})), value),
        }
    }
}

fn refused(code: u16, reason: &str) -> Response {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": reason, "reason": reason,
        "code": code});
    (StatusCode::from_u16(code).unwrap(), Json(status)).into_response()
}

async fn answer(Shared(server): Shared<Server>, method: Method, uri: Uri, body: Bytes) -> Response {
    let mut objects = server.0.lock().unwrap();
    let path = uri.path().trim_end_matches("/status").to_owned();
    let last = path.rsplit('/').next().unwrap().to_owned();
    let sent: Value = serde_json::from_slice(&body).unwrap_or_default();
    let there = objects.by_path.get(&path).cloned();
    match (method.as_str(), there) {
        ("GET", Some(there)) => Json(there).into_response(),
        ("GET", None) if COLLECTIONS.contains(&last.as_str()) => {
            let query = uri.query().unwrap_or_default().replace("%2F", "/").replace("%3D", "=");
            let label = query.split('&').find_map(|part| part.strip_prefix("labelSelector="));
            let label = label.and_then(|label| label.split_once('='));
            let label = label.map(|(key, value)| (key.to_owned(), value.to_owned()));
            Json(objects.list(&path, &last, label)).into_response()
        }
        ("POST", _) => {
            let path = format!("{path}/{}", sent["metadata"]["name"].as_str().unwrap());
            match objects.by_path.contains_key(&path) {
                true => refused(409, "AlreadyExists"),
                false => Json(objects.write(&path, sent)).into_response(),
            }
        }
        ("PATCH", there) => {
            let is_apply = uri.query().is_some_and(|query| query.contains("force="));
            let Some(mut object) = there.or_else(|| is_apply.then(|| json!({"metadata": {}}))) else {
                return refused(404, "NotFound");
            };
            merge(&mut object, &sent);
            Json(objects.write(&path, object)).into_response()
        }
        ("DELETE", Some(mut object)) => {
            object["metadata"]["deletionTimestamp"] = json!("2026-11-26T06:00:00Z");
            Json(objects.write(&path, object)).into_response()
        }
        _ => refused(404, "NotFound"),
    }
}
