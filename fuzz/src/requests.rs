//! Whole requests at the gateway's routes for agents and users: method, path, query, headers, body. Behind them are a store in
//! memory and an API server that knows one unit, one job and one namespace.
use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderName, HeaderValue, Method, Request, StatusCode, Uri, header};
use muster::gateway::access::{Agent, Authorizer, Refusal, User, Wanted};
use muster::gateway::door::Door;
use muster::gateway::urls::Urls;
use muster::gateway::{units, users};
use muster::resolve::Named;
use muster::store::{Asset, Namespace, Store};
use muster::wire::gateway::{CheckpointCommit, Refused};
use muster_api::v1alpha1::WorkUnit;
use muster_core::envelope;
use muster_proof::Digest;
use muster_proof::key::SigningKey;
use muster_proof::records::fields::{Epoch, Interval, Island, JobId, Step};
use muster_proof::records::{self, Payload as _};
use muster_trainer::{checkpoint, dataset};
use object_store::memory::InMemory;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::OnceCell;
use tower::ServiceExt;

use crate::Target;

const JOB: &str = "4f2a9c1b-0000-4000-8000-000000000000";
const UNIT: &str = "4f2a9c1b-0-1";
/// Bytes of a namespace.
const QUOTA: u64 = 4096;

pub fn targets() -> Vec<Target> {
    vec![
        Target { name: "gateway-agents", run: agents, seeds: agent_seeds },
        Target { name: "gateway-users", run: humans, seeds: user_seeds },
        Target { name: "gateway-unit", run: unit, seeds: unit_seeds },
    ]
}

/// An API server, as far as these routes ask one.
#[derive(Clone)]
struct Known(Option<WorkUnit>);

impl units::Work for Known {
    async fn unit(&self, provider: &str, name: &str) -> Result<Option<WorkUnit>, Refusal> {
        Ok(self.0.clone().filter(|_| (provider, name) == ("east", UNIT)))
    }

    fn of_job(&self, _: &str) -> Vec<WorkUnit> {
        self.0.iter().cloned().collect()
    }

    fn settled(&self) -> Result<(), Refusal> {
        Ok(())
    }
}

impl Authorizer for Known {
    async fn may(&self, _: &User, wanted: &Wanted<'_>) -> Result<(), Refusal> {
        match wanted.namespace {
            "team-a" => Ok(()),
            _ => Err(Refusal::forbidden("Forbidden", "not yours; ask its admin")),
        }
    }
}

impl users::Jobs for Known {
    async fn uid(&self, _: &str, name: &str) -> Result<Option<String>, Refusal> {
        Ok((name == "kjv-gpt").then(|| JOB.to_owned()))
    }

    async fn namespace(&self, name: &str) -> Result<Option<Namespace>, Refusal> {
        Ok(Namespace::new(name, JOB).ok())
    }
}

/// What is the same in every run: a spec, a unit of it, a checkpoint and a dataset.
struct Fixed {
    spec: Vec<u8>,
    unit: WorkUnit,
    checkpoint: Vec<u8>,
    dataset: Vec<u8>,
}

fn fixed() -> Option<&'static Fixed> {
    static FIXED: OnceLock<Option<Fixed>> = OnceLock::new();
    FIXED.get_or_init(make).as_ref()
}

fn make() -> Option<Fixed> {
    let shard = dataset::Shard { path: "tokens-00000.bin".to_owned(), size: 512, sha256: Digest::of(b"x") };
    let data = dataset::Manifest::new(Digest::of(b"y"), vec![shard]).ok()?;
    let job = serde_json::json!({
        "model": {"architecture": "gpt2", "layers": 1, "width": 16, "heads": 1, "context": 8, "vocabulary": 256},
        "data": {"dataset": "tiny"}, "workers": {"count": 1},
        "training": {"steps": 40, "batch": 2, "shards": 2, "intervalSteps": 20},
    });
    let named = Named { data: &data, held_out: None, init: None };
    let resolved = muster::resolve::resolve(&serde_json::from_value(job).ok()?, named).ok()?;
    let (digest, training) = (Digest::of(b"x"), resolved.training_digest);
    let payload = serde_json::json!({
        "format": envelope::FORMAT, "kind": "Train", "name": UNIT, "provider": "east", "jobUID": JOB,
        "job": digest, "log": "hub.example/log", "grant": digest, "startRecord": digest,
        "tenant": envelope::tenant("team-a"), "island": 0,
        "epoch": 1, "workers": 1, "deviceClass": "cpu", "resources": {"cpu": "1", "memory": "1Gi"},
        "image": format!("muster-trainer@{digest}"), "spec": resolved.digest, "trainingDigest": training,
        "dataset": resolved.dataset, "arithmetic": "f32-chain", "steps": 40, "intervalSteps": 20, "keepLast": 3,
        "start": null, "maxRestarts": 20, "scheduleTimeoutSeconds": 600, "disconnectGraceSeconds": 900,
        "incarnation": 1, "notAfter": "2026-11-23T19:00:00Z",
    });
    let key = SigningKey::generate([7; 32]).ok()?;
    let sealed = envelope::seal(&serde_json::from_value(payload).ok()?, &key).ok()?;
    let unit = serde_json::json!({
        "apiVersion": "muster.dev/v1alpha1", "kind": "WorkUnit", "metadata": {"name": UNIT},
        "spec": {"kind": "Train", "jobUID": JOB, "island": 0, "epoch": 1, "workers": 1, "envelope": sealed},
    });
    let file = |path: &str| checkpoint::FileEntry { path: path.to_owned(), size: 1, sha256: digest };
    let files = checkpoint::FILES.iter().map(|path| file(path)).collect();
    Some(Fixed {
        spec: resolved.bytes,
        unit: serde_json::from_value(unit).ok()?,
        checkpoint: checkpoint::Manifest::new(20, training, digest, [0.5, 0.25], files)
            .ok()?
            .to_bytes()
            .ok()?,
        dataset: data.to_bytes().ok()?,
    })
}

/// A store of its own for each run: what one run puts, another must not find.
async fn store(fixed: &Fixed) -> Option<Arc<Store>> {
    static FILLED: OnceCell<Option<InMemory>> = OnceCell::const_new();
    let filled = FILLED.get_or_init(|| fill(fixed)).await.as_ref()?;
    Some(Arc::new(Store::on_objects(Arc::new(filled.fork()), "s")))
}

async fn fill(fixed: &Fixed) -> Option<InMemory> {
    let bucket = Arc::new(InMemory::new());
    let store = Store::on_objects(bucket.clone(), "s");
    store.put_bytes(fixed.spec.clone()).await.ok()?;
    store.put_bytes(b"x".to_vec()).await.ok()?;
    let manifest = store.put_bytes(fixed.checkpoint.clone()).await.ok()?;
    store.record_checkpoint(JOB, 20, &manifest).await.ok()?;
    let manifest = store.put_bytes(fixed.dataset.clone()).await.ok()?;
    store.set_name(Asset::Dataset, &Namespace::new("team-a", JOB).ok()?, "kjv", &manifest).await.ok()?;
    Some(bucket.fork())
}

/// One for all runs of a thread: to make one is most of a run.
pub fn block_on(run: impl Future<Output = ()>) {
    thread_local! {
        static RUNTIME: Option<Runtime> = Builder::new_current_thread().enable_all().build().ok();
    }
    RUNTIME.with(|runtime| {
        if let Some(runtime) = runtime {
            runtime.block_on(run);
        }
    });
}

/// `METHOD path`, lines `header: value`, an empty line, the body.
pub fn parse(data: &[u8]) -> Option<(Request<Body>, &[u8])> {
    let end = data.windows(2).position(|two| two == b"\n\n").unwrap_or(data.len());
    let (head, body) = (data.get(..end)?, data.get(end + 2..).unwrap_or_default());
    let mut lines = head.split(|byte| *byte == b'\n');
    let first = std::str::from_utf8(lines.next()?).ok()?;
    let (method, path) = first.split_once(' ')?;
    let mut request = Request::new(Body::from(body.to_vec()));
    *request.method_mut() = Method::from_bytes(method.as_bytes()).ok()?;
    *request.uri_mut() = path.parse::<Uri>().ok()?;
    for line in lines {
        let at = line.iter().position(|byte| *byte == b':')?;
        let name = HeaderName::from_bytes(line.get(..at)?).ok()?;
        request.headers_mut().append(name, HeaderValue::from_bytes(line.get(at + 1..)?.trim_ascii()).ok()?);
    }
    let agent = Agent { provider: "east".to_owned(), min_epoch: 1, key: Digest::of(b"key") };
    request.extensions_mut().insert(agent);
    request.extensions_mut().insert(User { name: "ann".to_owned(), ..User::default() });
    Some((request, body))
}

/// An answer, and none that is a fault of the gateway.
pub async fn answer(router: Router, request: Request<Body>) -> StatusCode {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let Ok(answer) = router.oneshot(request).await;
    let status = answer.status();
    assert!(!status.is_server_error() || [503, 507].contains(&status.as_u16()), "{method} {path}: {status}");
    let is_json = answer.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
    let text = to_bytes(answer.into_body(), 1 << 22).await.unwrap_or_default();
    if is_json && !status.is_success() && method != Method::HEAD {
        let refused: Option<Refused> = serde_json::from_slice(&text).ok();
        assert!(refused.is_some_and(|refused| refused.message.chars().count() <= 1001), "{status} {text:?}");
    }
    status
}

/// Whatever is sent: an answer. What is said to be stored has the hash it is named by.
fn send(data: &[u8], router: impl FnOnce(Arc<Store>) -> Router) {
    let (Some(fixed), Some((request, body))) = (fixed(), parse(data)) else { return };
    block_on(async {
        let Some(store) = store(fixed).await else { return };
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let status = answer(router(store), request).await;
        if method == Method::PUT && status.is_success() && path.contains("/blobs/") {
            assert_eq!(path.rsplit('/').next(), Some(&*Digest::of(body).to_hex()), "{path}: {status}");
        }
    });
}

fn urls() -> Arc<Urls> {
    Arc::new(Urls::new([7; 64], "https://10.0.0.1:8443"))
}

fn agents(data: &[u8]) {
    let Some(fixed) = fixed() else { return };
    let Some(log) = crate::log::for_commits() else { return };
    send(data, |store| units::router(store, Arc::new(Known(Some(fixed.unit.clone()))), urls(), log));
}

fn humans(data: &[u8]) {
    let known = Arc::new(Known(None));
    send(data, |store| users::router(store, Door::new(known.clone(), known.clone()), urls(), QUOTA));
}

/// A WorkUnit as the API server may hand it out: what was written with other schemas, or by a broken hub.
fn unit(data: &[u8]) {
    let Ok(unit) = serde_json::from_slice::<WorkUnit>(data) else { return };
    let asked = format!("GET /v1/units/{UNIT}/blobs/sha256/{}\n\n", Digest::of(b"x").to_hex());
    let Some(log) = crate::log::for_commits() else { return };
    send(asked.as_bytes(), |store| units::router(store, Arc::new(Known(Some(unit))), urls(), log));
}

/// Of the unit's first interval.
fn commit(checkpoint: &[u8]) -> Option<CheckpointCommit> {
    let (digest, manifest) = (Digest::of(b"x"), Digest::of(checkpoint));
    let key = SigningKey::generate([7; 32]).ok()?;
    let files = checkpoint::Manifest::parse(checkpoint).ok()?;
    let commit = records::Commit {
        job: JobId(digest),
        island: Island::new(0).ok()?,
        epoch: Epoch::new(1).ok()?,
        interval: Interval::new(0).ok()?,
        first_step: Step::new(1).ok()?,
        last_step: Step::new(20).ok()?,
        previous: digest,
        state_root: digest,
        record_seal: digest,
        manifest,
        ends: false,
    };
    Some(CheckpointCommit {
        manifest,
        commit: commit.sign(&key).ok()?,
        model: checkpoint::sign_files(&files, &manifest, &key).ok()?,
        key: key.public().clone(),
    })
}

fn agent_seeds() -> Vec<Vec<u8>> {
    let Some(fixed) = fixed() else { return Vec::new() };
    let (hex, spec) = (Digest::of(b"hello").to_hex(), Digest::of(&fixed.spec).to_hex());
    let (blobs, manifest) = (format!("/v1/units/{UNIT}/blobs/sha256"), Digest::of(&fixed.checkpoint));
    let commit = commit(&fixed.checkpoint).and_then(|commit| serde_json::to_string(&commit).ok());
    let commit = commit.unwrap_or_default();
    [
        format!("PUT {blobs}/{hex}\ncontent-length: 5\n\nhello"),
        format!("GET {blobs}/{spec}\nrange: bytes=2-9\nif-none-match: \"x\"\n\n"),
        format!("HEAD {blobs}/{spec}\nif-match: *\n\n"),
        format!("POST /v1/units/{UNIT}/checkpoints/20\n\n{commit}"),
        format!("POST /v1/units/{UNIT}/checkpoints/20\n\n{{\"manifest\":\"{manifest}\"}}"),
        format!("POST /v1/units/%2e%2e/checkpoints/18446744073709551616\n\n{{\"manifest\":\"{manifest}\"}}"),
    ]
    .map(String::into_bytes)
    .to_vec()
}

fn user_seeds() -> Vec<Vec<u8>> {
    let Some(fixed) = fixed() else { return Vec::new() };
    let (hex, base) = (Digest::of(b"hello").to_hex(), "/v1/namespaces/team-a");
    let (data, state) = (Digest::of(&fixed.dataset), Digest::of(&fixed.checkpoint).to_hex());
    [
        format!("PUT {base}/blobs/sha256/{hex}\ncontent-length: 5\n\nhello"),
        format!("HEAD {base}/blobs/sha256/{hex}\n\n"),
        format!("PUT {base}/datasets/kjv?replace=true\n\n{{\"manifest\":\"{data}\"}}"),
        format!("GET {base}/datasets\n\n"),
        format!("PUT {base}/models/base?replace=true\n\n{{\"manifest\":\"{data}\"}}"),
        format!("GET {base}/models\n\n"),
        format!("GET {base}/jobs/kjv-gpt/checkpoints\n\n"),
        format!("GET {base}/jobs/kjv-gpt/blobs/sha256/{state}\nrange: bytes=-5\nif-range: \"x\"\n\n"),
        "GET /v1/namespaces/%ff/jobs/..%2fx/checkpoints\n\n".to_owned(),
    ]
    .map(String::into_bytes)
    .to_vec()
}

fn unit_seeds() -> Vec<Vec<u8>> {
    fixed().and_then(|fixed| serde_json::to_vec(&fixed.unit).ok()).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The status of each seed: where a seed ends early, its mutations do as well.
    async fn statuses(seeds: &[Vec<u8>], router: impl Fn(Arc<Store>) -> Router) -> Vec<u16> {
        let mut all = Vec::new();
        for seed in seeds {
            let (request, _) = parse(seed).unwrap();
            let store = store(fixed().unwrap()).await.unwrap();
            all.push(router(store).oneshot(request).await.unwrap().status().as_u16());
        }
        all
    }

    #[tokio::test]
    async fn the_seeds_go_far() {
        let work = Arc::new(Known(Some(fixed().unwrap().unit.clone())));
        let log = crate::log::for_commits().unwrap();
        let got =
            statuses(&agent_seeds(), |store| units::router(store, work.clone(), urls(), log.clone())).await;
        // The commit comes as far as the reading back: these files are no state.
        assert_eq!(got, [201, 206, 200, 409, 400, 400]);
        let known = Arc::new(Known(None));
        let got = statuses(&user_seeds(), |store| {
            users::router(store, Door::new(known.clone(), known.clone()), urls(), QUOTA)
        })
        .await;
        // A dataset is no model.
        assert_eq!(got, [201, 404, 409, 200, 400, 200, 200, 200, 400]);
    }
}
