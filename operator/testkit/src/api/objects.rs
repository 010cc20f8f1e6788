//! All objects of a cluster with what became of them: the part that is etcd's.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::Notify;

use super::answer::Refused;

/// Where an object lies: its collection as `group/resource`, its namespace (empty: none) and its name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub collection: String,
    pub namespace: String,
    pub name: String,
}

/// One change. `old` is what was there before, `new` what is there now; of a deletion its last state.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    pub version: u64,
    pub key: Key,
    pub verb: Verb,
    pub old: Option<Value>,
    pub new: Value,
}

/// What a change did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    Added,
    Modified,
    Deleted,
}

/// See the module.
#[derive(Debug)]
pub struct Objects {
    version: u64,
    by_key: BTreeMap<Key, Value>,
    changes: Vec<Change>,
    /// Changes up to this one are forgotten.
    compacted: u64,
    /// No watch channel: tokio's wakes its receivers in an order of its own choosing.
    news: Arc<Notify>,
}

impl Default for Objects {
    fn default() -> Self {
        Self { version: 1, by_key: BTreeMap::new(), changes: Vec::new(), compacted: 0, news: Arc::default() }
    }
}

impl Objects {
    /// The newest resourceVersion.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    #[must_use]
    pub fn get(&self, key: &Key) -> Option<&Value> {
        self.by_key.get(key)
    }

    /// Objects of a collection in the order of namespace and name; of one namespace, or of all.
    pub fn of<'a>(
        &'a self,
        collection: &'a str,
        namespace: Option<&'a str>,
    ) -> impl Iterator<Item = (&'a Key, &'a Value)> {
        let first = Key {
            collection: collection.to_owned(),
            namespace: namespace.unwrap_or_default().to_owned(),
            name: String::new(),
        };
        self.by_key.range(first..).take_while(move |(key, _)| {
            key.collection == collection && namespace.is_none_or(|namespace| key.namespace == namespace)
        })
    }

    /// Everything, for whoever checks invariants.
    pub fn all(&self) -> impl Iterator<Item = (&Key, &Value)> {
        self.by_key.iter()
    }

    /// Writes an object; gives it back with its new resourceVersion.
    pub fn put(&mut self, key: Key, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let old = self.by_key.insert(key.clone(), object.clone());
        let verb = if old.is_some() { Verb::Modified } else { Verb::Added };
        self.note(key, verb, old, object.clone());
        object
    }

    /// Removes an object; gives back its last state.
    pub fn remove(&mut self, key: &Key) -> Option<Value> {
        let old = self.by_key.remove(key)?;
        self.version += 1;
        let mut object = old.clone();
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.note(key.clone(), Verb::Deleted, Some(old), object.clone());
        Some(object)
    }

    fn note(&mut self, key: Key, verb: Verb, old: Option<Value>, new: Value) {
        self.changes.push(Change { version: self.version, key, verb, old, new });
        self.news.notify_waiters();
    }

    /// Changes after `version`, oldest first.
    ///
    /// # Errors
    /// 410 if some of them are forgotten.
    pub fn since(&self, version: u64) -> Result<&[Change], Refused> {
        if version < self.compacted {
            return Err(Refused::expired(version, self.compacted));
        }
        let from = self.changes.partition_point(|change| change.version <= version);
        Ok(&self.changes[from..])
    }

    /// Every change that there was, forgotten or not: the history that invariants are checked on.
    #[must_use]
    pub fn history(&self) -> &[Change] {
        &self.changes
    }

    /// Forgets all changes for watchers, as etcd does after a while.
    pub fn compact(&mut self) {
        self.compacted = self.version;
    }

    /// Tells those who wait of each change, in the order in which they came.
    #[must_use]
    pub fn news(&self) -> Arc<Notify> {
        self.news.clone()
    }
}
