//! What a worker asks: first who it is, then whether it may, and only then what it says. A body takes memory, and whoever reaches
//! the port could fill it: so nothing is read of a stranger, and of workers only so much at once, and in time.
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use muster_proof::key::PublicKey;
use muster_trainer::protocol::{MAX_BODY, MAX_NOTICE};
use serde::de::DeserializeOwned;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Relay;
use super::identity::{ReviewError, Worker};
use super::rounds;
use crate::agent::state::UnitState;
use crate::agent::units::{Unit, is_live};
use crate::runtime::blobdir::{PutError, drain};
use crate::runtime::slots::{Slot, Slots};

/// A small body is here within this time.
const SMALL_WITHIN: Duration = Duration::from_secs(10);
/// A commit's or failure's, which may be some MB.
const NOTICE_WITHIN: Duration = Duration::from_secs(30);
/// Room for a notice is waited for so long.
const ROOM_WITHIN: Duration = Duration::from_secs(10);
/// Small bodies that are read at once, of all pods and of one.
const SMALL: (usize, usize) = (1024, 8);
/// Notices that are read at once, in bytes: four of the largest. Read and checked, one takes three times its length.
const NOTICES: usize = 4 * MAX_NOTICE;
/// A unit says one thing after the other.
const NOTICES_OF_A_UNIT: usize = 1;

/// A refusal is an answer too; boxed, for it is larger than what it stands in for.
#[derive(Debug)]
pub(super) struct Refusal(Box<Response>);

impl Refusal {
    pub(super) fn status(&self) -> StatusCode {
        self.0.status()
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        *self.0
    }
}

pub(super) type Answer<T = Response> = Result<T, Refusal>;

/// What is read at once.
#[derive(Debug)]
pub(super) struct Bodies {
    small: Arc<Slots>,
    notices: Arc<Slots>,
    room: Arc<Semaphore>,
}

impl Default for Bodies {
    fn default() -> Self {
        Self {
            small: Slots::new(SMALL.0, SMALL.1),
            notices: Slots::new(usize::MAX, NOTICES_OF_A_UNIT),
            room: Arc::new(Semaphore::new(NOTICES)),
        }
    }
}

/// The worker that asks, and its unit.
pub(super) struct Who {
    pub(super) worker: Worker,
    pub(super) unit: Arc<Unit>,
}

impl FromRequestParts<Arc<Relay>> for Who {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, relay: &Arc<Relay>) -> Answer<Self> {
        // The acceptor puts it there; without it all are one.
        let from = parts.extensions.get::<SocketAddr>().map(SocketAddr::ip);
        worker(relay, &parts.headers, from.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))).await
    }
}

/// A worker and the small body that it has sent.
pub(super) struct Asked<T> {
    pub(super) who: Who,
    pub(super) said: T,
}

impl<T: DeserializeOwned + Send> FromRequest<Arc<Relay>> for Asked<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, relay: &Arc<Relay>) -> Answer<Self> {
        let (mut parts, body) = request.into_parts();
        let mut body = body.into_data_stream();
        let asked = async {
            let who = Who::from_request_parts(&mut parts, relay).await?;
            let _slot = relay.bodies.small.enter(&who.worker.pod).ok_or_else(busy)?;
            let size = size(&parts.headers, MAX_BODY)?;
            let said = parse(&read(&mut body, (size, MAX_BODY), SMALL_WITHIN).await?)?;
            Ok(Self { who, said })
        };
        let asked = asked.await;
        unread(&mut body, MAX_BODY, asked.as_ref().err().map(Refusal::status)).await;
        asked
    }
}

/// What rank 0 says of an interval's end, and the key that must have signed it. It holds its memory's place until it is dropped.
pub(super) struct Notice<T> {
    pub(super) who: Who,
    pub(super) key: PublicKey,
    pub(super) said: T,
    _held: (Slot, OwnedSemaphorePermit),
}

impl<T: DeserializeOwned + Send> FromRequest<Arc<Relay>> for Notice<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, relay: &Arc<Relay>) -> Answer<Self> {
        let (mut parts, body) = request.into_parts();
        let mut body = body.into_data_stream();
        let asked = async {
            let who = Who::from_request_parts(&mut parts, relay).await?;
            let key = committer(&who.worker, &who.unit.state().await)?;
            let size = size(&parts.headers, MAX_NOTICE)?;
            let slot = relay.bodies.notices.enter(who.unit.name()).ok_or_else(busy)?;
            let room = relay.bodies.room.clone().acquire_many_owned(u32::try_from(size).unwrap_or(u32::MAX));
            let room = tokio::time::timeout(ROOM_WITHIN, room).await.map_err(|_| busy())?;
            let room = room.map_err(|_| busy())?;
            let said = parse(&read(&mut body, (size, MAX_NOTICE), NOTICE_WITHIN).await?)?;
            Ok(Self { who, key, said, _held: (slot, room) })
        };
        let asked = asked.await;
        unread(&mut body, MAX_NOTICE, asked.as_ref().err().map(Refusal::status)).await;
        asked
    }
}

/// The length that a body says it has, and the most it can have if it says none.
fn size(headers: &HeaderMap, max: usize) -> Answer<usize> {
    let said = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    let size = said.unwrap_or(max);
    if size > max { Err(too_large(max)) } else { Ok(size) }
}

/// The whole body.
async fn read(body: &mut BodyDataStream, (size, max): (usize, usize), within: Duration) -> Answer<Vec<u8>> {
    let whole = async {
        let mut bytes = Vec::with_capacity(size);
        while let Some(piece) = body.next().await {
            let piece = piece.map_err(|_| said(StatusCode::BAD_REQUEST, "the body ended early"))?;
            if bytes.len() + piece.len() > max {
                return Err(too_large(max));
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes)
    };
    let late = || {
        let text = format!("the body did not come within {} s", within.as_secs());
        said(StatusCode::REQUEST_TIMEOUT, &text)
    };
    tokio::time::timeout(within, whole).await.map_err(|_| late())?
}

/// A sender that is cut off in the middle sees a broken connection instead of the answer, so what a refusal left is passed over.
/// A stranger need not hear more.
async fn unread(body: &mut BodyDataStream, max: usize, refused: Option<StatusCode>) {
    if refused.is_some_and(|status| status != StatusCode::UNAUTHORIZED) {
        let _ = tokio::time::timeout(SMALL_WITHIN, drain(body, max as u64)).await;
    }
}

/// The same body, given up when nothing of it has come for so long.
pub(super) fn unless_stalled(
    body: Body,
) -> impl futures::Stream<Item = Result<axum::body::Bytes, String>> + Unpin {
    let next = |mut body: BodyDataStream| async move {
        let piece = match tokio::time::timeout(NOTICE_WITHIN, body.next()).await {
            Ok(piece) => piece?.map_err(|error| error.to_string()),
            Err(_) => Err(format!("nothing came for {} s", NOTICE_WITHIN.as_secs())),
        };
        Some((piece, body))
    };
    // Asked again for the rest, to pass it over.
    Box::pin(futures::stream::unfold(body.into_data_stream(), next).fuse())
}

pub(super) fn bearer(headers: &HeaderMap) -> Answer<&str> {
    headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "))
        .ok_or_else(|| said(StatusCode::UNAUTHORIZED, "no bearer token"))
}

/// The worker that asks, and its unit. Refuses a pod of an attempt that is over (410) and the second pod of a rank (403).
async fn worker(relay: &Relay, headers: &HeaderMap, from: IpAddr) -> Answer<Who> {
    let worker = relay.kept.review(&*relay.reviewer, bearer(headers)?, from).await.map_err(|error| {
        let status = match error {
            ReviewError::Refused(_) => StatusCode::UNAUTHORIZED,
            ReviewError::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            ReviewError::TooMany => StatusCode::TOO_MANY_REQUESTS,
        };
        said(status, &error.to_string())
    })?;
    let unit = relay.units.serving(&worker.unit).await;
    let unit = unit.ok_or_else(|| said(StatusCode::GONE, "the unit is gone"))?;
    let state = unit.state().await;
    let workers = state.payload.as_ref().map_or(0, |payload| payload.workers);
    if !is_live(&state, worker.attempt) {
        return Err(over());
    }
    if !(0..workers).contains(&worker.rank) {
        return Err(said(StatusCode::FORBIDDEN, "no such rank"));
    }
    let admitted = unit
        .update(|state| {
            rounds::begin(state, 0);
            state.rounds.pods.entry(worker.rank).or_insert_with(|| worker.pod.clone()).clone()
        })
        .await
        .map_err(broken)?;
    if admitted != worker.pod {
        let text = format!("rank {} of attempt {} is pod {admitted}", worker.rank, worker.attempt);
        return Err(said(StatusCode::FORBIDDEN, &text));
    }
    Ok(Who { worker, unit })
}

/// The key whose signature a commit of this worker needs.
pub(super) fn committer(worker: &Worker, state: &UnitState) -> Answer<PublicKey> {
    if worker.rank != 0 {
        return Err(said(StatusCode::FORBIDDEN, "checkpoints are rank 0's"));
    }
    rounds::bound(&state.rounds, worker.attempt, worker.rank)
        .ok_or_else(|| said(StatusCode::FORBIDDEN, "no key is bound to rank 0; PUT /v1/key first"))
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Answer<T> {
    serde_json::from_slice(body).map_err(|error| said(StatusCode::BAD_REQUEST, &error.to_string()))
}

fn too_large(max: usize) -> Refusal {
    said(StatusCode::PAYLOAD_TOO_LARGE, &format!("the body has more than {max} bytes"))
}

fn busy() -> Refusal {
    said(StatusCode::SERVICE_UNAVAILABLE, "Busy: too many bodies are under way; try again later")
}

pub(super) fn over() -> Refusal {
    said(StatusCode::GONE, "the attempt is over; exit")
}

pub(super) fn said(status: StatusCode, text: &str) -> Refusal {
    refuse((status, format!("{text}\n")))
}

pub(super) fn refuse(answer: impl IntoResponse) -> Refusal {
    Refusal(Box::new(answer.into_response()))
}

pub(super) fn broken(error: std::io::Error) -> Refusal {
    tracing::error!(%error, "relay cannot use its state directory");
    refuse(PutError::from(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stalled() -> Body {
        let first = futures::stream::iter([Ok::<_, std::io::Error>("{".into())]);
        Body::from_stream(first.chain(futures::stream::pending::<Result<axum::body::Bytes, _>>()))
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_given_up() {
        let began = tokio::time::Instant::now();
        let late = read(&mut stalled().into_data_stream(), (100, 100), SMALL_WITHIN).await.unwrap_err();
        assert_eq!((late.status(), began.elapsed().as_secs()), (StatusCode::REQUEST_TIMEOUT, 10));
        let mut blob = unless_stalled(stalled());
        assert!(blob.next().await.unwrap().is_ok());
        assert!(blob.next().await.unwrap().unwrap_err().contains("30 s"));
    }

    #[tokio::test]
    async fn a_body_is_as_long_as_it_says_and_no_longer_than_it_may_be() {
        let headers =
            |length: &str| HeaderMap::from_iter([(header::CONTENT_LENGTH, length.parse().unwrap())]);
        assert_eq!(size(&headers("7"), 10).unwrap(), 7);
        assert_eq!(size(&HeaderMap::new(), 10).unwrap(), 10, "one that does not say may have all");
        assert_eq!(size(&headers("11"), 10).unwrap_err().status(), StatusCode::PAYLOAD_TOO_LARGE);
        let mut long = Body::from("12345678901").into_data_stream();
        let refused = read(&mut long, (10, 10), SMALL_WITHIN).await.unwrap_err();
        assert_eq!(refused.status(), StatusCode::PAYLOAD_TOO_LARGE);
    }
}
