//! Blobs for pods: from the cache, else from the hub, and only what the pod's unit leads to.
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use muster_proof::Digest;
use muster_proof::inputs::Inputs;
use muster_trainer::{checkpoint, dataset, hf};

use super::Relay;
use crate::agent::hub_blobs::HubError;
use crate::agent::state::UnitState;
use crate::agent::units::{Unit, locked};
use crate::runtime::blobdir::{BlobDir, PutError};

/// No blob is larger: the parameters or the optimizer state of one checkpoint.
pub const MAX_BLOB: u64 = 64 << 30;

/// Downloads under way, so that ranks that ask together cause one.
#[derive(Debug, Default)]
pub struct Flights(Mutex<HashMap<Digest, Arc<tokio::sync::Mutex<()>>>>);

/// Why a blob is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Neither the cache nor the hub has it.
    #[error("blob {0} is neither here nor at the hub")]
    Missing(Digest),
    /// The hub.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// The cache.
    #[error("blob cache: {0}")]
    Cache(#[from] PutError),
    /// A manifest that is not one.
    #[error("blob {digest} is not a {what}: {problem}")]
    Manifest {
        /// Which blob.
        digest: Digest,
        /// What it should be.
        what: &'static str,
        /// What is wrong with it.
        problem: String,
    },
}

impl IntoResponse for FetchError {
    fn into_response(self) -> Response {
        let status = match &self {
            Self::Missing(_) => StatusCode::NOT_FOUND,
            Self::Hub(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Cache(error) => error.status(),
            Self::Manifest { .. } => StatusCode::UNPROCESSABLE_ENTITY,
        };
        (status, format!("{self}\n")).into_response()
    }
}

impl Relay {
    /// Makes sure that the cache has a blob which a unit leads to.
    ///
    /// # Errors
    /// See [`FetchError`].
    pub async fn fetch(&self, unit: &Unit, digest: &Digest) -> Result<(), FetchError> {
        if self.blobs.size(digest).await.map_err(PutError::from)?.is_some() {
            return Ok(());
        }
        let flight = locked(&self.flights.0).entry(*digest).or_default().clone();
        let fetched = {
            let _turn = flight.lock().await;
            self.download(unit, digest).await
        };
        drop(flight);
        // The last one out removes the entry; who comes later finds the blob in the cache.
        locked(&self.flights.0).retain(|key, flight| key != digest || Arc::strong_count(flight) > 1);
        fetched
    }

    async fn download(&self, unit: &Unit, digest: &Digest) -> Result<(), FetchError> {
        if self.blobs.size(digest).await.map_err(PutError::from)?.is_some() {
            return Ok(());
        }
        let found = self.hub.get(unit.name(), *digest).await?;
        let blob = found.ok_or(FetchError::Missing(*digest))?;
        let spare = self.spare().map_err(PutError::from)?;
        match self.blobs.put(digest, blob, spare.min(MAX_BLOB)).await {
            Ok(_) => Ok(()),
            Err(PutError::TooLarge(_)) if spare < MAX_BLOB => Err(PutError::Full.into()),
            // The hub stopped in the middle: that is the hub's trouble, not the cache's.
            Err(PutError::Source(text)) => Err(HubError::Unreachable(text).into()),
            Err(error) => Err(error.into()),
        }
    }

    /// Answers GET and HEAD for a pod of this unit.
    pub(super) async fn blob_for(&self, unit: &Unit, digest: &Digest, body: bool) -> Response {
        let state = unit.state().await;
        match self.may_read(unit, &state, digest).await {
            Ok(true) => {}
            // The same answer as for a blob that does not exist: what others have is nobody's business.
            Ok(false) => {
                return (StatusCode::NOT_FOUND, format!("unit {} has no blob {digest}\n", unit.name()))
                    .into_response();
            }
            Err(error) => return error.into_response(),
        }
        match self.fetch(unit, digest).await {
            Ok(()) => self.blobs.answer(digest, body).await,
            Err(error) => error.into_response(),
        }
    }

    /// Whether the unit's envelope, or its current start, leads to this blob.
    async fn may_read(&self, unit: &Unit, state: &UnitState, digest: &Digest) -> Result<bool, FetchError> {
        let Some(payload) = &state.payload else { return Ok(false) };
        let starts: Vec<Digest> =
            [payload.start, state.rounds.start].into_iter().flatten().map(|start| start.manifest).collect();
        if [payload.spec, payload.dataset].contains(digest) || starts.contains(digest) {
            return Ok(true);
        }
        for start in starts {
            if self.closure(unit, &start, checkpoint_files).await?.contains(digest) {
                return Ok(true);
            }
        }
        if self.closure(unit, &payload.dataset, dataset_shards).await?.contains(digest) {
            return Ok(true);
        }
        for manifest in self.closure(unit, &payload.spec, inputs).await?.iter() {
            if manifest == digest || self.closure(unit, manifest, input_files).await?.contains(digest) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The blobs that a manifest names.
    async fn closure(
        &self,
        unit: &Unit,
        manifest: &Digest,
        parse: fn(&Digest, &[u8]) -> Result<Vec<Digest>, FetchError>,
    ) -> Result<Arc<Vec<Digest>>, FetchError> {
        if let Some(known) = locked(&unit.closures).get(manifest) {
            return Ok(known.clone());
        }
        self.fetch(unit, manifest).await?;
        let bytes = read_manifest(&self.blobs, manifest).await?.ok_or(FetchError::Missing(*manifest))?;
        let named = Arc::new(parse(manifest, &bytes)?);
        locked(&unit.closures).insert(*manifest, named.clone());
        Ok(named)
    }
}

/// A manifest and, if the cache has it, what it names.
pub(in crate::agent) async fn leads_to(
    blobs: &BlobDir,
    manifest: &Digest,
    parse: fn(&Digest, &[u8]) -> Result<Vec<Digest>, FetchError>,
) -> Vec<Digest> {
    let mut all = vec![*manifest];
    if let Ok(Some(bytes)) = read_manifest(blobs, manifest).await {
        all.extend(parse(manifest, &bytes).unwrap_or_default());
    }
    all
}

/// A manifest's bytes from the cache.
pub(super) async fn read_manifest(blobs: &BlobDir, digest: &Digest) -> Result<Option<Vec<u8>>, PutError> {
    Ok(blobs.read(digest, dataset::MAX_MANIFEST).await?)
}

pub(in crate::agent) fn checkpoint_files(digest: &Digest, bytes: &[u8]) -> Result<Vec<Digest>, FetchError> {
    let manifest = checkpoint::Manifest::parse(bytes).map_err(|problem| FetchError::Manifest {
        digest: *digest,
        what: "checkpoint manifest",
        problem: problem.to_string(),
    })?;
    Ok(manifest.files().iter().map(|file| file.sha256).collect())
}

/// The manifests that a spec names. Bytes that are no spec lead nowhere: no worker trains by them.
pub(in crate::agent) fn inputs(_: &Digest, bytes: &[u8]) -> Result<Vec<Digest>, FetchError> {
    let Inputs { held_out, init } = Inputs::of_spec(bytes).unwrap_or_default();
    Ok(held_out.into_iter().chain(init).collect())
}

/// The files of one of them: each kind of manifest says what it is.
pub(in crate::agent) fn input_files(digest: &Digest, bytes: &[u8]) -> Result<Vec<Digest>, FetchError> {
    match hf::Manifest::parse(bytes) {
        Ok(model) => Ok(model.files().iter().map(|file| file.sha256).collect()),
        Err(_) => dataset_shards(digest, bytes),
    }
}

pub(in crate::agent) fn dataset_shards(digest: &Digest, bytes: &[u8]) -> Result<Vec<Digest>, FetchError> {
    let manifest = dataset::Manifest::parse(bytes).map_err(|problem| FetchError::Manifest {
        digest: *digest,
        what: "dataset manifest",
        problem: problem.to_string(),
    })?;
    Ok(manifest.shards().iter().map(|shard| shard.sha256).collect())
}
