//! Who asks, whether he may, and what he is told if not. Layers put [`Agent`] or [`User`] into a request's extensions;
//! handlers take them from there, and cannot be reached without.
use std::future::Future;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use muster_proof::Digest;
use muster_proof::key::PublicKey;
use serde_json::json;

use crate::runtime::sanitise::line;

/// No message is longer.
const MAX_MESSAGE: usize = 1000;

/// The agent of an accepted provider: its certificate's key is pinned and its token is its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    /// Name of the ComputeProvider.
    pub provider: String,
    /// Units of lower epochs are void.
    pub min_epoch: i64,
    /// Fingerprint of the key that it showed.
    pub key: Digest,
}

/// Who writes the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Member {
    /// The hub, by a key of its newest set.
    Hub {
        /// All keys of that set.
        keys: Vec<PublicKey>,
    },
    /// An agent.
    Agent {
        /// Whose.
        agent: Agent,
        /// The key that it showed.
        key: PublicKey,
    },
}

/// A user of the hub cluster, as TokenReview names him.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    /// User name.
    pub name: String,
    /// UID, if it has one.
    pub uid: Option<String>,
    /// Groups.
    pub groups: Vec<String>,
    /// The rest of what SubjectAccessReview takes.
    pub extra: std::collections::BTreeMap<String, Vec<String>>,
}

/// What a user wants to do: a verb on a virtual subresource of TrainingJobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted<'a> {
    /// `get`, `list`, `create`.
    pub verb: &'a str,
    /// `data`, `checkpoints` or `log`.
    pub subresource: &'a str,
    /// Where.
    pub namespace: &'a str,
    /// Of which job, if of one.
    pub name: Option<&'a str>,
}

/// Answers for the API server (SubjectAccessReview). A trait, so that routes can be tested without one.
pub trait Authorizer: Send + Sync + 'static {
    /// Whether `user` may.
    ///
    /// # Errors
    /// 403 `Forbidden` in the words of `kubectl auth can-i`, or 503.
    fn may(&self, user: &User, wanted: &Wanted<'_>) -> impl Future<Output = Result<(), Refusal>> + Send;
}

/// An answer that is no success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP status.
    pub status: StatusCode,
    /// A CamelCase word for programs.
    pub reason: &'static str,
    /// A sentence for people, with the remedy.
    pub message: String,
    /// Seconds after which it may be tried again.
    pub retry_after: Option<u64>,
}

impl Refusal {
    /// With this status.
    pub fn new(status: StatusCode, reason: &'static str, message: impl Into<String>) -> Self {
        Self { status, reason, message: message.into(), retry_after: None }
    }

    /// 400: the request itself is wrong.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    /// 401: no or bad credentials.
    pub fn unauthorized(reason: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, reason, message)
    }

    /// 403: known, but not allowed.
    pub fn forbidden(reason: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, reason, message)
    }

    /// The API server or the store cannot be asked now.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self { retry_after: Some(2), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "Unavailable", message) }
    }

    /// Too many requests.
    pub fn too_many(retry_after: u64) -> Self {
        let message = format!("too many requests; try again in {retry_after} s");
        Self {
            retry_after: Some(retry_after),
            ..Self::new(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", message)
        }
    }
}

/// As [`crate::wire::gateway::Refused`] reads it, and as a `Status`, which is what Kubernetes' clients read behind `/k8s`.
impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = json!({
            "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": self.status.as_u16(),
            "reason": self.reason, "message": line(&self.message, MAX_MESSAGE),
        });
        let mut response = (self.status, Json(body)).into_response();
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::gateway::Refused;

    #[tokio::test]
    async fn a_refusal_reads_as_ours_and_as_kubernetes() {
        let response = Refusal::too_many(3).into_response();
        assert_eq!(response.headers()[header::RETRY_AFTER], "3");
        let bytes = axum::body::to_bytes(response.into_body(), 4096).await.unwrap();
        let ours: Refused = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(ours.reason, "TooManyRequests");
        let status: kube::core::Status = serde_json::from_slice(&bytes).unwrap();
        assert_eq!((status.code, status.reason.as_str()), (429, "TooManyRequests"));
    }
}
