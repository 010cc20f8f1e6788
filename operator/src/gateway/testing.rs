//! For tests: the gateway over real TLS, in front of an API server in memory, and those who come to it.
pub(crate) mod api;

use std::sync::Arc;
use std::time::Duration;

use muster_proof::Digest;
use muster_proof::key::SigningKey;
use serde_json::{Value, json};
use tempfile::TempDir;

use self::api::FakeApi;
use super::urls::Urls;
use super::{Gateway, Rooms, Shared, app, serve, tls};
use crate::log::LogView;
use crate::runtime::Shutdown;
use crate::runtime::client::install_crypto;
use crate::runtime::tls::Authority;
use crate::wire::gateway::{TokensAnswer, token_request_message};

/// Makes the gateway's own URLs.
pub fn urls() -> Arc<Urls> {
    Arc::new(Urls::new([7; 64], "https://127.0.0.1"))
}
/// The seed of the hub's key.
pub const HUB_KEY: [u8; 32] = [9; 32];

/// An agent's or a user's end.
#[derive(Clone)]
pub struct Client {
    pub http: reqwest::Client,
    pub key: SigningKey,
    pub url: String,
}

impl Client {
    pub fn fingerprint(&self) -> Digest {
        self.key.key_id()
    }

    pub async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        let request = self.http.post(format!("{}{path}", self.url)).json(&body);
        read(request.send().await.unwrap()).await
    }

    pub async fn get(&self, path: &str, token: Option<&str>) -> (u16, Value) {
        let request = self.http.get(format!("{}{path}", self.url));
        let request = match token {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        read(request.send().await.unwrap()).await
    }

    /// Challenge and signature as an agent makes them.
    pub async fn ask_for_tokens(&self) -> (u16, Value) {
        let (_, challenge) = self.post("/v1/challenge", json!({})).await;
        let nonce = challenge["nonce"].as_str().unwrap_or_default().to_owned();
        self.post("/v1/tokens", self.signed(&nonce)).await
    }

    pub async fn tokens(&self) -> TokensAnswer {
        let (status, body) = self.ask_for_tokens().await;
        assert_eq!(status, 200, "{body}");
        serde_json::from_value(body).unwrap()
    }

    pub fn signed(&self, nonce: &str) -> Value {
        use base64::Engine as _;
        use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
        let pem = self.key.public().to_pem().unwrap();
        let lines: String = pem.lines().filter(|line| !line.starts_with("---")).collect();
        let spki = STANDARD.decode(lines).unwrap();
        let message = token_request_message(&URL_SAFE_NO_PAD.decode(nonce).unwrap(), &spki);
        json!({"nonce": nonce, "signature": STANDARD.encode(self.key.sign(message.as_bytes()))})
    }
}

async fn read(response: reqwest::Response) -> (u16, Value) {
    let status = response.status().as_u16();
    let bytes = response.bytes().await.unwrap();
    (status, serde_json::from_slice(&bytes).unwrap_or_else(|_| json!(String::from_utf8_lossy(&bytes))))
}

/// A gateway as it runs, in front of a [`FakeApi`].
pub struct Running {
    pub api: Arc<FakeApi>,
    pub gateway: Shared,
    pub url: String,
    pub authority: Authority,
    shutdown: Shutdown,
    _dir: TempDir,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shutdown.trigger();
    }
}

impl Running {
    /// With the hub's keys published and these rooms behind the doors.
    pub async fn start(rooms: Rooms) -> Self {
        Self::start_with(|_| rooms).await
    }

    /// The same with rooms that need the gateway.
    pub async fn start_with(rooms: impl FnOnce(&Shared) -> Rooms) -> Self {
        Self::start_on(LogView::default(), rooms).await
    }

    /// The same with a log.
    pub async fn start_on(log: LogView, rooms: impl FnOnce(&Shared) -> Rooms) -> Self {
        install_crypto();
        let api = FakeApi::start().await;
        api.publish_hub();
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::open(dir.path(), "test").unwrap();
        let mut config = kube::Config::new(api.url.parse().unwrap());
        config.auth_info.token = Some("the-gateways-own".to_owned().into());
        let gateway = Gateway::new(config, 3600, log).unwrap();
        let rooms = rooms(&gateway);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let config = tls::server_config(&authority, &["127.0.0.1".into()]).unwrap();
        let shutdown = Shutdown::manual();
        tokio::spawn(serve(listener, config, app(&gateway, rooms), shutdown.clone()));
        tokio::spawn(gateway.clone().follow(shutdown.clone()));
        let running = Self { api, gateway, url, authority, shutdown, _dir: dir };
        running.until(|gateway| gateway.providers.is_synced() && gateway.hub.get().is_ok()).await;
        running
    }

    /// Somebody with the key of this seed, who shows it.
    pub fn client(&self, seed: u8) -> Client {
        self.client_speaking(seed, "http/1.1")
    }

    /// The same, in this protocol.
    pub fn client_speaking(&self, seed: u8, protocol: &str) -> Client {
        let key = SigningKey::generate([seed; 32]).unwrap();
        let pair = rcgen::KeyPair::from_pem(&key.to_pem().unwrap()).unwrap();
        let made = rcgen::CertificateParams::new(vec![]).unwrap().self_signed(&pair).unwrap();
        let private = rustls::pki_types::PrivateKeyDer::try_from(pair.serialize_der()).unwrap();
        self.with(key, |config| {
            let mut config = config.with_client_auth_cert(vec![made.der().clone()], private).unwrap();
            config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
            config
        })
    }

    /// Somebody without a certificate.
    pub fn nobody(&self) -> Client {
        let key = SigningKey::generate([1; 32]).unwrap();
        self.with(key, |config| config.with_no_client_auth())
    }

    fn with(
        &self,
        key: SigningKey,
        finish: impl FnOnce(
            rustls::ConfigBuilder<rustls::ClientConfig, rustls::client::WantsClientCert>,
        ) -> rustls::ClientConfig,
    ) -> Client {
        use rustls::pki_types::pem::PemObject;
        let mut roots = rustls::RootCertStore::empty();
        let ca = rustls::pki_types::CertificateDer::from_pem_slice(self.authority.pem().as_bytes()).unwrap();
        roots.add(ca).unwrap();
        let versions = &[&rustls::version::TLS13];
        let config =
            rustls::ClientConfig::builder_with_protocol_versions(versions).with_root_certificates(roots);
        let http = reqwest::Client::builder().tls_backend_preconfigured(finish(config)).no_proxy().build();
        Client { http: http.unwrap(), key, url: self.url.clone() }
    }

    /// Waits until the gateway has noticed something.
    pub async fn until(&self, condition: impl Fn(&Gateway) -> bool) {
        for _ in 0..500 {
            if condition(&self.gateway) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("it did not come about within 5 s");
    }

    /// A provider with this client's key, and the gateway knows.
    pub async fn accept(&self, name: &str, client: &Client) {
        self.accept_key(name, client.fingerprint()).await;
    }

    /// The same, of whomever.
    pub async fn accept_key(&self, name: &str, key: Digest) {
        self.api.provider(name, &[key], "Enabled");
        self.until(|gateway| gateway.providers.admit(&key, jiff::Timestamp::now()).is_ok()).await;
    }
}
