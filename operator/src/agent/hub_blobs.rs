//! The hub's blob service as the agent uses it (docs/spec/protocol.md section 4).
use std::sync::{Arc, RwLock};

use axum::body::Bytes;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, StreamExt};
use muster_proof::Digest;
use reqwest::{Method, StatusCode};
use tokio::fs::File;
use tokio_util::io::ReaderStream;

/// Why the hub did not give or take a blob.
#[derive(Debug, Clone, thiserror::Error)]
pub enum HubError {
    /// Not reached, or not answered in time: try again.
    #[error("the hub's blob service is not reachable: {0}")]
    Unreachable(String),
    /// It answered, with something else than hoped.
    #[error("the hub's blob service answered {status} to {method} {digest}: {text}")]
    Answer {
        /// HTTP status.
        status: u16,
        /// HTTP method.
        method: String,
        /// Which blob.
        digest: Digest,
        /// The beginning of its body.
        text: String,
    },
}

/// A blob's bytes as they come.
pub type Blob = BoxStream<'static, Result<Bytes, HubError>>;

/// The three things the agent does with the hub's store. A trait, so that the relay's tests can take the hub away.
pub trait HubBlobs: Send + Sync + std::fmt::Debug {
    /// A blob, or `None` if the hub does not have it.
    fn get(&self, digest: Digest) -> BoxFuture<'_, Result<Option<Blob>, HubError>>;
    /// Whether the hub has a blob.
    fn has(&self, digest: Digest) -> BoxFuture<'_, Result<bool, HubError>>;
    /// Gives the hub a blob; returns once it is durable there.
    fn put(&self, digest: Digest, file: File, size: u64) -> BoxFuture<'_, Result<(), HubError>>;
}

/// The agent's token at the hub, replaced when the join file is.
#[derive(Debug, Clone, Default)]
pub struct Token(Arc<RwLock<String>>);

impl Token {
    /// Replaces it.
    pub fn set(&self, token: &str) {
        let mut guard = self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        token.clone_into(&mut guard);
    }

    fn get(&self) -> String {
        self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
}

/// The service over HTTPS with a pinned CA.
#[derive(Debug)]
pub struct HttpBlobs {
    client: reqwest::Client,
    base: String,
    token: Token,
}

impl HttpBlobs {
    /// A client for the service at `base`.
    #[must_use]
    pub fn new(client: reqwest::Client, base: &str, token: Token) -> Self {
        Self { client, base: base.trim_end_matches('/').to_owned(), token }
    }

    fn request(&self, method: Method, digest: Digest) -> reqwest::RequestBuilder {
        let url = format!("{}/v1/blobs/sha256/{}", self.base, digest.to_hex());
        self.client.request(method, url).bearer_auth(self.token.get())
    }
}

impl HubBlobs for HttpBlobs {
    fn get(&self, digest: Digest) -> BoxFuture<'_, Result<Option<Blob>, HubError>> {
        Box::pin(async move {
            let answer = self.request(Method::GET, digest).send().await.map_err(unreachable)?;
            match answer.status() {
                StatusCode::OK => Ok(Some(answer.bytes_stream().map(|p| p.map_err(unreachable)).boxed())),
                StatusCode::NOT_FOUND => Ok(None),
                _ => Err(refused(Method::GET, digest, answer).await),
            }
        })
    }

    fn has(&self, digest: Digest) -> BoxFuture<'_, Result<bool, HubError>> {
        Box::pin(async move {
            let answer = self.request(Method::HEAD, digest).send().await.map_err(unreachable)?;
            match answer.status() {
                StatusCode::OK => Ok(true),
                StatusCode::NOT_FOUND => Ok(false),
                _ => Err(refused(Method::HEAD, digest, answer).await),
            }
        })
    }

    fn put(&self, digest: Digest, file: File, size: u64) -> BoxFuture<'_, Result<(), HubError>> {
        Box::pin(async move {
            let body = reqwest::Body::wrap_stream(ReaderStream::with_capacity(file, 256 * 1024));
            let request = self.request(Method::PUT, digest).header(reqwest::header::CONTENT_LENGTH, size);
            let answer = request.body(body).send().await.map_err(unreachable)?;
            match answer.status() {
                StatusCode::OK | StatusCode::CREATED => Ok(()),
                _ => Err(refused(Method::PUT, digest, answer).await),
            }
        })
    }
}

fn unreachable(error: reqwest::Error) -> HubError {
    // reqwest's own text stops at "error sending request"; the cause is what a person needs.
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    HubError::Unreachable(text)
}

async fn refused(method: Method, digest: Digest, answer: reqwest::Response) -> HubError {
    let status = answer.status().as_u16();
    let body = answer.bytes().await.unwrap_or_default();
    let text = crate::runtime::sanitise::line(&String::from_utf8_lossy(&body), 200);
    HubError::Answer { status, method: method.to_string(), digest, text }
}
