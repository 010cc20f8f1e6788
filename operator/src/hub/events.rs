//! Events: what a person sees in `kubectl describe`. Repeats are folded into one object with a count, as kubectl knows it.
use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::apply::time;
use crate::runtime::Shutdown;
use crate::runtime::bucket::{Bucket, Rate};
use crate::runtime::client::within;
use crate::runtime::sanitise::line;

/// Repeats within this time are folded.
const FOLD: Duration = Duration::from_secs(600);
/// How many are sent: a quarter of the writes that a hub may make in a second.
const RATE: Rate = Rate::per_second(5, 25);
/// What waits beyond these pushes out what waits longest.
const MAX_WAITING: usize = 1000;
/// At the end the rest is sent for so long.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Longest message; the API server takes 1024 bytes.
const MAX_MESSAGE: usize = 500;

/// Normal or worth a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Severity {
    /// As planned.
    Normal,
    /// A person may have to do something.
    Warning,
}

/// What makes two events the same, so that the second only counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fold {
    /// Same reason and same words.
    SameText,
    /// Same reason; the newest words win. For news of one kind that keeps coming.
    Newest,
}

/// One piece of news about an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct News {
    /// How bad.
    pub severity: Severity,
    /// CamelCase.
    pub reason: String,
    /// What happened, and what to do if something is to be done.
    pub message: String,
    /// When it repeats.
    pub fold: Fold,
}

impl News {
    /// As planned.
    pub fn normal(reason: &str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { severity: Severity::Normal, reason: reason.into(), message, fold: Fold::SameText }
    }

    /// Worth a look.
    pub fn warning(reason: &str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { severity: Severity::Warning, reason: reason.into(), message, fold: Fold::SameText }
    }
}

/// What makes two events one: object, reason, and the words unless the newest win.
type Key = (String, String, Option<String>);

/// News that waits to be sent.
struct Item {
    key: Key,
    object: ObjectReference,
    severity: Severity,
    reason: String,
    message: String,
    /// How often it was told since it waits.
    count: i32,
    first: Timestamp,
    last: Timestamp,
}

/// What became an object.
struct Sent {
    name: String,
    count: i32,
    last: Instant,
}

#[derive(Default)]
struct Waiting {
    items: VecDeque<Item>,
    /// How many were left out since that was last said.
    left_out: u64,
}

/// Sends events a few each second: whoever tells never waits, and a burst of jobs is not slowed down by what is said of it.
pub struct Recorder {
    client: Client,
    reporter: &'static str,
    waiting: Mutex<Waiting>,
    told: Notify,
}

impl Recorder {
    /// Needs `create` and `patch` on events. `reporter` is the process that tells.
    #[must_use]
    pub fn new(client: Client, reporter: &'static str) -> Self {
        Self { client, reporter, waiting: Mutex::default(), told: Notify::new() }
    }

    /// Has [`Recorder::run`] send one event about `object`. It is lost with the process: events are news, not state.
    pub fn tell(&self, object: &ObjectReference, news: &News, now: Timestamp) {
        let message = line(&news.message, MAX_MESSAGE);
        let words = (news.fold == Fold::SameText).then(|| message.clone());
        let key = (object.uid.clone().unwrap_or_default(), news.reason.clone(), words);
        let mut waiting = self.waiting();
        if let Some(same) = waiting.items.iter_mut().find(|item| item.key == key) {
            same.count = same.count.saturating_add(1);
            (same.message, same.last) = (message, now);
            return;
        }
        if waiting.items.len() >= MAX_WAITING {
            waiting.items.pop_front();
            waiting.left_out += 1;
        }
        let (severity, reason) = (news.severity, news.reason.clone());
        let object = object.clone();
        waiting.items.push_back(Item {
            key,
            object,
            severity,
            reason,
            message,
            count: 1,
            first: now,
            last: now,
        });
        drop(waiting);
        self.told.notify_one();
    }

    /// Sends what is told until `shutdown`; then what is left, as far as [`LAST_WORDS`] reach.
    pub async fn run(&self, shutdown: &Shutdown) {
        let mut sent = HashMap::new();
        let (mut bucket, began) = (Bucket::default(), Instant::now());
        loop {
            let Some(item) = self.next() else {
                tokio::select! {
                    biased;
                    () = shutdown.wait() => break,
                    () = self.told.notified() => continue,
                }
            };
            let paced = async {
                while let Err(wait) = bucket.take(RATE, began.elapsed()) {
                    tokio::time::sleep(wait).await;
                }
            };
            tokio::select! {
                biased;
                () = shutdown.wait() => {
                    self.waiting().items.push_front(item);
                    break;
                }
                () = paced => {}
            }
            self.send(item, &mut sent).await;
        }
        let rest = async {
            while let Some(item) = self.next() {
                self.send(item, &mut sent).await;
            }
        };
        if tokio::time::timeout(LAST_WORDS, rest).await.is_err() {
            tracing::warn!(events = self.waiting().items.len(), "stops with events that were not sent");
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> Option<Item> {
        let mut waiting = self.waiting();
        let left_out = std::mem::take(&mut waiting.left_out);
        if left_out > 0 {
            tracing::warn!(left_out, "more events than can be sent; the oldest were left out");
        }
        waiting.items.pop_front()
    }

    /// A failure is logged and forgotten.
    async fn send(&self, item: Item, sent: &mut HashMap<Key, Sent>) {
        let events: Api<Event> =
            Api::namespaced(self.client.clone(), item.object.namespace.as_deref().unwrap_or("default"));
        sent.retain(|_, entry| entry.last.elapsed() < FOLD);
        let (name, count, result) = match sent.remove(&item.key) {
            Some(Sent { name, count, .. }) => {
                let count = count.saturating_add(item.count);
                let patch =
                    json!({"count": count, "lastTimestamp": time(item.last), "message": item.message});
                let patch = Patch::Merge(&patch);
                let params = PatchParams::default();
                let result = within("patch event", events.patch(&name, &params, &patch)).await;
                (name, count, result)
            }
            None => {
                let event = render(self.reporter, &item);
                let name = event.metadata.name.clone().unwrap_or_default();
                let params = PostParams::default();
                let result = within("create event", events.create(&params, &event)).await;
                (name, item.count, result)
            }
        };
        match result {
            Ok(_) => drop(sent.insert(item.key, Sent { name, count, last: Instant::now() })),
            // It may have expired (1 h); the next repeat makes a new one.
            Err(error) => tracing::warn!(%error, reason = item.reason, "event not sent"),
        }
    }
}

fn render(reporter: &str, item: &Item) -> Event {
    let object = &item.object;
    let about = object.name.as_deref().unwrap_or("object");
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{about}.{:x}", item.first.as_nanosecond())),
            namespace: object.namespace.clone().or_else(|| Some("default".into())),
            ..Default::default()
        },
        involved_object: object.clone(),
        reason: Some(item.reason.clone()),
        message: Some(item.message.clone()),
        type_: Some(format!("{:?}", item.severity)),
        action: Some(item.reason.clone()),
        count: Some(item.count),
        first_timestamp: Some(time(item.first)),
        last_timestamp: Some(time(item.last)),
        event_time: Some(MicroTime(item.first)),
        source: Some(EventSource { component: Some(reporter.into()), host: None }),
        reporting_component: Some(reporter.into()),
        reporting_instance: Some(reporter.into()),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests;
