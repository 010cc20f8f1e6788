//! One record of each kind, as the vectors of testdata/records have them.

use super::fields::*;
use super::*;
use crate::key::SigningKey;

pub fn key(seed: u8) -> SigningKey {
    SigningKey::generate([seed; 32]).unwrap()
}

pub fn text<T: std::str::FromStr<Err = Unfit>>(text: &str) -> T {
    text.parse().unwrap()
}

/// What stands for something that has this name.
pub fn digest(name: &str) -> Digest {
    Digest::of(name.as_bytes())
}

pub fn witness(name: &str) -> WitnessKey {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let key = [&[4][..], Digest::of(name.as_bytes()).as_bytes()].concat();
    let hash = Digest::of(&[name.as_bytes(), b"\n", &key].concat()).to_hex();
    text(&format!("{name}+{}+{}", &hash[..8], STANDARD.encode(&key)))
}

pub fn eligible(list: &[(&str, &[&str])]) -> Vec<Eligible> {
    let one = |(owner, providers): &(&str, &[&str])| Eligible {
        owner: text(owner),
        providers: providers.iter().map(|p| text(p)).collect(),
    };
    list.iter().map(one).collect()
}

pub fn job() -> Job {
    let length = 64;
    Job {
        hub: text("hub.example.org/muster"),
        tenant: digest("team-a"),
        job_uid: text("4f2a9c1b-0000-4000-8000-000000000000"),
        training_digest: digest("training"),
        spec: digest("spec"),
        dataset: digest("dataset"),
        genesis: digest("state 0"),
        steps: Step::new(200).unwrap(),
        interval_steps: IntervalSteps::new(20).unwrap(),
        stop_every_steps: None,
        islands: Islands::new(1).unwrap(),
        images: vec![digest("image")],
        tier: Tier::Silver,
        deadline_seconds: Some(Seconds::new(86_400).unwrap()),
        price_micro_credits: None,
        beacon: Beacon {
            anchor: crate::selection::links(&digest("seed"), length),
            length: ChainLength::new(length).unwrap(),
        },
        visibility: Visibility::Private,
    }
}

pub fn sample_payloads() -> Vec<(&'static str, Vec<u8>)> {
    let job_record = job();
    let job_payload = job_record.to_payload().unwrap();
    let job = job_id(&job_payload);
    let (island, epoch) = (Island::new(0).unwrap(), Epoch::new(1).unwrap());
    let interval = Interval::new(0).unwrap();
    let first_step = Step::new(1).unwrap();
    let (step_0, step_7, step_20) = (Step::new(0).unwrap(), Step::new(7).unwrap(), Step::new(20).unwrap());
    let unit: UnitName = text("4f2a9c1b-0-1");
    let record = digest("job record");
    let salt = Nonce::new([0x5a; 32]);
    let seal = record_seal(job, (island, epoch, interval), &digest("records"), &salt);
    let auditors = eligible(&[("globex", &["west"]), ("initech", &["north", "south"])]);
    macro_rules! list {
        ($($record:expr,)*) => { vec![("job", job_payload), $(kind_and_payload(&$record),)*] };
    }
    fn kind_and_payload<P: Payload>(record: &P) -> (&'static str, Vec<u8>) {
        (P::KIND, record.to_payload().unwrap())
    }
    list![
        ProviderKey {
            hub: job_record.hub.clone(),
            provider: text("east"),
            owner: text("acme"),
            key: key(7).public().clone(),
            witness: witness("east.hub.example.org"),
        },
        KeyRevocation { hub: job_record.hub.clone(), provider: text("east"), key: key(7).key_id() },
        Grant {
            job,
            island,
            epoch,
            provider: text("east"),
            owner: text("acme"),
            unit: unit.clone(),
            kind: UnitKind::Train,
            start: Start { step: step_0, state_root: job_record.genesis, record },
            price_micro_credits: Some(MicroCredits::new(120).unwrap()),
            deadline_seconds: None,
        },
        KeyBinding {
            job,
            island,
            epoch,
            unit,
            attempt: Attempt::new(1).unwrap(),
            rank: Rank::new(0).unwrap(),
            pod_uid: text("0a1b2c3d-0000-4000-8000-000000000001"),
            key: key(8).public().clone(),
        },
        Commit {
            job,
            island,
            epoch,
            interval,
            first_step,
            last_step: step_20,
            previous: record,
            state_root: digest("state 20"),
            record_seal: seal,
            manifest: digest("manifest 20"),
            ends: false,
        },
        Failure {
            job,
            island,
            epoch,
            interval,
            first_step,
            failed_step: step_7,
            previous: record,
            state_root: failed_root(&digest("state 6"), step_7),
            record_seal: seal,
        },
        WindowClose {
            job,
            island,
            epoch,
            window: Window::new(0).unwrap(),
            first: interval,
            last: Interval::new(1).unwrap(),
            commits: vec![digest("commit 0"), digest("commit 1")],
            reason: CloseReason::GrantEnd,
            eligible: auditors.clone(),
        },
        Draw {
            job,
            kind: DrawKind::First,
            subject: digest("commit 0"),
            index: ChainIndex::new(0).unwrap(),
            preimage: crate::selection::links(&digest("seed"), 63),
            eligible: Some(auditors),
        },
        AuditAssign {
            draw: digest("draw"),
            interval,
            auditor: text("west"),
            place: Place::new(0).unwrap(),
            reason: AssignReason::First,
        },
        AuditSeal {
            audit: digest("assign"),
            seal: audit_seal(
                &digest("assign"),
                &key(9).key_id(),
                &digest("state 20"),
                &digest("records"),
                &salt
            ),
        },
        Opening { commit: digest("commit 0"), record_root: digest("records"), salt },
        AuditOpening {
            audit: digest("assign"),
            state_root: digest("state 20"),
            record_root: digest("records"),
            nonce: salt,
        },
        Verdict {
            job,
            draw: digest("draw"),
            interval,
            verdict: VerdictKind::Fault,
            party: Some(text("east")),
            evidence: Some(Evidence {
                kind: EvidenceKind::Replays,
                records: {
                    let mut two = vec![digest("opening 1"), digest("opening 2")];
                    two.sort_unstable();
                    two
                },
            }),
        },
        Rollback {
            job,
            island,
            to_interval: interval,
            epoch: Epoch::new(2).unwrap(),
            verdict: digest("verdict"),
        },
        GrantEnd { job, island, epoch, reason: GrantEndReason::Released },
        JobEnd {
            job,
            last_step: step_20,
            state_root: digest("state 20"),
            record: digest("commit 0"),
            outcome: Outcome::Completed,
        },
    ]
}
