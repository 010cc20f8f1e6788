//! How large a checkpoint of a job can be, and how many bytes a unit may have put that no commit names.
//!
//! A checkpoint is three numbers of four bytes for each trained element, two of them in its largest file, and little
//! more. The number of elements follows from the resolved spec alone, so a unit cannot make its own quota larger.
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use axum::http::StatusCode;
use muster_proof::Digest;
use muster_trainer::resolved::{MAX_SPEC, read_spec};

use super::work::Found;
use crate::gateway::access::Refusal;
use crate::gateway::blobs::store_refusal;
use crate::gateway::uploads::{Room, UnderWay};
use crate::store::Store;

/// Checkpoints' worth of bytes that a unit may have put and not committed.
const CHECKPOINTS: u64 = 8;
/// For manifest, config and lengths of headers.
const SLACK: u64 = 64 << 10;
/// Bytes of a tensor's entry in a header: name, shape, offsets.
const ENTRY: u64 = 512;
/// Specs whose sizes are remembered; beyond it all are forgotten.
const REMEMBER: usize = 4096;
/// When to come again while uploads are under way.
const RETRY_AFTER: u64 = 5;

/// Bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The largest file of a checkpoint.
    pub file: u64,
    /// All files of a checkpoint.
    pub checkpoint: u64,
}

impl Limits {
    fn of(parameters: u64, tensors: u64) -> Self {
        let values = |each: u64| parameters.saturating_mul(4 * each).saturating_add(tensors * ENTRY * each);
        Self { file: values(2) + SLACK, checkpoint: values(3) + SLACK }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Quota {
    limits: Mutex<HashMap<Digest, Limits>>,
    under_way: UnderWay,
}

impl Quota {
    /// The sizes of a job's checkpoints, by its resolved spec.
    ///
    /// # Errors
    /// 503 if the store cannot be asked or does not have the spec, 409 `BadUnit` if it is none.
    pub async fn limits(&self, store: &Store, spec: &Digest) -> Result<Limits, Refusal> {
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
        let read = tokio::task::spawn_blocking(move || {
            let (_, graph) = read_spec(&bytes)?;
            Ok::<_, muster_trainer::resolved::Error>((
                graph.parameters() as u64,
                graph.tensors().len() as u64,
            ))
        });
        let read =
            read.await.map_err(|error| Refusal::unavailable(format!("cannot read the spec: {error}")))?;
        let (parameters, tensors) = read.map_err(|error| {
            tracing::error!(%spec, %error, "the resolved spec of a unit is none");
            Refusal::new(
                StatusCode::CONFLICT,
                "BadUnit",
                "the job's resolved spec cannot be read; tell the hub's admin",
            )
        })?;
        let limits = Limits::of(parameters, tensors);
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
        limits: &Limits,
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
