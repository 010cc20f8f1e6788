use serde_json::{Value, json};

use super::*;

pub(super) fn key(byte: u8) -> SigningKey {
    SigningKey::generate([byte; 32]).unwrap()
}

pub(super) fn trusted() -> Vec<PublicKey> {
    vec![key(1).public().clone()]
}

fn image() -> String {
    format!("registry.example/muster-trainer@{}", Digest::of(b"image"))
}

pub(crate) fn payload() -> Payload {
    Payload {
        format: FORMAT.to_owned(),
        kind: Kind::Train,
        name: "4f2a9c1b-0-1".to_owned(),
        provider: "east".to_owned(),
        job_uid: "4f2a9c1b-0000-4000-8000-000000000000".to_owned(),
        job: Digest::of(b"job"),
        log: "hub.example/log".to_owned(),
        grant: Digest::of(b"grant"),
        start_record: Digest::of(b"job record"),
        tenant: tenant("team-a"),
        island: 0,
        epoch: 1,
        workers: 2,
        device_class: "cpu".to_owned(),
        resources: Resources { cpu: "600m".to_owned(), memory: "1Gi".to_owned() },
        image: image(),
        spec: Digest::of(b"spec"),
        training_digest: Digest::of(b"training"),
        dataset: Digest::of(b"dataset"),
        arithmetic: "f32-chain".to_owned(),
        steps: 200,
        interval_steps: 20,
        keep_last: 3,
        start: None,
        max_restarts: 20,
        schedule_timeout_seconds: 600,
        disconnect_grace_seconds: 900,
        incarnation: 1,
        not_after: "2026-11-23T19:00:00Z".parse().unwrap(),
        continues: None,
        recompute: None,
        optimizer_state: None,
        audit: None,
    }
}

#[test]
fn what_is_continued_is_named_or_left_out() {
    let without = seal(&payload(), &key(1)).unwrap();
    assert!(!String::from_utf8(without.to_json().unwrap()).unwrap().contains("continues"));
    assert_eq!(open(&without, &trusted()).unwrap().continues, None);
    let named = Payload { continues: Some("4f2a9c1b-0-7".to_owned()), ..payload() };
    assert_eq!(open(&seal(&named, &key(1)).unwrap(), &trusted()).unwrap(), named);
    for bad in
        [Value::Null, json!(""), json!("4f2a9c1b-0-1"), json!("A/../b"), json!("x".repeat(41)), json!(7)]
    {
        let refused = open(&signed_with("continues", bad.clone()), &trusted()).unwrap_err();
        assert!(matches!(refused, Refusal::BadPayload(_)), "{bad}: {refused}");
    }
}

/// The payload as JSON with one member changed, signed as it stands.
fn signed_with(field: &str, value: Value) -> Envelope {
    altered(&payload(), field, value)
}

pub(super) fn altered(payload: &Payload, field: &str, value: Value) -> Envelope {
    let mut json = serde_json::to_value(payload).unwrap();
    let (object, field) = match field.split_once('.') {
        Some((outer, inner)) => (&mut json[outer], inner),
        None => (&mut json, field),
    };
    object.as_object_mut().unwrap().insert(field.to_owned(), value);
    Envelope::sign_json(PAYLOAD_TYPE, &json, &key(1)).unwrap()
}

fn mirror(payload: &Payload) -> Mirror<'_> {
    Mirror {
        name: &payload.name,
        provider: &payload.provider,
        kind: "Train",
        job_uid: &payload.job_uid,
        island: payload.island,
        epoch: payload.epoch,
        workers: payload.workers,
    }
}

#[test]
fn what_is_sealed_opens_and_has_the_specified_form() {
    let mut with_start = payload();
    with_start.start = Some(CheckpointRef { step: 40, manifest: Digest::of(b"manifest") });
    for payload in [payload(), with_start] {
        let envelope = seal(&payload, &key(1)).unwrap();
        assert_eq!(open(&envelope, &trusted()).unwrap(), payload);
    }
    let json: Value = serde_json::to_value(payload()).unwrap();
    let want = "arithmetic dataset deviceClass disconnectGraceSeconds epoch format grant image incarnation intervalSteps \
                island job jobUID keepLast kind log maxRestarts name notAfter provider resources scheduleTimeoutSeconds \
                spec start startRecord steps tenant trainingDigest workers";
    let keys: Vec<_> = json.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys.join(" "), want);
    assert_eq!(json["notAfter"], "2026-11-23T19:00:00Z");
}

/// The hub computes notAfter from its clock, which has nanoseconds.
#[test]
fn fractions_of_a_second_are_dropped_by_sealing() {
    let mut precise = payload();
    precise.not_after = "2026-11-23T19:00:00.123456789Z".parse().unwrap();
    let opened = open(&seal(&precise, &key(1)).unwrap(), &trusted()).unwrap();
    assert_eq!(opened.not_after, payload().not_after);
}

#[test]
fn unsigned_bytes_are_refused() {
    let good = seal(&payload(), &key(1)).unwrap();
    let other_key = seal(&payload(), &key(2)).unwrap();
    let other_type = Envelope::sign("application/json", good.unverified_payload(), &key(1)).unwrap();
    let mut forged = serde_json::to_value(&good).unwrap();
    let mut changed = payload();
    changed.workers = 3;
    forged["payload"] = serde_json::to_value(seal(&changed, &key(2)).unwrap()).unwrap()["payload"].clone();
    let forged: Envelope = serde_json::from_value(forged).unwrap();
    for bad in [other_key, other_type, forged] {
        let refusal = open(&bad, &trusted()).unwrap_err();
        assert_eq!(refusal.reason(), "BadSignature", "{refusal}");
    }
    assert_eq!(open(&good, &[]).unwrap_err().reason(), "BadSignature");
    // The hub's own signature beside another one: what the other one promised is not known, so it is not taken.
    let mut two = serde_json::to_value(&good).unwrap();
    let stranger = serde_json::to_value(seal(&payload(), &key(2)).unwrap()).unwrap()["signatures"][0].clone();
    two["signatures"].as_array_mut().unwrap().push(stranger);
    let two: Envelope = serde_json::from_value(two).unwrap();
    assert!(open(&two, &trusted()).unwrap_err().to_string().contains("2 signatures"));
}

/// A signed payload is still checked: the hub may be of another release, or hostile.
#[test]
fn signed_nonsense_is_refused() {
    let long = "x".repeat(64);
    let cases = [
        ("format", json!("muster.workunit/2"), "format"),
        ("command", json!(["sh"]), "unknown field `command`"),
        ("volumes", json!([{"hostPath": {"path": "/"}}]), "unknown field `volumes`"),
        ("privileged", json!(true), "unknown field `privileged`"),
        ("serviceAccountName", json!("muster-agent"), "unknown field `serviceAccountName`"),
        ("env", json!([]), "unknown field `env`"),
        ("kind", json!("Mine"), "unknown variant `Mine`"),
        ("name", json!("Big"), "name"),
        ("name", json!("a".repeat(41)), "name"),
        ("name", json!("a".repeat(300)), "name"),
        ("name", json!("../../etc"), "name"),
        ("name", json!("a=b,c"), "name"),
        ("name", json!("\u{435}\u{430}st-0-1"), "name"),
        ("provider", json!("../east"), "provider"),
        ("jobUID", json!(long), "jobUID"),
        ("job", json!("4f2a9c1b"), "not a digest"),
        ("grant", json!(null), "payload"),
        ("startRecord", json!(Digest::of(b"").to_hex()), "not a digest"),
        ("log", json!(""), "log"),
        ("log", json!("hub example"), "log"),
        ("log", json!("hub+example"), "log"),
        ("log", json!("hub.example/\u{e9}"), "log"),
        ("log", json!("h".repeat(256)), "log"),
        ("deviceClass", json!(""), "deviceClass"),
        ("image", json!("muster-trainer:latest"), "image"),
        ("image", json!(format!("a b@{}", Digest::of(b""))), "image"),
        ("resources.cpu", json!("0"), "resources.cpu"),
        ("resources.cpu", json!("-1"), "resources.cpu"),
        ("resources.cpu", json!("999999999999999"), "resources.cpu"),
        ("resources.cpu", json!("1e3"), "resources.cpu"),
        ("resources.cpu", json!("1\"}, \"privileged\": \"true"), "resources.cpu"),
        ("resources.memory", json!("1Zi"), "resources.memory"),
        ("resources.memory", json!("999999999999999Ti"), "resources.memory"),
        ("resources.memory", json!("-1Gi"), "resources.memory"),
        ("resources.gpu", json!("1"), "unknown field `gpu`"),
        ("island", json!(-1), "island"),
        ("epoch", json!(0), "epoch"),
        ("workers", json!(0), "workers"),
        ("workers", json!(257), "workers"),
        ("steps", json!(0), "steps"),
        ("intervalSteps", json!(201), "intervalSteps"),
        ("keepLast", json!(0), "keepLast"),
        ("maxRestarts", json!(-1), "maxRestarts"),
        ("scheduleTimeoutSeconds", json!(0), "scheduleTimeoutSeconds"),
        ("disconnectGraceSeconds", json!(-1), "disconnectGraceSeconds"),
        ("start", json!({"step": 0, "manifest": Digest::of(b"")}), "start.step"),
        ("start", json!({"step": 201, "manifest": Digest::of(b"")}), "start.step"),
        ("start", json!({"step": 1, "manifest": "sha256:00"}), "not a digest"),
        ("spec", json!("SHA256:00"), "not a digest"),
        ("notAfter", json!("2026-11-23T20:00:00+01:00"), "notAfter"),
        ("notAfter", json!("tomorrow"), "notAfter"),
    ];
    for (field, value, want) in cases {
        let refusal = open(&signed_with(field, value), &trusted()).unwrap_err();
        assert_eq!(refusal.reason(), "BadPayload", "{field}");
        assert!(refusal.to_string().contains(want), "{field}: {refusal}");
    }
}

#[test]
fn every_field_is_required() {
    let json = serde_json::to_value(payload()).unwrap();
    for field in json.as_object().unwrap().keys() {
        let mut less = json.clone();
        less.as_object_mut().unwrap().remove(field);
        let envelope = Envelope::sign_json(PAYLOAD_TYPE, &less, &key(1)).unwrap();
        // An absent `start` would otherwise silently read as genesis.
        assert_eq!(
            open(&envelope, &trusted()).map(|p| p.start).unwrap_err().reason(),
            "BadPayload",
            "{field}"
        );
    }
}

#[test]
fn other_spellings_and_sizes_of_the_payload_are_refused() {
    let bytes = jcs::serialize(&payload()).unwrap();
    let spaced = [b" ", &bytes[..]].concat();
    let long = [&bytes[..], &b" ".repeat(MAX_PAYLOAD_BYTES)].concat();
    let text = String::from_utf8(bytes.clone()).unwrap();
    let twice = text.replacen("{", r#"{"arithmetic":"f32-chain","#, 1).into_bytes();
    let marked = [b"\xef\xbb\xbf", &bytes[..]].concat();
    let latin = [&bytes[..bytes.len() - 1], b"\xff}"].concat();
    let deep = [b"[".repeat(3000), b"]".repeat(3000)].concat();
    for (bad, want) in [
        (spaced, "canonical"),
        (long, "bytes"),
        (twice, "payload"),
        (marked, "payload"),
        (latin, "payload"),
        (deep, "payload"),
        (Vec::new(), "payload"),
    ] {
        let refusal = open(&Envelope::sign(PAYLOAD_TYPE, &bad, &key(1)).unwrap(), &trusted()).unwrap_err();
        assert_eq!(refusal.reason(), "BadPayload");
        assert!(refusal.to_string().contains(want), "{refusal}");
    }
}

#[test]
fn the_hub_seals_nothing_that_would_be_refused() {
    let mut bad = payload();
    bad.workers = 0;
    assert!(matches!(seal(&bad, &key(1)), Err(SealError::Bounds(_))));
}

#[test]
fn a_mirror_that_differs_is_refused_by_field() {
    let payload = payload();
    assert_eq!(payload.check_mirror(&mirror(&payload)), Ok(()));
    let good = mirror(&payload);
    let cases = [
        ("metadata.name", Mirror { name: "4f2a9c1b-0-2", ..good }),
        ("metadata.namespace", Mirror { provider: "west", ..good }),
        ("spec.kind", Mirror { kind: "Audit", ..good }),
        ("spec.jobUID", Mirror { job_uid: "5f2a9c1b", ..good }),
        ("spec.island", Mirror { island: 1, ..good }),
        ("spec.epoch", Mirror { epoch: 2, ..good }),
        ("spec.workers", Mirror { workers: 1, ..good }),
    ];
    for (field, mirror) in cases {
        let refusal = payload.check_mirror(&mirror).unwrap_err();
        assert_eq!(refusal.reason(), "MirrorMismatch");
        assert!(refusal.to_string().starts_with(field), "{refusal}");
    }
}

#[test]
fn policy_refuses_by_reason() {
    let images = [image()];
    let good = Policy {
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
    let payload = payload();
    assert_eq!(payload.check_policy(&good), Ok(()));
    let (ours, others) = ([tenant("team-b"), tenant("team-a")].into(), [tenant("team-b")].into());
    assert_eq!(payload.check_policy(&Policy { tenants: Some(&ours), ..good.clone() }), Ok(()));
    let late = "2026-11-23T19:00:01Z".parse().unwrap();
    let cases = [
        ("OldEpoch", "epoch 2", Policy { min_epoch: 2, ..good.clone() }),
        ("OldEpoch", "incarnation 1", Policy { incarnation: 2, ..good.clone() }),
        (
            "OtherLog",
            "joined a hub with the log \"other.example/log\"",
            Policy { log: "other.example/log", ..good.clone() },
        ),
        ("ImageNotAllowed", "--allow-image", Policy { images: &[], ..good.clone() }),
        ("TenantNotAllowed", "tenants", Policy { tenants: Some(&others), ..good.clone() }),
        ("ArithmeticUnsupported", "f32-chain", Policy { arithmetic: &["i16-exact"], ..good.clone() }),
        ("OverQuota", "device class", Policy { device_class: "nvidia-h100-80gb", ..good.clone() }),
        ("OverQuota", "2 workers, 1 are offered", Policy { workers: 1, ..good.clone() }),
        ("Expired", "2026-11-23T19:00:00Z", Policy { now: late, ..good }),
    ];
    for (reason, text, policy) in cases {
        let refusal = payload.check_policy(&policy).unwrap_err();
        assert_eq!(refusal.reason(), reason);
        assert!(refusal.to_string().contains(text), "{refusal}");
    }
}
