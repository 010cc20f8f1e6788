//! A result that the real trainer computed, in a real log, as a stranger checks it: `muster verify`, `muster replay`,
//! `muster witness`, and what becomes of whoever changes a bit of it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that panics has failed")]

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::LocalBoxFuture;
use muster::bundle::dir::Dir;
use muster::bundle::logdir::LogDir;
use muster::bundle::make::{JobSource, MakeError, States, Wants, make};
use muster::bundle::states;
use muster::gateway::history::Fold;
use muster::log::{Log, Submission};
use muster::wire::log::{JobRecords, LogEntry, LoggedRecord};
use muster_proof::bundle::{
    Bundle, FILE, FileRef, OpeningRef, Options, Outcome, Report, Trust, verify_bundle,
};
use muster_proof::dsse::Envelope;
use muster_proof::hub_keys;
use muster_proof::key::SigningKey;
use muster_proof::records::fields::{
    Attempt, ChainLength, Epoch, Interval, IntervalSteps, Island, Islands, Nonce, Rank, Step,
};
use muster_proof::records::{
    Beacon, Commit, Grant, GrantEnd, GrantEndReason, Job, JobEnd, JobId, KeyBinding, Payload, ProviderKey,
    Start, Tier, UnitKind, Visibility, job_id, record_seal, unit_name,
};
use muster_proof::tlog::note::{Algorithm, KeyName, NoteKey};
use muster_proof::{Digest, jcs};
use muster_trainer::records;
use support::{Site, run};

const ORIGIN: &str = "hub.example/log";
const UID: &str = "4f2a9c1b-0000-4000-8000-000000000000";
const C: u64 = 4;
const STEPS: u64 = 24;

fn key(seed: u8) -> SigningKey {
    SigningKey::generate([seed; 32]).unwrap()
}

fn salt(k: u64) -> Nonce {
    Nonce::new([k as u8 + 1; 32])
}

/// What the hub would give to the job's tenant.
struct Tenant {
    list: JobRecords,
    records: BTreeMap<Digest, LogEntry>,
    files: BTreeMap<Digest, PathBuf>,
}

impl Tenant {
    fn file(&self, digest: &Digest) -> Vec<u8> {
        std::fs::read(&self.files[digest]).unwrap()
    }
}

impl JobSource for Tenant {
    fn records(&self) -> LocalBoxFuture<'_, Result<JobRecords, MakeError>> {
        async { Ok(self.list.clone()) }.boxed_local()
    }

    fn record<'a>(&'a self, id: &'a Digest) -> LocalBoxFuture<'a, Result<LogEntry, MakeError>> {
        async move { Ok(self.records[id].clone()) }.boxed_local()
    }

    fn input<'a>(&'a self, digest: &'a Digest, _: u64) -> LocalBoxFuture<'a, Result<Vec<u8>, MakeError>> {
        async move { Ok(self.file(digest)) }.boxed_local()
    }

    fn manifest<'a>(
        &'a self,
        digest: &'a Digest,
        _: u64,
    ) -> LocalBoxFuture<'a, Result<Option<Vec<u8>>, MakeError>> {
        async move { Ok(Some(self.file(digest))) }.boxed_local()
    }

    fn state<'a>(&'a self, file: &'a FileRef, to: &'a Path) -> LocalBoxFuture<'a, Result<(), MakeError>> {
        async move {
            std::fs::copy(&self.files[&file.sha256], to)?;
            Ok(())
        }
        .boxed_local()
    }
}

/// A job that was trained, its log and its bundle.
struct World {
    site: Site,
    bundle: PathBuf,
    policy: String,
    log_key: String,
    job: JobId,
}

/// One for all tests: nobody changes it.
static WORLD: LazyLock<World> = LazyLock::new(|| {
    let site = Site::new();
    site.train("job.yaml", "out", &[]).succeeded();
    tokio::runtime::Runtime::new().unwrap().block_on(world(site))
});

async fn world(site: Site) -> World {
    let spec = std::fs::read(site.path("out/spec.json")).unwrap();
    let dataset = std::fs::read(site.path("data/manifest.json")).unwrap();
    let genesis = jcs::parse(&spec).unwrap()["genesis"].as_str().unwrap().parse().unwrap();
    let mut files = BTreeMap::new();
    for (bytes, path) in [(&spec, "out/spec.json"), (&dataset, "data/manifest.json")] {
        files.insert(Digest::of(bytes), site.path(path));
    }
    let (hub, provider, sidecar) = (key(1), key(2), key(3));
    let (island, epoch) = (Island::new(0).unwrap(), Epoch::new(1).unwrap());
    let job = Job {
        hub: ORIGIN.parse().unwrap(),
        tenant: Digest::of(b"team-a"),
        job_uid: UID.parse().unwrap(),
        training_digest: muster_trainer::resolved::training_digest(&spec),
        spec: Digest::of(&spec),
        dataset: Digest::of(&dataset),
        genesis,
        steps: Step::new(STEPS).unwrap(),
        interval_steps: IntervalSteps::new(C).unwrap(),
        islands: Islands::new(1).unwrap(),
        images: vec![Digest::of(b"image")],
        tier: Tier::None,
        deadline_seconds: None,
        price_micro_credits: None,
        beacon: Beacon { anchor: Digest::of(b"anchor"), length: ChainLength::new(66).unwrap() },
        visibility: Visibility::Private,
    };
    let id = job_id(&job.to_payload().unwrap());
    let unit: muster_proof::records::fields::UnitName =
        unit_name(&job.job_uid, island, epoch).parse().unwrap();
    let mut envelopes: Vec<Envelope> = vec![hub_keys::sign(1, &[hub.public()], &hub).unwrap()];
    let witness = NoteKey::new(KeyName::new("muster-agent/east").unwrap(), Algorithm::CosignatureV1, [4; 32]);
    let named = ProviderKey {
        hub: job.hub.clone(),
        provider: "east".parse().unwrap(),
        owner: "acme".parse().unwrap(),
        key: provider.public().clone(),
        witness: witness.public().to_string().parse().unwrap(),
    };
    let mut named = named.sign(&hub).unwrap();
    named.add_signature(&provider).unwrap();
    envelopes.push(named);
    let other = Job { job_uid: "55555555-0000-4000-8000-000000000000".parse().unwrap(), ..job.clone() };
    let other = Job { beacon: Beacon { anchor: Digest::of(b"other"), ..job.beacon }, ..other };
    let hidden = other.sign(&hub).unwrap();
    envelopes.push(hidden.clone());
    envelopes.push(job.sign(&hub).unwrap());
    let mut tip =
        Start { step: Step::new(0).unwrap(), state_root: genesis, record: job.record_id().unwrap() };
    let grant = Grant {
        job: id,
        island,
        epoch,
        provider: "east".parse().unwrap(),
        owner: "acme".parse().unwrap(),
        unit: unit.clone(),
        kind: UnitKind::Train,
        start: tip,
        price_micro_credits: None,
        deadline_seconds: None,
    };
    envelopes.push(grant.sign(&hub).unwrap());
    let binding = KeyBinding {
        job: id,
        island,
        epoch,
        unit,
        attempt: Attempt::new(1).unwrap(),
        rank: Rank::new(0).unwrap(),
        pod_uid: "pod".parse().unwrap(),
        key: sidecar.public().clone(),
    };
    envelopes.push(binding.sign(&provider).unwrap());
    let mut openings = Vec::new();
    for k in 0..STEPS / C {
        let (first, last) = job.steps_of(k).unwrap();
        let dir = site.path(&format!("out/checkpoints/step-{last:08}"));
        let bytes = std::fs::read(dir.join("manifest.json")).unwrap();
        let manifest = muster_trainer::checkpoint::Manifest::parse(&bytes).unwrap();
        files.insert(Digest::of(&bytes), dir.join("manifest.json"));
        files.extend(manifest.files().iter().map(|file| (file.sha256, dir.join(&file.path))));
        let records = records::read(&records::path(&site.path("out"), last), last).unwrap();
        let interval = Interval::new(k).unwrap();
        let commit = Commit {
            job: id,
            island,
            epoch,
            interval,
            first_step: Step::new(first).unwrap(),
            last_step: Step::new(last).unwrap(),
            previous: tip.record,
            state_root: manifest.state_root(),
            record_seal: record_seal(id, (island, epoch, interval), &records.root(), &salt(k)),
            manifest: Digest::of(&bytes),
        };
        let record = commit.record_id().unwrap();
        openings.push((record, records.to_bytes().unwrap(), salt(k)));
        tip = Start { step: commit.last_step, state_root: commit.state_root, record };
        envelopes.push(commit.sign(&sidecar).unwrap());
    }
    let end = GrantEnd { job: id, island, epoch, reason: GrantEndReason::Completed };
    envelopes.push(end.sign(&hub).unwrap());
    let outcome = muster_proof::records::Outcome::Completed;
    let Start { step: last_step, state_root, record } = tip;
    let end = JobEnd { job: id, last_step, state_root, record, outcome };
    envelopes.push(end.sign(&hub).unwrap());

    let fold = Fold::new(ORIGIN.parse().unwrap(), Arc::default());
    let log = Log::open(&site.path("log"), ORIGIN, Box::new(fold)).unwrap();
    let mut tenant = Tenant {
        list: JobRecords {
            log: log.key().to_string(),
            job: id,
            spec: job.spec,
            dataset: job.dataset,
            records: vec![],
        },
        records: BTreeMap::new(),
        files,
    };
    for envelope in envelopes {
        let known = vec![hub.public().clone(), provider.public().clone(), sidecar.public().clone()];
        let record_id = envelope.record_id();
        let index = log.append(Submission { envelope: envelope.clone(), known }).await.unwrap();
        if record_id != hidden.record_id() {
            tenant.list.records.push(LoggedRecord { index, record_id });
            tenant.records.insert(record_id, LogEntry { index, envelope });
        }
    }
    let bundle = site.path("bundle");
    std::fs::create_dir(&bundle).unwrap();
    let wants = Wants { states: States::Taken, cosignatures: 1, patience: Duration::ZERO, head: None };
    make(&LogDir::new(site.path("log")), &tenant, &bundle, &wants).await.unwrap();
    open_seals(&bundle, openings);
    let log_key = log.key().to_string();
    let policy = site.at("policy");
    std::fs::write(&policy, format!("log {log_key}\nquorum none\n")).unwrap();
    World { site, bundle, policy, log_key, job: id }
}

/// What only the trainer's owner can add.
fn open_seals(bundle: &Path, openings: Vec<(Digest, Vec<u8>, Nonce)>) {
    let mut list = Bundle::parse(&std::fs::read(bundle.join(FILE)).unwrap()).unwrap();
    for (commit, records, salt) in openings {
        let file = FileRef::of(&records);
        std::fs::write(bundle.join(file.name()), records).unwrap();
        list.openings.push(OpeningRef { commit, records: file, salt });
    }
    list.openings.sort_by_key(|opening| opening.commit);
    std::fs::write(bundle.join(FILE), list.to_bytes().unwrap()).unwrap();
}

fn check(dir: &Path, policy: &str) -> Report {
    let trust =
        Trust::Policy { policy: std::fs::read_to_string(policy).unwrap().parse().unwrap(), hub: vec![] };
    let dir = Dir::new(dir);
    let mut report = verify_bundle(&dir, &trust, Options::default());
    if let Ok(list) = Bundle::parse(&std::fs::read(dir.path().join(FILE)).unwrap_or_default()) {
        states::check(&mut report, &dir, &list);
    }
    report
}

fn copied(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.path().join(entry.file_name())).unwrap();
    }
    to
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_stranger_checks_the_bundle() {
    let World { bundle, policy, job, .. } = &*WORLD;
    let ran = run(&["verify", "bundle", text(bundle), "--policy", policy]).succeeded();
    for words in
        ["result: holds", "0 of 6 intervals were replayed", "the tensors of 6 states", "the hub's word"]
    {
        assert!(ran.stdout.contains(words), "{words}: {ran:?}");
    }
    let ran = run(&["verify", "bundle", text(bundle), "--policy", policy, "--output", "json"]).succeeded();
    let report: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((report["outcome"].as_str(), report["counts"]["states"].as_u64()), (Some("holds"), Some(6)));
    let weak = run(&["verify", "bundle", text(bundle), "--trust-bundle"]).succeeded();
    assert!(weak.stdout.starts_with("WEAK"), "{weak:?}");
    let other = Digest::of(b"other").to_string();
    run(&["verify", "bundle", text(bundle), "--policy", policy, "--job-id", &job.0.to_string()]).succeeded();
    run(&["verify", "bundle", text(bundle), "--policy", policy, "--job-id", &other]).failed(1, &[]);
    let hub = key(1).key_id().to_string();
    run(&["verify", "bundle", text(bundle), "--policy", policy, "--hub-key", &hub]).succeeded();
    run(&["verify", "bundle", text(bundle), "--policy", policy, "--hub-key", &other]).failed(1, &[]);
    run(&["verify", "bundle", text(bundle)]).failed(2, &["--policy"]);
    run(&["verify", "bundle", "/nowhere", "--trust-bundle"]).failed(3, &[]);
}

#[test]
fn an_interval_is_replayed_from_genesis_and_from_a_state() {
    let World { site, bundle, policy, .. } = &*WORLD;
    for (interval, workers) in [("0", "1"), ("3", "2")] {
        let data = site.at("data");
        let arguments = [
            "replay",
            text(bundle),
            "--interval",
            interval,
            "--data",
            &data,
            "--policy",
            policy,
            "--workers",
            workers,
        ];
        let ran = run(&arguments).succeeded();
        assert!(ran.stdout.ends_with("step records are the same\nMatch\n"), "{ran:?}");
    }
    run(&["replay", text(bundle), "--interval", "6", "--data", &site.at("data"), "--policy", policy])
        .failed(2, &["6 intervals"]);
}

#[test]
fn the_whole_log_is_checked_and_must_continue_what_was_seen() {
    let World { site, policy, .. } = &*WORLD;
    let (log, kept) = (site.at("log"), site.at("kept"));
    run(&["verify", "log", "--dir", &log, "--policy", policy, "--keep", &kept]).succeeded();
    let ran = run(&["verify", "log", "--dir", &log, "--policy", policy, "--since", &kept]).succeeded();
    assert!(ran.stdout.contains("since"), "{ran:?}");
    let copy = tempfile::tempdir().unwrap();
    let ok = std::process::Command::new("cp").args(["-r", &format!("{log}/."), text(copy.path())]).status();
    assert!(ok.unwrap().success());
    let tile = copy.path().join("tile/0/000.p/14");
    let mut bytes = std::fs::read(&tile).unwrap();
    bytes[33] ^= 1;
    std::fs::write(&tile, bytes).unwrap();
    let ran = run(&["verify", "log", "--dir", text(copy.path()), "--policy", policy]).failed(1, &[]);
    assert!(ran.stdout.contains("tile/0/000.p/14"), "{ran:?}");
}

#[test]
fn a_tenants_witness_keeps_what_it_saw() {
    let World { site, log_key, .. } = &*WORLD;
    let (log, state) = (site.at("log"), site.at("witness"));
    let common = ["witness", "--dir", &log, "--state", &state, "--name", "example.com/team-a", "--once"];
    run(&common).failed(2, &["--log-key"]);
    let ran = run(&[&common[..], &["--log-key", log_key]].concat()).succeeded();
    assert!(ran.stdout.starts_with("14 sha256:"), "{ran:?}");
    run(&common).succeeded();
    let head = std::fs::read_to_string(Path::new(&state).join("checkpoint")).unwrap();
    assert!(head.contains("\u{2014} example.com/team-a "), "{head}");
}

#[test]
fn a_checkpoint_is_checked_by_itself() {
    let World { site, .. } = &*WORLD;
    let dir = site.at("out/checkpoints/step-00000008");
    run(&["verify", "checkpoint", &dir]).succeeded();
    run(&["verify", "checkpoint", &dir, "--state-root", &Digest::of(b"x").to_string()]).failed(1, &[]);
    let copy = copied(Path::new(&dir));
    let model = copy.path().join("model.safetensors");
    let mut bytes = std::fs::read(&model).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&model, bytes).unwrap();
    run(&["verify", "checkpoint", text(copy.path())]).failed(1, &[]);
    run(&["verify", "checkpoint", "/nowhere"]).failed(3, &[]);
}

/// xorshift64.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// Each of 200 bits, anywhere in the files; then each file removed, and each swapped with the next.
#[test]
fn whatever_is_changed_is_found_and_its_file_named() {
    let World { bundle, policy, .. } = &*WORLD;
    let copy = copied(bundle);
    let mut names: Vec<String> = std::fs::read_dir(bundle)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(check(copy.path(), policy).outcome, Outcome::Holds);
    let mut random = Random(0x5eed_5eed_5eed_5eed);
    let pick = |random: &mut Random| &names[random.below(names.len() as u64) as usize];
    for flip in 0..200 {
        let name = pick(&mut random);
        let path = copy.path().join(name);
        let good = std::fs::read(&path).unwrap();
        let bit = random.below(good.len() as u64 * 8);
        let mut bad = good.clone();
        bad[bit as usize / 8] ^= 1 << (bit % 8);
        std::fs::write(&path, bad).unwrap();
        let report = check(copy.path(), policy);
        assert_ne!(report.outcome, Outcome::Holds, "flip {flip}, bit {bit} of {name}:\n{report}");
        let mut blamed = report.checks.iter().filter(|check| check.outcome != Outcome::Holds);
        // A changed digest in the list names a file that is not there.
        let named =
            blamed.any(|check| check.file.as_deref() == Some(name) || (name == FILE && check.file.is_some()));
        assert!(named, "flip {flip}, bit {bit} of {name}:\n{report}");
        std::fs::write(&path, good).unwrap();
    }
    for (at, name) in names.iter().enumerate() {
        let (one, two) = (copy.path().join(name), copy.path().join(&names[(at + 1) % names.len()]));
        let (first, second) = (std::fs::read(&one).unwrap(), std::fs::read(&two).unwrap());
        std::fs::remove_file(&one).unwrap();
        let report = check(copy.path(), policy);
        assert!(report.checks.iter().any(|check| check.file.as_deref() == Some(name)), "{name}:\n{report}");
        std::fs::write(&one, &second).unwrap();
        std::fs::write(&two, &first).unwrap();
        assert_eq!(check(copy.path(), policy).outcome, Outcome::Refuted, "{name} swapped");
        std::fs::write(&one, first).unwrap();
        std::fs::write(&two, second).unwrap();
    }
    assert_eq!(check(copy.path(), policy).outcome, Outcome::Holds);
}
