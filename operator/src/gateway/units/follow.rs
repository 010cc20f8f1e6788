//! WorkUnits from a real API server. All of them are followed, in the namespaces of all providers: every one that is seen
//! raises the fence of its island, before anything is done for a unit on the strength of it.
use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{Future, StreamExt};
use kube::core::DeserializeGuard;
use kube::runtime::reflector::{self, ObjectRef, reflector};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch_objects};
use kube::{Api, Client};
use muster_api::names::PROVIDER_NAMESPACE_PREFIX;
use muster_api::v1alpha1::{WorkUnit, WorkUnitKind};
use tokio::sync::watch;

use super::work::Work;
use crate::gateway::access::Refusal;
use crate::runtime::Shutdown;
use crate::runtime::client::within;
use crate::runtime::patience::Patience;
use crate::store::Store;

type Guarded = DeserializeGuard<WorkUnit>;

/// After a failed write into the store.
const AGAIN: Duration = Duration::from_secs(1);

/// The answers of an API server. Needs get, list and watch on `workunits` in all namespaces.
pub struct KubeWork {
    client: Client,
    known: reflector::Store<Guarded>,
    settled: watch::Receiver<bool>,
}

/// The answers, and the task that keeps them right: run it until shutdown.
pub fn follow(
    client: Client,
    store: Arc<Store>,
    shutdown: Shutdown,
) -> (KubeWork, impl Future<Output = ()> + Send) {
    let (known, writer) = reflector::store::<Guarded>();
    let (sender, settled) = watch::channel(false);
    let units: Api<Guarded> = Api::all(client.clone());
    let task = async move {
        let events =
            reflector(writer, watch_objects(units, watcher::Config::default()).backoff(Patience::default()));
        tokio::select! {
            biased;
            () = shutdown.wait() => {}
            () = raise(events, &store, &sender) => {}
        }
    };
    (KubeWork { client, known, settled }, task)
}

/// Raises the fence by everything that comes. What the store did not take is tried again and again: it is never dropped.
async fn raise(
    events: impl futures::Stream<Item = Result<Event<Guarded>, watcher::Error>> + Send,
    store: &Store,
    settled: &watch::Sender<bool>,
) {
    let mut events = pin!(events);
    let mut fence = Fence::default();
    let mut listed = false;
    loop {
        let event = tokio::select! {
            biased;
            event = events.next() => event,
            () = tokio::time::sleep(AGAIN), if !fence.pending.is_empty() => Some(Ok(Event::Init)),
        };
        match event {
            Some(Ok(Event::Apply(unit) | Event::InitApply(unit))) => fence.note(&unit),
            Some(Ok(Event::InitDone)) => listed = true,
            Some(Ok(Event::Init | Event::Delete(_))) => {}
            Some(Err(error)) => tracing::warn!(%error, "cannot follow workunits, trying again"),
            None => return,
        }
        // One by one while the list is long; the news of each is written before the next is looked at.
        fence.write(store).await;
        if listed && fence.pending.is_empty() {
            settled.send_replace(true);
        }
    }
}

/// Epochs that the store may not know of yet, by job and island, and those that it was told.
#[derive(Debug, Default)]
struct Fence {
    pending: BTreeMap<(String, i64), i64>,
    written: BTreeMap<(String, i64), i64>,
}

/// Islands whose epoch is remembered to spare the store; beyond it all are forgotten.
const REMEMBER: usize = 1 << 16;

impl Fence {
    fn note(&mut self, unit: &Guarded) {
        let unit = match &unit.0 {
            Ok(unit) => unit,
            Err(invalid) => {
                tracing::error!(%invalid, "a WorkUnit does not parse; its epoch is not known here");
                return;
            }
        };
        // A replay supersedes nobody.
        if unit.spec.kind == WorkUnitKind::Audit {
            return;
        }
        let island = (unit.spec.job_uid.clone(), i64::from(unit.spec.island));
        // Status changes come every few seconds; the store hears of an epoch once.
        if self.written.get(&island).is_some_and(|&written| written >= unit.spec.epoch) {
            return;
        }
        let highest = self.pending.entry(island).or_insert(0);
        *highest = unit.spec.epoch.max(*highest);
    }

    /// Ends with the first failure: the rest would fail as well, and the events wait.
    async fn write(&mut self, store: &Store) {
        while let Some(((job_uid, island), epoch)) = self.pending.pop_first() {
            match store.raise_epoch(&job_uid, island, epoch).await {
                Ok(known) => {
                    if self.written.len() >= REMEMBER {
                        self.written.clear();
                    }
                    self.written.insert((job_uid, island), known);
                }
                // The schema makes uids; this one came around it and fences nothing.
                Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => {
                    tracing::error!(%error, "a WorkUnit names no job");
                }
                Err(error) => {
                    tracing::warn!(job_uid, island, epoch, %error, "cannot raise the fence, trying again");
                    self.pending.insert((job_uid, island), epoch);
                    return;
                }
            }
        }
    }
}

impl Work for KubeWork {
    async fn unit(&self, provider: &str, name: &str) -> Result<Option<WorkUnit>, Refusal> {
        let namespace = format!("{PROVIDER_NAMESPACE_PREFIX}{provider}");
        let known = self.known.get(&ObjectRef::new(name).within(&namespace));
        if let Some(Ok(unit)) = known.as_deref().map(|known| &known.0) {
            return Ok(Some(unit.clone()));
        }
        // Its agent may have heard of it before we did.
        let units: Api<WorkUnit> = Api::namespaced(self.client.clone(), &namespace);
        within("get workunit", units.get_opt(name)).await.map_err(|error| {
            tracing::warn!(%error, "cannot ask for a workunit");
            Refusal::unavailable("the hub's API server cannot be asked now; try again")
        })
    }

    fn of_job(&self, job_uid: &str) -> Vec<WorkUnit> {
        let known = self.known.state();
        let readable = known.iter().filter_map(|unit| unit.0.as_ref().ok());
        readable.filter(|unit| unit.spec.job_uid == job_uid).cloned().collect()
    }

    fn settled(&self) -> Result<(), Refusal> {
        if *self.settled.borrow() {
            return Ok(());
        }
        Err(Refusal::unavailable("the gateway has just started and does not know all units yet; try again"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::units::tests::{JOB, work_unit};
    use crate::store::testing::{Faulty, set};

    #[tokio::test]
    async fn every_unit_seen_raises_the_fence_and_an_outage_of_the_store_loses_none() {
        let (bucket, faults, _) = Faulty::new();
        let store = Store::on_objects(Arc::new(bucket), "");
        set(&faults.writes, Some("down"));
        let (sender, settled) = watch::channel(false);
        let (events, receiver) = futures::channel::mpsc::unbounded();
        let unit = |epoch| DeserializeGuard(Ok(work_unit("east", epoch, None)));
        for event in [Event::Init, Event::InitApply(unit(3)), Event::InitApply(unit(2)), Event::InitDone] {
            events.unbounded_send(Ok(event)).unwrap();
        }
        let check = async {
            tokio::time::sleep(Duration::from_millis(1500)).await;
            assert!(!*settled.borrow(), "the store was down all the time");
            set(&faults.writes, None);
            let mut settled = settled.clone();
            settled.wait_for(|settled| *settled).await.unwrap();
            assert_eq!(store.epoch(JOB, 0).await.unwrap(), 3);
            events.unbounded_send(Ok(Event::Apply(unit(4)))).unwrap();
            while store.epoch(JOB, 0).await.unwrap() != 4 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let mut audit = work_unit("west", 9, None);
            audit.spec.kind = WorkUnitKind::Audit;
            events.unbounded_send(Ok(Event::Apply(DeserializeGuard(Ok(audit))))).unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert_eq!(store.epoch(JOB, 0).await.unwrap(), 4, "a replay's number is its own");
        };
        tokio::select! {
            () = raise(receiver, &store, &sender) => {}
            () = check => {}
        }
    }
}
