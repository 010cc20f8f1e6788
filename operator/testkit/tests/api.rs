//! The server as `kube::Client` sees it. real_server.rs compares it with a real one.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that panics has failed")]

use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::{
    Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy,
    WatchEvent, WatchParams,
};
use kube::runtime::watcher;
use kube::{Client, Error, ResourceExt as _};
use muster_api::v1alpha1::{TrainingJob, WorkUnit};
use muster_testkit::api::Server;
use serde_json::{Value, json};

fn server() -> (Server, Client) {
    let definitions: Vec<Value> =
        muster_api::crds().iter().map(|definition| serde_json::to_value(definition).unwrap()).collect();
    let server = Server::new(&definitions, Arc::new(|| "2026-01-01T00:00:00Z".to_owned()));
    server.namespace("team-a");
    (server.clone(), Client::new(server, "team-a"))
}

fn map(name: &str, data: Value) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"name": name}, "data": data})).unwrap()
}

fn job(name: &str) -> TrainingJob {
    serde_json::from_value(json!({
        "apiVersion": "muster.dev/v1alpha1", "kind": "TrainingJob", "metadata": {"name": name},
        "spec": {
            "model": {"architecture": "gpt2", "layers": 1, "width": 16, "heads": 1, "context": 16, "vocabulary": 256},
            "data": {"dataset": "kjv"},
            "training": {"steps": 40, "batch": 2, "shards": 2},
            "workers": {"count": 1},
        },
    }))
    .unwrap()
}

#[track_caller]
fn code<T: std::fmt::Debug>(result: Result<T, Error>) -> (u16, String) {
    match result {
        Err(Error::Api(status)) => (status.code, status.reason.clone()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn objects_are_written_under_preconditions() {
    let (_, client) = server();
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "team-a");
    let post = PostParams::default();
    let made = maps.create(&post, &map("one", json!({"a": "1"}))).await.unwrap();
    assert_eq!(code(maps.create(&post, &map("one", json!({}))).await), (409, "AlreadyExists".into()));
    let elsewhere: Api<ConfigMap> = Api::namespaced(client.clone(), "nowhere");
    assert_eq!(code(elsewhere.create(&post, &map("one", json!({}))).await), (404, "NotFound".into()));

    let merged = maps
        .patch("one", &PatchParams::default(), &Patch::Merge(json!({"data": {"a": null, "b": "2"}})))
        .await;
    let merged = merged.unwrap();
    assert_eq!(merged.data.clone().unwrap(), [("b".to_owned(), "2".to_owned())].into());
    assert_ne!(merged.resource_version(), made.resource_version());
    assert_eq!(code(maps.replace("one", &post, &made).await), (409, "Conflict".into()), "another was faster");
    let same = maps.replace("one", &post, &merged).await.unwrap();
    assert_eq!(same.resource_version(), merged.resource_version(), "nothing changed");
    let test = json!([{"op": "test", "path": "/data/b", "value": "3"}]);
    let patch = Patch::<ConfigMap>::Json(serde_json::from_value(test).unwrap());
    assert_eq!(code(maps.patch("one", &PatchParams::default(), &patch).await), (422, "Invalid".into()));

    let other = Preconditions { uid: Some("another".into()), resource_version: None };
    let params = DeleteParams { preconditions: Some(other), ..DeleteParams::default() };
    assert_eq!(code(maps.delete("one", &params).await), (409, "Conflict".into()));
    let background =
        DeleteParams { propagation_policy: Some(PropagationPolicy::Background), ..DeleteParams::default() };
    assert!(maps.delete("one", &background).await.unwrap().is_right(), "gone at once");
    assert!(maps.get_opt("one").await.unwrap().is_none());

    // A namespace goes when its own finalizer does, and takes nothing new meanwhile.
    let namespaces: Api<Namespace> = Api::all(client);
    assert!(namespaces.delete("team-a", &DeleteParams::default()).await.unwrap().is_left());
    assert_eq!(code(maps.create(&post, &map("two", json!({}))).await), (403, "Forbidden".into()));
}

#[tokio::test]
async fn a_definition_rules_its_objects() {
    let (_, client) = server();
    let jobs: Api<TrainingJob> = Api::namespaced(client, "team-a");
    let post = PostParams::default();
    let made = jobs.create(&post, &job("one")).await.unwrap();
    assert_eq!((made.metadata.generation, made.spec.training.interval_steps), (Some(1), 20), "defaults");
    let bad = Patch::Merge(json!({"spec": {"training": {"steps": 41}}}));
    assert_eq!(
        code(jobs.patch("one", &PatchParams::default(), &bad).await),
        (422, "Invalid".into()),
        "identity"
    );

    let status = json!({"status": {"phase": "Running"}, "spec": {"suspend": true}});
    let said = jobs.patch_status("one", &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    assert_eq!(
        (said.metadata.generation, said.spec.suspend),
        (Some(1), false),
        "only the status is written there"
    );
    assert!(said.status.is_some());
    let wish = Patch::Merge(json!({"spec": {"suspend": true}, "status": {"phase": "Failed"}}));
    let wished = jobs.patch("one", &PatchParams::default(), &wish).await.unwrap();
    assert_eq!(wished.metadata.generation, Some(2));
    assert_eq!(wished.status, said.status, "and only the rest here");

    // Who holds an object lets it go last.
    let hold = Patch::Merge(json!({"metadata": {"finalizers": ["muster.dev/test"]}}));
    jobs.patch("one", &PatchParams::default(), &hold).await.unwrap();
    let marked = jobs.delete("one", &DeleteParams::default()).await.unwrap().left().unwrap();
    assert_eq!(marked.metadata.generation, Some(3));
    let more = Patch::Merge(json!({"metadata": {"finalizers": ["muster.dev/test", "muster.dev/more"]}}));
    assert_eq!(code(jobs.patch("one", &PatchParams::default(), &more).await), (422, "Invalid".into()));
    let free = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    jobs.patch("one", &PatchParams::default(), &free).await.unwrap();
    assert!(jobs.get_opt("one").await.unwrap().is_none());
    let units: Api<WorkUnit> = Api::all(jobs.into_client());
    assert_eq!(units.list(&ListParams::default()).await.unwrap().items.len(), 0);
}

#[tokio::test]
async fn lists_come_in_pages_and_watches_go_on_from_them() {
    let (server, client) = server();
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "team-a");
    for i in 0..5 {
        let labelled =
            json!({"metadata": {"name": format!("m{i}"), "labels": {"even": (i % 2 == 0).to_string()}}});
        maps.create(&PostParams::default(), &serde_json::from_value(labelled).unwrap()).await.unwrap();
    }
    let even = ListParams::default().labels("even=true").limit(2);
    let first = maps.list(&even).await.unwrap();
    let rest =
        maps.list(&even.clone().continue_token(first.metadata.continue_.as_ref().unwrap())).await.unwrap();
    let names: Vec<_> = first.items.iter().chain(&rest.items).map(|map| map.name_any()).collect();
    assert_eq!((names, rest.metadata.continue_.clone()), (vec!["m0".into(), "m2".into(), "m4".into()], None));
    assert_eq!(maps.list_metadata(&ListParams::default()).await.unwrap().items.len(), 5);

    let from = rest.metadata.resource_version.unwrap();
    let watch = maps.watch(&WatchParams::default().labels("even=true"), &from).await.unwrap();
    let label = |name: &'static str, even: &'static str| {
        let (maps, patch) = (maps.clone(), Patch::Merge(json!({"metadata": {"labels": {"even": even}}})));
        async move { maps.patch(name, &PatchParams::default(), &patch).await.unwrap() }
    };
    label("m0", "false").await;
    label("m1", "true").await;
    maps.delete("m3", &DeleteParams::default()).await.unwrap();
    maps.delete("m2", &DeleteParams::default()).await.unwrap();
    let seen: Vec<_> = watch.take(3).try_collect().await.unwrap();
    let said: Vec<_> = seen
        .iter()
        .map(|event| match event {
            WatchEvent::Added(map) => format!("+{}", map.name_any()),
            WatchEvent::Modified(map) => format!("~{}", map.name_any()),
            WatchEvent::Deleted(map) => format!("-{}", map.name_any()),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(said, ["-m0", "+m1", "-m2"], "what leaves the selection is gone, what enters it is new");

    // What is forgotten cannot be watched from; a watcher begins again.
    server.compact();
    let mut old = maps.watch(&WatchParams::default(), &from).await.unwrap().boxed();
    match old.next().await.unwrap().unwrap() {
        WatchEvent::Error(status) => assert_eq!((status.code, status.reason.as_str()), (410, "Expired")),
        other => panic!("{other:?}"),
    }
    let config = watcher::Config::default().labels("even=true");
    let all: Vec<_> = watcher(maps, config).take(4).try_collect().await.unwrap();
    assert!(matches!(
        all.as_slice(),
        [
            watcher::Event::Init,
            watcher::Event::InitApply(_),
            watcher::Event::InitApply(_),
            watcher::Event::InitDone
        ]
    ));
}

#[tokio::test]
async fn what_is_applied_belongs_to_who_applied_it() {
    let (_, client) = server();
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "team-a");
    let apply = |manager: &str, data: Value| {
        let object =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "one"}, "data": data});
        let (maps, params) = (maps.clone(), PatchParams::apply(manager).force());
        async move { maps.patch("one", &params, &Patch::Apply(object)).await.unwrap().data.unwrap_or_default() }
    };
    let of = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    assert_eq!(apply("hub", json!({"a": "1", "b": "1"})).await, of(&[("a", "1"), ("b", "1")]));
    maps.patch("one", &PatchParams::default(), &Patch::Merge(json!({"data": {"b": "2", "c": "2"}})))
        .await
        .unwrap();
    assert_eq!(
        apply("hub", json!({"a": "1"})).await,
        of(&[("a", "1"), ("b", "2"), ("c", "2")]),
        "b is not the hub's any more"
    );
    assert_eq!(apply("hub", json!({})).await, of(&[("b", "2"), ("c", "2")]));
    let object =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "one"}, "data": {"b": "3"}});
    let mild = maps.patch("one", &PatchParams::apply("other"), &Patch::Apply(object)).await;
    assert_eq!(code(mild), (409, "Conflict".into()));

    let leases: Api<Lease> = Api::namespaced(client, "team-a");
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "hub"}, "spec": {"holderIdentity": "x"}});
    let made = leases.patch("hub", &PatchParams::apply("hub"), &Patch::Apply(lease)).await.unwrap();
    assert_eq!(made.spec.unwrap().holder_identity.as_deref(), Some("x"), "an apply makes what is not there");
}
