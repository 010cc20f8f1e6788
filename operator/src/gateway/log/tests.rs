use muster_proof::key::SigningKey;
use muster_proof::merkle;
use muster_proof::tlog::checkpoint::SignedCheckpoint;
use muster_proof::tlog::note::{Algorithm, KeyName, NoteKey, VerifierKey};
use serde_json::{Value, json};

use super::*;
use crate::gateway::Rooms;
use crate::gateway::testing::{Client, HUB_KEY, Running};
use crate::log::admit::WellFormed;
use crate::log::client::{ClientError, HttpLog, LogClient, Plain, consistency, inclusion};
use crate::log::testing::MemoryDisk;
use crate::runtime::tls::{Introduction, introduced_client};

const TYPE: &str = "application/vnd.muster.test.v1+json";

struct Known(VerifierKey);

impl Witnesses for Known {
    fn witness_keys(&self) -> Vec<(String, VerifierKey)> {
        vec![("east".to_owned(), self.0.clone())]
    }
}

fn witness() -> NoteKey {
    NoteKey::new(KeyName::new("east.example/witness").unwrap(), Algorithm::CosignatureV1, [2; 32])
}

async fn start() -> (Running, Arc<Log>) {
    let key = NoteKey::new(KeyName::new("hub.example/log").unwrap(), Algorithm::Ed25519, [5; 32]);
    let log = Arc::new(Log::on(Arc::new(MemoryDisk::default()), key, Box::new(WellFormed)).unwrap());
    let running = Running::start_on(log.view().clone(), |_| Rooms {
        anyone: anyone(log.clone()),
        members: members(log.clone()),
        agents: agents(log.clone(), Arc::new(Known(witness().public().clone()))),
        ..Rooms::default()
    })
    .await;
    (running, log)
}

fn record(key: &SigningKey, text: &str) -> Envelope {
    Envelope::sign(TYPE, text.as_bytes(), key).unwrap()
}

/// Of a kind that agents bring; this log does not ask what it says.
fn by_agent(key: &SigningKey, text: &str) -> Envelope {
    Envelope::sign("application/vnd.muster.key-binding.v1+json", text.as_bytes(), key).unwrap()
}

/// The hub as it comes: pinned CA, its signing key in a certificate that says nothing else.
fn hub(running: &Running) -> HttpLog<Plain> {
    let key = SigningKey::generate(HUB_KEY).unwrap();
    let who = Introduction::new(&key.to_pem().unwrap(), "muster hub").unwrap();
    let http = introduced_client(running.authority.pem(), &who).unwrap();
    HttpLog::new(Plain::new(http, &running.url))
}

async fn post(client: &Client, path: &str, token: &str, body: impl Into<reqwest::Body>) -> (u16, Value) {
    let request = client.http.post(format!("{}{path}", client.url)).bearer_auth(token).body(body);
    let answer = request.send().await.unwrap();
    let status = answer.status().as_u16();
    (status, serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap_or_default())
}

/// The hash of the first leaf: of a log of one entry, the root.
fn leaf_of(log: &Log, envelope: &Envelope) -> Digest {
    let key = SigningKey::generate(HUB_KEY).unwrap();
    assert_eq!(log.view().published.index(&envelope.record_id()), Some(0));
    muster_proof::tlog::entry::Entry::of(envelope, key.public()).unwrap().leaf()
}

fn reason(answer: &(u16, Value)) -> (u16, &str) {
    (answer.0, answer.1["reason"].as_str().unwrap_or_default())
}

#[tokio::test]
async fn the_hub_logs_and_anyone_checks() {
    let (running, log) = start().await;
    let (hub, key) = (hub(&running), SigningKey::generate(HUB_KEY).unwrap());
    let (one, two) = (record(&key, "one"), record(&key, "two"));
    assert_eq!(hub.submit(&one).await.unwrap(), Logged { index: 0, record_id: one.record_id() });
    assert_eq!(hub.submit(&two).await.unwrap().index, 1);
    assert_eq!(hub.submit(&one).await.unwrap().index, 0, "the same again");
    let entry = hub.entry(&two.record_id()).await.unwrap().unwrap();
    assert_eq!((entry.index, &entry.envelope), (1, &two));
    assert_eq!(hub.entry(&Digest::of(b"x")).await.unwrap(), None);
    let stranger = record(&SigningKey::generate([4; 32]).unwrap(), "three");
    match hub.submit(&stranger).await.unwrap_err() {
        ClientError::Refused { status: 409, reason, message, .. } => {
            assert_eq!(reason, "UnknownSigner");
            assert!(message.contains("log the record that brings the key"), "{message}");
        }
        other => panic!("{other}"),
    }
    // Somebody without any credentials proves to himself that the second record is in.
    let nobody = HttpLog::new(Plain::new(running.nobody().http, &running.url));
    let bytes = nobody.checkpoint().await.unwrap();
    let head = SignedCheckpoint::open(&bytes, std::slice::from_ref(log.key())).unwrap();
    let (size, root) = (head.checkpoint().size(), *head.checkpoint().root());
    assert_eq!(size, 2);
    let (leaf, path) = inclusion(&nobody, 1, head.checkpoint()).await.unwrap();
    assert!(merkle::verify(&root, 1, size, &leaf, &path));
    let empty = Digest::of(b"");
    let proof = consistency(&nobody, 1, head.checkpoint()).await.unwrap();
    assert!(merkle::verify_consistency(1, &leaf_of(&log, &one), size, &root, &proof));
    assert!(merkle::verify_consistency(0, &empty, size, &root, &[]));
    assert!(inclusion(&nobody, 2, head.checkpoint()).await.is_err());
    let bundle = nobody.tile(&"tile/entries/000.p/2".parse().unwrap()).await.unwrap();
    assert!(bundle.len() > 800);
    assert!(running.gateway.metrics.text().contains("muster_gateway_log_entries 2"));
}

#[tokio::test]
async fn heads_and_tiles_are_served_as_c2sp_wants_them() {
    let (running, log) = start().await;
    let key = SigningKey::generate(HUB_KEY).unwrap();
    let known = vec![key.public().clone()];
    log.append(Submission { envelope: record(&key, "one"), known }).await.unwrap();
    let nobody = running.nobody();
    let get = async |path: &str| nobody.http.get(format!("{}{path}", running.url)).send().await.unwrap();
    let head = get("/v1/log/checkpoint").await;
    assert_eq!(head.headers()["content-type"], "text/plain; charset=utf-8");
    assert_eq!(head.headers()["cache-control"], "no-cache");
    let tile = get("/v1/log/tile/0/000.p/1").await;
    assert_eq!(tile.headers()["content-type"], "application/octet-stream");
    assert_eq!(tile.headers()["cache-control"], "public, max-age=31536000, immutable");
    assert_eq!(tile.bytes().await.unwrap().len(), 32);
    for path in
        ["0/000", "0/000.p/2", "0/0.p/1", "00/000.p/1", "0/%30%30%30.p/1", "0/x000/000.p/1", "1/000.p/1"]
    {
        let answer = get(&format!("/v1/log/tile/{path}")).await;
        assert_eq!(answer.status(), 404, "{path}");
    }
    assert_eq!(get("/v1/log/checkpoint/cosigned").await.status(), 404);
    assert_eq!(get("/v1/log/checkpoint/cosigned?most=1").await.status(), 400);
}

#[tokio::test]
async fn agents_log_and_cosign() {
    let (running, log) = start().await;
    let east = running.client(2);
    running.accept("east", &east).await;
    let token = east.tokens().await.gateway_token;
    let envelope = by_agent(&east.key, "one");
    let body = envelope.to_json().unwrap();
    let entries = "/v1/log/entries";
    let answer = post(&east, entries, &token, body.clone()).await;
    assert_eq!(answer, (200, json!({"index": 0, "recordId": envelope.record_id()})));
    let path = format!("{entries}/{}", envelope.record_id().to_hex());
    let (status, entry) = east.get(&path, Some(&token)).await;
    assert_eq!((status, &entry["index"]), (200, &json!(0)));
    assert_eq!(reason(&post(&east, entries, &token, "{}").await), (400, "BadEnvelope"));
    let long = vec![b' '; MAX_SUBMISSION + 1];
    assert_eq!(reason(&post(&east, entries, &token, long).await), (413, "TooLarge"));
    assert_eq!(reason(&east.get(&format!("{entries}/xyz"), Some(&token)).await), (400, "BadRequest"));
    // Nobody else writes or reads records.
    assert_eq!(
        reason(&post(&running.nobody(), entries, &token, body.clone()).await),
        (401, "CertificateNeeded")
    );
    assert_eq!(reason(&post(&running.client(3), entries, &token, body.clone()).await), (403, "KeyNotPinned"));
    assert_eq!(reason(&post(&east, entries, "guess", body).await), (401, "BadToken"));
    // The heartbeat says how long the log is.
    let (_, beat) = {
        let request = east.http.post(format!("{}/v1/heartbeat", east.url)).bearer_auth(&token);
        let answer = request.json(&json!({"agentVersion": "0.1.0"})).send().await.unwrap();
        (answer.status(), answer.json::<Value>().await.unwrap())
    };
    assert_eq!(beat["logSize"], json!(1));
    // What others have found is nothing that an agent reads here; the hub does.
    let own = SigningKey::generate(HUB_KEY).unwrap();
    for (kind, status) in [("opening", 404), ("audit-opening", 404), ("audit-seal", 200)] {
        let record = Envelope::sign(&format!("application/vnd.muster.{kind}.v1+json"), b"{}", &own).unwrap();
        log.append(Submission { envelope: record.clone(), known: vec![own.public().clone()] }).await.unwrap();
        let url = format!("{}/v1/log/entries/{}", east.url, record.record_id().to_hex());
        let answer = east.http.get(url).bearer_auth(&token).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), status, "{kind}");
        assert!(hub(&running).entry(&record.record_id()).await.unwrap().is_some(), "{kind}");
    }
    let head = log.view().published.newest().unwrap();
    let head = SignedCheckpoint::open(head.note.as_bytes(), std::slice::from_ref(log.key())).unwrap();
    let line = head.cosign(&witness(), 1000).unwrap().to_string();
    let cosign = "/v1/log/cosignatures";
    let asked = |size: u64| format!("{cosign}?size={size}");
    assert_eq!(reason(&post(&east, cosign, &token, line.clone()).await), (400, "BadRequest"));
    assert_eq!(reason(&post(&east, &asked(0), &token, line.clone()).await), (400, "BadCosignature"));
    assert_eq!(reason(&post(&east, &asked(9), &token, line.clone()).await), (409, "UnknownHead"));
    let other = NoteKey::new(KeyName::new("other").unwrap(), Algorithm::CosignatureV1, [8; 32]);
    let foreign = head.cosign(&other, 1000).unwrap().to_string();
    assert_eq!(reason(&post(&east, &asked(4), &token, foreign).await), (403, "UnknownWitness"));
    assert_eq!(post(&east, &asked(4), &token, line).await.0, 200);
    let nobody = HttpLog::new(Plain::new(running.nobody().http, &running.url));
    let cosigned = nobody.cosigned(1).await.unwrap().unwrap();
    let cosigned = SignedCheckpoint::open(&cosigned, std::slice::from_ref(log.key())).unwrap();
    assert_eq!(cosigned.cosigned_by(witness().public()).unwrap(), Some(1000));
    assert_eq!(nobody.cosigned(2).await.unwrap(), None);
}
