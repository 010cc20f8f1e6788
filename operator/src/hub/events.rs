//! Events: what a person sees in `kubectl describe`. Repeats are folded into one object with a count, as kubectl knows it.
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::time::Instant;

use super::apply::time;
use crate::runtime::client::within;
use crate::runtime::sanitise::line;

/// Repeats within this time are folded.
const FOLD: Duration = Duration::from_secs(600);
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

struct Sent {
    name: String,
    count: i32,
    last: Instant,
}

type Key = (String, String, Option<String>);

/// Sends events.
pub struct Recorder {
    client: Client,
    reporter: &'static str,
    sent: Mutex<HashMap<Key, Sent>>,
}

impl Recorder {
    /// Needs `create` and `patch` on events. `reporter` is the process that tells.
    #[must_use]
    pub fn new(client: Client, reporter: &'static str) -> Self {
        Self { client, reporter, sent: Mutex::default() }
    }

    /// Sends one event about `object`. A failure is logged and forgotten: events are news, not state.
    pub async fn tell(&self, object: &ObjectReference, news: &News, now: jiff::Timestamp) {
        let message = line(&news.message, MAX_MESSAGE);
        let words = (news.fold == Fold::SameText).then(|| message.clone());
        let key = (object.uid.clone().unwrap_or_default(), news.reason.clone(), words);
        let events: Api<Event> =
            Api::namespaced(self.client.clone(), object.namespace.as_deref().unwrap_or("default"));
        let result = match self.repeat(&key) {
            Some((name, count)) => {
                let patch = json!({"count": count, "lastTimestamp": time(now), "message": message});
                let patch = Patch::Merge(&patch);
                within("patch event", events.patch(&name, &PatchParams::default(), &patch)).await
            }
            None => {
                let event = render(self.reporter, object, news, &message, now);
                let name = event.metadata.name.clone().unwrap_or_default();
                let made = within("create event", events.create(&PostParams::default(), &event)).await;
                if made.is_ok() {
                    self.remember(key.clone(), name);
                }
                made
            }
        };
        if let Err(error) = result {
            // The event may have expired (1 h); the next repeat makes a new one.
            self.sent.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
            tracing::warn!(%error, reason = news.reason, "event not sent");
        }
    }

    fn repeat(&self, key: &Key) -> Option<(String, i32)> {
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        sent.retain(|_, entry| entry.last.elapsed() < FOLD);
        let entry = sent.get_mut(key)?;
        entry.count = entry.count.saturating_add(1);
        entry.last = Instant::now();
        Some((entry.name.clone(), entry.count))
    }

    fn remember(&self, key: Key, name: String) {
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        sent.insert(key, Sent { name, count: 1, last: Instant::now() });
    }
}

fn render(
    reporter: &str,
    object: &ObjectReference,
    news: &News,
    message: &str,
    now: jiff::Timestamp,
) -> Event {
    let about = object.name.as_deref().unwrap_or("object");
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{about}.{:x}", now.as_nanosecond())),
            namespace: object.namespace.clone().or_else(|| Some("default".into())),
            ..Default::default()
        },
        involved_object: object.clone(),
        reason: Some(news.reason.clone()),
        message: Some(message.to_owned()),
        type_: Some(format!("{:?}", news.severity)),
        action: Some(news.reason.clone()),
        count: Some(1),
        first_timestamp: Some(time(now)),
        last_timestamp: Some(time(now)),
        event_time: Some(MicroTime(now)),
        source: Some(EventSource { component: Some(reporter.into()), host: None }),
        reporting_component: Some(reporter.into()),
        reporting_instance: Some(reporter.into()),
        ..Default::default()
    }
}
