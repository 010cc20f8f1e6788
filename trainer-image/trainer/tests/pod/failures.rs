//! A job that ends in a step that is not finite: the log hears of it, once and with the records of its interval, whatever comes
//! between.

use std::fs;
use std::thread;
use std::time::Duration;

use muster_proof::records::{Failure, Payload as _, failed_root};
use muster_proof::steps::Records;
use muster_trainer::failed::{FAILED_FILE, Failed};
use muster_trainer::records;

use crate::common::{self, Ended, Job, run_one};
use crate::site::Site;

/// The first step of an absurd learning rate is fine, the next ones are not.
fn job() -> Job {
    let mut training = common::training();
    training.optimizer.learning_rate = "1000".into();
    training.optimizer.clip_norm = "0".into();
    (training.steps, training.schedule.warmup_steps) = (60, 0);
    Job::with(&common::model(), &training)
}

/// What the job comes to without pods.
fn alone(site: &Site) -> (Ended, Failed) {
    let out = site.job.out("alone");
    let interval = site.relay.state().interval_steps.to_string();
    let ended = run_one(&site.job, &out, &["--interval-steps", &interval]);
    (ended, Failed::read(&out.join(FAILED_FILE)).unwrap())
}

/// That the relay has this failure, durable, after all commits before it.
fn assert_told(site: &Site, want: &Failed) {
    let state = site.relay.state();
    assert_eq!(state.refused, [""; 0]);
    assert!(state.ended && state.commits.iter().all(|commit| commit.durable));
    let (_, notice) = state.failure.as_ref().unwrap();
    let said = Failure::from_payload(notice.failure.unverified_payload()).unwrap();
    assert_eq!(said.failed_step.get(), want.step());
    assert_eq!(said.state_root, failed_root(&want.before(), said.failed_step));
    assert_eq!(notice.records, want.records().as_slice());
    let last = state.commits.last().map(|commit| (commit.id, commit.notice.step));
    assert_eq!(said.first_step.get(), last.map_or(0, |(_, step)| step) + 1);
    if let Some((id, _)) = last {
        assert_eq!(said.previous, id);
    }
    let announced = state.announced.iter().filter(|(step, _)| *step == want.step());
    let mut ids: Vec<_> = announced.map(|(_, id)| *id).collect();
    ids.dedup();
    assert_eq!(ids.len(), 1, "one interval, one record");
}

#[test]
fn the_log_has_it_before_the_pod_ends() {
    let site = Site::of(job(), 1);
    let ended = site.pod(0).end();
    ended.assert(65, &["is not finite"]);
    let (alone, failed) = alone(&site);
    assert_eq!(alone.code, Some(65));
    assert_told(&site, &failed);
    // A state that was saved alone has the root that this names.
    let (step, out) = (failed.step() - 1, site.job.out("before"));
    if step > 0 {
        let last = step.to_string();
        let before = run_one(&site.job, &out, &["--from-step", "0", "--last-step", &last]);
        assert_eq!(before.root(), failed.before(), "by the code of a checkpoint");
        let done =
            Records::new(1, records::read(&records::path(&out, step), step).unwrap().as_slice().to_vec());
        let done = done.unwrap();
        assert!(done.as_slice().ends_with(failed.records().as_slice()));
    }
    let work = site.job.dir.path().join("pod-0/work/handover");
    let left = fs::read_dir(work).unwrap().map(|entry| entry.unwrap().file_name());
    let left: Vec<_> = left.filter(|name| name.to_string_lossy().ends_with(".json")).collect();
    assert_eq!(left, [""; 0], "its records are secret");
}

/// The first step of an interval: there is no record, and the state before is the one that was committed.
#[test]
fn an_interval_may_end_before_it_begins() {
    let site = Site::of(job(), 1);
    site.relay.state().interval_steps = 1;
    site.pod(0).end().assert(65, &["is not finite"]);
    let (_, failed) = alone(&site);
    assert!(failed.step() > 1 && failed.records().as_slice().is_empty());
    assert_told(&site, &failed);
    let state = site.relay.state();
    assert_eq!(state.commits.last().map(|last| last.notice.state_root), Some(failed.before()));
}

/// The sidecar dies at any moment, the hub is away, and terms change: it is one record all the same.
#[test]
fn nothing_loses_or_doubles_it() {
    let site = Site::of(job(), 1);
    {
        let mut state = site.relay.state();
        (state.no_hub, state.busy) = (true, 2);
    }
    let mut pod = site.pod_without_sidecar(0);
    thread::sleep(Duration::from_millis(500));
    for _ in 0..2 {
        pod.start_sidecar();
        site.relay.wait("the failure", |state| state.failure.is_some());
        pod.kill_sidecar();
    }
    site.relay.state().restore();
    site.relay.state().announced.clear();
    pod.start_sidecar();
    site.relay.wait("the failure, signed anew", |state| state.failure.is_some());
    assert!(pod.child.try_wait().unwrap().is_none(), "not durable, not over");
    site.relay.state().no_hub = false;
    pod.end().assert(65, &["is not finite"]);
    assert_told(&site, &alone(&site).1);
}

/// What the trainer's container writes is foreign.
#[test]
fn a_failure_that_is_none_ends_the_pod_otherwise() {
    for (what, from, to) in [
        ("not a failed step", "\"before\"", "\"after\""),
        ("is of step", "\"step\":", "\"step\":1"),
        ("records", "\"records\":[", "\"records\":[{},"),
    ] {
        let site = Site::of(job(), 1);
        let mut pod = site.pod_without_sidecar(0);
        let (_, failed) = alone(&site);
        let path = pod.work().failed(1, failed.step());
        let end = std::time::Instant::now() + Duration::from_secs(20);
        while !path.is_file() {
            assert!(std::time::Instant::now() < end, "{}", pod.read("stderr"));
            thread::sleep(Duration::from_millis(5));
        }
        let text = fs::read_to_string(&path).unwrap().replacen(from, to, 1);
        fs::write(&path, text).unwrap();
        pod.start_sidecar();
        let ended = pod.end();
        assert_eq!(ended.code, Some(67), "{what}: {ended:?}");
        assert!(site.relay.state().failure.is_none());
    }
}
