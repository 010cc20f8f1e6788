//! The gateway as anybody on the network may meet it: plain HTTPS, with a key of one's own or without. Written against
//! docs/spec/gateway.md and not with our own client, which would hide what a stranger can do.
use std::sync::Arc;

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
    url: String,
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
        let client = reqwest::Client::builder().tls_backend_preconfigured(config).no_proxy().build()?;
        Ok(Self { client, url: data["url"].as_str().context("no url")?.to_owned() })
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
