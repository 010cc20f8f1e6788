//! Blobs past the gateway: between this agent and the hub's bucket, at URLs that the gateway gives for one object and a few
//! minutes. Only if the provider's policy says so (`directStore`), for the agent then talks to a host that the hub names.
//! Whatever goes wrong here is done again through the gateway; what arrives is hashed by whoever stores it, as always.
use std::io::SeekFrom;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use muster_proof::Digest;
use reqwest::{Method, Response, StatusCode, Url, header};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::fs::File;
use tokio::io::AsyncSeekExt;

use super::gateway::{Gateway, GatewayError, refusal, unreachable};
use super::hub_blobs::{DURABLE, STALL, body, moving};
use super::policy::Policies;
use super::session::Session;
use crate::runtime::client::install_crypto;
use crate::wire::urls::{PublishRequest, UnitUrlRequest, UrlAnswer, UrlMethod};

/// What a bucket takes in one request.
const MAX_PUT: u64 = 5 << 30;
/// An answer with a URL is no longer.
const MAX_ANSWER: usize = 64 * 1024;
const SMALL: Duration = Duration::from_secs(30);

/// See the module. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Direct {
    policies: Arc<Policies>,
    /// Believes the CAs of this machine and shows nobody our key. Made when it is first wanted: not every machine has CAs.
    client: Arc<OnceLock<Option<reqwest::Client>>>,
}

impl Direct {
    /// As long as the policy in force allows it.
    #[must_use]
    pub fn new(policies: Arc<Policies>) -> Self {
        Self { policies, client: Arc::default() }
    }

    fn client(&self) -> Option<&reqwest::Client> {
        if !self.policies.current().is_direct_store() {
            return None;
        }
        let client = self.client.get_or_init(|| {
            install_crypto();
            let built = reqwest::Client::builder()
                .redirect(reqwest::redirect::Policy::none())
                .no_proxy()
                .connect_timeout(Duration::from_secs(5))
                .build();
            built
                .inspect_err(
                    |error| tracing::warn!(%error, "directStore: no client; all goes through the gateway"),
                )
                .ok()
        });
        client.as_ref()
    }

    /// The beginning of a blob's bytes from the bucket; `None`: ask the gateway for them.
    pub async fn get(&self, session: &Session, unit: &str, digest: Digest) -> Option<Response> {
        let client = self.client()?;
        let got = async {
            let Some(answer) = ask(session, unit, digest, UrlMethod::Get, None).await? else {
                return Ok(None);
            };
            let sent = tokio::time::timeout(STALL, client.get(checked(&answer)?).send()).await;
            let answer = sent.map_err(|_| lost("the bucket does not answer"))?.map_err(unreachable)?;
            // Anything else is not this blob.
            Ok::<_, GatewayError>(Some(answer).filter(|answer| answer.status() == StatusCode::OK))
        };
        got.await.unwrap_or_else(|error| {
            tracing::debug!(unit, %digest, %error, "not from the bucket; through the gateway");
            None
        })
    }

    /// Puts a blob into the bucket and has the gateway publish it. False: put it through the gateway; the file is at its
    /// beginning then.
    ///
    /// # Errors
    /// The file cannot be read.
    pub async fn put(
        &self,
        session: &Session,
        unit: &str,
        digest: Digest,
        file: &mut File,
        size: u64,
    ) -> std::io::Result<bool> {
        let Some(client) = self.client().filter(|_| size <= MAX_PUT) else { return Ok(false) };
        // It shares its position with the other: the other is set back at the end.
        let again = file.try_clone().await?;
        let put = async {
            let Some(answer) = ask(session, unit, digest, UrlMethod::Put, Some(size)).await? else {
                return Ok(false);
            };
            let Some(staging) = answer.staging.clone() else { return Ok(false) };
            let (body, moves) = body(again);
            let request = client
                .put(checked(&answer)?)
                .header(header::CONTENT_LENGTH, size)
                // Azure wants to know; to others it means nothing.
                .header("x-ms-blob-type", "BlockBlob")
                .body(body);
            let sending = async { request.send().await.map_err(unreachable) };
            let stored = moving(sending, moves).await.map_err(|error| lost(&error.to_string()))?;
            if !stored.status().is_success() {
                return Err(lost(&format!("the bucket answered {}", stored.status())));
            }
            let path = format!("/v1/units/{unit}/blobs/sha256/{}/publish", digest.to_hex());
            let published = post(session, &path, &PublishRequest { staging }, DURABLE).await?;
            match published.status() {
                StatusCode::OK | StatusCode::CREATED => Ok(true),
                _ => Err(refusal(published).await),
            }
        };
        let done = put.await.unwrap_or_else(|error: GatewayError| {
            tracing::debug!(unit, %digest, %error, "not past the gateway; through it");
            false
        });
        file.seek(SeekFrom::Start(0)).await?;
        Ok(done)
    }
}

/// A URL that leads to the bucket, if there is one.
async fn ask(
    session: &Session,
    unit: &str,
    digest: Digest,
    method: UrlMethod,
    size: Option<u64>,
) -> Result<Option<UrlAnswer>, GatewayError> {
    let request = UnitUrlRequest { digest, method, size };
    let answer = post(session, &format!("/v1/units/{unit}/urls"), &request, SMALL).await?;
    if !answer.status().is_success() {
        return Err(refusal(answer).await);
    }
    let answer: UrlAnswer = json(answer).await?;
    Ok(Some(answer).filter(|answer| answer.direct && answer.method == method))
}

async fn post(
    session: &Session,
    path: &str,
    body: &(impl Serialize + Sync),
    limit: Duration,
) -> Result<Response, GatewayError> {
    let build = |gateway: &Gateway| gateway.request(Method::POST, path).timeout(limit).json(body);
    session.send(build).await
}

async fn json<T: DeserializeOwned>(mut answer: Response) -> Result<T, GatewayError> {
    let mut bytes = Vec::new();
    while let Some(piece) = answer.chunk().await.map_err(unreachable)? {
        bytes.extend_from_slice(&piece);
        if bytes.len() > MAX_ANSWER {
            return Err(lost("the answer with a URL is too long"));
        }
    }
    // What is wrong with it is not said: it has a credential in it.
    serde_json::from_slice(&bytes).map_err(|_| lost("the answer with a URL is none"))
}

/// Over TLS, but for a server on this machine.
fn checked(answer: &UrlAnswer) -> Result<Url, GatewayError> {
    let url = Url::parse(&answer.url).map_err(|_| lost("the URL is none"))?;
    let here = url.host_str().and_then(|host| host.trim_matches(['[', ']']).parse::<IpAddr>().ok());
    match url.scheme() {
        "https" => Ok(url),
        "http" if here.is_some_and(|address| address.is_loopback()) => Ok(url),
        _ => Err(lost("the URL is not https")),
    }
}

fn lost(why: &str) -> GatewayError {
    GatewayError::Unreachable(why.to_owned())
}
