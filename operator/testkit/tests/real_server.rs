//! The same requests to the server in memory and to a real one: each must be answered alike, and the same events be seen.
//! `MUSTER_TEST_KUBECONFIG` names a kubeconfig whose context `hub` (or `MUSTER_TEST_CONTEXT`) is an administrator's. Without it nothing
//! is tested, and a line says so. SEED and STEPS choose the requests.
//!
//! Writes only to the namespace `muster-testkit`; installs the definitions of this checkout.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that panics has failed")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt as _;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams,
    PostParams, Preconditions, PropagationPolicy,
};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use muster_testkit::api::Server;
use serde_json::{Value, json};

const NAMESPACE: &str = "muster-testkit";
/// Of the requests' objects; others may lie in the namespace of a real server.
const OURS: &str = "testkit=yes";

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let Ok(kubeconfig) = std::env::var("MUSTER_TEST_KUBECONFIG") else {
        println!("SKIP testkit: MUSTER_TEST_KUBECONFIG is not set (make clusters, make clusters-kubeconfig)");
        return;
    };
    let number = |name: &str, default: u64| {
        std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
    };
    let (seed, steps) = (number("SEED", 1), number("STEPS", 400));
    let definitions: Vec<Value> =
        muster_api::crds().iter().map(|definition| serde_json::to_value(definition).unwrap()).collect();
    let memory = Server::new(&definitions, Arc::new(|| "2026-01-01T00:00:00Z".to_owned()));
    memory.namespace(NAMESPACE);
    // cargo runs this in the crate's folder; a person names a file from the repository's.
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let real = real(&repository.join(kubeconfig)).await;
    let sides = [Side::new(Client::new(memory, NAMESPACE)), Side::new(real)];
    sides[1].clear().await;

    let (mut random, mut asked, mut failures) = (Random(seed.max(1)), Vec::new(), Vec::new());
    let starts = [sides[0].version().await, sides[1].version().await];
    let mut seen = [Vec::new(), Vec::new()];
    for _ in 0..steps {
        let request = Request::random(&mut random, seen[0].len());
        let mut answers = Vec::new();
        for (side, seen) in sides.iter().zip(&mut seen) {
            let answer = side.ask(&request, seen).await;
            // Whether it is a new version matters, too.
            let same = |before: &Value| {
                ["uid", "resourceVersion"]
                    .iter()
                    .all(|field| before["metadata"][*field] == answer["metadata"][*field])
            };
            answers.push(json!([plain(&answer), seen.iter().any(same)]));
            if answer["metadata"]["uid"].is_string() {
                seen.push(answer);
            } else {
                seen.push(seen.last().cloned().unwrap_or(Value::Null));
            }
        }
        asked.push(format!("{request:?}"));
        if answers[0] != answers[1] {
            let before = &asked[asked.len().saturating_sub(12)..];
            failures.push(format!(
                "after\n  {}\n  in memory {}\n  real      {}",
                before.join("\n  "),
                answers[0],
                answers[1]
            ));
            break;
        }
    }
    if failures.is_empty() {
        for kind in [Kind::Map, Kind::Job] {
            let [memory, real] =
                [sides[0].events(kind, &starts[0]).await, sides[1].events(kind, &starts[1]).await];
            if memory != real {
                let at = memory
                    .iter()
                    .zip(&real)
                    .position(|(a, b)| a != b)
                    .unwrap_or(memory.len().min(real.len()));
                let of = |events: &[Value]| events.get(at).map_or("nothing".to_owned(), Value::to_string);
                failures.push(format!(
                    "event {at} of {kind:?} is\n  in memory {}\n  real      {}",
                    of(&memory),
                    of(&real)
                ));
            }
        }
    }
    sides[1].clear().await;
    for failure in &failures {
        println!("FAIL testkit (SEED={seed}): {failure}");
    }
    let word = if failures.is_empty() { "PASS" } else { "FAIL" };
    println!(
        "{word} testkit: {} requests to a real API server and to the one in memory, seed {seed}",
        asked.len()
    );
    std::process::exit(i32::from(!failures.is_empty()));
}

async fn real(kubeconfig: &Path) -> Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let context = std::env::var("MUSTER_TEST_CONTEXT").unwrap_or_else(|_| "hub".to_owned());
    let options = KubeConfigOptions { context: Some(context), ..Default::default() };
    let config =
        Config::from_custom_kubeconfig(Kubeconfig::read_from(kubeconfig).unwrap(), &options).await.unwrap();
    let client = Client::try_from(config).unwrap();
    let apply = PatchParams::apply("muster-testkit").force();
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    for definition in muster_api::crds() {
        let name = definition.metadata.name.clone().unwrap();
        definitions.patch(&name, &apply, &Patch::Apply(&definition)).await.unwrap();
    }
    let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(client.clone());
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
    namespaces.patch(NAMESPACE, &apply, &Patch::Apply(namespace)).await.unwrap();
    let jobs: Api<muster_api::v1alpha1::TrainingJob> = Api::namespaced(client.clone(), NAMESPACE);
    for _ in 0..100 {
        if jobs.list(&ListParams::default().limit(1)).await.is_ok() {
            return client;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("trainingjobs are not served after 10 s");
}

/// Xorshift (Marsaglia, 2003): the same requests on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }

    fn of<T: Clone>(&mut self, all: &[T]) -> T {
        all[usize::try_from(self.below(all.len() as u64)).unwrap()].clone()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Map,
    Job,
}

/// What is asked. Objects that were seen are named by their place in what was seen.
#[derive(Debug, Clone)]
enum Request {
    Create(Kind, Value),
    Replace(Kind, usize, Value, Version),
    Status(Kind, &'static str, Value),
    Merge(Kind, &'static str, Value),
    Json(Kind, &'static str, Value),
    Apply(Kind, &'static str, &'static str, bool, Value),
    /// In the background: the other policies leave finalizers to a garbage collector, which a real cluster has.
    Delete(Kind, &'static str, Option<usize>),
    Get(Kind, &'static str),
    List(Kind, &'static str),
    /// What is there, or is not: how a server says that differs.
    Path(&'static str),
}

/// Which resourceVersion a replacement says.
#[derive(Debug, Clone, Copy)]
enum Version {
    Seen,
    None,
}

const NAMES: [&str; 2] = ["a", "b"];

const PATHS: [&str; 6] = [
    "/api/v1/namespaces/muster-testkit/configmaps/nobody",
    "/api/v1/namespaces/muster-testkit/configmaps/a/status",
    "/api/v1/namespaces/muster-testkit/nothings",
    "/apis/muster.dev/v1alpha1/namespaces/muster-testkit/trainingjobs/nobody/scale",
    "/apis/muster.dev/v1alpha1/namespaces/muster-testkit/nothings",
    "/apis/nobody.example/v1/namespaces/muster-testkit/nothings",
];

impl Request {
    fn random(random: &mut Random, seen: usize) -> Self {
        let (kind, name) = (random.of(&[Kind::Map, Kind::Job]), random.of(&NAMES));
        let recent = |random: &mut Random| seen.saturating_sub(1 + usize::try_from(random.below(4)).unwrap());
        match random.below(13) {
            0..=2 => Self::Create(kind, object(kind, name, random)),
            3 if seen > 0 => {
                let version = random.of(&[Version::Seen, Version::Seen, Version::None]);
                Self::Replace(kind, recent(random), change(kind, random), version)
            }
            4 => Self::Status(
                kind,
                name,
                json!({"status": {"phase": random.of(&["Pending", "Running"])}, "spec": {"suspend": true}}),
            ),
            5 | 6 => Self::Merge(kind, name, change(kind, random)),
            7 => {
                let value = random.of(&["1", "2"]);
                let label = json!({"op": "add", "path": "/metadata/labels/json", "value": value});
                let test = json!({"op": "test", "path": "/metadata/labels/json", "value": value});
                let remove = json!({"op": "remove", "path": "/metadata/labels/json"});
                Self::Json(kind, name, random.of(&[json!([label]), json!([test, remove]), json!([remove])]))
            }
            8 => {
                let (manager, force) = (random.of(&["x", "y"]), random.below(2) == 0);
                let mut object = object(kind, name, random);
                // Who owns an empty map, and from when on not any more, is the one thing that is known to differ in rare cases.
                if object["data"] == json!({}) {
                    object["data"] = json!({"k": "1"});
                }
                Self::Apply(kind, name, manager, force, object)
            }
            9 => {
                let uid = (seen > 0 && random.below(2) == 0).then(|| recent(random));
                Self::Delete(kind, name, uid)
            }
            10 => Self::Get(kind, name),
            11 => Self::Path(random.of(&PATHS)),
            _ => Self::List(kind, random.of(&["", ",l=1", ",l!=1", ",!l", ",l in (1,2)"])),
        }
    }
}

fn change(kind: Kind, random: &mut Random) -> Value {
    let free = [json!(null), json!([]), json!(["muster.dev/x"]), json!(["muster.dev/x", "muster.dev/y"])];
    let mut change = match random.below(4) {
        0 => json!({"metadata": {"finalizers": random.of(&free)}}),
        1 => json!({"metadata": {"labels": {"l": random.of(&[json!("1"), json!("2"), json!(null)])}}}),
        _ => json!({}),
    };
    if change == json!({}) {
        change = match kind {
            Kind::Map => json!({"data": {"k": random.of(&[json!("1"), json!("2"), json!(null)])}}),
            Kind::Job => {
                let more = json!({"spec": {"training": {"steps": 41}}});
                let bad = json!({"spec": {"priority": 5000}});
                random.of(&[
                    json!({"spec": {"suspend": true}}),
                    json!({"spec": {"suspend": false}}),
                    json!({"spec": {"priority": 3}}),
                    more,
                    bad,
                    json!({"spec": {"unknown": 1}}),
                ])
            }
        };
    }
    change
}

fn object(kind: Kind, name: &str, random: &mut Random) -> Value {
    let labels = match random.below(3) {
        0 => json!({"testkit": "yes"}),
        1 => json!({"testkit": "yes", "l": "1"}),
        _ => json!({"testkit": "yes", "l": "2"}),
    };
    match kind {
        Kind::Map => {
            let data = random.of(&[json!({}), json!({"k": "1"}), json!({"k": "2", "m": "1"})]);
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": labels}, "data": data})
        }
        Kind::Job => {
            let spec = json!({
                "model": {"architecture": "gpt2", "layers": 1, "width": 16, "heads": 1, "context": 16, "vocabulary": 256},
                "data": {"dataset": "kjv"}, "training": {"steps": 40, "batch": 2, "shards": 2}, "workers": {"count": 1},
                // A hub that runs there leaves it alone but for a condition; with this not even that is waited for.
                "managedBy": "example.com/testkit", "priority": random.of(&[0, 1]),
            });
            json!({"apiVersion": "muster.dev/v1alpha1", "kind": "TrainingJob", "metadata": {"name": name, "labels": labels}, "spec": spec})
        }
    }
}

/// A server that requests go to.
struct Side {
    maps: Api<DynamicObject>,
    jobs: Api<DynamicObject>,
}

impl Side {
    fn new(client: Client) -> Self {
        let of = |group: &str, version: &str, kind: &str| {
            let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
            Api::namespaced_with(client.clone(), NAMESPACE, &resource)
        };
        Self { maps: of("", "v1", "ConfigMap"), jobs: of("muster.dev", "v1alpha1", "TrainingJob") }
    }

    fn api(&self, kind: Kind) -> &Api<DynamicObject> {
        match kind {
            Kind::Map => &self.maps,
            Kind::Job => &self.jobs,
        }
    }

    /// The answer as JSON: the object, or the code and the reason of the refusal.
    async fn ask(&self, request: &Request, seen: &[Value]) -> Value {
        let read = |object: Value| serde_json::from_value::<DynamicObject>(object).unwrap();
        let (post, plain) = (PostParams::default(), PatchParams::default());
        let answer = match request {
            Request::Create(kind, object) => self.api(*kind).create(&post, &read(object.clone())).await,
            Request::Replace(kind, at, change, version) => {
                let mut object = seen[*at].clone();
                let of = if *kind == Kind::Map { "ConfigMap" } else { "TrainingJob" };
                if object["kind"] != of {
                    return json!("another kind");
                }
                let name = object["metadata"]["name"].as_str().unwrap().to_owned();
                json_patch::merge(&mut object, change);
                // Who sends old ones back makes them the present ones; the server in memory has none.
                object["metadata"].as_object_mut().unwrap().remove("managedFields");
                if matches!(version, Version::None) {
                    object["metadata"].as_object_mut().unwrap().remove("resourceVersion");
                }
                self.api(*kind).replace(&name, &post, &read(object)).await
            }
            Request::Status(kind, name, patch) => {
                self.api(*kind).patch_status(name, &plain, &Patch::Merge(patch)).await
            }
            Request::Merge(kind, name, patch) => {
                self.api(*kind).patch(name, &plain, &Patch::Merge(patch)).await
            }
            Request::Json(kind, name, patch) => {
                let patch = Patch::<()>::Json(serde_json::from_value(patch.clone()).unwrap());
                self.api(*kind).patch(name, &plain, &patch).await
            }
            Request::Apply(kind, name, manager, force, object) => {
                let params = PatchParams { force: *force, ..PatchParams::apply(manager) };
                self.api(*kind).patch(name, &params, &Patch::Apply(object)).await
            }
            Request::Delete(kind, name, uid) => {
                let uid = uid.and_then(|at| seen[at]["metadata"]["uid"].as_str());
                let preconditions =
                    uid.map(|uid| Preconditions { uid: Some(uid.to_owned()), resource_version: None });
                let propagation_policy = Some(PropagationPolicy::Background);
                let params = DeleteParams { propagation_policy, preconditions, ..DeleteParams::default() };
                match self.api(*kind).delete(name, &params).await {
                    Ok(deleted) => match deleted.left() {
                        Some(object) => Ok(object),
                        None => return json!("deleted"),
                    },
                    Err(error) => Err(error),
                }
            }
            Request::Get(kind, name) => self.api(*kind).get(name).await,
            Request::Path(path) => {
                let request = http::Request::get(*path).body(Vec::new()).unwrap();
                let client = self.maps.clone().into_client();
                return client.request::<Value>(request).await.unwrap_or_else(refusal);
            }
            Request::List(kind, more) => {
                let params = ListParams::default().labels(&format!("{OURS}{more}"));
                return match self.api(*kind).list(&params).await {
                    Ok(list) => list
                        .items
                        .iter()
                        .map(|item| plain_object(&serde_json::to_value(item).unwrap()))
                        .collect(),
                    Err(error) => refusal(error),
                };
            }
        };
        answer.map_or_else(refusal, |object| serde_json::to_value(object).unwrap())
    }

    async fn version(&self) -> String {
        self.maps.list(&ListParams::default().labels(OURS)).await.unwrap().metadata.resource_version.unwrap()
    }

    /// All events since a version, as far as they have come.
    async fn events(&self, kind: Kind, from: &str) -> Vec<Value> {
        let params = kube::api::WatchParams::default().labels(OURS).timeout(5);
        let watch = self.api(kind).watch(&params, from).await.unwrap();
        let mut events = Vec::new();
        let mut watch = std::pin::pin!(watch);
        while let Ok(Ok(Some(event))) = tokio::time::timeout(Duration::from_secs(1), watch.try_next()).await {
            let (word, object) = match event {
                kube::api::WatchEvent::Added(object) => ("added", object),
                kube::api::WatchEvent::Modified(object) => ("modified", object),
                kube::api::WatchEvent::Deleted(object) => ("deleted", object),
                _ => continue,
            };
            events.push(json!([word, plain_object(&serde_json::to_value(object).unwrap())]));
        }
        events
    }

    async fn clear(&self) {
        let free = Patch::Merge(json!({"metadata": {"finalizers": null}}));
        for api in [&self.maps, &self.jobs] {
            for object in api.list(&ListParams::default().labels(OURS)).await.unwrap() {
                let name = object.metadata.name.unwrap();
                let _ = api.patch(&name, &PatchParams::default(), &free).await;
                let _ = api.delete(&name, &DeleteParams::background()).await;
            }
        }
    }
}

fn refusal(error: kube::Error) -> Value {
    match error {
        kube::Error::Api(status) => json!({"code": status.code, "reason": status.reason}),
        other => panic!("{other}"),
    }
}

fn plain(answer: &Value) -> Value {
    if answer["metadata"].is_object() { plain_object(answer) } else { answer.clone() }
}

/// Without what differs from server to server.
fn plain_object(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(metadata) = object["metadata"].as_object_mut() {
        for field in ["uid", "resourceVersion", "creationTimestamp", "managedFields"] {
            metadata.remove(field);
        }
        if metadata.contains_key("deletionTimestamp") {
            metadata.insert("deletionTimestamp".into(), json!("some time"));
        }
    }
    object
}
