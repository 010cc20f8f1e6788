//! A member in memory, and a hub whose API knows no unit: what it lists the view is shown.
use std::collections::VecDeque;

use axum::body::Bytes;
use axum::extract::State as Shared;
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use serde_json::{Value, json};

use super::*;

/// Jobs and pods of the member.
#[derive(Default)]
pub struct Cluster {
    pub jobs: Vec<Value>,
    pub pods: Vec<Value>,
    /// What was deleted, in its order.
    pub deleted: Vec<String>,
    /// The next Jobs are refused in these words.
    pub refuses: VecDeque<&'static str>,
}

pub type Clusters = Arc<Mutex<Cluster>>;

/// The member, and a client of it.
pub fn member() -> (Clusters, kube::Client) {
    member_of(Clusters::default())
}

/// The same, of one that is there.
pub fn member_of(clusters: Clusters) -> (Clusters, kube::Client) {
    let router = Router::new().fallback(answer).with_state(clusters.clone());
    (clusters, kube::Client::new(router, "default"))
}

/// As the hub lists it.
pub fn listed(payload: &Payload, key: &SigningKey) -> WorkUnit {
    let mut object = sign(payload, key);
    object.metadata.uid = Some(format!("uid-of-{}", payload.name));
    object
}

async fn answer(Shared(clusters): Shared<Clusters>, method: Method, uri: Uri, body: Bytes) -> Response {
    let mut cluster = locked(&clusters);
    let (path, name) = (uri.path(), uri.path().rsplit('/').next().unwrap_or_default());
    let of_units = |all: &[Value]| {
        let query =
            uri.query().unwrap_or_default().replace("%2C", ",").replace("%2F", "/").replace("%3D", "=");
        let unit = |item: &Value| item["metadata"]["labels"]["muster.dev/unit"].as_str().unwrap().to_owned();
        let is_of_some = ["muster.dev/unit=", "muster.dev/unit+in+"].iter().any(|part| query.contains(part));
        let is_asked = |item: &&Value| !is_of_some || query.contains(&unit(item));
        let items: Vec<&Value> = all.iter().filter(is_asked).collect();
        Json(
            json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items}),
        )
    };
    match (method.as_str(), path) {
        ("GET", path) if path.ends_with("/jobs") => of_units(&cluster.jobs).into_response(),
        ("GET", path) if path.ends_with("/pods") => of_units(&cluster.pods).into_response(),
        ("GET", path) if path.ends_with("/events") => of_units(&[]).into_response(),
        ("POST", path) if path.ends_with("/jobs") && !cluster.refuses.is_empty() => {
            let said = cluster.refuses.pop_front().unwrap_or_default();
            refused(StatusCode::FORBIDDEN, "Forbidden", said)
        }
        ("POST", path) if path.ends_with("/jobs") => {
            let mut job: Value = serde_json::from_slice(&body).unwrap();
            let name = job["metadata"]["name"].as_str().unwrap().to_owned();
            job["metadata"]["uid"] = json!(format!("uid-of-{name}"));
            job["metadata"]["creationTimestamp"] = json!("2026-11-23T19:00:00Z");
            for rank in 0..2 {
                cluster.pods.push(pod(&format!("{name}-{rank}"), rank, &job["metadata"]["labels"]));
            }
            cluster.jobs.push(job.clone());
            Json(job).into_response()
        }
        ("DELETE", _) => {
            let name = name.to_owned();
            cluster.jobs.retain(|job| job["metadata"]["name"] != name.as_str());
            cluster.pods.retain(|pod| pod["metadata"]["name"] != name.as_str());
            cluster.deleted.push(name);
            Json(json!({"kind": "Status", "apiVersion": "v1", "status": "Success"})).into_response()
        }
        _ => refused(StatusCode::NOT_FOUND, "NotFound", "not found"),
    }
}

fn refused(code: StatusCode, reason: &str, message: &str) -> Response {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message,
        "reason": reason, "code": code.as_u16()});
    (code, Json(status)).into_response()
}

/// A worker that trains.
fn pod(name: &str, rank: i64, labels: &Value) -> Value {
    json!({
        "metadata": {"name": name, "uid": format!("uid-of-{name}"), "labels": labels,
            "annotations": {"batch.kubernetes.io/job-completion-index": rank.to_string()}},
        "spec": {"containers": [{"name": "trainer", "image": "t"}]},
        "status": {"phase": "Running",
            "containerStatuses": [{"name": "trainer", "ready": true, "restartCount": 0, "image": "t", "imageID": "",
                "state": {"running": {"startedAt": "2026-11-23T19:00:00Z"}}}]},
    })
}
