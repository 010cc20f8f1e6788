//! The relay over real TLS, with the member's and the hub's answers made up.
use std::collections::HashMap;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::BoxFuture;
use muster_core::attempt::Desired;
use muster_proof::Digest;
use muster_proof::dsse::Envelope;
use muster_proof::key::SigningKey;
use muster_proof::model_signing::PAYLOAD_TYPE;
use muster_proof::steps::{Bits, Records, StepRecord};
use muster_trainer::checkpoint::{FILES, FileEntry, Manifest, sign_files};
use muster_trainer::commit::{self, Reached};
use muster_trainer::protocol::{
    Assignment, CheckpointNotice, Conflict, Join, Joined, KeyBinding, OtherRound, Peer, SelfAnswer, Terms,
};
use muster_trainer::{binding, dataset, peers};
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};

use super::identity::{ReviewError, Worker};
use super::*;
use crate::agent::state::{StateDir, UnitState};
use crate::agent::testing::{MemoryBlobs, payload};
use crate::agent::units::{Unit, locked};
use crate::agent::upload;
use crate::runtime::tls::{Authority, pinned_client};

mod audits;
mod blobs;
mod commits;
mod continued;
mod failures;
mod joining;
mod keys;
mod limits;
mod uploads;

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
    answers: Arc<Answers>,
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
        payload.spec = world.hub.insert(&spec());
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
        let salts = Salts::open(root).unwrap();
        let answers = Arc::new(Answers::open(root, key(3)).unwrap());
        let secrets = Secrets { signer: signer.clone(), identity: key(3), salts, answers: answers.clone() };
        let relay = Relay::new(units.clone(), blobs.clone(), self.hub.clone(), self.pods.clone(), secrets);
        let tls = authority.server(&["127.0.0.1".to_owned()]).unwrap();
        tokio::spawn(relay.serve(listener, tls, shutdown.clone()));
        Agent {
            base,
            client: pinned_client(authority.pem()).unwrap(),
            units,
            blobs,
            answers,
            shutdown,
            signer,
        }
    }
}

impl Agent {
    fn unit(&self) -> Arc<Unit> {
        self.units.get(UNIT).unwrap()
    }

    /// Brings the unit's checkpoints to the hub, as the agent does beside its relay.
    fn uploads(&self, world: &World, unit: Arc<Unit>) -> tokio::task::JoinHandle<()> {
        let (units, blobs, hub) = (self.units.clone(), self.blobs.clone(), world.hub.clone());
        let site = upload::Site { units, blobs, answers: self.answers.clone(), hub };
        tokio::spawn(upload::run(unit, site, self.shutdown.clone()))
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

    /// As every pod does first.
    async fn reads_spec(&self, pod: &str) {
        assert_eq!(self.blob(pod, &Digest::of(&spec())).await.status(), StatusCode::OK);
    }

    async fn blob(&self, pod: &str, digest: &Digest) -> Response {
        self.get(pod, &format!("/v1/blobs/sha256/{}", digest.to_hex())).await
    }

    /// What the sidecar with this key says of the checkpoint of `step`, after the terms of the relay, if it gives any.
    async fn notice(&self, pod: &str, step: u64, manifest: &Digest, key: &SigningKey) -> CheckpointNotice {
        let answer = self.terms(pod, step).await;
        let terms = match answer.status() {
            StatusCode::OK => answer.json().await.unwrap(),
            _ => made_up(step),
        };
        let model = self.model(manifest, key).await;
        commit::sign(&terms, &records(&terms), reached(*manifest, b"state"), model, key).unwrap()
    }

    /// The files of a checkpoint whose manifest was put, signed.
    async fn model(&self, manifest: &Digest, key: &SigningKey) -> Envelope {
        let bytes = self.blobs.read(manifest, 1 << 14).await.unwrap();
        match bytes.and_then(|bytes| Manifest::parse(&bytes).ok()) {
            Some(parsed) => sign_files(&parsed, manifest, key).unwrap(),
            None => Envelope::sign(PAYLOAD_TYPE, b"{}", key).unwrap(),
        }
    }

    async fn terms(&self, pod: &str, step: u64) -> Response {
        self.get(pod, &format!("/v1/terms?step={step}")).await
    }

    /// Announces a checkpoint, signed with the key that [`World::new`] has bound.
    async fn commit(&self, pod: &str, step: u64, manifest: &Digest) -> Response {
        let notice = self.notice(pod, step, manifest, &key(7)).await;
        self.say(pod, &notice).await
    }

    async fn say(&self, pod: &str, notice: &CheckpointNotice) -> Response {
        let body = serde_json::to_value(notice).unwrap();
        self.ask(pod, Method::POST, "/v1/checkpoints", Some(body)).await
    }

    /// Puts and announces the checkpoint of this step; it is taken.
    async fn make(&self, step: u64) -> Digest {
        let training = self.unit().state().await.payload.unwrap().training_digest;
        let manifest = self.upload(step, training).await;
        assert_eq!(self.commit("pod-0", step, &manifest).await.status(), StatusCode::ACCEPTED, "step {step}");
        manifest
    }

    /// Waits until the log has the commit of this step.
    async fn durable(&self, unit: &Unit, step: i64) {
        let mut durable = unit.durable.subscribe();
        let reached = durable.wait_for(|durable| *durable >= step);
        tokio::time::timeout(Duration::from_secs(30), reached).await.unwrap().unwrap();
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

/// A resolved spec of a small model.
fn spec() -> Vec<u8> {
    let training = serde_json::from_value(json!({
        "steps": 100, "batch": 2, "shards": 2, "seed": 7, "arithmetic": "f32-chain",
        "optimizer": {"name": "adamw", "learningRate": "0.001", "beta1": "0.9", "beta2": "0.95", "epsilon": "1e-8",
                      "weightDecay": "0.1", "clipNorm": "1"},
        "schedule": {"name": "cosine", "warmupSteps": 2, "finalFraction": "0.1"},
    }));
    let shard = dataset::Shard { path: "tokens-00000.bin".to_owned(), size: 5000, sha256: Digest::of(b"s") };
    let data = dataset::Manifest::new(Digest::of(b"root"), vec![shard]).unwrap();
    muster_trainer::resolved::resolved_spec(&crate::store::testing::model(), &training.unwrap(), &data)
        .unwrap()
        .1
}

fn key(seed: u8) -> SigningKey {
    SigningKey::generate([seed; 32]).unwrap()
}

/// The records of the steps that the terms name; their loss is the step.
fn records(terms: &Terms) -> Records {
    let record = |step| StepRecord {
        eval_loss: None,
        grad_norm: Bits::of(1.0),
        learning_rate: Bits::of(0.5),
        loss: Bits::of(step as f32),
        step,
    };
    let first = terms.first_step.get();
    Records::new(first, (first..=terms.last_step.get()).map(record).collect()).unwrap()
}

/// A checkpoint after which the job goes on; the state is that of these bytes.
fn reached(manifest: Digest, state: &[u8]) -> Reached {
    Reached { state_root: Digest::of(state), manifest, ends: false }
}

/// Terms that nobody gave.
fn made_up(step: u64) -> Terms {
    let (digest, first) = (Digest::of(b"x"), step.saturating_sub(19).max(1));
    let terms = json!({"job": digest, "island": 0, "epoch": 1, "interval": first / 20, "firstStep": first,
        "lastStep": step.max(1), "previous": digest, "salt": "00".repeat(32)});
    serde_json::from_value(terms).unwrap()
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
