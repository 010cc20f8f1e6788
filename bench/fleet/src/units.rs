//! What agents make of WorkUnits: they start, run, tell of their steps, and stop when they are asked to.
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use kube::api::Api;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, watcher};
use kube::{Client, ResourceExt};
use muster_api::v1alpha1::{Desired, WorkUnit};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::agent::Agent;
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
    known: Mutex<HashMap<String, Known>>,
    writes: AtomicU64,
    freed: Mutex<Freed>,
}

struct Known {
    provider: String,
    phase: Phase,
}

/// How soon providers whose job was deleted have another one.
#[derive(Default)]
struct Freed {
    since: HashMap<String, Instant>,
    took: Vec<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Starts,
    Runs,
    Ends,
}

impl Units {
    pub fn new(client: Client, image: String, progress: Duration) -> Self {
        Self {
            client,
            image,
            progress,
            known: Mutex::default(),
            writes: AtomicU64::new(0),
            freed: Mutex::default(),
        }
    }

    /// How many run.
    pub fn running(&self) -> usize {
        self.known().values().filter(|known| known.phase == Phase::Runs).count()
    }

    /// Whether one runs at this provider.
    pub fn runs_at(&self, provider: &str) -> bool {
        self.known().values().any(|known| known.phase == Phase::Runs && known.provider == provider)
    }

    /// The job that this provider trains is about to be deleted.
    pub fn frees(&self, provider: &str) {
        self.freed().since.insert(provider.to_owned(), Instant::now());
    }

    /// Seconds from the request to delete a job that trains to the next unit at its provider.
    pub fn times(&self) -> Vec<f64> {
        self.freed().took.clone()
    }

    fn freed(&self) -> MutexGuard<'_, Freed> {
        self.freed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often a unit's status was written so far.
    pub fn writes(&self) -> u64 {
        self.writes.load(Ordering::Relaxed)
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Known>> {
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
        let before = self.known().get(&name).map(|known| known.phase);
        let next = match (before, ends) {
            (None, false) => Phase::Starts,
            (Some(Phase::Starts | Phase::Runs) | None, true) => Phase::Ends,
            _ => return,
        };
        let provider = unit.namespace().unwrap_or_default().trim_start_matches("muster-p-").to_owned();
        if next == Phase::Starts {
            let mut freed = self.freed();
            if let Some(since) = freed.since.remove(&provider) {
                freed.took.push(since.elapsed().as_secs_f64());
            }
        }
        self.known().insert(name, Known { provider, phase: next });
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
                    Some(known) if known.phase != Phase::Ends => known.phase = Phase::Runs,
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
        if let Err(error) = report(&self.agent(unit), &self.image, idle).await {
            eprintln!("report: {error}");
        }
    }

    async fn say(&self, unit: &WorkUnit, mut status: Value) {
        status["observedGeneration"] = json!(unit.metadata.generation);
        self.writes.fetch_add(1, Ordering::Relaxed);
        match self.agent(unit).say::<WorkUnit>(&unit.name_any(), &status).await {
            Err(kube::Error::Api(gone)) if gone.code == 404 => {}
            Err(error) => eprintln!("{}: {error}", unit.name_any()),
            Ok(()) => {}
        }
    }

    fn agent(&self, unit: &WorkUnit) -> Agent {
        Agent::new(&self.client, &unit.namespace().unwrap_or_default())
    }
}
