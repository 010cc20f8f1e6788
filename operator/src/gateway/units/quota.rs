//! How many bytes a unit may have put that no commit names: some checkpoints of its job ([`Sizes`]).
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use axum::http::StatusCode;
use muster_proof::Digest;
use muster_trainer::resolved::MAX_SPEC;

use super::work::Found;
use crate::gateway::access::Refusal;
use crate::gateway::blobs::store_refusal;
use crate::gateway::uploads::{Room, UnderWay};
use crate::store::Store;
use crate::store::sizes::{CHECKPOINTS, Sizes};

/// Specs whose sizes are remembered; beyond it all are forgotten.
const REMEMBER: usize = 4096;
/// When to come again while uploads are under way.
const RETRY_AFTER: u64 = 5;

/// See the module.
#[derive(Debug, Default)]
pub struct Quota {
    limits: Mutex<HashMap<Digest, Sizes>>,
    under_way: UnderWay,
}

impl Quota {
    /// The sizes of a job's checkpoints, by its resolved spec.
    ///
    /// # Errors
    /// 503 if the store cannot be asked or does not have the spec, 409 `BadUnit` if it is none.
    pub async fn limits(&self, store: &Store, spec: &Digest) -> Result<Sizes, Refusal> {
        if let Some(known) = locked(&self.limits).get(spec) {
            return Ok(*known);
        }
        let bytes = store.read(spec, MAX_SPEC).await.map_err(|error| store_refusal(&error))?;
        let Some(bytes) = bytes else {
            tracing::error!(%spec, "the store does not have the resolved spec of a unit");
            return Err(Refusal::unavailable(
                "the store does not have the job's resolved spec yet; try again",
            ));
        };
        let read = tokio::task::spawn_blocking(move || Sizes::of_spec(&bytes));
        let read =
            read.await.map_err(|error| Refusal::unavailable(format!("cannot read the spec: {error}")))?;
        let limits = read.map_err(|error| {
            tracing::error!(%spec, %error, "the resolved spec of a unit is none");
            Refusal::new(
                StatusCode::CONFLICT,
                "BadUnit",
                "the job's resolved spec cannot be read; tell the hub's admin",
            )
        })?;
        let mut known = locked(&self.limits);
        if known.len() >= REMEMBER {
            known.clear();
        }
        known.insert(*spec, limits);
        Ok(limits)
    }

    /// Room for `size` bytes of a unit.
    ///
    /// # Errors
    /// 507 `OverQuota` if the unit has put too much that it did not commit, 429 if it only has too much under way.
    pub async fn reserve(
        &self,
        store: &Store,
        unit: &Found,
        size: u64,
        limits: &Sizes,
    ) -> Result<Room, Refusal> {
        // Taken first and looked at then: two that come at once see each other.
        let (room, under_way) = self.under_way.add(&unit.payload.name, size);
        let open = store.open_puts(unit.key()).await.map_err(|error| store_refusal(&error))?;
        let staged = store.staged_bytes(&unit.payload.name).await.map_err(|error| store_refusal(&error))?;
        let open = open.values().sum::<u64>().saturating_add(staged);
        let allowed = limits.checkpoint.saturating_mul(CHECKPOINTS);
        if open.saturating_add(size) > allowed {
            let text = format!(
                "unit {} has put {open} bytes that no commit names, at most {allowed} are kept; commit a checkpoint",
                unit.payload.name
            );
            return Err(Refusal::new(StatusCode::INSUFFICIENT_STORAGE, "OverQuota", text));
        }
        if open.saturating_add(under_way) > allowed {
            return Err(Refusal::too_many(RETRY_AFTER));
        }
        Ok(room)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
