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
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Shutdown;
use super::client::{ClientError, REQUEST_TIMEOUT, within};
use super::lean::lean;
use super::patience::Patience;

/// How long a read waits for the watch to bring what this process has written.
const WAITS: Duration = Duration::from_secs(1);
/// After a request whose answer was lost it is not known what there is; by then it has had its effect, or never will.
const DOUBTS: Duration = Duration::from_secs(2 * REQUEST_TIMEOUT.as_secs());

/// Namespace, empty for what has none, and name.
type Key = (String, String);

/// How old what is read may be, for whoever has the choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Age {
    /// As the watch tells of it.
    Told,
    /// Asked for now: what follows from it is for good, or a watch that hangs must not hide it for ever.
    Now,
}

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

/// See the module. Of each object `K` its `T` is kept.
pub struct Mirror<K, T = K> {
    api: Api<DeserializeGuard<K>>,
    /// Only objects with these labels, if any are named.
    labelled: Option<String>,
    /// Label whose value objects are also looked for by.
    grouped_by: Option<&'static str>,
    held: Mutex<Held<T>>,
    /// All that was written up to this resourceVersion is known; nothing is, before the first list.
    told: Mutex<Option<u64>>,
    /// The watch has told more. Whoever waits is woken in the order of their coming, which a channel of tokio's draws by lot.
    tells: Notify,
    /// The newest resourceVersion that this process has written.
    written: AtomicU64,
    /// When an answer was lost.
    lost: Mutex<Option<Instant>>,
    listeners: Mutex<Vec<UnboundedSender<Change>>>,
}

struct Entry<T> {
    group: Option<String>,
    kept: Arc<T>,
}

struct Held<T> {
    objects: BTreeMap<Key, Entry<T>>,
    groups: HashMap<String, BTreeSet<Key>>,
    /// A list that is being read, and what was written when it began.
    listing: BTreeMap<Key, Entry<T>>,
    listed_from: u64,
}

impl<K, T> Mirror<K, T>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    T: From<K> + Send + Sync + 'static,
{
    /// Of all objects that `api` reaches; empty, until it is [followed](Self::follow).
    pub fn new(api: Api<DeserializeGuard<K>>) -> Self {
        Self {
            api,
            labelled: None,
            grouped_by: None,
            held: Mutex::default(),
            told: Mutex::default(),
            tells: Notify::new(),
            written: AtomicU64::new(0),
            lost: Mutex::new(None),
            listeners: Mutex::default(),
        }
    }

    /// Only of those that this label selector finds.
    pub fn labelled(self, selector: String) -> Self {
        Self { labelled: Some(selector), ..self }
    }

    /// Objects are also looked for by the value of this label.
    pub fn grouped_by(self, label: &'static str) -> Self {
        Self { grouped_by: Some(label), ..self }
    }

    /// Follows the objects until shutdown.
    pub async fn follow(&self, shutdown: Shutdown) {
        let config = watcher::Config { label_selector: self.labelled.clone(), ..watcher::Config::default() };
        let events = watcher(self.api.clone(), config).backoff(Patience::default());
        pin_mut!(events);
        loop {
            tokio::select! {
                biased;
                () = shutdown.wait() => return,
                event = events.next() => match event {
                    Some(Ok(event)) => self.take(event),
                    Some(Err(error)) => tracing::debug!(%error, what = %K::plural(&()), "watch"),
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
    /// [`ClientError`], if a list is needed.
    pub async fn all(&self) -> Result<Vec<Arc<T>>, ClientError> {
        match self.is_good().await {
            true => Ok(self.held().objects.values().map(|entry| entry.kept.clone()).collect()),
            false => self.list(&self.api, self.labelled.clone()).await,
        }
    }

    /// Those of a namespace.
    ///
    /// # Errors
    /// [`ClientError`], if a list is needed.
    pub async fn in_namespace(&self, namespace: &str) -> Result<Vec<Arc<T>>, ClientError>
    where
        K: Resource<Scope = kube::core::NamespaceResourceScope>,
    {
        if !self.is_good().await {
            let there = Api::namespaced(self.api.clone().into_client(), namespace);
            return self.list(&there, self.labelled.clone()).await;
        }
        let held = self.held();
        let there = held.objects.range((namespace.to_owned(), String::new())..);
        Ok(there.take_while(|((its, _), _)| its == namespace).map(|(_, entry)| entry.kept.clone()).collect())
    }

    /// Those whose label has one of these values.
    ///
    /// # Errors
    /// [`ClientError`], if a list is needed.
    pub async fn of(&self, groups: &[&str]) -> Result<Vec<Arc<T>>, ClientError> {
        match self.known_of(groups).await {
            Some(known) => Ok(known),
            None => self.list_of(groups).await,
        }
    }

    /// The same, as the watch told; `None` if that is not as new as it must be.
    pub async fn known_of(&self, groups: &[&str]) -> Option<Vec<Arc<T>>> {
        if !self.is_good().await {
            return None;
        }
        let held = self.held();
        let keys = groups.iter().filter_map(|group| held.groups.get(*group)).flatten();
        Some(keys.filter_map(|key| Some(held.objects.get(key)?.kept.clone())).collect())
    }

    /// The same, asked for now.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn list_of(&self, groups: &[&str]) -> Result<Vec<Arc<T>>, ClientError> {
        let label = self.grouped_by.unwrap_or_default();
        let theirs = match groups {
            [group] => format!("{label}={group}"),
            groups => format!("{label} in ({})", groups.join(",")),
        };
        let selector = self.labelled.iter().cloned().chain([theirs]).collect::<Vec<_>>().join(",");
        self.list(&self.api, Some(selector)).await
    }

    /// One of them, if the watch has told of it. That there is none is not known from this.
    pub fn known(&self, namespace: &str, name: &str) -> Option<Arc<T>> {
        self.held().objects.get(&(namespace.to_owned(), name.to_owned())).map(|entry| entry.kept.clone())
    }

    /// Whether what is held is as new as what was written; waits a moment for that.
    async fn is_good(&self) -> bool {
        let lost = *self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        if self.told().is_none() || lost.is_some_and(|lost| lost.elapsed() < DOUBTS) {
            return false;
        }
        let written = self.written.load(Ordering::SeqCst);
        let there = async {
            loop {
                let more = self.tells.notified();
                if *self.told() >= Some(written) {
                    return;
                }
                more.await;
            }
        };
        tokio::time::timeout(WAITS, there).await.is_ok()
    }

    fn told(&self) -> MutexGuard<'_, Option<u64>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn list(
        &self,
        api: &Api<DeserializeGuard<K>>,
        selector: Option<String>,
    ) -> Result<Vec<Arc<T>>, ClientError> {
        let which = ListParams { label_selector: selector, ..ListParams::default() };
        let list = within(&format!("list {}", K::plural(&())), api.list(&which)).await?;
        Ok(list
            .items
            .into_iter()
            .filter_map(|guard| guard.0.ok())
            .map(|object| Arc::new(T::from(object)))
            .collect())
    }

    fn group(&self, meta: &ObjectMeta) -> Option<String> {
        meta.labels.as_ref()?.get(self.grouped_by?).cloned()
    }

    fn entry(&self, mut guard: DeserializeGuard<K>) -> Option<Entry<T>> {
        lean(&mut guard);
        let group = self.group(guard.meta());
        Some(Entry { group, kept: Arc::new(T::from(guard.0.ok()?)) })
    }

    fn held(&self) -> MutexGuard<'_, Held<T>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, event: Event<DeserializeGuard<K>>) {
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
                    held.listed_from = held.listed_from.max(version(guard.meta()).unwrap_or(0));
                    let key = key(guard.meta());
                    if let Some(entry) = self.entry(guard) {
                        held.listing.insert(key, entry);
                    }
                    None
                }
                Event::InitDone => {
                    changes.extend(held.replace());
                    Some(held.listed_from)
                }
                Event::Apply(guard) => {
                    let meta = guard.meta().clone();
                    changes.push(held.set(key(&meta), self.group(&meta), self.entry(guard)));
                    version(&meta)
                }
                Event::Delete(guard) => {
                    let meta = guard.meta();
                    changes.push(held.set(key(meta), self.group(meta), None));
                    version(meta)
                }
            }
        };
        if told.is_some() {
            let mut known = self.told();
            *known = (*known).max(told);
            drop(known);
            self.tells.notify_waiters();
        }
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        for change in changes {
            listeners.retain(|listener| listener.unbounded_send(change.clone()).is_ok());
        }
    }
}

impl<T> Default for Held<T> {
    fn default() -> Self {
        Self { objects: BTreeMap::new(), groups: HashMap::new(), listing: BTreeMap::new(), listed_from: 0 }
    }
}

impl<T> Held<T> {
    /// Puts an object in the place of what has its name; what cannot be read is not there.
    fn set(&mut self, key: Key, group: Option<String>, entry: Option<Entry<T>>) -> Change {
        if let Some(old) = self.objects.remove(&key).and_then(|old| old.group) {
            self.leave(&old, &key);
        }
        if let Some(entry) = entry {
            self.join(entry.group.as_ref(), &key);
            self.objects.insert(key.clone(), entry);
        }
        Change { namespace: key.0, name: key.1, group }
    }

    fn join(&mut self, group: Option<&String>, key: &Key) {
        if let Some(group) = group {
            self.groups.entry(group.clone()).or_default().insert(key.clone());
        }
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
        self.groups.clear();
        let before = std::mem::take(&mut self.objects);
        let change = |key: Key, group| Change { namespace: key.0, name: key.1, group };
        let mut changes = Vec::new();
        for (key, entry) in std::mem::take(&mut self.listing) {
            self.join(entry.group.as_ref(), &key);
            changes.push(change(key.clone(), entry.group.clone()));
            self.objects.insert(key, entry);
        }
        let gone = before.into_iter().filter(|(key, _)| !self.objects.contains_key(key));
        changes.extend(gone.map(|(key, entry)| change(key, entry.group)));
        changes
    }
}

fn key(meta: &ObjectMeta) -> Key {
    (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}

fn version(meta: &ObjectMeta) -> Option<u64> {
    meta.resource_version.as_ref()?.parse().ok()
}

#[cfg(test)]
mod tests;
