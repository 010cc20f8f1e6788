//! A hub with its log, its store and its providers, and what everybody does in them.
use std::sync::Arc;
use std::time::Duration;

use muster_proof::records::fields::{Nonce, ProviderName};
use muster_proof::records::{AuditOpening, AuditSeal, Opening, Payload, Record, audit_seal};
use tempfile::TempDir;

use super::super::objects::Server;
use super::super::*;
use crate::hub::audit::Audits as Auditing;
use crate::hub::context::Context;
use crate::hub::job::{self as controller, Look};
use crate::hub::ledger::testing::{Local, To, commit_of, failure_of, identity, log_commit, log_key};
use crate::hub::ledger::{Ledger, grants};
use crate::hub::signer::Signer;
use crate::hub::state::State;
use crate::runtime::Shutdown;
use crate::store::Store;

pub const PATH: &str = "/apis/muster.dev/v1alpha1/namespaces/team-a/trainingjobs/kjv-gpt";
/// Enough for every draw: one trains, one is convicted, two replay, and a third where those differ.
pub const PROVIDERS: [(&str, &str); 5] =
    [("east", "acme"), ("north", "initech"), ("south", "umbra"), ("up", "hooli"), ("west", "globex")];

pub struct Site {
    pub ctx: Context,
    pub api: Server,
    pub log: Arc<Local>,
    pub audits: Auditing,
    _dir: TempDir,
}

/// What an auditor finds about an interval: its StateRoot and its record root.
pub type Finds = fn(interval: u64) -> (Digest, Digest);

pub fn right(_: u64) -> (Digest, Digest) {
    (Digest::of(b"state"), Digest::of(b"records"))
}

/// The last interval has the right state, and a false loss.
pub fn false_loss(interval: u64) -> (Digest, Digest) {
    let (state, records) = right(interval);
    (state, if interval == 2 { Digest::of(b"right records") } else { records })
}

/// So has the first, and nothing else.
pub fn false_start(interval: u64) -> (Digest, Digest) {
    let (state, records) = right(interval);
    (state, if interval == 0 { Digest::of(b"right records") } else { records })
}

impl Site {
    /// A job of three intervals with a tier is accepted; these providers are there.
    pub async fn new(providers: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (state, keys) = State::open(&dir.path().join("state")).unwrap();
        let (state, log, api) = (Arc::new(state), Local::new(keys.signer()), Server::default());
        let signer = Arc::new(Signer::new(keys.signer().clone(), state.clone()));
        let store = Arc::new(Store::open(dir.path().join("store").as_path()).await.unwrap());
        let ledger = Ledger::new(To(log.clone()), state.clone(), signer.clone());
        let image = format!("muster-trainer@{}", Digest::of(b"image")).parse().unwrap();
        let ctx = Context::new(api.client(), store, (signer, state), ledger, image);
        let site = Self { ctx, api, log, audits: Auditing::new(Duration::from_secs(3600)), _dir: dir };
        for (name, owner) in providers {
            site.provider(name, owner).await;
        }
        let text = |text: &str| Digest::of(text.as_bytes()).to_string();
        let resolved = json!({"spec": text("spec"), "dataset": text("dataset"), "genesis": text("genesis"),
            "image": text("image")});
        let mut job = json!({
            "apiVersion": "muster.dev/v1alpha1", "kind": "TrainingJob",
            "metadata": {"name": "kjv-gpt", "namespace": "team-a", "uid": UID, "generation": 1,
                "finalizers": ["muster.dev/job"]},
            "spec": {
                "model": {"architecture": "gpt2", "layers": 4, "width": 256, "heads": 4, "context": 256, "vocabulary": 256},
                "data": {"dataset": "kjv"},
                "training": {"steps": 60, "intervalSteps": 20, "batch": 8, "shards": 8},
                "assurance": {"tier": "Bronze"},
                "workers": {"count": 2},
            },
        });
        let parsed: TrainingJob = serde_json::from_value(job.clone()).unwrap();
        let resolved_of = serde_json::from_value(resolved.clone()).unwrap();
        let names = grants::job(&site.ctx, &parsed, &resolved_of, &text("job")).await.unwrap();
        job["status"] =
            json!({"trainingDigest": text("job"), "resolved": resolved, "jobID": names.id.to_string()});
        site.api.put(PATH, job);
        site
    }

    pub async fn provider(&self, name: &str, owner: &str) {
        log_key(&self.ctx, name, owner).await;
        let says = |kind: &str| {
            json!({"type": kind, "status": "True", "reason": "X", "message": "",
                "lastTransitionTime": "2026-11-26T06:00:00Z"})
        };
        self.api.put(
            &format!("/apis/muster.dev/v1alpha1/computeproviders/{name}"),
            json!({
                "apiVersion": "muster.dev/v1alpha1", "kind": "ComputeProvider", "metadata": {"name": name},
                "spec": {"owner": owner},
                "status": {"minEpoch": 1, "conditions": [says("Ready"), says("Connected")]},
            }),
        );
        let accepts =
            json!({"images": [Digest::of(b"image")], "arithmetic": ["f32-chain"], "containers": "Never"});
        self.api.put(
            &format!("/apis/muster.dev/v1alpha1/namespaces/muster-p-{name}/providerreports/report"),
            json!({
                "apiVersion": "muster.dev/v1alpha1", "kind": "ProviderReport",
                "metadata": {"name": "report", "namespace": format!("muster-p-{name}")},
                "status": {"devices": [{"class": "cpu", "workers": 8, "idle": 8}], "accepts": accepts},
            }),
        );
    }

    pub fn job(&self) -> TrainingJob {
        serde_json::from_value(self.api.get(PATH).unwrap()).unwrap()
    }

    /// One look of the job's controller.
    pub async fn look(&self) -> TrainingJobStatus {
        let job = self.job();
        controller::look(&Look::new(&self.ctx, &job).unwrap()).await.unwrap();
        self.api.get(PATH).map(|_| self.job().status.unwrap()).unwrap_or_default()
    }

    /// One pass of the audits.
    pub async fn pass(&mut self) {
        let job = self.job();
        self.audits.pass(&self.ctx, &[&job]).await.unwrap();
    }

    /// Audits until nothing changes any more; everybody does what is asked of him.
    pub async fn audit(&mut self, finds: Finds) {
        let id = grants::names(&self.ctx, UID).unwrap().id;
        for _ in 0..20 {
            let size = self.log.size();
            self.pass().await;
            let audits = self.ctx.follower.with(|history| history.audits(id).unwrap()).unwrap();
            for audit in audits.iter().filter(|audit| audit.verdict.is_none()) {
                for assign in audit.assigns.iter().filter(|assign| !assign.replaced && !assign.sealed) {
                    let key = identity(assign.auditor.as_str());
                    let (state, records) = finds(audit.interval);
                    let seal = audit_seal(&assign.id, &key.key_id(), &state, &records, &Nonce::new([7; 32]));
                    let seal = AuditSeal { audit: assign.id, seal }.sign(&key).unwrap();
                    self.ctx.ledger.submit("seal", &seal).await.unwrap();
                }
            }
            self.pass().await;
            for (provider, _) in PROVIDERS {
                self.open(provider, finds).await;
            }
            if self.log.size() == size {
                return;
            }
        }
        panic!("audits do not end");
    }

    /// A provider shows what it has sealed, as far as it may.
    pub async fn open(&self, provider: &str, finds: Finds) {
        let name: ProviderName = provider.parse().unwrap();
        self.ctx.follower.advance(&self.ctx.ledger).await.unwrap();
        let due = self.ctx.follower.with(|history| history.due(&name)).unwrap();
        let key = identity(provider);
        for commit in due.openings {
            let records = self.records_of(&commit).await;
            let opening = Opening { commit, record_root: records, salt: Nonce::new([5; 32]) };
            self.ctx.ledger.submit("opening", &opening.sign(&key).unwrap()).await.unwrap();
        }
        for audit in due.answers {
            let view = self.ctx.follower.with(|history| history.audit_of(&audit)).unwrap().unwrap();
            let (state_root, record_root) = finds(view.interval);
            let opening = AuditOpening { audit, state_root, record_root, nonce: Nonce::new([7; 32]) };
            self.ctx.ledger.submit("answer", &opening.sign(&key).unwrap()).await.unwrap();
        }
    }

    /// With what a commit was sealed: east lies about its losses.
    pub async fn records_of(&self, commit: &Digest) -> Digest {
        let (_, envelope) = self.ctx.ledger.entry(commit).await.unwrap().unwrap();
        match Record::parse(&envelope) {
            Ok(Record::Commit(it)) => records(it.interval.get(), it.epoch.get()),
            Ok(Record::Failure(it)) => records(it.interval.get(), it.epoch.get()),
            other => panic!("neither a commit nor a failure: {other:?}"),
        }
    }

    /// The unit of `epoch` says that step 47 is not finite, after its commits of the intervals before; the log has it.
    pub async fn fail(&self, epoch: u64) {
        let unit = self.unit(epoch);
        let provider =
            unit["metadata"]["namespace"].as_str().unwrap().trim_start_matches("muster-p-").to_owned();
        let id = grants::names(&self.ctx, UID).unwrap().id;
        self.ctx.follower.advance(&self.ctx.ledger).await.unwrap();
        let path = self.ctx.follower.with(|history| history.path(id, 0)).unwrap();
        let found = (Digest::of(b"state"), records(2, epoch));
        let of = (UID, epoch, provider.as_str());
        let failure = failure_of(&self.ctx, of, (2, 41, 47), path[1].record, found).await;
        self.ctx.ledger.submit("failure", &failure).await.unwrap();
    }

    /// It has ended so.
    pub fn say_not_finite(&self, epoch: u64) {
        self.say(epoch, "Failed", 46);
        let path = path_of(&self.unit(epoch));
        let said = json!({"attempt": 1, "rank": 0, "exitCode": 65, "reason": "NonFinite",
            "message": "worker 0: step 47: the gradient norm is not finite"});
        self.api.change(&path, &json!({"status": {"lastFailure": said}}));
    }

    /// The unit of `epoch` commits these intervals, as the gateway writes them down.
    pub async fn train(&self, epoch: u64, intervals: std::ops::Range<u64>) {
        let unit = self.unit(epoch);
        let provider =
            unit["metadata"]["namespace"].as_str().unwrap().trim_start_matches("muster-p-").to_owned();
        let start: WorkUnit = serde_json::from_value(unit).unwrap();
        let mut previous = payload(&start).unwrap().start_record;
        for interval in intervals {
            let (first, last) = (interval * 20 + 1, (interval + 1) * 20);
            let flavour = format!("of epoch {epoch}: ");
            let store = &self.ctx.store;
            let (manifest, _) =
                crate::store::testing::checkpoint(store, Digest::of(b"job"), last, &flavour).await;
            let envelope = commit_of(
                &self.ctx,
                (UID, epoch, &provider),
                (interval, first, last),
                previous,
                (Digest::of(b"state"), manifest, records(interval, epoch)),
            )
            .await;
            previous = log_commit(&self.ctx, UID, last, &envelope).await.record;
            store.record_checkpoint(UID, last, &manifest).await.unwrap();
        }
    }

    pub fn unit(&self, epoch: u64) -> Value {
        let units = self.api.all("workunits");
        let is = |unit: &&Value| unit["spec"]["kind"] == "Train" && unit["spec"]["epoch"] == epoch;
        units.iter().find(is).unwrap_or_else(|| panic!("no unit of epoch {epoch} in {units:?}")).clone()
    }

    /// The unit of `epoch` is there no more.
    pub fn remove(&self, epoch: u64) {
        let gone = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": []}});
        self.api.change(&path_of(&self.unit(epoch)), &gone);
    }

    pub fn say(&self, epoch: u64, phase: &str, step: u64) {
        self.api.change(
            &path_of(&self.unit(epoch)),
            &json!({"status": {"phase": phase, "attempt": 1, "step": step}}),
        );
    }

    pub fn kinds(&self) -> Vec<&'static str> {
        let entry = |record: &Digest| self.log.log.entry(record).unwrap().unwrap();
        let mut all: Vec<_> = self.log.records().iter().map(entry).collect();
        all.sort_by_key(|(index, _)| *index);
        all.into_iter().map(|(_, envelope)| Record::parse(&envelope).unwrap().kind()).collect()
    }

    pub fn count(&self, kind: &str) -> usize {
        self.kinds().into_iter().filter(|it| *it == kind).count()
    }

    pub async fn events(&self) -> Vec<String> {
        let over = Shutdown::manual();
        over.trigger();
        self.ctx.recorder.run(&over).await;
        self.api.all("events").iter().map(|event| event["reason"].as_str().unwrap().to_owned()).collect()
    }
}

fn path_of(unit: &Value) -> String {
    let part = |name: &str| unit["metadata"][name].as_str().unwrap();
    format!("/apis/muster.dev/v1alpha1/namespaces/{}/workunits/{}", part("namespace"), part("name"))
}

/// What a unit of this epoch has sealed: the first one lies about the losses of the last interval, if auditors say so.
pub fn records(interval: u64, epoch: u64) -> Digest {
    let text: &[u8] = if interval == 2 && epoch > 1 { b"right records" } else { b"records" };
    Digest::of(text)
}

pub fn verified(status: &TrainingJobStatus) -> String {
    let found = status.conditions.iter().find(|c| c.type_ == "Verified").unwrap();
    format!("{} {}", found.status, found.reason)
}
