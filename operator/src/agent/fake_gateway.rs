//! A small gateway for tests: real TLS on loopback, client certificates, signatures checked as docs/spec/gateway.md says.
//! What a test wants otherwise it changes in [`Hub`].
mod logs;
pub mod tlog;
mod tls;
mod units;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path as FilePath;
use std::sync::{Arc, Mutex};

use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, FromRequestParts, Path, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use axum::{Json, Router};
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use futures::StreamExt as _;
use muster_core::hub_keys;
use muster_proof::Digest;
use muster_proof::dsse::Envelope;
use muster_proof::key::{PublicKey, SigningKey};
use serde_json::json;
use tokio::net::TcpListener;

pub use self::tlog::LOG;
use self::tls::{Peer, TlsListener, tls};
use super::identity::Identity;
use super::units::locked;
use crate::runtime::client::install_crypto;
use crate::wire::gateway::{
    Challenge, HeartbeatAnswer, HubPublic, JoinAnswer, JoinRequest, RecoverAnswer, RecoverRequest, Recovered,
    Refused, TokensAnswer, TokensRequest, token_request_message,
};
use crate::wire::join_token::{JoinToken, secret_hash};

/// The secret of every token here.
const SECRET: [u8; 32] = [7; 32];

/// What the gateway knows and does.
#[derive(Debug)]
pub struct Hub {
    /// `GET /v1/hub`.
    pub public: HubPublic,
    /// `POST /v1/heartbeat`.
    pub beat: HeartbeatAnswer,
    /// Who came first with the token.
    pub claimed: Option<Digest>,
    /// Refuses tokens with this status and reason.
    pub refuses: Option<(u16, &'static str)>,
    /// So many answers to a join are cut off after the claim was made.
    pub lose: usize,
    /// `expiresInSeconds`.
    pub lifetime: u64,
    /// Tokens given so far.
    pub minted: usize,
    /// Those that are good.
    pub good: BTreeSet<String>,
    /// Open challenges and whose they are.
    nonces: BTreeMap<String, Digest>,
    /// Blobs of unit `u`.
    pub blobs: BTreeMap<Digest, Vec<u8>>,
    /// Answers to a GET of a blob are cut off after so many bytes.
    pub cut: Option<usize>,
    /// Ranges that were asked for.
    pub ranges: Vec<String>,
    /// Commits, and the status and reason with which they are refused.
    pub commits: Vec<(u64, Digest)>,
    /// Offers of units, and what each of them is told.
    pub offers: Vec<RecoverRequest>,
    /// See `offers`.
    pub recovered: Recovered,
    /// See `commits`.
    pub refuses_commits: Option<(u16, &'static str)>,
    /// Logs, and URLs of single objects.
    pub logs: logs::Logs,
    /// The transparency log.
    pub log: tlog::Log,
}

/// See the module.
pub struct FakeGateway {
    pub url: String,
    pub ca_spki: Digest,
    pub hub: Arc<Mutex<Hub>>,
}

impl FakeGateway {
    /// Serves with a certificate for `name`, keys as in `chain`.
    pub async fn start(name: &str, chain: Vec<Envelope>) -> Self {
        install_crypto();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (config, ca_spki) = tls(name);
        let serial = hub_keys::trust_first(&chain).unwrap().serial();
        let hub = Arc::new(Mutex::new(Hub {
            public: HubPublic { incarnation: 1, keys: chain, log: Some(LOG.to_owned()) },
            beat: HeartbeatAnswer { incarnation: 1, min_epoch: 1, key_serial: serial, log_size: 0 },
            claimed: None,
            refuses: None,
            lose: 0,
            lifetime: 3600,
            minted: 0,
            good: BTreeSet::new(),
            nonces: BTreeMap::new(),
            blobs: BTreeMap::new(),
            cut: None,
            ranges: Vec::new(),
            commits: Vec::new(),
            offers: Vec::new(),
            recovered: Recovered::Wait,
            refuses_commits: None,
            logs: logs::Logs::default(),
            log: tlog::Log::new(),
        }));
        let routes = Router::new()
            .route("/healthz", get(|| async { "ok" }))
            .route("/v1/hub", get(public))
            .route("/v1/join", post(join))
            .route("/v1/challenge", post(challenge))
            .route("/v1/tokens", post(tokens))
            .route("/v1/heartbeat", post(heartbeat))
            .route("/v1/recover", post(recover))
            .merge(units::routes())
            .merge(logs::routes())
            .merge(tlog::routes())
            .route("/k8s/{*path}", any(api))
            .with_state(hub.clone());
        let acceptor = RustlsAcceptor::new(RustlsConfig::from_config(Arc::new(config)));
        let listener = TlsListener { listener, acceptor };
        let service = routes.into_make_service_with_connect_info::<Peer>();
        tokio::spawn(async move { axum::serve(listener, service).await });
        Self { url: format!("https://{address}"), ca_spki, hub }
    }

    /// One key set, signed by `key`.
    pub async fn simple() -> (Self, SigningKey) {
        let key = SigningKey::generate([1; 32]).unwrap();
        let set = hub_keys::sign(1, &[key.public()], &key).unwrap();
        (Self::start("127.0.0.1", vec![set]).await, key)
    }

    /// The token that admits provider `east`.
    pub fn token(&self) -> JoinToken {
        JoinToken::new(&self.url, self.ca_spki, "east", &SECRET)
    }

    /// An identity under `state`.
    pub fn identity(state: &FilePath) -> Arc<Identity> {
        Arc::new(Identity::open(state).unwrap())
    }

    pub fn change(&self, change: impl FnOnce(&mut Hub)) {
        change(&mut locked(&self.hub));
    }
}

type Shared = State<Arc<Mutex<Hub>>>;

fn refuse(status: u16, reason: &str) -> Response {
    let body =
        Refused { reason: reason.to_owned(), message: format!("{reason}\u{1b}[31m as the test wants") };
    (StatusCode::from_u16(status).unwrap(), Json(body)).into_response()
}

async fn public(State(hub): Shared) -> Json<HubPublic> {
    Json(locked(&hub).public.clone())
}

async fn join(
    State(hub): Shared,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Json(request): Json<JoinRequest>,
) -> Response {
    let (fingerprint, _) = peer.key();
    let mut hub = locked(&hub);
    if secret_hash(&request.secret) != Some(Digest::of(&SECRET)) {
        return refuse(401, "TokenUnknown");
    }
    if *hub.claimed.get_or_insert(fingerprint) != fingerprint {
        return refuse(409, "TokenReused");
    }
    if hub.lose > 0 {
        hub.lose -= 1;
        return Body::from_stream(futures::stream::iter([Err::<Bytes, _>(std::io::Error::other("cut"))]))
            .into_response();
    }
    let accepted = hub.refuses.is_none();
    let answer = JoinAnswer { provider: request.provider, fingerprint, accepted, hub: hub.public.clone() };
    Json(answer).into_response()
}

async fn challenge(State(hub): Shared, ConnectInfo(peer): ConnectInfo<Peer>) -> Json<Challenge> {
    let mut hub = locked(&hub);
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).unwrap();
    let nonce = URL_SAFE_NO_PAD.encode(bytes);
    hub.nonces.insert(nonce.clone(), peer.key().0);
    Json(Challenge { nonce })
}

async fn tokens(
    State(hub): Shared,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Json(request): Json<TokensRequest>,
) -> Response {
    let (fingerprint, spki) = peer.key();
    let mut hub = locked(&hub);
    if hub.nonces.remove(&request.nonce) != Some(fingerprint) {
        return refuse(401, "BadChallenge");
    }
    let nonce = URL_SAFE_NO_PAD.decode(&request.nonce).unwrap();
    let signature = STANDARD.decode(&request.signature).unwrap();
    let message = token_request_message(&nonce, &spki);
    if !PublicKey::from_der(&spki).unwrap().verify(message.as_bytes(), &signature) {
        return refuse(401, "BadSignature");
    }
    if let Some((status, reason)) = hub.refuses {
        return refuse(status, reason);
    }
    hub.minted += 1;
    let (api_token, gateway_token) = (format!("api-{}", hub.minted), format!("gateway-{}", hub.minted));
    hub.good = BTreeSet::from([api_token.clone(), gateway_token.clone()]);
    let expires_in_seconds = hub.lifetime;
    Json(TokensAnswer { provider: "east".to_owned(), api_token, gateway_token, expires_in_seconds })
        .into_response()
}

/// A request with a good token for the gateway, and a certificate.
struct Admitted;

impl FromRequestParts<Arc<Mutex<Hub>>> for Admitted {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, hub: &Arc<Mutex<Hub>>) -> Result<Self, Response> {
        let peer = ConnectInfo::<Peer>::from_request_parts(parts, hub).await;
        let ConnectInfo(peer) = peer.map_err(IntoResponse::into_response)?;
        admitted(&locked(hub), &peer, &parts.headers, "gateway-").map(|()| Self).map_err(|refused| *refused)
    }
}

/// Whether the request has a good token of this kind, and a certificate.
fn admitted(hub: &Hub, peer: &Peer, headers: &HeaderMap, kind: &str) -> Result<(), Box<Response>> {
    peer.key();
    let token =
        headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    match token {
        Some(token) if token.starts_with(kind) && hub.good.contains(token) => Ok(()),
        _ => Err(Box::new(refuse(401, "BadToken"))),
    }
}

async fn heartbeat(State(hub): Shared, _: Admitted) -> Response {
    let hub = locked(&hub);
    if let Some((status, reason)) = hub.refuses {
        return refuse(status, reason);
    }
    Json(HeartbeatAnswer { log_size: hub.log.size(), ..hub.beat.clone() }).into_response()
}

async fn recover(State(hub): Shared, _: Admitted, Json(request): Json<RecoverRequest>) -> Response {
    let mut hub = locked(&hub);
    let answers = vec![hub.recovered.clone(); request.units.len()];
    hub.offers.push(request);
    Json(RecoverAnswer { answers }).into_response()
}

/// An API server that knows one Lease.
async fn api(State(hub): Shared, ConnectInfo(peer): ConnectInfo<Peer>, request: Request) -> Response {
    let hub = locked(&hub);
    if admitted(&hub, &peer, request.headers(), "api-").is_err() {
        let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "Unauthorized",
            "reason": "Unauthorized", "code": 401});
        return (StatusCode::UNAUTHORIZED, Json(status)).into_response();
    }
    assert_eq!(
        request.uri().path(),
        "/k8s/apis/coordination.k8s.io/v1/namespaces/muster-p-east/leases/agent"
    );
    Json(json!({"kind": "Lease", "apiVersion": "coordination.k8s.io/v1",
        "metadata": {"name": "agent", "namespace": "muster-p-east", "resourceVersion": "7"}}))
    .into_response()
}
