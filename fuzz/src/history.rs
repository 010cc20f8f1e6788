//! Records, and the fold over a log of them: whoever writes to the log decides what a verifier, a hub and an auditor read.
use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, OnceLock, PoisonError};

use muster_proof::dsse::Envelope;
use muster_proof::history::{Field, HUB_AUDITOR, History, Todo};
use muster_proof::key::SigningKey;
use muster_proof::records::fields::{
    Attempt, ChainLength, Epoch, Interval, IntervalSteps, Island, Islands, JobId, Nonce, Rank, Step,
};
use muster_proof::records::{
    AuditOpening, AuditSeal, Beacon, Commit, Eligible, Grant, Job, KeyBinding, Opening, Payload as _,
    ProviderKey, Record, Start, Tier, UnitKind, Visibility, audit_seal, job_id, record_seal, unit_name,
};
use muster_proof::selection::links;
use muster_proof::steps::{Bits, Records, StepRecord};
use muster_proof::tlog::note::{Algorithm, KeyName, NoteKey};
use muster_proof::{Digest, hub_keys, model_signing};

use crate::Target;

const ORIGIN: &str = "hub.example/log";
const HUB: u8 = 1;
const SIDECAR: u8 = 101;
/// Name, owner and key of each provider.
const PROVIDERS: [(&str, &str, u8); 4] =
    [("east", "acme", 11), ("west", "globex", 12), ("north", "initech", 13), ("south", "umbrella", 14)];
/// Values of a job's chain.
const CHAIN: u64 = 64;
/// Records of one history.
const MOST: usize = 128;

pub fn targets() -> Vec<Target> {
    vec![
        Target { name: "step-records", run: step_records, seeds: step_record_seeds },
        Target { name: "model-signing", run: signed_files, seeds: signed_files_seeds },
        Target { name: "record", run: record, seeds: record_seeds },
        Target { name: "history", run: history, seeds: history_seeds },
    ]
}

fn key(seed: u8) -> Option<SigningKey> {
    SigningKey::generate([seed; 32]).ok()
}

fn step_records(data: &[u8]) {
    if let Ok(records) = Records::parse(21, data) {
        assert_eq!(records.to_bytes().ok().as_deref(), Some(data));
        let count = records.as_slice().len();
        assert!((0..=count).all(|at| records.prove(at).is_some() == (at < count)));
    }
    if let Ok(record) = StepRecord::parse(data) {
        assert_eq!(record.to_bytes().ok().as_deref(), Some(data));
    }
}

fn step_record_seeds() -> Vec<Vec<u8>> {
    let record = |step| StepRecord {
        eval_loss: (step == 22).then(|| Bits::of(2.0)),
        grad_norm: Bits::of(1.5),
        learning_rate: Bits::of(0.1),
        loss: Bits::of(2.5),
        step,
    };
    let list = Records::new(21, (21..24).map(record).collect()).ok().and_then(|list| list.to_bytes().ok());
    list.into_iter().chain(record(22).to_bytes().ok()).collect()
}

/// Nobody else's signature is taken, and none over other files.
fn signed_files(data: &[u8]) {
    let Some(key) = key(7) else { return };
    if let Ok(signed) = model_signing::open(data, &[key.public().clone()]) {
        assert_eq!((signed.key(), signed.files().model()), (key.public(), "model"));
        assert_eq!(signed.files().as_slice().len(), 2);
    }
}

fn signed_files_seeds() -> Vec<Vec<u8>> {
    let made = || {
        let files = [("config.json", Digest::of(b"a")), ("weights/model.safetensors", Digest::of(b"b"))];
        model_signing::sign(&files, "model", &key(7)?).ok()?.to_json().ok()
    };
    made().into_iter().collect()
}

/// A line of a history: seeds of the keys that sign, kind, payload.
fn envelope(line: &[u8]) -> Option<Envelope> {
    static SIGNED: OnceLock<Mutex<HashMap<Vec<u8>, Option<Envelope>>>> = OnceLock::new();
    let mut signed = SIGNED.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
    // Signing takes longer than all else, and most lines are the seeds' own.
    if signed.len() > 10_000 {
        signed.clear();
    }
    signed.entry(line.to_vec()).or_insert_with(|| sign(line)).clone()
}

fn sign(line: &[u8]) -> Option<Envelope> {
    let mut parts = line.splitn(3, |byte| *byte == b' ');
    let mut text = || parts.next().and_then(|part| std::str::from_utf8(part).ok());
    let (signers, kind) = (text()?, text()?);
    let mut keys = signers.split(',').take(3).map(|seed| key(seed.parse().ok()?));
    let payload_type = format!("application/vnd.muster.{kind}.v1+json");
    let mut envelope = Envelope::sign(&payload_type, parts.next()?, &keys.next()??).ok()?;
    for key in keys {
        envelope.add_signature(&key?).ok()?;
    }
    Some(envelope)
}

fn record(data: &[u8]) {
    let Some(envelope) = sign(data) else { return };
    if let Ok(record) = Record::parse(&envelope) {
        assert!(envelope.payload_type().contains(record.kind()));
    }
}

fn record_seeds() -> Vec<Vec<u8>> {
    // The first of each kind.
    let mut kinds = BTreeMap::new();
    for line in plays().iter().flatten() {
        kinds.entry(line.split(' ').nth(1)).or_insert(line);
    }
    kinds.into_values().map(|line| line.clone().into_bytes()).collect()
}

/// Everybody is there, and the hub's own auditor is, too.
fn everybody() -> Field {
    let one = |(name, owner, _): (&str, &str, u8)| {
        Some(Eligible { owner: owner.parse().ok()?, providers: vec![name.parse().ok()?] })
    };
    let candidates = PROVIDERS.into_iter().filter_map(one).collect();
    Field { candidates, hub_auditor: true, draws: true, counted: u64::MAX, ..Field::default() }
}

fn preimage(index: u64) -> Option<Digest> {
    Some(links(&Digest::of(b"seed"), CHAIN.checked_sub(index + 1)?))
}

/// Lines of records, signed and taken as a log would hold them. Then all is asked that hub, agents and verifiers ask: nothing
/// panics, a refused record changes nothing, and what the plan says to log is what the fold accepts.
fn history(data: &[u8]) {
    let Ok(origin) = ORIGIN.parse() else { return };
    let mut history = History::new(origin, None);
    let mut jobs = Vec::new();
    for envelope in data.split(|byte| *byte == b'\n').take(MOST).filter_map(envelope) {
        let next = history.next_index();
        match history.apply(next, &envelope) {
            Ok(accepted) => {
                assert_eq!((accepted.index, history.next_index()), (next, next + 1));
                if let Record::Job(job) = accepted.record {
                    jobs.extend(job.to_payload().map(|payload| (job_id(&payload), job)));
                }
            }
            Err(refusal) => assert!(history.next_index() == next && !refusal.to_string().is_empty()),
        }
    }
    let providers = PROVIDERS.map(|(name, ..)| name).into_iter().chain([HUB_AUDITOR]);
    for provider in providers.filter_map(|name| name.parse().ok()) {
        let due = history.due(&provider);
        let assigns = due.answers.iter().chain(&due.replays);
        assert!(assigns.into_iter().all(|assign| history.audit_of(assign).is_some()));
        let _ = history.standing(&provider);
    }
    for (id, job) in jobs {
        ask(&history, id, &job);
    }
}

fn ask(history: &History, id: JobId, job: &Job) {
    assert_eq!(history.job_record(id), Some(job));
    let open = history.open(id);
    assert_eq!(open.ok().map(|open| open.is_empty()), history.is_settled(id).ok());
    assert!(history.audits(id).is_ok() && history.pinned(id).is_ok());
    for island in 0..3 {
        let path = history.path(id, island);
        assert!((0..).zip(&path).all(|(interval, one)| one.interval == interval));
        let lowest = history.lowest_epoch(id, island);
        let _ = (history.is_late(id, island, 1), history.is_late(id, island, lowest));
    }
    assert!(history.agenda(id, &Field::default(), &|_| None).is_ok());
    let agenda = history.agenda(id, &everybody(), &preimage).unwrap_or_default();
    let hub = key(HUB).filter(|key| history.hub_keys().contains(key.public()));
    let own = job.beacon.length.get() == CHAIN && job.beacon.anchor == links(&Digest::of(b"seed"), CHAIN);
    let (Some(hub), true) = (hub, own) else { return };
    let mut next = history.clone();
    for todo in agenda {
        let Todo::Log(unsigned) = todo else { continue };
        let signed = unsigned.sign(&hub).ok();
        let taken = signed.map(|signed| next.apply(next.next_index(), &signed));
        assert!(matches!(taken, Some(Ok(_))), "{unsigned:?}: {taken:?}");
    }
}

fn history_seeds() -> Vec<Vec<u8>> {
    plays().iter().map(|lines| lines.join("\n").into_bytes()).collect()
}

/// What an honest trainer's and a lying one's jobs leave in the log.
fn plays() -> &'static [Vec<String>] {
    static PLAYS: OnceLock<Vec<Vec<String>>> = OnceLock::new();
    PLAYS.get_or_init(|| [true, false].into_iter().filter_map(play).collect())
}

/// A log in the making.
struct Play {
    history: History,
    lines: Vec<String>,
    commits: BTreeMap<Digest, u64>,
}

impl Play {
    /// Takes a record with the signatures of these keys.
    fn push(&mut self, signers: &[u8], payload_type: &str, payload: &[u8]) -> Option<Digest> {
        let kind = payload_type.strip_prefix("application/vnd.muster.")?.strip_suffix(".v1+json")?;
        let signers: Vec<_> = signers.iter().map(u8::to_string).collect();
        let line = format!("{} {kind} {}", signers.join(","), std::str::from_utf8(payload).ok()?);
        let accepted = self.history.apply(self.history.next_index(), &envelope(line.as_bytes())?).ok()?;
        self.lines.push(line);
        Some(accepted.id)
    }

    /// The hub logs what its plan says, and who is waited for does his part, until nothing is left to do.
    fn settle(&mut self, job: JobId) -> Option<()> {
        for _ in 0..20 {
            let agenda = self.history.agenda(job, &everybody(), &preimage).ok()?;
            if agenda.is_empty() {
                break;
            }
            for todo in agenda {
                self.act(&todo)?;
            }
        }
        Some(())
    }

    fn act(&mut self, todo: &Todo) -> Option<()> {
        match todo {
            Todo::Log(unsigned) => {
                let signed = unsigned.sign(&key(HUB)?).ok()?;
                self.push(&[HUB], signed.payload_type(), signed.unverified_payload())?;
            }
            Todo::AwaitSeal { audit, auditor } => {
                let (seed, interval) = (seed(auditor.as_str()), self.history.audit_of(audit)?.interval);
                let (state, records) = truth(interval);
                let seal = audit_seal(audit, &key(seed)?.key_id(), &state, &records, &salt(interval));
                let payload = AuditSeal { audit: *audit, seal }.to_payload().ok()?;
                self.push(&[seed], AuditSeal::PAYLOAD_TYPE, &payload)?;
            }
            Todo::AwaitOpening { commit, provider } => {
                let interval = *self.commits.get(commit)?;
                let opening =
                    Opening { commit: *commit, record_root: truth(interval).1, salt: salt(interval) };
                let payload = opening.to_payload().ok()?;
                self.push(&[seed(provider.as_str())], Opening::PAYLOAD_TYPE, &payload)?;
            }
            Todo::AwaitAnswer { audit, auditor } => {
                let interval = self.history.audit_of(audit)?.interval;
                let (state_root, record_root) = truth(interval);
                let opening = AuditOpening { audit: *audit, state_root, record_root, nonce: salt(interval) };
                let payload = opening.to_payload().ok()?;
                self.push(&[seed(auditor.as_str())], AuditOpening::PAYLOAD_TYPE, &payload)?;
            }
            Todo::AwaitWitnesses { .. } | Todo::NoAuditor { .. } | Todo::ChainUsedUp => {}
        }
        Some(())
    }
}

fn seed(provider: &str) -> u8 {
    PROVIDERS.iter().find(|(name, ..)| *name == provider).map_or(HUB, |(_, _, seed)| *seed)
}

/// State and records of an interval.
fn truth(interval: u64) -> (Digest, Digest) {
    let of = |what: &str| Digest::of(format!("{what} {interval}").as_bytes());
    (of("state"), of("records"))
}

fn salt(interval: u64) -> Nonce {
    Nonce::new([interval.to_le_bytes()[0]; 32])
}

fn job() -> Option<Job> {
    Some(Job {
        hub: ORIGIN.parse().ok()?,
        tenant: Digest::of(b"tenant"),
        job_uid: "4f2a9c1b-0000-4000-8000-000000000000".parse().ok()?,
        training_digest: Digest::of(b"training"),
        spec: Digest::of(b"spec"),
        dataset: Digest::of(b"dataset"),
        genesis: Digest::of(b"genesis"),
        steps: Step::new(60).ok()?,
        interval_steps: IntervalSteps::new(20).ok()?,
        stop_every_steps: None,
        islands: Islands::new(1).ok()?,
        images: vec![Digest::of(b"image")],
        tier: Tier::Gold,
        deadline_seconds: None,
        price_micro_credits: None,
        beacon: Beacon { anchor: links(&Digest::of(b"seed"), CHAIN), length: ChainLength::new(CHAIN).ok()? },
        visibility: Visibility::Private,
    })
}

fn play(honest: bool) -> Option<Vec<String>> {
    let history = History::new(ORIGIN.parse().ok()?, None);
    let mut play = Play { history, lines: Vec::new(), commits: BTreeMap::new() };
    let keys = hub_keys::sign(1, &[key(HUB)?.public()], &key(HUB)?).ok()?;
    play.push(&[HUB], hub_keys::PAYLOAD_TYPE, keys.unverified_payload())?;
    for (name, owner, seed) in PROVIDERS {
        let witness = NoteKey::new(KeyName::new(name).ok()?, Algorithm::CosignatureV1, [seed; 32]);
        let record = ProviderKey {
            hub: ORIGIN.parse().ok()?,
            provider: name.parse().ok()?,
            owner: owner.parse().ok()?,
            key: key(seed)?.public().clone(),
            witness: witness.public().to_string().parse().ok()?,
        };
        play.push(&[HUB, seed], ProviderKey::PAYLOAD_TYPE, &record.to_payload().ok()?)?;
    }
    let (job, island, epoch) = (job()?, Island::new(0).ok()?, Epoch::new(1).ok()?);
    let id = job_id(&job.to_payload().ok()?);
    let record = play.push(&[HUB], Job::PAYLOAD_TYPE, &job.to_payload().ok()?)?;
    let mut tip = Start { step: Step::new(0).ok()?, state_root: job.genesis, record };
    let unit = unit_name(&job.job_uid, island, epoch);
    let grant = Grant {
        job: id,
        island,
        epoch,
        provider: "east".parse().ok()?,
        owner: "acme".parse().ok()?,
        unit: unit.parse().ok()?,
        kind: UnitKind::Train,
        start: tip,
        price_micro_credits: None,
        deadline_seconds: None,
    };
    play.push(&[HUB], Grant::PAYLOAD_TYPE, &grant.to_payload().ok()?)?;
    let binding = KeyBinding {
        job: id,
        island,
        epoch,
        unit: unit.parse().ok()?,
        attempt: Attempt::new(1).ok()?,
        rank: Rank::new(0).ok()?,
        pod_uid: "pod".parse().ok()?,
        key: key(SIDECAR)?.public().clone(),
    };
    play.push(&[seed("east")], KeyBinding::PAYLOAD_TYPE, &binding.to_payload().ok()?)?;
    // The liar's first interval is audited, so nothing of his follows.
    for k in 0..if honest { job.intervals() } else { 1 } {
        let ((first, last), (state, records)) = (job.steps_of(k)?, truth(k));
        let interval = Interval::new(k).ok()?;
        let state_root = if honest { state } else { Digest::of(b"a lie") };
        let commit = Commit {
            job: id,
            island,
            epoch,
            interval,
            first_step: Step::new(first).ok()?,
            last_step: Step::new(last).ok()?,
            previous: tip.record,
            state_root,
            record_seal: record_seal(id, (island, epoch, interval), &records, &salt(k)),
            manifest: Digest::of(b"manifest"),
            ends: false,
        };
        let record = play.push(&[SIDECAR], Commit::PAYLOAD_TYPE, &commit.to_payload().ok()?)?;
        play.commits.insert(record, k);
        tip = Start { step: commit.last_step, state_root, record };
        play.settle(id)?;
    }
    Some(play.lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seeds_go_far() {
        assert_eq!((step_record_seeds().len(), signed_files_seeds().len()), (2, 1));
        assert!(model_signing::open(&signed_files_seeds()[0], &[key(7).unwrap().public().clone()]).is_ok());
        for (lines, verdict) in plays().iter().zip(["\"verdict\":\"Match\"", "\"verdict\":\"Fault\""]) {
            let all = lines.join("\n");
            assert!(lines.len() > 15 && lines.len() < MOST && all.contains(verdict), "{all}");
        }
        assert_eq!(plays().len(), 2);
        assert!(record_seeds().len() >= 14, "{}", record_seeds().len());
    }
}
