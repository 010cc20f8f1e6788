//! The store in a bucket, through object_store: S3 and what speaks like it, Google Cloud Storage, Azure Blob Storage.
//!
//! Names are tiny objects; [`Objects::swap`] is a conditional put, so it holds between any number of processes. An object's
//! date cannot be changed, so what [`Objects::touch`] leaves is a mark beside it, `touch/<first 2 hex>/<hex>`.
use std::error::Error as _;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::TryStreamExt;
use futures::stream::StreamExt;
use muster_proof::Digest;
use object_store::path::Path;
use object_store::signer::Signer;
use object_store::{
    BackoffConfig, ClientConfigKey, GetOptions, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutPayload,
    RetryConfig, UpdateVersion,
};

use super::Bytestream;
use super::backend::{Entry, Found, MAX_LINE};
use super::location::{BucketUrl, Scheme};
use crate::runtime::blobdir::PutError;
use crate::runtime::client::install_crypto;

/// A blob that was written or marked so short ago needs no new mark.
const YOUNG: Duration = Duration::from_secs(300);
/// Removals at once.
const AT_ONCE: usize = 16;

/// See the module.
#[derive(Debug)]
pub struct Objects {
    pub(super) bucket: Arc<dyn ObjectStore>,
    /// The same client, as one that signs URLs; a bucket in memory has none.
    pub(super) signer: Option<Arc<dyn Signer>>,
    prefix: String,
}

impl Objects {
    /// A store in a bucket that there is already.
    pub fn new(bucket: Arc<dyn ObjectStore>, prefix: &str) -> Self {
        Self { bucket, signer: None, prefix: prefix.to_owned() }
    }

    /// A client for the bucket. Endpoint and credentials come from the environment, as object_store reads it (`AWS_...`,
    /// `GOOGLE_...`, `AZURE_...`). Nothing is asked yet.
    pub fn connect(url: &BucketUrl) -> io::Result<Self> {
        install_crypto();
        // The limit is on silence, not on a whole answer: a reader takes large blobs as slowly as he is.
        let settings = [
            (ClientConfigKey::Timeout, "1 day"),
            (ClientConfigKey::ReadTimeout, "30 seconds"),
            (ClientConfigKey::ConnectTimeout, "5 seconds"),
        ];
        let bucket_url = format!("{}/", url.to_string().trim_end_matches('/'));
        macro_rules! client {
            ($builder:ty, $key:path) => {{
                let mut builder = <$builder>::from_env().with_url(&bucket_url).with_retry(retry());
                for (key, value) in settings {
                    builder = builder.with_config($key(key), value);
                }
                let client = Arc::new(builder.build().map_err(|error| unusable(url, &error))?);
                (client.clone() as Arc<dyn ObjectStore>, client as Arc<dyn Signer>)
            }};
        }
        let (bucket, signer) = match url.scheme {
            Scheme::S3 => {
                client!(object_store::aws::AmazonS3Builder, object_store::aws::AmazonS3ConfigKey::Client)
            }
            Scheme::Gs => {
                client!(
                    object_store::gcp::GoogleCloudStorageBuilder,
                    object_store::gcp::GoogleConfigKey::Client
                )
            }
            Scheme::Az => {
                client!(
                    object_store::azure::MicrosoftAzureBuilder,
                    object_store::azure::AzureConfigKey::Client
                )
            }
        };
        Ok(Self { signer: Some(signer), ..Self::new(bucket, &url.prefix) })
    }

    pub(super) fn key(&self, key: &str) -> Path {
        Path::from(format!("{}/{key}", self.prefix))
    }

    pub(super) fn blob(&self, digest: &Digest) -> Path {
        let hex = digest.to_hex();
        self.key(&format!("blobs/sha256/{}/{hex}", &hex[..2]))
    }

    fn mark(&self, digest: &Digest) -> Path {
        let hex = digest.to_hex();
        self.key(&format!("touch/{}/{hex}", &hex[..2]))
    }

    pub(super) async fn head(&self, path: &Path) -> io::Result<Option<ObjectMeta>> {
        absent(self.bucket.head(path).await)
    }

    pub(super) async fn delete(&self, path: &Path) -> io::Result<()> {
        absent(self.bucket.delete(path).await).map(|_| ())
    }

    pub async fn size(&self, digest: &Digest) -> io::Result<Option<u64>> {
        Ok(self.head(&self.blob(digest)).await?.map(|meta| meta.size))
    }

    pub async fn stream(&self, digest: &Digest, range: Range<u64>) -> io::Result<Option<Bytestream>> {
        if range.is_empty() {
            let there = self.size(digest).await?.is_some();
            return Ok(there.then(|| futures::stream::empty().boxed()));
        }
        let options = GetOptions::new().with_range(Some(range));
        let got = absent(self.bucket.get_opts(&self.blob(digest), options).await)?;
        Ok(got.map(|got| got.into_stream().map_err(io_error).boxed()))
    }

    pub async fn remove_blob(&self, digest: &Digest) -> io::Result<()> {
        self.delete(&self.blob(digest)).await
    }

    pub async fn touch(&self, digest: &Digest) -> io::Result<bool> {
        let Some(blob) = self.head(&self.blob(digest)).await? else { return Ok(false) };
        let age = SystemTime::now().duration_since(blob.last_modified.into()).unwrap_or_default();
        if age > YOUNG {
            self.bucket.put(&self.mark(digest), PutPayload::new()).await.map_err(io_error)?;
        }
        Ok(true)
    }

    pub async fn wanted(&self, digest: &Digest) -> io::Result<Option<SystemTime>> {
        let Some(blob) = self.head(&self.blob(digest)).await? else { return Ok(None) };
        let written = SystemTime::from(blob.last_modified);
        let marked = self.head(&self.mark(digest)).await?.map(|mark| mark.last_modified.into());
        Ok(Some(marked.map_or(written, |marked: SystemTime| marked.max(written))))
    }

    /// As they were written; a mark is asked for only of those that would go ([`Objects::wanted`]).
    pub async fn blobs_under(&self, two_hex: &str) -> io::Result<Vec<Found>> {
        let folder = self.key(&format!("blobs/sha256/{two_hex}"));
        let found = self.bucket.list(Some(&folder)).try_filter_map(|meta| async move {
            let digest = meta.location.filename().and_then(|hex| Digest::from_hex(hex).ok());
            Ok(digest.map(|digest| Found { digest, size: meta.size, wanted: meta.last_modified.into() }))
        });
        found.try_collect().await.map_err(io_error)
    }

    /// A mark that is older than any grace says nothing any more. (What an interrupted multipart upload left is not
    /// visible here; the bucket's own lifecycle rule removes it.)
    pub async fn tidy(&self, before: SystemTime) -> io::Result<()> {
        self.remove_older(&self.key("touch"), before).await
    }

    /// Removes what lies under `folder` and was written before.
    pub(super) async fn remove_older(&self, folder: &Path, before: SystemTime) -> io::Result<()> {
        let old = self.bucket.list(Some(folder)).try_filter(|meta| {
            let old = SystemTime::from(meta.last_modified) < before;
            async move { old }
        });
        old.map_err(io_error)
            .try_for_each_concurrent(AT_ONCE, |meta| async move { self.delete(&meta.location).await })
            .await
    }

    pub async fn read(&self, key: &str, max: u64) -> io::Result<Option<Vec<u8>>> {
        Ok(self.read_version(key, max).await?.map(|(bytes, _)| bytes))
    }

    async fn read_version(&self, key: &str, max: u64) -> io::Result<Option<(Vec<u8>, UpdateVersion)>> {
        let Some(got) = absent(self.bucket.get(&self.key(key)).await)? else { return Ok(None) };
        if got.meta.size > max {
            return Err(super::damaged(key, &format!("at most {max} bytes long")));
        }
        let version = UpdateVersion { e_tag: got.meta.e_tag.clone(), version: got.meta.version.clone() };
        let bytes = got.bytes().await.map_err(io_error)?;
        Ok(Some((bytes.to_vec(), version)))
    }

    pub async fn write(&self, key: &str, bytes: &[u8]) -> io::Result<()> {
        self.bucket.put(&self.key(key), PutPayload::from(bytes.to_vec())).await.map(|_| ()).map_err(io_error)
    }

    pub async fn swap(&self, key: &str, expected: Option<&str>, line: &str) -> io::Result<bool> {
        let mode = match (expected, self.read_version(key, MAX_LINE).await?) {
            (None, None) => PutMode::Create,
            (Some(expected), Some((now, version))) if expected.as_bytes() == now => PutMode::Update(version),
            _ => return Ok(false),
        };
        use object_store::Error::{AlreadyExists, Precondition};
        match self
            .bucket
            .put_opts(&self.key(key), PutPayload::from(line.as_bytes().to_vec()), mode.into())
            .await
        {
            Ok(_) => Ok(true),
            Err(AlreadyExists { .. } | Precondition { .. }) => Ok(false),
            Err(error) => Err(io_error(error)),
        }
    }

    pub async fn list(&self, folder: &str) -> io::Result<Vec<Entry>> {
        let listed = self.bucket.list_with_delimiter(Some(&self.key(folder))).await.map_err(io_error)?;
        let entry = |meta: ObjectMeta| {
            let name = meta.location.filename()?.to_owned();
            Some(Entry { name, modified: meta.last_modified.into() })
        };
        let mut found: Vec<_> = listed.objects.into_iter().filter_map(entry).collect();
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    pub async fn folders(&self, folder: &str) -> io::Result<Vec<String>> {
        let listed = self.bucket.list_with_delimiter(Some(&self.key(folder))).await.map_err(io_error)?;
        let names = listed.common_prefixes.iter().filter_map(|path| path.filename().map(str::to_owned));
        let mut found: Vec<_> = names.collect();
        found.sort();
        Ok(found)
    }

    pub async fn remove(&self, key: &str) -> io::Result<()> {
        self.delete(&self.key(key)).await
    }

    pub async fn remove_tree(&self, folder: &str) -> io::Result<()> {
        let folder = self.key(folder);
        self.bucket
            .list(Some(&folder))
            .map_err(io_error)
            .try_for_each_concurrent(AT_ONCE, |meta| async move { self.delete(&meta.location).await })
            .await
    }
}

/// Shorter than any caller's patience: he is told to try again, instead of waiting unseen.
pub(super) fn retry() -> RetryConfig {
    RetryConfig { backoff: BackoffConfig::default(), max_retries: 3, retry_timeout: Duration::from_secs(20) }
}

fn unusable(url: &BucketUrl, error: &object_store::Error) -> io::Error {
    let text =
        format!("{url}: {}; set the environment that names endpoint and credentials", with_causes(error));
    io::Error::new(ErrorKind::InvalidInput, text)
}

pub(super) fn absent<T>(result: object_store::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(io_error(error)),
    }
}

/// What the bucket says, with the kind that callers act on.
pub(super) fn io_error(error: object_store::Error) -> io::Error {
    use object_store::Error;
    let text = with_causes(&error);
    let kind = match &error {
        Error::NotFound { .. } => ErrorKind::NotFound,
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => ErrorKind::PermissionDenied,
        // Stores of others have a quota or a disk under them, and only words for it.
        _ if ["507 ", "StorageFull", "QuotaExceeded", "InsufficientStorage"]
            .iter()
            .any(|w| text.contains(w)) =>
        {
            ErrorKind::StorageFull
        }
        _ => io_kind(&error),
    };
    io::Error::new(kind, format!("object store: {text}"))
}

fn io_kind(error: &object_store::Error) -> ErrorKind {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(io) = cause.downcast_ref::<io::Error>() {
            return io.kind();
        }
        source = cause.source();
    }
    ErrorKind::Other
}

/// The error and its causes, each said once.
fn with_causes(error: &object_store::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// For uploads.
pub(super) fn put_error(error: object_store::Error) -> PutError {
    io_error(error).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_bucket_is_told_from_other_trouble() {
        let generic = |text: &'static str| object_store::Error::Generic { store: "S3", source: text.into() };
        assert!(matches!(put_error(generic("Server returned 507 XMinioStorageFull")), PutError::Full));
        assert!(matches!(put_error(generic("503 SlowDown")), PutError::Io(_)));
        let disk = io::Error::from(ErrorKind::StorageFull);
        let error = object_store::Error::Generic { store: "x", source: disk.into() };
        assert!(matches!(put_error(error), PutError::Full));
    }
}
