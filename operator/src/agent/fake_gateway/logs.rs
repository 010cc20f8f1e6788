//! Streams, kept logs and URLs of the fake gateway.
use std::collections::VecDeque;
use std::time::Duration;

use axum::routing::put;

use super::*;
use crate::wire::streams::StreamRequest;
use crate::wire::urls::{PublishRequest, UnitUrlRequest, UrlAnswer};

/// What the gateway knows and does about them.
#[derive(Debug, Default)]
pub struct Logs {
    /// What it wants next.
    pub wishes: VecDeque<StreamRequest>,
    /// What was brought: id, content type, bytes.
    pub streams: Vec<(String, String, Vec<u8>)>,
    /// By path, what is kept.
    pub kept: BTreeMap<String, Vec<u8>>,
    /// Refuses to keep with this status and reason.
    pub refuses_kept: Option<(u16, &'static str)>,
    /// The next answers to requests for URLs.
    pub urls: VecDeque<UrlAnswer>,
    /// What was published.
    pub published: Vec<(Digest, String)>,
}

pub fn routes() -> Router<Arc<Mutex<Hub>>> {
    Router::new()
        .route("/v1/streams", get(poll))
        .route("/v1/streams/{id}", post(bring))
        .route("/v1/units/{unit}/attempts/{attempt}/logs/{rank}", put(keep))
        .route("/v1/units/u/urls", post(url))
        .route("/v1/units/u/blobs/sha256/{hex}/publish", post(publish))
}

async fn poll(State(hub): Shared, _: Admitted) -> Response {
    let wish = locked(&hub).logs.wishes.pop_front();
    match wish {
        Some(wish) => Json(wish).into_response(),
        None => {
            tokio::time::sleep(Duration::from_millis(100)).await;
            StatusCode::NO_CONTENT.into_response()
        }
    }
}

async fn bring(
    State(hub): Shared,
    _: Admitted,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let kind = headers[header::CONTENT_TYPE].to_str().unwrap().to_owned();
    let Ok(bytes) = axum::body::to_bytes(body, 1 << 24).await else { return refuse(400, "BodyCutOff") };
    locked(&hub).logs.streams.push((id, kind, bytes.to_vec()));
    StatusCode::NO_CONTENT.into_response()
}

async fn keep(
    State(hub): Shared,
    _: Admitted,
    Path((unit, attempt, rank)): Path<(String, u64, u64)>,
    body: Bytes,
) -> Response {
    let mut hub = locked(&hub);
    if let Some((status, reason)) = hub.logs.refuses_kept {
        return refuse(status, reason);
    }
    hub.logs.kept.insert(format!("{unit}/{attempt}/{rank}"), body.to_vec());
    StatusCode::CREATED.into_response()
}

async fn url(State(hub): Shared, _: Admitted, Json(_): Json<UnitUrlRequest>) -> Response {
    let mut hub = locked(&hub);
    match hub.logs.urls.pop_front() {
        Some(answer) => Json(answer).into_response(),
        None => refuse(503, "Unavailable"),
    }
}

async fn publish(
    State(hub): Shared,
    _: Admitted,
    Path(hex): Path<String>,
    Json(body): Json<PublishRequest>,
) -> Response {
    let mut hub = locked(&hub);
    hub.logs.published.push((Digest::from_hex(&hex).unwrap(), body.staging));
    StatusCode::CREATED.into_response()
}
