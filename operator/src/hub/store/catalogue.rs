//! The catalogue: a name in a namespace leads to a dataset. A job may name only what its own namespace has; a bare digest
//! would let any tenant train on anyone's data.
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use muster_proof::Digest;
use muster_trainer::dataset::{Dataset, MAX_MANIFEST, Manifest};
use tokio_util::io::ReaderStream;

use super::{MAX_BLOB_BYTES, Store};
use crate::runtime::blobdir::PutError;

/// Why a dataset was not imported. The catalogue still says what it said before.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// Namespace or name is not a DNS label.
    #[error("{0:?} is not a DNS label (lower-case letters, digits, '-', at most 63)")]
    Name(String),
    /// The directory is not a whole dataset.
    #[error(transparent)]
    Dataset(#[from] muster_trainer::dataset::Error),
    /// The store did not take a blob.
    #[error("store: {0}")]
    Put(#[from] PutError),
    /// Any other error of the file system.
    #[error("store: {0}")]
    Io(#[from] io::Error),
}

impl Store {
    /// The digest of the manifest that `name` leads to in `namespace`.
    ///
    /// # Errors
    /// Any error of the file system but absence.
    pub async fn dataset(&self, namespace: &str, name: &str) -> io::Result<Option<Digest>> {
        match self.dataset_path(namespace, name) {
            Some(path) => self.read_name(&path).await,
            None => Ok(None),
        }
    }

    /// Names of the datasets of a namespace, sorted.
    ///
    /// # Errors
    /// Any error of the file system but absence.
    pub async fn datasets(&self, namespace: &str) -> io::Result<Vec<String>> {
        if !is_dns_label(namespace) {
            return Ok(Vec::new());
        }
        super::names(&self.root.join("catalogue").join(namespace).join("datasets")).await
    }

    /// Namespaces that have a catalogue, sorted.
    ///
    /// # Errors
    /// Any error of the file system but absence.
    pub async fn namespaces(&self) -> io::Result<Vec<String>> {
        super::names(&self.root.join("catalogue")).await
    }

    /// Lets `name` lead to `manifest`, whose blobs must all be in the store.
    ///
    /// # Errors
    /// [`ImportError::Name`], or any error of the file system.
    pub async fn set_dataset(
        &self,
        namespace: &str,
        name: &str,
        manifest: &Digest,
    ) -> Result<(), ImportError> {
        let bad = if is_dns_label(namespace) { name } else { namespace };
        let path = self.dataset_path(namespace, name).ok_or_else(|| ImportError::Name(bad.into()))?;
        Ok(self.write_name(&path, manifest).await?)
    }

    /// Copies a prepared dataset directory into the store, blob by blob, then lets `name` lead to it. The directory is
    /// checked whole first: a job never sees half a dataset.
    ///
    /// # Errors
    /// [`ImportError`]; the catalogue is unchanged then.
    pub async fn import_dataset(
        &self,
        namespace: &str,
        name: &str,
        dir: &Path,
    ) -> Result<Digest, ImportError> {
        for part in [namespace, name] {
            if !is_dns_label(part) {
                return Err(ImportError::Name(part.into()));
            }
        }
        let checked = dir.to_owned();
        let dataset = tokio::task::spawn_blocking(move || Dataset::open(&checked)).await;
        let dataset = dataset.map_err(io::Error::other)??;
        for shard in dataset.manifest().shards() {
            let file = tokio::fs::File::open(dir.join(&shard.path)).await?;
            self.blobs.put(&shard.sha256, ReaderStream::new(file), MAX_BLOB_BYTES).await?;
            self.touch(&shard.sha256).await?;
        }
        let manifest = self.put_bytes(dataset.manifest().to_bytes()?).await?;
        self.set_dataset(namespace, name, &manifest).await?;
        Ok(manifest)
    }

    /// The manifest of a dataset, `None` if it is not in the store.
    ///
    /// # Errors
    /// `InvalidData` if the blob is no dataset manifest, any other error of the file system.
    pub async fn dataset_manifest(&self, digest: &Digest) -> io::Result<Option<Manifest>> {
        let Some(bytes) = self.blobs.read(digest, MAX_MANIFEST).await? else { return Ok(None) };
        let manifest = Manifest::parse(&bytes)
            .map_err(|error| io::Error::new(ErrorKind::InvalidData, format!("dataset {digest}: {error}")))?;
        Ok(Some(manifest))
    }

    /// The manifest that `name` leads to in `namespace`, once all its shards are seen to be in the store; `None` if there is no
    /// such name.
    ///
    /// # Errors
    /// `InvalidData` if the name leads to no manifest or a shard is missing or has another size, any other error of the file
    /// system.
    pub async fn whole_dataset(&self, namespace: &str, name: &str) -> io::Result<Option<Manifest>> {
        let Some(digest) = self.dataset(namespace, name).await? else { return Ok(None) };
        let missing = |what: &Digest| {
            io::Error::new(ErrorKind::InvalidData, format!("its blob {what} is missing or damaged"))
        };
        let manifest = self.dataset_manifest(&digest).await?.ok_or_else(|| missing(&digest))?;
        for shard in manifest.shards() {
            if self.blobs.size(&shard.sha256).await? != Some(shard.size) {
                return Err(missing(&shard.sha256));
            }
        }
        Ok(Some(manifest))
    }

    /// `None` for names that are not DNS labels: they cannot be in the catalogue, and must not become paths.
    fn dataset_path(&self, namespace: &str, name: &str) -> Option<PathBuf> {
        let valid = is_dns_label(namespace) && is_dns_label(name);
        valid.then(|| self.root.join("catalogue").join(namespace).join("datasets").join(name))
    }
}

fn is_dns_label(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && bytes.first().copied().is_some_and(plain)
        && bytes.last().copied().is_some_and(plain)
        && bytes.iter().all(|&b| plain(b) || b == b'-')
}
