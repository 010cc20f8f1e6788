//! Submitting to a log and reading it, over HTTPS (docs/spec/gateway.md section 11). Nothing that comes from the other end is
//! believed here: tiles are fetched first, and what they prove is computed after, by `muster_proof`.
use std::collections::BTreeMap;
use std::time::Duration;

use axum::body::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use muster_proof::Digest;
use muster_proof::dsse::Envelope;
use muster_proof::tlog::checkpoint::Checkpoint;
use muster_proof::tlog::note::MAX_NOTE;
use muster_proof::tlog::read;
use muster_proof::tlog::tile::{Resource, Tile};
use reqwest::{Method, Response};
use serde::de::DeserializeOwned;

use super::read::MAX_TILE;
use crate::runtime::answer::{self, Refusal};
use crate::runtime::sanitise;
use crate::wire::log::{LOG, LogEntry, Logged};

/// A request and its whole answer take no longer; a record waits for the gateway's disk.
const TIMEOUT: Duration = Duration::from_secs(30);
/// An envelope in JSON and what stands around it.
const MAX_ENTRY: usize = 2 << 20;
/// Tiles on their way at once.
const AT_ONCE: usize = 8;
/// A refusal and its reason.
const MAX_REFUSAL: usize = 1 << 16;

/// Why the log did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// Not reached, or not answered in time: try again. A record may be in the log all the same; submit it again.
    #[error("the log is not reachable: {0}")]
    Unreachable(String),
    /// It answered, and said no.
    #[error("the log says {status} {reason}: {message}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// A CamelCase word; empty if it gave none.
        reason: String,
        /// For people; sanitised.
        message: String,
        /// When it may be tried again; capped.
        retry_after: Option<Duration>,
    },
    /// It answered with something else.
    #[error(
        "the log's answer to {what} is not one: {problem}; gateway and client must be of the same release"
    )]
    Malformed {
        /// What was asked.
        what: &'static str,
        /// What is wrong.
        problem: String,
    },
}

impl ClientError {
    /// Whether waiting may help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable(_) => true,
            Self::Refused { status, .. } => answer::is_transient(*status),
            Self::Malformed { .. } => false,
        }
    }

    fn is_absent(&self) -> bool {
        matches!(self, Self::Refused { status: 404, .. })
    }
}

/// One request to the gateway; made again if a token was refused.
#[derive(Debug, Clone)]
pub struct Ask {
    /// Method.
    pub method: Method,
    /// Path that begins with `/`.
    pub path: String,
    /// JSON or text.
    pub body: Option<Bytes>,
}

impl Ask {
    /// As a request of reqwest, at this URL without a trailing slash.
    pub fn request(&self, client: &reqwest::Client, base: &str) -> reqwest::RequestBuilder {
        let request = client.request(self.method.clone(), format!("{base}{}", self.path));
        match &self.body {
            Some(body) => request.body(body.clone()),
            None => request,
        }
    }
}

/// The way to a gateway: who knocks, with which credentials.
pub trait Door: Send + Sync {
    /// Sends a request and gives whatever answer comes.
    fn send(&self, ask: Ask) -> BoxFuture<'_, Result<Response, ClientError>>;
}

/// Nothing but a client: its certificate, if it has one, says who asks.
#[derive(Debug, Clone)]
pub struct Plain {
    client: reqwest::Client,
    base: String,
}

impl Plain {
    /// The gateway at `url`.
    #[must_use]
    pub fn new(client: reqwest::Client, url: &str) -> Self {
        Self { client, base: url.trim_end_matches('/').to_owned() }
    }
}

impl Door for Plain {
    fn send(&self, ask: Ask) -> BoxFuture<'_, Result<Response, ClientError>> {
        Box::pin(async move { ask.request(&self.client, &self.base).send().await.map_err(unreachable) })
    }
}

/// A log somewhere else. A trait, so that hub and agents can be tested without one.
pub trait LogClient: Send + Sync {
    /// Appends a record and waits until a published head has it.
    fn submit<'a>(&'a self, envelope: &'a Envelope) -> BoxFuture<'a, Result<Logged, ClientError>>;
    /// The newest head, a signed note; not verified.
    fn checkpoint(&self) -> BoxFuture<'_, Result<Vec<u8>, ClientError>>;
    /// The newest head that has at least `least` cosignatures, with all of them; `None` if there is none. Not verified.
    fn cosigned(&self, least: usize) -> BoxFuture<'_, Result<Option<Vec<u8>>, ClientError>>;
    /// Gives a head's cosignatures, as note signature lines.
    fn cosign<'a>(&'a self, size: u64, lines: &'a str) -> BoxFuture<'a, Result<(), ClientError>>;
    /// A tile or entry bundle; not verified.
    fn tile<'a>(&'a self, path: &'a Resource) -> BoxFuture<'a, Result<Vec<u8>, ClientError>>;
    /// A record and the index that it is said to have; `None` if the log does not have it.
    fn entry<'a>(&'a self, record: &'a Digest) -> BoxFuture<'a, Result<Option<LogEntry>, ClientError>>;
}

/// A log behind a gateway.
#[derive(Debug, Clone)]
pub struct HttpLog<D> {
    door: D,
}

impl<D: Door> HttpLog<D> {
    /// Through this door.
    #[must_use]
    pub fn new(door: D) -> Self {
        Self { door }
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
        max: usize,
    ) -> Result<Vec<u8>, ClientError> {
        let ask = Ask { method, path: format!("{LOG}{path}"), body };
        let whole = async {
            let answer = self.door.send(ask).await?;
            if !answer.status().is_success() {
                return Err(refusal(answer).await);
            }
            answer::capped(answer, max).await.map_err(ClientError::Unreachable)
        };
        tokio::time::timeout(TIMEOUT, whole)
            .await
            .map_err(|_| ClientError::Unreachable(format!("no answer within {} s", TIMEOUT.as_secs())))?
    }

    async fn get(&self, path: &str, max: usize) -> Result<Vec<u8>, ClientError> {
        self.ask(Method::GET, path, None, max).await
    }
}

impl<D: Door> LogClient for HttpLog<D> {
    fn submit<'a>(&'a self, envelope: &'a Envelope) -> BoxFuture<'a, Result<Logged, ClientError>> {
        Box::pin(async move {
            let what = "POST /v1/log/entries";
            let json = envelope.to_json().map_err(|error| malformed(what, &error))?;
            let bytes = self.ask(Method::POST, "/entries", Some(json.into()), MAX_ENTRY).await?;
            let logged: Logged = parse(what, &bytes)?;
            if logged.record_id != envelope.record_id() {
                return Err(malformed(what, &"it is about another record"));
            }
            Ok(logged)
        })
    }

    fn checkpoint(&self) -> BoxFuture<'_, Result<Vec<u8>, ClientError>> {
        Box::pin(self.get("/checkpoint", MAX_NOTE))
    }

    fn cosigned(&self, least: usize) -> BoxFuture<'_, Result<Option<Vec<u8>>, ClientError>> {
        Box::pin(
            async move { there(self.get(&format!("/checkpoint/cosigned?least={least}"), MAX_NOTE).await) },
        )
    }

    fn cosign<'a>(&'a self, size: u64, lines: &'a str) -> BoxFuture<'a, Result<(), ClientError>> {
        Box::pin(async move {
            let body = Some(Bytes::copy_from_slice(lines.as_bytes()));
            self.ask(Method::POST, &format!("/cosignatures?size={size}"), body, MAX_ENTRY).await.map(drop)
        })
    }

    fn tile<'a>(&'a self, path: &'a Resource) -> BoxFuture<'a, Result<Vec<u8>, ClientError>> {
        Box::pin(async move { self.get(&format!("/{path}"), MAX_TILE as usize).await })
    }

    fn entry<'a>(&'a self, record: &'a Digest) -> BoxFuture<'a, Result<Option<LogEntry>, ClientError>> {
        Box::pin(async move {
            let what = "GET /v1/log/entries/...";
            let Some(bytes) = there(self.get(&format!("/entries/{}", record.to_hex()), MAX_ENTRY).await)?
            else {
                return Ok(None);
            };
            let entry: LogEntry = parse(what, &bytes)?;
            if entry.envelope.record_id() != *record {
                return Err(malformed(what, &"it is another record"));
            }
            Ok(Some(entry))
        })
    }
}

/// Fetches the tiles that a computation will ask for (`muster_proof::tlog::read`); the map is its source. A partial tile that is
/// gone has become a full one, whose beginning it is, so that one is taken.
///
/// # Errors
/// [`ClientError`].
pub async fn fetch(log: &dyn LogClient, tiles: Vec<Tile>) -> Result<BTreeMap<Tile, Vec<u8>>, ClientError> {
    let each = tiles.into_iter().map(|tile| async move {
        match (log.tile(&Resource::Tile(tile)).await, tile.full()) {
            (Err(error), Some(full)) if error.is_absent() && full != tile => {
                Ok((full, log.tile(&Resource::Tile(full)).await?))
            }
            (answer, _) => Ok((tile, answer?)),
        }
    });
    stream::iter(each).buffer_unordered(AT_ONCE).try_collect().await
}

/// Why there is no proof.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    /// A tile could not be had.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The tiles are not those of the head.
    #[error("the log's tiles: {0}")]
    Tiles(#[from] read::Error<read::NotFetched>),
    /// There is none.
    #[error("a head of {size} entries has no proof for {at}")]
    Range {
        /// Index, or size of the older head.
        at: u64,
        /// Size of the head.
        size: u64,
    },
}

/// The hash of leaf `index` and its inclusion path under a head whose signature was verified; every tile is checked against it.
///
/// # Errors
/// [`ProofError`].
pub async fn inclusion(
    log: &dyn LogClient,
    index: u64,
    head: &Checkpoint,
) -> Result<(Digest, Vec<Digest>), ProofError> {
    let none = ProofError::Range { at: index, size: head.size() };
    let mut tiles = fetch(log, read::tiles_for_inclusion(index, head.size()).ok_or(none)?).await?;
    Ok(read::inclusion(index, head.size(), Some(head.root()), &mut tiles)?)
}

/// The proof that a head whose signature was verified continues the one of `old` entries.
///
/// # Errors
/// [`ProofError`].
pub async fn consistency(
    log: &dyn LogClient,
    old: u64,
    head: &Checkpoint,
) -> Result<Vec<Digest>, ProofError> {
    let none = ProofError::Range { at: old, size: head.size() };
    let mut tiles = fetch(log, read::tiles_for_consistency(old, head.size()).ok_or(none)?).await?;
    Ok(read::consistency(old, head.size(), Some(head.root()), &mut tiles)?)
}

/// Nothing, if that is what 404 means.
fn there(answer: Result<Vec<u8>, ClientError>) -> Result<Option<Vec<u8>>, ClientError> {
    match answer {
        Err(error) if error.is_absent() => Ok(None),
        other => other.map(Some),
    }
}

fn parse<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, ClientError> {
    serde_json::from_slice(bytes).map_err(|error| malformed(what, &error))
}

fn malformed(what: &'static str, problem: &dyn std::fmt::Display) -> ClientError {
    ClientError::Malformed { what, problem: sanitise::line(&problem.to_string(), 200) }
}

async fn refusal(answer: Response) -> ClientError {
    let Refusal { status, reason, message, retry_after } = Refusal::read(answer, MAX_REFUSAL).await;
    ClientError::Refused { status, reason, message, retry_after }
}

fn unreachable(error: reqwest::Error) -> ClientError {
    ClientError::Unreachable(answer::unreachable(error))
}
