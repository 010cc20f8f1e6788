//! A hub's gateway as a user's commands reach it: its URL and CA, the user's token, requests that are tried again.
use super::Failure;
use crate::log::client::{HttpLog, Plain};
use crate::runtime::client::{ClientError, Target, within};
use crate::runtime::files::read_capped;
use crate::runtime::sanitise;
use crate::runtime::tls::pinned_client;
use crate::wire::gateway::{GATEWAY_PUBLIC, GatewayPublic, Refused};
use axum::body::Bytes;
use axum::http::{HeaderValue, Request, Response};
use clap::Args;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::client::{AuthError, Body, ConfigExt};
use reqwest::{Method, StatusCode, header};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tower::{BoxError, Layer, ServiceExt};

/// Tries of one request that could not be answered, and the first pause between two; it doubles.
const TRIES: u32 = 6;
const PAUSE: Duration = Duration::from_secs(1);
/// No pause is longer, whatever the other side says.
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// Nothing at all happens on a connection for so long: it is given up. Time to make 64 MiB durable is part of it.
pub const SILENCE: Duration = Duration::from_secs(60);
/// A JSON answer is no longer.
const MAX_ANSWER: usize = 64 << 20;
const MAX_TOKEN: u64 = 16 * 1024;

/// Which hub, and as whom.
#[derive(Debug, Clone, Args)]
pub struct Remote {
    #[command(flatten)]
    target: Target,
    /// URL of the hub's gateway [default: what ConfigMap muster-system/muster-gateway-public says]
    #[arg(long, value_name = "URL", requires = "gateway_ca")]
    gateway: Option<String>,
    /// The gateway's CA certificate, PEM
    #[arg(long, value_name = "FILE", requires = "gateway")]
    gateway_ca: Option<PathBuf>,
    /// File with a token of the hub's cluster [default: the kubeconfig user's token]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

/// A gateway and a user of it.
pub struct Gateway {
    http: reqwest::Client,
    base: String,
    credential: Credential,
}

/// Where a token comes from. It is asked for before each request: a transfer may outlive many tokens.
enum Credential {
    File(PathBuf),
    /// The kubeconfig's own: a token, a file, or what an exec plugin prints, renewed by kube when it is due.
    Kubeconfig(kube::client::middleware::AuthLayer),
}

/// Why a request did not succeed.
pub enum Trouble {
    /// It may, next time; after a pause if the gateway asked for one.
    Passing(String, Option<Duration>),
    /// The gateway said no.
    Refused(StatusCode, Refused),
    /// Nothing that trying again would change.
    Fatal(Failure),
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Self::Fatal(failure)
    }
}

impl From<Trouble> for Failure {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Passing(text, _) => {
                Self::new(format!("{text}; the same command goes on where this one stopped"))
            }
            Trouble::Refused(status, refused) => {
                let reason = sanitise::line(&refused.reason, 63);
                let message = sanitise::line(&refused.message, 500);
                Self::new(format!("the gateway says {} {reason}: {message}", status.as_u16()))
            }
            Trouble::Fatal(failure) => failure,
        }
    }
}

impl Remote {
    /// Finds gateway and token. The gateway is asked nothing yet.
    pub async fn connect(&self) -> Result<Gateway, Failure> {
        let credential = match &self.token_file {
            Some(path) => Credential::File(path.clone()),
            None => self.kubeconfig_credential().await?,
        };
        // A missing or unusable token is said now, not after a large file was read.
        credential.header().await?;
        let (url, ca) = match (&self.gateway, &self.gateway_ca) {
            (Some(url), Some(ca)) => (url.clone(), read_text(ca, 1 << 20)?),
            _ => self.published().await?,
        };
        if !url.starts_with("https://") {
            return Err(Failure::usage(format!("--gateway {url}: must be https://HOST:PORT")));
        }
        Ok(Gateway { http: pinned_client(&ca)?, base: url.trim_end_matches('/').to_owned(), credential })
    }

    /// The namespace of the kubeconfig's context.
    pub async fn namespace(&self) -> Result<String, Failure> {
        match self.target.config().await {
            Ok(config) => Ok(config.default_namespace),
            Err(error) => Err(Failure::usage(format!("{error}; name the namespace with -n"))),
        }
    }

    async fn published(&self) -> Result<(String, String), Failure> {
        let (namespace, name) = GATEWAY_PUBLIC;
        let maps: Api<ConfigMap> = Api::namespaced(self.target.client().await?, namespace);
        let found = within(&format!("get configmap {namespace}/{name}"), maps.get_opt(name)).await?;
        let map = found.ok_or_else(|| {
            Failure::new(format!(
                "ConfigMap {namespace}/{name} is not there: does `muster gateway` run on this cluster? Else give \
                 --gateway and --gateway-ca"
            ))
        })?;
        let public = published(&map)?;
        Ok((public.url, public.ca))
    }

    async fn kubeconfig_credential(&self) -> Result<Credential, Failure> {
        let config = self.target.config().await?;
        let layer = config.auth_layer().map_err(|error| match error {
            kube::Error::Auth(error) => no_token(&error),
            other => {
                ClientError::Build { url: config.cluster_url.to_string(), source: Arc::new(other) }.into()
            }
        })?;
        layer.map(Credential::Kubeconfig).ok_or_else(needs_token)
    }
}

/// The kubeconfig's user has a certificate, or nothing.
fn needs_token() -> Failure {
    Failure::new(
        "the kubeconfig's user has no token, and the gateway takes nothing else; make one for a ServiceAccount that may use \
         trainingjobs/data, trainingjobs/checkpoints and trainingjobs/log, `kubectl create token NAME -n NAMESPACE > FILE`, and give \
         --token-file FILE",
    )
}

fn no_token(error: &AuthError) -> Failure {
    // What a plugin printed may be a token; only how it ended is said.
    let why = match error {
        AuthError::AuthExecRun { cmd, out } => format!("{cmd} ended with {}", out.status),
        other => sanitise::line(&other.to_string(), 300),
    };
    Failure::new(format!(
        "the kubeconfig's user has no usable token: {why}; `kubectl create token NAME -n NAMESPACE > FILE` makes one for \
         --token-file FILE"
    ))
}

fn read_text(path: &Path, max: u64) -> Result<String, Failure> {
    let bytes = read_capped(path, max)?;
    String::from_utf8(bytes).map_err(|_| Failure::new(format!("{}: not text", path.display())))
}

impl Credential {
    /// The value of `Authorization`.
    async fn header(&self) -> Result<HeaderValue, Failure> {
        let value = match self {
            Self::File(path) => {
                let token = read_text(path, MAX_TOKEN)?;
                HeaderValue::from_str(&format!("Bearer {}", token.trim())).map_err(|_| {
                    let path = path.display();
                    Failure::new(format!("{path}: not a token; `kubectl create token` prints one"))
                })?
            }
            Self::Kubeconfig(layer) => from_layer(layer).await?,
        };
        let is_token = value.to_str().is_ok_and(|text| text.starts_with("Bearer ") && text.len() > 7);
        let mut value = if is_token { Ok(value) } else { Err(needs_token()) }?;
        value.set_sensitive(true);
        Ok(value)
    }
}

/// kube tells nobody a token but through a request: one is made that goes nowhere.
async fn from_layer(layer: &kube::client::middleware::AuthLayer) -> Result<HeaderValue, Failure> {
    let echo = tower::service_fn(|request: Request<Body>| async move {
        Ok::<_, BoxError>(Response::new(request.headers().get(header::AUTHORIZATION).cloned()))
    });
    let answer = layer.layer(echo).oneshot(Request::new(Body::empty())).await;
    let answer = answer.map_err(|error| match error.downcast_ref::<AuthError>() {
        Some(error) => no_token(error),
        None => Failure::new("the kubeconfig's user has no usable token; give --token-file FILE"),
    })?;
    answer.into_body().ok_or_else(needs_token)
}

/// What the gateway says of itself.
pub fn published(map: &ConfigMap) -> Result<GatewayPublic, Failure> {
    let (namespace, name) = GATEWAY_PUBLIC;
    let data = serde_json::to_value(map.data.clone().unwrap_or_default())?;
    let gateway: GatewayPublic = serde_json::from_value(data).map_err(|error| {
        Failure::new(format!("ConfigMap {namespace}/{name}: {error}; is the gateway of another version?"))
    })?;
    if !gateway.url.starts_with("https://") {
        return Err(Failure::new(format!("ConfigMap {namespace}/{name}: url is not https")));
    }
    Ok(gateway)
}

impl Gateway {
    /// The log that this gateway keeps: what anyone may read of it, without a token.
    pub fn log(&self) -> HttpLog<Plain> {
        HttpLog::new(Plain::new(self.http.clone(), &self.base))
    }

    /// A request with the user's token.
    pub async fn request(&self, method: Method, path: &str) -> Result<reqwest::RequestBuilder, Failure> {
        let request = self.http.request(method, format!("{}{path}", self.base));
        Ok(request.header(header::AUTHORIZATION, self.credential.header().await?))
    }

    /// A JSON answer.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.ask::<(), T>(Method::GET, path, None).await
    }

    /// A JSON answer to a JSON body.
    pub async fn post<B: Serialize, T: DeserializeOwned>(&self, path: &str, body: &B) -> Result<T, Failure> {
        self.ask(Method::POST, path, Some(body)).await
    }

    async fn ask<B: Serialize, T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&B>,
    ) -> Result<T, Failure> {
        let bytes = again(|| async {
            let request = self.request(method.clone(), path).await?;
            let request = match body {
                Some(body) => request.json(body),
                None => request,
            };
            let answer = send(request).await?;
            let mut bytes = Vec::new();
            let mut answer = answer;
            while let Some(piece) = piece(&mut answer).await? {
                if bytes.len() + piece.len() > MAX_ANSWER {
                    return Err(Failure::new("the gateway's answer is too long").into());
                }
                bytes.extend_from_slice(&piece);
            }
            Ok(bytes)
        });
        let bytes = bytes.await?;
        serde_json::from_slice(&bytes).map_err(|error| {
            Failure::new(format!("the gateway's answer: {error}; is it of another version?"))
        })
    }
}

/// Sends a request; anything but a success is trouble.
pub async fn send(request: reqwest::RequestBuilder) -> Result<reqwest::Response, Trouble> {
    judge(waited(request.send()).await?).await
}

/// Sends a request whose body is long: it may take any time, as long as `moved` goes on counting its bytes.
pub async fn send_long(
    request: reqwest::RequestBuilder,
    moved: &AtomicU64,
) -> Result<reqwest::Response, Trouble> {
    let mut sending = std::pin::pin!(request.send());
    let mut last = 0;
    loop {
        tokio::select! {
            biased;
            answer = &mut sending => return judge(answer.map_err(passing)?).await,
            () = tokio::time::sleep(SILENCE) => {
                let now = moved.load(Ordering::Relaxed);
                if now == last {
                    return Err(silent());
                }
                last = now;
            }
        }
    }
}

/// The next bytes of an answer.
pub async fn piece(answer: &mut reqwest::Response) -> Result<Option<Bytes>, Trouble> {
    waited(answer.chunk()).await
}

async fn waited<T>(step: impl Future<Output = reqwest::Result<T>>) -> Result<T, Trouble> {
    match tokio::time::timeout(SILENCE, step).await {
        Ok(done) => done.map_err(passing),
        Err(_) => Err(silent()),
    }
}

fn silent() -> Trouble {
    Trouble::Passing(format!("nothing moved for {} s", SILENCE.as_secs()), None)
}

async fn judge(answer: reqwest::Response) -> Result<reqwest::Response, Trouble> {
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    let pause = answer.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    let mut answer = answer;
    let mut body = Vec::new();
    while let Ok(Some(piece)) = piece(&mut answer).await {
        body.extend_from_slice(&piece[..piece.len().min(4096_usize.saturating_sub(body.len()))]);
    }
    let refused = serde_json::from_slice(&body).unwrap_or_else(|_| Refused {
        reason: status.canonical_reason().unwrap_or("Error").replace(' ', ""),
        message: String::from_utf8_lossy(&body).into_owned(),
    });
    let is_passing = status == StatusCode::TOO_MANY_REQUESTS
        || (status.is_server_error() && status != StatusCode::INSUFFICIENT_STORAGE);
    if is_passing {
        let text = Failure::from(Trouble::Refused(status, refused)).to_string();
        return Err(Trouble::Passing(text, pause.map(Duration::from_secs)));
    }
    Err(Trouble::Refused(status, refused))
}

/// The connection broke, or was never made.
fn passing(error: reqwest::Error) -> Trouble {
    let mut text = format!("the gateway cannot be reached: {error}");
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    Trouble::Passing(sanitise::line(&text, 500), None)
}

/// Does something until it succeeds or nothing is to be hoped for.
pub async fn again<T, F>(mut attempt: impl FnMut() -> F) -> Result<T, Trouble>
where
    F: Future<Output = Result<T, Trouble>>,
{
    let mut pause = PAUSE;
    for _ in 1..TRIES {
        match attempt().await {
            Err(Trouble::Passing(text, wanted)) => {
                tracing::debug!(text, "trying again");
                tokio::time::sleep(wanted.unwrap_or(pause).min(MAX_PAUSE)).await;
                pause = (pause * 2).min(MAX_PAUSE);
            }
            other => return other,
        }
    }
    attempt().await
}
