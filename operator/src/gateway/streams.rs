//! Logs on their way from an agent to a user (docs/spec/gateway.md section 9). Nobody dials into a member: its agent asks here
//! what is wanted, and brings it in the body of a request of its own. Of a log the gateway holds a few pieces at a time; who
//! does not read is waited for, and not for long.
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use futures::StreamExt;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};

use super::access::{Agent, Refusal};
use super::body::whole;
use crate::runtime::sanitise::line;
use crate::wire::streams::{StreamRefusal, StreamRequest};

/// Streams of all, of one provider and of one user.
const ALL: usize = 256;
const OF_PROVIDER: usize = 8;
const OF_USER: usize = 4;
/// An agent that asks waits for so long at most.
const POLL: Duration = Duration::from_secs(25);
/// A user waits so long for the agent's answer.
const ANSWER: Duration = Duration::from_secs(10);
/// A piece that the user does not take for so long ends the stream.
const STUCK: Duration = Duration::from_secs(60);
/// No stream is longer, in time and in bytes: rights that were taken away must not live on in it.
const LONGEST: Duration = Duration::from_secs(3600);
pub const LIMIT_BYTES: u64 = 256 << 20;
/// Pieces on their way; one has at most what a connection reads at once, 64 KiB.
const PIECES: usize = 4;
/// A refusal is no longer.
const MAX_REFUSAL: usize = 4096;

/// See the module.
#[derive(Debug)]
pub struct Streams {
    open: Mutex<HashMap<String, Open>>,
    /// Counts what was asked for, so that nobody who waits misses it.
    asked: watch::Sender<u64>,
}

/// One that a user wants or reads.
#[derive(Debug)]
struct Open {
    number: u64,
    provider: String,
    user: String,
    /// Until the agent has taken it.
    request: Option<StreamRequest>,
    /// Until the agent has answered.
    answer: Option<oneshot::Sender<Answer>>,
}

/// What a user wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// Whose unit it is.
    pub provider: String,
    /// Name of the WorkUnit.
    pub unit: String,
    /// Rank within it.
    pub worker: u32,
    /// Go on as long as the worker writes.
    pub follow: bool,
    /// Begin so many lines before the end.
    pub tail_lines: Option<u32>,
}

/// What an agent says.
#[derive(Debug)]
enum Answer {
    Refused(StreamRefusal),
    /// Pieces, then `None`. A channel that just closes was cut off.
    Bytes(mpsc::Receiver<Option<Bytes>>),
}

/// What a user gets.
#[derive(Debug)]
pub enum Told {
    /// The agent's words.
    Refused(StreamRefusal),
    /// The log.
    Log(Body),
}

/// Somebody waits or reads as long as this lives.
#[derive(Debug)]
struct Ticket {
    streams: Arc<Streams>,
    id: String,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.streams.lock().remove(&self.id);
    }
}

impl Default for Streams {
    fn default() -> Self {
        Self { open: Mutex::default(), asked: watch::Sender::new(0) }
    }
}

impl Streams {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A log, for a user who may read it. What is returned ends when either end goes.
    ///
    /// # Errors
    /// 429 too many streams, 504 `AgentAway`.
    pub async fn read(self: &Arc<Self>, user: &str, wish: Wish) -> Result<Told, Refusal> {
        let provider = wish.provider.clone();
        let (ticket, answer) = self.enter(user, wish)?;
        match timeout(ANSWER, answer).await {
            Ok(Ok(Answer::Refused(refusal))) => Ok(Told::Refused(refusal)),
            Ok(Ok(Answer::Bytes(pieces))) => Ok(Told::Log(body(ticket, pieces))),
            Ok(Err(_)) | Err(_) => {
                let text = format!(
                    "the agent of provider {provider} did not answer within {} s; what was kept of failed attempts is \
                     here (--previous)",
                    ANSWER.as_secs()
                );
                Err(Refusal::new(StatusCode::GATEWAY_TIMEOUT, "AgentAway", text))
            }
        }
    }

    fn enter(
        self: &Arc<Self>,
        user: &str,
        wish: Wish,
    ) -> Result<(Ticket, oneshot::Receiver<Answer>), Refusal> {
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(|_| Refusal::unavailable("no randomness; try again"))?;
        let id: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let (sender, receiver) = oneshot::channel();
        let Wish { provider, unit, worker, follow, tail_lines } = wish;
        let request =
            StreamRequest { id: id.clone(), unit, worker, follow, tail_lines, limit_bytes: LIMIT_BYTES };
        let mut open = self.lock();
        let of = |whose: &dyn Fn(&Open) -> bool| open.values().filter(|one| whose(one)).count();
        if open.len() >= ALL
            || of(&|one| one.provider == provider) >= OF_PROVIDER
            || of(&|one| one.user == user) >= OF_USER
        {
            return Err(Refusal::too_many(5));
        }
        let number = *self.asked.borrow() + 1;
        let user = user.to_owned();
        let one = Open { number, provider, user, request: Some(request), answer: Some(sender) };
        open.insert(id.clone(), one);
        // Under the lock: numbers are given once.
        self.asked.send_replace(number);
        drop(open);
        Ok((Ticket { streams: self.clone(), id }, receiver))
    }

    /// What is wanted of a provider's agent, the oldest wish first; each is told once.
    fn take(&self, provider: &str) -> Option<StreamRequest> {
        let mut open = self.lock();
        let waiting = open.values_mut().filter(|one| one.provider == provider && one.request.is_some());
        waiting.min_by_key(|one| one.number)?.request.take()
    }

    /// Where a provider's answer goes; only the first one counts.
    fn claim(&self, provider: &str, id: &str) -> Result<oneshot::Sender<Answer>, Refusal> {
        let mut open = self.lock();
        let own = open.get_mut(id).filter(|one| one.provider == provider);
        own.and_then(|one| one.answer.take()).ok_or_else(gone)
    }
}

fn gone() -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "StreamGone", "nobody waits for this stream (any more)")
}

/// The pieces as they come, with an error at the end if it was no end.
fn body(ticket: Ticket, pieces: mpsc::Receiver<Option<Bytes>>) -> Body {
    let state = (ticket, pieces, Instant::now() + LONGEST);
    let cut = |why: &str| Some(Err(std::io::Error::other(why.to_owned())));
    let stream = futures::stream::unfold(Some(state), move |state| async move {
        let (ticket, mut pieces, until) = state?;
        match tokio::time::timeout_at(until, pieces.recv()).await {
            Ok(Some(Some(piece))) => Some((Some(Ok(piece)), Some((ticket, pieces, until)))),
            Ok(Some(None)) => None,
            Ok(None) => Some((cut("the agent's end was cut off"), None)),
            Err(_) => Some((cut("no log is followed for so long; ask again"), None)),
        }
    });
    Body::from_stream(stream.filter_map(std::future::ready))
}

/// The routes of agents. Whoever layers them puts an [`Agent`] into the extensions first.
pub fn router(streams: Arc<Streams>) -> Router {
    Router::new()
        .route("/v1/streams", get(poll))
        .route("/v1/streams/{id}", post(answer))
        .layer(DefaultBodyLimit::disable())
        .with_state(streams)
}

async fn poll(State(streams): State<Arc<Streams>>, Extension(agent): Extension<Agent>) -> Response {
    let mut asked = streams.asked.subscribe();
    let wanted = async {
        loop {
            asked.borrow_and_update();
            if let Some(request) = streams.take(&agent.provider) {
                return Some(request);
            }
            asked.changed().await.ok()?;
        }
    };
    match timeout(POLL, wanted).await {
        Ok(Some(request)) => Json(request).into_response(),
        _ => StatusCode::NO_CONTENT.into_response(),
    }
}

async fn answer(
    State(streams): State<Arc<Streams>>,
    Extension(agent): Extension<Agent>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode, Refusal> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if kind.starts_with("application/json") {
        let bytes = whole(body, MAX_REFUSAL).await?;
        let refusal = serde_json::from_slice(&bytes)
            .map_err(|error| Refusal::bad_request(format!("body: {}", line(&error.to_string(), 300))))?;
        streams.claim(&agent.provider, &id)?.send(Answer::Refused(refusal)).map_err(|_| gone())?;
        return Ok(StatusCode::NO_CONTENT);
    }
    let (sender, receiver) = mpsc::channel(PIECES);
    streams.claim(&agent.provider, &id)?.send(Answer::Bytes(receiver)).map_err(|_| gone())?;
    pump(body, &sender).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// From the agent's body into the channel, as fast as the slower end.
async fn pump(body: Body, to: &mpsc::Sender<Option<Bytes>>) -> Result<(), Refusal> {
    let mut body = body.into_data_stream();
    let mut left = LIMIT_BYTES;
    loop {
        let piece = tokio::select! {
            biased;
            () = to.closed() => return Err(gone()),
            piece = body.next() => piece,
        };
        let piece = match piece {
            Some(Ok(piece)) => piece,
            Some(Err(_)) => {
                let text = "the body was cut off";
                return Err(Refusal::new(StatusCode::BAD_REQUEST, "BodyCutOff", text));
            }
            None => return send(to, None).await,
        };
        left = left.checked_sub(piece.len() as u64).ok_or_else(|| {
            let text = format!("a log has at most {LIMIT_BYTES} bytes");
            Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "TooLarge", text)
        })?;
        send(to, Some(piece)).await?;
    }
}

async fn send(to: &mpsc::Sender<Option<Bytes>>, piece: Option<Bytes>) -> Result<(), Refusal> {
    match timeout(STUCK, to.send(piece)).await {
        Ok(Ok(())) => Ok(()),
        _ => Err(gone()),
    }
}
