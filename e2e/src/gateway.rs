//! The gateway as anybody on the network may meet it: plain HTTPS, with a key of one's own or without. Written against
//! docs/spec/gateway.md and not with our own client, which would hide what a stranger can do.
use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use muster_proof::Digest;
use muster_proof::hash::{self, Context as Domain};
use muster_proof::key::SigningKey;
use reqwest::Method;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};

use crate::cluster::CONFIG_MAP;
use crate::world::World;

const TOKEN_REQUEST: Domain = Domain::new("muster.token-request/1");

/// Somebody with a P-256 key.
pub struct Key {
    pem: String,
    certificate: CertificateDer<'static>,
    spki: Vec<u8>,
}

impl Key {
    pub fn new() -> Result<Self> {
        let pair = rcgen::KeyPair::generate()?;
        let certificate = rcgen::CertificateParams::new(vec![])?.self_signed(&pair)?;
        let spki = rcgen::PublicKeyData::subject_public_key_info(&pair);
        Ok(Self { pem: pair.serialize_pem(), certificate: certificate.der().clone(), spki })
    }

    pub fn fingerprint(&self) -> Digest {
        Digest::of(&self.spki)
    }

    fn sign(&self, nonce: &str) -> Result<String> {
        let nonce = URL_SAFE_NO_PAD.decode(nonce)?;
        let message = hash::h(TOKEN_REQUEST, &[&nonce, &self.spki]);
        Ok(STANDARD.encode(SigningKey::from_pem(&self.pem)?.sign(message.as_bytes())))
    }
}

/// What came back.
pub struct Answer {
    pub status: u16,
    pub body: Value,
}

impl Answer {
    pub fn reason(&self) -> &str {
        self.body["reason"].as_str().unwrap_or("")
    }
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let message = self.body["message"].as_str().unwrap_or("");
        write!(f, "{} {} {message}", self.status, self.reason())
    }
}

/// The two tokens of an agent.
pub struct Tokens {
    pub api: String,
    pub gateway: String,
}

/// A client at the gateway.
pub struct Caller {
    client: reqwest::Client,
    tls: Arc<rustls::ClientConfig>,
    url: String,
}

/// What a raw request does when it has sent what it has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// Waits for the answer.
    Listen,
    /// Ends its side of the connection, and listens then.
    HangUp,
}

impl Caller {
    /// With a key, or without one.
    pub async fn new(world: &World, key: Option<&Key>) -> Result<Self> {
        let map = world.hub.get(CONFIG_MAP, Some("muster-system"), "muster-gateway-public").await?;
        let data = map.context("the gateway has not published its address")?["data"].clone();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(data["ca"].as_str().unwrap_or("").as_bytes())?)?;
        let config = rustls::ClientConfig::builder().with_root_certificates(Arc::new(roots));
        let config = match key {
            Some(key) => config.with_client_auth_cert(
                vec![key.certificate.clone()],
                PrivateKeyDer::from_pem_slice(key.pem.as_bytes())?,
            )?,
            None => config.with_no_client_auth(),
        };
        let tls = Arc::new(config.clone());
        let client = reqwest::Client::builder().tls_backend_preconfigured(config).no_proxy().build()?;
        Ok(Self { client, tls, url: data["url"].as_str().context("no url")?.to_owned() })
    }

    /// The same caller at another gateway with the same CA.
    pub fn at(&self, url: &str) -> Self {
        Self { client: self.client.clone(), tls: self.tls.clone(), url: url.to_owned() }
    }

    /// Sends these bytes as they are, whatever HTTP says of them, and gives back what comes until the end or for 5 s. A line
    /// `host:` is added after the first.
    pub async fn raw(&self, head: &str, body: &[u8], then: Then) -> Result<Answer> {
        let address = self.url.strip_prefix("https://").context("no https")?.to_owned();
        let (first, rest) = head.split_once("\r\n").context("a head of one line")?;
        let mut bytes = format!("{first}\r\nhost: {address}\r\n{rest}\r\n\r\n").into_bytes();
        bytes.extend_from_slice(body);
        let tls = self.tls.clone();
        let said = tokio::task::spawn_blocking(move || exchange(tls, &address, &bytes, then)).await??;
        let said = String::from_utf8_lossy(&said);
        let status = said.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        let body = said
            .split_once("\r\n\r\n")
            .and_then(|(_, body)| serde_json::Deserializer::from_str(body).into_iter::<Value>().next()?.ok());
        Ok(Answer { status, body: body.unwrap_or(Value::Null) })
    }

    /// Puts bytes under a digest, which may be theirs.
    pub async fn put(&self, path: &str, token: &str, bytes: Vec<u8>) -> Result<Answer> {
        let answer = self.request(Method::PUT, path, Some(token)).body(bytes).send().await?;
        let status = answer.status().as_u16();
        Ok(Answer { status, body: serde_json::from_slice(&answer.bytes().await?).unwrap_or(Value::Null) })
    }

    /// The status of `HEAD`.
    pub async fn head(&self, path: &str, token: &str) -> Result<u16> {
        Ok(self.request(Method::HEAD, path, Some(token)).send().await?.status().as_u16())
    }

    pub fn request(&self, method: Method, path: &str, token: Option<&str>) -> reqwest::RequestBuilder {
        let request = self.client.request(method, format!("{}{path}", self.url));
        match token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    pub async fn ask(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: Option<Value>,
    ) -> Result<Answer> {
        let mut request = self.request(method.clone(), path, token);
        if let Some(body) = body {
            let kind =
                if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
            request = request.header("content-type", kind).body(body.to_string());
        }
        let answer = request.send().await.with_context(|| format!("{method} {path}"))?;
        let status = answer.status().as_u16();
        let body = serde_json::from_slice(&answer.bytes().await?).unwrap_or(Value::Null);
        Ok(Answer { status, body })
    }

    pub async fn join(&self, provider: &str, secret: &str) -> Result<Answer> {
        let body = json!({"provider": provider, "secret": secret, "agentVersion": "test"});
        self.ask(Method::POST, "/v1/join", None, Some(body)).await
    }

    /// Challenge and answer.
    pub async fn tokens(&self, key: &Key) -> Result<Answer> {
        let challenge = self.ask(Method::POST, "/v1/challenge", None, None).await?;
        ensure!(challenge.status == 200, "challenge: {challenge}");
        let nonce = challenge.body["nonce"].as_str().context("no nonce")?;
        let body = json!({"nonce": nonce, "signature": key.sign(nonce)?});
        self.ask(Method::POST, "/v1/tokens", None, Some(body)).await
    }
}

/// One connection with nothing but TLS between us and its other end.
fn exchange(tls: Arc<rustls::ClientConfig>, address: &str, bytes: &[u8], then: Then) -> Result<Vec<u8>> {
    let host = address.rsplit_once(':').context("no port")?.0.to_owned();
    let mut socket = std::net::TcpStream::connect(address)?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut connection = rustls::ClientConnection::new(tls, host.try_into()?)?;
    let mut stream = rustls::Stream::new(&mut connection, &mut socket);
    stream.write_all(bytes)?;
    stream.flush()?;
    if then == Then::HangUp {
        stream.conn.send_close_notify();
        stream.conn.complete_io(stream.sock)?;
        stream.sock.shutdown(std::net::Shutdown::Write)?;
    }
    let (mut said, mut piece) = (Vec::new(), [0; 4096]);
    // However it ends, what came before is the answer.
    while let Ok(read @ 1..) = stream.read(&mut piece) {
        said.extend_from_slice(&piece[..read]);
    }
    Ok(said)
}

impl Tokens {
    pub fn of(answer: &Answer) -> Result<Self> {
        let text = |field: &str| {
            let text = answer.body[field].as_str();
            text.map(str::to_owned).with_context(|| format!("no {field}: {answer}"))
        };
        Ok(Self { api: text("apiToken")?, gateway: text("gatewayToken")? })
    }
}

/// The secret inside a join token.
pub fn secret(token: &str) -> Result<String> {
    let body = token.trim().strip_prefix("mst1.").context("no join token")?;
    let body: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(body)?)?;
    Ok(body["secret"].as_str().context("no secret")?.to_owned())
}
