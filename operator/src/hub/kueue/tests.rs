use jiff::Timestamp;
use serde_json::Value;

use super::workload::{asks_the_same, is_of, name, render, status};
use super::*;
use crate::runtime::kueue::testing;

const UID: &str = "4f2a9c1b-0000-4000-8000-000000000000";

fn job(workers: Value) -> TrainingJob {
    serde_json::from_value(json!({
        "apiVersion": "muster.dev/v1alpha1", "kind": "TrainingJob",
        "metadata": {"name": "kjv-gpt", "namespace": "team-a", "uid": UID,
                     "labels": {"kueue.x-k8s.io/queue-name": "research"}},
        "spec": {
            "model": {"architecture": "gpt2", "layers": 4, "width": 256, "heads": 4, "context": 256, "vocabulary": 256},
            "data": {"dataset": "kjv"},
            "training": {"steps": 200, "batch": 8, "shards": 8},
            "workers": workers, "priority": 7,
        },
    }))
    .unwrap()
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_795_374_000 + second).unwrap()
}

/// The whole object, for a person to read and to see change.
#[test]
fn the_workload_of_a_job() {
    let workload = render(&job(json!({"count": 2, "max": 4})), UID, "research").unwrap();
    insta::assert_yaml_snapshot!("workload", workload);
    assert!(is_of(&workload, UID) && !is_of(&workload, "another"));
    assert_eq!(name(&job(json!({"count": 2})), UID), "trainingjob-kjv-gpt-4f2a9c1b");
}

#[test]
fn another_size_or_queue_is_another_question_and_another_priority_is_not() {
    let made = |workers, queue| render(&job(workers), UID, queue).unwrap();
    let first = made(json!({"count": 2}), "research");
    let mut urgent = job(json!({"count": 2}));
    urgent.spec.priority = 9;
    assert!(asks_the_same(&first, &render(&urgent, UID, "research").unwrap()));
    assert!(!asks_the_same(&first, &made(json!({"count": 3}), "research")));
    assert!(!asks_the_same(&first, &made(json!({"count": 2}), "other")));
}

/// Type, status, reason of what is written, and what becomes of the admission.
fn written(conditions: &[(&str, &str, &str)], admitted: bool, stage: Stage) -> Option<Vec<String>> {
    let mut workload = testing::workload(conditions);
    if admitted {
        workload.data["status"]["admission"] = json!({"clusterQueue": "shared"});
    }
    let change = status(&workload, stage, at(0))?;
    let all = change["conditions"].as_array().unwrap().iter();
    let mut said: Vec<String> =
        all.map(|c| format!("{}={}", c["type"].as_str().unwrap(), c["status"].as_str().unwrap())).collect();
    said.extend(change.get("admission").map(|admission| format!("admission={admission}")));
    Some(said)
}

#[test]
fn who_is_evicted_gives_its_place_back_once_nothing_runs() {
    let evicted =
        [("QuotaReserved", "True", ""), ("Admitted", "True", ""), ("Evicted", "True", "for another")];
    for stage in [Stage::Runs, Stage::Starts] {
        assert_eq!(written(&evicted, true, stage), None, "it still runs: {stage:?}");
    }
    let back = written(&evicted, true, Stage::Rests).unwrap();
    let want = ["Evicted=True", "QuotaReserved=False", "Admitted=False", "Requeued=False", "admission=null"];
    assert_eq!(back, want, "what Kueue said stays");
    let again =
        [("QuotaReserved", "False", ""), ("Admitted", "False", ""), ("Evicted", "True", "for another")];
    assert_eq!(written(&again, false, Stage::Rests), None, "once");
}

#[test]
fn what_kueue_hears_of_a_job() {
    let admitted = [("QuotaReserved", "True", ""), ("Admitted", "True", "")];
    let mut runs = written(&admitted, true, Stage::Runs).unwrap();
    assert_eq!(runs.pop().as_deref(), Some("PodsReady=True"));
    assert_eq!(written(&admitted, true, Stage::Starts), None);
    let ready = [admitted[0], admitted[1], ("PodsReady", "True", "")];
    assert!(written(&ready, true, Stage::Starts).unwrap().contains(&"PodsReady=False".to_owned()));
    for well in [true, false] {
        assert!(written(&ready, true, Stage::Over { well }).unwrap().contains(&"Finished=True".to_owned()));
    }
    assert_eq!(written(&[("Finished", "True", "")], true, Stage::Over { well: true }), None);
}

#[test]
fn a_job_waits_for_what_kueue_says() {
    let said = |conditions: &[(&str, &str, &str)]| waits(Some(&testing::workload(conditions)), "research");
    let queue = "waits in Kueue's LocalQueue research";
    assert_eq!(waits(None, "research").as_deref(), Some(queue));
    assert_eq!(said(&[]).as_deref(), Some(queue));
    let short = [("QuotaReserved", "False", "\u{1b}[31mno quota for cpu")];
    assert_eq!(said(&short).as_deref(), Some(format!("{queue}: [31mno quota for cpu").as_str()));
    let admitted = ("Admitted", "True", "");
    assert_eq!(said(&[admitted]), None);
    let evicted = [admitted, ("Evicted", "True", "for another")];
    assert_eq!(said(&evicted).as_deref(), Some(format!("{queue}: for another").as_str()));
    let mut leaves = testing::workload(&[admitted]);
    leaves.metadata.deletion_timestamp = Some(apply::time(at(0)));
    assert!(waits(Some(&leaves), "research").is_some());
}
