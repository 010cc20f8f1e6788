//! What Kueue does with the hub's Workloads, as a model: it admits, and in one story takes back once what it has given.
use std::cell::Cell;
use std::time::Duration;

use muster_testkit::api::{Change, Half, Verb};
use serde_json::{Value, json};

use super::world::{ENDED, World};

/// From a Workload to its admission, and from one admission to the next.
const ADMITS_AFTER: Duration = Duration::from_secs(10);
/// Resource.
pub const WORKLOADS: &str = "kueue.x-k8s.io/workloads";

/// The definition, without Kueue's schema.
pub fn definition() -> Value {
    json!({"spec": {
        "group": "kueue.x-k8s.io", "scope": "Namespaced", "names": {"kind": "Workload", "plural": "workloads"},
        "versions": [{
            "name": "v1beta2", "served": true, "subresources": {"status": {}},
            "schema": {"openAPIV3Schema": {
                "type": "object",
                "properties": {
                    "spec": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                    "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                },
            }},
        }],
    }})
}

/// Admits whatever waits, for ever.
pub async fn run(world: &World) {
    loop {
        tokio::time::sleep(ADMITS_AFTER).await;
        for workload in all(world) {
            let is_over = condition(&workload, "Finished") == Some("True");
            if !is_over && workload["status"]["admission"].is_null() && workload["spec"]["active"] != false {
                let said = [("QuotaReserved", "True"), ("Admitted", "True"), ("Evicted", "False")];
                say(world, &workload, &json!({"clusterQueue": "shared"}), &said);
            }
        }
    }
}

/// Takes back what it has given.
pub fn evict(world: &World) {
    for workload in all(world) {
        let admission = workload["status"]["admission"].clone();
        say(world, &workload, &admission, &[("Evicted", "True")]);
    }
}

fn all(world: &World) -> Vec<Value> {
    world.server.read(|objects| objects.of(WORKLOADS, None).map(|(_, object)| object.clone()).collect())
}

fn condition<'a>(workload: &'a Value, type_: &str) -> Option<&'a str> {
    let all = workload["status"]["conditions"].as_array()?;
    all.iter().find(|condition| condition["type"] == type_)?["status"].as_str()
}

fn say(world: &World, workload: &Value, admission: &Value, said: &[(&str, &str)]) {
    let all = workload["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let is_said = |one: &Value| said.iter().any(|(type_, _)| one["type"] == *type_);
    let kept = all.into_iter().filter(|one| !is_said(one));
    let new = said.iter().map(|(type_, status)| {
        json!({"type": type_, "status": status, "reason": "Preempted", "message": "to make room for another",
               "lastTransitionTime": "2026-01-01T00:00:00Z"})
    });
    let conditions: Vec<Value> = kept.chain(new).collect();
    let text = |field: &str| workload["metadata"][field].as_str().unwrap_or_default();
    let status = json!({"status": {"admission": admission, "conditions": conditions}});
    let (resource, namespace) = (("kueue.x-k8s.io", "workloads"), text("namespace"));
    world.update(resource, Some(namespace), text("name"), Half::Status, &status);
}

/// A job in a queue has a unit made for it only while it is admitted, and gives its place back only when no unit is at work.
#[derive(Default)]
pub struct Turns {
    admitted: Cell<bool>,
    at_work: std::collections::BTreeSet<String>,
}

impl Turns {
    pub fn changed(&mut self, change: &Change) -> Option<String> {
        let gone = change.verb == Verb::Deleted;
        match change.key.collection.as_str() {
            WORKLOADS => {
                let holds = |type_| condition(&change.new, type_) == Some("True");
                let has = !gone && holds("Admitted");
                let given_back = self.admitted.replace(has && !holds("Evicted")) && !has;
                (given_back && !gone && !self.at_work.is_empty())
                    .then(|| format!("turns: gives its place back while {:?} are at work", self.at_work))
            }
            "muster.dev/workunits" => {
                let phase = change.new["status"]["phase"].as_str().unwrap_or_default();
                if gone || ENDED.contains(&phase) {
                    self.at_work.remove(&change.key.name);
                } else {
                    self.at_work.insert(change.key.name.clone());
                }
                (change.verb == Verb::Added && !self.admitted.get())
                    .then(|| format!("turns: {} is made while its job waits", change.key.name))
            }
            _ => None,
        }
    }
}
