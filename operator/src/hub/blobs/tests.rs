use std::sync::atomic::{AtomicUsize, Ordering};

use reqwest::Client;
use tempfile::TempDir;

use super::*;
use crate::runtime::tls::{Authority, pinned_client};

/// Knows two tokens; counts how often it is asked.
#[derive(Clone, Default)]
struct Fake(Arc<AtomicUsize>);

impl Reviewer for Fake {
    async fn review(&self, token: &str) -> Result<String, Denied> {
        self.0.fetch_add(1, Ordering::SeqCst);
        match token {
            "east" => Ok("east".into()),
            "tenant" => Err(Denied::NotAnAgent("system:serviceaccount:team-a:default".into())),
            "revoked" => Err(Denied::Revoked("west".into())),
            "outage" => Err(Denied::Unavailable("down".into())),
            _ => Err(Denied::BadToken),
        }
    }
}

struct Running {
    _dir: TempDir,
    client: Client,
    url: String,
    asked: Arc<AtomicUsize>,
    store: Arc<Store>,
    shutdown: Shutdown,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shutdown.trigger();
    }
}

/// The service as it runs in the hub: real sockets, real TLS, only the reviewer is a fake.
async fn start() -> Running {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::open(&dir.path().join("tls"), "test").unwrap();
    let tls = authority.server(&["127.0.0.1".into()]).unwrap();
    let store = Arc::new(Store::open(&dir.path().join("store")).await.unwrap());
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let (fake, shutdown) = (Fake::default(), Shutdown::manual());
    let asked = fake.0.clone();
    tokio::spawn(serve(address, tls, store.clone(), Authenticator::new(fake), shutdown.clone()));
    let client = pinned_client(authority.pem()).unwrap();
    let url = format!("https://{address}");
    for _ in 0..100 {
        if client.get(format!("{url}/healthz")).send().await.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Running { _dir: dir, client, url, asked, store, shutdown }
}

impl Running {
    fn blob(&self, digest: &Digest) -> String {
        format!("{}/v1/blobs/sha256/{}", self.url, digest.to_hex())
    }

    async fn put(&self, digest: &Digest, body: &'static [u8]) -> u16 {
        let request = self.client.put(self.blob(digest)).bearer_auth("east").body(body);
        request.send().await.unwrap().status().as_u16()
    }
}

#[tokio::test]
async fn a_blob_goes_in_and_comes_back() {
    let service = start().await;
    let digest = Digest::of(b"hello");
    let url = service.blob(&digest);
    let get = |url: &str| service.client.get(url).bearer_auth("east").send();
    assert_eq!(get(&url).await.unwrap().status(), 404);
    assert_eq!(service.put(&digest, b"hello").await, 201);
    assert_eq!(service.put(&digest, b"hello").await, 200);
    assert_eq!(get(&url).await.unwrap().bytes().await.unwrap(), "hello");
    let head = service.client.head(&url).bearer_auth("east").send().await.unwrap();
    assert_eq!((head.status().as_u16(), head.headers()["content-length"].as_bytes()), (200, &b"5"[..]));
    assert_eq!(head.bytes().await.unwrap(), "");
}

#[tokio::test]
async fn wrong_bytes_and_wrong_names_are_refused() {
    let service = start().await;
    let digest = Digest::of(b"hello");
    assert_eq!(service.put(&digest, b"hell0").await, 400);
    assert_eq!(service.store.blobs().size(&digest).await.unwrap(), None);
    for bad in ["abc", &digest.to_hex().to_uppercase(), "..%2f..%2fetc%2fpasswd"] {
        let url = format!("{}/v1/blobs/sha256/{bad}", service.url);
        let status = service.client.get(url).bearer_auth("east").send().await.unwrap().status();
        assert_eq!(status, 400, "{bad}");
    }
    let delete = service.client.delete(service.blob(&digest)).bearer_auth("east").send().await.unwrap();
    assert_eq!(delete.status(), 405);
}

#[tokio::test]
async fn only_agents_come_in() {
    let service = start().await;
    let url = service.blob(&Digest::of(b"hello"));
    let ask = |token: Option<&'static str>| {
        let request = service.client.get(&url);
        token.map_or_else(|| service.client.get(&url), |token| request.bearer_auth(token)).send()
    };
    for (token, status) in [
        (None, 401),
        (Some("guess"), 401),
        (Some("tenant"), 403),
        (Some("revoked"), 403),
        (Some("outage"), 503),
    ] {
        assert_eq!(ask(token).await.unwrap().status(), status, "{token:?}");
    }
    let basic = service.client.get(&url).basic_auth("east", Some("east")).send().await.unwrap();
    assert_eq!(basic.status(), 401);
}

#[tokio::test]
async fn a_review_is_remembered_but_not_an_outage() {
    let service = start().await;
    let url = service.blob(&Digest::of(b"hello"));
    for token in ["east", "east", "guess", "guess", "outage", "outage"] {
        service.client.get(&url).bearer_auth(token).send().await.unwrap();
    }
    assert_eq!(service.asked.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn another_ca_is_not_believed() {
    let service = start().await;
    let other = tempfile::tempdir().unwrap();
    let stranger = Authority::open(other.path(), "other").unwrap();
    let client = pinned_client(stranger.pem()).unwrap();
    assert!(client.get(format!("{}/healthz", service.url)).send().await.is_err());
}
