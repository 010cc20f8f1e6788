//! Watches: events as lines, from a resourceVersion on (Kubernetes API Concepts, "Efficient detection of changes").

use serde_json::{Value, json};

use super::answer::Refused;
use super::objects::{Change, Objects, Verb};
use super::select::Selector;

/// What a watch is to show.
#[derive(Debug, Clone)]
pub struct Scope {
    /// `group/resource`.
    pub collection: String,
    pub namespace: Option<String>,
    pub selector: Selector,
}

impl Scope {
    fn covers(&self, change: &Change) -> bool {
        change.key.collection == self.collection
            && self.namespace.as_ref().is_none_or(|namespace| change.key.namespace == *namespace)
    }

    /// The event that this change is for somebody who sees only what is selected.
    fn event(&self, change: &Change) -> Option<Value> {
        if !self.covers(change) {
            return None;
        }
        let was = change.old.as_ref().is_some_and(|old| self.selector.matches(old));
        let is = change.verb != Verb::Deleted && self.selector.matches(&change.new);
        let kind = match (was, is) {
            (false, true) => "ADDED",
            (true, true) => "MODIFIED",
            (true, false) => "DELETED",
            (false, false) => return None,
        };
        // Whoever loses sight of an object sees what it was, under the version of the change.
        let mut object = match (&change.old, change.verb, is) {
            (Some(old), Verb::Modified, false) => old.clone(),
            _ => change.new.clone(),
        };
        object["metadata"]["resourceVersion"] = json!(change.version.to_string());
        Some(json!({"type": kind, "object": object}))
    }

    /// Events after `from`, and up to which version they go.
    ///
    /// # Errors
    /// 410.
    pub fn events(&self, objects: &Objects, from: u64) -> Result<(Vec<Value>, u64), Refused> {
        let changes = objects.since(from)?;
        Ok((changes.iter().filter_map(|change| self.event(change)).collect(), objects.version()))
    }

    /// What is there now, as if it had just come.
    #[must_use]
    pub fn present(&self, objects: &Objects) -> Vec<Value> {
        let all = objects.of(&self.collection, self.namespace.as_deref()).map(|(_, object)| object);
        let seen = all.filter(|object| self.selector.matches(object));
        seen.map(|object| json!({"type": "ADDED", "object": object})).collect()
    }
}

/// That the server has shown everything up to a version.
#[must_use]
pub fn bookmark(api_version: &str, kind: &str, version: u64, ends_initial: bool) -> Value {
    let mut object = json!({
        "kind": kind, "apiVersion": api_version,
        "metadata": {"resourceVersion": version.to_string(), "creationTimestamp": null},
    });
    if ends_initial {
        object["metadata"]["annotations"] = json!({"k8s.io/initial-events-end": "true"});
    }
    json!({"type": "BOOKMARK", "object": object})
}
