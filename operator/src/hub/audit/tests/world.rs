//! A hub with a real log, and members whose agents do what a test wants of them.
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use muster_api::v1alpha1::{Audit, JobCheckpoint, TrainingJob, WorkUnit};
use muster_core::audits::JobAudits;
use muster_core::envelope;
use muster_proof::Digest;
use muster_proof::records::fields::{Nonce, Step};
use muster_proof::records::{
    AuditOpening, AuditSeal, GrantEndReason, Opening, Outcome, Payload as _, audit_seal, failed_root,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::api::Api;
use crate::hub::audit::Audits;
use crate::hub::context::Context;
use crate::hub::job::gather;
use crate::hub::ledger::grants::{Names, Next, end_job, grant, job};
use crate::hub::ledger::records::Who;
use crate::hub::ledger::testing::{Local, To, commit, failure_of, identity, log_commit, log_key};
use crate::hub::ledger::{Ledger, LedgerError};
use crate::hub::signer::Signer;
use crate::hub::state::State;
use crate::store::Store;
use crate::store::testing::checkpoint;

pub const JOB: &str = "4f2a9c1b-0000-4000-8000-000000000000";
const MUSTER: &str = "/apis/muster.dev/v1alpha1";
/// Longer than any test.
pub const HOUR: Duration = Duration::from_secs(3600);

/// What an auditor says came out of an interval that ends in this step.
pub type Says = fn(u64) -> Digest;

pub struct World {
    pub ctx: Context,
    pub api: Arc<Api>,
    pub log: Arc<Local>,
    pub audits: Audits,
    pub job: TrainingJob,
    pub names: Names,
    pub dir: TempDir,
    /// What each provider says when it replays; who is not here says nothing.
    pub says: BTreeMap<&'static str, Says>,
    /// Commits as they were logged: record, last step, provider.
    commits: Vec<(Digest, u64, &'static str)>,
}

/// The right state.
pub fn right(step: u64) -> Digest {
    Digest::of(format!("state {step}").as_bytes())
}

pub fn wrong(step: u64) -> Digest {
    Digest::of(format!("another state {step}").as_bytes())
}

/// The right state, of a job whose step 33 is not finite.
pub fn not_finite(step: u64) -> Digest {
    if step > 33 { failed_root(&right(32), Step::new(33).unwrap()) } else { right(step) }
}

fn digest(text: &str) -> String {
    Digest::of(text.as_bytes()).to_string()
}

fn training_job(assurance: Value) -> TrainingJob {
    serde_json::from_value(json!({
        "apiVersion": "muster.dev/v1alpha1", "kind": "TrainingJob",
        "metadata": {"name": "kjv-gpt", "namespace": "team-a", "uid": JOB, "generation": 1},
        "spec": {
            "model": {"architecture": "gpt2", "layers": 4, "width": 256, "heads": 4, "context": 256, "vocabulary": 256},
            "data": {"dataset": "kjv"},
            "training": {"steps": 40, "intervalSteps": 20, "batch": 8, "shards": 8},
            "workers": {"count": 2},
            "assurance": assurance,
        },
        "status": {
            "trainingDigest": digest("job"),
            "resolved": {
                "spec": digest("spec"), "dataset": digest("dataset"), "genesis": digest("genesis"),
                "image": digest("image"),
            },
        },
    }))
    .unwrap()
}

/// A hub on this state directory and log.
pub async fn hub(dir: &TempDir, log: Option<Arc<Local>>, api: &Arc<Api>) -> (Context, Arc<Local>) {
    let (state, keys) = State::open(&dir.path().join("state")).unwrap();
    let state = Arc::new(state);
    let log = log.unwrap_or_else(|| Local::new(keys.signer()));
    let signer = Arc::new(Signer::new(keys.signer().clone(), state.clone()));
    let store = Arc::new(Store::open(dir.path().join("store").as_path()).await.unwrap());
    let image = format!("muster-trainer@{}", Digest::of(b"image")).parse().unwrap();
    let ledger = Ledger::new(To(log.clone()), state.clone(), signer.clone());
    (Context::new(api.client(), store, (signer, state), ledger, image), log)
}

impl World {
    /// A job of tier Gold, and these providers, each of an owner of its own.
    pub async fn new(providers: &[&'static str]) -> Self {
        Self::with(providers, json!({"tier": "Gold"}), HOUR).await
    }

    pub async fn with(providers: &[&'static str], assurance: Value, patience: Duration) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let api = Arc::new(Api::default());
        let (ctx, log) = hub(&dir, None, &api).await;
        let mut training = training_job(assurance);
        let status = training.status.clone().unwrap();
        let names = job(&ctx, &training, &status.resolved.unwrap(), &digest("job")).await.unwrap();
        training.status.as_mut().unwrap().job_id = Some(names.id.0.to_string());
        let audits = Audits::new(patience);
        let (says, commits) = (BTreeMap::new(), Vec::new());
        let mut world = Self { ctx, api, log, audits, job: training, names, dir, says, commits };
        for provider in providers {
            world.join(provider).await;
        }
        world
    }

    async fn join(&mut self, name: &'static str) {
        let owner = format!("owner-of-{name}");
        log_key(&self.ctx, name, &owner).await;
        self.api.put(
            &format!("{MUSTER}/computeproviders/{name}"),
            json!({
                "apiVersion": "muster.dev/v1alpha1", "kind": "ComputeProvider", "metadata": {},
                "spec": {"owner": owner},
                "status": {"conditions": [{
                    "type": "Ready", "status": "True", "reason": "Connected", "message": "",
                    "lastTransitionTime": "2026-11-22T19:00:00Z",
                }]},
            }),
        );
        self.report(name, json!({}));
        self.says.insert(name, right);
    }

    /// What the provider's report accepts beside the image.
    pub fn report(&self, name: &str, more: Value) {
        let mut accepts = json!({"images": [digest("image")], "arithmetic": ["f32-chain"]});
        accepts.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.api.put(
            &format!("{MUSTER}/namespaces/muster-p-{name}/providerreports/report"),
            json!({
                "apiVersion": "muster.dev/v1alpha1", "kind": "ProviderReport", "metadata": {},
                "status": {"devices": [{"class": "cpu", "workers": 8, "idle": 8}], "accepts": accepts},
            }),
        );
    }

    /// The hub's own auditor renews its Lease for the n-th time.
    pub fn hub_auditor(&self, n: u32) {
        self.api.put(
            "/apis/coordination.k8s.io/v1/namespaces/muster-system/leases/muster-auditor",
            json!({
                "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {},
                "spec": {"renewTime": format!("2026-11-22T19:00:{n:02}.000000Z")},
            }),
        );
    }

    /// A grant of `epoch` to `provider`, from this state; the record that its first commit follows.
    pub async fn grant(&self, epoch: i64, provider: &str, start: Option<&JobCheckpoint>) -> Digest {
        let owner = format!("owner-of-{provider}");
        let who = Who { provider, owner: &owner };
        let next = Next { job_uid: JOB, island: 0, epoch, who, start };
        grant(&self.ctx, next, GrantEndReason::Lost).await.unwrap().start_record
    }

    /// Logs the state after an interval; its record and checkpoint.
    pub async fn commit(
        &mut self,
        (epoch, provider): (u64, &'static str),
        interval: u64,
        previous: Digest,
        root: Digest,
    ) -> (Digest, JobCheckpoint) {
        let (first, last) = (interval * 20 + 1, interval * 20 + 20);
        let flavour = if root == right(last) { "" } else { "other" };
        let (manifest, _) = checkpoint(&self.ctx.store, Digest::of(b"job"), last, flavour).await;
        let of = (JOB, epoch, provider);
        let envelope = commit(&self.ctx, of, (interval, first, last), previous, (root, manifest)).await;
        let entry = log_commit(&self.ctx, JOB, last, &envelope).await;
        self.commits.push((entry.record, last, provider));
        let checkpoint = JobCheckpoint {
            step: last as i64,
            state_root: root.to_string(),
            manifest: manifest.to_string(),
            log_index: Some(entry.index as i64),
        };
        (entry.record, checkpoint)
    }

    /// Logs that step 33 is not finite, after the first interval; the job's newest checkpoint.
    pub async fn fail(&mut self, (epoch, provider): (u64, &'static str)) -> JobCheckpoint {
        let start = self.grant(epoch as i64, provider, None).await;
        let (previous, newest) = self.commit((epoch, provider), 0, start, right(20)).await;
        let found = (right(32), Digest::of(b"records"));
        let failure = failure_of(&self.ctx, (JOB, epoch, provider), (1, 21, 33), previous, found).await;
        let entry = self.ctx.ledger.submit("failure", &failure).await.unwrap();
        self.commits.push((entry.record, 33, provider));
        newest
    }

    /// The whole job, trained by `provider`, whose last interval ends in this state.
    pub async fn train(&mut self, provider: &'static str, last: Digest) {
        let start = self.grant(1, provider, None).await;
        let (first, _) = self.commit((1, provider), 0, start, right(20)).await;
        let (_, newest) = self.commit((1, provider), 1, first, last).await;
        self.end(&newest).await.unwrap();
    }

    pub async fn end(&self, newest: &JobCheckpoint) -> Result<(), LedgerError> {
        end_job(&self.ctx, JOB, Some(newest), Outcome::Completed).await
    }

    /// After a rollback: the job's end was noted, and does not hold any more.
    pub async fn end_again(&self, record: Digest, newest: &JobCheckpoint) {
        use muster_proof::records::fields::Step;
        let end = muster_proof::records::JobEnd {
            job: self.names.id,
            last_step: Step::new(newest.step as u64).unwrap(),
            state_root: newest.state_root.parse().unwrap(),
            record,
            outcome: Outcome::Completed,
        };
        self.ctx.ledger.submit("end", &end.sign(&self.ctx.ledger.key()).unwrap()).await.unwrap();
    }

    pub async fn pass(&mut self) {
        self.audits.pass(&self.ctx, &[&self.job]).await.unwrap();
    }

    /// Units that auditors have, by provider.
    pub fn units(&self) -> Vec<(String, WorkUnit)> {
        let all = self.api.all("workunits").into_values();
        let all = all.map(|unit| serde_json::from_value::<WorkUnit>(unit).unwrap());
        all.map(|unit| (gather::payload(&unit).unwrap().provider, unit)).collect()
    }

    /// What an agent says of a unit.
    pub fn unit_status(&self, unit: &WorkUnit, status: Value) {
        let (namespace, name) = (unit.metadata.namespace.clone(), unit.metadata.name.clone());
        let path = format!("{MUSTER}/namespaces/{}/workunits/{}", namespace.unwrap(), name.unwrap());
        self.api.merge(&path, &json!({"status": status}));
    }

    /// Every auditor that says anything seals what it has been asked for, and everybody opens what is due.
    pub async fn members(&mut self) {
        self.ctx.follower.advance(&self.ctx.ledger).await.unwrap();
        let mut asked: Vec<(&'static str, Digest, u64)> = Vec::new();
        for (provider, unit) in self.units() {
            // As the agent reads it.
            let sealed: muster_proof::dsse::Envelope =
                serde_json::from_value(serde_json::to_value(&unit.spec.envelope).unwrap()).unwrap();
            let payload = envelope::open(&sealed, &[self.ctx.ledger.key().public().clone()]).unwrap();
            let audit = payload.audit.unwrap();
            if let Some((name, _)) = self.says.get_key_value(provider.as_str()) {
                asked.push((name, audit.assignment, audit.last_step as u64));
            }
        }
        for (provider, assignment, last) in asked {
            self.seal(provider, assignment, last).await;
        }
        self.open().await;
    }

    /// The hub's own auditor, which knows its assignments from the log.
    pub async fn hub_replays(&mut self) {
        self.ctx.follower.advance(&self.ctx.ledger).await.unwrap();
        let due = self.ctx.follower.with(|history| history.due(&"hub".parse().unwrap())).unwrap();
        let audits = self.ctx.follower.with(|history| history.audits(self.names.id).unwrap()).unwrap();
        self.says.insert("hub", right);
        for assignment in due.replays {
            let of = |audit: &&muster_proof::history::AuditView| {
                audit.assigns.iter().any(|assign| assign.id == assignment)
            };
            let last = audits.iter().find(of).unwrap().last_step;
            self.seal("hub", assignment, last).await;
        }
        self.open().await;
    }

    fn key(&self, provider: &str) -> muster_proof::key::SigningKey {
        if provider == "hub" { self.ctx.ledger.key() } else { identity(provider) }
    }

    async fn seal(&self, provider: &'static str, assignment: Digest, last: u64) {
        let says = self.says[provider];
        let key = self.key(provider);
        let (records, nonce) = (Digest::of(b"records"), Nonce::new([9; 32]));
        let seal = audit_seal(&assignment, &key.key_id(), &says(last), &records, &nonce);
        let seal = AuditSeal { audit: assignment, seal }.sign(&key).unwrap();
        // Sealed before, or nobody's business any more.
        let _ = self.ctx.ledger.submit("seal", &seal).await;
    }

    async fn open(&self) {
        self.ctx.follower.advance(&self.ctx.ledger).await.unwrap();
        let (records, nonce) = (Digest::of(b"records"), Nonce::new([9; 32]));
        let audits = self.ctx.follower.with(|history| history.audits(self.names.id).unwrap()).unwrap();
        for (provider, says) in &self.says {
            let due = self.ctx.follower.with(|history| history.due(&provider.parse().unwrap())).unwrap();
            for commit in due.openings {
                let opening = Opening { commit, record_root: records, salt: Nonce::new([5; 32]) };
                let opening = opening.sign(&self.key(provider)).unwrap();
                self.ctx.ledger.submit("opening", &opening).await.unwrap();
            }
            for audit in due.answers {
                let of = audits.iter().find(|it| it.assigns.iter().any(|assign| assign.id == audit));
                let last = of.unwrap().last_step;
                let answer = AuditOpening { audit, state_root: says(last), record_root: records, nonce };
                let answer = answer.sign(&self.key(provider)).unwrap();
                self.ctx.ledger.submit("answer", &answer).await.unwrap();
            }
        }
    }

    /// Passes and members in turn, until nothing is open; what it has come to.
    pub async fn settle(&mut self) -> Arc<JobAudits> {
        for _ in 0..30 {
            self.pass().await;
            if self.book().settled {
                return self.book();
            }
            self.members().await;
        }
        panic!("never settled: {:?}", self.book());
    }

    pub fn book(&self) -> Arc<JobAudits> {
        self.ctx.audits.of(JOB).unwrap()
    }

    /// Audit objects in the order of the log.
    pub fn objects(&self) -> Vec<Audit> {
        let all = self.api.all("audits").into_values();
        let mut all: Vec<Audit> = all.map(|audit| serde_json::from_value(audit).unwrap()).collect();
        let index = |audit: &Audit| {
            let name = audit.metadata.name.clone().unwrap();
            name.rsplit('-').next().unwrap().parse::<u64>().unwrap()
        };
        all.sort_by_key(index);
        all
    }

    /// Condition and reason of an object.
    pub fn condition(audit: &Audit, kind: &str) -> String {
        let conditions = &audit.status.as_ref().unwrap().conditions;
        let found = conditions.iter().find(|c| c.type_ == kind).unwrap();
        format!("{} {}", found.status, found.reason)
    }
}
