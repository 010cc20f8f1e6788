//! A job and its audits over a real log and a real store: what the log says, the job does. Only the API server is a fake, and
//! nobody computes anything.
use std::sync::Arc;
use std::time::Duration;

use jiff::ToSpan as _;
use muster_proof::records::fields::{Nonce, ProviderName};
use muster_proof::records::{AuditOpening, AuditSeal, Opening, Payload, Record, VerdictKind, audit_seal};
use tempfile::TempDir;

use super::objects::Server;
use super::*;
use crate::hub::audit::Audits as Auditing;
use crate::hub::context::Context;
use crate::hub::job::{self as controller, Look};
use crate::hub::ledger::testing::{Local, To, commit_of, identity, log_commit, log_key};
use crate::hub::ledger::{Ledger, grants};
use crate::hub::signer::Signer;
use crate::hub::state::State;
use crate::store::Store;

const PATH: &str = "/apis/muster.dev/v1alpha1/namespaces/team-a/trainingjobs/kjv-gpt";
const PROVIDERS: [(&str, &str); 3] = [("east", "acme"), ("north", "initech"), ("west", "globex")];

struct Site {
    ctx: Context,
    api: Server,
    log: Arc<Local>,
    audits: Auditing,
    _dir: TempDir,
}

/// What an auditor finds about an interval: its StateRoot and its record root.
type Finds = fn(interval: u64) -> (Digest, Digest);

fn right(_: u64) -> (Digest, Digest) {
    (Digest::of(b"state"), Digest::of(b"records"))
}

/// The last interval has the right state, and a false loss.
fn false_loss(interval: u64) -> (Digest, Digest) {
    let (state, records) = right(interval);
    (state, if interval == 2 { Digest::of(b"right records") } else { records })
}

/// So has the first, and nothing else.
fn false_start(interval: u64) -> (Digest, Digest) {
    let (state, records) = right(interval);
    (state, if interval == 0 { Digest::of(b"right records") } else { records })
}

impl Site {
    /// A job of three intervals with a tier is accepted; these providers are there.
    async fn new(providers: &[(&str, &str)]) -> Self {
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

    async fn provider(&self, name: &str, owner: &str) {
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

    fn job(&self) -> TrainingJob {
        serde_json::from_value(self.api.get(PATH).unwrap()).unwrap()
    }

    /// One look of the job's controller.
    async fn look(&self) -> TrainingJobStatus {
        let job = self.job();
        controller::look(&Look::new(&self.ctx, &job).unwrap()).await.unwrap();
        self.api.get(PATH).map(|_| self.job().status.unwrap()).unwrap_or_default()
    }

    /// One pass of the audits.
    async fn pass(&mut self) {
        let job = self.job();
        self.audits.pass(&self.ctx, &[&job]).await.unwrap();
    }

    /// Audits until nothing changes any more; everybody does what is asked of him.
    async fn audit(&mut self, finds: Finds) {
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
    async fn open(&self, provider: &str, finds: Finds) {
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
    async fn records_of(&self, commit: &Digest) -> Digest {
        let (_, envelope) = self.ctx.ledger.entry(commit).await.unwrap().unwrap();
        let Ok(Record::Commit(commit)) = Record::parse(&envelope) else { panic!("a commit") };
        records(commit.interval.get(), commit.epoch.get())
    }

    /// The unit of `epoch` commits these intervals, as the gateway writes them down.
    async fn train(&self, epoch: u64, intervals: std::ops::Range<u64>) {
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

    fn unit(&self, epoch: u64) -> Value {
        let units = self.api.all("workunits");
        let is = |unit: &&Value| unit["spec"]["kind"] == "Train" && unit["spec"]["epoch"] == epoch;
        units.iter().find(is).unwrap_or_else(|| panic!("no unit of epoch {epoch} in {units:?}")).clone()
    }

    fn say(&self, epoch: u64, phase: &str, step: u64) {
        let unit = self.unit(epoch);
        let namespace = unit["metadata"]["namespace"].as_str().unwrap();
        let path = format!(
            "/apis/muster.dev/v1alpha1/namespaces/{namespace}/workunits/{}",
            unit["metadata"]["name"].as_str().unwrap()
        );
        self.api.change(&path, &json!({"status": {"phase": phase, "attempt": 1, "step": step}}));
    }

    fn kinds(&self) -> Vec<&'static str> {
        let entry = |record: &Digest| self.log.log.entry(record).unwrap().unwrap();
        let mut all: Vec<_> = self.log.records().iter().map(entry).collect();
        all.sort_by_key(|(index, _)| *index);
        all.into_iter().map(|(_, envelope)| Record::parse(&envelope).unwrap().kind()).collect()
    }

    fn count(&self, kind: &str) -> usize {
        self.kinds().into_iter().filter(|it| *it == kind).count()
    }

    fn events(&self) -> Vec<String> {
        self.api.all("events").iter().map(|event| event["reason"].as_str().unwrap().to_owned()).collect()
    }
}

/// What a unit of this epoch has sealed: the first one lies about the losses of the last interval, if auditors say so.
fn records(interval: u64, epoch: u64) -> Digest {
    let text: &[u8] = if interval == 2 && epoch > 1 { b"right records" } else { b"records" };
    Digest::of(text)
}

fn verified(status: &TrainingJobStatus) -> String {
    let found = status.conditions.iter().find(|c| c.type_ == "Verified").unwrap();
    format!("{} {}", found.status, found.reason)
}

#[tokio::test]
async fn an_honest_job_settles_and_then_succeeds() {
    let mut site = Site::new(&PROVIDERS).await;
    let status = site.look().await;
    assert!(site.api.all("workunits").is_empty(), "nothing is placed before the log was read");
    assert_eq!(status.phase, Some(TrainingJobPhase::Placing));
    site.pass().await;
    site.look().await;
    site.say(1, "Running", 10);
    assert_eq!(site.look().await.phase, Some(TrainingJobPhase::Running));
    site.train(1, 0..3).await;
    site.say(1, "Succeeded", 60);
    for _ in 0..2 {
        let status = site.look().await;
        assert_eq!(status.phase, Some(TrainingJobPhase::Settling));
        assert_eq!(status.result.unwrap().step, 60);
        assert_eq!((site.count("grant-end"), site.count("job-end")), (1, 1));
    }
    site.audit(right).await;
    let status = site.look().await;
    assert_eq!(status.phase, Some(TrainingJobPhase::Succeeded));
    assert_eq!(verified(&status), "True AllDrawnMatched");
    let audits = status.audits.unwrap();
    assert_eq!((audits.matched, audits.faults, audits.open), (audits.drawn, Some(0), Some(0)));
    assert!(audits.drawn >= Some(3), "the first, the last, and one of the window");
    assert_eq!(site.events().iter().filter(|reason| *reason == "RolledBack").count(), 0);
    site.look().await;
}

#[tokio::test]
async fn a_fault_takes_the_job_back_and_it_ends_right_elsewhere() {
    let mut site = Site::new(&PROVIDERS).await;
    site.pass().await;
    site.look().await;
    site.train(1, 0..3).await;
    site.say(1, "Succeeded", 60);
    let status = site.look().await;
    assert_eq!((status.phase, status.providers.as_deref()), (Some(TrainingJobPhase::Settling), Some("east")));
    let before = site.ctx.store.checkpoint(UID, 60).await.unwrap().unwrap();
    site.audit(false_loss).await;
    let book = site.ctx.audits.of(UID).unwrap();
    let rollback = book.rollback.clone().unwrap();
    assert_eq!((rollback.step, rollback.provider.as_deref()), (40, Some("east")));

    let status = site.look().await;
    assert_eq!((status.phase, status.result.clone()), (Some(TrainingJobPhase::Recovering), None));
    assert_eq!(status.checkpoint.unwrap().step, 40);
    let progressing = status.conditions.iter().find(|c| c.type_ == "Progressing").unwrap();
    assert_eq!(progressing.reason, "FaultFound");
    let index = format!("log index {}", rollback.verdict_index);
    for part in ["provider east", "interval 2", &index] {
        assert!(progressing.message.contains(part), "{}", progressing.message);
    }
    assert!(site.events().contains(&"RolledBack".to_owned()), "{:?}", site.events());
    assert_eq!(site.ctx.store.checkpoint(UID, 60).await.unwrap(), None, "forgotten");
    assert!(!site.ctx.store.noted_end(UID).await.unwrap());
    let epoch = status.islands[0].epoch.unwrap();
    assert!(epoch >= rollback.epoch && status.restarts.is_none());
    let epoch = u64::try_from(epoch).unwrap();
    assert_eq!(site.unit(1)["spec"]["desired"], "Stop");
    let heir: WorkUnit = serde_json::from_value(site.unit(epoch)).unwrap();
    assert_ne!(heir.metadata.namespace.as_deref(), Some("muster-p-east"), "never where it was convicted");
    assert_eq!(payload(&heir).unwrap().start.unwrap().step, 40);

    // The state was right all along: the job comes to it a second time, and its second end is a record of its own.
    site.train(epoch, 2..3).await;
    let after = site.ctx.store.checkpoint(UID, 60).await.unwrap().unwrap();
    assert_ne!(before, after);
    site.say(epoch, "Succeeded", 60);
    let status = site.look().await;
    assert_eq!((status.phase, site.count("job-end")), (Some(TrainingJobPhase::Settling), 2));
    site.audit(false_loss).await;
    let status = site.look().await;
    assert_eq!(status.phase, Some(TrainingJobPhase::Succeeded), "{:?}", site.ctx.audits.of(UID));
    assert_eq!((verified(&status).as_str(), site.count("rollback")), ("True AllDrawnMatched", 1));
    assert_eq!(status.result.unwrap().manifest, after.to_string());
}

#[tokio::test]
async fn nobody_trains_what_nobody_can_audit() {
    let mut site = Site::new(&[("east", "acme"), ("east-two", "acme")]).await;
    site.pass().await;
    let status = site.look().await;
    assert!(site.api.all("workunits").is_empty());
    assert_eq!(status.phase, Some(TrainingJobPhase::Pending));
    let placed = status.conditions.iter().find(|c| c.type_ == "Placed").unwrap();
    assert_eq!((placed.status.as_str(), placed.reason.as_str()), ("False", "NoAuditors"));
    assert!(
        placed.message.starts_with("0 eligible auditors of 2 providers: 2 of acme"),
        "{}",
        placed.message
    );
    site.ctx.audits.set_hub_auditor(true);
    site.look().await;
    assert_eq!(site.api.all("workunits").len(), 1, "the hub's own is enough");
    let mut site = Site::new(&[("east", "acme")]).await;
    site.pass().await;
    site.look().await;
    site.provider("west", "globex").await;
    site.look().await;
    assert_eq!(site.api.all("workunits").len(), 1);
}

#[tokio::test]
async fn a_convicted_owner_alone_waits() {
    let mut site =
        Site::new(&[("east", "acme"), ("east-two", "acme"), ("north", "initech"), ("west", "globex")]).await;
    site.pass().await;
    site.look().await;
    site.train(1, 0..3).await;
    site.look().await;
    site.audit(false_loss).await;
    for name in ["north", "west"] {
        let path = format!("/apis/muster.dev/v1alpha1/computeproviders/{name}");
        site.api.change(&path, &json!({"spec": {"scheduling": "Cordoned"}}));
    }
    let status = site.look().await;
    assert_eq!(status.phase, Some(TrainingJobPhase::Recovering));
    let placed = status.conditions.iter().find(|c| c.type_ == "Placed").unwrap();
    assert_eq!((placed.status.as_str(), placed.reason.as_str()), ("False", "NoneEligible"));
    assert!(placed.message.contains("1 convicted of a fault in this job"), "{}", placed.message);
    assert!(placed.message.contains("1 of an owner that was convicted"), "{}", placed.message);
}

#[tokio::test]
async fn a_deleted_job_goes_when_its_audits_are_done() {
    let mut site = Site::new(&PROVIDERS).await;
    site.pass().await;
    site.look().await;
    site.train(1, 0..2).await;
    site.say(1, "Released", 40);
    let now = site.ctx.now();
    let just = now.checked_sub(5.seconds()).unwrap().to_string();
    site.api.change(PATH, &json!({"metadata": {"deletionTimestamp": just}}));
    site.look().await;
    assert_eq!(site.count("job-end"), 1);
    assert!(site.api.get(PATH).is_some(), "its audits are not done");
    assert!(!site.ctx.store.checkpoints(UID).await.unwrap().is_empty());
    site.audit(right).await;
    let id = grants::names(&site.ctx, UID).unwrap().id;
    let audits = site.ctx.follower.with(|history| history.audits(id).unwrap()).unwrap();
    assert!(!audits.is_empty());
    assert!(audits.iter().all(|it| it.verdict.as_ref().is_some_and(|v| v.kind == VerdictKind::Match)));
    // The units of auditors are let go with it.
    for unit in site.api.all("workunits").iter().filter(|unit| unit["spec"]["kind"] == "Audit") {
        let (namespace, name) = (&unit["metadata"]["namespace"], &unit["metadata"]["name"]);
        let path = format!(
            "/apis/muster.dev/v1alpha1/namespaces/{}/workunits/{}",
            namespace.as_str().unwrap(),
            name.as_str().unwrap()
        );
        site.api.change(&path, &json!({"status": {"phase": "Released"}}));
    }
    site.look().await;
    assert!(site.api.get(PATH).is_none() && site.api.all("workunits").is_empty());
    assert!(site.ctx.store.checkpoints(UID).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_deleted_job_does_not_wait_for_ever() {
    let mut site = Site::new(&PROVIDERS).await;
    site.pass().await;
    site.look().await;
    site.train(1, 0..2).await;
    site.say(1, "Released", 40);
    let long = site.ctx.now().checked_sub(300.seconds()).unwrap().to_string();
    site.api.change(PATH, &json!({"metadata": {"deletionTimestamp": long}}));
    site.look().await;
    assert!(site.api.get(PATH).is_none());
    assert_eq!(site.count("job-end"), 1);
}

#[tokio::test]
async fn a_failed_job_is_audited_on_and_its_end_is_corrected() {
    let mut site = Site::new(&PROVIDERS).await;
    site.pass().await;
    site.look().await;
    site.train(1, 0..2).await;
    site.api.change(PATH, &json!({"spec": {"activeDeadlineSeconds": 1}, "status": {"activeSeconds": 5}}));
    assert_eq!(site.look().await.phase, Some(TrainingJobPhase::Failed), "at once");
    site.say(1, "Released", 40);
    let status = site.look().await;
    assert_eq!((verified(&status).as_str(), site.count("job-end")), ("Unknown AuditsOpen", 1));
    site.audit(false_start).await;
    // The fault has undone its end in the log as well.
    let status = site.look().await;
    assert_eq!((status.phase, site.count("job-end")), (Some(TrainingJobPhase::Failed), 2));
    assert!(site.ctx.store.checkpoints(UID).await.unwrap().is_empty());
    site.audit(false_start).await;
    let status = site.look().await;
    assert!(site.ctx.audits.of(UID).unwrap().settled, "{:?}", site.ctx.audits.of(UID));
    assert_eq!(
        (status.phase, verified(&status).as_str()),
        (Some(TrainingJobPhase::Failed), "True AllDrawnMatched")
    );
    // The window's draw may have hit the same interval.
    assert!(status.audits.unwrap().faults >= Some(1));
    assert_eq!(site.api.all("workunits").iter().filter(|unit| unit["spec"]["kind"] == "Train").count(), 1);
}
