//! Members: an agent and its pods, as a model of what `crate::agent` does. It answers within seconds, tells the truth of what it
//! has, and remembers over anything that happens to the hub.
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::Duration;

use muster_api::v1alpha1::WorkUnit;
use muster_core::envelope::Payload;
use muster_proof::Digest;
use muster_proof::key::SigningKey;
use muster_proof::records::fields::{Attempt, Epoch, Interval, Island, JobId, Nonce, Rank, Step};
use muster_proof::records::{
    AuditOpening, AuditSeal, Commit, KeyBinding, Opening, Payload as _, audit_seal, record_seal,
};
use muster_testkit::api::Half;
use muster_testkit::clock;
use muster_trainer::checkpoint::{FILES, FileEntry, Manifest};
use serde_json::{Value, json};

use super::gateway::{self, Refusal};
use super::hub::image;
use super::world::{STEPS, World};
use crate::hub::job::gather;
use crate::hub::ledger::testing::identity;
use crate::hub::names::{LEASE, provider_namespace};

/// Between two looks: a heartbeat, and an interval of training.
const TICK: Duration = Duration::from_secs(5);

/// One member.
pub struct Member {
    pub name: &'static str,
    key: SigningKey,
    /// It does not reach the hub.
    pub cut: Cell<bool>,
    /// Its next attempt fails.
    pub fails: Cell<bool>,
    /// Its agent does nothing about units.
    pub sticks: Cell<bool>,
    /// An interval of it was wrong.
    pub lied: Cell<bool>,
    units: RefCell<BTreeMap<String, Training>>,
    /// What it has replayed: the last step, by assignment.
    replayed: RefCell<BTreeMap<Digest, u64>>,
}

/// A unit that trains.
#[derive(Clone)]
struct Training {
    step: u64,
    previous: Digest,
    phase: &'static str,
    attempt: u32,
}

/// The state after a step, as everybody honest computes it.
pub fn right(step: u64) -> Digest {
    Digest::of(format!("state {step}").as_bytes())
}

fn records() -> Digest {
    Digest::of(b"records")
}

/// All members, in turn.
pub async fn run(world: &World) {
    loop {
        for member in &world.members {
            tokio::time::sleep(TICK / u32::try_from(world.members.len()).unwrap_or(1)).await;
            if !member.cut.get() {
                member.tick(world).await;
            }
        }
    }
}

impl Member {
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            key: identity(name),
            cut: Cell::new(false),
            fails: Cell::new(false),
            sticks: Cell::new(false),
            lied: Cell::new(false),
            units: RefCell::default(),
            replayed: RefCell::default(),
        }
    }

    fn namespace(&self) -> String {
        provider_namespace(self.name)
    }

    async fn tick(&self, world: &World) {
        let namespace = self.namespace();
        let now = clock::now().unwrap_or_default();
        let lease = json!({"spec": {"renewTime": format!("{now:.6}"), "holderIdentity": self.name, "leaseDurationSeconds": 15}});
        world.update(("coordination.k8s.io", "leases"), Some(&namespace), LEASE, Half::Main, &lease);
        self.report(world);
        let units = world.in_namespace("workunits", &namespace).into_iter();
        let units: Vec<WorkUnit> = units.map(|unit| serde_json::from_value(unit).unwrap()).collect();
        self.units
            .borrow_mut()
            .retain(|name, _| units.iter().any(|unit| unit.metadata.name.as_ref() == Some(name)));
        for unit in units.iter().filter(|_| !self.sticks.get()) {
            let payload = gather::payload(unit).unwrap();
            match payload.audit.is_some() {
                true => self.audit(world, unit, &payload).await,
                false => self.train(world, unit, &payload).await,
            }
        }
        self.open(world).await;
    }

    /// What it lends.
    fn report(&self, world: &World) {
        let namespace = self.namespace();
        let Some(report) = world.in_namespace("providerreports", &namespace).pop() else { return };
        if report["status"]["devices"].is_array() {
            return;
        }
        let status = json!({"status": {
            "observedAt": clock::text(), "agentVersion": "0", "protocols": ["muster.unit/1"],
            "devices": [{"class": "cpu", "workers": world.story.lends, "idle": world.story.lends}],
            "accepts": {"images": [image()], "arithmetic": ["f32-chain"], "containers": "Never"},
        }});
        world.update(("muster.dev", "providerreports"), Some(&namespace), "report", Half::Status, &status);
    }

    fn say(&self, world: &World, unit: &WorkUnit, status: &Value) {
        let name = unit.metadata.name.clone().unwrap_or_default();
        let mut status = status.clone();
        status["observedGeneration"] = json!(unit.metadata.generation);
        let change = json!({"status": status});
        world.update(("muster.dev", "workunits"), Some(&self.namespace()), &name, Half::Status, &change);
    }

    /// One look at a unit that trains.
    async fn train(&self, world: &World, unit: &WorkUnit, payload: &Payload) {
        let name = payload.name.clone();
        let start = Training {
            step: payload.start.map_or(0, |start| u64::try_from(start.step).unwrap_or(0)),
            previous: payload.start_record,
            phase: "",
            attempt: 0,
        };
        let mut it = self.units.borrow().get(&name).cloned().unwrap_or(start);
        let desired = serde_json::to_value(unit.spec.desired).unwrap();
        let is_current = world.store.epoch(&payload.job_uid, payload.island).await.unwrap() <= payload.epoch;
        let ends = desired == "Stop" || unit.metadata.deletion_timestamp.is_some() || !is_current;
        let mut failure = Value::Null;
        let mut checkpoint = Value::Null;
        it.phase = match it.phase {
            "Released" => "Released",
            _ if ends => "Released",
            "" | "Starting" if desired == "Drain" => "Released",
            "" => {
                it.attempt = 1;
                "Starting"
            }
            "Starting" => "Running",
            "Running" if self.fails.take() => {
                failure = json!({"attempt": it.attempt, "rank": 0, "exitCode": 1, "reason": "Error", "message": "as it was told"});
                "Failed"
            }
            "Running" => match self.interval(world, payload, &mut it).await {
                Ok((manifest, root)) => {
                    checkpoint = json!({"step": it.step, "manifest": manifest, "stateRoot": root});
                    match it.step {
                        STEPS => "Succeeded",
                        _ if desired == "Drain" => "Released",
                        _ => "Running",
                    }
                }
                Err(Refusal::Superseded) => "Released",
                Err(Refusal::Refused(why)) => {
                    failure = json!({"attempt": it.attempt, "reason": "CommitRefused", "message": why});
                    "Failed"
                }
            },
            "Succeeded" | "Failed" if desired != "Run" => "Released",
            other => other,
        };
        let mut status = json!({"phase": it.phase, "attempt": it.attempt, "step": it.step});
        if !failure.is_null() {
            status["lastFailure"] = failure;
        }
        if !checkpoint.is_null() {
            status["checkpoint"] = checkpoint;
        }
        self.units.borrow_mut().insert(name, it);
        self.say(world, unit, &status);
    }

    /// Trains an interval and commits it; its manifest and its state's root.
    async fn interval(
        &self,
        world: &World,
        payload: &Payload,
        it: &mut Training,
    ) -> Result<(Digest, Digest), Refusal> {
        let steps = u64::try_from(payload.interval_steps).unwrap();
        let (interval, first, last) = (it.step / steps, it.step + 1, (it.step + steps).min(STEPS));
        let wrong = world.lie.take();
        let state_root = if wrong { Digest::of(b"wrong") } else { right(last) };
        let manifest = checkpoint(world, payload.training_digest, last, state_root).await;
        let job = JobId(payload.job);
        let (island, epoch) =
            (Island::new(0).unwrap(), Epoch::new(u64::try_from(payload.epoch).unwrap()).unwrap());
        let bound = self.bind(world, payload, (job, island, epoch)).await;
        let interval = Interval::new(interval).unwrap();
        let commit = Commit {
            job,
            island,
            epoch,
            interval,
            first_step: Step::new(first).unwrap(),
            last_step: Step::new(last).unwrap(),
            previous: it.previous,
            state_root,
            record_seal: record_seal(job, (island, epoch, interval), &records(), &Nonce::new([5; 32])),
            manifest,
            ends: false,
        };
        let envelope = commit.sign(&bound).unwrap();
        let record = envelope.record_id();
        gateway::commit(world, payload, last, manifest, envelope).await?;
        (it.step, it.previous) = (last, record);
        if wrong {
            self.lied.set(true);
        }
        Ok((manifest, state_root))
    }

    /// The sidecar's key, bound by the agent.
    async fn bind(
        &self,
        world: &World,
        payload: &Payload,
        (job, island, epoch): (JobId, Island, Epoch),
    ) -> SigningKey {
        let seed = *Digest::of(format!("{} {}", payload.name, self.name).as_bytes()).as_bytes();
        let key = SigningKey::generate(seed).unwrap();
        let binding = KeyBinding {
            job,
            island,
            epoch,
            unit: payload.name.parse().unwrap(),
            attempt: Attempt::new(1).unwrap(),
            rank: Rank::new(0).unwrap(),
            pod_uid: "6f2a9c1b-0000-4000-8000-000000000000".parse().unwrap(),
            key: key.public().clone(),
        };
        // One of a provider that was revoked is refused, and then so is the commit.
        let _ = world.log.append(binding.sign(&self.key).unwrap()).await;
        key
    }

    /// Replays what it is asked for, at once, and seals what it has found.
    async fn audit(&self, world: &World, unit: &WorkUnit, payload: &Payload) {
        let Some(audit) = &payload.audit else { return };
        let is_over = unit.spec.desired != muster_api::v1alpha1::Desired::Run
            || unit.metadata.deletion_timestamp.is_some();
        let phase = unit.status.as_ref().and_then(|status| status.phase);
        if is_over {
            self.say(world, unit, &json!({"phase": "Released", "attempt": 1}));
            return;
        }
        if phase.is_some() {
            return;
        }
        let last = u64::try_from(audit.last_step).unwrap();
        let (key, nonce) = (&self.key, Nonce::new([9; 32]));
        let seal = audit_seal(&audit.assignment, &key.key_id(), &right(last), &records(), &nonce);
        // One that was given up in the meantime is refused.
        let sealed = AuditSeal { audit: audit.assignment, seal }.sign(key).unwrap();
        let _ = world.log.append(sealed).await;
        self.replayed.borrow_mut().insert(audit.assignment, last);
        self.say(world, unit, &json!({"phase": "Succeeded", "attempt": 1}));
    }

    /// Shows what it has sealed, as far as it may.
    async fn open(&self, world: &World) {
        let key = &self.key;
        let due = world.log.shown.due(&self.name.parse().unwrap());
        for commit in due.openings {
            let opening = Opening { commit, record_root: records(), salt: Nonce::new([5; 32]) };
            let _ = world.log.append(opening.sign(key).unwrap()).await;
        }
        for audit in due.answers {
            let Some(last) = self.replayed.borrow().get(&audit).copied() else { continue };
            let opening = AuditOpening {
                audit,
                state_root: right(last),
                record_root: records(),
                nonce: Nonce::new([9; 32]),
            };
            let _ = world.log.append(opening.sign(key).unwrap()).await;
        }
    }
}

/// Uploads a checkpoint; its manifest. Nobody reads the files, so they are the same for all.
async fn checkpoint(world: &World, training: Digest, step: u64, state_root: Digest) -> Digest {
    let mut files = Vec::new();
    for path in FILES {
        let bytes = path.as_bytes().to_vec();
        let (path, size) = (path.to_owned(), bytes.len() as u64);
        files.push(FileEntry { path, size, sha256: world.store.put_bytes(bytes).await.unwrap() });
    }
    let manifest = Manifest::new(step, training, state_root, [1.0, 1.0], files).unwrap();
    world.store.put_bytes(manifest.to_bytes().unwrap()).await.unwrap()
}
