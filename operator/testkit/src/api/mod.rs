//! An API server in memory: what `kube::Client` speaks to, with no network and no clock of its own. Not a mock of what a test expects,
//! but the rules of the real one, with which it is compared (tests/real_server.rs, scenario `api-conformance`).
//!
//! | file | thought |
//! |---|---|
//! | `path` | paths of resources |
//! | `kinds` | which resources there are |
//! | `objects` | what is stored, and every change of it |
//! | `write` | create, update, delete: finalizers, preconditions, generation |
//! | `apply` | server-side apply: who owns which field |
//! | `schema` | what a definition's schema adds, drops and refuses |
//! | `select` | label and field selectors |
//! | `watch` | events |
//! | `answer` | refusals |
//! | `serve` | requests of HTTP |
//!
//! What must not live here: faults, and what controllers of a real cluster do (collect garbage, run Jobs).

mod answer;
mod apply;
mod kinds;
mod objects;
mod path;
mod schema;
mod select;
mod serve;
mod watch;
mod write;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;

pub use answer::Refused;
/// Merges as RFC 7386 says.
pub use json_patch::merge;
pub use kinds::{Kind, with_definitions};
pub use objects::{Change, Key, Objects, Verb};
pub use path::{Place, parse as parse_path};
pub use select::Selector;
pub use serve::Answer;
pub(crate) use serve::refused;
pub use write::{Half, Write};

use apply::Owners;

/// Who writes past all faults.
const SOMEBODY: &str = "somebody";

/// Says what time it is, as objects have it.
pub type Now = Arc<dyn Fn() -> String + Send + Sync>;

/// An API server. Clones are the same one.
#[derive(Clone)]
pub struct Server {
    kinds: Arc<Vec<Kind>>,
    now: Now,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    objects: Objects,
    owners: BTreeMap<Key, Owners>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("version", &self.state().objects.version()).finish_non_exhaustive()
    }
}

impl Server {
    /// A server with the resources of every cluster and those of these CustomResourceDefinitions, with namespaces `default` and
    /// `kube-system`.
    #[must_use]
    pub fn new(definitions: &[Value], now: Now) -> Self {
        Self::of(with_definitions(definitions), now)
    }

    /// The same with resources that were read before, for whoever needs many servers.
    #[must_use]
    pub fn of(kinds: Arc<Vec<Kind>>, now: Now) -> Self {
        let server = Self { kinds, now, state: Arc::default() };
        for name in ["default", "kube-system"] {
            server.namespace(name);
        }
        server
    }

    /// Makes a namespace, if there is none of this name.
    pub fn namespace(&self, name: &str) {
        let object = serde_json::json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        drop(self.write("", "namespaces", |write| write.create(None, object)));
    }

    /// Does something to the objects of a resource, past all faults: another client's doing.
    ///
    /// # Errors
    /// As the API server refuses it; 404 for a resource that it does not have.
    pub fn write<T>(
        &self,
        group: &str,
        resource: &str,
        then: impl FnOnce(&mut Write<'_>) -> Result<T, Refused>,
    ) -> Result<T, Refused> {
        let kind = self.kinds.iter().find(|kind| kind.group == group && kind.resource == resource);
        self.write_as(kind.ok_or_else(Refused::no_such_path)?, SOMEBODY, then)
    }

    /// Changes one half of an object, past all faults.
    ///
    /// # Errors
    /// 404 if it is not there, and as the API server refuses it.
    pub fn change(
        &self,
        (group, resource): (&str, &str),
        namespace: Option<&str>,
        name: &str,
        half: Half,
        change: impl FnOnce(&mut Value),
    ) -> Result<Value, Refused> {
        self.write(group, resource, |write| {
            let key = write.kind.key(namespace, name);
            let old = write.found(&key)?;
            let mut new = old.clone();
            change(&mut new);
            write.update(key, &old, half, new)
        })
    }

    /// Writes one object at most, and notes that this manager did.
    fn write_as<T>(
        &self,
        kind: &Kind,
        manager: &str,
        then: impl FnOnce(&mut Write<'_>) -> Result<T, Refused>,
    ) -> Result<T, Refused> {
        let mut state = self.state();
        let State { objects, owners } = &mut *state;
        let before = objects.version();
        let done = then(&mut Write { kind, objects, touched: false, now: (self.now)() })?;
        match objects.history().last().filter(|change| change.version > before) {
            Some(Change { key, verb: Verb::Deleted, .. }) => drop(owners.remove(key)),
            Some(Change { key, old, new, .. }) => {
                let (nothing, lists) = (serde_json::json!({}), |names: &[&str]| kind.list_at(names));
                let old = old.as_ref().unwrap_or(&nothing);
                owners.entry(key.clone()).or_default().changed(manager, old, new, &lists);
            }
            None => {}
        }
        Ok(done)
    }

    /// Looks at everything that is stored and its history.
    pub fn read<T>(&self, look: impl FnOnce(&Objects) -> T) -> T {
        look(&self.state().objects)
    }

    /// Forgets changes, so that watches from before end with 410.
    pub fn compact(&self) {
        self.state().objects.compact();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
