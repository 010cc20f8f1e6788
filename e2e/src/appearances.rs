//! What appears in a namespace while nothing may: a watch, since a poll could miss what comes and goes.
use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use kube::ResourceExt;
use kube::runtime::watcher::{self, Event, watcher};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::cluster::{Cluster, Kind};

/// Watches that go on until they are asked.
pub struct Appearances {
    noted: Arc<Mutex<Noted>>,
    tasks: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Noted {
    seen: Vec<String>,
    /// A list was taken anew: between two lists something may have come and gone.
    gaps: Vec<String>,
}

impl Appearances {
    /// Of these kinds in a namespace of these clusters, from now on. Whatever is there already is not news.
    pub async fn begin(clusters: &[&Cluster], kinds: &[Kind], namespace: &'static str) -> Result<Self> {
        let noted = Arc::new(Mutex::new(Noted::default()));
        let mut tasks = Vec::new();
        for cluster in clusters {
            for kind in kinds {
                let (sender, ready) = oneshot::channel();
                let watch = watch((*cluster).clone(), *kind, namespace, noted.clone(), sender);
                tasks.push(tokio::spawn(watch));
                ready.await.with_context(|| format!("no watch of {} on {}", kind.plural, cluster.name))?;
            }
        }
        Ok(Self { noted, tasks })
    }

    /// Everything that has appeared, as `cluster kind name`.
    pub fn end(self) -> Result<Vec<String>> {
        let noted = std::mem::take(&mut *self.noted.lock().unwrap_or_else(PoisonError::into_inner));
        ensure!(noted.gaps.is_empty(), "watches had gaps, so nothing is proved: {}", noted.gaps.join(", "));
        ensure!(self.tasks.iter().all(|task| !task.is_finished()), "a watch ended, so nothing is proved");
        Ok(noted.seen)
    }
}

impl Drop for Appearances {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

async fn watch(
    cluster: Cluster,
    kind: Kind,
    namespace: &'static str,
    noted: Arc<Mutex<Noted>>,
    ready: oneshot::Sender<()>,
) {
    let mut known = BTreeSet::new();
    let mut ready = Some(ready);
    let mut events = pin!(watcher(cluster.api(kind, Some(namespace)), watcher::Config::default()));
    while let Some(event) = events.next().await {
        let note = |change: &mut dyn FnMut(&mut Noted)| {
            change(&mut noted.lock().unwrap_or_else(PoisonError::into_inner));
        };
        match event {
            Ok(Event::InitApply(object)) if ready.is_some() => {
                known.insert(object.uid().unwrap_or_default());
            }
            Ok(Event::InitDone) => drop(ready.take().map(|ready| ready.send(()))),
            Ok(Event::Init) if ready.is_none() => {
                note(&mut |noted| noted.gaps.push(format!("{} {}", cluster.name, kind.kind)));
            }
            Ok(Event::Apply(object) | Event::InitApply(object)) => {
                if known.insert(object.uid().unwrap_or_default()) {
                    let text = format!("{} {} {}", cluster.name, kind.kind, object.name_any());
                    note(&mut |noted| noted.seen.push(text.clone()));
                }
            }
            // It goes on from where it was.
            Ok(Event::Init | Event::Delete(_)) | Err(_) => {}
        }
    }
}
