//! Which blobs a manifest leads to. A manifest is named by its digest and never changes, so what was read once is
//! remembered, within a bound.
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use muster_proof::Digest;

use crate::store::{Asset, Store};

/// Blobs remembered in all (50 MB); beyond it all are forgotten, which costs reading them again.
const MAX_BLOBS: usize = 1 << 20;

/// What a manifest is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Of {
    /// What the catalogue has: its files.
    Asset(Asset),
    /// A checkpoint: its files.
    Checkpoint,
}

/// The blobs of a manifest with their sizes, itself among them.
type Closure = Arc<BTreeMap<Digest, u64>>;

/// See the module.
#[derive(Debug, Default)]
pub struct Closures {
    known: Mutex<HashMap<(Of, Digest), Closure>>,
}

impl Closures {
    /// Whether a manifest is this blob or leads to it. One that the store does not have, or that is none, leads nowhere.
    ///
    /// # Errors
    /// Any error of the store but absence.
    pub async fn leads_to(
        &self,
        store: &Store,
        of: Of,
        manifest: &Digest,
        digest: &Digest,
    ) -> io::Result<bool> {
        if manifest == digest {
            return Ok(true);
        }
        Ok(self.closure(store, of, manifest).await?.contains_key(digest))
    }

    /// All blobs of a manifest.
    ///
    /// # Errors
    /// Any error of the store but absence.
    pub async fn closure(&self, store: &Store, of: Of, manifest: &Digest) -> io::Result<Closure> {
        if let Some(known) = self.lock().get(&(of, *manifest)) {
            return Ok(known.clone());
        }
        let read = match of {
            Of::Asset(asset) => store
                .files_of(asset, manifest)
                .await
                .map(|found| found.map(|files| files.into_iter().collect())),
            Of::Checkpoint => {
                let files = |m: muster_trainer::checkpoint::Manifest| {
                    m.files().iter().map(|file| (file.sha256, file.size)).collect()
                };
                store.checkpoint_manifest(manifest).await.map(|found| found.map(files))
            }
        };
        let mut named: BTreeMap<Digest, u64> = match read {
            Ok(Some(named)) => named,
            // It may come yet.
            Ok(None) => return Ok(Arc::new(BTreeMap::from([(*manifest, 0)]))),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                tracing::warn!(%error, "a name leads to what is no manifest");
                BTreeMap::new()
            }
            Err(error) => return Err(error),
        };
        named.insert(*manifest, store.size(manifest).await?.unwrap_or(0));
        let named = Arc::new(named);
        let mut known = self.lock();
        if known.values().map(|closure| closure.len()).sum::<usize>() + named.len() > MAX_BLOBS {
            known.clear();
        }
        known.insert((of, *manifest), named.clone());
        Ok(named)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(Of, Digest), Closure>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
