//! The one place that builds Kubernetes clients.
use axum::http::{Request, Response};
use kube::client::{Body, ClientBuilder, DynBody};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use std::future::Future;
use std::path::PathBuf;
use std::sync::{Arc, Once};
use std::time::Duration;
use tower::BoxError;
use tower::util::BoxService;

use super::fence::Fence;

/// How long one ordinary request may take; see [`within`].
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Which cluster, and as whom.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Target {
    /// Kubeconfig file [default: $KUBECONFIG, then ~/.kube/config, then the pod's ServiceAccount]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Context within it [default: its current one]
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
}

/// Why there is no client, or no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ClientError {
    /// The file is missing, is not a kubeconfig, or lacks the context.
    #[error("kubeconfig {path}: {source}; name another with --kubeconfig or --context")]
    Kubeconfig {
        /// The file as the person named it, or `(default)`.
        path: String,
        /// kube's reason.
        #[source]
        source: Arc<kube::config::KubeconfigError>,
    },
    /// Neither a kubeconfig nor a pod's ServiceAccount was found.
    #[error("no cluster is configured: {0}; name a kubeconfig with --kubeconfig")]
    Infer(#[source] Arc<kube::config::InferConfigError>),
    /// The configuration was read, but no client could be made of it (a broken certificate, for example).
    #[error("cannot make a client for {url}: {source}")]
    Build {
        /// The API server.
        url: String,
        /// kube's reason.
        #[source]
        source: Arc<kube::Error>,
    },
    /// A request did not finish in time.
    #[error("{what}: no answer within {seconds} s")]
    Timeout {
        /// What was asked.
        what: String,
        /// The limit.
        seconds: u64,
    },
    /// The API server refused a request, or could not be reached.
    #[error("{what}: {source}")]
    Request {
        /// What was asked.
        what: String,
        /// kube's reason.
        #[source]
        source: Arc<kube::Error>,
    },
}

/// Whether the API server has said that nothing was done. Any other error leaves open what there is now.
#[must_use]
pub fn is_refusal(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code < 500)
}

/// Makes ring the process's TLS provider, once. rustls refuses to guess between providers, and every client and server
/// here needs one; call it first in `main` and in tests.
pub fn install_crypto() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // An error means that some provider was installed before: it serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

impl Target {
    /// The configuration of this target with Muster's timeouts.
    ///
    /// # Errors
    /// [`ClientError::Kubeconfig`] or [`ClientError::Infer`].
    pub async fn config(&self) -> Result<Config, ClientError> {
        let options = KubeConfigOptions { context: self.context.clone(), ..Default::default() };
        let kubeconfig_error = |source| ClientError::Kubeconfig {
            path: self.kubeconfig.as_ref().map_or("(default)".into(), |p| p.display().to_string()),
            source: Arc::new(source),
        };
        let mut config = match &self.kubeconfig {
            Some(path) => {
                let file = Kubeconfig::read_from(path).map_err(kubeconfig_error)?;
                Config::from_custom_kubeconfig(file, &options).await.map_err(kubeconfig_error)?
            }
            None if self.context.is_some() => {
                Config::from_kubeconfig(&options).await.map_err(kubeconfig_error)?
            }
            None => Config::infer().await.map_err(|e| ClientError::Infer(Arc::new(e)))?,
        };
        harden(&mut config);
        Ok(config)
    }

    /// A client of this target for answers that may be silent for long, as a log that is followed is. Whoever reads one bounds
    /// it himself.
    ///
    /// # Errors
    /// See [`ClientError`]. No request is made yet.
    pub async fn patient_client(&self) -> Result<Client, ClientError> {
        let mut config = self.config().await?;
        config.read_timeout = None;
        build(config)
    }

    /// A client of this target.
    ///
    /// # Errors
    /// See [`ClientError`]. No request is made yet.
    pub async fn client(&self) -> Result<Client, ClientError> {
        client_of(self.config().await?)
    }
}

/// A client of a configuration that was read or built elsewhere (an agent's, for example).
///
/// # Errors
/// [`ClientError::Build`].
pub fn client_of(mut config: Config) -> Result<Client, ClientError> {
    harden(&mut config);
    build(config)
}

/// The same, which writes only while the fence lets it.
///
/// # Errors
/// [`ClientError::Build`].
pub fn fenced_client_of(mut config: Config, fence: &Fence) -> Result<Client, ClientError> {
    harden(&mut config);
    Ok(builder(config)?.with_layer(fence).build())
}

fn build(config: Config) -> Result<Client, ClientError> {
    Ok(builder(config)?.build())
}

fn builder(config: Config) -> Result<ClientBuilder<GenericService>, ClientError> {
    install_crypto();
    let url = config.cluster_url.to_string();
    ClientBuilder::try_from(config).map_err(|source| ClientError::Build { url, source: Arc::new(source) })
}

/// What kube lays its own layers around.
type GenericService = BoxService<Request<Body>, Response<Box<DynBody>>, BoxError>;

fn harden(config: &mut Config) {
    // kube's own retry obeys any Retry-After, without a cap: an untrusted or overloaded server could park a controller
    // for hours. Controllers retry by their own backoff.
    config.default_retry = false;
    config.connect_timeout = Some(Duration::from_secs(5));
    config.write_timeout = Some(Duration::from_secs(30));
    // Counts between bytes, also on watches, which carry a bookmark about once a minute: a black hole is noticed after
    // three silent minutes. Ordinary requests are bounded by `within`.
    config.read_timeout = Some(Duration::from_secs(180));
    config.reset_reader_on_write = true;
    // A proxy named by the environment would see every request of a process that holds tokens.
    config.proxy_url = None;
}

/// Bounds one request; `what` names it in the error (`get configmap muster-system/muster-hub-public`).
///
/// # Errors
/// [`ClientError::Timeout`] after [`REQUEST_TIMEOUT`], [`ClientError::Request`] when the server refuses.
pub async fn within<T>(
    what: &str,
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, ClientError> {
    match tokio::time::timeout(REQUEST_TIMEOUT, request).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(source)) => Err(ClientError::Request { what: what.into(), source: Arc::new(source) }),
        Err(_) => Err(ClientError::Timeout { what: what.into(), seconds: REQUEST_TIMEOUT.as_secs() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[tokio::test]
    async fn missing_file_is_named_with_a_remedy() {
        let target = Target { kubeconfig: Some(Path::new("/nonexistent/k").into()), context: None };
        let text = target.config().await.unwrap_err().to_string();
        assert!(text.contains("/nonexistent/k") && text.contains("--kubeconfig"), "{text}");
    }

    #[tokio::test]
    async fn retry_is_off_and_timeouts_are_set() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        std::fs::write(
            &path,
            "clusters: [{name: c, cluster: {server: 'https://127.0.0.1:1'}}]\nusers: [{name: u, user: {token: t}}]\n\
             contexts: [{name: a, context: {cluster: c, user: u}}]\ncurrent-context: a\n",
        )
        .unwrap();
        let target = Target { kubeconfig: Some(path.clone()), context: None };
        let config = target.config().await.unwrap();
        assert!(!config.default_retry && config.read_timeout.is_some() && config.proxy_url.is_none());
        client_of(config).unwrap();
        let target = Target { kubeconfig: Some(path), context: Some("b".into()) };
        assert!(target.config().await.is_err());
    }
}
