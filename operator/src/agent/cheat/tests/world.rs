//! A gateway with a store and a log, and a hub that logs what it must.
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use muster_api::v1alpha1::WorkUnit;
use muster_core::envelope::{CheckpointRef, Payload};
use muster_numerics::spec::TrainingParameters;
use muster_proof::dsse::Envelope;
use muster_proof::history::History;
use muster_proof::key::SigningKey;
use muster_proof::records::fields::*;
use muster_proof::records::{self, *};
use muster_proof::selection::links;
use muster_proof::{Digest, hub_keys};
use serde_json::json;
use tempfile::TempDir;

use super::agents::Provider;
use crate::agent::testing;
use crate::gateway::access::Refusal;
use crate::gateway::history::Fold;
use crate::gateway::testing::{HUB_KEY, Running, urls};
use crate::gateway::units::{Work, router};
use crate::gateway::{Rooms, audits, log};
use crate::log::{Log, Submission};
use crate::store::Store;
use crate::store::testing::{dataset, model, team};

pub const ORIGIN: &str = "hub.example/log";
const CHAIN: u64 = 64;
/// Steps of a job and of an interval.
const STEPS: (i64, i64) = (60, 20);

/// WorkUnits by provider and name.
#[derive(Default)]
struct Given(Mutex<Vec<(String, WorkUnit)>>);

impl Work for Given {
    async fn unit(&self, provider: &str, name: &str) -> Result<Option<WorkUnit>, Refusal> {
        let units = self.0.lock().unwrap();
        let is_it =
            |(at, unit): &&(String, WorkUnit)| at == provider && unit.metadata.name.as_deref() == Some(name);
        Ok(units.iter().find(is_it).map(|(_, unit)| unit.clone()))
    }

    fn of_job(&self, job_uid: &str) -> Vec<WorkUnit> {
        let units = self.0.lock().unwrap();
        units.iter().map(|(_, unit)| unit.clone()).filter(|unit| unit.spec.job_uid == job_uid).collect()
    }

    fn settled(&self) -> Result<(), Refusal> {
        Ok(())
    }
}

pub struct World {
    pub running: Running,
    pub log: Arc<Log>,
    pub store: Arc<Store>,
    work: Arc<Given>,
    spec: Digest,
    dataset: Digest,
    _dir: TempDir,
}

/// A job in the log.
#[derive(Clone)]
pub struct Wanted {
    pub id: JobId,
    pub uid: String,
    record: Digest,
    pub seed: Digest,
}

/// A unit of a job, granted.
#[derive(Clone)]
pub struct Lent {
    pub payload: Payload,
    job: Wanted,
}

pub fn text<T: std::str::FromStr<Err = Unfit>>(text: &str) -> T {
    text.parse().unwrap()
}

pub fn island() -> Island {
    Island::new(0).unwrap()
}

/// The hub's key.
pub fn hub() -> SigningKey {
    SigningKey::generate(HUB_KEY).unwrap()
}

impl World {
    pub async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(dir.path().join("store").as_path()).await.unwrap());
        let dataset = dataset(&store, &team("team-a"), "kjv", &[b'a'; 5000]).await;
        let manifest = store.dataset_manifest(&dataset).await.unwrap().unwrap();
        let training: TrainingParameters = serde_json::from_value(json!({
            "steps": STEPS.0, "batch": 2, "shards": 2, "seed": 7, "arithmetic": "f32-chain",
            "optimizer": {"name": "adamw", "learningRate": "0.001", "beta1": "0.9", "beta2": "0.95",
                          "epsilon": "1e-8", "weightDecay": "0.1", "clipNorm": "1"},
            "schedule": {"name": "cosine", "warmupSteps": 2, "finalFraction": "0.1"},
        }))
        .unwrap();
        let spec = muster_trainer::resolved::resolved_spec(&model(), &training, &manifest).unwrap().1;
        let spec = store.put_bytes(spec).await.unwrap();
        let fold = Fold::new(text(ORIGIN), Arc::default());
        let shown = fold.shown();
        let log = Arc::new(Log::open(&dir.path().join("log"), ORIGIN, Box::new(fold)).unwrap());
        let work = Arc::<Given>::default();
        let running = Running::start_on(log.view().clone(), |_| Rooms {
            anyone: log::anyone(log.clone()),
            members: log::members(log.clone()),
            agents: router(store.clone(), work.clone(), urls(), log.clone()).merge(audits::router(shown)),
            ..Rooms::default()
        })
        .await;
        let world = Self { running, log, store, work, spec, dataset, _dir: dir };
        world.append(hub_keys::sign(1, &[hub().public()], &hub()).unwrap()).await;
        world
    }

    /// Logs what the hub has signed.
    pub async fn append(&self, envelope: Envelope) -> Digest {
        let record = envelope.record_id();
        self.log.append(Submission { envelope, known: vec![hub().public().clone()] }).await.unwrap();
        record
    }

    pub async fn say<P: records::Payload>(&self, record: &P) -> Digest {
        self.append(record.sign(&hub()).unwrap()).await
    }

    /// How many records there are.
    pub fn size(&self) -> u64 {
        self.log.view().published.size()
    }

    /// The log as anybody reads it: every record in it is accepted.
    pub fn history(&self) -> History {
        let (mut history, mut next) = (History::new(text(ORIGIN), None), 0);
        while next < self.size() {
            for (index, envelope) in self.log.records(next).unwrap() {
                history.apply(index, &envelope).unwrap();
                next = index + 1;
            }
        }
        history
    }

    /// The record ids of the job's commits that count.
    pub fn path(&self, job: &Wanted) -> Vec<Digest> {
        self.history().path(job.id, 0).iter().map(|interval| interval.record).collect()
    }

    pub async fn job(&self, name: &str, tier: Tier) -> Wanted {
        let seed = Digest::of(name.as_bytes());
        let uid = format!("{}-0000-4000-8000-000000000000", &seed.to_hex()[..8]);
        let job = Job {
            hub: text(ORIGIN),
            tenant: Digest::of(b"team-a"),
            job_uid: text(&uid),
            training_digest: Digest::of(b"job"),
            spec: self.spec,
            dataset: self.dataset,
            genesis: Digest::of(b"genesis"),
            steps: Step::new(STEPS.0.unsigned_abs()).unwrap(),
            interval_steps: IntervalSteps::new(STEPS.1.unsigned_abs()).unwrap(),
            stop_every_steps: None,
            islands: Islands::new(1).unwrap(),
            images: vec![Digest::of(b"image")],
            tier,
            deadline_seconds: None,
            price_micro_credits: None,
            beacon: Beacon { anchor: links(&seed, CHAIN), length: ChainLength::new(CHAIN).unwrap() },
            visibility: Visibility::Private,
        };
        let id = job_id(&records::Payload::to_payload(&job).unwrap());
        Wanted { id, uid, record: self.say(&job).await, seed }
    }

    /// Grants the job, where it is, and makes the unit.
    pub async fn grant(&self, job: &Wanted, provider: &Provider, epoch: u64) -> Lent {
        let start = match self.history().path(job.id, 0).last() {
            None => {
                Start { step: Step::new(0).unwrap(), state_root: Digest::of(b"genesis"), record: job.record }
            }
            Some(last) => Start {
                step: Step::new(last.last).unwrap(),
                state_root: last.state_root,
                record: last.record,
            },
        };
        let name = format!("{}-0-{epoch}", &job.uid[..8]);
        let grant = Grant {
            job: job.id,
            island: island(),
            epoch: Epoch::new(epoch).unwrap(),
            provider: text(provider.name),
            owner: text(provider.owner),
            unit: text(&name),
            kind: UnitKind::Train,
            start,
            price_micro_credits: None,
            deadline_seconds: None,
        };
        let grant = self.say(&grant).await;
        let step = start.step.get();
        let manifest = self.store.checkpoint(&job.uid, step).await.unwrap();
        let payload = Payload {
            name,
            provider: provider.name.to_owned(),
            job_uid: job.uid.clone(),
            job: job.id.0,
            epoch: epoch.cast_signed(),
            grant,
            start_record: start.record,
            start: manifest.map(|manifest| CheckpointRef { step: step.cast_signed(), manifest }),
            spec: self.spec,
            training_digest: Digest::of(b"job"),
            dataset: self.dataset,
            steps: STEPS.0,
            interval_steps: STEPS.1,
            keep_last: 10,
            ..testing::payload()
        };
        let bytes = muster_proof::jcs::serialize(&payload).unwrap();
        let unit = serde_json::from_value(json!({
            "apiVersion": "muster.dev/v1alpha1", "kind": "WorkUnit",
            "metadata": {"name": payload.name, "namespace": format!("muster-p-{}", provider.name)},
            "spec": {
                "kind": "Train", "jobUID": payload.job_uid, "island": 0, "epoch": epoch, "workers": 2,
                "envelope": {"payloadType": "x", "payload": STANDARD.encode(bytes), "signatures": []},
            },
        }));
        self.work.0.lock().unwrap().push((provider.name.to_owned(), unit.unwrap()));
        Lent { payload, job: job.clone() }
    }

    /// The job goes on elsewhere.
    pub async fn end(&self, lent: &Lent) {
        let epoch = Epoch::new(lent.payload.epoch.unsigned_abs()).unwrap();
        self.say(&GrantEnd { job: lent.job.id, island: island(), epoch, reason: GrantEndReason::Lost }).await;
    }

    /// The job's last state is its result.
    pub async fn end_job(&self, job: &Wanted) {
        let history = self.history();
        let last = history.path(job.id, 0).pop().unwrap();
        let last_step = Step::new(last.last).unwrap();
        let (state_root, record, outcome) = (last.state_root, last.record, Outcome::Completed);
        self.say(&JobEnd { job: job.id, last_step, state_root, record, outcome }).await;
    }
}
