//! The transparency log over HTTP (docs/spec/gateway.md section 11): heads and tiles as C2SP serves them, for anyone; records
//! in and out, for the hub and for agents; cosignatures, from agents.
use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use muster_proof::Digest;
use muster_proof::dsse::{self, Envelope};
use muster_proof::tlog::tile::Resource;
use serde::Deserialize;

use super::access::{Agent, Member, Refusal};
use super::body::{MAX_JSON, whole};
use super::history::{may_read, may_submit};
use crate::log::admit::{self, Fault};
use crate::log::cosignatures::{CosignError, Witnesses};
use crate::log::{AppendError, Log, Submission};
use crate::runtime::blobdir::drain;
use crate::wire::log::{LOG, LogEntry, Logged, MAX_COSIGNATURES, MAX_SUBMISSION};

/// A tile never changes, not even a partial one.
const FOR_EVER: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");
/// A head is old at once.
const FOR_NOW: HeaderValue = HeaderValue::from_static("no-cache");

struct Cosigning {
    log: Arc<Log>,
    witnesses: Arc<dyn Witnesses>,
}

/// Heads and tiles, for anyone.
pub fn anyone(log: Arc<Log>) -> Router {
    Router::new()
        .route("/v1/log/checkpoint", get(checkpoint))
        .route("/v1/log/checkpoint/cosigned", get(cosigned))
        .route("/v1/log/tile/{*path}", get(tile))
        .with_state(log)
}

/// Records. Whoever layers them puts a [`Member`] into the extensions first.
pub fn members(log: Arc<Log>) -> Router {
    Router::new()
        .route("/v1/log/entries", post(submit))
        .route("/v1/log/entries/{hex}", get(entry))
        .with_state(log)
}

/// Cosignatures. Whoever layers them puts an [`Agent`] into the extensions first.
pub fn agents(log: Arc<Log>, witnesses: Arc<dyn Witnesses>) -> Router {
    Router::new()
        .route("/v1/log/cosignatures", post(cosign))
        .with_state(Arc::new(Cosigning { log, witnesses }))
}

async fn checkpoint(State(log): State<Arc<Log>>) -> Result<Response, Refusal> {
    let head = log.view().published.newest();
    let head = head.ok_or_else(|| Refusal::unavailable("the log has not read itself yet"))?;
    Ok(note(head.note.to_string()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Least {
    #[serde(default = "one")]
    least: usize,
}

fn one() -> usize {
    1
}

async fn cosigned(
    State(log): State<Arc<Log>>,
    query: Result<Query<Least>, QueryRejection>,
) -> Result<Response, Refusal> {
    let Query(Least { least }) = query
        .map_err(|_| Refusal::bad_request("the only parameter here is least=<number of cosignatures>"))?;
    let least = least.max(1);
    let found = log.cosignatures().newest(least).ok_or_else(|| {
        let message =
            format!("no head that is kept has {least} cosignatures; try again later, or take fewer");
        Refusal::new(StatusCode::NOT_FOUND, "NotCosigned", message)
    })?;
    Ok(note(found.to_string()))
}

fn note(text: String) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8")),
        (header::CACHE_CONTROL, FOR_NOW),
    ];
    (headers, text).into_response()
}

async fn tile(State(log): State<Arc<Log>>, uri: Uri) -> Result<Response, Refusal> {
    // The path as it was sent: a tile has one spelling, which needs no percent-encoding.
    let path = uri.path().strip_prefix(LOG).and_then(|path| path.strip_prefix('/')).unwrap_or_default();
    let missing =
        || Refusal::new(StatusCode::NOT_FOUND, "TileNotFound", "the log has published no such tile");
    let resource: Resource = path.parse().map_err(|_| missing())?;
    let bytes = blocking(move || log.tile(&resource)).await?.map_err(|error| unreadable(&error))?;
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
        (header::CACHE_CONTROL, FOR_EVER),
    ];
    Ok((headers, bytes.ok_or_else(missing)?).into_response())
}

async fn submit(
    State(log): State<Arc<Log>>,
    Extension(member): Extension<Member>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Logged>, Refusal> {
    let is_too_long = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<u64>().ok())
        .is_some_and(|length| length > MAX_SUBMISSION as u64);
    if is_too_long {
        // A sender that is cut off in the middle would not see the answer.
        drain(&mut body.into_data_stream(), MAX_JSON as u64).await;
        let message = format!("an envelope has at most {MAX_SUBMISSION} bytes here");
        return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "TooLarge", message));
    }
    let bytes = whole(body, MAX_SUBMISSION).await?;
    let envelope = Envelope::parse(&bytes, MAX_SUBMISSION).map_err(|error| bad_envelope(&error))?;
    may_submit(&member, &envelope)?;
    let (who, known) = match member {
        Member::Hub { keys } => ("hub".to_owned(), keys),
        Member::Agent { agent, key } => (agent.provider, vec![key]),
    };
    let record_id = envelope.record_id();
    let index = log.append(Submission { envelope, known }).await.map_err(|error| refused(&error))?;
    tracing::debug!(who, index, %record_id, "record logged");
    Ok(Json(Logged { index, record_id }))
}

async fn entry(
    State(log): State<Arc<Log>>,
    Extension(member): Extension<Member>,
    Path(hex): Path<String>,
) -> Result<Json<LogEntry>, Refusal> {
    let record = Digest::from_hex(&hex)
        .map_err(|_| Refusal::bad_request("the path ends with a record's id, 64 lower-case hex digits"))?;
    let found = blocking(move || log.entry(&record)).await?.map_err(|error| unreadable(&error))?;
    let (index, envelope) = found.filter(|(_, envelope)| may_read(&member, envelope)).ok_or_else(|| {
        let text = format!("the log has no record {record} for this caller");
        Refusal::new(StatusCode::NOT_FOUND, "RecordNotFound", text)
    })?;
    Ok(Json(LogEntry { index, envelope }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OfSize {
    size: u64,
}

async fn cosign(
    State(cosigning): State<Arc<Cosigning>>,
    Extension(agent): Extension<Agent>,
    query: Result<Query<OfSize>, QueryRejection>,
    body: Body,
) -> Result<StatusCode, Refusal> {
    let Query(OfSize { size }) =
        query.map_err(|_| Refusal::bad_request("want size=<entries of the head that is cosigned>"))?;
    let lines = whole(body, MAX_COSIGNATURES).await?;
    let taken = blocking(move || {
        let Cosigning { log, witnesses } = cosigning.as_ref();
        log.cosign(size, &lines, witnesses.as_ref())
    });
    let taken = taken.await?.map_err(|error| cosign_refused(&error))?;
    tracing::debug!(provider = agent.provider, size, taken, "head cosigned");
    Ok(StatusCode::OK)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Refusal> {
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        tracing::error!(%error, "the log");
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "Internal", "the log cannot be read")
    })
}

fn unreadable(error: &std::io::Error) -> Refusal {
    tracing::error!(%error, "the log cannot be read");
    match error.kind() {
        std::io::ErrorKind::InvalidData => {
            Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "Internal", "the log is damaged at this place")
        }
        _ => Refusal::unavailable("the log's disk cannot be read now"),
    }
}

fn bad_envelope(error: &dsse::Error) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, "BadEnvelope", error.to_string())
}

/// Why a record has no index, in the words of an answer.
pub fn refused(error: &AppendError) -> Refusal {
    match error {
        AppendError::Refused(admit::Refusal { fault, reason, message }) => {
            let status = match fault {
                Fault::Envelope => StatusCode::BAD_REQUEST,
                Fault::Conflict => StatusCode::CONFLICT,
            };
            Refusal::new(status, reason, message)
        }
        AppendError::Busy | AppendError::Stopped(_) => Refusal::unavailable(error.to_string()),
    }
}

fn cosign_refused(error: &CosignError) -> Refusal {
    let (status, reason) = match error {
        CosignError::Lines(_) | CosignError::Bad { .. } => (StatusCode::BAD_REQUEST, "BadCosignature"),
        CosignError::UnknownWitness { .. } => (StatusCode::FORBIDDEN, "UnknownWitness"),
        CosignError::UnknownHead(_) => (StatusCode::CONFLICT, "UnknownHead"),
        CosignError::Io(error) => {
            tracing::error!(%error, "cosignatures cannot be kept");
            return Refusal::unavailable("cosignatures cannot be kept now");
        }
    };
    Refusal::new(status, reason, error.to_string())
}

#[cfg(test)]
mod tests;
