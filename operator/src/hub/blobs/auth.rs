//! Who asks: the token is shown to the API server (TokenReview), the provider must exist and not be revoked. Answers are
//! remembered for a few seconds, by the token's hash.
use std::collections::HashMap;
use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};
use muster_api::v1alpha1::{ComputeProvider, Scheduling};
use muster_proof::Digest;
use tokio::sync::Semaphore;

use super::super::names::AGENT_USER_PREFIX;
use crate::runtime::client::within;

/// How long an answer is believed; also how long a revoked provider may still be let in.
const REMEMBER: Duration = Duration::from_secs(10);
/// How many answers are remembered; beyond it all are forgotten, which costs reviews, not safety.
const REMEMBER_AT_MOST: usize = 4096;
/// How many reviews run at once, so that a flood of wrong tokens does not become a flood at the API server.
const REVIEWS_AT_ONCE: usize = 8;
/// No token is longer.
const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// No `Authorization: Bearer`.
    #[error("a bearer token is needed: the one of the provider's join file")]
    NoToken,
    /// The API server does not know the token.
    #[error("this token is not valid (any more); get a new join file from the hub's admin")]
    BadToken,
    /// A valid token of somebody else.
    #[error("{0} is not an agent")]
    NotAnAgent(String),
    /// The provider is gone or revoked.
    #[error("provider {0} is revoked or deleted")]
    Revoked(String),
    /// The API server did not answer.
    #[error("cannot check the token now: {0}")]
    Unavailable(String),
}

/// Asks who a token belongs to. A trait, so that the service can be tested without an API server.
pub trait Reviewer: Send + Sync + 'static {
    /// The provider whose agent holds `token`.
    fn review(&self, token: &str) -> impl Future<Output = Result<String, Denied>> + Send;
}

/// When it was asked, and the answer.
type Remembered = (Instant, Result<String, Denied>);

/// A [`Reviewer`] with a memory.
pub struct Authenticator<R> {
    reviewer: R,
    remembered: Mutex<HashMap<Digest, Remembered>>,
    slots: Semaphore,
}

impl<R: Reviewer> Authenticator<R> {
    /// Remembers nothing yet.
    pub fn new(reviewer: R) -> Self {
        Self { reviewer, remembered: Mutex::default(), slots: Semaphore::new(REVIEWS_AT_ONCE) }
    }

    /// The provider whose agent holds `token`.
    ///
    /// # Errors
    /// [`Denied`].
    pub async fn agent(&self, token: Option<&str>) -> Result<String, Denied> {
        let token = token.ok_or(Denied::NoToken)?;
        if token.len() > MAX_TOKEN_BYTES {
            return Err(Denied::BadToken);
        }
        let key = Digest::of(token.as_bytes());
        if let Some(known) = self.known(&key) {
            return known;
        }
        let _slot = self.slots.acquire().await.map_err(|e| Denied::Unavailable(e.to_string()))?;
        // Another request with the same token may have asked while this one waited.
        if let Some(known) = self.known(&key) {
            return known;
        }
        let answer = self.reviewer.review(token).await;
        if !matches!(answer, Err(Denied::Unavailable(_))) {
            let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
            if remembered.len() >= REMEMBER_AT_MOST {
                remembered.clear();
            }
            remembered.insert(key, (Instant::now(), answer.clone()));
        }
        answer
    }

    fn known(&self, key: &Digest) -> Option<Result<String, Denied>> {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        match remembered.get(key) {
            Some((when, answer)) if when.elapsed() < REMEMBER => Some(answer.clone()),
            Some(_) => {
                remembered.remove(key);
                None
            }
            None => None,
        }
    }
}

/// Asks the hub's API server.
pub struct KubeReviewer {
    client: Client,
}

impl KubeReviewer {
    /// Needs `create tokenreviews` and `get computeproviders`.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client }
    }
}

impl Reviewer for KubeReviewer {
    async fn review(&self, token: &str) -> Result<String, Denied> {
        let ask = TokenReview {
            spec: TokenReviewSpec { token: Some(token.to_owned()), ..Default::default() },
            ..Default::default()
        };
        let unavailable = |error: crate::runtime::client::ClientError| {
            tracing::warn!(error = %error, "token review failed");
            Denied::Unavailable("the API server does not answer".into())
        };
        let reviews: Api<TokenReview> = Api::all(self.client.clone());
        let params = PostParams::default();
        let answer =
            within("create tokenreview", reviews.create(&params, &ask)).await.map_err(unavailable)?;
        let status = answer.status.unwrap_or_default();
        let user = status.user.and_then(|user| user.username);
        let Some(user) = user.filter(|_| status.authenticated == Some(true)) else {
            return Err(Denied::BadToken);
        };
        let Some(provider) = user.strip_prefix(AGENT_USER_PREFIX) else {
            return Err(Denied::NotAnAgent(user));
        };
        let providers: Api<ComputeProvider> = Api::all(self.client.clone());
        let found = within("get computeprovider", providers.get_opt(provider)).await.map_err(unavailable)?;
        match found {
            Some(found) if found.spec.scheduling != Scheduling::Revoked => Ok(provider.to_owned()),
            _ => Err(Denied::Revoked(provider.to_owned())),
        }
    }
}
