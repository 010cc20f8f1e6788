//! The routes, over a log in memory with two jobs. Who may do what and which jobs there are is said by a fake.
use axum::body::Body;
use axum::http::Request;
use muster_proof::hub_keys;
use muster_proof::key::SigningKey;
use muster_proof::model_signing;
use muster_proof::records::fields::{ChainLength, Epoch, Interval, IntervalSteps, Island, Islands, Step};
use muster_proof::records::{Beacon, Commit, Job, Payload, Tier, Visibility};
use muster_proof::tlog::note::{Algorithm, KeyName, NoteKey};
use serde::de::DeserializeOwned;
use tower::ServiceExt;

use super::*;
use crate::gateway::access::Wanted;
use crate::log::Submission;
use crate::log::admit::WellFormed;
use crate::log::testing::MemoryDisk;
use crate::store::testing::{On, store, team};
use crate::store::{Entry, Namespace, Noted};
use crate::wire::gateway::CheckpointSignature;

const JOB: &str = "4f2a9c1b-0000-4000-8000-000000000000";
const OTHER_JOB: &str = "5f2a9c1b-0000-4000-8000-000000000000";

struct Fake;

impl Authorizer for Fake {
    async fn may(&self, user: &User, wanted: &Wanted<'_>) -> Result<(), Refusal> {
        assert_eq!((wanted.verb, wanted.subresource), ("get", "checkpoints"));
        match user.name == wanted.namespace {
            true => Ok(()),
            false => Err(Refusal::new(StatusCode::FORBIDDEN, "Forbidden", "no")),
        }
    }
}

impl Jobs for Fake {
    async fn uid(&self, namespace: &str, name: &str) -> Result<Option<String>, Refusal> {
        Ok(match (namespace, name) {
            ("team-a", "kjv") => Some(JOB.to_owned()),
            ("team-b", "other") => Some(OTHER_JOB.to_owned()),
            ("team-a", "new") => Some("6f2a9c1b-0000-4000-8000-000000000000".to_owned()),
            _ => None,
        })
    }

    async fn namespace(&self, name: &str) -> Result<Option<Namespace>, Refusal> {
        Ok(Some(team(name)))
    }
}

fn job(uid: &str, spec: Digest) -> Job {
    Job {
        hub: "hub.example/log".parse().unwrap(),
        tenant: Digest::of(uid.as_bytes()),
        job_uid: uid.parse().unwrap(),
        training_digest: Digest::of(b"training"),
        spec,
        dataset: Digest::of(b"dataset"),
        genesis: Digest::of(b"genesis"),
        steps: Step::new(20).unwrap(),
        interval_steps: IntervalSteps::new(20).unwrap(),
        stop_every_steps: None,
        islands: Islands::new(1).unwrap(),
        images: vec![Digest::of(b"image")],
        tier: Tier::None,
        deadline_seconds: None,
        price_micro_credits: None,
        beacon: Beacon { anchor: Digest::of(uid.as_bytes()), length: ChainLength::new(66).unwrap() },
        visibility: Visibility::Private,
    }
}

struct Site {
    router: Router,
    store: Arc<Store>,
    log: Arc<Log>,
    ids: Vec<Digest>,
    spec: Digest,
    _dir: tempfile::TempDir,
}

async fn site() -> Site {
    let (dir, store) = store(On::Dir).await;
    let spec = store.put_bytes(b"the spec".to_vec()).await.unwrap();
    let key = NoteKey::new(KeyName::new("hub.example/log").unwrap(), Algorithm::Ed25519, [5; 32]);
    let log = Arc::new(Log::on(Arc::new(MemoryDisk::default()), key, Box::new(WellFormed)).unwrap());
    let hub = SigningKey::generate([1; 32]).unwrap();
    let other = store.put_bytes(b"the other spec".to_vec()).await.unwrap();
    let envelopes = [
        hub_keys::sign(1, &[hub.public()], &hub).unwrap(),
        job(OTHER_JOB, other).sign(&hub).unwrap(),
        job(JOB, spec).sign(&hub).unwrap(),
    ];
    let mut ids = Vec::new();
    for envelope in envelopes {
        ids.push(envelope.record_id());
        log.append(Submission { envelope, known: vec![hub.public().clone()] }).await.unwrap();
    }
    let fake = Arc::new(Fake);
    let store = Arc::new(store);
    let router = router(store.clone(), Door::new(fake.clone(), fake), log.clone());
    Site { router, store, log, ids, spec, _dir: dir }
}

impl Site {
    async fn ask(&self, user: &str, path: &str) -> (u16, Vec<u8>) {
        let mut request = Request::get(path).body(Body::empty()).unwrap();
        request.extensions_mut().insert(User { name: user.to_owned(), ..User::default() });
        let answer = self.router.clone().oneshot(request).await.unwrap();
        let status = answer.status().as_u16();
        (status, axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap().to_vec())
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> T {
        let (status, body) = self.ask("team-a", path).await;
        assert_eq!(status, 200, "{path}");
        serde_json::from_slice(&body).unwrap()
    }
}

#[tokio::test]
async fn a_tenant_reads_the_records_of_his_job_and_about_keys() {
    let site = site().await;
    let base = "/v1/namespaces/team-a/jobs/kjv";
    let list: JobRecords = site.get(&format!("{base}/records")).await;
    let ids: Vec<_> = list.records.iter().map(|record| (record.index, record.record_id)).collect();
    assert_eq!(ids, [(0, site.ids[0]), (2, site.ids[2])]);
    assert_eq!(list.spec, site.spec);
    let entry: LogEntry = site.get(&format!("{base}/records/{}", site.ids[2].to_hex())).await;
    assert_eq!((entry.index, entry.envelope.record_id()), (2, site.ids[2]));
    let spec = site.ask("team-a", &format!("{base}/inputs/sha256/{}", site.spec.to_hex())).await;
    assert_eq!(spec, (200, b"the spec".to_vec()));
}

#[tokio::test]
async fn what_is_of_another_job_is_not_there() {
    let site = site().await;
    let base = "/v1/namespaces/team-a/jobs/kjv";
    let others = format!("{base}/records/{}", site.ids[1].to_hex());
    assert_eq!(site.ask("team-a", &others).await.0, 404);
    let spec = Digest::of(b"the other spec").to_hex();
    assert_eq!(site.ask("team-a", &format!("{base}/inputs/sha256/{spec}")).await.0, 404);
    assert_eq!(site.ask("team-b", &format!("{base}/records")).await.0, 403);
    assert_eq!(site.ask("team-a", "/v1/namespaces/team-a/jobs/none/records").await.0, 404);
    let (status, body) = site.ask("team-a", "/v1/namespaces/team-a/jobs/new/records").await;
    assert_eq!(status, 404);
    assert!(String::from_utf8_lossy(&body).contains("NotLogged"));
}

/// Logs a commit of step 20 that says this of its manifest, and notes it as the gateway does.
async fn committed(site: &Site, key: &SigningKey, says: Digest, manifest: &Digest) -> Envelope {
    let commit = Commit {
        job: JobId(Digest::of(b"job")),
        island: Island::new(0).unwrap(),
        epoch: Epoch::new(1).unwrap(),
        interval: Interval::new(0).unwrap(),
        first_step: Step::new(1).unwrap(),
        last_step: Step::new(20).unwrap(),
        previous: Digest::of(b"before"),
        state_root: Digest::of(b"state"),
        record_seal: Digest::of(b"seal"),
        manifest: says,
        ends: false,
    };
    let envelope = commit.sign(key).unwrap();
    let record = envelope.record_id();
    let submission = Submission { envelope: envelope.clone(), known: vec![key.public().clone()] };
    let index = site.log.append(submission).await.unwrap();
    site.store.note_commit(JOB, 20, &Noted::Logged(Entry { record, index })).await.unwrap();
    site.store.record_checkpoint(JOB, 20, manifest).await.unwrap();
    envelope
}

#[tokio::test]
async fn a_tenant_reads_what_is_signed_of_a_checkpoint() {
    let site = site().await;
    let (key, other) = (SigningKey::generate([3; 32]).unwrap(), SigningKey::generate([4; 32]).unwrap());
    let path = "/v1/namespaces/team-a/jobs/kjv/checkpoints/20/signature";
    assert_eq!(site.ask("team-a", path).await.0, 404);
    let manifest = Digest::of(b"manifest");
    let commit = committed(&site, &key, manifest, &manifest).await;
    let answer: CheckpointSignature = site.get(path).await;
    assert_eq!((answer.index, &answer.commit, answer.model), (3, &commit, None));
    assert_eq!(answer.log, site.log.key().to_string());
    let sign = |manifest: Digest, key: &SigningKey| {
        let files = [("config.json", Digest::of(b"x")), ("manifest.json", manifest)];
        model_signing::sign(&files, "step-00000020", key).unwrap().envelope().clone()
    };
    // What is left of another signer or another state is not this commit's.
    for model in [sign(manifest, &other), sign(Digest::of(b"other"), &key), commit.clone()] {
        site.store.leave_model(JOB, 20, &model).await.unwrap();
        assert_eq!(site.get::<CheckpointSignature>(path).await.model, None);
    }
    let good = sign(manifest, &key);
    site.store.leave_model(JOB, 20, &good).await.unwrap();
    assert_eq!(site.get::<CheckpointSignature>(path).await.model, Some(good));
    // For whom the records are, and no others.
    assert_eq!(site.ask("team-b", path).await.0, 403);
    for bad in ["40", "020", "x", "-1"] {
        let (status, _) = site.ask("team-a", &path.replace("/20/", &format!("/{bad}/"))).await;
        assert!([400, 404].contains(&status), "{bad}");
    }
}

#[tokio::test]
async fn a_commit_of_other_bits_is_not_the_checkpoints() {
    let site = site().await;
    let key = SigningKey::generate([3; 32]).unwrap();
    committed(&site, &key, Digest::of(b"undone"), &Digest::of(b"manifest")).await;
    assert_eq!(site.ask("team-a", "/v1/namespaces/team-a/jobs/kjv/checkpoints/20/signature").await.0, 404);
}
