//! Notices that the hub's database was restored from a backup (`muster_core::epochs`): at the start, before anything is
//! decided, and while the hub runs.
use std::sync::Arc;
use std::time::Duration;

use kube::api::ListParams;
use kube::core::DeserializeGuard;
use kube::{Api, Client};
use muster_api::v1alpha1::{ComputeProvider, TrainingJob, WorkUnit};
use muster_core::epochs::Seen;

use super::error::Error;
use super::state::State;
use crate::runtime::Shutdown;
use crate::runtime::backoff::delay;
use crate::runtime::client::within;

/// How often the database's age is looked at. A unit's own resourceVersion is noted at once, so that what matters is never
/// younger than the mark.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// A second look before all that was signed is declared void.
const CONFIRM_AFTER: Duration = Duration::from_secs(2);

/// See the module.
pub struct Restore {
    client: Client,
    state: Arc<State>,
    confirm_after: Duration,
}

impl Restore {
    /// Has not looked yet.
    pub fn new(client: Client, state: Arc<State>) -> Self {
        Self { client, state, confirm_after: CONFIRM_AFTER }
    }

    /// The first look; returns once the API server gave one, or `None` at shutdown.
    pub async fn settle(&self, shutdown: &Shutdown) -> Option<()> {
        for failures in 1.. {
            match self.look().await {
                Ok(_) => return Some(()),
                Err(error) => {
                    tracing::warn!(%error, "cannot see yet how old the hub's database is, trying again")
                }
            }
            let wait = delay(Duration::from_millis(500), Duration::from_secs(5), failures, 1000);
            tokio::select! {
                biased;
                () = shutdown.wait() => return None,
                () = tokio::time::sleep(wait) => {}
            }
        }
        None
    }

    /// Looks now and then until shutdown. A restore ends everything that shares `shutdown`: watches would wait at
    /// resourceVersions of the lost time, and see nothing until the database has passed them again. True if there was one.
    pub async fn run(&self, shutdown: Shutdown) -> bool {
        loop {
            tokio::select! {
                biased;
                () = shutdown.wait() => return false,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            match self.look().await {
                Ok(Seen::Onward) => {}
                Ok(Seen::Restored) => {
                    shutdown.trigger();
                    return true;
                }
                Err(error) => tracing::debug!(%error, "cannot see how old the hub's database is"),
            }
        }
    }

    async fn look(&self) -> Result<Seen, Error> {
        // Taken before the request: a unit that is made meanwhile moves the mark past an answer that is on its way.
        let before = self.state.epochs();
        let seen = self.resource_version().await?;
        if before.judge(seen) == Seen::Onward {
            self.state.onward(seen)?;
            return Ok(Seen::Onward);
        }
        tokio::time::sleep(self.confirm_after).await;
        let again = self.resource_version().await?;
        if before.judge(again) == Seen::Onward {
            self.state.onward(again)?;
            return Ok(Seen::Onward);
        }
        let highest = self.highest_epoch().await?;
        self.state.restored(before, again, highest)?;
        let now = self.state.epochs();
        tracing::error!(
            was = before.resource_version,
            is = again,
            incarnation = now.incarnation,
            min_epoch = now.floor,
            "the hub's database went back: it was restored from a backup. All units signed so far are void; those that agents \
             still hold are continued under new epochs"
        );
        Ok(Seen::Restored)
    }

    /// How far the database is: a list without a resourceVersion of its own is answered from its present state.
    async fn resource_version(&self) -> Result<u64, Error> {
        let api: Api<ComputeProvider> = Api::all(self.client.clone());
        let list =
            within("list computeproviders", api.list_metadata(&ListParams::default().limit(1))).await?;
        let version = list.metadata.resource_version.and_then(|text| text.parse().ok());
        version.ok_or(Error::Incomplete("list of computeproviders", "numeric resourceVersion"))
    }

    /// The highest epoch of anything that the database still knows.
    async fn highest_epoch(&self) -> Result<i64, Error> {
        let everything = ListParams::default();
        let jobs: Api<DeserializeGuard<TrainingJob>> = Api::all(self.client.clone());
        let units: Api<DeserializeGuard<WorkUnit>> = Api::all(self.client.clone());
        let providers: Api<DeserializeGuard<ComputeProvider>> = Api::all(self.client.clone());
        let jobs = within("list trainingjobs", jobs.list(&everything)).await?;
        let units = within("list workunits", units.list(&everything)).await?;
        let providers = within("list computeproviders", providers.list(&everything)).await?;
        let islands = jobs.items.into_iter().filter_map(|job| job.0.ok()?.status).flat_map(|job| job.islands);
        let epochs = islands.filter_map(|island| island.epoch);
        let epochs = epochs.chain(units.items.into_iter().filter_map(|unit| Some(unit.0.ok()?.spec.epoch)));
        let least = providers.items.into_iter().filter_map(|provider| provider.0.ok()?.status?.min_epoch);
        Ok(epochs.chain(least).max().unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use axum::Json;
    use axum::Router;
    use axum::extract::{OriginalUri, State as Shared};
    use serde_json::{Value, json};

    use super::*;

    const UID: &str = "4f2a9c1b-0000-4000-8000-000000000000";

    /// An API server whose database is at a certain resourceVersion and knows one unit of epoch 7.
    async fn answer(Shared(version): Shared<Arc<AtomicU64>>, OriginalUri(uri): OriginalUri) -> Json<Value> {
        let items = if uri.path().ends_with("workunits") {
            json!([{
                "metadata": {"name": "4f2a9c1b-0-7", "namespace": "muster-p-east"},
                "spec": {"kind": "Train", "jobUID": UID, "island": 0, "epoch": 7, "workers": 1, "desired": "Run",
                         "envelope": {"payloadType": "t", "payload": "e30=", "signatures": []}},
            }])
        } else {
            json!([])
        };
        let version = version.load(Ordering::Relaxed).to_string();
        Json(
            json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": version}, "items": items}),
        )
    }

    #[tokio::test]
    async fn a_database_that_went_back_is_noticed_once() {
        let dir = tempfile::tempdir().unwrap();
        let state = Arc::new(State::open(dir.path()).unwrap().0);
        let version = Arc::new(AtomicU64::new(500));
        let router = Router::new().fallback(answer).with_state(version.clone());
        let mut restore = Restore::new(Client::new(router, "default"), state.clone());
        restore.confirm_after = Duration::ZERO;
        let numbers = || (state.epochs().incarnation, state.epochs().floor, state.epochs().resource_version);

        restore.settle(&Shutdown::manual()).await.unwrap();
        assert_eq!(numbers(), (1, 1, 500));
        version.store(300, Ordering::Relaxed);
        assert_eq!(restore.look().await.unwrap(), Seen::Restored);
        assert_eq!(numbers(), (2, 1007, 300), "above the epoch of the unit that is known");
        assert_eq!(restore.look().await.unwrap(), Seen::Onward);
        assert_eq!(numbers(), (2, 1007, 300));
        version.store(301, Ordering::Relaxed);
        restore.look().await.unwrap();
        assert_eq!(numbers(), (2, 1007, 301));
    }

    /// A unit was made while the answer was on its way: the mark is ahead of it, the database is not behind.
    #[tokio::test]
    async fn an_answer_that_is_overtaken_is_no_restore() {
        let dir = tempfile::tempdir().unwrap();
        let state = Arc::new(State::open(dir.path()).unwrap().0);
        state.onward(400).unwrap();
        let version = Arc::new(AtomicU64::new(300));
        let router = Router::new().fallback(answer).with_state(version.clone());
        let mut restore = Restore::new(Client::new(router, "default"), state.clone());
        restore.confirm_after = Duration::from_millis(400);
        let look = restore.look();
        let catches_up = async {
            tokio::time::sleep(restore.confirm_after / 4).await;
            version.store(401, Ordering::Relaxed);
        };
        let (looked, ()) = tokio::join!(look, catches_up);
        looked.unwrap();
        assert_eq!((state.epochs().incarnation, state.epochs().resource_version), (1, 401));
    }
}
