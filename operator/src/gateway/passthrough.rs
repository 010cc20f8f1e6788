//! `/k8s` (section 4): a provider's agent reaches the hub's API server with its own token, for a short list of requests in its own
//! namespace. The list is the first wall, RBAC the second.
//!
//! Nothing is forwarded as it came: path and headers are built anew from what was understood. The client that is used here has no
//! credentials of its own.
mod allow;

pub use allow::target;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use kube::client::Body as KubeBody;

use super::Shared;
use super::access::Refusal;
use super::body::whole;
use super::providers::Admitted;
use super::reviews::{Audience, bearer};

/// No body of a request is longer.
const MAX_BODY: usize = 256 * 1024;
/// No other header of an answer is handed on.
const ANSWERED: [HeaderName; 4] =
    [header::CONTENT_TYPE, header::CONTENT_LENGTH, header::RETRY_AFTER, header::WARNING];

/// The handler: behind [`super::layers::by_key`], which admits the provider and cuts what streams.
pub async fn forward(
    State(gateway): State<Shared>,
    Extension(admitted): Extension<Admitted>,
    request: Request,
) -> Result<Response, Refusal> {
    let (parts, body) = request.into_parts();
    let target = allow::target(&parts.method, &parts.uri, &parts.headers, &admitted.provider)
        .map_err(|why| Refusal::forbidden("NotAllowed", why))?;
    // Whether the token is good, and whose it is, the API server says.
    let token = bearer(&parts.headers, Audience::Gateway)?;
    let has_body = matches!(parts.method, Method::PATCH | Method::PUT);
    let body = if has_body { whole(body, MAX_BODY).await? } else { axum::body::Bytes::new() };
    let request = axum::http::Request::builder()
        .method(parts.method)
        .uri(target)
        .header(header::AUTHORIZATION, secret(token)?);
    let request =
        [header::ACCEPT, header::CONTENT_TYPE].into_iter().fold(request, |request, name| {
            match parts.headers.get(&name) {
                Some(value) => request.header(name, value),
                None => request,
            }
        });
    let request =
        request.body(KubeBody::from(body)).map_err(|error| Refusal::bad_request(error.to_string()))?;
    let answer = gateway.anonymous.send(request).await.map_err(|error| {
        tracing::warn!(%error, provider = admitted.provider, "the API server cannot be reached for an agent");
        Refusal::unavailable("the hub's API server cannot be reached now; try again")
    })?;
    Ok(hand_on(answer))
}

fn secret(token: &str) -> Result<HeaderValue, Refusal> {
    let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
        .map_err(|_| Refusal::unauthorized("BadToken", "the token has characters that no token has"))?;
    value.set_sensitive(true);
    Ok(value)
}

fn hand_on(answer: axum::http::Response<KubeBody>) -> Response {
    let (parts, body) = answer.into_parts();
    // 101 would be the begin of something that is not HTTP; it was not asked for.
    if parts.status.is_informational() || parts.status.is_redirection() {
        return Refusal::new(
            StatusCode::BAD_GATEWAY,
            "BadGateway",
            "the API server gave an unexpected answer",
        )
        .into_response();
    }
    let mut headers = HeaderMap::new();
    for name in ANSWERED {
        for value in parts.headers.get_all(&name) {
            headers.append(&name, value.clone());
        }
    }
    (parts.status, headers, Body::new(body)).into_response()
}
