//! What a kubelet and a Prometheus ask a process: `/healthz`, `/readyz`, `/metrics`, in plain HTTP for the cluster's own network.
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use anyhow::Context as _;
use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;

use super::Shutdown;

/// Whether the process can do its work; if not, why.
pub type Ready = Arc<dyn Fn() -> Result<(), &'static str> + Send + Sync>;
/// What is counted, as OpenMetrics text.
pub type Metrics = Arc<dyn Fn() -> String + Send + Sync>;

/// Serves for as long as the process lives, if there is an address.
///
/// # Errors
/// It cannot be listened on.
pub fn start(address: Option<SocketAddr>, ready: Ready, metrics: Metrics) -> anyhow::Result<()> {
    let Some(address) = address else { return Ok(()) };
    let listener = TcpListener::bind(address).with_context(|| format!("--metrics-listen {address}"))?;
    tokio::spawn(serve(listener, ready, metrics, Shutdown::manual()));
    Ok(())
}

/// Serves until `shutdown`. A process that answers is alive.
///
/// # Errors
/// The socket.
pub async fn serve(
    listener: TcpListener,
    ready: Ready,
    metrics: Metrics,
    shutdown: Shutdown,
) -> std::io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    axum::serve(listener, app(ready, metrics)).with_graceful_shutdown(shutdown.wait()).await
}

fn app(ready: Ready, metrics: Metrics) -> Router {
    let readyz = move || {
        let answer = ready();
        async move {
            match answer {
                Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
                Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
            }
        }
    };
    let text = move || {
        let text = metrics();
        async move { ([(header::CONTENT_TYPE, OPENMETRICS)], text).into_response() }
    };
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(text))
}

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use axum::body::{Body, to_bytes};
    use axum::http::Request;
    use tower::ServiceExt as _;

    use super::*;

    async fn ask(app: &Router, path: &str) -> (u16, String) {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let answer = app.clone().oneshot(request).await.unwrap();
        let status = answer.status().as_u16();
        let body = to_bytes(answer.into_body(), 1 << 10).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn readiness_says_why_not_and_follows_the_process() {
        let is_ready = Arc::new(AtomicBool::new(false));
        let looks = is_ready.clone();
        let ready = move || {
            if looks.load(Ordering::Relaxed) { Ok(()) } else { Err("the API server has not answered") }
        };
        let app = app(Arc::new(ready), Arc::new(|| "# EOF\n".to_owned()));
        assert_eq!(ask(&app, "/healthz").await, (200, "ok\n".to_owned()));
        assert_eq!(ask(&app, "/readyz").await, (503, "the API server has not answered\n".to_owned()));
        is_ready.store(true, Ordering::Relaxed);
        assert_eq!(ask(&app, "/readyz").await, (200, "ok\n".to_owned()));
        assert_eq!(ask(&app, "/metrics").await, (200, "# EOF\n".to_owned()));
        assert_eq!(ask(&app, "/").await.0, 404);
    }
}
