//! When what was seen first.
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::bail;
use futures::StreamExt;
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject};
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::{self, watcher};
use serde_json::Value;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Children by what they say of their parent.
pub struct Seen {
    began: Instant,
    pointer: String,
    first: Mutex<HashMap<String, (f64, String)>>,
    listening: Mutex<usize>,
    news: Notify,
}

impl Seen {
    /// `pointer` leads from an object's metadata to what it says of its parent.
    pub fn new(began: Instant, pointer: String) -> Self {
        Self { began, pointer, first: Mutex::default(), listening: Mutex::default(), news: Notify::new() }
    }

    fn first(&self) -> MutexGuard<'_, HashMap<String, (f64, String)>> {
        self.first.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches a cluster until the end of the process.
    pub fn follow(self: &Arc<Self>, client: Client, cluster: String, kind: ApiResource) {
        let seen = self.clone();
        tokio::spawn(async move {
            let api: Api<PartialObjectMeta<DynamicObject>> = Api::all_with(client, &kind);
            let mut events = watcher(api, watcher::Config::default()).boxed();
            while let Some(event) = events.next().await {
                match event {
                    Ok(watcher::Event::Apply(object) | watcher::Event::InitApply(object)) => {
                        seen.note(&object, &cluster);
                    }
                    Ok(watcher::Event::InitDone) => {
                        *seen.listening.lock().unwrap_or_else(PoisonError::into_inner) += 1;
                    }
                    Ok(_) => {}
                    Err(error) => eprintln!("{cluster}: {error}"),
                }
                seen.news.notify_one();
            }
        });
    }

    fn note(&self, object: &PartialObjectMeta<DynamicObject>, cluster: &str) {
        let at = self.began.elapsed().as_secs_f64();
        let metadata = serde_json::to_value(&object.metadata).unwrap_or_default();
        if let Some(parent) = metadata.pointer(&self.pointer).and_then(Value::as_str) {
            self.first().entry(parent.to_owned()).or_insert_with(|| (at, cluster.to_owned()));
        }
    }

    /// When a child of this parent was seen first, and where.
    pub fn of(&self, parent: &str) -> Option<(f64, String)> {
        self.first().get(parent).cloned()
    }

    /// How many parents have one.
    pub fn count(&self) -> usize {
        self.first().len()
    }

    /// Waits until something was seen, or so long.
    pub async fn something(&self, most: Duration) {
        let _ = tokio::time::timeout(most, self.news.notified()).await;
    }

    /// Waits until all clusters are listed and followed.
    pub async fn is_listening(&self, clusters: usize, within: Duration) -> anyhow::Result<()> {
        let until = Instant::now() + within;
        while *self.listening.lock().unwrap_or_else(PoisonError::into_inner) < clusters {
            if Instant::now() > until {
                bail!("not every cluster's list was read within {} s", within.as_secs());
            }
            self.something(Duration::from_millis(100)).await;
        }
        Ok(())
    }
}
