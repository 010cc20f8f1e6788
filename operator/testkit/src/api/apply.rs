//! Server-side apply (Kubernetes, "Server-Side Apply"; KEP-555): who set which field, and what becomes of a field that its only owner
//! leaves out.
//!
//! Empty maps in what is applied are the one case in which a real server was seen to decide otherwise, in rare histories.
//!
//! Owners are kept beside the objects, as sets of leaves, and not as `managedFields` in them: no controller here reads those.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::answer::Refused;

/// A step on the way to a field.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Of a map.
    Field(String),
    /// Of a list whose items have an identity: its keys and their values as JSON.
    Item(String),
    /// Of a list that is a set: the value as JSON.
    Value(String),
}

/// From the object's root to a leaf.
pub type Leaf = Vec<Step>;

/// Which leaves of one object each manager set last. The flag says whether by an apply.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Owners(BTreeMap<(String, bool), BTreeSet<Leaf>>);

/// How a list is put together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum List {
    /// One value.
    Atomic,
    /// Of scalars, each once.
    Set,
    /// Of maps that these keys tell apart.
    Map(Vec<String>),
}

/// Says of a field's path (names only, `[]` for items) how its list is put together.
pub type Lists<'a> = &'a dyn Fn(&[&str]) -> List;

impl Owners {
    /// Notes what a manager changed from `old` to `new` otherwise than by apply: it owns that now, and nobody else.
    pub fn changed(&mut self, manager: &str, old: &Value, new: &Value, lists: Lists<'_>) {
        let (before, after) = (leaves(old, lists), leaves(new, lists));
        let changed: BTreeSet<Leaf> = after
            .iter()
            .filter(|(leaf, value)| before.get(*leaf) != Some(value))
            .map(|(leaf, _)| leaf.clone())
            .collect();
        let begun = begun(&before, &after);
        for owned in self.0.values_mut() {
            owned.retain(|leaf| {
                !(changed.contains(leaf) || begun.contains(leaf))
                    && (after.contains_key(leaf) || !before.contains_key(leaf))
            });
        }
        self.0.entry((manager.to_owned(), false)).or_default().extend(changed);
        self.0.retain(|_, owned| !owned.is_empty());
    }

    /// What becomes of `old` when a manager applies `wanted`.
    ///
    /// # Errors
    /// 409 for a field that another manager has set otherwise, unless `force`.
    pub fn apply(
        &mut self,
        manager: &str,
        old: &Value,
        wanted: &Value,
        force: bool,
        lists: Lists<'_>,
    ) -> Result<Value, Refused> {
        let (before, applied) = (leaves(old, lists), leaves(wanted, lists));
        let (me, holding) = ((manager.to_owned(), true), holders(&before));
        let others_own =
            |leaf: &Leaf| self.0.iter().any(|(owner, owned)| *owner != me && owned.contains(leaf));
        let conflicts: BTreeSet<Leaf> = applied
            .iter()
            .filter(|(leaf, value)| before.get(*leaf) != Some(*value))
            // Nothing applied to a map that holds something changes nothing.
            .filter(|(leaf, _)| !holding.contains(*leaf))
            .map(|(leaf, _)| leaf.clone())
            .chain(begun(&before, &applied))
            .filter(others_own)
            .collect();
        if !conflicts.is_empty() && !force {
            let fields: Vec<String> = conflicts.iter().map(|leaf| shown(leaf)).collect();
            let message = format!("Apply failed with {} conflicts: {}", fields.len(), fields.join(", "));
            return Err(Refused { code: 409, reason: "Conflict", message });
        }
        let mine = self.0.remove(&me).unwrap_or_default();
        // An item stays, with what tells it apart, as long as somebody else has set a field of it.
        let others = |leaf: &Leaf| {
            let needed = match leaf.split_last() {
                Some((Step::Field(name), [.., Step::Item(keys)]))
                    if keys.contains(&format!("\"{name}\":")) =>
                {
                    leaf.get(..leaf.len() - 1).unwrap_or(leaf)
                }
                _ => leaf,
            };
            self.0.values().flatten().any(|owned| owned.starts_with(needed))
        };
        let gone: BTreeSet<Leaf> =
            mine.into_iter().filter(|leaf| !applied.contains_key(leaf) && !others(leaf)).collect();
        for owned in self.0.values_mut() {
            owned.retain(|leaf| !conflicts.contains(leaf));
        }
        let mut new = old.clone();
        for leaf in &gone {
            remove(&mut new, leaf, &mut Vec::new(), lists);
        }
        merge(&mut new, wanted, &mut Vec::new(), lists);
        self.0.insert(me, applied.into_keys().collect());
        self.0.retain(|_, owned| !owned.is_empty());
        Ok(new)
    }
}

/// What holds something now and held nothing before. Who has set it as empty does not have it any more.
fn begun(before: &BTreeMap<Leaf, Value>, after: &BTreeMap<Leaf, Value>) -> BTreeSet<Leaf> {
    holders(after).difference(&holders(before)).cloned().collect()
}

/// All that holds something: what is above a leaf.
fn holders(leaves: &BTreeMap<Leaf, Value>) -> BTreeSet<Leaf> {
    let above =
        |leaf: &Leaf| (1..leaf.len()).filter_map(|n| leaf.get(..n).map(<[Step]>::to_vec)).collect::<Vec<_>>();
    leaves.keys().flat_map(above).collect()
}

/// As messages name a field.
fn shown(leaf: &[Step]) -> String {
    leaf.iter()
        .map(|step| match step {
            Step::Field(name) => format!(".{name}"),
            Step::Item(keys) => format!("[{keys}]"),
            Step::Value(value) => format!("[={value}]"),
        })
        .collect()
}

/// The identity of an item of a list.
fn identity(keys: &[String], item: &Value) -> Step {
    let keys: Map<String, Value> = keys.iter().map(|key| (key.clone(), item[key].clone())).collect();
    Step::Item(Value::Object(keys).to_string())
}

/// The identity of an item of a set.
fn set_value(item: &Value) -> Step {
    Step::Value(item.to_string())
}

/// All leaves of an object that managers own, with their values. An empty map and an item's being there are leaves, too.
fn leaves(object: &Value, lists: Lists<'_>) -> BTreeMap<Leaf, Value> {
    let mut all = BTreeMap::new();
    collect(object, &mut Vec::new(), &mut Vec::new(), lists, &mut all);
    all
}

fn collect<'a>(
    value: &'a Value,
    at: &mut Leaf,
    names: &mut Vec<&'a str>,
    lists: Lists<'_>,
    all: &mut BTreeMap<Leaf, Value>,
) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (name, value) in map {
                if ignored(names, name) {
                    continue;
                }
                at.push(Step::Field(name.clone()));
                names.push(name);
                collect(value, at, names, lists, all);
                names.pop();
                at.pop();
            }
        }
        Value::Array(items) => match lists(names) {
            List::Atomic => drop(all.insert(at.clone(), value.clone())),
            List::Set => {
                for item in items {
                    let leaf: Leaf = at.iter().cloned().chain([set_value(item)]).collect();
                    all.insert(leaf, Value::Bool(true));
                }
            }
            List::Map(keys) => {
                for item in items {
                    at.push(identity(&keys, item));
                    names.push("[]");
                    all.insert(at.clone(), Value::Bool(true));
                    collect(item, at, names, lists, all);
                    names.pop();
                    at.pop();
                }
            }
        },
        other => drop(all.insert(at.clone(), other.clone())),
    }
}

/// Nobody owns what every object has, and what the server writes.
fn ignored(names: &[&str], name: &str) -> bool {
    match names {
        [] => matches!(name, "apiVersion" | "kind"),
        ["metadata"] => matches!(
            name,
            "name"
                | "namespace"
                | "uid"
                | "resourceVersion"
                | "creationTimestamp"
                | "generation"
                | "deletionTimestamp"
                | "deletionGracePeriodSeconds"
                | "managedFields"
                | "selfLink"
        ),
        _ => false,
    }
}

/// Puts `wanted` over `old`.
fn merge<'a>(old: &mut Value, wanted: &'a Value, names: &mut Vec<&'a str>, lists: Lists<'_>) {
    match (old, wanted) {
        (Value::Object(old), Value::Object(wanted)) => {
            for (name, value) in wanted {
                names.push(name);
                merge(old.entry(name.clone()).or_insert(Value::Null), value, names, lists);
                names.pop();
            }
        }
        (old, Value::Array(wanted)) => {
            let list = lists(names);
            if !old.is_array() || list == List::Atomic {
                *old = Value::Array(wanted.clone());
                return;
            }
            let Value::Array(old) = old else { return };
            for item in wanted {
                let same = |there: &&mut Value| match &list {
                    List::Map(keys) => identity(keys, there) == identity(keys, item),
                    _ => **there == *item,
                };
                match old.iter_mut().find(same) {
                    Some(there) => {
                        names.push("[]");
                        merge(there, item, names, lists);
                        names.pop();
                    }
                    None => old.push(item.clone()),
                }
            }
        }
        (old, wanted) => *old = wanted.clone(),
    }
}

/// Takes a leaf away, and what is empty without it.
fn remove<'a>(object: &mut Value, leaf: &'a [Step], names: &mut Vec<&'a str>, lists: Lists<'_>) {
    let Some((step, rest)) = leaf.split_first() else { return };
    match (step, object) {
        (Step::Field(name), Value::Object(map)) => {
            let Some(inner) = map.get_mut(name) else { return };
            names.push(name);
            if !rest.is_empty() {
                remove(inner, rest, names, lists);
            }
            let empty =
                inner.as_object().is_some_and(Map::is_empty) || inner.as_array().is_some_and(Vec::is_empty);
            names.pop();
            if rest.is_empty() || empty {
                map.remove(name);
            }
        }
        (Step::Value(value), Value::Array(items)) => {
            items.retain(|item| set_value(item) != Step::Value(value.clone()))
        }
        (Step::Item(_), Value::Array(items)) => {
            let List::Map(keys) = lists(names) else { return };
            let Some(at) = items.iter().position(|item| identity(&keys, item) == *step) else { return };
            if rest.is_empty() {
                items.remove(at);
                return;
            }
            names.push("[]");
            if let Some(item) = items.get_mut(at) {
                remove(item, rest, names, lists);
            }
            names.pop();
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn lists(names: &[&str]) -> List {
        match names {
            ["metadata", "finalizers"] => List::Set,
            ["status", "conditions"] => List::Map(vec!["type".into()]),
            _ => List::Atomic,
        }
    }

    #[test]
    fn what_an_owner_leaves_out_goes_and_what_others_set_stays() {
        let mut owners = Owners::default();
        let mut apply = |manager: &str, old: &Value, wanted: Value| {
            owners.apply(manager, old, &wanted, true, &lists).unwrap()
        };
        let first =
            apply("a", &json!({}), json!({"data": {"x": "1", "y": "1"}, "metadata": {"finalizers": ["f"]}}));
        let second =
            apply("b", &first, json!({"data": {"y": "1", "z": "1"}, "metadata": {"finalizers": ["g"]}}));
        assert_eq!(second["metadata"]["finalizers"], json!(["f", "g"]));
        let third = apply("a", &second, json!({"data": {"w": "1"}}));
        assert_eq!(
            third,
            json!({"data": {"w": "1", "y": "1", "z": "1"}, "metadata": {"finalizers": ["g"]}}),
            "y is b's, too"
        );
        let fourth = apply("b", &third, json!({}));
        assert_eq!(fourth, json!({"data": {"w": "1"}}));
    }

    #[test]
    fn items_have_identities_and_lists_without_them_are_one_value() {
        let mut owners = Owners::default();
        let of = |items: Value| json!({"status": {"conditions": items}, "list": [1]});
        let ready = json!({"type": "Ready", "status": "True"});
        let first = owners.apply("a", &json!({}), &of(json!([ready])), true, &lists).unwrap();
        let live = json!([{"type": "Live", "status": "False"}]);
        let mut wanted = of(live.clone());
        wanted["list"] = json!([2]);
        let error = owners.apply("b", &first, &wanted, false, &lists).unwrap_err();
        assert!(error.code == 409 && error.message.contains(".list"), "{error:?}");
        let second = owners.apply("b", &first, &wanted, true, &lists).unwrap();
        assert_eq!(second, json!({"status": {"conditions": [ready, live[0]]}, "list": [2]}));
        // Somebody changes a's condition by an update: it is not a's any more, and stays when a leaves it out.
        let mut edited = second.clone();
        edited["status"]["conditions"][0]["status"] = json!("Unknown");
        owners.changed("user", &second, &edited, &lists);
        let third = owners.apply("a", &edited, &json!({}), true, &lists).unwrap();
        assert_eq!(
            third["status"]["conditions"][0],
            json!({"type": "Ready", "status": "Unknown"}),
            "{third}"
        );
    }
}
