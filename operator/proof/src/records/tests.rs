use std::path::PathBuf;

use serde_json::{Value, json};

use super::samples::{digest, job, key, sample_payloads};
use super::*;

fn data() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata/records")
}

fn type_of(kind: &str) -> String {
    format!("application/vnd.muster.{kind}.v1+json")
}

fn parse(kind: &str, payload: &[u8]) -> Result<Record, Error> {
    Record::parse(&Envelope::sign(&type_of(kind), payload, &key(1)).unwrap())
}

/// The payloads are the vectors' bytes, and their record ids those that another implementation computed (see the page).
#[test]
fn vectors() {
    let mut samples = sample_payloads();
    samples.push((
        "hubkeys",
        hub_keys::sign(1, &[key(1).public()], &key(1)).unwrap().unverified_payload().to_vec(),
    ));
    let bless = std::env::var_os("MUSTER_BLESS").is_some();
    let mut ids = String::new();
    for (kind, payload) in &samples {
        let path = data().join(format!("{kind}.json"));
        if bless {
            std::fs::write(&path, payload).unwrap();
        }
        let want = std::fs::read(&path).unwrap();
        assert_eq!(String::from_utf8_lossy(payload), String::from_utf8_lossy(&want), "{kind}");
        let record = parse(kind, &want).unwrap();
        assert_eq!(record.kind(), *kind);
        ids += &format!("{} {kind}\n", dsse::record_id(&type_of(kind), &want).to_hex());
    }
    if bless {
        std::fs::write(data().join("ids.txt"), &ids).unwrap();
    }
    assert_eq!(ids, std::fs::read_to_string(data().join("ids.txt")).unwrap());
    assert_eq!(samples.len(), 18, "a new kind needs a vector");
}

#[test]
fn every_field_is_needed_and_no_other_is_taken() {
    for (kind, payload) in sample_payloads() {
        let whole: Value = serde_json::from_slice(&payload).unwrap();
        let refused = |value: &Value| parse(kind, &jcs::to_vec(value).unwrap()).unwrap_err();
        for field in whole.as_object().unwrap().keys() {
            let mut without = whole.clone();
            without.as_object_mut().unwrap().remove(field);
            let error = refused(&without).to_string();
            assert!(error.starts_with(kind) && error.contains(field.as_str()), "{kind} {field}: {error}");
        }
        let mut more = whole.clone();
        more["extra"] = json!(1);
        assert!(matches!(refused(&more), Error::Field { .. }), "{kind}");
        let mut other = whole.clone();
        other["format"] = json!(format!("muster.{kind}/2"));
        assert!(matches!(refused(&other), Error::Format { .. }), "{kind}");
        let loose = serde_json::to_vec_pretty(&whole).unwrap();
        assert!(matches!(parse(kind, &loose), Err(Error::Json { .. })), "{kind}");
        assert!(parse(kind, b"[]").is_err() && parse(kind, b"").is_err(), "{kind}");
    }
    assert!(matches!(parse("unheard-of", b"{}"), Err(Error::Kind(_))));
}

#[test]
fn payloads_of_any_kind_have_a_limit() {
    for (kind, _) in sample_payloads() {
        let max = if matches!(kind, "window-close" | "draw") { MAX_LIST_PAYLOAD } else { MAX_PAYLOAD };
        let refused = parse(kind, &vec![b' '; max + 1]);
        assert!(matches!(refused, Err(Error::TooLong { got, .. }) if got == max + 1), "{kind}");
        assert!(matches!(parse(kind, &vec![b' '; max]), Err(Error::Json { .. })), "{kind}");
    }
    assert!(matches!(parse("hubkeys", &vec![b' '; MAX_PAYLOAD + 1]), Err(Error::TooLong { .. })));
}

/// Every value that a field cannot have is refused by the name of the field.
#[test]
fn bad_values_are_refused_by_name() {
    let samples = sample_payloads();
    let whole = |kind: &str| -> Value {
        serde_json::from_slice(&samples.iter().find(|(k, _)| *k == kind).unwrap().1).unwrap()
    };
    let sorted = {
        let mut two = [digest("a"), digest("b")];
        two.sort_unstable();
        two
    };
    let cases: Vec<(&str, &str, Value)> = vec![
        ("job", "hub", json!("a b")),
        ("job", "hub", json!("a+b")),
        ("job", "hub", json!("")),
        ("job", "tenant", json!("team-a")),
        ("job", "jobUid", json!("UPPER")),
        ("job", "steps", json!(0)),
        ("job", "steps", json!(-1)),
        ("job", "steps", json!("200")),
        ("job", "steps", json!((1u64 << 40) + 1)),
        ("job", "intervalSteps", json!(201)),
        ("job", "intervalSteps", json!(0)),
        ("job", "islands", json!(257)),
        ("job", "images", json!([])),
        ("job", "images", json!([digest("a"), digest("a")])),
        ("job", "images", json!([sorted[1], sorted[0]])),
        ("job", "images[0]", json!(["sha256:00"])),
        ("job", "tier", json!("silver")),
        ("job", "deadlineSeconds", json!(0)),
        ("job", "priceMicroCredits", json!(-1)),
        ("job", "beacon.anchor", json!({"anchor": "x", "length": 1})),
        ("job", "beacon.length", json!({"anchor": digest("a"), "length": 0})),
        ("job", "beacon", json!({"anchor": digest("a")})),
        ("job", "beacon.seed", json!({"anchor": digest("a"), "length": 1, "seed": 1})),
        ("job", "visibility", json!("Secret")),
        ("provider-key", "provider", json!("a".repeat(41))),
        ("provider-key", "owner", json!("-a")),
        ("provider-key", "key", json!("AAAA")),
        ("provider-key", "witness", json!("east+00000000+BAAA")),
        ("grant", "epoch", json!(0)),
        ("grant", "kind", json!("Audit")),
        ("grant", "start.record", json!({"step": 0, "stateRoot": digest("a"), "record": null})),
        ("grant", "start", json!(null)),
        ("grant", "island", json!(256)),
        ("key-binding", "rank", json!(256)),
        ("key-binding", "attempt", json!(0)),
        ("commit", "firstStep", json!(0)),
        ("commit", "lastStep", json!(0)),
        ("failure", "failedStep", json!(0)),
        ("window-close", "last", json!(2)),
        ("window-close", "commits", json!([digest("a")])),
        (
            "window-close",
            "eligible",
            json!([{"owner": "b", "providers": ["c"]}, {"owner": "a", "providers": ["d"]}]),
        ),
        ("window-close", "eligible", json!([{"owner": "b", "providers": []}])),
        ("window-close", "eligible", json!([{"owner": "b", "providers": ["d", "c"]}])),
        ("window-close", "eligible[0].owner", json!([{"owner": "B", "providers": ["c"]}])),
        ("draw", "eligible", json!(null)),
        ("draw", "kind", json!("Window")),
        ("draw", "index", json!(1 << 24)),
        ("audit-assign", "place", json!(1)),
        ("audit-assign", "reason", json!("Dispute")),
        ("audit-seal", "seal", json!(null)),
        ("opening", "salt", json!("00")),
        ("audit-opening", "nonce", json!("AA".repeat(32))),
        ("verdict", "party", json!(null)),
        ("verdict", "evidence", json!(null)),
        ("verdict", "verdict", json!("Match")),
        ("verdict", "evidence.records", json!({"kind": "Replays", "records": [digest("a")]})),
        ("verdict", "evidence.records", json!({"kind": "Replays", "records": [sorted[1], sorted[0]]})),
        ("rollback", "toInterval", json!(null)),
        ("grant-end", "reason", json!("Bored")),
        ("job-end", "outcome", json!("Succeeded")),
    ];
    for (kind, path, value) in cases {
        let mut changed = whole(kind);
        let field = path.split(['.', '[']).next().unwrap();
        changed[field] = value.clone();
        let error = parse(kind, &jcs::to_vec(&changed).unwrap()).unwrap_err();
        let Error::Field { field: blamed, .. } = &error else { panic!("{kind} {path} {value}: {error}") };
        // A misfit of two fields blames one of them.
        let other = matches!(
            (kind, path, blamed.as_str()),
            ("window-close", "last", "commits")
                | ("draw", "kind", "eligible")
                | ("audit-assign", "reason", "place")
        ) || (kind == "verdict" && path == "verdict" && blamed == "party")
            || (kind == "job" && path == "steps" && blamed == "intervalSteps");
        assert!(blamed == path || other, "{kind} {path}: {error}");
    }
}

#[test]
fn what_a_reader_would_refuse_is_not_signed() {
    let mut bad = job();
    bad.images.clear();
    assert!(matches!(bad.sign(&key(1)), Err(Error::Field { field, .. }) if field == "images"));
    let good = job().sign(&key(1)).unwrap();
    assert_eq!(good.record_id(), job().record_id().unwrap());
    assert_eq!(Record::parse(&good).unwrap(), Record::Job(job()));
}

#[test]
fn a_jobs_intervals() {
    let mut job = job();
    assert_eq!(
        (job.intervals(), job.steps_of(0), job.steps_of(9), job.steps_of(10)),
        (10, Some((1, 20)), Some((181, 200)), None)
    );
    job.steps = fields::Step::new(205).unwrap();
    assert_eq!((job.intervals(), job.steps_of(10), job.steps_of(11)), (11, Some((201, 205)), None));
    assert_eq!(job.steps_of(u64::MAX), None);
}

/// Computed by hand: formats.md section 1.
#[test]
fn seals_are_as_specified() {
    let (salt, root) = (fields::Nonce::new([1; 32]), digest("root"));
    let job = JobId(digest("job"));
    let place =
        (fields::Island::new(2).unwrap(), fields::Epoch::new(3).unwrap(), fields::Interval::new(4).unwrap());
    let mut bytes = [&[2, 13][..], b"muster.seal/1"].concat();
    let mut part = |data: &[u8]| {
        bytes.extend((data.len() as u64).to_le_bytes());
        bytes.extend(data);
    };
    part(digest("job").as_bytes());
    part(&[2, 0, 0, 0, 0, 0, 0, 0]);
    part(&[3, 0, 0, 0, 0, 0, 0, 0]);
    part(&[4, 0, 0, 0, 0, 0, 0, 0]);
    part(root.as_bytes());
    part(&[1; 32]);
    assert_eq!(record_seal(job, place, &root, &salt), Digest::of(&bytes));
    let seals: std::collections::BTreeSet<_> = [
        audit_seal(&digest("1"), &digest("2"), &digest("3"), &digest("4"), &salt),
        audit_seal(&digest("1"), &digest("x"), &digest("3"), &digest("4"), &salt),
        audit_seal(&digest("1"), &digest("2"), &digest("4"), &digest("3"), &salt),
    ]
    .into();
    assert_eq!(seals.len(), 3);
}
