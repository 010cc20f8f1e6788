//! The routes for agents, over stores in a directory and in a bucket. Only Kubernetes is a fake.
use std::collections::HashMap;
use std::sync::Mutex;

use axum::body::Bytes;
use axum::http::{Request, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use muster_api::v1alpha1::WorkUnit;
use muster_core::envelope::{Audit, FORMAT, Kind, Resources, read as read_payload};
use muster_numerics::spec::TrainingParameters;
use muster_proof::dsse::Envelope;
use muster_proof::inputs::Inputs;
use muster_proof::key::{PublicKey, SigningKey};
use muster_proof::records::fields::{Epoch, Interval, Island, JobId, Step};
use muster_proof::records::{self, Payload as _};
use muster_trainer::checkpoint::{FileEntry, sign_files};
use muster_trainer::dataset::Manifest;
use rstest::rstest;
use serde_json::json;
use tempfile::TempDir;
use tower::ServiceExt;

mod audits;
mod failures;
mod models;
mod past;
mod read_back;
mod undone;

use super::*;
use crate::gateway::testing::urls;
use crate::log::admit::{self, Admit};
use crate::store::Unit;
use crate::store::testing::{
    Faults, Faulty, On, checkpoint_files, dataset, model, named_weights, recorded, set, state_files,
    state_manifest, store, team,
};
use crate::wire::gateway::Refused;

pub const JOB: &str = "4f2a9c1b-0000-4000-8000-000000000000";
const OTHER_JOB: &str = "5f2a9c1b-0000-4000-8000-000000000000";

fn training() -> Digest {
    Digest::of(b"job")
}

/// As the hub makes it. The blobs of spec and dataset are set by the tests that need them.
pub fn work_unit(provider: &str, epoch: i64, start: Option<CheckpointRef>) -> WorkUnit {
    unit_with(provider, JOB, epoch, start, Digest::of(b"spec"), Digest::of(b"dataset"))
}

fn unit_with(
    provider: &str,
    job: &str,
    epoch: i64,
    start: Option<CheckpointRef>,
    spec: Digest,
    dataset: Digest,
) -> WorkUnit {
    let payload = Payload {
        format: FORMAT.to_owned(),
        kind: Kind::Train,
        name: format!("{}-0-{epoch}", &job[..8]),
        provider: provider.to_owned(),
        job_uid: job.to_owned(),
        island: 0,
        epoch,
        workers: 2,
        job: Digest::of(b"job"),
        log: "hub.example/log".to_owned(),
        grant: Digest::of(b"grant"),
        start_record: Digest::of(b"job record"),
        tenant: muster_core::envelope::tenant("team-a"),
        device_class: "cpu".to_owned(),
        resources: Resources { cpu: "600m".to_owned(), memory: "1Gi".to_owned() },
        image: format!("muster-trainer@{}", Digest::of(b"image")),
        spec,
        training_digest: training(),
        dataset,
        arithmetic: "f32-chain".to_owned(),
        steps: 210,
        interval_steps: 20,
        keep_last: 3,
        start,
        max_restarts: 20,
        schedule_timeout_seconds: 600,
        disconnect_grace_seconds: 900,
        incarnation: 1,
        not_after: "2026-11-23T19:00:00Z".parse().unwrap(),
        continues: None,
        recompute: None,
        optimizer_state: None,
        audit: None,
    };
    object(&payload)
}

/// The object around a payload.
fn object(payload: &Payload) -> WorkUnit {
    let bytes = muster_proof::jcs::serialize(payload).unwrap();
    assert_eq!(&read_payload(&bytes).unwrap(), payload);
    let Payload { provider, job_uid, epoch, .. } = payload;
    serde_json::from_value(json!({
        "apiVersion": "muster.dev/v1alpha1", "kind": "WorkUnit",
        "metadata": {"name": payload.name, "namespace": format!("muster-p-{provider}")},
        "spec": {
            "kind": payload.kind.name(), "jobUID": job_uid, "island": 0, "epoch": epoch, "workers": 2,
            "envelope": {"payloadType": "x", "payload": STANDARD.encode(bytes), "signatures": []},
        },
    }))
    .unwrap()
}

/// WorkUnits by provider and name.
#[derive(Default)]
struct Fake {
    units: Mutex<HashMap<(String, String), WorkUnit>>,
    unsettled: Mutex<bool>,
}

impl Work for Fake {
    async fn unit(&self, provider: &str, name: &str) -> Result<Option<WorkUnit>, Refusal> {
        Ok(self.units.lock().unwrap().get(&(provider.to_owned(), name.to_owned())).cloned())
    }

    fn of_job(&self, job_uid: &str) -> Vec<WorkUnit> {
        let units = self.units.lock().unwrap();
        units.values().filter(|unit| unit.spec.job_uid == job_uid).cloned().collect()
    }

    fn settled(&self) -> Result<(), Refusal> {
        if *self.unsettled.lock().unwrap() { Err(Refusal::unavailable("not yet")) } else { Ok(()) }
    }
}

struct Site {
    _dir: TempDir,
    log: Arc<Log>,
    store: Arc<Store>,
    work: Arc<Fake>,
    router: Router,
    spec: Digest,
    dataset: Digest,
}

const UNIT: &str = "4f2a9c1b-0-1";

impl Site {
    async fn new(on: On) -> Self {
        let (dir, store) = store(on).await;
        Self::with(dir, store).await
    }

    async fn with(dir: TempDir, store: Store) -> Self {
        let store = Arc::new(store);
        let data = dataset(&store, &team("team-a"), "kjv", &[b'a'; 5000]).await;
        let manifest = store.dataset_manifest(&data).await.unwrap().unwrap();
        let spec = store.put_bytes(spec(&manifest)).await.unwrap();
        let work = Arc::new(Fake::default());
        let log = Log::open(&dir.path().join("log"), "hub.example/log", Box::<OnePerInterval>::default());
        let log = Arc::new(log.unwrap());
        let router = router(store.clone(), work.clone(), urls(), log.clone());
        let site = Self { _dir: dir, log, store, work, router, spec, dataset: data };
        site.place("east", JOB, 1, None);
        site
    }

    fn place(&self, provider: &str, job: &str, epoch: i64, start: Option<CheckpointRef>) {
        let unit = unit_with(provider, job, epoch, start, self.spec, self.dataset);
        let key = (provider.to_owned(), unit.metadata.name.clone().unwrap());
        self.work.units.lock().unwrap().insert(key, unit);
    }

    async fn send(&self, request: Request<Body>) -> Response {
        self.send_as("east", 0, request).await
    }

    async fn send_as(&self, provider: &str, min_epoch: i64, mut request: Request<Body>) -> Response {
        request.extensions_mut().insert(Agent {
            provider: provider.to_owned(),
            min_epoch,
            key: Digest::of(b"key"),
        });
        self.router.clone().oneshot(request).await.unwrap()
    }

    async fn put(&self, unit: &str, bytes: &[u8]) -> u16 {
        let request = put_request(unit, &Digest::of(bytes), bytes);
        self.send(request).await.status().as_u16()
    }

    async fn commit(&self, unit: &str, step: u64, manifest: &Digest) -> (u16, String) {
        refused(self.send(self.commit_request("east", unit, step, manifest).await).await).await
    }

    /// As the agent of `provider` makes it for its unit: of the interval and the root that the manifest says, or of any.
    async fn commit_request(
        &self,
        provider: &str,
        unit: &str,
        step: u64,
        manifest: &Digest,
    ) -> Request<Body> {
        let found = work::find(self.work.as_ref(), provider, unit).await.unwrap();
        let parsed = self.store.checkpoint_manifest(manifest).await.ok().flatten();
        let root = parsed.map_or(Digest::of(b"state"), |parsed| parsed.state_root());
        let model = self.model(manifest, &bound()).await;
        let commit = signed(&found.payload, step, manifest, root);
        send_said(unit, step, manifest, &commit, &model, bound().public())
    }

    /// The files of the checkpoint with this manifest, signed; anything if it is none.
    async fn model(&self, manifest: &Digest, key: &SigningKey) -> Envelope {
        match self.store.checkpoint_manifest(manifest).await {
            Ok(Some(parsed)) => sign_files(&parsed, manifest, key).unwrap(),
            _ => no_model(),
        }
    }

    /// Puts a checkpoint as an agent does; gives its manifest.
    async fn put_checkpoint(&self, unit: &str, step: u64, flavour: &str) -> Digest {
        let mut files = Vec::new();
        for (path, bytes) in state_files(step, flavour) {
            assert!([200, 201].contains(&self.put(unit, &bytes).await));
            files.push(FileEntry { path, size: bytes.len() as u64, sha256: Digest::of(&bytes) });
        }
        let manifest = state_manifest(training(), step, flavour, files);
        assert_eq!(self.put(unit, &manifest).await, 201);
        Digest::of(&manifest)
    }

    async fn get(&self, unit: &str, digest: &Digest) -> u16 {
        let request = Request::get(blob(unit, digest)).body(Body::empty()).unwrap();
        self.send(request).await.status().as_u16()
    }
}

fn spec(manifest: &Manifest) -> Vec<u8> {
    let training: TrainingParameters = serde_json::from_value(json!({
        "steps": 210, "batch": 2, "shards": 2, "seed": 7, "arithmetic": "f32-chain",
        "optimizer": {"name": "adamw", "learningRate": "0.001", "beta1": "0.9", "beta2": "0.95", "epsilon": "1e-8",
                      "weightDecay": "0.1", "clipNorm": "1"},
        "schedule": {"name": "cosine", "warmupSteps": 2, "finalFraction": "0.1"},
    }))
    .unwrap();
    muster_trainer::resolved::resolved_spec(&model(), &training, manifest).unwrap().1
}

fn blob(unit: &str, digest: &Digest) -> String {
    format!("/v1/units/{unit}/blobs/sha256/{}", digest.to_hex())
}

fn put_request(unit: &str, digest: &Digest, bytes: &[u8]) -> Request<Body> {
    Request::put(blob(unit, digest))
        .header(header::CONTENT_LENGTH, bytes.len())
        .body(Body::from(bytes.to_vec()))
        .unwrap()
}

/// Signs all that is committed here.
fn bound() -> SigningKey {
    SigningKey::generate([3; 32]).unwrap()
}

fn signed(payload: &Payload, step: u64, manifest: &Digest, root: Digest) -> Envelope {
    let interval = step.saturating_sub(1) / 20;
    let commit = records::Commit {
        job: JobId(payload.job),
        island: Island::new(0).unwrap(),
        epoch: Epoch::new(payload.epoch as u64).unwrap(),
        interval: Interval::new(interval).unwrap(),
        first_step: Step::new(interval * 20 + 1).unwrap(),
        last_step: Step::new(step.max(interval * 20 + 1)).unwrap(),
        previous: payload.start_record,
        state_root: root,
        record_seal: Digest::of(b"seal"),
        manifest: *manifest,
        ends: false,
    };
    commit.sign(&bound()).unwrap()
}

fn no_model() -> Envelope {
    Envelope::sign("x", b"{}", &bound()).unwrap()
}

/// For what is refused before its files are looked at.
fn send_commit(unit: &str, step: u64, manifest: &Digest, commit: &Envelope) -> Request<Body> {
    send_said(unit, step, manifest, commit, &no_model(), bound().public())
}

fn send_said(
    unit: &str,
    step: u64,
    manifest: &Digest,
    commit: &Envelope,
    model: &Envelope,
    key: &PublicKey,
) -> Request<Body> {
    let body = json!({"manifest": manifest, "commit": commit, "model": model, "key": key});
    let body = serde_json::to_vec(&body).unwrap();
    Request::post(format!("/v1/units/{unit}/checkpoints/{step}")).body(Body::from(body)).unwrap()
}

/// Takes every commit that [`bound`] has signed, one for each interval: what else the log asks is tested with it.
#[derive(Default)]
struct OnePerInterval(std::collections::BTreeSet<(u64, u64)>);

impl Admit for OnePerInterval {
    fn signer(&self, _: &Envelope, _: &[PublicKey]) -> Option<PublicKey> {
        Some(bound().public().clone())
    }

    fn admit(&mut self, _: u64, envelope: &Envelope) -> Result<(), admit::Refusal> {
        let at = match records::Record::parse(envelope).unwrap() {
            records::Record::Commit(commit) => (commit.interval.get(), commit.epoch.get()),
            records::Record::Failure(failure) => (failure.interval.get(), failure.epoch.get()),
            other => panic!("{other:?}"),
        };
        // Of each epoch: a rollback frees an interval for the next.
        match self.0.insert(at) {
            true => Ok(()),
            false => Err(admit::Refusal::conflict("Known", "the interval has a commit")),
        }
    }
}

async fn bytes(answer: Response) -> Bytes {
    axum::body::to_bytes(answer.into_body(), 1 << 24).await.unwrap()
}

/// Status and reason, which is empty for a success.
async fn refused(answer: Response) -> (u16, String) {
    let status = answer.status().as_u16();
    let body = bytes(answer).await;
    let refused: Option<Refused> = serde_json::from_slice(&body).ok();
    (status, refused.map(|refused| refused.reason).unwrap_or_default())
}

#[rstest]
#[tokio::test]
async fn a_checkpoint_is_put_and_committed(#[values(On::Dir, On::Bucket)] on: On) {
    let site = Site::new(on).await;
    let manifest = site.put_checkpoint(UNIT, 20, "").await;
    assert_eq!(site.store.checkpoint(JOB, 20).await.unwrap(), None, "put is not committed");
    assert_eq!(site.commit(UNIT, 20, &manifest).await.0, 200);
    assert_eq!(site.store.checkpoint(JOB, 20).await.unwrap(), Some(manifest));
    // The answer was lost: the same again, and nothing counts against the quota.
    assert_eq!(site.commit(UNIT, 20, &manifest).await.0, 200);
    assert!(site.store.open_puts(Unit { job_uid: JOB, name: UNIT }).await.unwrap().is_empty());
    assert_eq!(site.get(UNIT, &manifest).await, 200, "what it put it may read, committed or not");
    let last = site.put_checkpoint(UNIT, 210, "").await;
    assert_eq!(site.commit(UNIT, 210, &last).await.0, 200, "the last step need not be a multiple");
}

#[rstest]
#[tokio::test]
async fn the_envelope_says_what_a_unit_reads(#[values(On::Dir, On::Bucket)] on: On) {
    let site = Site::new(on).await;
    let (start, start_files) = recorded(&site.store, JOB, 40).await;
    site.place("east", JOB, 2, Some(CheckpointRef { step: 40, manifest: start }));
    let unit = "4f2a9c1b-0-2";
    let shards = site.store.dataset_manifest(&site.dataset).await.unwrap().unwrap();
    let mine = [site.spec, site.dataset, start, start_files[2], shards.shards()[0].sha256];
    for digest in mine {
        assert_eq!(site.get(unit, &digest).await, 200, "{digest}");
    }
    // The data that the spec evaluates on and the weights that it begins with, for a unit of that spec.
    let held_out = dataset(&site.store, &team("team-b"), "psalms", &[b'b'; 5000]).await;
    let shard = site.store.dataset_manifest(&held_out).await.unwrap().unwrap().shards()[0].sha256;
    let (model, weights) = named_weights(&site.store, &team("team-b"), "base").await;
    let inputs = Inputs { held_out: Some(held_out), init: Some(model) };
    let spec = site.store.put_bytes(crate::store::testing::spec(inputs)).await.unwrap();
    let evaluated = unit_with("east", JOB, 3, None, spec, site.dataset);
    let name = evaluated.metadata.name.clone().unwrap();
    site.work.units.lock().unwrap().insert(("east".to_owned(), name.clone()), evaluated);
    for digest in [spec, held_out, shard, model, weights[0], weights[1]] {
        assert_eq!(site.get(&name, &digest).await, 200, "{digest}");
        assert_eq!(site.get(UNIT, &digest).await, 404, "{digest} is another spec's");
    }
    // Blobs of others, blobs that are nowhere: one answer.
    let (_, others) = recorded(&site.store, OTHER_JOB, 60).await;
    let nowhere = Digest::of(b"nowhere");
    let ask = async |method: Method, digest: &Digest| {
        let request = Request::builder().method(method).uri(blob(unit, digest)).body(Body::empty()).unwrap();
        let answer = site.send(request).await;
        let status = answer.status().as_u16();
        (status, String::from_utf8(bytes(answer).await.to_vec()).unwrap().replace(&digest.to_hex(), "X"))
    };
    assert_eq!(ask(Method::GET, &others[1]).await, ask(Method::GET, &nowhere).await);
    assert_eq!(ask(Method::HEAD, &others[1]).await, ask(Method::HEAD, &nowhere).await);
    assert_eq!(ask(Method::GET, &others[1]).await.0, 404);
    assert_eq!(
        site.get(UNIT, &start_files[2]).await,
        404,
        "not even of the same job, if the envelope does not lead there"
    );
}

#[rstest]
#[tokio::test]
async fn a_range_is_honoured(#[values(On::Dir, On::Bucket)] on: On) {
    let site = Site::new(on).await;
    let body = b"0123456789";
    assert_eq!(site.put(UNIT, body).await, 201);
    let ask = async |name: header::HeaderName, value: &str| {
        let request =
            Request::get(blob(UNIT, &Digest::of(body))).header(name, value).body(Body::empty()).unwrap();
        site.send(request).await
    };
    let part = ask(header::RANGE, "bytes=7-").await;
    assert_eq!(
        (part.status().as_u16(), &part.headers()[header::CONTENT_RANGE]),
        (206, &"bytes 7-9/10".parse().unwrap())
    );
    assert_eq!(bytes(part).await, "789");
    assert_eq!(ask(header::RANGE, "bytes=10-").await.status(), 416);
    let tag = format!("\"{}\"", Digest::of(body));
    assert_eq!(ask(header::IF_NONE_MATCH, &tag).await.status(), 304);
}

#[rstest]
#[tokio::test]
async fn what_is_not_the_blob_is_not_stored(#[values(On::Dir, On::Bucket)] on: On) {
    let site = Site::new(on).await;
    let digest = Digest::of(b"0123456789");
    let send = async |length: Option<&str>, body: Body| {
        let mut request = Request::put(blob(UNIT, &digest)).body(body).unwrap();
        if let Some(length) = length {
            request.headers_mut().insert(header::CONTENT_LENGTH, length.parse().unwrap());
        }
        refused(site.send(request).await).await
    };
    let is = |status: u16, reason: &str| (status, reason.to_owned());
    assert_eq!(send(Some("10"), "0123456788".into()).await, is(400, "DigestMismatch"));
    assert_eq!(send(Some("10"), "012345678".into()).await, is(400, "DigestMismatch"), "truncated");
    let cut = futures::stream::iter([Ok("01234"), Err(std::io::Error::other("gone"))]);
    assert_eq!(send(Some("10"), Body::from_stream(cut)).await, is(400, "BodyCutOff"));
    assert_eq!(send(Some("5"), "0123456789".into()).await, is(413, "TooLarge"), "more than it said");
    assert_eq!(send(None, "0123456789".into()).await, is(411, "LengthRequired"));
    assert_eq!(send(Some("x"), "0123456789".into()).await, is(400, "BadLength"));
    assert_eq!(send(Some("10000000"), Body::empty()).await, is(413, "TooLarge"));
    assert_eq!(site.store.size(&digest).await.unwrap(), None);
    assert_eq!(send(Some("10"), "0123456789".into()).await, is(201, ""));
    assert_eq!(send(Some("10"), Body::empty()).await, is(200, ""), "it has put it before");
}

/// A unit that only knows a digest must not get the bytes by "putting" it.
#[tokio::test]
async fn a_digest_alone_puts_nothing() {
    let site = Site::new(On::Dir).await;
    let (_, others) = recorded(&site.store, OTHER_JOB, 60).await;
    let size = site.store.size(&others[1]).await.unwrap().unwrap();
    let mut request = put_request(UNIT, &others[1], &vec![0; usize::try_from(size).unwrap()]);
    request.headers_mut().insert(header::CONTENT_LENGTH, size.into());
    assert_eq!(site.send(request).await.status(), 400);
    assert_eq!(site.get(UNIT, &others[1]).await, 404);
    // With the bytes, it is told that it is new, as everyone is.
    let (_, file) = &checkpoint_files(60, "")[0];
    assert_eq!(site.put(UNIT, file).await, 201);
    assert_eq!(site.get(UNIT, &others[1]).await, 200);
}

#[tokio::test]
async fn a_unit_that_commits_nothing_runs_out_of_room() {
    let site = Site::new(On::Bucket).await;
    let limits = Quota::default().limits(&site.store, &site.spec).await.unwrap();
    assert!(limits.file < limits.checkpoint && limits.checkpoint < 2 * limits.file, "{limits:?}");
    let size = usize::try_from(limits.file).unwrap();
    let mut last = (0, String::new());
    for i in 0..13_u8 {
        let body = vec![i; size];
        last = refused(site.send(put_request(UNIT, &Digest::of(&body), &body)).await).await;
        if last.0 != 201 {
            break;
        }
    }
    assert_eq!(last, (507, "OverQuota".to_owned()));
    // Another unit has its own.
    site.place("east", OTHER_JOB, 1, None);
    assert_eq!(site.put("5f2a9c1b-0-1", b"small").await, 201);
}

#[tokio::test]
async fn uploads_under_way_count() {
    let site = Site::new(On::Dir).await;
    let quota = Quota::default();
    let limits = quota.limits(&site.store, &site.spec).await.unwrap();
    let found = work::find(site.work.as_ref(), "east", UNIT).await.unwrap();
    let room = quota.reserve(&site.store, &found, limits.checkpoint * 7, &limits).await.unwrap();
    let refused = quota.reserve(&site.store, &found, limits.checkpoint * 2, &limits).await.unwrap_err();
    assert_eq!((refused.status.as_u16(), refused.retry_after), (429, Some(5)));
    drop(room);
    quota.reserve(&site.store, &found, limits.checkpoint * 2, &limits).await.unwrap();
}

#[rstest]
#[tokio::test]
async fn a_superseded_unit_puts_and_commits_nothing(#[values(On::Dir, On::Bucket)] on: On) {
    let site = Site::new(on).await;
    let old = (409, "OldEpoch".to_owned());
    let manifest = site.put_checkpoint(UNIT, 20, "").await;
    site.store.raise_epoch(JOB, 0, 2).await.unwrap();
    assert_eq!(site.commit(UNIT, 20, &manifest).await, old);
    assert_eq!(refused(site.send(put_request(UNIT, &Digest::of(b"x"), b"x")).await).await, old);
    assert_eq!(site.get(UNIT, &manifest).await, 200, "reading harms nobody");
    site.place("west", JOB, 2, None);
    let newer = site.commit_request("west", "4f2a9c1b-0-2", 20, &manifest).await;
    assert_eq!(refused(site.send_as("west", 0, newer).await).await, (409, "BlobMissing".to_owned()));
    let revoked = put_request("4f2a9c1b-0-2", &Digest::of(b"x"), b"x");
    assert_eq!(refused(site.send_as("west", 3, revoked).await).await, old, "below the provider's minEpoch");
    assert_eq!(site.store.checkpoints(JOB).await.unwrap().len(), 0);
}

#[tokio::test]
async fn a_unit_that_is_seen_here_first_raises_the_fence() {
    let site = Site::new(On::Dir).await;
    site.place("west", JOB, 3, None);
    let request = put_request("4f2a9c1b-0-3", &Digest::of(b"x"), b"x");
    assert_eq!(site.send_as("west", 0, request).await.status(), 201);
    assert_eq!(site.put(UNIT, b"y").await, 409);
    *site.work.unsettled.lock().unwrap() = true;
    let request = put_request("4f2a9c1b-0-3", &Digest::of(b"z"), b"z");
    assert_eq!(
        site.send_as("west", 0, request).await.status(),
        503,
        "the gateway does not know all units yet"
    );
}

#[rstest]
#[tokio::test]
async fn a_commit_that_is_not_right_is_refused(#[values(On::Dir, On::Bucket)] on: On) {
    let site = Site::new(on).await;
    let (start, _) = recorded(&site.store, JOB, 40).await;
    site.place("east", JOB, 2, Some(CheckpointRef { step: 40, manifest: start }));
    let unit = "4f2a9c1b-0-2";
    let manifest = site.put_checkpoint(unit, 60, "").await;
    let is = |status: u16, reason: &str| (status, reason.to_owned());
    for step in [20, 40, 61, 220] {
        assert_eq!(site.commit(unit, step, &manifest).await, is(409, "WrongStep"), "{step}");
    }
    assert_eq!(site.commit(unit, 80, &manifest).await, is(409, "WrongStep"), "the manifest is of step 60");
    assert_eq!(site.commit(unit, 60, &Digest::of(b"?")).await, is(409, "BlobMissing"));
    site.put(unit, b"{}").await;
    assert_eq!(site.commit(unit, 60, &Digest::of(b"{}")).await, is(400, "BadManifest"));

    // Of another job, with all blobs put.
    let files = state_files(60, "").into_iter();
    let files = files.map(|(path, b)| FileEntry { path, size: b.len() as u64, sha256: Digest::of(&b) });
    let other = state_manifest(Digest::of(b"another"), 60, "", files.clone().collect());
    site.put(unit, &other).await;
    assert_eq!(site.commit(unit, 60, &Digest::of(&other)).await, is(409, "WrongJob"));

    // A file of somebody else, which the store has: as if it were not there.
    let (_, others) = recorded(&site.store, OTHER_JOB, 80).await;
    let mut stolen: Vec<FileEntry> = files.collect();
    stolen[1].sha256 = others[2];
    stolen[1].size = site.store.size(&others[2]).await.unwrap().unwrap();
    let stolen = state_manifest(training(), 60, "", stolen);
    site.put(unit, &stolen).await;
    let answer = site.send(site.commit_request("east", unit, 60, &Digest::of(&stolen)).await).await;
    let refusal: Refused = serde_json::from_slice(&bytes(answer).await).unwrap();
    assert!(refusal.reason == "BlobMissing" && refusal.message.contains(&others[2].to_hex()), "{refusal:?}");

    assert_eq!(site.store.checkpoints(JOB).await.unwrap().len(), 1);
    assert_eq!(site.commit(unit, 60, &manifest).await, is(200, ""));
    let twice = site.put_checkpoint(unit, 60, "other bits: ").await;
    assert_eq!(site.commit(unit, 60, &twice).await, is(409, "StepTaken"));
    assert_eq!(site.store.checkpoint(JOB, 60).await.unwrap(), Some(manifest));
}

#[rstest]
#[tokio::test]
async fn of_two_racers_for_a_step_one_wins(#[values(On::Dir, On::Bucket)] on: On) {
    let site = Site::new(on).await;
    let one = site.put_checkpoint(UNIT, 20, "").await;
    let two = site.put_checkpoint(UNIT, 20, "other bits: ").await;
    let (a, b) = tokio::join!(site.commit(UNIT, 20, &one), site.commit(UNIT, 20, &two));
    let mut answers = [a.0, b.0];
    answers.sort_unstable();
    assert!(answers[0] == 200 && [409, 503].contains(&answers[1]), "{a:?} {b:?}");
    let noted = site.store.noted_commit(JOB, 20).await.unwrap();
    assert!(matches!(noted, Some(crate::store::Noted::Logged(_))), "the loser has not forgotten the winner");
}

#[tokio::test]
async fn a_unit_of_another_provider_is_not_there() {
    let site = Site::new(On::Dir).await;
    let missing = (404, "UnitNotFound".to_owned());
    let ask = async |provider: &str, unit: &str| {
        let request = Request::get(blob(unit, &site.spec)).body(Body::empty()).unwrap();
        refused(site.send_as(provider, 0, request).await).await
    };
    assert_eq!(ask("west", UNIT).await, missing);
    assert_eq!(ask("east", "4f2a9c1b-0-9").await, missing);
    assert_eq!(ask("east", "..%2f..").await, missing);
    assert_eq!(ask("east", UNIT).await.0, 200);
    // An object whose readable fields are not its payload's is nobody's.
    let mut forged = work_unit("east", 1, None);
    forged.spec.job_uid = OTHER_JOB.to_owned();
    site.work.units.lock().unwrap().insert(("east".to_owned(), UNIT.to_owned()), forged);
    assert_eq!(ask("east", UNIT).await, (409, "BadUnit".to_owned()));
}

#[tokio::test]
async fn nonsense_is_refused_by_name() {
    let site = Site::new(On::Dir).await;
    let post = async |path: &str, body: &str| {
        let request = Request::post(path).body(Body::from(body.to_owned())).unwrap();
        let answer = site.send(request).await;
        (answer.status().as_u16(), String::from_utf8(bytes(answer).await.to_vec()).unwrap())
    };
    let path = format!("/v1/units/{UNIT}/checkpoints/20");
    let commit = signed(
        &work::find(site.work.as_ref(), "east", UNIT).await.unwrap().payload,
        20,
        &site.spec,
        site.spec,
    );
    let body = json!({"manifest": site.spec, "commit": commit, "surprise": 1});
    let (status, text) = post(&path, &body.to_string()).await;
    assert!(status == 400 && text.contains("surprise"), "{text}");
    let (status, _) = post(&path, &" ".repeat((1 << 20) + 1)).await;
    assert_eq!(status, 413);
    let (status, _) = post(&format!("/v1/units/{UNIT}/checkpoints/020"), "{}").await;
    assert_eq!(status, 400);
    let request = Request::get(format!("/v1/units/{UNIT}/blobs/sha256/ABC")).body(Body::empty()).unwrap();
    assert_eq!(site.send(request).await.status(), 400);
}

#[tokio::test]
async fn an_outage_and_a_full_store_have_their_own_codes() {
    let (bucket, faults, _) = Faulty::new();
    let faults: Arc<Faults> = faults;
    let site = Site::with(tempfile::tempdir().unwrap(), Store::on_objects(Arc::new(bucket), "p")).await;
    assert_eq!(site.put(UNIT, b"first").await, 201);
    set(&faults.writes, Some("507 XMinioStorageFull"));
    let answer = refused(site.send(put_request(UNIT, &Digest::of(b"x"), b"x")).await).await;
    assert_eq!(answer, (507, "StoreFull".to_owned()));
    set(&faults.writes, Some("the secret host s3.internal does not answer"));
    let answer = site.send(put_request(UNIT, &Digest::of(b"x"), b"x")).await;
    assert_eq!((answer.status().as_u16(), &answer.headers()[header::RETRY_AFTER]), (503, &2.into()));
    let text = bytes(answer).await;
    assert!(!String::from_utf8_lossy(&text).contains("s3.internal"), "{text:?}");
    set(&faults.writes, None);
    set(&faults.reads, Some("down"));
    assert_eq!(site.put(UNIT, b"x").await, 503);
    assert_eq!(site.get(UNIT, &Digest::of(b"first")).await, 503);
}
