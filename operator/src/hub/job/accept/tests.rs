//! Nothing is accepted or placed that the log does not have; over an API server in memory and a real log.
use std::sync::Arc;
use std::sync::atomic::Ordering;

use muster_api::v1alpha1::TrainingJob;
use muster_core::lifecycle::{Deadline, Facts, Wish};
use muster_proof::Digest;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::gateway::testing::api::FakeApi;
use crate::hub::context::Context;
use crate::hub::job::gather::Gathered;
use crate::hub::job::{Acted, place};
use crate::hub::ledger::Ledger;
use crate::hub::ledger::testing::{Local, To};
use crate::hub::signer::Signer;
use crate::hub::state::State;
use crate::runtime::client::{client_of, install_crypto};
use crate::store::Store;
use crate::store::testing::{dataset, named_weights};

const UID: &str = "4f2a9c1b-0000-4000-8000-000000000000";

struct Site {
    ctx: Context,
    api: Arc<FakeApi>,
    log: Arc<Local>,
    _dir: TempDir,
}

impl Site {
    async fn new() -> Self {
        install_crypto();
        let (dir, api) = (tempfile::tempdir().unwrap(), FakeApi::start().await);
        let client = client_of(kube::Config::new(api.url.parse().unwrap())).unwrap();
        let (state, keys) = State::open(&dir.path().join("state")).unwrap();
        let (state, log) = (Arc::new(state), Local::new(keys.signer()));
        let signer = Arc::new(Signer::new(keys.signer().clone(), state.clone()));
        let store = Arc::new(Store::open(dir.path().join("store").as_path()).await.unwrap());
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {}});
        let made = api.put("/api/v1/namespaces/team-a", object);
        let namespace = Namespace::new("team-a", made["metadata"]["uid"].as_str().unwrap()).unwrap();
        dataset(&store, &namespace, "kjv", &[b'a'; 5000]).await;
        let ledger = Ledger::new(To(log.clone()), state.clone(), signer.clone());
        let image = format!("muster-trainer@{}", Digest::of(b"image")).parse().unwrap();
        let ctx = Context::new(client, store, (signer, state), ledger, image);
        let site = Self { ctx, api, log, _dir: dir };
        let there = serde_json::to_value(site.job()).unwrap();
        site.api.put("/apis/muster.dev/v1alpha1/namespaces/team-a/trainingjobs/kjv-gpt/status", there);
        site
    }

    fn job(&self) -> TrainingJob {
        serde_json::from_value(json!({
            "apiVersion": "muster.dev/v1alpha1", "kind": "TrainingJob",
            "metadata": {"name": "kjv-gpt", "namespace": "team-a", "uid": UID, "generation": 1, "resourceVersion": "7"},
            "spec": {
                "model": {"architecture": "gpt2", "layers": 1, "width": 16, "heads": 1, "context": 16, "vocabulary": 256},
                "data": {"dataset": "kjv"},
                "training": {"steps": 40, "batch": 2, "shards": 2},
                "workers": {"count": 1},
            },
        }))
        .unwrap()
    }

    /// The status that was written last.
    fn written(&self) -> Value {
        let seen = self.api.requests("trainingjobs/kjv-gpt/status");
        let body: Value = serde_json::from_slice(&seen.last().unwrap().body).unwrap();
        body["status"].clone()
    }
}

/// It is accepted, and so much of its status is written.
async fn is_accepted(look: &Look<'_>) {
    let Accepted::Yes(status) = accept(look).await.unwrap() else { panic!("it is not accepted") };
    look.write(&status).await.unwrap();
}

/// It is not, and looked at again then.
async fn waits(look: &Look<'_>) -> Action {
    let Accepted::Not(again) = accept(look).await.unwrap() else { panic!("it is accepted") };
    again
}

#[tokio::test]
async fn a_job_is_accepted_with_its_id_or_says_that_the_log_is_away() {
    let site = Site::new().await;
    let job = site.job();
    site.log.down.store(true, Ordering::SeqCst);
    let look = Look::new(&site.ctx, &job).unwrap();
    assert_eq!(waits(&look).await, Action::requeue(LOG_AGAIN));
    let said = site.written();
    let accepted = said["conditions"].as_array().unwrap().iter().find(|c| c["type"] == "Accepted").unwrap();
    assert_eq!((&accepted["status"], &accepted["reason"]), (&json!("False"), &json!("LogUnavailable")));
    assert!(said["jobID"].is_null() && said["resolved"].is_null(), "{said}");

    site.log.down.store(false, Ordering::SeqCst);
    is_accepted(&look).await;
    let said = site.written();
    let names = grants::names(&site.ctx, UID).unwrap();
    assert_eq!(said["jobID"], json!(names.id), "all in one write");
    assert!(said["resolved"]["spec"].is_string() && said["trainingDigest"].is_string(), "{said}");
    assert_eq!(site.ctx.ledger.entry(&names.record).await.unwrap().unwrap().0, 1);
}

/// The weights to begin with are the catalogue's, must be of the job's model, and are pinned by the spec.
#[tokio::test]
async fn a_job_is_accepted_once_its_weights_are_there() {
    let site = Site::new().await;
    let mut job = site.job();
    job.spec.init = Some(serde_json::from_value(json!({"model": "base"})).unwrap());
    job.spec.model.layers = 2;
    let said = async |job: &TrainingJob| {
        let look = Look::new(&site.ctx, job).unwrap();
        assert_eq!(waits(&look).await, Action::requeue(CATALOGUE_AGAIN));
        let said = site.written();
        let all = said["conditions"].as_array().unwrap().clone();
        let one = all.into_iter().find(|c| c["type"] == "Accepted").unwrap();
        (one["reason"].as_str().unwrap().to_owned(), one["message"].as_str().unwrap().to_owned())
    };
    let (reason, message) = said(&job).await;
    assert_eq!(reason, "UnknownModel");
    assert!(
        message.starts_with("no model base in the catalogue of namespace team-a (it has none yet)"),
        "{message}"
    );
    assert!(message.contains("muster model push team-a/base DIR"), "{message}");

    let namespace = living(&Look::new(&site.ctx, &job).unwrap()).await.unwrap().unwrap();
    let (model, files) = named_weights(&site.ctx.store, &namespace, "base").await;
    let (reason, message) = said(&job).await;
    assert_eq!(reason, "ModelMismatch");
    assert!(
        message.starts_with("spec.init.model: base ") && message.contains("spec.model.layers is 2 and not 1"),
        "{message}"
    );
    job.spec.model.layers = 1;
    job.spec.init.as_mut().unwrap().digest = Some(Digest::of(b"another").to_string());
    assert_eq!(said(&job).await.0, "DigestMismatch");
    job.spec.init.as_mut().unwrap().digest = Some(model.to_string());
    let tensors = site.ctx.store.read(&files[1], 1 << 20).await.unwrap().unwrap();
    site.ctx.store.remove(&files[1]).await.unwrap();
    let (reason, message) = said(&job).await;
    assert_eq!(reason, "InvalidModel");
    assert!(message.contains("missing or damaged; push it again with `muster model push"), "{message}");
    site.ctx.store.put_bytes(tensors).await.unwrap();

    is_accepted(&Look::new(&site.ctx, &job).unwrap()).await;
    let resolved = site.written()["resolved"].clone();
    let spec = resolved["spec"].as_str().unwrap().parse().unwrap();
    assert_eq!(site.ctx.store.inputs(&spec).await.unwrap(), [(Asset::Model, model)]);
    let manifest = site.ctx.store.model_manifest(&model).await.unwrap().unwrap();
    assert_eq!(resolved["genesis"], json!(manifest.state_root()), "what its weights are as state 0");
}

/// The held-out data are pinned by the spec.
#[tokio::test]
async fn a_job_is_accepted_once_its_held_out_data_are_there() {
    let site = Site::new().await;
    let mut job = site.job();
    job.spec.training.eval =
        Some(serde_json::from_value(json!({"everySteps": 10, "dataset": "psalms"})).unwrap());
    let look = Look::new(&site.ctx, &job).unwrap();
    assert_eq!(waits(&look).await, Action::requeue(CATALOGUE_AGAIN));
    let said = site.written();
    let accepted = said["conditions"].as_array().unwrap().iter().find(|c| c["type"] == "Accepted").unwrap();
    assert_eq!(accepted["reason"], "UnknownDataset");
    let message = accepted["message"].as_str().unwrap();
    assert!(
        message.starts_with("no dataset psalms in the catalogue") && message.contains("kjv"),
        "{message}"
    );

    let namespace = living(&look).await.unwrap().unwrap();
    let held_out = dataset(&site.ctx.store, &namespace, "psalms", &[b'b'; 500]).await;
    is_accepted(&look).await;
    let spec = site.written()["resolved"]["spec"].as_str().unwrap().parse().unwrap();
    assert_eq!(site.ctx.store.inputs(&spec).await.unwrap(), [(Asset::Dataset, held_out)]);
}

#[tokio::test]
async fn a_job_of_an_older_hub_is_logged_as_it_was_resolved() {
    let site = Site::new().await;
    let digest = |text: &str| Digest::of(text.as_bytes()).to_string();
    let mut job = site.job();
    let resolved =
        json!({"spec": digest("s"), "dataset": digest("d"), "genesis": digest("g"), "image": digest("i")});
    let status = json!({"trainingDigest": digest("t"), "resolved": resolved});
    job.status = Some(serde_json::from_value(status).unwrap());
    is_accepted(&Look::new(&site.ctx, &job).unwrap()).await;
    let names = grants::names(&site.ctx, UID).unwrap();
    assert_eq!(
        (site.written()["jobID"].clone(), names.job.genesis.to_string()),
        (json!(names.id), digest("g"))
    );
}

#[tokio::test]
async fn nothing_is_placed_where_no_key_is_in_the_log() {
    let site = Site::new().await;
    let ready = json!([{"type": "Ready", "status": "True", "reason": "Connected", "message": "",
        "lastTransitionTime": "2026-11-23T19:00:00Z"}]);
    site.api.put(
        "/apis/muster.dev/v1alpha1/computeproviders/east",
        json!({"apiVersion": "muster.dev/v1alpha1", "kind": "ComputeProvider", "metadata": {},
            "spec": {"owner": "acme"}, "status": {"conditions": ready}}),
    );
    let job = site.job();
    let look = Look::new(&site.ctx, &job).unwrap();
    let facts = Facts {
        wish: Wish::Run,
        size: place::size(&job.spec),
        leave: None,
        steps: 40,
        stopped_at: None,
        durable_step: None,
        deadline: Deadline::Ahead,
        max_restarts: 20,
        rules: vec![],
        restarts: 0,
        unit: None,
        audits: Audits::None,
        failed: None,
        rollback: None,
    };
    let seen = Gathered {
        gate: None,
        facts,
        current: None,
        older: vec![],
        last_epoch: 0,
        checkpoint: None,
        checkpoint_pending: false,
        active_seconds: 0,
        deadline_in: None,
        member_gone_in: None,
        stalls_in: None,
    };
    let Acted::Unplaced(why) = place::place(&look, &seen, 0, false).await.unwrap() else {
        panic!("it is placed")
    };
    assert_eq!(why.reason, LOG_UNAVAILABLE);
    assert!(why.message.contains("1 has no key in the log yet"), "{}", why.message);
}
