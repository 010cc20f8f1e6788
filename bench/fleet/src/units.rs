//! What agents make of WorkUnits: they start, run, tell of their steps, and stop when they are asked to.
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, watcher};
use kube::{Client, ResourceExt};
use muster_api::v1alpha1::{Desired, ProviderReport, WorkUnit};
use serde_json::{Value, json};

use crate::provider::report;

/// From a unit to its workers, all of which are there after that.
const STARTS: Duration = Duration::from_secs(1);
/// From a stop that was asked for to the end.
const STOPS: Duration = Duration::from_millis(500);
/// Steps from one progress to the next.
const STEPS: i64 = 20;

/// See the module.
pub struct Units {
    client: Client,
    image: String,
    progress: Duration,
    known: Mutex<HashMap<String, Phase>>,
    writes: AtomicU64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Starts,
    Runs,
    Ends,
}

impl Units {
    pub fn new(client: Client, image: String, progress: Duration) -> Self {
        Self { client, image, progress, known: Mutex::default(), writes: AtomicU64::new(0) }
    }

    /// How many run.
    pub fn running(&self) -> usize {
        self.known().values().filter(|phase| **phase == Phase::Runs).count()
    }

    /// How often a unit's status was written so far.
    pub fn writes(&self) -> u64 {
        self.writes.load(Ordering::Relaxed)
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Phase>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Acts on all of them until the end of the process.
    pub fn follow(self: &Arc<Self>) {
        let units = self.clone();
        tokio::spawn(async move {
            let api: Api<WorkUnit> = Api::all(units.client.clone());
            let mut events = watcher(api, watcher::Config::default()).default_backoff().boxed();
            while let Some(event) = events.next().await {
                match event {
                    Ok(watcher::Event::Apply(unit) | watcher::Event::InitApply(unit)) => units.saw(&unit),
                    Ok(watcher::Event::Delete(unit)) => _ = units.known().remove(&unit.name_any()),
                    Ok(_) => {}
                    Err(error) => eprintln!("units: {error}"),
                }
            }
        });
    }

    fn saw(self: &Arc<Self>, unit: &WorkUnit) {
        let ends = unit.spec.desired != Desired::Run || unit.metadata.deletion_timestamp.is_some();
        let name = unit.name_any();
        let before = self.known().get(&name).copied();
        let next = match (before, ends) {
            (None, false) => Phase::Starts,
            (Some(Phase::Starts | Phase::Runs) | None, true) => Phase::Ends,
            _ => return,
        };
        self.known().insert(name, next);
        let (units, unit) = (self.clone(), unit.clone());
        tokio::spawn(async move {
            match next {
                Phase::Ends => units.ends(&unit).await,
                _ => units.runs(&unit).await,
            }
        });
    }

    async fn runs(&self, unit: &WorkUnit) {
        self.say(unit, json!({"phase": "Starting", "attempt": 1})).await;
        tokio::time::sleep(STARTS).await;
        let mut step = 0;
        loop {
            {
                let mut known = self.known();
                match known.get_mut(&unit.name_any()) {
                    Some(phase) if *phase != Phase::Ends => *phase = Phase::Runs,
                    _ => return,
                }
            }
            let status = json!({
                "phase": "Running", "attempt": 1, "step": step, "loss": "2.5", "tokensPerSecond": 1000,
                "progressTime": Timestamp::now(),
            });
            self.say(unit, status).await;
            if step == 0 {
                self.lends(unit, 0).await;
            }
            step += STEPS;
            tokio::time::sleep(self.progress).await;
        }
    }

    async fn ends(&self, unit: &WorkUnit) {
        tokio::time::sleep(STOPS).await;
        self.say(unit, json!({"phase": "Released", "attempt": 1})).await;
        self.lends(unit, 1).await;
    }

    async fn lends(&self, unit: &WorkUnit, idle: u32) {
        let api: Api<ProviderReport> =
            Api::namespaced(self.client.clone(), &unit.namespace().unwrap_or_default());
        if let Err(error) = report(&api, &self.image, idle).await {
            eprintln!("report: {error}");
        }
    }

    async fn say(&self, unit: &WorkUnit, mut status: Value) {
        status["observedGeneration"] = json!(unit.metadata.generation);
        let api: Api<WorkUnit> = Api::namespaced(self.client.clone(), &unit.namespace().unwrap_or_default());
        let patch = json!({ "status": status });
        self.writes.fetch_add(1, Ordering::Relaxed);
        match api.patch_status(&unit.name_any(), &PatchParams::default(), &Patch::Merge(&patch)).await {
            Err(kube::Error::Api(gone)) if gone.code == 404 => {}
            Err(error) => eprintln!("{}: {error}", unit.name_any()),
            Ok(_) => {}
        }
    }
}
