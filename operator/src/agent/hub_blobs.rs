//! The hub's blobs as a unit may have them, and the commit of its checkpoints (docs/spec/gateway.md section 6).
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt};
use muster_proof::Digest;
use muster_proof::dsse::Envelope;
use reqwest::{Method, RequestBuilder, Response, StatusCode, header};
use tokio::fs::File;
use tokio::sync::watch;
use tokio_util::io::ReaderStream;

use super::direct::Direct;
use super::gateway::{Gateway, GatewayError, read, refusal};
use super::policy::Policies;
use super::session::Session;
use crate::log::client::{ClientError, HttpLog, LogClient as _};
use crate::wire::gateway::{CheckpointCommit, UnitFailure};
use crate::wire::log::Logged;

/// A download that breaks is taken up again this often in a row without a byte in between.
const RESUMES: u32 = 5;
/// A transfer that does not move for so long is given up. After an upload the gateway makes it durable: that counts, too.
pub(super) const STALL: Duration = Duration::from_secs(60);
/// As [`STALL`], for the answer to a whole upload: gigabytes may wait for the gateway's disk.
pub(super) const DURABLE: Duration = Duration::from_secs(300);
/// A commit waits until the gateway has read the checkpoint back and hashed it.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(15 * 60);

/// Why the hub did not give or take a blob.
#[derive(Debug, Clone, thiserror::Error)]
pub enum HubError {
    /// Not reached, or not answered in time: try again.
    #[error("the hub's blobs: {0}")]
    Unreachable(String),
    /// A newer epoch of the unit's island is there: nothing of this unit is taken any more.
    #[error("the hub takes nothing more of this unit: {0}")]
    Superseded(String),
    /// It answered, with something else than hoped.
    #[error("the hub's blobs: {method} {what}: {source}")]
    Answer {
        /// HTTP method.
        method: Method,
        /// Blob or step.
        what: String,
        /// The answer.
        source: GatewayError,
    },
    /// The log did not take a record.
    #[error(transparent)]
    Log(#[from] ClientError),
}

impl HubError {
    /// The reason of a refusal.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Answer { source, .. } => source.reason(),
            Self::Log(ClientError::Refused { reason, .. }) => Some(reason),
            _ => None,
        }
    }
}

/// A blob's bytes as they come.
pub type Blob = BoxStream<'static, Result<Bytes, HubError>>;

/// The six things the agent does with the hub's store for a unit. A trait, so that the relay's tests can take the hub away.
pub trait HubBlobs: Send + Sync + std::fmt::Debug {
    /// A blob, or `None` if the hub does not have it for this unit.
    fn get<'a>(&'a self, unit: &'a str, digest: Digest) -> BoxFuture<'a, Result<Option<Blob>, HubError>>;
    /// Whether the hub has a blob for this unit.
    fn has<'a>(&'a self, unit: &'a str, digest: Digest) -> BoxFuture<'a, Result<bool, HubError>>;
    /// Gives the hub a blob; returns once it is durable there.
    fn put<'a>(
        &'a self,
        unit: &'a str,
        digest: Digest,
        file: File,
        size: u64,
    ) -> BoxFuture<'a, Result<(), HubError>>;
    /// Makes a checkpoint whose blobs are all there the job's; returns once the log has its commit.
    fn commit<'a>(
        &'a self,
        unit: &'a str,
        step: i64,
        commit: &'a CheckpointCommit,
    ) -> BoxFuture<'a, Result<Logged, HubError>>;
    /// Ends the job in this step, which is not finite; returns once the log has the failure.
    fn fail<'a>(
        &'a self,
        unit: &'a str,
        step: i64,
        failure: &'a UnitFailure,
    ) -> BoxFuture<'a, Result<Logged, HubError>>;
    /// Has the log take another record.
    fn submit<'a>(&'a self, record: &'a Envelope) -> BoxFuture<'a, Result<Logged, HubError>>;
}

/// The store behind the gateway.
#[derive(Debug, Clone)]
pub struct HttpBlobs {
    session: Session,
    direct: Option<Direct>,
}

impl HttpBlobs {
    /// Through this session.
    #[must_use]
    pub fn new(session: Session) -> Self {
        Self { session, direct: None }
    }

    /// Past the gateway where its store and the provider's policy allow it.
    #[must_use]
    pub fn past_the_gateway(self, policies: Arc<Policies>) -> Self {
        Self { direct: Some(Direct::new(policies)), ..self }
    }

    /// The beginning of a blob. A part that is asked for later comes through the gateway.
    async fn first(&self, unit: &str, digest: Digest) -> Result<Option<Response>, HubError> {
        if let Some(direct) = &self.direct
            && let Some(answer) = direct.get(&self.session, unit, digest).await
        {
            return Ok(Some(answer));
        }
        self.head_or_get(Method::GET, unit, digest, 0).await
    }

    async fn head_or_get(
        &self,
        method: Method,
        unit: &str,
        digest: Digest,
        from: u64,
    ) -> Result<Option<Response>, HubError> {
        let path = blob_path(unit, digest);
        let build = |gateway: &Gateway| {
            let request = gateway.request(method.clone(), &path);
            if from == 0 { request } else { request.header(header::RANGE, format!("bytes={from}-")) }
        };
        let answer = bounded(STALL, self.session.send(build)).await?;
        match answer.status() {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => Ok(Some(answer)),
            StatusCode::NOT_FOUND => Ok(None),
            _ => Err(refused(method, digest.to_string(), answer).await),
        }
    }
}

/// A file as a body, and a sign of each piece that was read of it.
pub(super) fn body(file: File) -> (reqwest::Body, watch::Receiver<()>) {
    let (moved, moves) = watch::channel(());
    let pieces = ReaderStream::with_capacity(file, 256 * 1024).inspect(move |_| {
        moved.send_replace(());
    });
    (reqwest::Body::wrap_stream(pieces), moves)
}

/// The answer to an upload, as long as it moves.
pub(super) async fn moving(
    sending: impl Future<Output = Result<Response, GatewayError>>,
    mut moves: watch::Receiver<()>,
) -> Result<Response, HubError> {
    let mut sending = pin!(sending);
    loop {
        tokio::select! {
            biased;
            answer = &mut sending => return answer.map_err(lost),
            moved = tokio::time::timeout(STALL, moves.changed()) => match moved {
                Ok(Ok(())) => {}
                // The file has been read to its end, or the answer came before that.
                Ok(Err(_)) => return bounded(DURABLE, sending).await,
                Err(_) => return Err(HubError::Unreachable("the upload does not move".to_owned())),
            },
        }
    }
}

fn blob_path(unit: &str, digest: Digest) -> String {
    format!("/v1/units/{unit}/blobs/sha256/{}", digest.to_hex())
}

impl HubBlobs for HttpBlobs {
    fn get<'a>(&'a self, unit: &'a str, digest: Digest) -> BoxFuture<'a, Result<Option<Blob>, HubError>> {
        Box::pin(async move {
            let Some(answer) = self.first(unit, digest).await? else { return Ok(None) };
            let download = Download {
                blobs: self.clone(),
                unit: unit.to_owned(),
                digest,
                total: answer.content_length(),
                answer: Some(answer),
                taken: 0,
                skip: 0,
                failures: 0,
            };
            Ok(Some(stream::try_unfold(download, Download::next).boxed()))
        })
    }

    fn has<'a>(&'a self, unit: &'a str, digest: Digest) -> BoxFuture<'a, Result<bool, HubError>> {
        Box::pin(async move { Ok(self.head_or_get(Method::HEAD, unit, digest, 0).await?.is_some()) })
    }

    fn put<'a>(
        &'a self,
        unit: &'a str,
        digest: Digest,
        mut file: File,
        size: u64,
    ) -> BoxFuture<'a, Result<(), HubError>> {
        Box::pin(async move {
            if let Some(direct) = &self.direct {
                let put = direct.put(&self.session, unit, digest, &mut file, size).await;
                if put.map_err(|error| HubError::Unreachable(format!("cache: {error}")))? {
                    return Ok(());
                }
            }
            let (body, moves) = body(file);
            let request = self.session.gateway().request(Method::PUT, &blob_path(unit, digest));
            let request = request.header(header::CONTENT_LENGTH, size).body(body);
            let answer = moving(self.session.send_once(request), moves).await?;
            match answer.status() {
                StatusCode::OK | StatusCode::CREATED => Ok(()),
                _ => Err(refused(Method::PUT, digest.to_string(), answer).await),
            }
        })
    }

    fn commit<'a>(
        &'a self,
        unit: &'a str,
        step: i64,
        commit: &'a CheckpointCommit,
    ) -> BoxFuture<'a, Result<Logged, HubError>> {
        Box::pin(async move {
            let path = format!("/v1/units/{unit}/checkpoints/{step}");
            let build = |gateway: &Gateway| -> RequestBuilder {
                gateway.request(Method::POST, &path).timeout(COMMIT_TIMEOUT).json(commit)
            };
            let answer = self.session.send(build).await.map_err(lost)?;
            logged("POST /v1/units/.../checkpoints/...", format!("checkpoint {step}"), answer).await
        })
    }

    fn fail<'a>(
        &'a self,
        unit: &'a str,
        step: i64,
        failure: &'a UnitFailure,
    ) -> BoxFuture<'a, Result<Logged, HubError>> {
        Box::pin(async move {
            let path = format!("/v1/units/{unit}/failures/{step}");
            let build =
                |gateway: &Gateway| -> RequestBuilder { gateway.request(Method::POST, &path).json(failure) };
            let answer = bounded(STALL, self.session.send(build)).await?;
            logged("POST /v1/units/.../failures/...", format!("failure of step {step}"), answer).await
        })
    }

    fn submit<'a>(&'a self, record: &'a Envelope) -> BoxFuture<'a, Result<Logged, HubError>> {
        Box::pin(async move { Ok(HttpLog::new(self.session.clone()).submit(record).await?) })
    }
}

/// Where the log has it, says the gateway's answer.
async fn logged(request: &'static str, what: String, answer: Response) -> Result<Logged, HubError> {
    match answer.status() {
        StatusCode::OK => read(request, answer).await.map_err(lost),
        _ => Err(refused(Method::POST, what, answer).await),
    }
}

/// A download under way. Where the stream breaks it is taken up again with `Range`.
struct Download {
    blobs: HttpBlobs,
    unit: String,
    digest: Digest,
    /// The whole blob's size, if the first answer said it.
    total: Option<u64>,
    /// The answer that is being read; `None` after it broke.
    answer: Option<Response>,
    /// Bytes handed on.
    taken: u64,
    /// Bytes to drop: the answer began at the blob's beginning again.
    skip: u64,
    /// Breaks in a row without a byte.
    failures: u32,
}

impl Download {
    async fn next(mut self) -> Result<Option<(Bytes, Self)>, HubError> {
        loop {
            let Some(answer) = &mut self.answer else {
                self.resume().await?;
                continue;
            };
            let chunk = tokio::time::timeout(STALL, answer.chunk());
            let Ok(chunk) = chunk.await else {
                self.broke("it does not move".to_owned()).await?;
                continue;
            };
            match chunk {
                Ok(Some(mut piece)) => {
                    let drop = usize::try_from(self.skip).unwrap_or(usize::MAX).min(piece.len());
                    self.skip -= drop as u64;
                    let piece = piece.split_off(drop);
                    if piece.is_empty() {
                        continue;
                    }
                    self.taken += piece.len() as u64;
                    self.failures = 0;
                    return Ok(Some((piece, self)));
                }
                // What the bytes are is the reader's to check; too few is a break as well.
                Ok(None) if self.total.is_none_or(|total| self.taken >= total) => return Ok(None),
                Err(_) if self.total.is_some_and(|total| self.taken >= total) => return Ok(None),
                Ok(None) => self.broke("it ended early".to_owned()).await?,
                Err(error) => self.broke(super::gateway::unreachable(error).to_string()).await?,
            }
        }
    }

    async fn broke(&mut self, why: String) -> Result<(), HubError> {
        self.answer = None;
        self.failures += 1;
        if self.failures > RESUMES {
            return Err(HubError::Unreachable(why));
        }
        tracing::debug!(digest = %self.digest, at = self.taken, why, "download broke; taking it up again");
        tokio::time::sleep(Duration::from_millis(200) * (1 << self.failures.min(5))).await;
        Ok(())
    }

    async fn resume(&mut self) -> Result<(), HubError> {
        match self.blobs.head_or_get(Method::GET, &self.unit, self.digest, self.taken).await {
            Ok(Some(answer)) => {
                let continues = answer.status() == StatusCode::PARTIAL_CONTENT;
                if continues && range_start(&answer) != Some(self.taken) {
                    let problem = "it answered another range than was asked for".to_owned();
                    return Err(HubError::Unreachable(problem));
                }
                self.skip = if continues { 0 } else { self.taken };
                self.answer = Some(answer);
                Ok(())
            }
            Ok(None) => {
                Err(HubError::Unreachable("the blob is gone in the middle of its download".to_owned()))
            }
            Err(HubError::Unreachable(why)) => self.broke(why).await,
            Err(error) => Err(error),
        }
    }
}

/// Where the part begins that a 206 brings: `bytes 100-199/200`.
fn range_start(answer: &Response) -> Option<u64> {
    let text = answer.headers().get(header::CONTENT_RANGE)?.to_str().ok()?;
    text.strip_prefix("bytes ")?.split_once('-')?.0.parse().ok()
}

async fn bounded(
    limit: Duration,
    request: impl Future<Output = Result<Response, GatewayError>>,
) -> Result<Response, HubError> {
    match tokio::time::timeout(limit, request).await {
        Ok(answer) => answer.map_err(lost),
        Err(_) => Err(HubError::Unreachable(format!("no answer within {} s", limit.as_secs()))),
    }
}

fn lost(error: GatewayError) -> HubError {
    HubError::Unreachable(error.to_string())
}

async fn refused(method: Method, what: String, answer: Response) -> HubError {
    match refusal(answer).await {
        GatewayError::Refused { status: 409, reason, message, .. } if reason == "OldEpoch" => {
            HubError::Superseded(message)
        }
        source => HubError::Answer { method, what, source },
    }
}
