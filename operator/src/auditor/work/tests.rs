//! The hub's auditor over a real log and a real store; only the trainer is a fake.
use std::collections::BTreeMap;
use std::sync::Mutex;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use muster_proof::history::{Field, Open, Todo};
use muster_proof::records::fields::{Attempt, Epoch, Interval, Island, Rank, Step};
use muster_proof::records::{
    Commit, Grant, Job, JobEnd, JobId, KeyBinding, Opening, Outcome, Start, Tier, UnitKind, job_id,
    record_seal, unit_name,
};
use muster_proof::selection::links;
use tempfile::TempDir;

use super::*;
use crate::auditor::Laid;
use crate::auditor::fetch::tests::{inputs, state};
use crate::hub::ledger::testing::{Local, To, identity, job_record, own_record};

/// Says what each interval comes to, by its last step; the honest numbers are those that were committed.
#[derive(Default)]
struct Fake {
    came: Mutex<BTreeMap<u64, Computed>>,
    asked: Mutex<Vec<Laid>>,
}

impl Replay for Arc<Fake> {
    fn replay(&self, laid: Laid, _: Shutdown) -> BoxFuture<'static, Result<Computed, String>> {
        let came = self.came.lock().unwrap().get(&laid.last).copied();
        self.asked.lock().unwrap().push(laid);
        async move { came.ok_or_else(|| "the trainer ended early".to_owned()) }.boxed()
    }
}

struct World {
    dir: TempDir,
    log: Arc<Local>,
    store: Arc<Store>,
    ledger: Ledger,
    follower: Follower,
    job: Job,
    id: JobId,
    fake: Arc<Fake>,
    commits: BTreeMap<Digest, (u64, Digest)>,
}

fn salt() -> Nonce {
    Nonce::new([5; 32])
}

impl World {
    /// East has trained all of a job of three intervals; nobody is there to audit it but the hub.
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (state, keys) = State::open(&dir.path().join("hub")).unwrap();
        let (state, log) = (Arc::new(state), Local::new(keys.signer()));
        let signer = Arc::new(Signer::new(keys.signer().clone(), state.clone()));
        let store = Arc::new(Store::open(dir.path().join("store").as_path()).await.unwrap());
        let (spec, dataset) = inputs(&store).await;
        let job = Job { tier: Tier::Gold, spec, dataset, ..job_record() };
        let id = job_id(&job.to_payload().unwrap());
        let ledger = Ledger::new(To(log.clone()), state, signer);
        let (follower, fake, commits) = Default::default();
        let mut world = Self { dir, log, store, ledger, follower, job, id, fake, commits };
        world.train().await;
        world
    }

    async fn submit(&self, envelope: &Envelope) -> Digest {
        self.ledger.submit("a record", envelope).await.unwrap().record
    }

    async fn hub(&self, record: &impl records::Payload) -> Digest {
        self.submit(&record.sign(&self.ledger.key()).unwrap()).await
    }

    async fn train(&mut self) {
        let own = own_record("east", "acme");
        let both = Envelope::sign(own.payload_type(), own.unverified_payload(), &self.ledger.key()).unwrap();
        self.submit(&both.with_signatures_of(&own).unwrap()).await;
        let record = self.hub(&self.job).await;
        let (island, epoch) = (Island::new(0).unwrap(), Epoch::new(1).unwrap());
        let unit = unit_name(&self.job.job_uid, island, epoch).parse().unwrap();
        let genesis = Start { step: Step::new(0).unwrap(), state_root: self.job.genesis, record };
        let grant = Grant {
            job: self.id,
            island,
            epoch,
            provider: "east".parse().unwrap(),
            owner: "acme".parse().unwrap(),
            unit,
            kind: UnitKind::Train,
            start: genesis,
            price_micro_credits: None,
            deadline_seconds: None,
        };
        self.hub(&grant).await;
        let bound = SigningKey::generate([9; 32]).unwrap();
        let binding = KeyBinding {
            job: self.id,
            island,
            epoch,
            unit: grant.unit,
            attempt: Attempt::new(1).unwrap(),
            rank: Rank::new(0).unwrap(),
            pod_uid: "pod".parse().unwrap(),
            key: bound.public().clone(),
        };
        self.submit(&binding.sign(&identity("east")).unwrap()).await;
        let (mut previous, mut end) = (record, self.job.genesis);
        for k in 0..self.job.intervals() {
            let (first, last) = self.job.steps_of(k).unwrap();
            let after = state(&self.store, last).await;
            let (interval, records) = (Interval::new(k).unwrap(), Digest::of(&last.to_le_bytes()));
            let commit = Commit {
                job: self.id,
                island,
                epoch,
                interval,
                first_step: Step::new(first).unwrap(),
                last_step: Step::new(last).unwrap(),
                previous,
                state_root: after.state_root,
                record_seal: record_seal(self.id, (island, epoch, interval), &records, &salt()),
                manifest: after.manifest,
                ends: false,
            };
            let commit = commit.sign(&bound).unwrap();
            self.log.append(commit.clone()).await.unwrap();
            (previous, end) = (commit.record_id(), after.state_root);
            self.commits.insert(previous, (last, records));
            let came = Computed { state_root: end, record_root: records };
            self.fake.came.lock().unwrap().insert(last, came);
        }
        let last_step = self.job.steps;
        let (job, outcome) = (self.id, Outcome::Completed);
        let ended = JobEnd { job, last_step, state_root: end, record: previous, outcome };
        self.hub(&ended).await;
    }

    fn auditor(&self) -> Auditor {
        let (state, keys) = State::of_hub(&self.dir.path().join("hub")).unwrap();
        let answers = Answers::open(self.dir.path().join("hub/audits")).unwrap();
        let (work, replay) = (self.dir.path().join("work"), Arc::new(self.fake.clone()));
        let state = (Arc::new(state), keys.signer().clone());
        Auditor::new(To(self.log.clone()), state, self.store.clone(), answers, replay, work)
    }

    /// The hub's and the trainer's part, once; what is waited for then.
    async fn turn(&self) -> Vec<Todo> {
        self.follower.advance(&self.ledger).await.unwrap();
        let field = Field { hub_auditor: true, draws: true, counted: u64::MAX, ..Field::default() };
        let length = self.job.beacon.length.get();
        let preimage = |index: u64| Some(links(&Digest::of(b"seed"), length - 1 - index));
        let agenda =
            self.follower.with(|history| history.agenda(self.id, &field, &preimage).unwrap()).unwrap();
        for todo in &agenda {
            match todo {
                Todo::Log(unsigned) => drop(self.submit(&unsigned.sign(&self.ledger.key()).unwrap()).await),
                Todo::AwaitOpening { commit, .. } => {
                    let record_root = self.commits[commit].1;
                    let opening = Opening { commit: *commit, record_root, salt: salt() };
                    self.submit(&opening.sign(&identity("east")).unwrap()).await;
                }
                _ => {}
            }
        }
        agenda
    }

    fn open(&self) -> Vec<Open> {
        self.follower.with(|history| history.open(self.id).unwrap()).unwrap()
    }

    fn asked(&self) -> Vec<(u64, u64)> {
        self.fake.asked.lock().unwrap().iter().map(|laid| (laid.start, laid.last)).collect()
    }

    /// Turns until the hub waits for the auditor's seal.
    async fn assigned(&self) {
        for _ in 0..20 {
            if self.turn().await.iter().any(|todo| matches!(todo, Todo::AwaitSeal { .. })) {
                return;
            }
        }
        panic!("nothing was assigned: {:?}", self.open());
    }
}

async fn pass(auditor: &mut Auditor) {
    auditor.pass().await.unwrap();
    auditor.idle().await;
}

#[tokio::test]
async fn a_job_that_nobody_else_can_audit_is_settled_by_the_hubs_own() {
    let world = World::new().await;
    let mut auditor = world.auditor();
    for _ in 0..60 {
        world.turn().await;
        pass(&mut auditor).await;
        if world.open().is_empty() {
            break;
        }
    }
    assert_eq!(world.open(), []);
    let audits = world.follower.with(|history| history.audits(world.id).unwrap()).unwrap();
    let kinds: Vec<_> = audits.iter().map(|audit| audit.verdict.as_ref().unwrap().kind).collect();
    assert!(kinds.len() >= 2 && kinds.iter().all(|kind| *kind == records::VerdictKind::Match), "{kinds:?}");
    let asked = world.asked();
    assert!(asked.contains(&(0, 20)) && asked.contains(&(40, 50)), "first and last: {asked:?}");
}

#[tokio::test]
async fn whatever_it_has_done_survives_it() {
    let world = World::new().await;
    world.assigned().await;
    let mut first = world.auditor();
    pass(&mut first).await;
    let before = world.log.size();
    first.collect(&tasks_of(&world).await).await.unwrap();
    assert_eq!(world.log.size(), before, "replayed and kept, not sealed");
    drop(first);
    let replayed = world.asked()[0];
    pass(&mut world.auditor()).await;
    assert_eq!(world.log.size(), before + 1, "sealed by another process");
    let times = world.asked().into_iter().filter(|asked| *asked == replayed).count();
    assert_eq!(times, 1, "and not replayed again");
    pass(&mut world.auditor()).await;
    assert_eq!(world.log.size(), before + 1, "sealed once");
    for _ in 0..20 {
        let waits = world.turn().await;
        if waits.iter().any(|todo| matches!(todo, Todo::AwaitAnswer { .. })) {
            break;
        }
    }
    let before = world.log.size();
    pass(&mut world.auditor()).await;
    assert!(world.log.size() > before, "opened by a third");
}

async fn tasks_of(world: &World) -> BTreeSet<Digest> {
    world.follower.advance(&world.ledger).await.unwrap();
    let tasks = world.follower.with(|history| tasks(history, &me())).unwrap();
    tasks.into_iter().map(|task| task.assignment).collect()
}

#[tokio::test]
async fn a_replay_that_comes_to_nothing_is_no_answer() {
    let world = World::new().await;
    world.assigned().await;
    let came = std::mem::take(&mut *world.fake.came.lock().unwrap());
    let mut auditor = world.auditor();
    let before = world.log.size();
    for _ in 0..3 {
        pass(&mut auditor).await;
    }
    let asked = world.asked();
    let once: BTreeSet<_> = asked.iter().collect();
    assert_eq!((world.log.size(), asked.len()), (before, once.len()), "none again at once: {asked:?}");
    *world.fake.came.lock().unwrap() = came;
    // Another process has not heard of the failure.
    let mut auditor = world.auditor();
    pass(&mut auditor).await;
    pass(&mut auditor).await;
    assert_eq!(world.log.size(), before + 1);
}

#[tokio::test]
async fn an_unreachable_log_is_said_and_waited_for() {
    let world = World::new().await;
    let mut auditor = world.auditor();
    world.log.down.store(true, std::sync::atomic::Ordering::SeqCst);
    assert!(auditor.pass().await.is_err());
    world.log.down.store(false, std::sync::atomic::Ordering::SeqCst);
    auditor.pass().await.unwrap();
}
