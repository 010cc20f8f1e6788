//! The blob service (docs/spec/protocol.md section 4): `GET`, `HEAD`, `PUT /v1/blobs/sha256/{hex}` for agents, `/healthz` for
//! anyone. HTTPS only.
pub mod auth;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use axum_server::Handle;
use axum_server::tls_rustls::RustlsConfig;
use muster_proof::Digest;

use self::auth::{Authenticator, Denied, Reviewer};
use super::store::{MAX_BLOB_BYTES, Store};
use crate::runtime::Shutdown;

/// How long open uploads may go on after a stop was asked for.
const DRAIN: Duration = Duration::from_secs(5);

struct Service<R> {
    store: Arc<Store>,
    auth: Authenticator<R>,
}

/// The routes, without TLS.
pub fn router<R: Reviewer>(store: Arc<Store>, auth: Authenticator<R>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/v1/blobs/sha256/{hex}", any(blob::<R>))
        // Blobs are streamed and capped by the store; nothing else here has a body.
        .layer(DefaultBodyLimit::disable())
        .with_state(Arc::new(Service { store, auth }))
}

/// Serves until a stop is asked for, then lets open requests end for a few seconds.
///
/// # Errors
/// When the address cannot be listened on.
pub async fn serve<R: Reviewer>(
    listen: SocketAddr,
    tls: RustlsConfig,
    store: Arc<Store>,
    auth: Authenticator<R>,
    shutdown: Shutdown,
) -> std::io::Result<()> {
    let handle = Handle::new();
    let stopper = handle.clone();
    tokio::spawn(async move {
        shutdown.wait().await;
        stopper.graceful_shutdown(Some(DRAIN));
    });
    axum_server::bind_rustls(listen, tls).handle(handle).serve(router(store, auth).into_make_service()).await
}

async fn blob<R: Reviewer>(
    State(service): State<Arc<Service<R>>>,
    method: Method,
    Path(hex): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let token = headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok()).and_then(bearer);
    let provider = match service.auth.agent(token).await {
        Ok(provider) => provider,
        Err(denied) => return refuse(&denied),
    };
    let Ok(digest) = Digest::from_hex(&hex) else {
        return (StatusCode::BAD_REQUEST, "the path ends with 64 lower-case hex digits\n").into_response();
    };
    if method == Method::GET {
        return service.store.blobs().answer(&digest, true).await;
    }
    let store = &service.store;
    let response = if method == Method::HEAD {
        store.blobs().answer(&digest, false).await
    } else if method == Method::PUT {
        let response = store.blobs().answer_put(&digest, body, MAX_BLOB_BYTES).await;
        tracing::debug!(%provider, %digest, status = response.status().as_u16(), "blob put");
        response
    } else {
        return (StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, "GET, HEAD, PUT")]).into_response();
    };
    // "It is there" is a promise until the agent has named it in a checkpoint: tell garbage collection.
    if response.status().is_success()
        && let Err(error) = store.touch(&digest).await
    {
        tracing::warn!(%digest, %error, "cannot mark a blob as wanted");
    }
    response
}

fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

fn refuse(denied: &Denied) -> Response {
    let status = match denied {
        Denied::NoToken | Denied::BadToken => StatusCode::UNAUTHORIZED,
        Denied::NotAnAgent(_) | Denied::Revoked(_) => StatusCode::FORBIDDEN,
        Denied::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, format!("{denied}\n")).into_response()
}

#[cfg(test)]
mod tests;
