//! A job that the real trainer computed, as if a hub had run it: all its records in a real log, and the bundle that its tenant
//! takes home. For the tests of a stranger's checks, and for `examples/bench_bundle.rs`, which asks how long they take.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::LocalBoxFuture;
use muster::bundle::logdir::LogDir;
use muster::bundle::make::{JobSource, MakeError, States, Wants, make};
use muster::gateway::history::Fold;
use muster::log::{Log, Submission};
use muster::wire::log::{JobRecords, LogEntry, LoggedRecord};
use muster_proof::bundle::{Bundle, FILE, FileRef, OpeningRef};
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

const ORIGIN: &str = "hub.example/log";
const UID: &str = "4f2a9c1b-0000-4000-8000-000000000000";

pub fn key(seed: u8) -> SigningKey {
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

/// What `muster local` has computed under `dir`: spec, checkpoints and records in `out`, the dataset in `data`.
pub struct Trained<'a> {
    pub dir: &'a Path,
    pub steps: u64,
    pub interval_steps: u64,
}

/// What was made of it: `log`, `bundle` and `policy` beside them.
pub struct Proved {
    pub bundle: PathBuf,
    pub policy: PathBuf,
    pub log_key: String,
    pub job: JobId,
}

/// The job's log and bundle.
pub async fn prove(trained: &Trained<'_>) -> Proved {
    let at = |name: &str| trained.dir.join(name);
    let (steps, interval_steps) = (trained.steps, trained.interval_steps);
    let spec = std::fs::read(at("out/spec.json")).unwrap();
    let dataset = std::fs::read(at("data/manifest.json")).unwrap();
    let genesis = jcs::parse(&spec).unwrap()["genesis"].as_str().unwrap().parse().unwrap();
    let mut files = BTreeMap::new();
    for (bytes, path) in [(&spec, "out/spec.json"), (&dataset, "data/manifest.json")] {
        files.insert(Digest::of(bytes), at(path));
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
        steps: Step::new(steps).unwrap(),
        interval_steps: IntervalSteps::new(interval_steps).unwrap(),
        stop_every_steps: None,
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
    for k in 0..steps / interval_steps {
        let (first, last) = job.steps_of(k).unwrap();
        let dir = at(&format!("out/checkpoints/step-{last:08}"));
        let bytes = std::fs::read(dir.join("manifest.json")).unwrap();
        let manifest = muster_trainer::checkpoint::Manifest::parse(&bytes).unwrap();
        files.insert(Digest::of(&bytes), dir.join("manifest.json"));
        files.extend(manifest.files().iter().map(|file| (file.sha256, dir.join(&file.path))));
        let records = records::read(&records::path(&at("out"), last), last).unwrap();
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
            ends: false,
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
    let log = Log::open(&at("log"), ORIGIN, Box::new(fold)).unwrap();
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
    let bundle = at("bundle");
    std::fs::create_dir(&bundle).unwrap();
    let wants = Wants { states: States::Taken, cosignatures: 1, patience: Duration::ZERO, head: None };
    make(&LogDir::new(at("log")), &tenant, &bundle, &wants).await.unwrap();
    open_seals(&bundle, openings);
    let log_key = log.key().to_string();
    let policy = at("policy");
    std::fs::write(&policy, format!("log {log_key}\nquorum none\n")).unwrap();
    Proved { bundle, policy, log_key, job: id }
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
