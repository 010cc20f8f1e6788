use std::collections::BTreeMap;

use futures::future::BoxFuture;
use muster_core::envelope::CheckpointRef;
use muster_proof::dsse::Envelope;
use muster_proof::key::SigningKey;
use muster_proof::records::fields::{Epoch, Interval, Island, JobId, Step};
use muster_proof::records::{AssignReason, Commit, Draw, DrawKind, Payload as _};
use muster_proof::tlog::tile::Resource;

use super::*;
use crate::agent::testing::audit;
use crate::wire::log::{LogEntry, Logged};

/// What a log has; nothing else is asked of it here.
#[derive(Default)]
struct Fake {
    entries: BTreeMap<Digest, Envelope>,
    down: bool,
}

fn away<T: Send + 'static>() -> BoxFuture<'static, Result<T, ClientError>> {
    Box::pin(async { Err(ClientError::Unreachable("taken down".to_owned())) })
}

impl LogClient for Fake {
    fn submit<'a>(&'a self, _: &'a Envelope) -> BoxFuture<'a, Result<Logged, ClientError>> {
        away()
    }

    fn checkpoint(&self) -> BoxFuture<'_, Result<Vec<u8>, ClientError>> {
        away()
    }

    fn cosigned(&self, _: usize) -> BoxFuture<'_, Result<Option<Vec<u8>>, ClientError>> {
        away()
    }

    fn cosign<'a>(&'a self, _: u64, _: &'a str) -> BoxFuture<'a, Result<(), ClientError>> {
        away()
    }

    fn tile<'a>(&'a self, _: &'a Resource) -> BoxFuture<'a, Result<Vec<u8>, ClientError>> {
        away()
    }

    fn entry<'a>(&'a self, record: &'a Digest) -> BoxFuture<'a, Result<Option<LogEntry>, ClientError>> {
        if self.down {
            return away();
        }
        let found = self.entries.get(record).cloned().map(|envelope| LogEntry { index: 7, envelope });
        Box::pin(async move { Ok(found) })
    }
}

fn key() -> SigningKey {
    SigningKey::generate([1; 32]).unwrap()
}

/// Draw, assignment and start of an audit, by the fields that are looked at.
#[derive(Clone)]
struct Said {
    job: Digest,
    auditor: &'static str,
    interval: u64,
    start: Commit,
}

fn said() -> Said {
    let start = audit().start.unwrap();
    Said {
        job: audit().job,
        auditor: "east",
        interval: 1,
        start: Commit {
            job: JobId(audit().job),
            island: Island::new(0).unwrap(),
            epoch: Epoch::new(1).unwrap(),
            interval: Interval::new(0).unwrap(),
            first_step: Step::new(1).unwrap(),
            last_step: Step::new(20).unwrap(),
            previous: Digest::of(b"job record"),
            state_root: Digest::of(b"state"),
            record_seal: Digest::of(b"seal"),
            manifest: start.manifest,
            ends: false,
        },
    }
}

/// The records, and the unit that names them.
fn logged(said: &Said) -> (Vec<Envelope>, Payload) {
    let draw = Draw {
        job: JobId(said.job),
        kind: DrawKind::First,
        subject: Digest::of(b"commit"),
        index: serde_json::from_value(0.into()).unwrap(),
        preimage: Digest::of(b"preimage"),
        eligible: Some(Vec::new()),
    };
    let draw = draw.sign(&key()).unwrap();
    let assign = AuditAssign {
        draw: draw.record_id(),
        interval: Interval::new(said.interval).unwrap(),
        auditor: said.auditor.parse().unwrap(),
        place: serde_json::from_value(0.into()).unwrap(),
        reason: AssignReason::First,
    };
    let (assign, start) = (assign.sign(&key()).unwrap(), said.start.sign(&key()).unwrap());
    let assignment = assign.record_id();
    let payload = Payload {
        grant: assignment,
        start_record: start.record_id(),
        audit: Some(Audit { assignment, ..audit().audit.unwrap() }),
        ..audit()
    };
    (vec![draw, assign, start], payload)
}

/// The unit of a good audit, and the records that it stands on.
pub(crate) fn good() -> (Vec<Envelope>, Payload) {
    logged(&said())
}

async fn judge(entries: Vec<Envelope>, payload: &Payload) -> Result<(), String> {
    let entries = entries.into_iter().map(|entry| (entry.record_id(), entry)).collect();
    let log = Fake { entries, down: false };
    check(&log, payload, "east").await.unwrap().map_err(|refusal| {
        assert_eq!(refusal.reason(), "NotAssigned");
        refusal.to_string()
    })
}

#[tokio::test]
async fn an_audit_is_what_the_log_says() {
    let (entries, payload) = good();
    assert_eq!(judge(entries.clone(), &payload).await, Ok(()));
    assert!(check(&Fake { down: true, ..Fake::default() }, &payload, "east").await.is_err());
    assert_eq!(judge(Vec::new(), &crate::agent::testing::payload()).await, Ok(()), "training is no audit");
    for missing in 0..3 {
        let mut less = entries.clone();
        let gone = less.remove(missing).record_id().to_string();
        let why = judge(less, &payload).await.unwrap_err();
        assert!(why.contains("has no record") && why.contains(&gone), "{why}");
    }
    // Records that are there, but are others.
    let swapped = Payload { start_record: entries[0].record_id(), ..payload.clone() };
    assert!(judge(entries.clone(), &swapped).await.unwrap_err().contains("of kind draw"));
    let (draw, audit) = (entries[0].record_id(), payload.audit.unwrap());
    let swapped = Payload { audit: Some(Audit { assignment: draw, ..audit }), ..payload };
    assert!(judge(entries, &swapped).await.unwrap_err().contains("of kind draw"));
}

/// A hub that sends an honest auditor after another state makes it look like a liar.
#[tokio::test]
async fn another_auditor_interval_or_start_is_refused() {
    type Change = fn(&mut Said);
    let other = Digest::of(b"other");
    let cases: [(&str, Change); 8] = [
        ("auditor", |said| said.auditor = "west"),
        ("assigned interval", |said| said.interval = 2),
        ("drawn job", |said| said.job = Digest::of(b"other")),
        ("start's job", |said| said.start.job = JobId(Digest::of(b"other"))),
        ("start's island", |said| said.start.island = Island::new(1).unwrap()),
        ("start's interval", |said| said.start.interval = Interval::new(1).unwrap()),
        ("start's step", |said| said.start.last_step = Step::new(40).unwrap()),
        ("start's manifest", |said| said.start.manifest = Digest::of(b"other")),
    ];
    for (what, change) in cases {
        let mut changed = said();
        change(&mut changed);
        let (entries, payload) = logged(&changed);
        let why = judge(entries, &payload).await.unwrap_err();
        assert!(why.contains(what), "{what}: {why}");
    }
    let (entries, payload) = good();
    let elsewhere = Payload { start: Some(CheckpointRef { step: 20, manifest: other }), ..payload };
    assert!(judge(entries, &elsewhere).await.unwrap_err().contains("start's manifest"));
}

#[tokio::test]
async fn genesis_is_the_jobs_own() {
    let known = audit();
    let job = serde_json::json!({
        "format": "muster.job/1", "hub": "hub.example/log", "tenant": known.tenant, "jobUid": known.job_uid,
        "trainingDigest": known.training_digest, "spec": known.spec, "dataset": known.dataset,
        "genesis": Digest::of(b"genesis"), "steps": 100, "intervalSteps": 20, "stopEverySteps": null, "islands": 1,
        "images": [Digest::of(b"image")], "tier": "Gold", "deadlineSeconds": null, "priceMicroCredits": null,
        "beacon": {"anchor": Digest::of(b"anchor"), "length": 64}, "visibility": "Private",
    });
    let sign = |json: &serde_json::Value| {
        let record = Envelope::sign_json(muster_proof::records::Job::PAYLOAD_TYPE, json, &key()).unwrap();
        let id = job_id(record.unverified_payload()).0;
        (record, id)
    };
    let of = |record: &Envelope, id: Digest| {
        let (mut entries, payload) = logged(&Said { job: id, interval: 0, ..said() });
        entries.push(record.clone());
        let first = Audit { interval: 0, last_step: 20, ..payload.audit.unwrap() };
        let start_record = record.record_id();
        (entries, Payload { job: id, start: None, start_record, audit: Some(first), ..payload })
    };
    let (record, id) = sign(&job);
    let (entries, payload) = of(&record, id);
    assert_eq!(judge(entries, &payload).await, Ok(()));
    for (field, value, want) in [
        ("spec", serde_json::json!(Digest::of(b"other")), "job's spec"),
        ("dataset", serde_json::json!(Digest::of(b"other")), "job's dataset"),
        ("trainingDigest", serde_json::json!(Digest::of(b"other")), "training digest"),
        ("steps", serde_json::json!(101), "job's steps"),
        ("intervalSteps", serde_json::json!(10), "interval length"),
    ] {
        let mut other = job.clone();
        other[field] = value;
        let (record, id) = sign(&other);
        let (entries, payload) = of(&record, id);
        let why = judge(entries, &payload).await.unwrap_err();
        assert!(why.contains(want), "{field}: {why}");
    }
    let (entries, payload) = of(&record, id);
    let another = Payload { job: Digest::of(b"another"), ..payload };
    assert!(judge(entries, &another).await.is_err());
}
