//! Who holds a token, and what a user may: the API server's words (TokenReview, SubjectAccessReview). Answers about tokens are
//! remembered for a few seconds, by the token's hash; the tokens themselves are not kept.
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, header};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};
use muster_proof::Digest;
use tokio::sync::Semaphore;

use super::access::{Authorizer, Refusal, User, Wanted};
use crate::runtime::client::{ClientError, within};
use crate::wire::gateway::GATEWAY_AUDIENCE;

/// How long an answer is believed.
const REMEMBER: Duration = Duration::from_secs(10);
/// How many answers are remembered; beyond it all are forgotten, which costs reviews, not safety.
const REMEMBER_AT_MOST: usize = 4096;
/// No token is longer.
const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// For whom a token must have been made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Audience {
    /// The gateway: an agent's second token.
    Gateway,
    /// The API server: a user's.
    Api,
}

type Remembered = (Instant, Result<User, Refusal>);

/// Asks the API server.
pub struct Reviews {
    client: Client,
    remembered: Mutex<HashMap<(Audience, Digest), Remembered>>,
}

impl Reviews {
    /// Needs `create tokenreviews`.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client, remembered: Mutex::default() }
    }

    /// What is still remembered of a token.
    pub fn known(&self, token: &str, audience: Audience) -> Option<Result<User, Refusal>> {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (audience, Digest::of(token.as_bytes()));
        match remembered.get(&key) {
            Some((when, answer)) if when.elapsed() < REMEMBER => Some(answer.clone()),
            Some(_) => {
                remembered.remove(&key);
                None
            }
            None => None,
        }
    }

    /// Who holds `token`. At most as many reviews run at once as `slots` has.
    ///
    /// # Errors
    /// 401 `BadToken`, 503.
    pub async fn review(&self, token: &str, audience: Audience, slots: &Semaphore) -> Result<User, Refusal> {
        if let Some(known) = self.known(token, audience) {
            return known;
        }
        let _slot = slots.acquire().await.map_err(|error| Refusal::unavailable(error.to_string()))?;
        // Another request with the same token may have asked while this one waited.
        if let Some(known) = self.known(token, audience) {
            return known;
        }
        let answer = self.ask(token, audience).await.map_err(|error| unavailable(&error))?;
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.len() >= REMEMBER_AT_MOST {
            remembered.clear();
        }
        remembered.insert((audience, Digest::of(token.as_bytes())), (Instant::now(), answer.clone()));
        answer
    }

    async fn ask(&self, token: &str, audience: Audience) -> Result<Result<User, Refusal>, ClientError> {
        let audiences = match audience {
            Audience::Gateway => Some(vec![GATEWAY_AUDIENCE.to_owned()]),
            Audience::Api => None,
        };
        let ask = TokenReview {
            spec: TokenReviewSpec { token: Some(token.to_owned()), audiences: audiences.clone() },
            ..Default::default()
        };
        let reviews: Api<TokenReview> = Api::all(self.client.clone());
        let answer = within("create tokenreview", reviews.create(&PostParams::default(), &ask)).await?;
        let status = answer.status.unwrap_or_default();
        // An authenticator that knows no audiences says yes to any token; it must name ours to be believed.
        let meant = |named: &[String]| audiences.iter().flatten().all(|wanted| named.contains(wanted));
        let good = status.authenticated == Some(true) && meant(status.audiences.as_deref().unwrap_or(&[]));
        let user = status.user.filter(|_| good).unwrap_or_default();
        let Some(name) = user.username.filter(|name| !name.is_empty()) else {
            return Ok(Err(bad_token(audience)));
        };
        let (groups, extra) = (user.groups.unwrap_or_default(), user.extra.unwrap_or_default());
        Ok(Ok(User { name, uid: user.uid, groups, extra }))
    }
}

/// The bearer token of a request.
///
/// # Errors
/// 401: there is none, more than one, or it cannot be a token.
pub fn bearer(headers: &HeaderMap, audience: Audience) -> Result<&str, Refusal> {
    let mut all = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (all.next(), all.next()) else {
        return Err(Refusal::unauthorized("TokenNeeded", "one Authorization: Bearer is needed"));
    };
    let token = value.to_str().ok().and_then(|value| value.split_once(' ')).and_then(|(scheme, token)| {
        let fits = !token.is_empty() && token.len() <= MAX_TOKEN_BYTES && !token.contains(' ');
        (scheme.eq_ignore_ascii_case("bearer") && fits).then_some(token)
    });
    token.ok_or_else(|| bad_token(audience))
}

fn bad_token(audience: Audience) -> Refusal {
    let message = match audience {
        Audience::Gateway => {
            "this token is not valid (any more) for the gateway; get another from /v1/tokens"
        }
        Audience::Api => {
            "this token is not valid (any more) for this cluster; make one, for example with \
             `kubectl create token`"
        }
    };
    Refusal::unauthorized("BadToken", message)
}

/// 503: the API server did not answer, or not as it should.
pub fn unavailable(error: &ClientError) -> Refusal {
    tracing::warn!(%error, "the API server cannot be asked");
    Refusal::unavailable("the hub's API server cannot be asked now; try again")
}

/// SubjectAccessReview.
#[derive(Clone)]
pub struct KubeAuthorizer {
    client: Client,
}

impl KubeAuthorizer {
    /// Needs `create subjectaccessreviews`.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client }
    }
}

impl Authorizer for KubeAuthorizer {
    async fn may(&self, user: &User, wanted: &Wanted<'_>) -> Result<(), Refusal> {
        let attributes = ResourceAttributes {
            group: Some("muster.dev".into()),
            resource: Some("trainingjobs".into()),
            subresource: Some(wanted.subresource.into()),
            verb: Some(wanted.verb.into()),
            namespace: Some(wanted.namespace.into()),
            name: wanted.name.map(Into::into),
            ..Default::default()
        };
        let ask = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(user.name.clone()),
                uid: user.uid.clone(),
                groups: Some(user.groups.clone()),
                extra: Some(user.extra.clone()),
                resource_attributes: Some(attributes),
                ..Default::default()
            },
            ..Default::default()
        };
        let reviews: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let answer = within("create subjectaccessreview", reviews.create(&PostParams::default(), &ask)).await;
        let answer = answer.map_err(|error| unavailable(&error))?;
        if answer.status.is_some_and(|status| status.allowed && status.denied != Some(true)) {
            return Ok(());
        }
        let Wanted { verb, subresource, namespace, name } = wanted;
        let of = name.map_or_else(String::new, |name| format!("/{name}"));
        Err(Refusal::forbidden(
            "Forbidden",
            format!(
                "{} cannot {verb} trainingjobs{of} --subresource={subresource} in namespace {namespace}; ask its \
                 admin for that right (kubectl auth can-i {verb} trainingjobs{of} --subresource={subresource} \
                 -n {namespace})",
                user.name
            ),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn a_bearer_token_is_one_word_and_comes_once() {
        let read = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, HeaderValue::from_str(value).unwrap());
            }
            bearer(&headers, Audience::Gateway).map(str::to_owned).map_err(|refusal| refusal.reason)
        };
        assert_eq!(read(&["Bearer abc"]), Ok("abc".into()));
        assert_eq!(read(&["bearer abc"]), Ok("abc".into()));
        let long = format!("Bearer {}", "x".repeat(MAX_TOKEN_BYTES + 1));
        for bad in ["Basic abc", "Bearer", "Bearer ", "abc", "Bearer a b", &long] {
            assert_eq!(read(&[bad]), Err("BadToken"), "{bad}");
        }
        assert_eq!(read(&[]), Err("TokenNeeded"));
        assert_eq!(read(&["Bearer a", "Bearer b"]), Err("TokenNeeded"));
    }
}
