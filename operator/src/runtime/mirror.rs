//! Objects of a kind as a watch tells of them, for whoever would list all of them at each look.
//!
//! What is read here may be older than what the API server has, as an answer to a list is once it has arrived; it is never older
//! than what this process has written itself. For that a read waits for the watch, and if it does not come, lists.
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use futures::{StreamExt, pin_mut};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::ListParams;
use kube::core::DeserializeGuard;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::time::Instant;

use super::error::Error;
use super::patience::Patience;
use crate::runtime::Shutdown;
use crate::runtime::client::{REQUEST_TIMEOUT, within};

/// How long a read waits for the watch to bring what this process has written.
const WAITS: Duration = Duration::from_secs(1);
/// After a request whose answer was lost it is not known what there is; by then it has had its effect, or never will.
const DOUBTS: Duration = Duration::from_secs(2 * REQUEST_TIMEOUT.as_secs());

/// What is kept of an object.
pub trait Mirrored: Send + Sync + 'static {
    /// The object.
    type Object: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static;
    /// Its resource, for errors.
    const RESOURCE: &'static str;
    /// Keeps it.
    fn keep(object: Self::Object) -> Self;
    /// The object that is kept.
    fn object(&self) -> &Self::Object;
    /// Label whose value objects are also looked for by.
    const GROUPED_BY: Option<&'static str> = None;
}

/// Namespace, empty for what has none, and name.
type Key = (String, String);

/// An object was made, has changed, or is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Empty for what has none.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// What it is grouped by.
    pub group: Option<String>,
}

/// See the module.
pub struct Mirror<T> {
    held: Mutex<Held<T>>,
    /// All that was written up to this resourceVersion is known; nothing is, before the first list.
    told: watch::Sender<Option<u64>>,
    /// The newest resourceVersion that this process has written.
    written: AtomicU64,
    /// When an answer was lost.
    lost: Mutex<Option<Instant>>,
    listeners: Mutex<Vec<UnboundedSender<Change>>>,
}

struct Held<T> {
    objects: BTreeMap<Key, Arc<T>>,
    groups: HashMap<String, BTreeSet<Key>>,
    /// A list that is being read, and what was written when it began.
    listing: BTreeMap<Key, Arc<T>>,
    listed_from: u64,
}

impl<T> Default for Mirror<T> {
    fn default() -> Self {
        let held = Held {
            objects: BTreeMap::new(),
            groups: HashMap::new(),
            listing: BTreeMap::new(),
            listed_from: 0,
        };
        Self {
            held: Mutex::new(held),
            told: watch::Sender::new(None),
            written: AtomicU64::new(0),
            lost: Mutex::new(None),
            listeners: Mutex::default(),
        }
    }
}

impl<T: Mirrored> Mirror<T> {
    /// Follows the objects until shutdown.
    pub async fn follow(&self, client: Client, shutdown: Shutdown) {
        let api: Api<DeserializeGuard<T::Object>> = Api::all(client);
        let events = watcher(api, watcher::Config::default()).backoff(Patience::default());
        pin_mut!(events);
        loop {
            tokio::select! {
                biased;
                () = shutdown.wait() => return,
                event = events.next() => match event {
                    Some(Ok(event)) => self.take(event),
                    Some(Err(error)) => tracing::debug!(%error, what = T::RESOURCE, "watch"),
                    None => return,
                },
            }
        }
    }

    /// What changes from now on. It is here before anybody hears of it.
    pub fn changes(&self) -> UnboundedReceiver<Change> {
        let (sender, receiver) = unbounded();
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
        receiver
    }

    /// This process has made this version of an object.
    pub fn wrote(&self, meta: &ObjectMeta) {
        if let Some(version) = version(meta) {
            self.written.fetch_max(version, Ordering::SeqCst);
        }
    }

    /// The answer to a request that makes an object was lost: it may be there, or come to be.
    pub fn lost(&self) {
        *self.lost.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// All of them.
    ///
    /// # Errors
    /// [`Error::Api`].
    pub async fn all(&self, client: &Client) -> Result<Vec<Arc<T>>, Error> {
        match self.is_good().await {
            true => Ok(self.held().objects.values().cloned().collect()),
            false => list(Api::all(client.clone()), &ListParams::default()).await,
        }
    }

    /// Those of a namespace.
    ///
    /// # Errors
    /// [`Error::Api`].
    pub async fn in_namespace(&self, client: &Client, namespace: &str) -> Result<Vec<Arc<T>>, Error>
    where
        T::Object: Resource<Scope = kube::core::NamespaceResourceScope>,
    {
        if !self.is_good().await {
            return list(Api::namespaced(client.clone(), namespace), &ListParams::default()).await;
        }
        let held = self.held();
        let there = held.objects.range((namespace.to_owned(), String::new())..);
        Ok(there.take_while(|((its, _), _)| its == namespace).map(|(_, kept)| kept.clone()).collect())
    }

    /// Those whose label has this value.
    ///
    /// # Errors
    /// [`Error::Api`].
    pub async fn of(&self, client: &Client, group: &str) -> Result<Vec<Arc<T>>, Error> {
        if !self.is_good().await {
            let label = T::GROUPED_BY.unwrap_or_default();
            let theirs = ListParams::default().labels(&format!("{label}={group}"));
            return list(Api::all(client.clone()), &theirs).await;
        }
        let held = self.held();
        let keys = held.groups.get(group).into_iter().flatten();
        Ok(keys.filter_map(|key| held.objects.get(key).cloned()).collect())
    }

    /// One of them, if the watch has told of it. That there is none is not known from this.
    pub fn known(&self, namespace: &str, name: &str) -> Option<Arc<T>> {
        self.held().objects.get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    /// Whether what is held is as new as what was written; waits a moment for that.
    async fn is_good(&self) -> bool {
        let lost = *self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        if self.told.borrow().is_none() || lost.is_some_and(|lost| lost.elapsed() < DOUBTS) {
            return false;
        }
        let written = self.written.load(Ordering::SeqCst);
        let mut told = self.told.subscribe();
        let there = told.wait_for(|told| told.is_some_and(|told| told >= written));
        matches!(tokio::time::timeout(WAITS, there).await, Ok(Ok(_)))
    }

    fn held(&self) -> MutexGuard<'_, Held<T>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, event: Event<DeserializeGuard<T::Object>>) {
        let mut changes = Vec::new();
        let told = {
            let mut held = self.held();
            match event {
                Event::Init => {
                    held.listing.clear();
                    held.listed_from = self.written.load(Ordering::SeqCst);
                    None
                }
                Event::InitApply(guard) => {
                    let meta = guard.meta();
                    held.listed_from = held.listed_from.max(version(meta).unwrap_or(0));
                    let key = key(meta);
                    if let Ok(object) = guard.0 {
                        held.listing.insert(key, Arc::new(T::keep(object)));
                    }
                    None
                }
                Event::InitDone => {
                    changes.extend(held.replace());
                    Some(held.listed_from)
                }
                Event::Apply(guard) => {
                    let (meta, kept) = (guard.meta().clone(), guard.0.ok());
                    changes.push(held.set(&meta, kept.map(T::keep)));
                    version(&meta)
                }
                Event::Delete(guard) => {
                    changes.push(held.set(guard.meta(), None));
                    version(guard.meta())
                }
            }
        };
        if told.is_some() {
            self.told.send_modify(|known| *known = (*known).max(told));
        }
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        for change in changes {
            listeners.retain(|listener| listener.unbounded_send(change.clone()).is_ok());
        }
    }
}

impl<T: Mirrored> Held<T> {
    /// Puts an object in the place of what has its name; what cannot be read is not there.
    fn set(&mut self, meta: &ObjectMeta, kept: Option<T>) -> Change {
        let (key, group) = (key(meta), group::<T>(meta));
        if let Some(old) = self.objects.remove(&key)
            && let Some(old) = self::group::<T>(old.object().meta())
        {
            self.leave(&old, &key);
        }
        if let Some(kept) = kept {
            if let Some(group) = &group {
                self.groups.entry(group.clone()).or_default().insert(key.clone());
            }
            self.objects.insert(key.clone(), Arc::new(kept));
        }
        Change { namespace: key.0, name: key.1, group }
    }

    fn leave(&mut self, group: &str, key: &Key) {
        if let Some(keys) = self.groups.get_mut(group) {
            keys.remove(key);
            if keys.is_empty() {
                self.groups.remove(group);
            }
        }
    }

    /// Puts the list in the place of all that was held. Everything may have changed, also what is not listed any more.
    fn replace(&mut self) -> Vec<Change> {
        let listed = std::mem::take(&mut self.listing);
        let before = std::mem::replace(&mut self.objects, listed);
        self.groups.clear();
        let mut changes = Vec::new();
        for (key, kept) in &self.objects {
            let group = group::<T>(kept.object().meta());
            if let Some(group) = &group {
                self.groups.entry(group.clone()).or_default().insert(key.clone());
            }
            changes.push(Change { namespace: key.0.clone(), name: key.1.clone(), group });
        }
        for (key, gone) in before.into_iter().filter(|(key, _)| !self.objects.contains_key(key)) {
            changes.push(Change { group: group::<T>(gone.object().meta()), namespace: key.0, name: key.1 });
        }
        changes
    }
}

async fn list<T: Mirrored>(
    api: Api<DeserializeGuard<T::Object>>,
    which: &ListParams,
) -> Result<Vec<Arc<T>>, Error> {
    let list = within(&format!("list {}", T::RESOURCE), api.list(which)).await?;
    let read = list.items.into_iter().filter_map(|guard| guard.0.ok());
    Ok(read.map(|object| Arc::new(T::keep(object))).collect())
}

fn key(meta: &ObjectMeta) -> Key {
    (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}

fn group<T: Mirrored>(meta: &ObjectMeta) -> Option<String> {
    meta.labels.as_ref()?.get(T::GROUPED_BY?).cloned()
}

fn version(meta: &ObjectMeta) -> Option<u64> {
    meta.resource_version.as_ref()?.parse().ok()
}

#[cfg(test)]
mod tests;
