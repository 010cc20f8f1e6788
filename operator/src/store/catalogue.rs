//! The catalogue: a name in a namespace leads to a dataset. A job may name only what its own namespace has; a bare digest
//! would let any tenant train on anyone's data.
use std::io::{self, ErrorKind};
use std::path::Path;

use muster_proof::Digest;
use muster_proof::evaluation::Evaluation;
use muster_trainer::dataset::{Dataset, MAX_MANIFEST, Manifest};
use muster_trainer::resolved::MAX_SPEC;
use tokio_util::io::ReaderStream;

use super::{MAX_BLOB_BYTES, Namespace, Store, digest_line};
use crate::runtime::blobdir::PutError;

/// Why a dataset was not imported. The catalogue still says what it said before.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The name is not a DNS label.
    #[error("{0:?} is not a DNS label (lower-case letters, digits, '-', at most 63)")]
    Name(String),
    /// The directory is not a whole dataset.
    #[error(transparent)]
    Dataset(#[from] muster_trainer::dataset::Error),
    /// The store did not take a blob.
    #[error("store: {0}")]
    Put(#[from] PutError),
    /// Any other error of the backend.
    #[error("store: {0}")]
    Io(#[from] io::Error),
}

impl Store {
    /// The digest of the manifest that `name` leads to in `namespace`.
    ///
    /// # Errors
    /// Any error of the backend but absence.
    pub async fn dataset(&self, namespace: &Namespace, name: &str) -> io::Result<Option<Digest>> {
        match dataset_key(namespace, name) {
            Some(key) => self.read_digest(&key).await,
            None => Ok(None),
        }
    }

    /// Names of the datasets of a namespace, sorted.
    ///
    /// # Errors
    /// Any error of the backend but absence.
    pub async fn datasets(&self, namespace: &Namespace) -> io::Result<Vec<String>> {
        let entries = self.backend.list(&format!("{}/datasets", namespace.folder())).await?;
        Ok(entries.into_iter().map(|entry| entry.name).filter(|name| is_dns_label(name)).collect())
    }

    /// Lets `name` lead to `manifest`, whose blobs must all be in the store.
    ///
    /// # Errors
    /// [`ImportError::Name`], or any error of the backend.
    pub async fn set_dataset(
        &self,
        namespace: &Namespace,
        name: &str,
        manifest: &Digest,
    ) -> Result<(), ImportError> {
        let key = dataset_key(namespace, name).ok_or_else(|| ImportError::Name(name.to_owned()))?;
        Ok(self.backend.write(&key, &digest_line(manifest)).await?)
    }

    /// As [`Store::set_dataset`], but a name that leads to another dataset is only replaced if that is what is asked for.
    /// Whoever else writes the name meanwhile is noticed.
    ///
    /// # Errors
    /// [`ImportError::Name`], or any error of the backend.
    pub async fn place_dataset(
        &self,
        namespace: &Namespace,
        name: &str,
        manifest: &Digest,
        replace: Replace,
    ) -> Result<Placed, ImportError> {
        let key = dataset_key(namespace, name).ok_or_else(|| ImportError::Name(name.to_owned()))?;
        let line = digest_line(manifest);
        for _ in 0..TRIES {
            let now = self.backend.read(&key).await?;
            match (&now, replace) {
                (Some(now), _) if *now == line => return Ok(Placed::Same),
                (Some(_), Replace::Never) => return Ok(Placed::Taken),
                _ => {}
            }
            if self.backend.swap(&key, now.as_deref(), &line).await? {
                return Ok(if now.is_some() { Placed::Replaced } else { Placed::New });
            }
        }
        Err(io::Error::other(format!("{key} in the store is written all the time by others")).into())
    }

    /// Copies a prepared dataset directory into the store, blob by blob, then lets `name` lead to it. The directory is
    /// checked whole first: a job never sees half a dataset.
    ///
    /// # Errors
    /// [`ImportError`]; the catalogue is unchanged then.
    pub async fn import_dataset(
        &self,
        namespace: &Namespace,
        name: &str,
        dir: &Path,
    ) -> Result<Digest, ImportError> {
        if !is_dns_label(name) {
            return Err(ImportError::Name(name.to_owned()));
        }
        let checked = dir.to_owned();
        let dataset = tokio::task::spawn_blocking(move || {
            let dataset = Dataset::open(&checked)?;
            Dataset::tokenizer_json(&checked, dataset.manifest())?;
            Ok::<_, muster_trainer::dataset::Error>(dataset)
        });
        let dataset = dataset.await.map_err(io::Error::other)??;
        for entry in dataset.manifest().files() {
            let file = tokio::fs::File::open(dir.join(&entry.path)).await?;
            self.put(&entry.sha256, ReaderStream::new(file), MAX_BLOB_BYTES).await?;
            self.touch(&entry.sha256).await?;
        }
        let manifest = self.put_bytes(dataset.manifest().to_bytes()?).await?;
        self.set_dataset(namespace, name, &manifest).await?;
        Ok(manifest)
    }

    /// The manifest of a dataset, `None` if it is not in the store.
    ///
    /// # Errors
    /// `InvalidData` if the blob is no dataset manifest, any other error of the backend.
    pub async fn dataset_manifest(&self, digest: &Digest) -> io::Result<Option<Manifest>> {
        let Some(bytes) = self.read(digest, MAX_MANIFEST).await? else { return Ok(None) };
        let manifest = Manifest::parse(&bytes)
            .map_err(|error| io::Error::new(ErrorKind::InvalidData, format!("dataset {digest}: {error}")))?;
        Ok(Some(manifest))
    }

    /// The manifest of the dataset on which the resolved spec `spec` evaluates. `None` if on none, if the store does not have the
    /// spec, or if that is none: then nobody trains by it.
    ///
    /// # Errors
    /// Any error of the backend.
    pub async fn held_out(&self, spec: &Digest) -> io::Result<Option<Digest>> {
        let bytes = self.read(spec, MAX_SPEC).await?;
        Ok(bytes.and_then(|bytes| Evaluation::of_spec(&bytes).ok()?.dataset()))
    }

    /// The manifest that `name` leads to in `namespace`, once all its files are seen to be in the store; `None` if there is no
    /// such name.
    ///
    /// # Errors
    /// `InvalidData` if the name leads to no manifest or a file is missing or has another size, any other error of the
    /// backend.
    pub async fn whole_dataset(&self, namespace: &Namespace, name: &str) -> io::Result<Option<Manifest>> {
        let Some(digest) = self.dataset(namespace, name).await? else { return Ok(None) };
        let missing = |what: &Digest| {
            io::Error::new(ErrorKind::InvalidData, format!("its blob {what} is missing or damaged"))
        };
        let manifest = self.dataset_manifest(&digest).await?.ok_or_else(|| missing(&digest))?;
        for file in manifest.files() {
            if self.size(&file.sha256).await? != Some(file.size) {
                return Err(missing(&file.sha256));
            }
        }
        Ok(Some(manifest))
    }
}

/// What to do with a name that leads elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replace {
    /// Leave it, and say so.
    Never,
    /// Let it lead to the new dataset.
    Existing,
}

/// What became of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placed {
    /// It is new.
    New,
    /// It led there already.
    Same,
    /// It led elsewhere before.
    Replaced,
    /// It leads elsewhere and still does.
    Taken,
}

/// How often a name is read and written again because somebody else was faster.
pub(super) const TRIES: usize = 32;

/// `None` for names that are not DNS labels: they cannot be in the catalogue, and must not become keys.
fn dataset_key(namespace: &Namespace, name: &str) -> Option<String> {
    is_dns_label(name).then(|| format!("{}/datasets/{name}", namespace.folder()))
}

/// Whether the text is a DNS label: a namespace's or a dataset's name.
#[must_use]
pub fn is_dns_label(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && bytes.first().copied().is_some_and(plain)
        && bytes.last().copied().is_some_and(plain)
        && bytes.iter().all(|&b| plain(b) || b == b'-')
}
