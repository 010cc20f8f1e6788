//! A relay as the agent's, in memory: real TLS, HTTP by hand, and faults on request.

mod commits;

use std::collections::BTreeMap;
use std::io::{BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use muster_numerics::spec::TrainingSpec;
use muster_proof::Digest;
use muster_proof::key::{PublicKey, SigningKey};
use muster_trainer::binding;
use muster_trainer::peers::{self, PeerList};
use muster_trainer::protocol::{
    Assignment, CheckpointNotice, Desired, FailureNotice, Join, Joined, OptimizerState, OtherRound, Peer,
    Progress, ProgressAnswer, Recompute, SelfAnswer, Start,
};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

pub use commits::Committed;

const UNIT: &str = "4f2a9c1b-0-1";
/// Steps of an interval of a short job, and of a longer one: a debug build's sidecar needs its time for each.
const INTERVAL: (u64, u64) = (4, 20);

/// What the relay knows, and what it does wrong.
pub struct State {
    pub round: u32,
    pub workers: u32,
    pub spec: Digest,
    pub dataset: Digest,
    pub interval_steps: u64,
    pub start: Option<Start>,
    pub blobs: BTreeMap<Digest, Vec<u8>>,
    /// By rank.
    pub keys: BTreeMap<u32, PublicKey>,
    pub joined: BTreeMap<u32, Peer>,
    /// Signs the lists of peers: the key of the relay's certificate, which is its own CA.
    pub signer: SigningKey,
    /// What is done to a list for this rank before it is signed.
    pub tamper: fn(&mut PeerList, u32),
    /// The job's last step.
    pub steps: u64,
    /// The grant's epoch.
    pub epoch: u64,
    /// All that were accepted, in order, durable or not.
    pub commits: Vec<Committed>,
    /// Those of them that are durable.
    pub checkpoints: Vec<CheckpointNotice>,
    /// The failure that was accepted, and its record id.
    pub failure: Option<(Digest, FailureNotice)>,
    /// Whether it is durable.
    pub ended: bool,
    /// Step and record id of every notice that was good, as often as it came.
    pub announced: Vec<(u64, Digest)>,
    /// Why notices were not good.
    pub refused: Vec<String>,
    pub progress: Vec<Progress>,
    pub desired: Desired,
    /// Connections are dropped.
    pub down: bool,
    /// All answers are 410.
    pub over: bool,
    /// So many announcements of a checkpoint are answered 202.
    pub not_yet: u32,
    /// The hub is away: all are.
    pub no_hub: bool,
    /// So many announcements are answered 503, because too many wait.
    pub busy: u32,
    /// So many announcements are answered 507, because the disk is full.
    pub full: u32,
    /// So often this blob is given with a flipped bit.
    pub wrong: BTreeMap<Digest, u32>,
    /// So many uploads arrive with a flipped bit.
    pub flipped: u32,
    /// So many connections break in the middle of an upload.
    pub cut: u32,
    /// Which requests came, without those for blobs.
    pub log: Vec<String>,
    /// The bodies of them.
    pub bodies: Vec<Vec<u8>>,
}

pub struct Relay {
    pub url: String,
    pub ca: String,
    shared: Arc<(Mutex<State>, Condvar)>,
}

struct Request {
    method: String,
    path: String,
    rank: Option<u32>,
    body: Vec<u8>,
}

type Answer = (u16, Vec<u8>);

impl Relay {
    pub fn start(workers: u32, spec: Vec<u8>, dataset: Vec<u8>, shards: Vec<Vec<u8>>) -> Self {
        let rcgen::CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
        let signer = SigningKey::from_pem(&signing_key.serialize_pem()).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .unwrap();
        let config = Arc::new(config);
        let steps = TrainingSpec::from_json(&spec).unwrap().training.steps;
        let (spec_digest, data_digest) = (Digest::of(&spec), Digest::of(&dataset));
        let all = shards.into_iter().chain([spec, dataset]);
        let state = State {
            round: 1,
            workers,
            spec: spec_digest,
            dataset: data_digest,
            interval_steps: if steps > 40 { INTERVAL.1 } else { INTERVAL.0 },
            steps,
            epoch: 1,
            start: None,
            blobs: all.map(|blob| (Digest::of(&blob), blob)).collect(),
            joined: BTreeMap::new(),
            signer,
            tamper: |_, _| (),
            commits: Vec::new(),
            checkpoints: Vec::new(),
            failure: None,
            ended: false,
            announced: Vec::new(),
            refused: Vec::new(),
            progress: Vec::new(),
            desired: Desired::Run,
            down: false,
            over: false,
            not_yet: 1,
            no_hub: false,
            busy: 0,
            full: 0,
            wrong: BTreeMap::new(),
            keys: BTreeMap::new(),
            flipped: 0,
            cut: 0,
            log: Vec::new(),
            bodies: Vec::new(),
        };
        let shared = Arc::new((Mutex::new(state), Condvar::new()));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let served = shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (config, shared) = (config.clone(), served.clone());
                thread::spawn(move || serve(stream.unwrap(), config, &shared));
            }
        });
        Self { url, ca: cert.pem(), shared }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.shared.0.lock().unwrap()
    }

    /// Waits until `wanted` holds.
    pub fn wait(&self, what: &str, wanted: impl Fn(&State) -> bool) {
        let end = Instant::now() + Duration::from_secs(60);
        while !wanted(&self.state()) {
            assert!(Instant::now() < end, "not in time: {what}; requests: {:?}", self.state().log);
            thread::sleep(Duration::from_millis(10));
        }
    }
}

fn serve(stream: TcpStream, config: Arc<ServerConfig>, shared: &(Mutex<State>, Condvar)) {
    if shared.0.lock().unwrap().down {
        return;
    }
    let mut tls = BufReader::new(StreamOwned::new(ServerConnection::new(config).unwrap(), stream));
    // A client that goes away in the middle is nothing to fail for.
    while let Some(request) = read(&mut tls, shared) {
        if shared.0.lock().unwrap().down {
            return;
        }
        let (status, body) = answer(&request, shared);
        let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n", body.len());
        let body = if request.method == "HEAD" { Vec::new() } else { body };
        let sent = tls.get_mut().write_all(&[head.into_bytes(), body].concat());
        if sent.and_then(|()| tls.get_mut().flush()).is_err() {
            return;
        }
    }
}

fn read(stream: &mut impl std::io::BufRead, shared: &(Mutex<State>, Condvar)) -> Option<Request> {
    let mut line = String::new();
    stream.read_line(&mut line).ok().filter(|n| *n > 0)?;
    let mut words = line.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let (mut length, mut rank) = (0, None);
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        match name.to_lowercase().as_str() {
            "content-length" => length = value.parse().ok()?,
            "authorization" => rank = value.strip_prefix("Bearer rank-").and_then(|rank| rank.parse().ok()),
            "expect" | "transfer-encoding" => panic!("{line}"),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    if method == "PUT" && path.starts_with("/v1/blobs/") {
        let mut state = shared.0.lock().unwrap();
        if state.cut > 0 {
            state.cut -= 1;
            stream.read_exact(&mut body[..length / 2]).ok()?;
            return None;
        }
    }
    stream.read_exact(&mut body).ok()?;
    Some(Request { method, path, rank, body })
}

fn answer(request: &Request, shared: &(Mutex<State>, Condvar)) -> Answer {
    let mut state = shared.0.lock().unwrap();
    let blob = request.path.strip_prefix("/v1/blobs/sha256/");
    if blob.is_none() {
        state.log.push(format!("{} {}", request.method, request.path));
        state.bodies.push(request.body.clone());
    }
    let Some(rank) = request.rank else { return (401, b"no token\n".to_vec()) };
    if state.over {
        return (410, Vec::new());
    }
    let json = |value: &dyn erased::Json| (200, value.bytes());
    if let Some(hex) = blob {
        let digest = Digest::from_hex(hex).unwrap();
        return match request.method.as_str() {
            "PUT" if state.flipped > 0 => {
                state.flipped -= 1;
                let mut body = request.body.clone();
                *body.last_mut().unwrap() ^= 1;
                assert_ne!(Digest::of(&body), digest);
                (400, Vec::new())
            }
            "PUT" if Digest::of(&request.body) != digest => (400, Vec::new()),
            "PUT" => {
                let new = state.blobs.insert(digest, request.body.clone()).is_none();
                (if new { 201 } else { 200 }, Vec::new())
            }
            _ => {
                let mut found = state.blobs.get(&digest).cloned();
                if request.method == "GET"
                    && let Some(left @ 1..) = state.wrong.get_mut(&digest)
                {
                    *left -= 1;
                    found.as_mut().unwrap()[0] ^= 1;
                }
                found.map_or((404, Vec::new()), |bytes| (200, bytes))
            }
        };
    }
    match (request.method.as_str(), request.path.as_str()) {
        ("GET", "/v1/self") => json(&SelfAnswer { unit: UNIT.into(), attempt: 1, rank }),
        ("PUT", "/v1/key") => {
            let wished = serde_json::from_slice(&request.body).unwrap();
            let key = binding::check_binding(&wished, &format!("rank-{rank}")).unwrap();
            match state.keys.get(&rank) {
                None => {
                    state.keys.insert(rank, key);
                    (201, Vec::new())
                }
                Some(known) if *known == key => (200, Vec::new()),
                Some(_) => (409, b"another key is bound".to_vec()),
            }
        }
        ("POST", "/v1/checkpoints") => {
            assert_eq!(rank, 0);
            commits::take(&mut state, &serde_json::from_slice(&request.body).unwrap())
        }
        ("POST", "/v1/failures") => {
            assert_eq!(rank, 0);
            commits::take_failure(&mut state, &serde_json::from_slice(&request.body).unwrap())
        }
        ("GET", path) if path.starts_with("/v1/terms?failedStep=") => {
            assert_eq!(rank, 0);
            commits::give_terms_of_failed(&state, path.rsplit('=').next().unwrap().parse().unwrap())
        }
        ("GET", path) if path.starts_with("/v1/terms?step=") => {
            assert_eq!(rank, 0);
            commits::give_terms(&state, path.rsplit('=').next().unwrap().parse().unwrap())
        }
        ("POST", "/v1/progress") => {
            state.progress.push(serde_json::from_slice(&request.body).unwrap());
            json(&ProgressAnswer { desired: state.desired })
        }
        (method, path) => {
            let mut parts = path.strip_prefix("/v1/rounds/").expect("a path of the protocol").split('/');
            let round: u32 = parts.next().unwrap().parse().unwrap();
            if round == state.round + 1 {
                next_round(&mut state);
            } else if round != state.round {
                return (409, serde_json::to_vec(&OtherRound { round: state.round }).unwrap());
            }
            match (method, parts.next()) {
                ("GET", None) => json(&Assignment {
                    unit: UNIT.into(),
                    attempt: 1,
                    rank,
                    workers: state.workers,
                    spec: state.spec,
                    dataset: state.dataset,
                    interval_steps: state.interval_steps,
                    keep_last: 2,
                    // What may differ without a trace does where there is more than one to differ.
                    recompute: (state.workers > 1).then_some(Recompute::Layers),
                    optimizer_state: (state.workers > 1).then_some(OptimizerState::Sharded),
                    start: state.start.clone(),
                }),
                ("POST", Some("join")) => join(request, rank, round, state, shared),
                other => panic!("{other:?}"),
            }
        }
    }
}

fn next_round(state: &mut State) {
    state.round += 1;
    state.joined.clear();
    let newest = state.commits.last().map(|commit| &commit.notice);
    state.start = newest.map(|last| Start { step: last.step, manifest: last.manifest });
}

fn join(
    request: &Request,
    rank: u32,
    round: u32,
    mut state: MutexGuard<'_, State>,
    shared: &(Mutex<State>, Condvar),
) -> Answer {
    let peer = serde_json::from_slice::<Join>(&request.body).unwrap().peer();
    let complete = state.joined.len() == state.workers as usize;
    if complete && state.joined.get(&rank).is_some_and(|known| *known != peer) {
        // The others have the old one already.
        next_round(&mut state);
        return (409, serde_json::to_vec(&OtherRound { round: state.round }).unwrap());
    }
    state.joined.insert(rank, peer);
    shared.1.notify_all();
    // Short, so that "ask again" is seen too.
    let wait = Duration::from_millis(300);
    let (state, _) = shared
        .1
        .wait_timeout_while(state, wait, |s| s.round == round && s.joined.len() < s.workers as usize)
        .unwrap();
    if state.round != round {
        return (409, serde_json::to_vec(&OtherRound { round: state.round }).unwrap());
    }
    if state.joined.len() < state.workers as usize {
        return (202, Vec::new());
    }
    let mut list = PeerList {
        format: peers::FORMAT.into(),
        unit: UNIT.into(),
        attempt: 1,
        round,
        peers: state.joined.values().copied().collect(),
    };
    (state.tamper)(&mut list, rank);
    (200, serde_json::to_vec(&Joined { peers: peers::sign(&list, &state.signer).unwrap() }).unwrap())
}

mod erased {
    pub trait Json {
        fn bytes(&self) -> Vec<u8>;
    }

    impl<T: serde::Serialize> Json for T {
        fn bytes(&self) -> Vec<u8> {
            serde_json::to_vec(self).unwrap()
        }
    }
}
