//! Providers, and the processes of their agents.
use std::sync::Arc;
use std::time::Duration;

use muster_proof::Digest;
use muster_proof::key::SigningKey;
use muster_proof::records::ProviderKey;
use muster_proof::records::fields::*;
use muster_proof::steps::{self, Bits, Records, StepRecord};
use muster_proof::tlog::note::{Algorithm, KeyName, NoteKey};
use muster_trainer::checkpoint::{FileEntry, Manifest, sign_files};
use muster_trainer::commit::{self, Reached};
use muster_trainer::protocol::Terms;
use tempfile::TempDir;

use super::super::records::{Liar, Lie};
use super::world::{Lent, ORIGIN, World, hub, island, text};
use crate::agent::answers::Answers;
use crate::agent::gateway::Gateway;
use crate::agent::hub_blobs::{HttpBlobs, HubBlobs};
use crate::agent::identity::Identity;
use crate::agent::relay::identity::Worker;
use crate::agent::relay::{bindings, terms};
use crate::agent::salt::Salts;
use crate::agent::session::Session;
use crate::agent::state::{self, StateDir, UnitState};
use crate::agent::units::{Unit, Units};
use crate::agent::{pin, upload};
use crate::log::client::HttpLog;
use crate::runtime::Shutdown;
use crate::runtime::blobdir::BlobDir;
use crate::store::testing::{state_files, state_manifest};

/// Somebody who lends, and what outlives his agent's process.
pub struct Provider {
    pub name: &'static str,
    pub owner: &'static str,
    dir: TempDir,
    pub identity: Arc<Identity>,
    pub session: Session,
}

impl Provider {
    /// Accepted, and its key is in the log.
    pub async fn new(world: &World, name: &'static str, owner: &'static str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let identity = Arc::new(Identity::open(dir.path()).unwrap());
        world.running.accept_key(name, identity.fingerprint()).await;
        let http = pin::pinned(&identity, world.running.authority.pem()).unwrap();
        let session = Session::new(Gateway::new(http, &world.running.url), identity.clone(), name);
        session.renew(0).await.unwrap();
        let seed = *Digest::of(name.as_bytes()).as_bytes();
        let witness = NoteKey::new(KeyName::new(name).unwrap(), Algorithm::CosignatureV1, seed);
        let record = ProviderKey {
            hub: text(ORIGIN),
            provider: text(name),
            owner: text(owner),
            key: identity.signing().public().clone(),
            witness: text(&witness.public().to_string()),
        };
        world.append(record.sign_both(&hub(), identity.signing()).unwrap()).await;
        Self { name, owner, dir, identity, session }
    }

    /// The agent's process, which lies or does not.
    pub async fn agent(&self, lie: Option<Lie>) -> Agent {
        let (root, key) = (self.dir.path(), self.identity.signing().clone());
        let http: Arc<dyn HubBlobs> = Arc::new(HttpBlobs::new(self.session.clone()));
        let log = Arc::new(HttpLog::new(self.session.clone()));
        let liar = lie.map(|lie| Arc::new(Liar::new(lie, http.clone(), log, key.clone())));
        Agent {
            units: Arc::new(Units::open(StateDir::open(root).unwrap()).unwrap()),
            blobs: Arc::new(BlobDir::open(&root.join("blobs")).await.unwrap()),
            answers: Arc::new(Answers::open(root, key.clone()).unwrap()),
            salts: Salts::open(root).unwrap(),
            hub: liar.clone().map_or(http, |liar| liar as Arc<dyn HubBlobs>),
            liar,
            key,
            shutdown: Shutdown::manual(),
        }
    }
}

/// One process of an agent; ends when it is dropped.
pub struct Agent {
    pub units: Arc<Units>,
    blobs: Arc<BlobDir>,
    pub answers: Arc<Answers>,
    salts: Salts,
    pub hub: Arc<dyn HubBlobs>,
    liar: Option<Arc<Liar>>,
    key: SigningKey,
    shutdown: Shutdown,
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.shutdown.trigger();
    }
}

impl Agent {
    /// What was lied, and what came of it.
    pub fn told(&self) -> Vec<super::Told> {
        self.liar.as_ref().unwrap().told()
    }

    /// The unit, in its first attempt; once more after a restart.
    pub async fn unit(&self, lent: &Lent) -> Arc<Unit> {
        let unit = self.units.ensure(&lent.payload.name);
        if unit.state().await.payload.is_none() {
            let payload = Some(lent.payload.clone());
            unit.update(|state| {
                *state = UnitState { uid: "u".to_owned(), payload, ..UnitState::default() };
                state.memory.attempt = 1;
            })
            .await
            .unwrap();
        }
        unit
    }

    /// The unit's next interval is trained and committed here, as relay and sidecar do it; its record id. Nothing of it is at the
    /// hub yet.
    pub async fn makes(&self, lent: &Lent) -> Digest {
        let unit = self.unit(lent).await;
        let (state, payload) = (unit.state().await, &lent.payload);
        let terms::Due { interval, first, last, previous } = terms::due(&state, payload).unwrap();
        let mut files = Vec::new();
        for (path, bytes) in state_files(last, "") {
            let (size, sha256) = (bytes.len() as u64, self.put(bytes).await);
            files.push(FileEntry { path, size, sha256 });
        }
        let bytes = state_manifest(payload.training_digest, last, "", files);
        let parsed = Manifest::parse(&bytes).unwrap();
        let state_root = parsed.state_root();
        let manifest = self.put(bytes).await;
        let epoch = payload.epoch.unsigned_abs();
        let of = steps::Interval { job: payload.job, island: 0, epoch, interval };
        let terms = Terms {
            job: JobId(payload.job),
            island: island(),
            epoch: Epoch::new(epoch).unwrap(),
            interval: Interval::new(interval).unwrap(),
            first_step: Step::new(first).unwrap(),
            last_step: Step::new(last).unwrap(),
            previous,
            salt: self.salts.of(&of),
        };
        let (records, sidecar) = (records_of(first, last), sidecar(lent));
        let model = sign_files(&parsed, &manifest, &sidecar).unwrap();
        let reached = Reached { state_root, manifest, ends: false };
        let notice = commit::sign(&terms, &records, reached, model, &sidecar).unwrap();
        let record = notice.commit.record_id();
        self.answers.keep_commit(&record, records.root(), terms.salt).unwrap();
        let step = last.cast_signed();
        let committed = crate::agent::commits::Committed {
            commit: notice.commit,
            model: notice.model,
            key: sidecar.public().clone(),
            records: notice.records,
        };
        unit.keep(step, committed).await.unwrap();
        let commit =
            state::Commit { step, manifest, state_root, record, attempt: 1, durable: false, ends: false };
        let pod = "6f2a9c1b-0000-4000-8000-000000000000".to_owned();
        let worker = Worker { unit: payload.name.clone(), attempt: 1, rank: 0, pod, address: None };
        let recorded = unit.update(|state| {
            bindings::ensure(state, &worker, sidecar.public(), &self.key).unwrap();
            state.checkpoints.push(commit);
        });
        recorded.await.unwrap();
        unit.committed.notify_one();
        record
    }

    async fn put(&self, bytes: Vec<u8>) -> Digest {
        let (digest, size) = (Digest::of(&bytes), bytes.len() as u64);
        let source = futures::stream::iter([Ok::<_, std::io::Error>(bytes.into())]);
        self.blobs.put(&digest, source, size).await.unwrap();
        digest
    }

    /// Brings the unit's checkpoints to the hub until all of them are there.
    pub async fn uploads(&self, lent: &Lent) {
        let unit = self.unit(lent).await;
        let newest = unit.state().await.newest().unwrap().step;
        let (units, blobs) = (self.units.clone(), self.blobs.clone());
        let (answers, hub) = (self.answers.clone(), self.hub.clone());
        let site = upload::Site { units, blobs, answers, hub };
        let mut durable = unit.durable.subscribe();
        let uploading = tokio::spawn(upload::run(unit, site, self.shutdown.clone()));
        let reached = durable.wait_for(|durable| *durable >= newest);
        tokio::time::timeout(Duration::from_secs(30), reached).await.unwrap().unwrap();
        uploading.abort();
    }

    /// The next interval, made and brought to the hub.
    pub async fn commits(&self, lent: &Lent) -> Digest {
        let record = self.makes(lent).await;
        self.uploads(lent).await;
        record
    }

    /// As if the agent had been killed before it knew that the hub has its commits.
    pub async fn forgets(&self, lent: &Lent) {
        let unit = self.unit(lent).await;
        let forget = |state: &mut UnitState| {
            state.checkpoints.iter_mut().for_each(|commit| commit.durable = false);
            state.bindings.values_mut().for_each(|binding| binding.logged = false);
        };
        unit.update(forget).await.unwrap();
    }
}

/// The key of the unit's sidecar.
pub fn sidecar(lent: &Lent) -> SigningKey {
    SigningKey::generate(*Digest::of(lent.payload.name.as_bytes()).as_bytes()).unwrap()
}

/// What anybody finds who computes these steps.
pub fn records_of(first: u64, last: u64) -> Records {
    let number = Bits::of(1.0);
    let record =
        |step| StepRecord { eval_loss: None, grad_norm: number, learning_rate: number, loss: number, step };
    Records::new(first, (first..=last).map(record).collect()).unwrap()
}
