//! URLs as strangers use them: real TLS, no certificate, no token but the URL's own.
use std::sync::Arc;

use axum::body::to_bytes;
use axum::extract::Request;
use axum::routing::put;
use axum::{Extension, Router};
use muster_proof::Digest;

use super::{Claims, Holder, Objects, Urls};
use crate::gateway::Rooms;
use crate::gateway::access::Agent;
use crate::gateway::testing::{Client, Running};
use crate::store::Store;
use crate::wire::gateway::Refused;
use crate::wire::urls::UrlMethod;

const UNIT: &str = "4f2a9c1b-0-1";

struct Site {
    running: Running,
    urls: Arc<Urls>,
    blob: Digest,
    east: Client,
    _dir: tempfile::TempDir,
}

impl Site {
    /// With a blob in the store, and routes for agents that say who put what.
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(dir.path()).await.unwrap());
        let blob = store.put_bytes(b"0123456789".to_vec()).await.unwrap();
        let urls = Arc::new(Urls::new([7; 64], "https://127.0.0.1"));
        let said = async |Extension(agent): Extension<Agent>, request: Request| {
            let (parts, body) = request.into_parts();
            let bytes = to_bytes(body, 100).await.unwrap();
            let token = parts.headers.contains_key("authorization");
            format!("{} {} {} {token}", agent.provider, parts.uri.path(), bytes.len())
        };
        let rooms = Rooms {
            agents: Router::new().route("/v1/units/{unit}/blobs/sha256/{hex}", put(said)),
            objects: Some(Objects { urls: urls.clone(), store }),
            ..Rooms::default()
        };
        let running = Running::start(rooms).await;
        let east = running.client(2);
        running.accept("east", &east).await;
        Self { running, urls, blob, east, _dir: dir }
    }

    fn claims(&self, method: UrlMethod) -> Claims {
        let until = jiff::Timestamp::now().as_second() + 60;
        let holder = Holder::Unit { key: self.east.fingerprint(), unit: UNIT.to_owned() };
        let size = (method == UrlMethod::Put).then_some(3);
        Claims { method, digest: self.blob, size, until, holder }
    }

    async fn send(&self, method: reqwest::Method, token: &str, body: &'static str) -> (u16, String) {
        let url = format!("{}/v1/objects/{token}", self.running.url);
        let request = self.running.nobody().http.request(method, url).body(body);
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    async fn refused(&self, method: reqwest::Method, token: &str) -> (u16, String) {
        let (status, text) = self.send(method, token, "abc").await;
        (status, serde_json::from_str::<Refused>(&text).map(|refused| refused.reason).unwrap_or(text))
    }
}

#[tokio::test]
async fn a_url_is_all_that_it_takes() {
    let site = Site::new().await;
    let token = site.urls.token(&site.claims(UrlMethod::Get));
    assert_eq!(site.send(reqwest::Method::GET, &token, "").await, (200, "0123456789".to_owned()));
    let nobody = site.running.nobody();
    let url = format!("{}/v1/objects/{token}", site.running.url);
    let part = nobody.http.get(&url).header("range", "bytes=7-").send().await.unwrap();
    assert_eq!((part.status().as_u16(), part.text().await.unwrap()), (206, "789".to_owned()));
    assert_eq!(nobody.http.head(&url).send().await.unwrap().status(), 200);
    let user = Claims { holder: Holder::User { name: "ann".to_owned() }, ..site.claims(UrlMethod::Get) };
    assert_eq!(site.send(reqwest::Method::GET, &site.urls.token(&user), "").await.0, 200);
    // What is put goes the way of everything that this agent puts.
    let token = site.urls.token(&site.claims(UrlMethod::Put));
    let want = format!("east /v1/units/{UNIT}/blobs/sha256/{} 3 false", site.blob.to_hex());
    assert_eq!(site.send(reqwest::Method::PUT, &token, "abc").await, (200, want));
    assert_eq!(
        site.send(reqwest::Method::PUT, &token, "abcd").await.0,
        400,
        "not the size that was asked for"
    );
}

#[tokio::test]
async fn forged_expired_and_other_uses_are_refused() {
    let site = Site::new().await;
    let (get, put) = (reqwest::Method::GET, reqwest::Method::PUT);
    let good = site.claims(UrlMethod::Get);
    let token = site.urls.token(&good);
    let is = |reason: &str| (403, reason.to_owned());
    assert_eq!(site.refused(put.clone(), &token).await, is("BadUrl"), "another method");
    assert_eq!(site.refused(get.clone(), &site.urls.token(&site.claims(UrlMethod::Put))).await, is("BadUrl"));
    let old = Claims { until: good.until - 60, ..good.clone() };
    assert_eq!(site.refused(get.clone(), &site.urls.token(&old)).await, is("UrlExpired"));
    let forged = Urls::new([8; 64], "https://127.0.0.1").token(&good);
    assert_eq!(site.refused(get.clone(), &forged).await, is("BadUrl"));
    // The proof of one blob is none of another.
    let other = site.urls.token(&Claims { digest: Digest::of(b"other"), ..good.clone() });
    let spliced = format!("{}.{}", other.split('.').next().unwrap(), token.split('.').nth(1).unwrap());
    assert_eq!(site.refused(get.clone(), &spliced).await, is("BadUrl"));
    assert_eq!(site.refused(get.clone(), &other).await, (404, "BlobNotFound".to_owned()));
    let user = Claims { holder: Holder::User { name: "ann".to_owned() }, ..site.claims(UrlMethod::Put) };
    assert_eq!(site.refused(put, &site.urls.token(&user)).await, is("BadUrl"), "users put nothing");
    // Whoever guesses has a stranger's rate.
    let mut last = 0;
    // On a busy machine the bucket fills up again meanwhile.
    for _ in 0..1000 {
        last = site.refused(get.clone(), "guess").await.0;
        if last == 429 {
            break;
        }
    }
    assert_eq!(last, 429);
    assert_eq!(site.send(get, &token, "").await.0, 200, "who has one is not a stranger");
}

#[tokio::test]
async fn a_url_is_worth_no_more_than_its_holder() {
    let site = Site::new().await;
    let token = site.urls.token(&site.claims(UrlMethod::Get));
    let key = site.east.fingerprint();
    site.running.api.provider("east", &[key], "Revoked");
    site.running.until(|gateway| gateway.providers.admit(&key, jiff::Timestamp::now()).is_err()).await;
    assert_eq!(site.refused(reqwest::Method::GET, &token).await, (403, "Revoked".to_owned()));
}
