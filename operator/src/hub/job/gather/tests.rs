//! Which checkpoint a job goes on from, and what a revoked provider's unit is worth.
use muster_proof::Digest;
use muster_trainer::checkpoint::{FILES, FileEntry, Manifest};
use serde_json::{Value, json};

use super::unit::tenure;
use super::*;
use crate::hub::provider::scheduling;
use muster_core::lifecycle::Tenure;

const JOB: &str = "4f2a9c1b-0000-4000-8000-000000000000";

/// As the gateway's commit leaves it in the store.
async fn commit(store: &Store, step: u64, named: u64, training: &[u8]) -> Vec<Digest> {
    let mut files = Vec::new();
    for path in FILES {
        let bytes = format!("{path} after {step}").into_bytes();
        let size = bytes.len() as u64;
        files.push(FileEntry { path: path.into(), size, sha256: store.put_bytes(bytes).await.unwrap() });
    }
    let digests = files.iter().map(|file| file.sha256).collect();
    let manifest =
        Manifest::new(step, Digest::of(training), Digest::of(b"state"), [1.0, 1.0], files).unwrap();
    let digest = store.put_bytes(manifest.to_bytes().unwrap()).await.unwrap();
    store.record_checkpoint(JOB, named, &digest).await.unwrap();
    digests
}

async fn newest(store: &Store, known: u64) -> Option<i64> {
    let training = Digest::of(b"job").to_string();
    newer_checkpoint(store, JOB, Some(&training), known, None).await.unwrap().map(|found| found.step)
}

#[tokio::test]
async fn the_newest_recorded_checkpoint_counts_though_no_unit_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).await.unwrap();
    assert_eq!(newest(&store, 0).await, None);
    commit(&store, 20, 20, b"job").await;
    commit(&store, 40, 40, b"job").await;
    assert_eq!(newest(&store, 0).await, Some(40), "its member vanished after the commit");
    assert_eq!(newest(&store, 40).await, None, "the status has it already");
}

#[tokio::test]
async fn what_is_not_whole_or_of_another_job_is_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).await.unwrap();
    commit(&store, 20, 20, b"job").await;
    let lost = commit(&store, 40, 40, b"job").await;
    commit(&store, 60, 60, b"another job").await;
    commit(&store, 80, 100, b"job").await;
    assert_eq!(newest(&store, 0).await, Some(40));
    let hex = lost[1].to_hex();
    std::fs::remove_file(dir.path().join("blobs/sha256").join(&hex[..2]).join(&hex)).unwrap();
    assert_eq!(newest(&store, 0).await, Some(20));
    assert_eq!(newest(&store, 20).await, None);
}

fn unit(metadata: &Value, status: &Value) -> WorkUnit {
    let mut object = json!({
        "apiVersion": "muster.dev/v1alpha1", "kind": "WorkUnit",
        "metadata": {"name": "4f2a9c1b-0-1", "namespace": "muster-p-east"},
        "spec": {"kind": "Train", "jobUID": JOB, "island": 0, "epoch": 1, "workers": 2, "desired": "Run",
                 "envelope": {"payloadType": "t", "payload": "e30=", "signatures": []}},
        "status": status,
    });
    object["metadata"].as_object_mut().unwrap().extend(metadata.as_object().unwrap().clone());
    serde_json::from_value(object).unwrap()
}

#[test]
fn a_units_word_is_asked_about_and_not_believed() {
    let says = |step: i64| {
        let digest = Digest::of(b"m").to_string();
        unit(&json!({}), &json!({"checkpoint": {"step": step, "manifest": digest, "stateRoot": digest}}))
    };
    let known: JobCheckpoint = serde_json::from_value(json!({
        "step": 40, "stateRoot": Digest::of(b"s").to_string(), "manifest": Digest::of(b"m").to_string(),
    }))
    .unwrap();
    assert!(names_newer(&says(60), Some(&known)) && names_newer(&says(20), None));
    assert!(!names_newer(&says(40), Some(&known)));
    assert!(!names_newer(&unit(&json!({}), &json!({})), None));
}

#[test]
fn revoked_weighs_more_than_deleted_or_drained() {
    let provider = |scheduling: &str, deleted: Option<&str>| -> ComputeProvider {
        serde_json::from_value(json!({
            "apiVersion": "muster.dev/v1alpha1", "kind": "ComputeProvider",
            "metadata": {"name": "east", "deletionTimestamp": deleted},
            "spec": {"owner": "acme", "scheduling": scheduling},
        }))
        .unwrap()
    };
    let now = "2026-11-22T19:00:00Z";
    let (plain, deleted) =
        (unit(&json!({}), &json!({})), unit(&json!({"deletionTimestamp": now}), &json!({})));
    for (unit, provider, expected) in [
        (&plain, provider("Enabled", None), Tenure::Keeps),
        (&plain, provider("Cordoned", None), Tenure::Keeps),
        (&plain, provider("Drained", None), Tenure::Leaves),
        (&plain, provider("Enabled", Some(now)), Tenure::Leaves),
        (&plain, provider("Revoked", Some(now)), Tenure::Revoked),
        (&deleted, provider("Enabled", None), Tenure::Ends),
        (&deleted, provider("Revoked", None), Tenure::Revoked),
    ] {
        let now = Timestamp::UNIX_EPOCH;
        assert_eq!(
            tenure(unit, Some(scheduling(&provider, now))),
            expected,
            "{:?}",
            provider.spec.scheduling
        );
    }
}
