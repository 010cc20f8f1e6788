//! What the hub logs, over a real log and a real store. Only the API server is a fake.
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use axum::extract::{Path, State as Shared};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use kube::Client;
use muster_api::v1alpha1::{JobCheckpoint, Resolved, TrainingJob};
use muster_proof::records::{GrantEndReason, Job, Outcome, Payload, Record};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::grants::{Names, Next, Reading, end_grant, end_job, failure, grant, job, repair, stopped_at};
use super::records::Who;
use super::testing::{
    Local, ORIGIN, To, commit, commit_with, failure_of, identity, log_commit, log_key, own_record,
};
use super::*;
use crate::hub::context::Context;
use crate::hub::job::unit::Logged;
use crate::hub::state::{Change, rotate};
use crate::runtime::mirror::Age;
use crate::store::testing::checkpoint;
use crate::store::{Granted, Noted, Store};

pub const JOB: &str = "4f2a9c1b-0000-4000-8000-000000000000";

fn training_job() -> TrainingJob {
    serde_json::from_value(json!({
        "apiVersion": "muster.dev/v1alpha1", "kind": "TrainingJob",
        "metadata": {"name": "kjv-gpt", "namespace": "team-a", "uid": JOB, "generation": 1},
        "spec": {
            "model": {"architecture": "gpt2", "layers": 4, "width": 256, "heads": 4, "context": 256, "vocabulary": 256},
            "data": {"dataset": "kjv"},
            "training": {"steps": 50, "intervalSteps": 20, "batch": 8, "shards": 8},
            "workers": {"count": 2},
        },
    }))
    .unwrap()
}

fn resolved() -> Resolved {
    let digest = |text: &str| Digest::of(text.as_bytes()).to_string();
    let (spec, dataset) = (digest("spec"), digest("dataset"));
    Resolved { spec, dataset, genesis: digest("genesis"), image: digest("image") }
}

fn training() -> String {
    Digest::of(b"job").to_string()
}

/// As the hub makes it.
pub fn record() -> Job {
    let origin = ORIGIN.parse().unwrap();
    records::job(&training_job(), &resolved(), &training(), &origin, &Digest::of(b"seed")).unwrap()
}

struct Site {
    ctx: Context,
    log: Arc<Local>,
    providers: Arc<Mutex<Vec<Value>>>,
    dir: TempDir,
}

async fn list(Shared(providers): Shared<Arc<Mutex<Vec<Value>>>>) -> Json<Value> {
    let items = providers.lock().unwrap().clone();
    Json(json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items}))
}

async fn get_one(
    Shared(providers): Shared<Arc<Mutex<Vec<Value>>>>,
    Path(name): Path<String>,
) -> (StatusCode, Json<Value>) {
    let found = providers.lock().unwrap().iter().find(|one| one["metadata"]["name"] == *name).cloned();
    let gone =
        json!({"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404, "message": ""});
    match found {
        Some(found) => (StatusCode::OK, Json(found)),
        None => (StatusCode::NOT_FOUND, Json(gone)),
    }
}

impl Site {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (state, keys) = State::open(&dir.path().join("state")).unwrap();
        let (state, log) = (Arc::new(state), Local::new(keys.signer()));
        let signer = Arc::new(Signer::new(keys.signer().clone(), state.clone()));
        let store = Arc::new(Store::open(dir.path().join("store").as_path()).await.unwrap());
        let providers: Arc<Mutex<Vec<Value>>> = Arc::default();
        let one = "/apis/muster.dev/v1alpha1/computeproviders/{name}";
        let server = Router::new().route(one, get(get_one)).fallback(list).with_state(providers.clone());
        let client = Client::new(server, "default");
        let image = format!("muster-trainer@{}", Digest::of(b"image")).parse().unwrap();
        let ledger = Ledger::new(To(log.clone()), state.clone(), signer.clone());
        let ctx = Context::new(client, store, (signer, state), ledger, image);
        Self { ctx, log, providers, dir }
    }

    fn provider(&self, scheduling: &str, keys: &[Digest]) {
        let keys: Vec<Value> = keys.iter().map(|key| json!({"fingerprint": key})).collect();
        *self.providers.lock().unwrap() = vec![json!({
            "apiVersion": "muster.dev/v1alpha1", "kind": "ComputeProvider",
            "metadata": {"name": "east", "uid": "u"},
            "spec": {"owner": "acme", "acceptedKeys": keys, "scheduling": scheduling},
        })];
    }

    async fn job(&self) -> Names {
        job(&self.ctx, &training_job(), &resolved(), &training()).await.unwrap()
    }

    async fn grant(&self, epoch: i64, start: Option<&JobCheckpoint>) -> Result<Logged, LedgerError> {
        let who = Who { provider: "east", owner: "acme" };
        let next = Next { job_uid: JOB, island: 0, epoch, who, start };
        grant(&self.ctx, next, GrantEndReason::Lost).await
    }

    /// The kinds of the records from `index` on.
    fn kinds(&self, index: u64) -> Vec<&'static str> {
        let mut found: Vec<(u64, &'static str)> = Vec::new();
        for record in self.log.records() {
            let (at, envelope) = self.log.log.entry(&record).unwrap().unwrap();
            if at >= index {
                found.push((at, Record::parse(&envelope).unwrap().kind()));
            }
        }
        found.sort_unstable();
        found.into_iter().map(|(_, kind)| kind).collect()
    }

    /// A whole checkpoint in the store, and its commit under `epoch`.
    async fn committed(&self, epoch: u64, interval: u64, previous: Digest) -> (u64, Digest, Envelope) {
        let (first, last) = (interval * 20 + 1, ((interval + 1) * 20).min(50));
        let (manifest, _) = checkpoint(&self.ctx.store, Digest::of(b"job"), last, "").await;
        let root = Digest::of(b"state");
        let of = (JOB, epoch, "east");
        let envelope = commit(&self.ctx, of, (interval, first, last), previous, (root, manifest)).await;
        (last, manifest, envelope)
    }
}

fn newest(step: i64, manifest: Digest) -> JobCheckpoint {
    JobCheckpoint {
        step,
        state_root: Digest::of(b"state").to_string(),
        manifest: manifest.to_string(),
        log_index: None,
    }
}

#[tokio::test(start_paused = true)]
async fn a_log_that_has_too_much_to_do_is_asked_again_when_it_says() {
    let site = Site::new().await;
    site.job().await;
    let busy = |times, seconds| *site.log.busy.lock().unwrap() = (times, Duration::from_secs(seconds));
    let began = tokio::time::Instant::now();
    busy(2, 3);
    log_key(&site.ctx, "east", "acme").await;
    assert_eq!(began.elapsed(), Duration::from_secs(6));
    // Nobody's word keeps the hub waiting for an hour, and it does not ask for ever.
    let began = tokio::time::Instant::now();
    busy(BUSY_TRIES + 1, 3600);
    site.ctx.ledger.submit("key", &own_record("west", "globex")).await.unwrap_err();
    assert_eq!(began.elapsed(), BUSY_LONGEST * BUSY_TRIES);
}

#[tokio::test]
async fn a_job_is_logged_once_and_keeps_its_id_and_its_seed() {
    let site = Site::new().await;
    let names = site.job().await;
    assert_eq!(site.job().await, names);
    assert_eq!(site.kinds(0), ["hubkeys", "job"], "the hub's keys first");
    let kept = site.ctx.state.beacon(JOB).unwrap().unwrap();
    let record = Job::from_payload(&kept.record).unwrap();
    assert_eq!((record.beacon.length.get(), record.intervals()), (4 * 3 + 256, 3));
    let anchor = muster_proof::selection::links(&kept.seed, record.beacon.length.get());
    assert_eq!((record.beacon.anchor, record.hub.to_string().as_str()), (anchor, ORIGIN));
    // The name of its dataset leads elsewhere by now.
    let other = Digest::of(b"other").to_string();
    let refused = job(&site.ctx, &training_job(), &resolved(), &other).await.unwrap_err();
    assert_eq!(refused.refusal(), Some("DigestMismatch"));
    // A hub that starts anew finds what it needs in its state directory.
    let (state, _) = State::open(&site.dir.path().join("state")).unwrap();
    assert_eq!(state.beacon(JOB).unwrap().unwrap(), kept);
}

#[tokio::test]
async fn without_the_log_nothing_is_accepted_and_a_seed_that_was_made_stays() {
    let site = Site::new().await;
    site.log.down.store(true, Ordering::SeqCst);
    let error = job(&site.ctx, &training_job(), &resolved(), &training()).await.unwrap_err();
    assert!(matches!(error, LedgerError::Unavailable(_)), "{error}");
    assert_eq!(site.ctx.state.beacon(JOB).unwrap(), None, "nothing is made for a log that is not known");
    site.log.down.store(false, Ordering::SeqCst);
    site.ctx.ledger.origin().await.unwrap();
    site.log.down.store(true, Ordering::SeqCst);
    job(&site.ctx, &training_job(), &resolved(), &training()).await.unwrap_err();
    let seed = site.ctx.state.beacon(JOB).unwrap().unwrap();
    site.log.down.store(false, Ordering::SeqCst);
    site.job().await;
    assert_eq!(site.ctx.state.beacon(JOB).unwrap().unwrap(), seed);
}

#[tokio::test]
async fn a_key_is_countersigned_and_revoked_when_it_is_not_accepted_any_more() {
    let site = Site::new().await;
    let key = identity("east").key_id();
    site.ctx.store.leave_key("east", own_record("east", "acme").to_json().unwrap()).await.unwrap();
    // Nobody accepts it yet.
    site.provider("Enabled", &[]);
    keys::look(&site.ctx, Age::Now).await.unwrap();
    assert!(!site.ctx.ledger.knows("east") && site.log.size() == 0, "nothing was to be said");
    site.provider("Enabled", &[key]);
    site.ctx.store.leave_key("east", own_record("east", "acme").to_json().unwrap()).await.unwrap();
    for _ in 0..2 {
        keys::look(&site.ctx, Age::Told).await.unwrap();
        assert!(site.ctx.ledger.knows("east"));
        assert_eq!(site.kinds(0), ["hubkeys", "provider-key"]);
    }
    site.ctx.store.leave_key("east", own_record("east", "acme").to_json().unwrap()).await.unwrap();
    keys::look(&site.ctx, Age::Told).await.unwrap();
    assert_eq!(site.log.size(), 2, "the same record again is the same entry");
    site.job().await;
    site.grant(1, None).await.unwrap();
    let size = site.log.size();
    site.provider("Revoked", &[key]);
    for _ in 0..2 {
        keys::look(&site.ctx, Age::Told).await.unwrap();
        assert!(!site.ctx.ledger.knows("east"));
        assert_eq!(site.kinds(size), ["key-revocation"]);
    }
    let refused = site.grant(2, None).await.unwrap_err();
    assert_eq!(refused.refusal(), Some("Unknown"), "{refused}");
    // Of another owner, or rubbish: it does not wait for ever.
    for bad in [own_record("east", "evil").to_json().unwrap(), b"rubbish".to_vec()] {
        site.ctx.store.leave_key("east", bad).await.unwrap();
        keys::look(&site.ctx, Age::Told).await.unwrap();
        assert_eq!(site.ctx.store.provider_keys("east").await.unwrap().pending, None);
    }
}

#[tokio::test]
async fn a_provider_that_is_gone_takes_its_keys_with_it() {
    let site = Site::new().await;
    site.provider("Enabled", &[identity("east").key_id()]);
    site.ctx.store.leave_key("east", own_record("east", "acme").to_json().unwrap()).await.unwrap();
    keys::look(&site.ctx, Age::Told).await.unwrap();
    site.providers.lock().unwrap().clear();
    site.log.down.store(true, Ordering::SeqCst);
    keys::look(&site.ctx, Age::Told).await.unwrap_err();
    assert!(!site.ctx.ledger.knows("east"), "nothing new goes there, whatever the log says");
    site.log.down.store(false, Ordering::SeqCst);
    keys::look(&site.ctx, Age::Told).await.unwrap();
    assert_eq!(site.kinds(0), ["hubkeys", "provider-key", "key-revocation"]);
}

#[tokio::test]
async fn a_grant_is_logged_before_its_unit_and_after_the_end_of_the_one_before() {
    let site = Site::new().await;
    let names = site.job().await;
    log_key(&site.ctx, "east", "acme").await;
    let first = site.grant(1, None).await.unwrap();
    assert_eq!((first.job, first.log.as_str(), first.start_record), (names.id.0, ORIGIN, names.record));
    assert_eq!(site.ctx.store.epoch(JOB, 0).await.unwrap(), 1, "the fence is up");
    let (step, manifest, envelope) = site.committed(1, 0, first.start_record).await;
    let entry = log_commit(&site.ctx, JOB, step, &envelope).await;
    let size = site.log.size();
    let second = site.grant(2, Some(&newest(20, manifest))).await.unwrap();
    assert_eq!((second.start_record, site.kinds(size)), (entry.record, vec!["grant-end", "grant"]));
    assert_ne!(second.grant, first.grant);
    // From a state that the log does not know.
    let error = site.grant(3, Some(&newest(40, manifest))).await.unwrap_err();
    assert!(error.to_string().contains("step 40 is not in the log"), "{error}");
    assert_eq!(site.ctx.store.noted_grant(JOB, 0).await.unwrap(), Some(Granted::Live(2)));
    // From genesis, though there is a newer one.
    let refused = site.grant(3, None).await.unwrap_err();
    assert_eq!(refused.refusal(), Some("Differs"), "{refused}");
    // That one was never logged; the next epoch goes on all the same.
    assert_eq!(site.ctx.store.noted_grant(JOB, 0).await.unwrap(), Some(Granted::Live(3)));
    site.grant(4, Some(&newest(20, manifest))).await.unwrap();
    end_grant(&site.ctx, JOB, 0, 3, GrantEndReason::Released).await.unwrap();
    assert_eq!(site.ctx.store.noted_grant(JOB, 0).await.unwrap(), Some(Granted::Live(4)), "a newer one");
    let size = site.log.size();
    for _ in 0..2 {
        end_grant(&site.ctx, JOB, 0, 4, GrantEndReason::Released).await.unwrap();
        assert_eq!(site.kinds(size), ["grant-end"]);
    }
}

#[tokio::test]
async fn a_commit_whose_gateway_died_is_found_again() {
    let site = Site::new().await;
    site.job().await;
    log_key(&site.ctx, "east", "acme").await;
    let first = site.grant(1, None).await.unwrap();
    let (step, manifest, envelope) = site.committed(1, 0, first.start_record).await;
    let record = envelope.record_id();
    site.ctx.store.note_commit(JOB, step, &Noted::Begun(record)).await.unwrap();
    repair(&site.ctx, JOB).await.unwrap();
    assert_eq!(site.ctx.store.checkpoint(JOB, step).await.unwrap(), None, "it never came into the log");
    let logged = site.ctx.ledger.submit("commit", &envelope).await.unwrap();
    // The hub believes in genesis; the log says no, and then it knows better.
    let refused = site.grant(2, None).await.unwrap_err();
    assert_eq!(refused.refusal(), Some("Differs"));
    assert_eq!(site.ctx.store.checkpoint(JOB, step).await.unwrap(), Some(manifest));
    assert_eq!(site.ctx.store.noted_commit(JOB, step).await.unwrap(), Some(Noted::Logged(logged)));
    site.grant(3, Some(&newest(20, manifest))).await.unwrap();
}

#[tokio::test]
async fn the_end_of_a_job_says_how_far_it_came() {
    let site = Site::new().await;
    site.job().await;
    log_key(&site.ctx, "east", "acme").await;
    let first = site.grant(1, None).await.unwrap();
    let mut previous = first.start_record;
    let mut last = None;
    for interval in 0..3 {
        let (step, manifest, envelope) = site.committed(1, interval, previous).await;
        previous = log_commit(&site.ctx, JOB, step, &envelope).await.record;
        last = Some(newest(step as i64, manifest));
    }
    // Not from an older state than the log has.
    let refused = end_job(&site.ctx, JOB, None, Outcome::Cancelled).await.unwrap_err();
    assert_eq!(refused.refusal(), Some("Differs"));
    let size = site.log.size();
    for _ in 0..2 {
        // Its tenant gives it up, and it is complete all the same.
        end_job(&site.ctx, JOB, last.as_ref(), Outcome::Cancelled).await.unwrap();
    }
    assert_eq!(site.kinds(size), ["job-end"], "its grant had ended");
    assert!(site.ctx.store.noted_end(JOB).await.unwrap());
}

/// What only the log can say: that a job is through before its last step.
#[tokio::test]
async fn a_stop_rule_ends_a_job_where_the_log_says_so() {
    let site = Site::new().await;
    let mut wanted = training_job();
    let eval = json!({"everySteps": 20, "dataset": "psalms", "stopAt": "2.5"});
    wanted.spec.training.eval = Some(serde_json::from_value(eval).unwrap());
    job(&site.ctx, &wanted, &resolved(), &training()).await.unwrap();
    log_key(&site.ctx, "east", "acme").await;
    let first = site.grant(1, None).await.unwrap();
    let (step, _, envelope) = site.committed(1, 0, first.start_record).await;
    let previous = log_commit(&site.ctx, JOB, step, &envelope).await.record;
    assert_eq!(stopped_at(&site.ctx, JOB, Some(20)).await.unwrap(), None, "it goes on");
    let (last, _) = checkpoint(&site.ctx.store, Digest::of(b"job"), 40, "").await;
    let found = (Digest::of(b"state"), last, Digest::of(b"records"));
    let ending = commit_with(&site.ctx, (JOB, 1, "east"), (1, 21, 40, true), previous, found).await;
    log_commit(&site.ctx, JOB, 40, &ending).await;
    for (newest, stopped) in
        [(Some(40), Some(40)), (Some(20), None), (Some(30), None), (Some(50), None), (None, None)]
    {
        assert_eq!(stopped_at(&site.ctx, JOB, newest).await.unwrap(), stopped, "{newest:?}");
    }
    let refused = site.grant(2, Some(&newest(40, last))).await.unwrap_err();
    assert!(refused.refusal().is_some(), "nothing follows on it: {refused}");
    let size = site.log.size();
    end_job(&site.ctx, JOB, Some(&newest(40, last)), Outcome::Cancelled).await.unwrap();
    let ends = site.log.records().into_iter().filter_map(|id| {
        let (at, envelope) = site.log.log.entry(&id).unwrap().unwrap();
        match Record::parse(&envelope).unwrap() {
            Record::JobEnd(end) if at >= size => Some((end.last_step.get(), end.outcome)),
            _ => None,
        }
    });
    assert_eq!(ends.collect::<Vec<_>>(), [(40, Outcome::Completed)]);
}

/// The log's own end of the job: further than any checkpoint, and the end whoever gives the job up.
#[tokio::test]
async fn a_step_that_is_not_finite_ends_grant_and_job() {
    let site = Site::new().await;
    site.job().await;
    log_key(&site.ctx, "east", "acme").await;
    let first = site.grant(1, None).await.unwrap();
    let (step, manifest, envelope) = site.committed(1, 0, first.start_record).await;
    let previous = log_commit(&site.ctx, JOB, step, &envelope).await.record;
    assert_eq!(failure(&site.ctx, JOB, Reading::On).await.unwrap(), None);
    let found = (Digest::of(b"state 32"), Digest::of(b"records"));
    let failed = failure_of(&site.ctx, (JOB, 1, "east"), (1, 21, 33), previous, found).await;
    let record = site.ctx.ledger.submit("failure", &failed).await.unwrap().record;
    assert_eq!(failure(&site.ctx, JOB, Reading::AsItIs).await.unwrap(), None, "not read yet");
    let logged = failure(&site.ctx, JOB, Reading::On).await.unwrap().unwrap();
    assert_eq!((logged.last, logged.record, logged.manifest), (33, record, None));
    let size = site.log.size();
    let newest = newest(20, manifest);
    let refused = site.grant(2, Some(&newest)).await.unwrap_err();
    assert!(refused.refusal().is_some(), "nothing follows on it: {refused}");
    for _ in 0..2 {
        end_job(&site.ctx, JOB, Some(&newest), Outcome::Cancelled).await.unwrap();
    }
    assert_eq!(site.kinds(size), ["grant-end", "job-end"]);
    let ends = site.log.records().into_iter().filter_map(|id| {
        let (_, envelope) = site.log.log.entry(&id).unwrap().unwrap();
        match Record::parse(&envelope).unwrap() {
            Record::JobEnd(end) => Some((end.last_step.get(), end.record, end.outcome)),
            _ => None,
        }
    });
    assert_eq!(ends.collect::<Vec<_>>(), [(33, record, Outcome::Failed)]);
    // Of a job that this state directory does not know nothing is said.
    assert_eq!(failure(&site.ctx, "5f2a9c1b-0000-4000-8000-000000000000", Reading::On).await.unwrap(), None);
}

#[tokio::test]
async fn a_new_key_is_in_the_log_before_it_signs() {
    let site = Site::new().await;
    site.ctx.ledger.origin().await.unwrap();
    let new = rotate(&site.dir.path().join("state"), Change::Add).unwrap();
    site.ctx.ledger.origin().await.unwrap();
    assert_eq!(site.kinds(0), ["hubkeys", "hubkeys"], "published and logged, not signing yet");
    site.ctx.signer.replace(new.signer().clone());
    site.job().await;
    assert_eq!(site.kinds(0), ["hubkeys", "hubkeys", "job"]);
}

#[tokio::test]
async fn another_log_is_not_written_into() {
    let site = Site::new().await;
    site.ctx.ledger.origin().await.unwrap();
    let (state, signer) = (site.ctx.state.clone(), site.ctx.signer.clone());
    let other = Ledger::new(To(Local::new(&site.ctx.ledger.key())), state, signer);
    assert!(matches!(other.origin().await.unwrap_err(), LedgerError::State(StateError::OtherLog { .. })));
}

#[test]
fn why_a_grant_is_over() {
    use muster_core::lifecycle::{Desired, Member, Tenure, Unit, UnitPhase};
    let unit = |phase, member, tenure| Unit {
        stall: None,
        name: "u".into(),
        provider: "east".into(),
        epoch: 1,
        desired: Desired::Run,
        phase,
        attempt: 1,
        free: 0,
        workers: 1,
        step: 0,
        delivered: false,
        failure: None,
        waiting: None,
        member,
        tenure,
        restarts_before: 0,
    };
    use GrantEndReason::{Lost, Released, Revoked};
    let cases = [
        (UnitPhase::Released, Member::Connected, Tenure::Keeps, Released),
        (UnitPhase::Failed, Member::Connected, Tenure::Keeps, Lost),
        (UnitPhase::Running, Member::Away, Tenure::Keeps, Lost),
        (UnitPhase::Running, Member::Gone, Tenure::Revoked, Revoked),
        (UnitPhase::Succeeded, Member::Connected, Tenure::Leaves, Released),
    ];
    for (phase, member, tenure, want) in cases {
        assert_eq!(records::why_over(Some(&unit(phase, member, tenure))), want, "{phase:?}");
    }
    assert_eq!(records::why_over(None), Released);
}
