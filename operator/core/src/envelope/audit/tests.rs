use serde_json::{Value, json};

use super::super::tests::{altered, key, payload, trusted};
use super::super::{CheckpointRef, Policy, Refusal, open, seal};
use super::*;

/// Interval 2 of the sample job, steps 41..=60.
fn audit() -> Payload {
    let assignment = Digest::of(b"assignment");
    Payload {
        kind: Kind::Audit,
        name: "4f2a9c1b-a1234-3".to_owned(),
        provider: "west".to_owned(),
        epoch: 3,
        workers: 1,
        start: Some(CheckpointRef { step: 40, manifest: Digest::of(b"manifest") }),
        start_record: Digest::of(b"commit of interval 1"),
        grant: assignment,
        max_restarts: 0,
        audit: Some(Audit { assignment, epoch: 1, interval: 2, last_step: 60 }),
        ..payload()
    }
}

#[test]
fn an_audit_names_its_interval_and_no_other_unit_does() {
    let sealed = seal(&audit(), &key(1)).unwrap();
    assert_eq!(open(&sealed, &trusted()).unwrap(), audit());
    let json: Value = serde_json::to_value(audit()).unwrap();
    let keys: Vec<_> = json["audit"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(
        (json["kind"].as_str(), keys.join(" ")),
        (Some("Audit"), "assignment epoch interval lastStep".to_owned())
    );
    assert!(
        serde_json::to_value(payload()).unwrap().get("audit").is_none(),
        "an envelope of old is what it was"
    );
    assert_eq!((audit().last_step(), payload().last_step()), (60, 200));
    assert!(audit().is_audit() && !payload().is_audit());
}

#[test]
fn the_first_interval_starts_at_genesis_and_the_last_may_be_short() {
    let assignment = Digest::of(b"assignment");
    let first = Audit { assignment, epoch: 1, interval: 0, last_step: 20 };
    assert!(seal(&Payload { start: None, audit: Some(first), ..audit() }, &key(1)).is_ok());
    let start = Some(CheckpointRef { step: 200, manifest: Digest::of(b"manifest") });
    let last = Audit { assignment, epoch: 1, interval: 10, last_step: 207 };
    assert!(seal(&Payload { steps: 207, start, audit: Some(last), ..audit() }, &key(1)).is_ok());
}

/// Signed, and still nothing that an agent could do.
#[test]
fn fields_that_do_not_fit_are_refused() {
    let other = Digest::of(b"other").to_string();
    let manifest = Digest::of(b"manifest");
    let cases = [
        ("kind", json!("Train"), "audit"),
        ("audit", Value::Null, "payload"),
        ("audit", json!({}), "missing field"),
        ("audit.assignment", json!(other), "grant"),
        ("audit.commit", json!(other), "unknown field `commit`"),
        ("audit.stateRoot", json!(other), "unknown field `stateRoot`"),
        ("audit.epoch", json!(0), "audit.epoch"),
        ("audit.epoch", json!(1_i64 << 31), "audit.epoch"),
        ("audit.interval", json!(-1), "audit.interval"),
        ("audit.interval", json!(10), "audit.interval"),
        ("audit.interval", json!((1_i64 << 53) - 1), "audit.interval"),
        ("audit.interval", json!(3), "audit.lastStep"),
        ("audit.lastStep", json!(80), "audit.lastStep"),
        ("audit.lastStep", json!(41), "audit.lastStep"),
        ("grant", json!(other), "grant"),
        ("start", Value::Null, "start.step"),
        ("start", json!({"step": 60, "manifest": manifest}), "start.step"),
        ("start", json!({"step": 20, "manifest": manifest}), "start.step"),
        ("continues", json!("4f2a9c1b-a1234-2"), "continues"),
        ("name", json!("4f2a9c1b-0-3"), "name"),
        ("name", json!("4f2a9c1b-a1234-1"), "name"),
        ("name", json!("4f2a9c1b-a01234-3"), "name"),
        ("name", json!("4f2a9c1b-a-3"), "name"),
        ("name", json!("5f2a9c1b-a1234-3"), "name"),
        ("epoch", json!(1), "name"),
    ];
    for (field, value, want) in cases {
        let refusal = open(&altered(&audit(), field, value.clone()), &trusted()).unwrap_err();
        assert!(matches!(refusal, Refusal::BadPayload(_)), "{field} {value}: {refusal}");
        assert!(refusal.to_string().contains(want), "{field} {value}: {refusal}");
    }
    let absent = Payload { audit: None, ..audit() };
    assert!(seal(&absent, &key(1)).unwrap_err().to_string().contains("audit"));
}

#[test]
fn a_provider_may_replay_nothing() {
    let images = [audit().image];
    let willing = Policy {
        log: "hub.example/log",
        images: &images,
        tenants: None,
        audits: true,
        arithmetic: &["f32-chain"],
        device_class: "cpu",
        workers: 2,
        min_epoch: 1,
        incarnation: 1,
        now: "2026-11-23T19:00:00Z".parse().unwrap(),
    };
    assert_eq!(audit().check_policy(&willing), Ok(()));
    let unwilling = Policy { audits: false, ..willing };
    assert_eq!(audit().check_policy(&unwilling).unwrap_err().reason(), "AuditsNotOffered");
    assert_eq!(payload().check_policy(&unwilling), Ok(()), "who replays nothing may train");
}
