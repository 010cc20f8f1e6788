//! The gateway's endpoints as typed calls (docs/spec/gateway.md). No state and no tokens here: [`super::session`] has those.
use std::time::Duration;

use axum::http::HeaderValue;
use reqwest::{Method, RequestBuilder, Response, header};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::runtime::answer::{self, Refusal};
use crate::wire::gateway::{
    Challenge, Heartbeat, HeartbeatAnswer, HubPublic, JoinAnswer, JoinRequest, RecoverAnswer, RecoverRequest,
    TokensAnswer, TokensRequest,
};

/// One small request may take this long.
const TIMEOUT: Duration = Duration::from_secs(10);
/// No answer that is read whole is longer.
const MAX_BODY: usize = 1 << 20;

/// Why the gateway did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GatewayError {
    /// Not reached, or not answered in time: try again.
    #[error("the gateway is not reachable: {0}")]
    Unreachable(String),
    /// It answered, and said no.
    #[error("the gateway says {status} {reason}: {message}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// Its CamelCase word; empty if it gave none.
        reason: String,
        /// For people; sanitised.
        message: String,
        /// When it may be tried again; capped.
        retry_after: Option<Duration>,
    },
    /// It answered with something that this version does not know.
    #[error(
        "the gateway's answer to {what} is not one: {problem}; gateway and agent must be of the same release"
    )]
    Malformed {
        /// What was asked.
        what: &'static str,
        /// What is wrong with the answer.
        problem: String,
    },
}

impl GatewayError {
    /// The reason of a refusal.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Refused { reason, .. } => Some(reason),
            _ => None,
        }
    }

    /// The status of a refusal.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// Whether waiting may help: nobody answered, too many asked, or something behind the gateway is down.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable(_) => true,
            Self::Refused { status, .. } => answer::is_transient(*status),
            Self::Malformed { .. } => false,
        }
    }

    /// How long the gateway asked us to stay away.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// A gateway and how to reach it.
#[derive(Debug, Clone)]
pub struct Gateway {
    client: reqwest::Client,
    base: String,
}

impl Gateway {
    /// The gateway at `url`, through a client of [`super::pin`].
    #[must_use]
    pub fn new(client: reqwest::Client, url: &str) -> Self {
        Self { client, base: url.trim_end_matches('/').to_owned() }
    }

    /// A request for a path that begins with `/`.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.base))
    }

    /// `GET /healthz`; its headers are what the doctor reads.
    ///
    /// # Errors
    /// [`GatewayError`].
    pub async fn health(&self) -> Result<Response, GatewayError> {
        let answer = self.request(Method::GET, "/healthz").timeout(TIMEOUT).send().await;
        accepted(answer.map_err(unreachable)?).await
    }

    /// `GET /v1/hub`.
    ///
    /// # Errors
    /// [`GatewayError`].
    pub async fn hub(&self) -> Result<HubPublic, GatewayError> {
        self.ask("GET /v1/hub", self.request(Method::GET, "/v1/hub")).await
    }

    /// `POST /v1/join`.
    ///
    /// # Errors
    /// [`GatewayError`].
    pub async fn join(&self, request: &JoinRequest) -> Result<JoinAnswer, GatewayError> {
        self.post("POST /v1/join", "/v1/join", request).await
    }

    /// `POST /v1/challenge`.
    ///
    /// # Errors
    /// [`GatewayError`].
    pub async fn challenge(&self) -> Result<Challenge, GatewayError> {
        let request = self.request(Method::POST, "/v1/challenge").header(header::CONTENT_LENGTH, 0);
        self.ask("POST /v1/challenge", request).await
    }

    /// `POST /v1/tokens`.
    ///
    /// # Errors
    /// [`GatewayError`].
    pub async fn tokens(&self, request: &TokensRequest) -> Result<TokensAnswer, GatewayError> {
        self.post("POST /v1/tokens", "/v1/tokens", request).await
    }

    /// `POST /v1/heartbeat` with the gateway's token.
    ///
    /// # Errors
    /// [`GatewayError`].
    pub async fn heartbeat(&self, authorization: HeaderValue) -> Result<HeartbeatAnswer, GatewayError> {
        let beat = Heartbeat { agent_version: env!("CARGO_PKG_VERSION").to_owned() };
        let request =
            self.request(Method::POST, "/v1/heartbeat").header(header::AUTHORIZATION, authorization);
        self.ask("POST /v1/heartbeat", request.json(&beat)).await
    }

    /// `POST /v1/recover` with the gateway's token.
    ///
    /// # Errors
    /// [`GatewayError`].
    pub async fn recover(
        &self,
        authorization: HeaderValue,
        request: &RecoverRequest,
    ) -> Result<RecoverAnswer, GatewayError> {
        let post = self.request(Method::POST, "/v1/recover").header(header::AUTHORIZATION, authorization);
        self.ask("POST /v1/recover", post.json(request)).await
    }

    async fn post<T: DeserializeOwned>(
        &self,
        what: &'static str,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, GatewayError> {
        self.ask(what, self.request(Method::POST, path).json(body)).await
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        what: &'static str,
        request: RequestBuilder,
    ) -> Result<T, GatewayError> {
        let answer = accepted(request.timeout(TIMEOUT).send().await.map_err(unreachable)?).await?;
        read(what, answer).await
    }
}

/// The JSON of an answer.
///
/// # Errors
/// [`GatewayError::Malformed`], and what breaks off or is too long.
pub async fn read<T: DeserializeOwned>(what: &'static str, answer: Response) -> Result<T, GatewayError> {
    let bytes = answer::capped(answer, MAX_BODY).await.map_err(GatewayError::Unreachable)?;
    serde_json::from_slice(&bytes).map_err(|error| {
        // Where, not what: serde's text may quote a token.
        let problem =
            format!("{:?} error at line {} column {}", error.classify(), error.line(), error.column());
        GatewayError::Malformed { what, problem }
    })
}

/// The answer if it is a success, else what it says.
///
/// # Errors
/// [`GatewayError::Refused`].
async fn accepted(answer: Response) -> Result<Response, GatewayError> {
    if answer.status().is_success() {
        return Ok(answer);
    }
    Err(refusal(answer).await)
}

/// What an answer that is no success says; text by the other end is sanitised.
pub async fn refusal(answer: Response) -> GatewayError {
    let Refusal { status, reason, message, retry_after } = Refusal::read(answer, MAX_BODY).await;
    GatewayError::Refused { status, reason, message, retry_after }
}

/// The gateway was not reached, or broke off.
pub fn unreachable(error: reqwest::Error) -> GatewayError {
    GatewayError::Unreachable(answer::unreachable(error))
}
