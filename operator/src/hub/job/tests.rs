//! A job's life as statuses and news, without an API server: what a person would see.
use jiff::Timestamp;
use muster_api::v1alpha1::{TrainingJob, TrainingJobPhase, TrainingJobStatus, WorkUnit};
use muster_core::lifecycle::{Audits, Deadline, Facts, Member, Next, Rollback, Wish, decide};
use muster_proof::Digest;
use muster_proof::key::SigningKey;
use serde_json::{Value, json};

use super::act::{Succession, succession};
use super::gather::{Gathered, payload, unit_facts};
use super::unit::{Logged, Particulars, render};
use super::{Acted, news, status};
use crate::hub::signer::Identity;

mod audits;
mod life;
mod objects;

const UID: &str = "4f2a9c1b-0000-4000-8000-000000000000";

fn digest(fill: &str) -> String {
    format!("sha256:{}", fill.repeat(32))
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_795_374_000 + second).unwrap()
}

pub(super) fn job(status: &TrainingJobStatus) -> TrainingJob {
    serde_json::from_value(json!({
        "apiVersion": "muster.dev/v1alpha1", "kind": "TrainingJob",
        "metadata": {"name": "kjv-gpt", "namespace": "team-a", "uid": UID, "generation": 1},
        "spec": {
            "model": {"architecture": "gpt2", "layers": 4, "width": 256, "heads": 4, "context": 256, "vocabulary": 256},
            "data": {"dataset": "kjv"},
            "training": {"steps": 200, "batch": 8, "shards": 8},
            "workers": {"count": 2},
        },
        "status": status,
    }))
    .unwrap()
}

fn resolved() -> TrainingJobStatus {
    serde_json::from_value(json!({
        "trainingDigest": digest("11"),
        "resolved": {"spec": digest("22"), "dataset": digest("33"), "genesis": digest("44"), "image": digest("55")},
    }))
    .unwrap()
}

fn unit(job: &TrainingJob, epoch: i64, start: Option<i64>, restarts: u32) -> WorkUnit {
    let checkpoint = start.map(checkpoint);
    let start = checkpoint.as_ref();
    let identity = Identity { key: SigningKey::generate([7; 32]).unwrap(), incarnation: 1 };
    let image = format!("muster-trainer@{}", digest("55")).parse().unwrap();
    let particulars = Particulars { provider: "east", workers: 2, epoch, start, restarts, logged: logged() };
    render(job, job.status.as_ref().unwrap(), &particulars, &image, &identity, at(0)).unwrap()
}

/// What the log has of it.
fn logged() -> Logged {
    let nothing = Digest::of(b"");
    Logged { job: nothing, log: "hub.invalid/log".to_owned(), grant: nothing, start_record: nothing }
}

fn checkpoint(step: i64) -> muster_api::v1alpha1::JobCheckpoint {
    serde_json::from_value(json!({"step": step, "stateRoot": digest("66"), "manifest": digest("77")}))
        .unwrap()
}

/// One look at the job, as the controller has it.
fn look(job: &TrainingJob, current: Option<WorkUnit>, durable: Option<i64>) -> (TrainingJobStatus, Next) {
    look_at(job, current, durable, (Audits::None, None))
}

/// The same of a job that is audited.
fn look_at(
    job: &TrainingJob,
    current: Option<WorkUnit>,
    durable: Option<i64>,
    (audits, rollback): (Audits, Option<Rollback>),
) -> (TrainingJobStatus, Next) {
    let unit = current.as_ref().map(|unit| unit_facts(unit, None, Member::Connected, Timestamp::UNIX_EPOCH));
    // `unit_facts` without a provider says it keeps; that is all these tests need.
    let facts = Facts {
        wish: if job.spec.suspend { Wish::Suspend } else { Wish::Run },
        size: super::place::size(&job.spec),
        leave: None,
        steps: 200,
        stopped_at: None,
        durable_step: durable.map(|step| step as u64),
        deadline: Deadline::Ahead,
        max_restarts: 20,
        rules: vec![],
        restarts: 0,
        unit,
        audits,
        failed: None,
        rollback,
    };
    let decision = decide(&facts);
    let acted = match (&decision.next, &current) {
        (Next::Place { restarts, .. }, before) => {
            let epoch = before.as_ref().map_or(1, |unit| unit.spec.epoch + 1);
            Acted::Placed(Box::new(unit_of(job, epoch, durable, *restarts)))
        }
        _ => Acted::Nothing,
    };
    let seen = Gathered {
        gate: None,
        last_epoch: 0,
        current,
        older: vec![],
        checkpoint: durable.map(checkpoint),
        checkpoint_pending: false,
        active_seconds: 90,
        deadline_in: None,
        member_gone_in: None,
        stalls_in: None,
        facts,
    };
    (status::of_job(job, &seen, &decision, &acted, at(100)), decision.next)
}

fn unit_of(job: &TrainingJob, epoch: i64, start: Option<i64>, restarts: u32) -> WorkUnit {
    unit(job, epoch, start, restarts)
}

fn with_status(mut unit: WorkUnit, status: Value) -> WorkUnit {
    unit.status = Some(serde_json::from_value(status).unwrap());
    unit
}

fn reasons(old: &TrainingJobStatus, new: &TrainingJobStatus) -> Vec<String> {
    news::between(old, new).into_iter().map(|item| item.reason).collect()
}

#[test]
fn a_unit_and_its_payload() {
    let unit = unit(&job(&resolved()), 3, Some(100), 2);
    insta::assert_yaml_snapshot!("unit", unit);
    insta::assert_yaml_snapshot!("payload", payload(&unit).unwrap());
}

#[test]
fn the_envelope_opens_with_the_hubs_key() {
    let key = SigningKey::generate([7; 32]).unwrap();
    let mut job = job(&resolved());
    job.spec.workers.recompute = muster_api::v1alpha1::Recompute::Layers;
    job.spec.workers.optimizer_state = muster_api::v1alpha1::OptimizerState::Sharded;
    let unit = unit(&job, 1, None, 0);
    let envelope = serde_json::to_vec(&unit.spec.envelope).unwrap();
    let envelope = muster_proof::dsse::Envelope::parse(&envelope, 65536).unwrap();
    let opened = muster_core::envelope::open(&envelope, &[key.public().clone()]).unwrap();
    assert_eq!((opened.name.as_str(), opened.start), ("4f2a9c1b-0-1", None));
    assert_eq!(opened.max_restarts, 20);
    assert_eq!(opened.recompute, Some(muster_core::envelope::Recompute::Layers));
    assert_eq!(opened.optimizer_state, Some(muster_core::envelope::OptimizerState::Sharded));
}

#[test]
fn a_unit_that_is_continued_is_not_told_to_stop_before_its_agent_knows() {
    let job = job(&resolved());
    let old = unit(&job, 1, None, 0);
    let anew = muster_core::recovery::Anew {
        name: "4f2a9c1b-0-1001".into(),
        epoch: 1001,
        incarnation: 2,
        not_after: at(0),
        start: None,
        grant: Digest::of(b"grant of 1001"),
        start_record: Digest::of(b"job record"),
    };
    let key = SigningKey::generate([7; 32]).unwrap();
    let new = super::unit::object(&payload(&old).unwrap().continued(anew), 3, &key).unwrap();
    assert_eq!(new.metadata.annotations.as_ref().unwrap()["muster.dev/restarts-before"], "3");
    assert_eq!(succession(Some(&new), &old), Succession::Announced);
    let known = with_status(new.clone(), json!({"phase": "Running", "attempt": 1}));
    assert_eq!(succession(Some(&known), &old), Succession::Done);
    // Others are told at once: of another epoch, or with another unit in their place.
    assert_eq!(succession(Some(&known), &unit(&job, 2, None, 0)), Succession::None);
    assert_eq!(succession(Some(&unit(&job, 3, None, 0)), &old), Succession::None);
    assert_eq!(succession(None, &old), Succession::None);
}

#[test]
fn from_placement_to_success() {
    let mut status = resolved();
    let (placed, _) = look(&job(&status), None, None);
    assert_eq!((placed.phase, placed.providers.as_deref()), (Some(TrainingJobPhase::Placing), Some("east")));
    assert_eq!(reasons(&status, &placed), ["Resolved", "Placed"]);
    status = placed;

    let made = unit(&job(&resolved()), 1, None, 0);
    let running = json!({"phase": "Running", "attempt": 1, "step": 7, "loss": "5.5", "evalLoss": "5.25", "tokensPerSecond": 6100});
    let (trains, _) = look(&job(&status), Some(with_status(made.clone(), running)), None);
    assert_eq!(trains.phase, Some(TrainingJobPhase::Running));
    let progress = trains.progress.clone().unwrap();
    assert_eq!(progress.text.as_deref(), Some("7/200"));
    assert_eq!((progress.loss.as_deref(), progress.tokens_per_second), (Some("5.5"), Some(6100)));
    assert_eq!(reasons(&status, &trains), ["Started"]);
    status = trains;

    let further =
        json!({"phase": "Running", "attempt": 1, "step": 27, "loss": "4.5", "tokensPerSecond": 6000});
    let (on, _) = look(&job(&status), Some(with_status(made.clone(), further)), Some(20));
    assert!(status::differs_in_progress_only(&status, &on) && status != on);
    assert_eq!(reasons(&status, &on), ["CheckpointSaved"]);
    let losses = |status: &TrainingJobStatus| status.progress.clone().map(|p| (p.loss, p.eval_loss));
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(losses(&status), Some((text("5.5"), text("5.25"))));
    assert_eq!(losses(&on), Some((text("4.5"), text("5.25"))), "until the next evaluation");
    status = on;

    let done = json!({"phase": "Succeeded", "attempt": 1, "step": 200, "loss": "2.5"});
    let (over, next) = look(&job(&status), Some(with_status(made, done)), Some(200));
    assert!(matches!(next, Next::Finish(_)));
    assert_eq!(over.phase, Some(TrainingJobPhase::Succeeded));
    assert_eq!((over.result.clone().unwrap().step, over.active_seconds), (200, Some(90)));
    assert!(over.completion_time.is_some() && over.providers.as_deref() == Some("east"));
    assert_eq!(reasons(&status, &over), ["CheckpointSaved", "Succeeded"]);
}

#[test]
fn a_lost_pod_is_told_with_its_reason_and_counted() {
    let made = unit(&job(&resolved()), 1, None, 0);
    let running = json!({"phase": "Running", "attempt": 1, "step": 47});
    let (before, _) = look(&job(&resolved()), Some(with_status(made.clone(), running)), Some(40));
    let lost = json!({
        "phase": "Starting", "attempt": 2, "step": 47,
        "lastFailure": {"attempt": 1, "rank": 1, "exitCode": 137, "reason": "Killed", "message": "worker 1 was killed"},
    });
    let (after, _) = look(&job(&before), Some(with_status(made.clone(), lost)), Some(40));
    assert_eq!((after.phase, after.restarts), (Some(TrainingJobPhase::Recovering), Some(1)));
    assert!(!status::differs_in_progress_only(&before, &after), "said at once");
    let told = news::between(&before, &after);
    assert_eq!(told[0].reason, "PodLost");
    assert_eq!(told[0].message, "worker 1 was killed (Killed, exit code 137); training goes on from step 40");
    let again = json!({"phase": "Running", "attempt": 2, "step": 41});
    let (back, _) = look(&job(&after), Some(with_status(made, again)), Some(40));
    assert_eq!(reasons(&after, &back), ["Recovered"]);
}

#[test]
fn a_failed_unit_leads_to_a_new_epoch_from_the_newest_checkpoint() {
    let failed = json!({
        "phase": "Failed", "attempt": 1, "step": 47,
        "lastFailure": {"attempt": 1, "reason": "ScheduleTimeout", "message": "0 of 2 workers ran after 600 s"},
    });
    let made = with_status(unit(&job(&resolved()), 1, None, 0), failed);
    let old = resolved();
    let (new, _) = look(&job(&old), Some(made), Some(40));
    let told: Vec<_> = news::between(&old, &new).into_iter().map(|item| item.message).collect();
    assert!(told.iter().any(|message| message.contains("0 of 2 workers ran")), "{told:?}");
    let island = &new.islands[0];
    assert_eq!((island.work_unit.as_deref(), island.epoch), (Some("4f2a9c1b-0-2"), Some(2)));
    assert_eq!(new.restarts, Some(1));
}

#[test]
fn a_nan_ends_the_job_and_says_what_to_do() {
    let failed = json!({
        "phase": "Failed", "attempt": 1, "step": 7,
        "lastFailure": {"attempt": 1, "rank": 0, "exitCode": 65, "reason": "NonFinite", "message": "loss is NaN at step 7"},
    });
    let made = with_status(unit(&job(&resolved()), 1, None, 0), failed);
    let old = resolved();
    let (new, _) = look(&job(&old), Some(made), None);
    assert_eq!(new.phase, Some(TrainingJobPhase::Failed));
    let told = news::between(&old, &new).pop().unwrap();
    assert!(
        told.message.contains("loss is NaN at step 7") && told.message.contains("learningRate"),
        "{told:?}"
    );
    assert!(new.completion_time.is_some() && new.result.is_none());
}

#[test]
fn a_members_text_cannot_reach_a_terminal() {
    let evil =
        json!({"phase": "Running", "attempt": 1, "step": 999, "loss": "\u{1b}[2J", "tokensPerSecond": 1});
    let made = with_status(unit(&job(&resolved()), 1, None, 0), evil);
    let (new, _) = look(&job(&resolved()), Some(made), None);
    let progress = new.progress.unwrap();
    assert_eq!((progress.step, progress.loss), (Some(200), None));
}

#[test]
fn a_look_without_news_writes_nothing() {
    let running =
        json!({"phase": "Running", "attempt": 1, "step": 7, "loss": "5.5", "tokensPerSecond": 6100});
    let made = with_status(unit(&job(&resolved()), 1, None, 0), running);
    let (first, _) = look(&job(&resolved()), Some(made.clone()), None);
    let (second, _) = look(&job(&first), Some(made), None);
    assert_eq!(first, second);
}
