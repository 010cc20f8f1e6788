//! A small gateway for tests: real TLS on loopback, client certificates, signatures checked as docs/spec/gateway.md says.
//! What a test wants otherwise it changes in [`Hub`].
mod logs;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path as FilePath;
use std::sync::{Arc, Mutex};

use axum::body::{Body, Bytes};
use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use axum::serve::{IncomingStream, Listener};
use axum::{Json, Router};
use axum_server::accept::Accept;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use futures::StreamExt as _;
use muster_core::hub_keys;
use muster_proof::Digest;
use muster_proof::dsse::Envelope;
use muster_proof::key::{PublicKey, SigningKey};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::version::TLS13;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};

use super::identity::Identity;
use super::units::locked;
use crate::runtime::client::install_crypto;
use crate::wire::gateway::{
    Challenge, HeartbeatAnswer, HubPublic, JoinAnswer, JoinRequest, ManifestRef, RecoverAnswer,
    RecoverRequest, Recovered, Refused, TokensAnswer, TokensRequest, token_request_message,
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
            public: HubPublic { incarnation: 1, keys: chain },
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
        }));
        let routes = Router::new()
            .route("/healthz", get(|| async { "ok" }))
            .route("/v1/hub", get(public))
            .route("/v1/join", post(join))
            .route("/v1/challenge", post(challenge))
            .route("/v1/tokens", post(tokens))
            .route("/v1/heartbeat", post(heartbeat))
            .route("/v1/recover", post(recover))
            .route("/v1/units/u/blobs/sha256/{hex}", get(blob).put(put_blob))
            .route("/v1/units/u/checkpoints/{step}", post(commit))
            .merge(logs::routes())
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

/// [its certificate, its CA], and the hash of the CA's key.
fn tls(name: &str) -> (rustls::ServerConfig, Digest) {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    let ca_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let ca = params.self_signed(&ca_key).unwrap().der().clone();
    let spki = Digest::of(&ParsedCertificate::try_from(&ca).unwrap().subject_public_key_info());
    let issuer = Issuer::new(params, ca_key);
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder_with_protocol_versions(&[&TLS13])
        .with_client_cert_verifier(Arc::new(AnyKey))
        .with_single_cert(vec![leaf.der().clone(), ca], key)
        .unwrap();
    (config, spki)
}

/// Any certificate will do; that its key is the client's own the handshake proves.
#[derive(Debug)]
struct AnyKey;

impl ClientCertVerifier for AnyKey {
    fn root_hint_subjects(&self) -> &[rustls::DistinguishedName] {
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.3 only".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let provider = rustls::crypto::ring::default_provider();
        let algorithms = provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

struct TlsListener {
    listener: TcpListener,
    acceptor: RustlsAcceptor,
}

impl Listener for TlsListener {
    type Io = <RustlsAcceptor as Accept<TcpStream, ()>>::Stream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let Ok((stream, address)) = self.listener.accept().await else { continue };
            if let Ok((stream, _)) = self.acceptor.accept(stream, ()).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

/// The SPKI of the client's certificate.
#[derive(Debug, Clone)]
struct Peer(Option<Vec<u8>>);

impl Connected<IncomingStream<'_, TlsListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, TlsListener>) -> Self {
        let certificates = stream.io().get_ref().1.peer_certificates();
        let first = certificates.and_then(|list| list.first());
        Self(first.map(|c| ParsedCertificate::try_from(c).unwrap().subject_public_key_info().to_vec()))
    }
}

impl Peer {
    fn key(&self) -> (Digest, Vec<u8>) {
        let spki = self.0.clone().expect("the agent shows its certificate");
        (Digest::of(&spki), spki)
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

async fn heartbeat(State(hub): Shared, ConnectInfo(peer): ConnectInfo<Peer>, headers: HeaderMap) -> Response {
    let hub = locked(&hub);
    if let Err(refused) = admitted(&hub, &peer, &headers, "gateway-") {
        return *refused;
    }
    if let Some((status, reason)) = hub.refuses {
        return refuse(status, reason);
    }
    Json(hub.beat.clone()).into_response()
}

async fn recover(
    State(hub): Shared,
    ConnectInfo(peer): ConnectInfo<Peer>,
    headers: HeaderMap,
    Json(request): Json<RecoverRequest>,
) -> Response {
    let mut hub = locked(&hub);
    if let Err(refused) = admitted(&hub, &peer, &headers, "gateway-") {
        return *refused;
    }
    let answers = vec![hub.recovered.clone(); request.units.len()];
    hub.offers.push(request);
    Json(RecoverAnswer { answers }).into_response()
}

async fn blob(
    State(hub): Shared,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path(hex): Path<String>,
    headers: HeaderMap,
) -> Response {
    let mut hub = locked(&hub);
    if let Err(refused) = admitted(&hub, &peer, &headers, "gateway-") {
        return *refused;
    }
    let Some(bytes) = hub.blobs.get(&Digest::from_hex(&hex).unwrap()).cloned() else {
        return refuse(404, "NotFound");
    };
    let range = headers.get(header::RANGE).map(|range| range.to_str().unwrap().to_owned());
    let from: usize = range.as_ref().map_or(0, |r| r["bytes=".len()..r.len() - 1].parse().unwrap());
    hub.ranges.extend(range.clone());
    let rest = Bytes::copy_from_slice(&bytes[from..]);
    let length = rest.len();
    let mut pieces: Vec<Result<Bytes, std::io::Error>> = vec![Ok(rest.clone())];
    if let Some(cut) = hub.cut.filter(|cut| *cut < length) {
        pieces = vec![Ok(rest.slice(..cut)), Err(std::io::Error::other("cut"))];
    }
    let pieces = futures::stream::iter(pieces).then(|piece| async move {
        if piece.is_err() {
            // What came before must have left the machine.
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        piece
    });
    let mut response = Body::from_stream(pieces).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, length.into());
    if range.is_some() {
        let text = format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
        headers.insert(header::CONTENT_RANGE, text.parse().unwrap());
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    response
}

async fn put_blob(
    State(hub): Shared,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path(hex): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let mut hub = locked(&hub);
    if let Err(refused) = admitted(&hub, &peer, &headers, "gateway-") {
        return *refused;
    }
    assert_eq!(Digest::of(&body).to_hex(), hex);
    hub.blobs.insert(Digest::of(&body), body.to_vec());
    StatusCode::CREATED.into_response()
}

async fn commit(
    State(hub): Shared,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path(step): Path<u64>,
    headers: HeaderMap,
    Json(body): Json<ManifestRef>,
) -> Response {
    let mut hub = locked(&hub);
    if let Err(refused) = admitted(&hub, &peer, &headers, "gateway-") {
        return *refused;
    }
    if let Some((status, reason)) = hub.refuses_commits {
        return refuse(status, reason);
    }
    hub.commits.push((step, body.manifest));
    StatusCode::OK.into_response()
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
