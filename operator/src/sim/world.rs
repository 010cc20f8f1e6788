//! One run: an API server, a store and a log, the hub, members, and people.
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use muster_proof::Digest;
use muster_proof::records::Record;
use muster_testkit::api::{Half, Kind, Refused, Server, merge, with_definitions};
use muster_testkit::explore::{Outcome, Schedule};
use muster_testkit::faults::Script;
use muster_testkit::{clock, cluster};
use object_store::memory::InMemory;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::LocalSet;
use tokio::time::Instant;

use super::member::{self, Member};
use super::story::{self, Story, Then};
use super::{check, hub, kueue};
use crate::hub::ledger::testing::{Local, identity, own_record};
use crate::hub::names::provider_namespace;
use crate::hub::state::State;
use crate::store::testing::dataset;
use crate::store::{Namespace, Store};

/// Who lends, and to whom it belongs.
pub const PROVIDERS: [(&str, &str); 5] =
    [("east", "acme"), ("north", "initech"), ("south", "umbra"), ("up", "hooli"), ("west", "globex")];
/// Namespaces with jobs.
const TENANTS: [&str; 3] = ["team-a", "team-b", "team-c"];
/// Of the job.
pub const STEPS: u64 = 12;
/// A checkpoint after each of these.
pub const INTERVAL: u64 = 4;
/// How long a member that is cut off may go on.
const GRACE: Duration = Duration::from_secs(60);
/// All times are after this one.
const BEGINS: &str = "2026-01-01T00:00:00Z";
/// Phases in which nothing of a unit is at work.
pub const ENDED: [&str; 4] = ["Succeeded", "Failed", "Refused", "Released"];
/// By then everything has come to its end, however many faults there were: the longest waits are a frozen watch, a lost member's
/// grace and the hub's patience with auditors.
pub const ENDS_WITHIN: Duration = Duration::from_secs(1800);
/// Resources, with their rules compiled.
static KINDS: LazyLock<Arc<Vec<Kind>>> = LazyLock::new(|| {
    let ours = muster_api::crds().into_iter().map(|one| serde_json::to_value(one).unwrap());
    let definitions: Vec<Value> = ours.chain([kueue::definition()]).collect();
    with_definitions(&definitions)
});
/// How often garbage is collected in the cluster.
const TIDIES: Duration = Duration::from_secs(2);

/// See the module.
pub struct World {
    pub story: Story,
    pub server: Server,
    pub script: Script,
    pub store: Arc<Store>,
    pub log: Arc<Local>,
    pub members: Vec<Member>,
    /// The next interval that anybody trains is wrong.
    pub lie: Cell<bool>,
    /// When a member was cut off, or came back.
    cut_at: Cell<Option<Instant>>,
    /// The job's uid.
    pub job: String,
    /// Those of other jobs.
    rivals: RefCell<Vec<String>>,
    /// What a story has seen that must not be.
    pub wrong: RefCell<Vec<String>>,
    dir: TempDir,
}

/// Runs a schedule from its beginning to its end.
pub fn run(schedule: &Schedule) -> Outcome {
    let story =
        Story::named(&schedule.story).unwrap_or_else(|| panic!("there is no story {}", schedule.story));
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let local = LocalSet::new();
    let outcome = local.block_on(&runtime, async {
        clock::start(BEGINS.parse().unwrap());
        let script = Script::new(schedule.faults.clone());
        let world = Rc::new(World::new(story, script.clone()).await);
        let (hub, people, members, others) = (world.clone(), world.clone(), world.clone(), world.clone());
        let queues = world.clone();
        let all = [
            tokio::task::spawn_local(async move { hub::run(&hub).await }),
            tokio::task::spawn_local(async move { member::run(&members).await }),
            tokio::task::spawn_local(async move { kueue::run(&queues).await }),
            tokio::task::spawn_local(async move {
                loop {
                    tokio::time::sleep(TIDIES).await;
                    cluster::tidy(&others.server);
                }
            }),
            tokio::task::spawn_local(async move {
                story::play(&people).await;
                std::future::pending().await
            }),
        ];
        let violations = tokio::select! {
            biased;
            violations = check::watch(&world, schedule) => violations,
            // None of them ends but by a panic.
            (ended, ..) = futures::future::select_all(all) => {
                let panic = ended.map_err(tokio::task::JoinError::into_panic);
                std::panic::resume_unwind(panic.unwrap_err())
            }
        };
        Outcome { violations, calls: script.calls(), trace: script.trace() }
    });
    drop(local);
    outcome
}

impl World {
    async fn new(story: Story, script: Script) -> Self {
        let server = Server::of(KINDS.clone(), Arc::new(clock::text));
        for name in ["muster-system", "muster-agents"].iter().chain(&TENANTS) {
            server.namespace(name);
        }
        let dir = scratch();
        let (_, keys) = State::open(&dir.path().join("state")).unwrap();
        let log = Local::here(keys.signer());
        let store = Arc::new(Store::on_objects(Arc::new(InMemory::new()), "muster"));
        for tenant in TENANTS {
            let uid = server.read(|objects| {
                let (_, namespace) =
                    objects.of("/namespaces", None).find(|(key, _)| key.name == tenant).unwrap();
                namespace["metadata"]["uid"].as_str().unwrap().to_owned()
            });
            let namespace = Namespace::new(tenant, &uid).unwrap();
            dataset(&store, &namespace, "kjv", &b"in the beginning was the word ".repeat(20)).await;
        }
        let here = &PROVIDERS[..story.providers];
        let members = here.iter().map(|(name, _)| Member::new(name)).collect();
        let lie = Cell::new(story.then == Then::Lies);
        let (cut_at, job) = (Cell::new(None), String::new());
        let (rivals, wrong) = (RefCell::default(), RefCell::default());
        let mut world =
            Self { story, server, script, store, log, members, lie, cut_at, job, rivals, wrong, dir };
        for (name, owner) in here {
            world.join(name, owner).await;
        }
        world.job = world.make("team-a", job_of(story));
        world
    }

    fn make(&self, namespace: &str, job: Value) -> String {
        let made =
            self.server.write("muster.dev", "trainingjobs", |write| write.create(Some(namespace), job));
        made.unwrap()["metadata"]["uid"].as_str().unwrap().to_owned()
    }

    /// Another job.
    pub fn rival(&self, namespace: &str, name: &str, priority: i32, workers: u32) {
        let mut job = job_of(Story { tier: "None", workers, ..self.story });
        job["metadata"] = json!({"name": name, "namespace": namespace});
        job["spec"]["priority"] = json!(priority);
        let uid = self.make(namespace, job);
        self.rivals.borrow_mut().push(uid);
    }

    /// The uids of all jobs that there ever were, the one that the story is about first.
    pub fn jobs(&self) -> Vec<String> {
        std::iter::once(self.job.clone()).chain(self.rivals.borrow().iter().cloned()).collect()
    }

    /// A provider whose key is accepted and has left its record at the gateway.
    async fn join(&self, name: &str, owner: &str) {
        let provider = json!({
            "apiVersion": "muster.dev/v1alpha1", "kind": "ComputeProvider", "metadata": {"name": name},
            "spec": {
                "owner": owner, "acceptedKeys": [{"fingerprint": identity(name).key_id()}],
                "quota": {"units": 64, "workers": 64},
            },
        });
        self.server.write("muster.dev", "computeproviders", |write| write.create(None, provider)).unwrap();
        let record = own_record(name, owner).to_json().unwrap();
        self.store.leave_key(name, record).await.unwrap();
    }

    /// The hub's state directory.
    pub fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// Objects of a kind of ours, in the order of their names.
    pub fn all(&self, resource: &str) -> Vec<Value> {
        self.server.read(|objects| {
            objects.of(&format!("muster.dev/{resource}"), None).map(|(_, object)| object.clone()).collect()
        })
    }

    /// The same, of one namespace.
    pub fn in_namespace(&self, resource: &str, namespace: &str) -> Vec<Value> {
        let kind = format!("muster.dev/{resource}");
        self.server
            .read(|objects| objects.of(&kind, Some(namespace)).map(|(_, object)| object.clone()).collect())
    }

    /// The job, while it is there.
    pub fn the_job(&self) -> Option<Value> {
        self.all("trainingjobs").into_iter().find(|job| job["metadata"]["uid"] == self.job.as_str())
    }

    /// A person changes an object that may be gone.
    pub fn change(&self, resource: &str, namespace: Option<&str>, name: &str, change: &Value) {
        self.update(("muster.dev", resource), namespace, name, Half::Main, change);
    }

    /// Merges into one half of an object, if it is there.
    pub fn update(
        &self,
        resource: (&str, &str),
        namespace: Option<&str>,
        name: &str,
        half: Half,
        change: &Value,
    ) {
        let done = self.server.change(resource, namespace, name, half, |object| merge(object, change));
        expect(done.map(drop));
    }

    pub fn delete(&self, resource: &str, namespace: Option<&str>, name: &str) {
        let done =
            self.server.write("muster.dev", resource, |write| write.delete(namespace, name, &Value::Null));
        expect(done.map(drop));
    }

    /// All records of the log in its order.
    pub fn records(&self) -> Vec<Record> {
        let entry = |record: &Digest| self.log.log.entry(record).unwrap().unwrap();
        let mut all: Vec<_> = self.log.records().iter().map(entry).collect();
        all.sort_by_key(|(index, _)| *index);
        all.into_iter().map(|(_, envelope)| Record::parse(&envelope).unwrap()).collect()
    }

    /// By tenant: workers at work, and jobs that wait.
    pub fn at_work(&self) -> BTreeMap<String, (u64, u64)> {
        let ended = |unit: &Value| {
            let phase = unit["status"]["phase"].as_str().unwrap_or_default();
            ENDED.contains(&phase)
        };
        let units: Vec<Value> = self.all("workunits").into_iter().filter(|unit| !ended(unit)).collect();
        let mut all: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        for job in self.all("trainingjobs").iter().filter(|job| job["status"]["phase"] != "Succeeded") {
            let mine = units.iter().filter(|unit| unit["spec"]["jobUID"] == job["metadata"]["uid"]);
            let workers: u64 = mine.filter_map(|unit| unit["spec"]["workers"].as_u64()).sum();
            let tenant = all.entry(job["metadata"]["namespace"].as_str().unwrap_or_default().to_owned());
            let (held, waiting) = tenant.or_default();
            *held += workers;
            *waiting += u64::from(workers == 0);
        }
        all
    }

    /// How many intervals were ever committed.
    pub fn commits(&self) -> usize {
        self.log.commits()
    }

    /// Who trains the job: whoever has the unit of the highest epoch.
    pub fn trains(&self) -> Option<String> {
        let units = self.all("workunits");
        let mine = units
            .iter()
            .filter(|unit| unit["spec"]["kind"] == "Train" && unit["spec"]["jobUID"] == *self.job);
        let newest = mine.max_by_key(|unit| unit["spec"]["epoch"].as_i64());
        Some(newest?["metadata"]["namespace"].as_str()?.trim_start_matches("muster-p-").to_owned())
    }

    /// Whether there are fewer providers than the story leaves.
    pub fn lacks_provider(&self) -> bool {
        let left = usize::from(self.story.then == Then::Leaves);
        self.all("computeproviders").len() + left < self.story.providers
    }

    fn member(&self, name: &str) -> &Member {
        self.members.iter().find(|member| member.name == name).unwrap()
    }

    /// The member cannot reach the hub, or can again.
    pub fn cut(&self, name: &str, cut: bool) {
        self.member(name).cut.set(cut);
        self.cut_at.set(Some(Instant::now()));
    }

    /// Whether the member of this namespace cannot reach the hub now.
    pub fn is_cut(&self, namespace: &str) -> bool {
        self.members.iter().any(|member| member.cut.get() && provider_namespace(member.name) == namespace)
    }

    /// Whether a unit of this namespace may go although nobody has said that nothing of it runs: its member is cut off for longer
    /// than its grace by now.
    pub fn grace_is_over(&self, namespace: &str) -> bool {
        self.is_cut(namespace) && self.cut_at.get().is_some_and(|at| at.elapsed() >= GRACE)
    }

    /// The member's agent is there and does nothing, or does something again.
    pub fn stick(&self, name: &str, sticks: bool) {
        self.member(name).sticks.set(sticks);
    }

    pub fn fail_once(&self, name: &str) {
        self.member(name).fails.set(true);
    }

    pub fn has_lied(&self) -> Option<&str> {
        self.members.iter().find(|member| Cell::get(&member.lied)).map(|member| member.name)
    }
}

/// What is done to an object that another one has just deleted, or changed, is not done.
fn expect(done: Result<(), Refused>) {
    if let Err(refused) = done {
        assert!(matches!(refused.code, 404 | 409), "{refused:?}");
    }
}

/// In memory, if the machine has a place for that: nothing here has to survive anything.
fn scratch() -> TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.unwrap()
}

fn job_of(story: Story) -> Value {
    let labels = match story.then {
        Then::Queued => json!({"kueue.x-k8s.io/queue-name": "research"}),
        _ => json!({}),
    };
    json!({
        "apiVersion": "muster.dev/v1alpha1", "kind": "TrainingJob",
        "metadata": {"name": "kjv-gpt", "namespace": "team-a", "labels": labels},
        "spec": {
            "model": {"architecture": "gpt2", "layers": 1, "width": 16, "heads": 1, "context": 16, "vocabulary": 256},
            "data": {"dataset": "kjv"},
            "training": {"steps": STEPS, "intervalSteps": INTERVAL, "batch": 4, "shards": 4},
            "assurance": {"tier": story.tier},
            "workers": {"count": story.workers},
            "placement": {"disconnectGraceSeconds": GRACE.as_secs()},
            "failurePolicy": {"progressDeadlineSeconds": 60},
        },
    })
}
