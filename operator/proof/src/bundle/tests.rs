//! A log with two jobs, and the bundle of one of them.

use std::collections::BTreeMap;

use super::Outcome;
use super::*;
use crate::dsse::Envelope;
use crate::evaluation::Evaluation;
use crate::hub_keys;
use crate::key::{PublicKey, SigningKey};
use crate::records::fields::*;
use crate::records::samples::{self, digest, key, text};
use crate::records::*;
use crate::steps::{Bits, Records, StepRecord};
use crate::tlog::checkpoint::{Checkpoint, SignedCheckpoint};
use crate::tlog::entry::Entry;
use crate::tlog::note::{Algorithm, KeyName, NoteKey};
use crate::tlog::tile::encode_entries;
use crate::{hash, merkle};

type Memory = BTreeMap<String, Vec<u8>>;

const DATASET: &[u8] = br#"{"a":"dataset"}"#;

fn spec() -> Vec<u8> {
    let job = samples::job();
    let training = serde_json::json!({"steps": job.steps.get()});
    crate::jcs::to_vec(&serde_json::json!({"genesis": job.genesis, "training": training})).unwrap()
}

/// Of a job that evaluates in the middle of its first interval.
fn evaluated() -> Vec<u8> {
    let eval = serde_json::json!({"everySteps": 15, "data": {"manifest": Digest::of(b"held out")}});
    let mut spec: serde_json::Value = serde_json::from_slice(&spec()).unwrap();
    spec["training"]["eval"] = eval;
    crate::jcs::to_vec(&spec).unwrap()
}

/// Of a job that ends after the first or second interval, if the loss there is at most 2.
fn stopping() -> Vec<u8> {
    let data = serde_json::json!({"manifest": Digest::of(b"held out")});
    let mut spec: serde_json::Value = serde_json::from_slice(&spec()).unwrap();
    spec["training"]["eval"] = serde_json::json!({"everySteps": 20, "stopAt": "2", "data": data});
    crate::jcs::to_vec(&spec).unwrap()
}

fn hub() -> SigningKey {
    key(1)
}

fn note_key(name: &str, algorithm: Algorithm) -> NoteKey {
    NoteKey::new(KeyName::new(name).unwrap(), algorithm, [9; 32])
}

fn log_key() -> NoteKey {
    note_key(samples::job().hub.as_str(), Algorithm::Ed25519)
}

fn tenant() -> NoteKey {
    note_key("tenant", Algorithm::CosignatureV1)
}

fn island() -> Island {
    Island::new(0).unwrap()
}

fn epoch() -> Epoch {
    Epoch::new(1).unwrap()
}

fn salt(k: u64) -> Nonce {
    Nonce::new([k as u8; 32])
}

fn step_records(first: u64, last: u64) -> Records {
    let record = |step| StepRecord {
        eval_loss: None,
        grad_norm: Bits::of(1.5),
        learning_rate: Bits::of(0.1),
        loss: Bits::of(2.0),
        step,
    };
    Records::new(first, (first..=last).map(record).collect()).unwrap()
}

/// What goes into the log, and what of it into the bundle.
struct World {
    leaves: Vec<Vec<u8>>,
    envelopes: Vec<Option<Envelope>>,
    files: Memory,
    job: Job,
    id: JobId,
    manifests: Vec<FileRef>,
    states: Vec<FileRef>,
    openings: Vec<OpeningRef>,
    spec: FileRef,
    tip: Start,
}

impl World {
    /// Keys, two jobs and a grant.
    fn new() -> Self {
        Self::of(spec())
    }

    fn of(spec: Vec<u8>) -> Self {
        let mut job = samples::job();
        (job.tier, job.steps) = (Tier::None, Step::new(60).unwrap());
        let rule = Evaluation::of_spec(&spec).unwrap().stop_every_steps();
        job.stop_every_steps = rule.map(|every| Step::new(every).unwrap());
        job.training_digest = hash::h(hash::TRAINING, &[&spec]);
        (job.spec, job.dataset) = (Digest::of(&spec), Digest::of(DATASET));
        let id = job_id(&job.to_payload().unwrap());
        let record = job.record_id().unwrap();
        let tip = Start { step: Step::new(0).unwrap(), state_root: job.genesis, record };
        let mut world = Self {
            leaves: vec![],
            envelopes: vec![],
            files: Memory::new(),
            job,
            id,
            manifests: vec![],
            states: vec![],
            openings: vec![],
            tip,
            spec: FileRef::of(&spec),
        };
        for bytes in [&spec[..], DATASET] {
            world.file(bytes);
        }
        world.show(hub_keys::sign(1, &[hub().public()], &hub()).unwrap(), hub().public());
        let provider = ProviderKey {
            hub: world.job.hub.clone(),
            provider: text("east"),
            owner: text("acme"),
            key: key(11).public().clone(),
            witness: samples::witness("east"),
        };
        let mut envelope = provider.sign(&hub()).unwrap();
        envelope.add_signature(&key(11)).unwrap();
        world.show(envelope, hub().public());
        let mut other = samples::job();
        (other.job_uid, other.tier) = (text("77777777-0000-4000-8000-000000000000"), Tier::None);
        world.hide(other.sign(&hub()).unwrap(), hub().public());
        world.show(world.job.sign(&hub()).unwrap(), hub().public());
        let unit: UnitName = text(&unit_name(&world.job.job_uid, island(), epoch()));
        let grant = Grant {
            job: id,
            island: island(),
            epoch: epoch(),
            provider: text("east"),
            owner: text("acme"),
            unit: unit.clone(),
            kind: UnitKind::Train,
            start: world.tip,
            price_micro_credits: None,
            deadline_seconds: None,
        };
        world.show(grant.sign(&hub()).unwrap(), hub().public());
        let binding = KeyBinding {
            job: id,
            island: island(),
            epoch: epoch(),
            unit,
            attempt: Attempt::new(1).unwrap(),
            rank: Rank::new(0).unwrap(),
            pod_uid: text("pod"),
            key: key(21).public().clone(),
        };
        world.show(binding.sign(&key(11)).unwrap(), key(11).public());
        world
    }

    /// Three intervals and the job's end.
    fn whole() -> Self {
        let mut world = Self::new();
        for k in 0..3 {
            let commit = world.commit(k);
            world.show(commit, key(21).public());
        }
        world.end();
        world
    }

    fn end(&mut self) {
        let reason = GrantEndReason::Completed;
        let end = GrantEnd { job: self.id, island: island(), epoch: epoch(), reason };
        self.show(end.sign(&hub()).unwrap(), hub().public());
        let Start { step: last_step, state_root, record } = self.tip;
        let outcome = crate::records::Outcome::Completed;
        let end = JobEnd { job: self.id, last_step, state_root, record, outcome };
        self.show(end.sign(&hub()).unwrap(), hub().public());
    }

    fn file(&mut self, bytes: &[u8]) -> FileRef {
        let file = FileRef::of(bytes);
        self.files.insert(file.name(), bytes.to_vec());
        file
    }

    /// The commit of interval `k`, with its manifest, state and step records.
    fn commit(&mut self, k: u64) -> Envelope {
        let (first, last) = self.job.steps_of(k).unwrap();
        self.commit_of(k, &step_records(first, last), false)
    }

    fn commit_of(&mut self, k: u64, records: &Records, ends: bool) -> Envelope {
        let (first, last) = self.job.steps_of(k).unwrap();
        let state = self.file(format!("the weights after step {last}").as_bytes());
        let root = digest(&format!("state {last}"));
        let manifest = serde_json::json!({
            "format": "muster.checkpoint/1", "step": last, "trainingDigest": self.job.training_digest,
            "stateRoot": root, "b1p": "0", "b2p": "0",
            "files": [{"path": "model.safetensors", "size": state.size, "sha256": state.sha256}],
        });
        let manifest = self.file(&crate::jcs::to_vec(&manifest).unwrap());
        self.manifests.push(manifest);
        self.states.push(state);
        let interval = Interval::new(k).unwrap();
        let commit = Commit {
            job: self.id,
            island: island(),
            epoch: epoch(),
            interval,
            first_step: Step::new(first).unwrap(),
            last_step: Step::new(last).unwrap(),
            previous: self.tip.record,
            state_root: root,
            record_seal: record_seal(self.id, (island(), epoch(), interval), &records.root(), &salt(k)),
            manifest: manifest.sha256,
            ends,
        };
        let records = self.file(&records.to_bytes().unwrap());
        let id = commit.record_id().unwrap();
        self.openings.push(OpeningRef { commit: id, records, salt: salt(k) });
        self.tip = Start { step: commit.last_step, state_root: root, record: id };
        commit.sign(&key(21)).unwrap()
    }

    fn show(&mut self, envelope: Envelope, by: &PublicKey) {
        self.leaves.push(Entry::of(&envelope, by).unwrap().body().to_vec());
        self.envelopes.push(Some(envelope));
    }

    fn hide(&mut self, envelope: Envelope, by: &PublicKey) {
        self.leaves.push(Entry::of(&envelope, by).unwrap().body().to_vec());
        self.envelopes.push(None);
    }

    fn bundle(mut self, all_entries: bool) -> Memory {
        let hashes: Vec<Digest> = self.leaves.iter().map(|leaf| merkle::leaf(leaf)).collect();
        let root = merkle::root_of_hashes(&hashes);
        let head = Checkpoint::new(self.job.hub.as_str(), hashes.len() as u64, root).unwrap();
        let mut head = SignedCheckpoint::sign(head, &log_key()).unwrap();
        let line = head.cosign(&tenant(), 1_700_000_000).unwrap();
        head.merge(&[line], &[tenant().public().clone()]).unwrap();
        let checkpoint = self.file(head.to_string().as_bytes());
        let entries = encode_entries(&self.leaves).unwrap();
        let entries = all_entries.then(|| vec![self.file(&entries)]);
        let mut records = vec![];
        for (index, envelope) in std::mem::take(&mut self.envelopes).into_iter().enumerate() {
            let Some(envelope) = envelope else { continue };
            let envelope = self.file(&envelope.to_json().unwrap());
            let leaf = self.leaves[index].clone();
            let leaf = (!all_entries).then(|| self.file(&leaf));
            let proof = merkle::prove(&hashes, index).unwrap();
            records.push(RecordRef { envelope, index: index as u64, leaf, proof });
        }
        self.manifests.sort();
        self.states.sort();
        self.openings.sort_by_key(|opening| opening.commit);
        let bundle = Bundle {
            format: FORMAT.to_owned(),
            checkpoint,
            dataset: FileRef::of(DATASET),
            entries,
            hints: Hints {
                log: log_key().public().to_string(),
                witnesses: vec![tenant().public().to_string()],
            },
            job: self.id,
            manifests: self.manifests,
            openings: self.openings,
            origin: self.job.hub.clone(),
            records,
            spec: self.spec,
            states: self.states,
        };
        self.files.insert(FILE.to_owned(), bundle.to_bytes().unwrap());
        self.files
    }
}

fn policy() -> Trust {
    let text = format!("log {}\nwitness tenant {}\nquorum tenant\n", log_key().public(), tenant().public());
    Trust::Policy { policy: text.parse().unwrap(), hub: vec![] }
}

fn check(files: &Memory) -> Report {
    verify_bundle(files, &policy(), Options::default())
}

/// The blamed check and file; there must be one.
#[track_caller]
fn blamed<'a>(report: &'a Report, name: &str) -> &'a Check {
    let found = report.checks.iter().find(|check| check.name == name && check.outcome != Outcome::Holds);
    found.unwrap_or_else(|| panic!("{report}"))
}

fn change(files: &mut Memory, change: impl FnOnce(&mut Bundle)) {
    let mut bundle = Bundle::parse(&files[FILE]).unwrap();
    change(&mut bundle);
    files.insert(FILE.to_owned(), bundle.to_bytes().unwrap());
}

#[test]
fn a_good_bundle_holds_and_says_what_nobody_has_checked() {
    let report = check(&World::whole().bundle(true));
    assert_eq!(report.outcome, Outcome::Holds, "{report}");
    let Counts { intervals, committed, drawn, replayed, states, hidden, hidden_by_hub, .. } = report.counts;
    assert_eq!((intervals, committed, drawn, replayed, states), (3, 3, 0, 0, 3));
    assert_eq!((hidden, hidden_by_hub), (1, 1));
    let text = report.to_string();
    assert!(text.contains("0 of 3 intervals were replayed"), "{text}");
    assert!(text.contains("tier is None"), "{text}");
    assert_eq!(report.states.len(), 3);
    assert!(!text.starts_with("WEAK"));
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!((json["outcome"].as_str(), json["states"][2]["step"].as_u64()), (Some("holds"), Some(60)));
}

#[test]
fn the_bundles_own_hints_are_a_weak_check() {
    let report = verify_bundle(&World::whole().bundle(true), &Trust::Bundle, Options::default());
    assert_eq!(report.outcome, Outcome::Holds, "{report}");
    assert!(report.to_string().starts_with("WEAK"), "{report}");
}

#[test]
fn without_all_entries_it_is_incomplete() {
    let report = check(&World::whole().bundle(false));
    assert_eq!(report.outcome, Outcome::Incomplete, "{report}");
    assert_eq!(blamed(&report, "log").outcome, Outcome::Incomplete);
}

/// xorshift64.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % end as u64).unwrap()
    }
}

/// Whoever changes one bit anywhere is found, and the file is named.
#[test]
fn every_flipped_bit_is_found_and_its_file_named() {
    for all_entries in [true, false] {
        let good = World::whole().bundle(all_entries);
        let names: Vec<String> = good.keys().cloned().collect();
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        for flip in 0..400 {
            let mut files = good.clone();
            // Half of them in the list, of which the most depends.
            let name = if flip % 2 == 0 { FILE } else { &names[random.below(names.len())] };
            let bytes = files.get_mut(name).unwrap();
            let at = random.below(bytes.len() * 8);
            bytes[at / 8] ^= 1 << (at % 8);
            let report = check(&files);
            // A digest in the list that was changed names a file that is not there, and is the list's fault.
            let named = report.checks.iter().any(|check| {
                let file = check.file.as_deref() == Some(name) && check.outcome == Outcome::Refuted;
                let list = name == FILE && check.what.contains(FILE);
                check.outcome != Outcome::Holds && (file || list) && !check.what.is_empty()
            });
            assert!(named, "flip {flip}, bit {at} of {name}:\n{report}");
        }
    }
}

#[test]
fn every_removed_or_swapped_file_is_found() {
    let good = World::whole().bundle(true);
    let names: Vec<String> = good.keys().cloned().collect();
    for (at, name) in names.iter().enumerate() {
        let mut files = good.clone();
        files.remove(name);
        let report = check(&files);
        assert_ne!(report.outcome, Outcome::Holds, "{name}: {report}");
        assert!(report.checks.iter().any(|check| check.file.as_deref() == Some(name)), "{name}: {report}");
        let other = &names[(at + 1) % names.len()];
        let mut files = good.clone();
        let (one, two) = (files[name].clone(), files[other].clone());
        files.insert(name.clone(), two);
        files.insert(other.clone(), one);
        let report = check(&files);
        assert_eq!(report.outcome, Outcome::Refuted, "{name} and {other}: {report}");
    }
}

#[test]
fn a_record_that_is_left_out_is_found() {
    let good = World::whole().bundle(true);
    for index in 0..8 {
        let mut files = good.clone();
        change(&mut files, |bundle| drop(bundle.records.remove(index)));
        let report = check(&files);
        assert_ne!(report.outcome, Outcome::Holds, "record {index}: {report}");
    }
    // The last commits, with all that came after: the key that signed them tells.
    let mut files = good;
    change(&mut files, |bundle| {
        bundle.records.truncate(bundle.records.len() - 3);
        bundle.openings.clear();
    });
    let report = check(&files);
    assert_eq!(blamed(&report, "omissions").outcome, Outcome::Refuted, "{report}");
    assert_eq!(blamed(&report, "end").outcome, Outcome::Incomplete, "{report}");
}

#[test]
fn another_log_another_hub_another_job_are_refused() {
    let files = World::whole().bundle(true);
    let other = note_key("hub.example.org/muster", Algorithm::Ed25519);
    assert_eq!(other.public(), log_key().public());
    let text = format!(
        "log {}\nquorum none\n",
        NoteKey::new(KeyName::new("hub.example.org/muster").unwrap(), Algorithm::Ed25519, [8; 32]).public()
    );
    let trust = Trust::Policy { policy: text.parse().unwrap(), hub: vec![] };
    let report = verify_bundle(&files, &trust, Options::default());
    assert_eq!(blamed(&report, "checkpoint").outcome, Outcome::Refuted, "{report}");
    let Trust::Policy { policy, .. } = policy() else { panic!() };
    let pinned = |hub| Trust::Policy { policy: policy.clone(), hub: vec![hub] };
    let report = verify_bundle(&files, &pinned(hub().key_id()), Options::default());
    assert_eq!(report.outcome, Outcome::Holds, "{report}");
    let report = verify_bundle(&files, &pinned(key(3).key_id()), Options::default());
    assert_eq!(blamed(&report, "history").outcome, Outcome::Refuted, "{report}");
    let report = verify_bundle(&files, &self::policy(), Options { job: Some(JobId(digest("other"))) });
    assert_eq!(blamed(&report, "bundle").outcome, Outcome::Refuted, "{report}");
}

#[test]
fn a_quorum_that_is_not_met_is_incomplete() {
    let files = World::whole().bundle(true);
    let nobody = note_key("nobody", Algorithm::CosignatureV1);
    let text = format!("log {}\nwitness w {}\nquorum w\n", log_key().public(), nobody.public());
    let trust = Trust::Policy { policy: text.parse().unwrap(), hub: vec![] };
    let report = verify_bundle(&files, &trust, Options::default());
    assert_eq!(report.outcome, Outcome::Incomplete, "{report}");
    assert_eq!(blamed(&report, "checkpoint").outcome, Outcome::Incomplete);
}

/// The maker of the bundle rewrites what is not signed: manifests, states, step records.
#[test]
fn files_of_the_makers_own_are_refused() {
    let mut world = World::new();
    let envelope = world.commit(0);
    world.show(envelope, key(21).public());
    let other = world.file(&step_records(1, 19).to_bytes().unwrap());
    world.openings[0].records = other;
    let report = check(&world.bundle(true));
    assert_eq!(blamed(&report, "openings").outcome, Outcome::Refuted, "{report}");

    // Sealed, and without the loss that this job must have there.
    let mut world = World::of(evaluated());
    let envelope = world.commit(0);
    world.show(envelope, key(21).public());
    let report = check(&world.bundle(true));
    let openings = blamed(&report, "openings");
    assert_eq!(openings.outcome, Outcome::Refuted, "{report}");
    assert!(openings.what.contains("the record of step 15 has no evalLoss"), "{report}");

    // With it, and an end that does not follow, or does and is not said.
    for (loss, ends) in [(2.0, true), (2.5, false), (2.0, false), (2.5, true)] {
        let mut world = World::of(stopping());
        let mut records = step_records(1, 20).as_slice().to_vec();
        records[19].eval_loss = Some(Bits::of(loss));
        let envelope = world.commit_of(0, &Records::new(1, records).unwrap(), ends);
        world.show(envelope, key(21).public());
        if ends {
            world.end();
        }
        let report = check(&world.bundle(true));
        if (loss <= 2.0) == ends {
            let counts = report.counts;
            assert!(report.is_good("openings"), "{report}");
            assert_eq!((counts.intervals, counts.committed), (if ends { 1 } else { 3 }, 1), "{report}");
            assert_eq!(report.outcome == Outcome::Holds, ends, "{report}");
        } else {
            let openings = blamed(&report, "openings");
            assert_eq!(openings.outcome, Outcome::Refuted, "{report}");
            assert!(openings.what.contains("the commit of interval 0"), "{report}");
        }
    }

    let mut world = World::whole();
    let stray = world.file(b"stray");
    world.states.push(stray);
    let report = check(&world.bundle(true));
    assert_eq!(blamed(&report, "checkpoints").file, Some(FileRef::of(b"stray").name()), "{report}");
}

/// Signed by the right key, but not what follows.
#[test]
fn a_commit_out_of_its_place_is_refused() {
    let mut world = World::new();
    world.commit(0);
    let skipped = world.commit(1);
    world.show(skipped, key(21).public());
    let report = check(&world.bundle(true));
    assert_eq!(blamed(&report, "history").outcome, Outcome::Refuted, "{report}");
}

#[test]
fn a_job_that_goes_on_is_incomplete() {
    let mut world = World::new();
    let commit = world.commit(0);
    world.show(commit, key(21).public());
    let report = check(&world.bundle(true));
    assert_eq!(report.outcome, Outcome::Incomplete, "{report}");
    assert!(blamed(&report, "end").what.contains("not ended"));
}
