//! Offers and what becomes of them, over an API server in memory and a real store.
use std::sync::{Arc, Mutex};

use axum::body::Bytes;
use axum::extract::State as Shared;
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use kube::Client;
use muster_api::v1alpha1::Resolved;
use muster_core::envelope::seal;
use muster_proof::Digest;
use muster_proof::key::SigningKey;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::agent::testing::payload;
use crate::hub::ledger::Ledger;
use crate::hub::ledger::testing::{Local, To, commit, log_commit, log_key};
use crate::hub::signer::Signer;
use crate::hub::state::State;
use crate::store::testing::recorded;
use crate::store::{Noted, Store};

const JOB: &str = "4f2a9c1b-0000-4000-8000-000000000000";

/// Objects of the API server, by plural.
#[derive(Default)]
struct Objects {
    jobs: Vec<Value>,
    units: Vec<Value>,
    providers: Vec<Value>,
}

async fn answer(
    Shared(objects): Shared<Arc<Mutex<Objects>>>,
    method: Method,
    uri: Uri,
    body: Bytes,
) -> Response {
    let mut objects = objects.lock().unwrap();
    let path = uri.path();
    let name = path.rsplit('/').next().unwrap_or_default();
    if method == Method::POST {
        let mut unit: Value = serde_json::from_slice(&body).unwrap();
        unit["metadata"]["resourceVersion"] = json!("777");
        objects.units.push(unit.clone());
        return Json(unit).into_response();
    }
    let items = match name {
        "trainingjobs" => Some(&objects.jobs),
        "workunits" => Some(&objects.units),
        "computeproviders" => Some(&objects.providers),
        _ => None,
    };
    if let Some(items) = items {
        let list = json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "700"}, "items": items});
        return Json(list).into_response();
    }
    match objects.providers.iter().find(|provider| provider["metadata"]["name"] == name) {
        Some(provider) => Json(provider).into_response(),
        None => {
            let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "not found",
                "reason": "NotFound", "code": 404});
            (StatusCode::NOT_FOUND, Json(status)).into_response()
        }
    }
}

struct Site {
    ctx: Context,
    key: SigningKey,
    objects: Arc<Mutex<Objects>>,
    dir: TempDir,
}

impl Site {
    /// A hub that was just restored, to a backup that has the job and providers east and west, and no unit.
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (state, keys) = State::open(&dir.path().join("state")).unwrap();
        state.onward(900).unwrap();
        state.restored(state.epochs(), 700, 0).unwrap();
        let (state, key) = (Arc::new(state), keys.signer().clone());
        let store = Arc::new(Store::open(dir.path().join("store").as_path()).await.unwrap());
        let objects: Arc<Mutex<Objects>> = Arc::default();
        let router = Router::new().fallback(answer).with_state(objects.clone());
        let image = format!("muster-trainer@{}", Digest::of(b"newer image")).parse().unwrap();
        let signer = Arc::new(Signer::new(key.clone(), state.clone()));
        let ledger = Ledger::new(To(Local::new(&key)), state.clone(), signer.clone());
        let ctx = Context::new(Client::new(router, "default"), store, (signer, state), ledger, image);
        let site = Self { ctx, key, objects, dir };
        let job = job(json!({"trainingDigest": Digest::of(b"job")}), &json!({}));
        site.log(serde_json::from_value(job.clone()).unwrap()).await;
        site.change(|objects| {
            objects.jobs = vec![job];
            objects.providers = vec![provider("east", "True"), provider("west", "True")];
        });
        site
    }

    /// The log was not lost with the database: it has the job and both keys.
    async fn log(&self, job: TrainingJob) {
        let digest = |text: &str| Digest::of(text.as_bytes()).to_string();
        let (spec, dataset) = (digest("spec"), digest("dataset"));
        let resolved = Resolved { spec, dataset, genesis: digest("genesis"), image: digest("image") };
        grants::job(&self.ctx, &job, &resolved, &digest("job")).await.unwrap();
        for provider in ["east", "west"] {
            log_key(&self.ctx, provider, "somebody").await;
        }
    }

    /// The unit of `epoch` at east was granted, and has committed two intervals.
    async fn committed(&self, epoch: i64, manifest: Digest) {
        let who = Who { provider: "east", owner: "somebody" };
        let next = grants::Next { job_uid: JOB, island: 0, epoch, who, start: None };
        let logged = grants::grant(&self.ctx, next, GrantEndReason::Lost).await.unwrap();
        let (mut previous, of) = (logged.start_record, (JOB, epoch as u64, "east"));
        for (interval, first, last) in [(0, 1, 20), (1, 21, 40)] {
            let state = (Digest::of(b"state"), manifest);
            let envelope = commit(&self.ctx, of, (interval, first, last), previous, state).await;
            previous = log_commit(&self.ctx, JOB, last, &envelope).await.record;
        }
    }

    fn change(&self, change: impl FnOnce(&mut Objects)) {
        change(&mut self.objects.lock().unwrap());
    }

    async fn offer(&self, provider: &str, epoch: i64) {
        self.offer_signed(&unit(provider, epoch), &self.key).await;
    }

    async fn offer_signed(&self, payload: &Payload, key: &SigningKey) {
        let envelope = seal(payload, key).unwrap().to_json().unwrap();
        self.ctx.store.record_offer(2, &payload.provider, &payload.name, envelope).await.unwrap();
    }

    async fn answered(&self, provider: &str, epoch: i64) -> Option<Answer> {
        self.ctx.store.offer_answer(2, provider, &format!("4f2a9c1b-0-{epoch}")).await.unwrap()
    }

    fn units(&self) -> Vec<WorkUnit> {
        let units = self.objects.lock().unwrap().units.clone();
        units.into_iter().map(|unit| serde_json::from_value(unit).unwrap()).collect()
    }
}

fn job(status: Value, more: &Value) -> Value {
    let mut job = json!({
        "apiVersion": "muster.dev/v1alpha1", "kind": "TrainingJob",
        "metadata": {"name": "kjv-gpt", "namespace": "team-a", "uid": JOB, "generation": 1},
        "spec": {
            "model": {"architecture": "gpt2", "layers": 4, "width": 256, "heads": 4, "context": 256, "vocabulary": 256},
            "data": {"dataset": "kjv"},
            "training": {"steps": 100, "batch": 8, "shards": 8},
            "workers": {"count": 2},
        },
        "status": status,
    });
    for (key, value) in more.as_object().unwrap() {
        job["spec"][key] = value.clone();
    }
    job
}

fn provider(name: &str, connected: &str) -> Value {
    json!({
        "apiVersion": "muster.dev/v1alpha1", "kind": "ComputeProvider",
        "metadata": {"name": name, "uid": "0b5c6f0e-7d0d-4d0b-9f33-000000000001"},
        "spec": {"owner": "somebody"},
        "status": {"minEpoch": 1000, "conditions": [{"type": "Connected", "status": connected, "reason": "LeaseRenewed",
            "message": "", "lastTransitionTime": "2026-11-23T19:00:00Z"}]},
    })
}

fn unit(provider: &str, epoch: i64) -> Payload {
    Payload {
        name: format!("4f2a9c1b-0-{epoch}"),
        provider: provider.to_owned(),
        epoch,
        training_digest: Digest::of(b"job"),
        ..payload()
    }
}

#[tokio::test]
async fn a_unit_of_the_lost_time_goes_on_under_a_new_epoch_from_the_newest_checkpoint() {
    let site = Site::new().await;
    let (manifest, _) = recorded(&site.ctx.store, JOB, 40).await;
    site.committed(7, manifest).await;
    site.offer("east", 7).await;
    answer_open(&site.ctx).await.unwrap();
    let want = Answer::As("4f2a9c1b-0-1001".to_owned());
    assert_eq!(site.answered("east", 7).await, Some(want.clone()));
    let units = site.units();
    let made = gather::payload(&units[0]).unwrap();
    assert!(made.takes_over(&unit("east", 7)), "with the image that runs, whatever this hub would take now");
    assert_eq!((made.incarnation, made.epoch), (2, 1001));
    assert_eq!(made.start, Some(CheckpointRef { step: 40, manifest }));
    assert_eq!(units[0].metadata.namespace.as_deref(), Some("muster-p-east"));
    assert_eq!(site.ctx.store.epoch(JOB, 0).await.unwrap(), 1001, "the old unit is fenced");
    let newest = site.ctx.store.noted_commit(JOB, 40).await.unwrap();
    assert!(matches!(newest, Some(Noted::Logged(entry)) if entry.record == made.start_record));
    let (_, granted) = site.ctx.ledger.entry(&made.grant).await.unwrap().unwrap();
    assert!(granted.payload_type().contains("grant"), "its grant is in the log");
    assert_eq!(site.ctx.state.epochs().resource_version, 777);
    // Killed between the unit and the answer: the same answer, no second unit.
    let file = site.dir.path().join("store/recover/2/east/answers/4f2a9c1b-0-7");
    std::fs::remove_file(file).unwrap();
    answer_open(&site.ctx).await.unwrap();
    assert_eq!((site.answered("east", 7).await, site.units().len()), (Some(want), 1));
    // One that was away and comes late finds the island taken.
    site.offer("west", 8).await;
    answer_open(&site.ctx).await.unwrap();
    assert_eq!((site.answered("west", 8).await, site.units().len()), (Some(Answer::Stop), 1));
}

#[tokio::test]
async fn of_two_that_claim_an_island_one_goes_on() {
    let site = Site::new().await;
    site.offer("east", 1).await;
    site.offer("west", 2).await;
    answer_open(&site.ctx).await.unwrap();
    assert_eq!(site.answered("east", 1).await, Some(Answer::Stop));
    assert_eq!(site.answered("west", 2).await, Some(Answer::As("4f2a9c1b-0-1001".to_owned())));
    assert_eq!(site.units().len(), 1);
}

#[tokio::test]
async fn what_nobody_wants_or_nobody_signed_stops() {
    let done = json!({"trainingDigest": Digest::of(b"job"), "phase": "Succeeded"});
    let other = json!({"trainingDigest": Digest::of(b"another job")});
    let now = json!({"trainingDigest": Digest::of(b"job")});
    for jobs in [
        vec![],
        vec![job(done, &json!({}))],
        vec![job(other, &json!({}))],
        vec![job(now.clone(), &json!({"suspend": true}))],
    ] {
        let site = Site::new().await;
        site.change(|objects| objects.jobs = jobs);
        site.offer("east", 1).await;
        answer_open(&site.ctx).await.unwrap();
        assert_eq!((site.answered("east", 1).await, site.units().len()), (Some(Answer::Stop), 0));
    }
    let site = Site::new().await;
    let thief = SigningKey::generate([3; 32]).unwrap();
    site.offer_signed(&unit("east", 1), &thief).await;
    let of_now = Payload { incarnation: 2, ..unit("east", 2) };
    site.offer_signed(&of_now, &site.key).await;
    answer_open(&site.ctx).await.unwrap();
    assert_eq!(site.answered("east", 1).await, Some(Answer::Stop));
    assert_eq!((site.answered("east", 2).await, site.units().len()), (Some(Answer::Stop), 0));
    // All steps are recorded: the job is done though its status does not know.
    recorded(&site.ctx.store, JOB, 100).await;
    site.offer("east", 3).await;
    answer_open(&site.ctx).await.unwrap();
    assert_eq!((site.answered("east", 3).await, site.units().len()), (Some(Answer::Stop), 0));
}

#[tokio::test]
async fn nothing_is_decided_before_the_agents_have_said_what_they_hold() {
    let site = Site::new().await;
    let shutdown = Shutdown::manual();
    site.change(|objects| objects.providers = vec![provider("east", "False")]);
    site.offer("east", 1).await;
    site.ctx.store.complete_offers(2, "east").await.unwrap();
    let settled = settle(&site.ctx, &shutdown);
    let check = async {
        tokio::time::sleep(Duration::from_millis(1300)).await;
        assert_eq!(site.answered("east", 1).await, None, "the hub does not see its lease yet");
        site.change(|objects| objects.providers = vec![provider("east", "True"), provider("west", "True")]);
        tokio::time::sleep(Duration::from_millis(1300)).await;
        assert_eq!(site.answered("east", 1).await, None, "west has not said anything");
        assert!(site.ctx.state.epochs().recovering);
        site.ctx.store.complete_offers(2, "west").await.unwrap();
    };
    let (settled, ()) = tokio::join!(settled, check);
    settled.unwrap();
    assert!(matches!(site.answered("east", 1).await, Some(Answer::As(_))));
    assert!(!site.ctx.state.epochs().recovering);
    // Said once: a later start waits for nobody.
    site.change(|objects| objects.providers.clear());
    settle(&site.ctx, &shutdown).await.unwrap();
}
