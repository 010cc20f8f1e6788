//! The relay over real TLS, with the member's and the hub's answers made up.
use std::collections::HashMap;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::BoxFuture;
use muster_core::attempt::Desired;
use muster_proof::Digest;
use muster_proof::key::SigningKey;
use muster_proof::steps::{Bits, Records, StepRecord};
use muster_trainer::binding;
use muster_trainer::checkpoint::{FILES, FileEntry, Manifest};
use muster_trainer::commit;
use muster_trainer::dataset;
use muster_trainer::peers;
use muster_trainer::protocol::{
    Assignment, CheckpointNotice, Join, Joined, KeyBinding, OtherRound, Peer, SelfAnswer,
};
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};

use super::identity::{ReviewError, Worker};
use super::*;
use crate::agent::state::{StateDir, UnitState};
use crate::agent::testing::{MemoryBlobs, payload};
use crate::agent::units::{Unit, locked};
use crate::agent::upload;
use crate::runtime::tls::{Authority, pinned_client};

mod continued;
mod joining;

const UNIT: &str = "4f2a9c1b-0-1";

/// Tokens are the workers' pod UIDs.
#[derive(Debug, Default)]
struct Pods(Mutex<HashMap<String, Worker>>);

impl Pods {
    fn add(&self, pod: &str, unit: &str, attempt: i64, rank: i64) {
        let address = Some("10.0.0.1".parse().unwrap());
        let worker = Worker { unit: unit.to_owned(), attempt, rank, pod: pod.to_owned(), address };
        locked(&self.0).insert(pod.to_owned(), worker);
    }
}

impl Reviewer for Pods {
    fn review<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Worker, ReviewError>> {
        Box::pin(async move {
            match (token, locked(&self.0).get(token).cloned()) {
                (_, Some(worker)) => Ok(worker),
                ("api-down", None) => Err(ReviewError::Unavailable("no answer".to_owned())),
                _ => Err(ReviewError::Refused("not a token for this relay".to_owned())),
            }
        })
    }
}

/// One agent process.
struct Agent {
    base: String,
    client: reqwest::Client,
    units: Arc<Units>,
    blobs: Arc<BlobDir>,
    shutdown: Shutdown,
    /// The CA's key.
    signer: SigningKey,
}

/// What outlives it.
struct World {
    dir: tempfile::TempDir,
    hub: Arc<MemoryBlobs>,
    pods: Arc<Pods>,
}

impl World {
    /// A dataset of one shard and a spec at the hub, and unit [`UNIT`] with two workers in its first attempt.
    async fn new() -> (Self, Agent) {
        let world = Self { dir: tempfile::tempdir().unwrap(), hub: Arc::default(), pods: Arc::default() };
        let mut payload = payload();
        payload.spec = world.hub.insert(b"spec");
        let shard = world.hub.insert(b"to be or not to be");
        let shards = vec![dataset::Shard { path: "tokens-00000.bin".to_owned(), size: 18, sha256: shard }];
        let manifest = dataset::Manifest::new(Digest::of(b"root"), shards).unwrap();
        payload.dataset = world.hub.insert(&manifest.to_bytes().unwrap());
        world.pods.add("pod-0", UNIT, 1, 0);
        world.pods.add("pod-1", UNIT, 1, 1);
        let agent = world.start().await;
        let unit = agent.units.ensure(UNIT);
        unit.update(|state| {
            *state = UnitState { uid: "u".to_owned(), payload: Some(payload), ..UnitState::default() };
            state.memory.attempt = 1;
            super::rounds::bind(state, 0, &key(7).public().to_pem().unwrap());
        })
        .await
        .unwrap();
        (world, agent)
    }

    async fn start(&self) -> Agent {
        let root: &Path = self.dir.path();
        let authority = Authority::open(&root.join("relay-ca"), "muster relay").unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let base = format!("https://{}", listener.local_addr().unwrap());
        let units = Arc::new(Units::open(StateDir::open(root).unwrap()).unwrap());
        let blobs = Arc::new(BlobDir::open(&root.join("blobs")).await.unwrap());
        let shutdown = Shutdown::manual();
        let signer = authority.signer().unwrap();
        let relay =
            Relay::new(units.clone(), blobs.clone(), self.hub.clone(), self.pods.clone(), signer.clone());
        let tls = authority.server(&["127.0.0.1".to_owned()]).unwrap();
        tokio::spawn(relay.serve(listener, tls, shutdown.clone()));
        Agent { base, client: pinned_client(authority.pem()).unwrap(), units, blobs, shutdown, signer }
    }
}

impl Agent {
    fn unit(&self) -> Arc<Unit> {
        self.units.get(UNIT).unwrap()
    }

    /// Brings the unit's checkpoints to the hub, as the agent does beside its relay.
    fn uploads(&self, world: &World, unit: Arc<Unit>) -> tokio::task::JoinHandle<()> {
        let (units, blobs, hub) = (self.units.clone(), self.blobs.clone(), world.hub.clone());
        tokio::spawn(upload::run(unit, units, blobs, hub, self.shutdown.clone()))
    }

    async fn ask(&self, pod: &str, method: Method, path: &str, body: Option<Value>) -> Response {
        let mut request = self.client.request(method, format!("{}{path}", self.base)).bearer_auth(pod);
        if let Some(body) = body {
            request = request.json(&body);
        }
        request.send().await.unwrap()
    }

    async fn get(&self, pod: &str, path: &str) -> Response {
        self.ask(pod, Method::GET, path, None).await
    }

    /// The process behind this port joins, with its key.
    async fn join(&self, pod: &str, round: u32, port: u16) -> Response {
        let body = serde_json::to_value(joining(port)).unwrap();
        self.ask(pod, Method::POST, &format!("/v1/rounds/{round}/join"), Some(body)).await
    }

    /// The peers of an answer, as the pod of this rank and port reads it.
    fn peers(&self, joined: &Joined, workers: u32, rank: u32, round: u32, port: u16) -> Vec<Peer> {
        let Peer { address, key } = joining(port).peer();
        let expected = peers::Expected { unit: UNIT, attempt: 1, round, workers, rank, address, key };
        peers::open(&joined.peers, &[self.signer.public().clone()], &expected).unwrap()
    }

    async fn put(&self, pod: &str, digest: &Digest, bytes: &[u8]) -> StatusCode {
        let url = format!("{}/v1/blobs/sha256/{}", self.base, digest.to_hex());
        self.client.put(url).bearer_auth(pod).body(bytes.to_vec()).send().await.unwrap().status()
    }

    async fn blob(&self, pod: &str, digest: &Digest) -> Response {
        self.get(pod, &format!("/v1/blobs/sha256/{}", digest.to_hex())).await
    }

    /// Announces a checkpoint, signed with the key that [`World::new`] has bound.
    async fn commit(&self, pod: &str, step: u64, manifest: &Digest) -> Response {
        let notice = notice(step, *manifest, &key(7));
        self.ask(pod, Method::POST, "/v1/checkpoints", Some(serde_json::to_value(notice).unwrap())).await
    }

    async fn bind(&self, pod: &str, binding: &KeyBinding) -> Response {
        self.ask(pod, Method::PUT, "/v1/key", Some(serde_json::to_value(binding).unwrap())).await
    }

    /// Puts a whole checkpoint of this step and returns its manifest's digest.
    async fn upload(&self, step: u64, training: Digest) -> Digest {
        let (manifest, blobs) = checkpoint(step, training);
        for bytes in blobs {
            assert!(self.put("pod-0", &Digest::of(&bytes), &bytes).await.is_success());
        }
        manifest
    }
}

/// What a process that listens on this port says.
fn joining(port: u16) -> Join {
    let mut seed = [1; 32];
    seed[..2].copy_from_slice(&port.to_le_bytes());
    let public_key = SigningKey::generate(seed).unwrap().public().clone();
    Join { address: ([10, 0, 0, 1], port).into(), public_key }
}

fn key(seed: u8) -> SigningKey {
    SigningKey::generate([seed; 32]).unwrap()
}

/// What the sidecar with this key says of the checkpoint of `step`.
fn notice(step: u64, manifest: Digest, key: &SigningKey) -> CheckpointNotice {
    let record = |step| StepRecord {
        eval_loss: None,
        grad_norm: Bits::of(1.0),
        learning_rate: Bits::of(0.5),
        loss: Bits::of(2.0),
        step,
    };
    let first = step - 19;
    let records = Records::new(first, (first..=step).map(record).collect()).unwrap();
    let digest = Digest::of(b"x").to_string();
    let terms = json!({"job": digest, "island": 0, "epoch": 1, "interval": step / 20 - 1, "firstStep": first,
        "lastStep": step, "previous": digest, "salt": "00".repeat(32)});
    commit::sign(&serde_json::from_value(terms).unwrap(), &records, manifest, Digest::of(b"state"), key)
        .unwrap()
}

/// The manifest's digest and all blobs of a checkpoint, the manifest last.
fn checkpoint(step: u64, training: Digest) -> (Digest, Vec<Vec<u8>>) {
    let mut blobs: Vec<Vec<u8>> =
        FILES.iter().map(|name| format!("{name} of step {step}").into_bytes()).collect();
    let files = FILES
        .iter()
        .zip(&blobs)
        .map(|(path, bytes)| FileEntry {
            path: (*path).to_owned(),
            size: bytes.len() as u64,
            sha256: Digest::of(bytes),
        })
        .collect();
    let manifest = Manifest::new(step, training, Digest::of(b"state"), [0.5, 0.5], files).unwrap();
    blobs.push(manifest.to_bytes().unwrap());
    (Digest::of(blobs.last().unwrap()), blobs)
}

async fn json<T: serde::de::DeserializeOwned>(response: Response) -> T {
    assert_eq!(response.status(), StatusCode::OK);
    response.json().await.unwrap()
}

#[tokio::test]
async fn strangers_are_refused() {
    let (world, agent) = World::new().await;
    world.pods.add("pod-of-another-attempt", UNIT, 2, 0);
    world.pods.add("pod-of-no-unit", "a-0-1", 1, 0);
    world.pods.add("second-pod-of-rank-0", UNIT, 1, 0);
    world.pods.add("rank-too-high", UNIT, 1, 2);
    assert_eq!(agent.get("pod-0", "/v1/rounds/1").await.status(), StatusCode::OK);
    for (token, want) in [
        ("nonsense", StatusCode::UNAUTHORIZED),
        ("api-down", StatusCode::SERVICE_UNAVAILABLE),
        ("pod-of-another-attempt", StatusCode::GONE),
        ("pod-of-no-unit", StatusCode::GONE),
        ("second-pod-of-rank-0", StatusCode::FORBIDDEN),
        ("rank-too-high", StatusCode::FORBIDDEN),
    ] {
        assert_eq!(agent.get(token, "/v1/rounds/1").await.status(), want, "{token}");
    }
    let bare = agent.client.get(format!("{}/v1/rounds/1", agent.base)).send().await.unwrap();
    assert_eq!(bare.status(), StatusCode::UNAUTHORIZED);
    let elsewhere = json!({ "address": "10.0.0.9:1000", "publicKey": joining(1000).public_key });
    let join = agent.ask("pod-0", Method::POST, "/v1/rounds/1/join", Some(elsewhere)).await;
    assert_eq!(join.status(), StatusCode::FORBIDDEN, "a pod speaks for its own address only");
    // Somebody else's certificate is not believed.
    let other = Authority::open(&world.dir.path().join("other"), "other").unwrap();
    let client = pinned_client(other.pem()).unwrap();
    assert!(client.get(format!("{}/v1/rounds/1", agent.base)).send().await.is_err());
}

#[tokio::test]
async fn an_attempt_that_is_over_hears_so() {
    let (_world, agent) = World::new().await;
    let waiting = agent.join("pod-0", 1, 1000);
    let ending = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        agent.unit().update(|state| state.memory.over = true).await.unwrap();
        agent.unit().round.send_modify(|count| *count += 1);
    };
    let (waiting, ()) = tokio::join!(waiting, ending);
    assert_eq!(waiting.status(), StatusCode::GONE);
    assert_eq!(agent.get("pod-0", "/v1/rounds/1").await.status(), StatusCode::GONE);
}

#[tokio::test]
async fn bodies_are_closed_and_capped() {
    let (_world, agent) = World::new().await;
    let bad = [
        ("/v1/rounds/1/join", json!({"address": "10.0.0.1:1", "extra": 1}), "extra"),
        ("/v1/rounds/1/join", json!({"address": "nowhere"}), "socket address"),
        ("/v1/rounds/1/join", json!({"address": "10.0.0.1:1"}), "publicKey"),
        ("/v1/rounds/1/join", json!({"address": "10.0.0.1:1", "publicKey": "MFkw"}), "P-256 public key"),
        ("/v1/progress", json!({"step": 101, "loss": "1", "tokensPerSecond": 1}), "step"),
        ("/v1/progress", json!({"step": 1, "loss": "\u{1b}[31m", "tokensPerSecond": 1}), "loss"),
        ("/v1/checkpoints", json!({"step": 20}), "manifest"),
        (
            "/v1/checkpoints",
            json!({"step": 20, "manifest": Digest::of(b"m"), "stateRoot": Digest::of(b"s")}),
            "signature",
        ),
    ];
    for (path, body, want) in bad {
        let answer = agent.ask("pod-0", Method::POST, path, Some(body)).await;
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{path}");
        let text = answer.text().await.unwrap();
        assert!(text.contains(want), "{path}: {text}");
    }
    let long = json!({ "address": "x".repeat(100_000) });
    let answer = agent.ask("pod-0", Method::POST, "/v1/rounds/1/join", Some(long)).await;
    assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn a_pod_reads_what_its_unit_leads_to_and_nothing_else() {
    let (world, agent) = World::new().await;
    let secret = world.hub.insert(b"another tenant's data");
    assert_eq!(agent.blob("pod-0", &secret).await.status(), StatusCode::NOT_FOUND);
    let shard = Digest::of(b"to be or not to be");
    // Two ranks ask at once; the hub is asked once.
    let before = world.hub.gets.load(Ordering::SeqCst);
    let (first, second) = tokio::join!(agent.blob("pod-0", &shard), agent.blob("pod-1", &shard));
    assert_eq!(first.bytes().await.unwrap(), &b"to be or not to be"[..]);
    assert_eq!(second.status(), StatusCode::OK);
    assert!(world.hub.gets.load(Ordering::SeqCst) <= before + 2, "the shard once, the manifest at most once");
    // From now on the hub is not needed.
    world.hub.down.store(true, Ordering::SeqCst);
    assert_eq!(agent.blob("pod-1", &shard).await.status(), StatusCode::OK);
    let spec = agent.unit().state().await.payload.unwrap().spec;
    assert_eq!(agent.blob("pod-1", &spec).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    world.hub.down.store(false, Ordering::SeqCst);
    let spec = agent.blob("pod-1", &spec).await;
    assert_eq!(spec.headers()["content-length"], "4");
    assert_eq!(agent.get("pod-1", "/v1/blobs/sha256/abc").await.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn blobs_are_taken_if_they_are_what_they_are_called() {
    let (_world, agent) = World::new().await;
    let digest = Digest::of(b"blob");
    assert_eq!(agent.put("pod-0", &digest, b"blub").await, StatusCode::BAD_REQUEST);
    assert_eq!(agent.put("pod-0", &digest, b"blob").await, StatusCode::CREATED);
    assert_eq!(agent.put("pod-0", &digest, b"blob").await, StatusCode::OK);
    assert_eq!(agent.put("nonsense", &digest, b"blob").await, StatusCode::UNAUTHORIZED);
    let path = format!("/v1/blobs/sha256/{}", digest.to_hex());
    assert_eq!(agent.ask("pod-0", Method::HEAD, &path, None).await.status(), StatusCode::OK);
    let absent = format!("/v1/blobs/sha256/{}", Digest::of(b"x").to_hex());
    assert_eq!(agent.ask("pod-0", Method::HEAD, &absent, None).await.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn checkpoints_are_checked_before_anyone_may_start_from_them() {
    let (_world, agent) = World::new().await;
    let training = agent.unit().state().await.payload.unwrap().training_digest;
    let (manifest, blobs) = checkpoint(20, training);
    assert_eq!(agent.commit("pod-0", 20, &manifest).await.status(), StatusCode::CONFLICT, "no manifest");
    agent.put("pod-0", &manifest, blobs.last().unwrap()).await;
    let missing = agent.commit("pod-0", 20, &manifest).await;
    assert_eq!(missing.status(), StatusCode::CONFLICT);
    assert!(missing.text().await.unwrap().contains(&Digest::of(&blobs[0]).to_string()));
    agent.upload(20, training).await;
    for (pod, step, status, want) in [
        ("pod-1", 20, StatusCode::FORBIDDEN, "rank 0"),
        ("pod-0", 21, StatusCode::BAD_REQUEST, "neither the end of an interval"),
        ("pod-0", 120, StatusCode::BAD_REQUEST, "neither the end of an interval"),
        ("pod-0", 0, StatusCode::BAD_REQUEST, "neither the end of an interval"),
        ("pod-0", 40, StatusCode::BAD_REQUEST, "manifest.step is 20, want 40"),
    ] {
        let answer = agent.commit(pod, step, &manifest).await;
        assert_eq!(answer.status(), status);
        let text = answer.text().await.unwrap();
        assert!(text.contains(want), "{text}");
    }
    let foreign = agent.upload(20, Digest::of(b"another job")).await;
    let text = agent.commit("pod-0", 20, &foreign).await.text().await.unwrap();
    assert!(text.contains("manifest.trainingDigest"), "{text}");
    agent.put("pod-0", &Digest::of(b"{}"), b"{}").await;
    assert_eq!(agent.commit("pod-0", 20, &Digest::of(b"{}")).await.status(), StatusCode::BAD_REQUEST);
    assert_eq!(agent.unit().state().await.checkpoints, []);
    // Good, twice, and then other bits for the same step.
    assert_eq!(agent.commit("pod-0", 20, &manifest).await.status(), StatusCode::ACCEPTED);
    assert_eq!(agent.commit("pod-0", 20, &manifest).await.status(), StatusCode::ACCEPTED);
    let mut other = blobs.clone();
    let text = String::from_utf8(other.pop().unwrap()).unwrap();
    let other = text.replace("\"b1p\":\"3fe0000000000000\"", "\"b1p\":\"3fd0000000000000\"").into_bytes();
    agent.put("pod-0", &Digest::of(&other), &other).await;
    let text = agent.commit("pod-0", 20, &Digest::of(&other)).await.text().await.unwrap();
    assert!(text.contains("not reproducible"), "{text}");
    assert_eq!(agent.unit().state().await.checkpoints.len(), 1);
}

#[tokio::test]
async fn one_key_is_bound_to_a_rank_whoever_asks() {
    let (world, agent) = World::new().await;
    let me: SelfAnswer = json(agent.get("pod-1", "/v1/self").await).await;
    assert_eq!((me.unit.as_str(), me.attempt, me.rank), (UNIT, 1, 1));
    let binding = binding::bind(&key(8), "pod-1").unwrap();
    // A binding is good with the token that was signed only, and a key with its owner's signature only.
    assert_eq!(agent.bind("pod-0", &binding).await.status(), StatusCode::BAD_REQUEST);
    let stolen = KeyBinding { public_key: key(9).public().to_pem().unwrap(), ..binding.clone() };
    let answer = agent.bind("pod-1", &stolen).await;
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
    assert!(answer.text().await.unwrap().contains("BadSignature"));
    let none = KeyBinding { public_key: "-----BEGIN".to_owned(), ..binding.clone() };
    assert!(agent.bind("pod-1", &none).await.text().await.unwrap().contains("publicKey"));
    assert_eq!(agent.bind("nonsense", &binding).await.status(), StatusCode::UNAUTHORIZED);
    // Good, again, and then another one.
    assert_eq!(agent.bind("pod-1", &binding).await.status(), StatusCode::CREATED);
    assert_eq!(agent.bind("pod-1", &binding).await.status(), StatusCode::OK);
    let other = binding::bind(&key(9), "pod-1").unwrap();
    let answer = agent.bind("pod-1", &other).await;
    assert_eq!(answer.status(), StatusCode::CONFLICT);
    assert!(answer.text().await.unwrap().contains("another key is bound"));
    // An agent that starts again remembers.
    agent.shutdown.trigger();
    let agent = world.start().await;
    assert_eq!(agent.bind("pod-1", &other).await.status(), StatusCode::CONFLICT);
    assert_eq!(agent.bind("pod-1", &binding).await.status(), StatusCode::OK);
    // The next attempt's pods make keys of their own.
    agent.unit().update(|state| state.memory.attempt = 2).await.unwrap();
    assert_eq!(agent.bind("pod-1", &binding).await.status(), StatusCode::GONE);
    world.pods.add("pod-2", UNIT, 2, 1);
    let next = binding::bind(&key(9), "pod-2").unwrap();
    assert_eq!(agent.bind("pod-2", &next).await.status(), StatusCode::CREATED);
}

#[tokio::test]
async fn a_checkpoint_counts_if_the_bound_key_has_signed_it() {
    let (_world, agent) = World::new().await;
    let training = agent.unit().state().await.payload.unwrap().training_digest;
    let manifest = agent.upload(20, training).await;
    let body = serde_json::to_value(notice(20, manifest, &key(8))).unwrap();
    let answer = agent.ask("pod-0", Method::POST, "/v1/checkpoints", Some(body)).await;
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
    assert!(answer.text().await.unwrap().contains("BadCommit"));
    assert_eq!(agent.unit().state().await.checkpoints, []);
    agent.unit().update(|state| state.rounds.keys.clear()).await.unwrap();
    let answer = agent.commit("pod-0", 20, &manifest).await;
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    assert!(answer.text().await.unwrap().contains("no key is bound"));
    let binding = binding::bind(&key(7), "pod-0").unwrap();
    assert_eq!(agent.bind("pod-0", &binding).await.status(), StatusCode::CREATED);
    assert_eq!(agent.commit("pod-0", 20, &manifest).await.status(), StatusCode::ACCEPTED);
}

#[tokio::test]
async fn the_next_round_starts_from_the_newest_commit_even_if_the_hub_is_down() {
    let (world, agent) = World::new().await;
    let training = agent.unit().state().await.payload.unwrap().training_digest;
    world.hub.down.store(true, Ordering::SeqCst);
    let uploading = agent.uploads(&world, agent.unit());
    let _: Assignment = json(agent.get("pod-0", "/v1/rounds/1").await).await;
    let manifest = agent.upload(20, training).await;
    assert_eq!(agent.commit("pod-0", 20, &manifest).await.status(), StatusCode::ACCEPTED);
    let same: Assignment = json(agent.get("pod-1", "/v1/rounds/1").await).await;
    assert_eq!(same.start, None, "the round's start is fixed");
    let next: Assignment = json(agent.get("pod-1", "/v1/rounds/2").await).await;
    assert_eq!(next.start.map(|start| (start.step, start.manifest)), Some((20, manifest)));
    let (_, blobs) = checkpoint(20, training);
    for blob in &blobs {
        assert_eq!(agent.blob("pod-1", &Digest::of(blob)).await.status(), StatusCode::OK);
    }
    assert_eq!(*agent.unit().durable.borrow(), 0);
    // The hub is back: it gets everything, and the pod hears of it.
    world.hub.down.store(false, Ordering::SeqCst);
    let unit = agent.unit();
    let mut durable = unit.durable.subscribe();
    tokio::time::timeout(Duration::from_secs(30), durable.wait_for(|step| *step == 20))
        .await
        .unwrap()
        .unwrap();
    for blob in &blobs {
        assert!(locked(&world.hub.blobs).contains_key(&Digest::of(blob)));
    }
    assert_eq!(locked(&world.hub.commits).get(&20), Some(&manifest));
    assert_eq!(agent.commit("pod-0", 20, &manifest).await.status(), StatusCode::OK);
    agent.shutdown.trigger();
    uploading.await.unwrap();
}

#[tokio::test]
async fn a_superseded_unit_uploads_no_more_and_wakes_its_controller() {
    let (world, agent) = World::new().await;
    let training = agent.unit().state().await.payload.unwrap().training_digest;
    world.hub.superseded.store(true, Ordering::SeqCst);
    agent.uploads(&world, agent.unit());
    let manifest = agent.upload(20, training).await;
    assert_eq!(agent.commit("pod-0", 20, &manifest).await.status(), StatusCode::ACCEPTED);
    let unit = agent.unit();
    for _ in 0..100 {
        if unit.state().await.superseded.is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(unit.state().await.superseded.unwrap().contains("epoch 2"));
    assert_eq!(*unit.durable.borrow(), 0, "that its bytes are at the hub is not enough");
    // The controller is woken: by the commit, and by this.
    tokio::time::timeout(Duration::from_secs(5), unit.wake.notified()).await.unwrap();
    assert!(locked(&world.hub.commits).is_empty());
}

#[tokio::test]
async fn old_checkpoints_leave_the_cache() {
    let (world, agent) = World::new().await;
    let training = agent.unit().state().await.payload.unwrap().training_digest;
    agent.uploads(&world, agent.unit());
    let unit = agent.unit();
    let mut durable = unit.durable.subscribe();
    for step in [20, 40, 60] {
        let manifest = agent.upload(step, training).await;
        agent.commit("pod-0", step, &manifest).await;
        let reached = durable.wait_for(|durable| *durable == step as i64);
        tokio::time::timeout(Duration::from_secs(10), reached).await.unwrap().unwrap();
    }
    let steps: Vec<i64> = unit.state().await.checkpoints.iter().map(|commit| commit.step).collect();
    assert_eq!(steps, [40, 60], "keepLast is 2");
    let (_, first) = checkpoint(20, training);
    for _ in 0..50 {
        if agent.blobs.size(&Digest::of(&first[0])).await.unwrap().is_none() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for blob in first {
        assert_eq!(agent.blobs.size(&Digest::of(&blob)).await.unwrap(), None);
        assert!(locked(&world.hub.blobs).contains_key(&Digest::of(&blob)), "the hub keeps its own");
    }
}

#[tokio::test]
async fn progress_is_taken_and_the_hubs_wish_given() {
    let (_world, agent) = World::new().await;
    let report = json!({"step": 7, "loss": "2.5", "tokensPerSecond": 900});
    for (desired, want) in [(None, "Run"), (Some(Desired::Drain), "Drain"), (Some(Desired::Stop), "Stop")] {
        agent.unit().update(|state| state.desired = desired).await.unwrap();
        let answer: Value =
            json(agent.ask("pod-0", Method::POST, "/v1/progress", Some(report.clone())).await).await;
        assert_eq!(answer, json!({ "desired": want }));
    }
    let progress = agent.unit().progress().unwrap();
    assert_eq!((progress.step, progress.loss.as_str(), progress.attempt), (7, "2.5", 1));
}
