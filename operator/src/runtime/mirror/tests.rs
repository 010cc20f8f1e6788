use std::convert::Infallible;
use std::sync::atomic::AtomicUsize;

use axum::http::{Request, Response};
use futures::FutureExt as _;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Client;
use kube::client::Body;
use kube::runtime::watcher::Event;
use serde_json::json;
use tower::service_fn;

use super::*;

/// A map, by the team that its label names.
#[derive(Debug)]
struct Kept(ConfigMap);

impl From<ConfigMap> for Kept {
    fn from(object: ConfigMap) -> Self {
        Self(object)
    }
}

type Maps = Mirror<ConfigMap, Kept>;

fn map(name: &str, team: &str, version: u64) -> ConfigMap {
    let meta = json!({"namespace": "a", "name": name, "labels": {"team": team}, "resourceVersion": version.to_string()});
    serde_json::from_value(json!({"metadata": meta})).unwrap()
}

fn guard(map: ConfigMap) -> DeserializeGuard<ConfigMap> {
    DeserializeGuard(Ok(map))
}

/// An API server that has these, and how often it was asked.
fn server(maps: Vec<ConfigMap>) -> (Maps, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let service = service_fn(move |_: Request<Body>| {
        count.fetch_add(1, Ordering::SeqCst);
        let items = serde_json::to_value(&maps).unwrap();
        let list = json!({"apiVersion": "v1", "kind": "ConfigMapList", "metadata": {"resourceVersion": "50"}, "items": items});
        let answer = Response::new(Body::from(serde_json::to_vec(&list).unwrap()));
        async move { Ok::<_, Infallible>(answer) }
    });
    let mirror = Mirror::new(Api::all(Client::new(service, "default"))).grouped_by("team");
    (mirror, asked)
}

/// Told of `maps` by a watch; asked, the server has `live`.
fn listed(live: Vec<ConfigMap>, maps: Vec<ConfigMap>) -> (Maps, Arc<AtomicUsize>) {
    let (mirror, asked) = server(live);
    mirror.take(Event::Init);
    for map in maps {
        mirror.take(Event::InitApply(guard(map)));
    }
    mirror.take(Event::InitDone);
    (mirror, asked)
}

fn names(kept: Vec<Arc<Kept>>) -> Vec<String> {
    kept.iter().map(|kept| kept.0.metadata.name.clone().unwrap()).collect()
}

#[tokio::test(start_paused = true)]
async fn the_server_is_asked_until_the_watch_has_told_of_all() {
    let (mirror, asked) = server(vec![map("live", "x", 4)]);
    mirror.take(Event::Init);
    mirror.take(Event::InitApply(guard(map("one", "x", 5))));
    assert_eq!(names(mirror.all().await.unwrap()), ["live"], "half a list is none");
    mirror.take(Event::InitDone);
    assert_eq!(names(mirror.all().await.unwrap()), ["one"]);
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn events_change_what_is_there() {
    let (mirror, asked) = listed(vec![], vec![map("one", "x", 5), map("two", "y", 6)]);
    mirror.take(Event::Apply(guard(map("two", "x", 7))));
    mirror.take(Event::Apply(guard(map("three", "y", 8))));
    mirror.take(Event::Delete(guard(map("one", "x", 9))));
    let of = async |group| names(mirror.of(&[group]).await.unwrap());
    assert_eq!((of("x").await, of("y").await), (vec!["two".to_owned()], vec!["three".to_owned()]));
    assert_eq!(names(mirror.in_namespace("a").await.unwrap()), ["three", "two"]);
    assert_eq!(names(mirror.in_namespace("").await.unwrap()), [""; 0]);
    assert!(mirror.known("a", "one").is_none() && mirror.known("a", "two").is_some());
    let again = vec![map("three", "x", 8)];
    mirror.take(Event::Init);
    again.into_iter().for_each(|map| mirror.take(Event::InitApply(guard(map))));
    mirror.take(Event::InitDone);
    assert_eq!(
        (of("x").await, of("y").await),
        (vec!["three".to_owned()], vec![]),
        "what is not listed is gone"
    );
    assert_eq!(asked.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn what_does_not_parse_is_not_there() {
    let (mirror, _) = listed(vec![], vec![map("one", "x", 5)]);
    let invalid = json!({"metadata": map("one", "x", 6).metadata, "data": 5});
    let invalid: DeserializeGuard<ConfigMap> = serde_json::from_value(invalid).unwrap();
    assert!(invalid.0.is_err());
    mirror.take(Event::Apply(invalid));
    assert_eq!(names(mirror.of(&["x"]).await.unwrap()), [""; 0]);
    assert_eq!(*mirror.told(), Some(6));
}

#[tokio::test(start_paused = true)]
async fn a_read_waits_for_what_was_written() {
    let (mirror, asked) = listed(vec![map("live", "x", 8)], vec![map("one", "x", 5)]);
    mirror.wrote(&map("two", "x", 8).metadata);
    let read = mirror.of(&["x"]);
    tokio::pin!(read);
    assert!(futures::poll!(&mut read).is_pending());
    mirror.take(Event::Apply(guard(map("two", "x", 8))));
    assert_eq!(names(read.await.unwrap()), ["one", "two"]);
    assert_eq!(asked.load(Ordering::SeqCst), 0);

    mirror.wrote(&map("three", "x", 9).metadata);
    assert_eq!(names(mirror.of(&["x"]).await.unwrap()), ["live"], "the watch brings nothing");
    // A list that began after the write has it, whether it is still there or not.
    mirror.take(Event::Init);
    mirror.take(Event::InitDone);
    assert_eq!(names(mirror.of(&["x"]).await.unwrap()), [""; 0]);
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_list_that_began_before_a_write_does_not_have_it() {
    let (mirror, asked) = listed(vec![map("live", "x", 8)], vec![map("one", "x", 5)]);
    mirror.take(Event::Init);
    mirror.wrote(&map("two", "x", 8).metadata);
    mirror.take(Event::InitApply(guard(map("one", "x", 5))));
    mirror.take(Event::InitDone);
    assert_eq!(names(mirror.of(&["x"]).await.unwrap()), ["live"]);
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn after_a_lost_answer_the_server_is_asked_for_a_while() {
    let (mirror, asked) = listed(vec![map("live", "x", 8)], vec![map("one", "x", 5)]);
    mirror.lost();
    assert_eq!(names(mirror.all().await.unwrap()), ["live"]);
    tokio::time::advance(DOUBTS).await;
    assert_eq!(names(mirror.all().await.unwrap()), ["one"]);
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn whoever_listens_hears_of_every_change_once_it_is_here() {
    let (mirror, _) = listed(vec![], vec![map("one", "x", 5), map("two", "x", 6)]);
    let mut changes = mirror.changes();
    let mut heard = || changes.next().now_or_never().flatten().map(|change| change.name);
    mirror.take(Event::Apply(guard(map("one", "x", 7))));
    mirror.take(Event::Delete(guard(map("one", "x", 8))));
    assert_eq!([heard(), heard(), heard()], [Some("one".into()), Some("one".into()), None]);
    mirror.take(Event::Init);
    mirror.take(Event::InitApply(guard(map("three", "x", 9))));
    assert_eq!(heard(), None, "half a list is none");
    mirror.take(Event::InitDone);
    assert_eq!([heard(), heard(), heard()], [Some("three".into()), Some("two".into()), None]);
}
