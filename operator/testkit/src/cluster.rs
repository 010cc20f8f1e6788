//! What controllers of every cluster do and Muster leans on: the garbage collector and the namespace controller, in one pass.
//!
//! Not here: deletion in the foreground and orphans, which nothing of Muster asks for.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::api::{Half, Key, Refused, Server};

/// Deletes what has lost all of its owners and what lies in namespaces that end, and lets go of namespaces that are empty.
pub fn tidy(server: &Server) {
    let (lost, ended) = server.read(|objects| {
        let uids: BTreeSet<&str> =
            objects.all().filter_map(|(_, object)| object["metadata"]["uid"].as_str()).collect();
        let terminating: BTreeSet<&str> = objects
            .of("/namespaces", None)
            .filter(|(_, namespace)| is_deleted(namespace))
            .map(|(key, _)| key.name.as_str())
            .collect();
        let goes = |key: &Key, object: &Value| {
            !is_deleted(object)
                && (terminating.contains(key.namespace.as_str()) || is_lost(object, |uid| uids.contains(uid)))
        };
        let lost: Vec<Key> =
            objects.all().filter(|(key, object)| goes(key, object)).map(|(key, _)| key.clone()).collect();
        let is_empty = |name: &str| !objects.all().any(|(key, _)| key.namespace == name);
        let ended: Vec<String> =
            terminating.iter().filter(|name| is_empty(name)).map(|name| (*name).to_owned()).collect();
        (lost, ended)
    });
    for key in lost {
        let Some((group, resource)) = key.collection.split_once('/') else { continue };
        let namespace = Some(key.namespace.as_str()).filter(|namespace| !namespace.is_empty());
        // Whoever is faster has done it.
        let _: Result<(), Refused> =
            server.write(group, resource, |write| write.delete(namespace, &key.name, &Value::Null).map(drop));
    }
    for name in ended {
        let lets_go = |namespace: &mut Value| namespace["spec"]["finalizers"] = json!([]);
        let _: Result<Value, Refused> = server.change(("", "namespaces"), None, &name, Half::Main, lets_go);
    }
}

fn is_deleted(object: &Value) -> bool {
    !object["metadata"]["deletionTimestamp"].is_null()
}

/// It had owners, and none of them is there.
fn is_lost(object: &Value, is_there: impl Fn(&str) -> bool) -> bool {
    let owners = object["metadata"]["ownerReferences"].as_array();
    owners.is_some_and(|owners| {
        !owners.is_empty() && !owners.iter().any(|owner| owner["uid"].as_str().is_some_and(&is_there))
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn names(server: &Server) -> Vec<String> {
        server.read(|objects| objects.of("/configmaps", None).map(|(key, _)| key.name.clone()).collect())
    }

    #[test]
    fn what_nobody_owns_any_more_goes_and_so_does_all_of_a_namespace() {
        let server = Server::new(&[], Arc::new(|| "2026-01-01T00:00:00Z".to_owned()));
        server.namespace("team-a");
        let make = |name: &str, owner: Option<&Value>| {
            let owners = owner.map(|owner| {
                json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "any", "uid": owner["metadata"]["uid"]}])
            });
            let map = json!({"apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"name": name, "ownerReferences": owners}});
            server.write("", "configmaps", |write| write.create(Some("team-a"), map)).unwrap()
        };
        let owner = make("owner", None);
        make("owned", Some(&owner));
        make("free", None);
        tidy(&server);
        assert_eq!(names(&server), ["free", "owned", "owner"]);
        server.write("", "configmaps", |write| write.delete(Some("team-a"), "owner", &Value::Null)).unwrap();
        tidy(&server);
        assert_eq!(names(&server), ["free"]);
        server.write("", "namespaces", |write| write.delete(None, "team-a", &Value::Null)).unwrap();
        tidy(&server);
        tidy(&server);
        let left = |key: &Key| server.read(|objects| objects.get(key).is_some());
        let key = Key { collection: "/namespaces".into(), namespace: String::new(), name: "team-a".into() };
        assert!(names(&server).is_empty() && !left(&key));
    }
}
