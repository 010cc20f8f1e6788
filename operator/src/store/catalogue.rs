//! The catalogue: a name in a namespace leads to a dataset or a model. A job may name only what its own namespace has; a bare
//! digest would let any tenant train on anyone's data.
use std::io::{self, ErrorKind};
use std::path::Path;

use muster_proof::Digest;
use muster_proof::inputs::Inputs;
use muster_trainer::dataset::{Dataset, MAX_MANIFEST, Manifest};
use muster_trainer::hf;
use muster_trainer::resolved::MAX_SPEC;
use tokio_util::io::ReaderStream;

use super::{MAX_BLOB_BYTES, Namespace, Store, digest_line};
use crate::runtime::blobdir::PutError;

/// What a name leads to. Datasets and models have their names apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Asset {
    /// Tokens that jobs train and are evaluated on.
    Dataset,
    /// Weights that jobs begin with.
    Model,
}

impl Asset {
    /// What it is called where people read.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Dataset => "dataset",
            Self::Model => "model",
        }
    }

    /// All of them, in a path of the store or of a URL.
    #[must_use]
    pub const fn plural(self) -> &'static str {
        match self {
            Self::Dataset => "datasets",
            Self::Model => "models",
        }
    }

    /// None for names that are not DNS labels: they cannot be in the catalogue, and must not become keys.
    fn key(self, namespace: &Namespace, name: &str) -> Option<String> {
        is_dns_label(name).then(|| format!("{}/{}/{name}", namespace.folder(), self.plural()))
    }
}

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
    pub async fn named(&self, asset: Asset, namespace: &Namespace, name: &str) -> io::Result<Option<Digest>> {
        match asset.key(namespace, name) {
            Some(key) => self.read_digest(&key).await,
            None => Ok(None),
        }
    }

    /// All such names of a namespace, sorted.
    ///
    /// # Errors
    /// Any error of the backend but absence.
    pub async fn names(&self, asset: Asset, namespace: &Namespace) -> io::Result<Vec<String>> {
        let entries = self.backend.list(&format!("{}/{}", namespace.folder(), asset.plural())).await?;
        Ok(entries.into_iter().map(|entry| entry.name).filter(|name| is_dns_label(name)).collect())
    }

    /// Lets `name` lead to `manifest`, whose blobs must all be in the store.
    ///
    /// # Errors
    /// [`ImportError::Name`], or any error of the backend.
    pub async fn set_name(
        &self,
        asset: Asset,
        namespace: &Namespace,
        name: &str,
        manifest: &Digest,
    ) -> Result<(), ImportError> {
        let key = asset.key(namespace, name).ok_or_else(|| ImportError::Name(name.to_owned()))?;
        Ok(self.backend.write(&key, &digest_line(manifest)).await?)
    }

    /// As [`Store::set_name`], but a name that leads elsewhere is only replaced if that is what is asked for.
    /// Whoever else writes the name meanwhile is noticed.
    ///
    /// # Errors
    /// [`ImportError::Name`], or any error of the backend.
    pub async fn place(
        &self,
        asset: Asset,
        namespace: &Namespace,
        name: &str,
        manifest: &Digest,
        replace: Replace,
    ) -> Result<Placed, ImportError> {
        let key = asset.key(namespace, name).ok_or_else(|| ImportError::Name(name.to_owned()))?;
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
        self.set_name(Asset::Dataset, namespace, name, &manifest).await?;
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

    /// The manifest of a model, `None` if it is not in the store.
    ///
    /// # Errors
    /// `InvalidData` if the blob is no manifest of a model, any other error of the backend.
    pub async fn model_manifest(&self, digest: &Digest) -> io::Result<Option<hf::Manifest>> {
        let Some(bytes) = self.read(digest, hf::MAX_MANIFEST).await? else { return Ok(None) };
        let manifest = hf::Manifest::parse(&bytes).map_err(|problem| {
            io::Error::new(ErrorKind::InvalidData, format!("model {digest}: {problem}"))
        })?;
        Ok(Some(manifest))
    }

    /// The files that a manifest names, with their sizes. `None` if it is not in the store.
    ///
    /// # Errors
    /// `InvalidData` if the blob is no such manifest, any other error of the backend.
    pub async fn files_of(&self, asset: Asset, manifest: &Digest) -> io::Result<Option<Vec<(Digest, u64)>>> {
        Ok(match asset {
            Asset::Dataset => self
                .dataset_manifest(manifest)
                .await?
                .map(|manifest| manifest.files().iter().map(|file| (file.sha256, file.size)).collect()),
            Asset::Model => self
                .model_manifest(manifest)
                .await?
                .map(|manifest| manifest.files().iter().map(|file| (file.sha256, file.size)).collect()),
        })
    }

    /// What the resolved spec `spec` names: which manifests, of what. Nothing if the store does not have the spec, or if that is none:
    /// then nobody trains by it.
    ///
    /// # Errors
    /// Any error of the backend.
    pub async fn inputs(&self, spec: &Digest) -> io::Result<Vec<(Asset, Digest)>> {
        let bytes = self.read(spec, MAX_SPEC).await?;
        let Inputs { held_out, init } =
            bytes.and_then(|bytes| Inputs::of_spec(&bytes).ok()).unwrap_or_default();
        let named =
            [held_out.map(|digest| (Asset::Dataset, digest)), init.map(|digest| (Asset::Model, digest))];
        Ok(named.into_iter().flatten().collect())
    }

    /// The dataset that `name` leads to in `namespace`, once all its files are seen to be in the store; `None` if there is no
    /// such name.
    ///
    /// # Errors
    /// `InvalidData` if the name leads to no manifest or a file is missing or has another size, any other error of the
    /// backend.
    pub async fn whole_dataset(&self, namespace: &Namespace, name: &str) -> io::Result<Option<Manifest>> {
        match self.whole(Asset::Dataset, namespace, name).await? {
            Some(digest) => self.dataset_manifest(&digest).await,
            None => Ok(None),
        }
    }

    /// The same of a model.
    ///
    /// # Errors
    /// As [`Store::whole_dataset`].
    pub async fn whole_model(&self, namespace: &Namespace, name: &str) -> io::Result<Option<hf::Manifest>> {
        match self.whole(Asset::Model, namespace, name).await? {
            Some(digest) => self.model_manifest(&digest).await,
            None => Ok(None),
        }
    }

    async fn whole(&self, asset: Asset, namespace: &Namespace, name: &str) -> io::Result<Option<Digest>> {
        let Some(digest) = self.named(asset, namespace, name).await? else { return Ok(None) };
        let missing = |what: &Digest| {
            io::Error::new(ErrorKind::InvalidData, format!("its blob {what} is missing or damaged"))
        };
        for (file, size) in self.files_of(asset, &digest).await?.ok_or_else(|| missing(&digest))? {
            if self.size(&file).await? != Some(size) {
                return Err(missing(&file));
            }
        }
        Ok(Some(digest))
    }
}

/// What to do with a name that leads elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replace {
    /// Leave it, and say so.
    Never,
    /// Let it lead to the new one.
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
