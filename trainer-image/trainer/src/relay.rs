//! Requests to the agent's relay, by a pod's supervisor and its sidecar: HTTPS with one trusted authority, no
//! redirects, no proxies by environment, capped bodies, a token read anew each time.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use muster_proof::Digest;
use muster_proof::key::PublicKey;
use rustls::pki_types::CertificateDer;
use rustls::server::ParsedCertificate;
use serde::Serialize;
use serde::de::DeserializeOwned;
use ureq::http::Response;
use ureq::tls::{PemItem, RootCerts, TlsConfig, TlsProvider, parse_pem};
use ureq::{Agent, Body};

use crate::failure::Failure;
use crate::files;
use crate::protocol::{CheckpointNotice, FailureNotice, Join, KeyBinding, MAX_BODY, Progress};

/// Where the relay is and how it is spoken to, as the agent's template sets it.
#[derive(Debug, Clone, clap::Args)]
// Flattened into options whose group has the same name.
#[group(skip)]
pub struct Options {
    /// The relay's URL.
    #[arg(long, env = "MUSTER_RELAY", value_name = "URL")]
    pub relay: String,
    /// The relay's certificate authority.
    #[arg(long, env = "MUSTER_RELAY_CA", value_name = "PEM", hide_env_values = true)]
    pub relay_ca: String,
    /// The pod's ServiceAccount token, read anew for each request: the kubelet renews it.
    #[arg(long, env = "MUSTER_TOKEN_FILE", value_name = "FILE", default_value = "/var/run/muster/token")]
    pub token_file: PathBuf,
}

/// The largest token that is read, in bytes.
const MAX_TOKEN: u64 = 64 * 1024;
/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(5);
/// How long an answer may take to begin: longer than a join is held.
const ANSWER: Duration = Duration::from_secs(30);
/// How long a whole blob may take: a gigabyte at 1 MB/s.
const TRANSFER: Duration = Duration::from_secs(1200);

/// What the relay says of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// It has it.
    Here,
    /// It does not have it.
    Lacking,
    /// The attempt is over: nothing of it is taken any more.
    Over,
}

/// The relay could not be asked, or gave an answer that means "later".
#[derive(Debug, Clone, thiserror::Error)]
#[error("relay: {0}")]
pub struct Unavailable(pub String);

/// An answer: a status that the caller knows how to read, and its body.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    body: Vec<u8>,
}

impl Answer {
    /// The body as what the protocol says it is.
    ///
    /// # Errors
    /// [`Unavailable`] if it is not.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Unavailable> {
        serde_json::from_slice(&self.body)
            .map_err(|error| Unavailable(format!("answer {} is not what it must be: {error}", self.status)))
    }

    /// For an answer that nobody expected: its status and the beginning of its text.
    pub fn unexpected(&self) -> Unavailable {
        let text: String =
            String::from_utf8_lossy(&self.body).chars().filter(|c| !c.is_control()).take(200).collect();
        Unavailable(format!("answered {} {text}", self.status))
    }
}

/// A client of the relay; cheap to clone, one for each thread.
#[derive(Debug, Clone)]
pub struct Relay {
    agent: Agent,
    url: String,
    token_file: PathBuf,
    signers: Arc<Vec<PublicKey>>,
}

impl Relay {
    /// A client; nothing is asked yet.
    ///
    /// # Errors
    /// An option that is not what it must be.
    pub fn new(options: &Options) -> Result<Self, Failure> {
        let url = options.relay.trim_end_matches('/').to_owned();
        if !url.starts_with("https://") {
            return Err(Failure::usage("MUSTER_RELAY: want a URL that begins with https://"));
        }
        let (mut authorities, mut signers) = (Vec::new(), Vec::new());
        for item in parse_pem(options.relay_ca.as_bytes()) {
            match item {
                Ok(PemItem::Certificate(certificate)) => {
                    signers.push(key_of(certificate.der())?);
                    authorities.push(certificate);
                }
                _ => return Err(Failure::usage("MUSTER_RELAY_CA: want certificates in PEM")),
            }
        }
        if authorities.is_empty() {
            return Err(Failure::usage("MUSTER_RELAY_CA: no certificate in it"));
        }
        let tls = TlsConfig::builder()
            .provider(TlsProvider::Rustls)
            .root_certs(RootCerts::Specific(Arc::new(authorities)))
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .build();
        let agent = Agent::config_builder()
            .tls_config(tls)
            .https_only(true)
            .proxy(None)
            .max_redirects(0)
            .http_status_as_error(false)
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(ANSWER))
            .timeout_per_read(Some(ANSWER))
            .timeout_per_write(Some(ANSWER))
            .timeout_global(Some(TRANSFER))
            // A relay that was restarted has forgotten its connections; a fresh one costs two round trips.
            .max_idle_age(Duration::from_secs(2))
            .build()
            .new_agent();
        Ok(Self { agent, url, token_file: options.token_file.clone(), signers: Arc::new(signers) })
    }

    /// Whose signature on a list of peers is believed: the keys of the trusted authorities.
    pub fn signers(&self) -> &[PublicKey] {
        &self.signers
    }

    /// The pod's token as it is now.
    fn token(&self) -> Result<String, Unavailable> {
        let bytes = files::read_at_most(&self.token_file, MAX_TOKEN)
            .map_err(|error| Unavailable(format!("no token: {error}")))?;
        let token = String::from_utf8(bytes).map_err(|_| Unavailable("the token is not text".into()))?;
        Ok(token.trim().to_owned())
    }

    fn bearer(&self) -> Result<String, Unavailable> {
        Ok(format!("Bearer {}", self.token()?))
    }

    fn get(&self, path: &str) -> Result<Response<Body>, Unavailable> {
        self.agent
            .get(format!("{}{path}", self.url))
            .header("Authorization", self.bearer()?)
            .call()
            .map_err(broken)
    }

    fn post<T: Serialize>(&self, path: &str, body: &T) -> Result<Answer, Unavailable> {
        let body = serde_json::to_vec(body).map_err(|error| Unavailable(error.to_string()))?;
        let sent = self
            .agent
            .post(format!("{}{path}", self.url))
            .header("Authorization", self.bearer()?)
            .header("Content-Type", "application/json")
            .send(&body[..]);
        answer(sent.map_err(broken)?)
    }

    /// Whose pod this is.
    ///
    /// # Errors
    /// [`Unavailable`], here and below: nothing was answered.
    pub fn whoami(&self) -> Result<Answer, Unavailable> {
        answer(self.get("/v1/self")?)
    }

    /// Binds a key. What is sent depends on the token that is shown with it.
    ///
    /// # Errors
    /// [`Unavailable`]; also when `binding` gives nothing.
    pub fn bind_key<E: std::fmt::Display>(
        &self,
        binding: impl FnOnce(&str) -> Result<KeyBinding, E>,
    ) -> Result<Answer, Unavailable> {
        let token = self.token()?;
        let binding = binding(&token).map_err(|error| Unavailable(error.to_string()))?;
        let body = serde_json::to_vec(&binding).map_err(|error| Unavailable(error.to_string()))?;
        let sent = self
            .agent
            .put(format!("{}/v1/key", self.url))
            .header("Authorization", format!("Bearer {token}"))
            .header("Content-Type", "application/json")
            .send(&body[..]);
        answer(sent.map_err(broken)?)
    }

    /// What to train in this round.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub fn round(&self, round: u32) -> Result<Answer, Unavailable> {
        answer(self.get(&format!("/v1/rounds/{round}"))?)
    }

    /// Joins a round; held by the relay until all are there or some seconds have passed.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub fn join(&self, round: u32, join: &Join) -> Result<Answer, Unavailable> {
        self.post(&format!("/v1/rounds/{round}/join"), join)
    }

    /// What the commit of the interval that ends with this step must say.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub fn terms(&self, step: u64) -> Result<Answer, Unavailable> {
        answer(self.get(&format!("/v1/terms?step={step}"))?)
    }

    /// What the failure of the interval that this step is of must say.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub fn terms_of_failed(&self, step: u64) -> Result<Answer, Unavailable> {
        answer(self.get(&format!("/v1/terms?failedStep={step}"))?)
    }

    /// Says that a step is not finite.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub fn failure(&self, notice: &FailureNotice) -> Result<Answer, Unavailable> {
        self.post("/v1/failures", notice)
    }

    /// Announces a checkpoint whose blobs were all put.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub fn checkpoint(&self, notice: &CheckpointNotice) -> Result<Answer, Unavailable> {
        self.post("/v1/checkpoints", notice)
    }

    /// Reports progress and hears what is wanted.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub fn progress(&self, progress: &Progress) -> Result<Answer, Unavailable> {
        self.post("/v1/progress", progress)
    }

    /// The bytes of a blob as they come; a stream of at most `limit` bytes. `None`: the attempt is over.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub fn blob(&self, digest: &Digest, limit: u64) -> Result<Option<impl Read + use<>>, Unavailable> {
        let response = self.get(&blob_path(digest))?;
        match response.status().as_u16() {
            200 => Ok(Some(response.into_body().into_with_config().limit(limit.saturating_add(1)).reader())),
            410 => Ok(None),
            _ => Err(answer(response)?.unexpected()),
        }
    }

    /// Whether the relay has a blob.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub fn has_blob(&self, digest: &Digest) -> Result<Known, Unavailable> {
        let url = format!("{}{}", self.url, blob_path(digest));
        let response = self.agent.head(url).header("Authorization", self.bearer()?).call().map_err(broken)?;
        match response.status().as_u16() {
            200 => Ok(Known::Here),
            404 => Ok(Known::Lacking),
            410 => Ok(Known::Over),
            status => Err(Unavailable(format!("answered {status} to HEAD of a blob"))),
        }
    }

    /// Puts a blob.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub fn put_blob(&self, digest: &Digest, file: &File) -> Result<Answer, Unavailable> {
        let url = format!("{}{}", self.url, blob_path(digest));
        let sent = self
            .agent
            .put(url)
            .header("Authorization", self.bearer()?)
            .header("Content-Type", "application/octet-stream")
            .send(file);
        answer(sent.map_err(broken)?)
    }
}

fn key_of(certificate: &[u8]) -> Result<PublicKey, Failure> {
    ParsedCertificate::try_from(&CertificateDer::from(certificate))
        .ok()
        .and_then(|parsed| PublicKey::from_der(&parsed.subject_public_key_info()).ok())
        .ok_or_else(|| Failure::usage("MUSTER_RELAY_CA: want X.509 certificates of P-256 keys"))
}

fn blob_path(digest: &Digest) -> String {
    format!("/v1/blobs/sha256/{}", digest.to_hex())
}

fn answer(response: Response<Body>) -> Result<Answer, Unavailable> {
    let status = response.status().as_u16();
    let body =
        response.into_body().into_with_config().limit(MAX_BODY as u64).read_to_vec().map_err(broken)?;
    Ok(Answer { status, body })
}

// By value because it is what `map_err` hands over.
#[allow(clippy::needless_pass_by_value)]
fn broken(error: ureq::Error) -> Unavailable {
    Unavailable(error.to_string())
}
