use std::sync::Mutex;
use std::task::Poll;

use axum::http::{Method, Request};
use futures::FutureExt;
use futures::future::BoxFuture;
use kube::client::Body;
use muster_testkit::api::{Answer, Half, Server};
use serde_json::{Value, json};
use tower::{BoxError, Service};

use super::*;
use crate::agent::member::Member;
use crate::agent::render::{Site, UNIT_UID};
use crate::agent::state::StateDir;
use crate::agent::testing::payload;
use crate::agent::units::locked;

const NAMESPACE: &str = "muster-lent";
const UNIT: &str = "4f2a9c1b-0-1";
const JOB: &str = "4f2a9c1b-0-1-1";

/// The way to the member's API server, which notes what is listed.
#[derive(Clone)]
struct Road {
    server: Server,
    listed: Arc<Mutex<Vec<String>>>,
}

impl Service<Request<Body>> for Road {
    type Response = Answer;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Answer, BoxError>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (path, query) = (request.uri().path(), request.uri().query().unwrap_or_default());
        // What the watches begin with is not what a look asks for.
        if request.method() == Method::GET && query.contains("muster.dev%2Funit") {
            locked(&self.listed).push(path.rsplit('/').next().unwrap_or_default().to_owned());
        }
        self.server.call(request)
    }
}

struct World {
    server: Server,
    listed: Arc<Mutex<Vec<String>>>,
    member: Arc<Member>,
    units: Arc<Units>,
    _dir: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let server = Server::new(&[], Arc::new(|| "2026-01-01T00:00:00Z".to_owned()));
        server.namespace(NAMESPACE);
        let listed: Arc<Mutex<Vec<String>>> = Arc::default();
        let client = Client::new(Road { server: server.clone(), listed: listed.clone() }, NAMESPACE);
        let site = Site {
            namespace: NAMESPACE.to_owned(),
            audience: String::new(),
            relay_url: String::new(),
            relay_ca: String::new(),
        };
        let dir = tempfile::tempdir().unwrap();
        Self {
            server,
            listed,
            member: Arc::new(Member::new(client.clone(), client, site)),
            units: Arc::new(Units::open(StateDir::open(dir.path()).unwrap()).unwrap()),
            _dir: dir,
        }
    }

    fn follow(&self) -> tokio::task::JoinHandle<()> {
        let (member, units) = (self.member.clone(), self.units.clone());
        tokio::spawn(async move { member.children.follow(&units, &Shutdown::manual()).await })
    }

    /// Makes the Job of the first attempt, as the agent does.
    async fn make(&self) {
        self.member.create(&payload(), "uid-of-unit", 1, None).await.unwrap();
    }

    /// A pod of it, as the Job controller makes it.
    fn pod(&self, rank: u32) {
        let labels = json!({labels::MANAGED_BY: MANAGED_BY, labels::UNIT: UNIT, labels::ATTEMPT: "1"});
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {
            "name": format!("{JOB}-{rank}"), "labels": labels,
            "annotations": {"batch.kubernetes.io/job-completion-index": rank.to_string()}}});
        self.server.write("", "pods", |write| write.create(Some(NAMESPACE), pod)).unwrap();
    }

    fn gone(&self, group: &str, resource: &str, name: &str) {
        self.server
            .write(group, resource, |write| write.delete(Some(NAMESPACE), name, &Value::Null).map(drop))
            .unwrap();
    }

    /// Names of the Jobs and pods that are told of.
    async fn told(&self) -> Option<Vec<String>> {
        let (jobs, pods) = self.member.children.told(&[UNIT], Past::Begun).await?;
        Some(jobs.into_iter().map(|job| job.name).chain(pods.into_iter().map(|pod| pod.name)).collect())
    }

    /// What was listed since the last time.
    fn listed(&self) -> Vec<String> {
        std::mem::take(&mut *locked(&self.listed))
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_made_is_told_of_and_nothing_is_listed() {
    let world = World::new();
    assert_eq!(world.told().await, None, "nothing is followed yet");
    world.follow();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(world.told().await, None, "that there is nothing is to be asked for");
    world.make().await;
    assert_eq!(world.told().await.unwrap(), [JOB]);
    (0..2).for_each(|rank| world.pod(rank));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(world.told().await.unwrap(), [JOB, &format!("{JOB}-0"), &format!("{JOB}-1")]);
    assert_eq!(world.member.children.told(&["other"], Past::Begun).await, None);
    let fresh = world.member.children.told(&["other"], Past::None).await.unwrap();
    assert_eq!((fresh.0.len(), fresh.1.len()), (0, 0), "nothing was ever made of it");
    assert_eq!(world.listed(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_job_that_was_made_is_never_missing() {
    let world = World::new();
    let watches = world.follow();
    tokio::time::sleep(Duration::from_secs(1)).await;
    world.pod(0);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(world.told().await.unwrap(), [format!("{JOB}-0")]);
    watches.abort();
    world.make().await;
    // A pod runs, so this would look like a unit whose Job somebody has removed.
    assert_eq!(world.told().await, None);
    let (jobs, pods) = world.member.children.listed(&[UNIT]).await.unwrap();
    assert_eq!((jobs.len(), pods.len()), (1, 1));
    let listed = world.listed();
    assert!(listed.contains(&"jobs".to_owned()) && listed.contains(&"pods".to_owned()), "{listed:?}");
}

/// The watch of pods may be behind that of Jobs: a pod that runs is not told of while its Job is gone already.
#[tokio::test(start_paused = true)]
async fn that_nothing_runs_is_not_believed() {
    let world = World::new();
    world.follow();
    world.make().await;
    world.pod(0);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(world.told().await.unwrap().len(), 2);
    world.gone("batch", "jobs", JOB);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(world.told().await.unwrap(), [format!("{JOB}-0")], "this one runs");
    let done = |pod: &mut Value| pod["status"] = json!({"phase": "Succeeded"});
    world.server.change(("", "pods"), Some(NAMESPACE), &format!("{JOB}-0"), Half::Status, done).unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(world.told().await, None);
}

#[tokio::test(start_paused = true)]
async fn a_unit_hears_of_its_jobs_and_pods() {
    let world = World::new();
    let unit = world.units.ensure(UNIT);
    let woken = || unit.wake.notified().now_or_never().is_some();
    world.follow();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!woken());
    world.make().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(woken() && !woken());
    world.pod(0);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(woken());
    let other = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "other", "annotations": {UNIT_UID: "x"}}});
    world.server.write("", "pods", |write| write.create(Some(NAMESPACE), other)).unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!woken());
}
