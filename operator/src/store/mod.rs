//! The store: blobs by digest, and the few names that lead to them (docs/spec/gateway.md section 6, protocol.md section 4).
//! Hub and gateway share it, `muster data import` writes into it on the hub's machine. It is a directory or a bucket:
//!
//! ```text
//! blobs/sha256/<first 2 hex>/<hex>                  a blob
//! catalogue/<namespace>/<its uid>/datasets/<name>   one line: the dataset manifest's digest
//! catalogue/<namespace>/<its uid>/puts/<hex>-<size> a user of the namespace put this blob
//! jobs/<job uid>/checkpoints/<step>                 one line: the checkpoint manifest's digest
//! jobs/<job uid>/commits/<step>                     the log's record of that checkpoint, and its index once it has one
//! jobs/<job uid>/grants/<island>                    the epoch that was granted last, and whether the log has its end
//! jobs/<job uid>/end                                the log has the job's end
//! jobs/<job uid>/rollbacks/<epoch>                  the last step that still counts of older epochs, and whether the rest is gone
//! jobs/<job uid>/undone/<step>-<hex>                a checkpoint that counts no more, while audits may start from it
//! jobs/<job uid>/epochs/<island>                    one line: the highest epoch known
//! jobs/<job uid>/units/<unit>/open/<hex>-<size>     the unit put this blob, and no commit names it yet
//! jobs/<job uid>/units/<unit>/named/<hex>-<size>    the unit put this blob, and a commit named it
//! jobs/<job uid>/logs/<unit>-<attempt>-<rank>       the end of the log of a worker whose attempt failed
//! staging/<unit>/<name>                             put past the gateway, and not a blob yet (buckets only)
//! recover/<incarnation>/<provider>/...              what agents hold after a restore of the hub ([`offers`])
//! keys/<provider>/...                               identity keys on their way into the log ([`keys`])
//! ```
//!
//! Any number of processes may use it at once; only the hub collects garbage. A name is written whole or not at all, and
//! where two may write it the loser is told ([`backend`]). What it does not know: users, providers, HTTP but for [`serve`].
mod backend;
mod catalogue;
mod checkpoints;
mod dir;
mod epochs;
pub mod gc;
pub mod keys;
mod ledger;
mod location;
mod logs;
mod namespace;
mod objects;
pub mod offers;
mod puts;
mod rollbacks;
pub mod serve;
pub mod sizes;
mod staging;
#[cfg(test)]
pub mod testing;
#[cfg(test)]
mod tests;
mod upload;

pub use catalogue::{Asset, ImportError, Placed, Replace, is_dns_label};
pub use checkpoints::{Recorded, Whole};
pub use keys::Entry;
pub use ledger::{Granted, Noted};
pub use location::{Location, LocationError};
pub use namespace::Namespace;
pub use puts::Unit;
pub use rollbacks::Rollbacks;
pub use staging::{Published, Staged};

use std::io::{self, ErrorKind};
use std::ops::Range;
use std::sync::Arc;

use axum::body::Bytes;
use futures::stream::{BoxStream, StreamExt};
use futures::{Stream, TryStreamExt};
use muster_proof::Digest;
use object_store::ObjectStore;
use sha2::{Digest as _, Sha256};

use self::backend::Backend;
use crate::runtime::blobdir::{PutError, Stored};

/// Largest blob that is kept: one file of a checkpoint, one shard of a dataset.
pub const MAX_BLOB_BYTES: u64 = 64 << 30;

/// The bytes of a blob as they come.
pub type Bytestream = BoxStream<'static, io::Result<Bytes>>;

/// See the module.
#[derive(Debug)]
pub struct Store {
    backend: Backend,
}

impl Store {
    /// Opens the store; makes the directory on first use. Nothing is cleaned up: what looks left over may be another process's
    /// upload under way.
    ///
    /// # Errors
    /// Any error of the file system, or a URL without what is needed to use it.
    pub async fn open(location: impl Into<Location>) -> io::Result<Self> {
        let backend = match location.into() {
            Location::Directory(root) => Backend::Dir(dir::Dir::open(&root).await?),
            Location::Bucket(url) => Backend::Objects(objects::Objects::connect(&url)?),
        };
        Ok(Self { backend })
    }

    /// A store in `bucket` under `prefix`, with a client made elsewhere.
    #[must_use]
    pub fn on_objects(bucket: Arc<dyn ObjectStore>, prefix: &str) -> Self {
        Self { backend: Backend::Objects(objects::Objects::new(bucket, prefix)) }
    }

    /// A blob's size, if it is there.
    ///
    /// # Errors
    /// Any error of the backend but absence.
    pub async fn size(&self, digest: &Digest) -> io::Result<Option<u64>> {
        self.backend.size(digest).await
    }

    /// A small blob's bytes, hashed again before anyone parses them. `None` if it is not there; a damaged one is removed and
    /// counts as not there.
    ///
    /// # Errors
    /// Any error of the backend but absence; `InvalidData` for a blob longer than `max`.
    pub async fn read(&self, digest: &Digest, max: u64) -> io::Result<Option<Vec<u8>>> {
        let Some(size) = self.size(digest).await? else { return Ok(None) };
        if size > max {
            let text = format!("blob {digest} has {size} bytes, at most {max} are read here");
            return Err(io::Error::new(ErrorKind::InvalidData, text));
        }
        let Some(stream) = self.stream(digest, 0..size).await? else { return Ok(None) };
        let bytes = stream.try_fold(Vec::new(), |mut all, piece| async move {
            all.extend_from_slice(&piece);
            Ok(all)
        });
        let bytes = bytes.await?;
        if Digest::of(&bytes) == *digest {
            return Ok(Some(bytes));
        }
        tracing::error!(%digest, "blob is damaged in the store; removed");
        self.backend.remove_blob(digest).await?;
        Ok(None)
    }

    /// Bytes `range` of a blob, `None` if it is not there. A range beyond its end gives fewer bytes or an error.
    ///
    /// # Errors
    /// Any error of the backend but absence; also as an item of the stream.
    pub async fn stream(&self, digest: &Digest, range: Range<u64>) -> io::Result<Option<Bytestream>> {
        self.backend.stream(digest, range).await
    }

    /// Stores the bytes of `source` under `digest` if that is what they are. If the blob is there the source is not read: for
    /// callers that are trusted to have what they name.
    ///
    /// # Errors
    /// [`PutError`]; nothing is left behind.
    pub async fn put<S, E>(&self, digest: &Digest, source: S, max: u64) -> Result<Stored, PutError>
    where
        S: Stream<Item = Result<Bytes, E>> + Send,
        E: std::fmt::Display + Send,
    {
        if self.size(digest).await?.is_some() {
            return Ok(Stored::Existing);
        }
        self.backend.write_blob(digest, source_of(source), max).await?;
        Ok(Stored::New)
    }

    /// As [`Store::put`], but the bytes are always read to their end and hashed: to name a digest is not to have the bytes,
    /// and whoever has put a blob may read it. The source has `size` bytes; a blob of another size is damaged and replaced.
    ///
    /// # Errors
    /// [`PutError`]; nothing is left behind.
    pub async fn put_proven<S, E>(&self, digest: &Digest, source: S, size: u64) -> Result<Stored, PutError>
    where
        S: Stream<Item = Result<Bytes, E>> + Send,
        E: std::fmt::Display + Send,
    {
        self.put_checked(digest, source_of(source), size).await
    }

    async fn put_checked(
        &self,
        digest: &Digest,
        source: BoxStream<'_, Result<Bytes, PutError>>,
        size: u64,
    ) -> Result<Stored, PutError> {
        if self.size(digest).await? == Some(size) {
            prove(digest, source, size).await?;
            // It may have been collected while the bytes came in; then they are asked for once more.
            return match self.touch(digest).await? {
                true => Ok(Stored::Existing),
                false => {
                    Err(PutError::Io(io::Error::other("the blob was collected meanwhile; send it again")))
                }
            };
        }
        self.backend.write_blob(digest, source, size).await?;
        Ok(Stored::New)
    }

    /// Stores bytes that this process made and returns their digest.
    ///
    /// # Errors
    /// [`PutError::Full`] and other errors of the backend.
    pub async fn put_bytes(&self, bytes: Vec<u8>) -> Result<Digest, PutError> {
        let digest = Digest::of(&bytes);
        let piece = futures::stream::once(async move { Ok::<_, io::Error>(Bytes::from(bytes)) });
        self.put(&digest, piece, MAX_BLOB_BYTES).await?;
        self.touch(&digest).await?;
        Ok(digest)
    }

    /// Removes a blob; it is no error if it was not there.
    ///
    /// # Errors
    /// Any error of the backend but absence.
    pub async fn remove(&self, digest: &Digest) -> io::Result<()> {
        self.backend.remove_blob(digest).await
    }

    /// Marks a blob as wanted now, so that garbage collection spares it for its grace: whoever asks whether a blob is there
    /// relies on the answer before a name leads to it. False if there is no such blob.
    ///
    /// # Errors
    /// Any error of the backend but absence.
    pub async fn touch(&self, digest: &Digest) -> io::Result<bool> {
        self.backend.touch(digest).await
    }

    /// Reads a name whose line is a digest; `None` if there is none.
    async fn read_digest(&self, key: &str) -> io::Result<Option<Digest>> {
        let Some(line) = self.backend.read(key).await? else { return Ok(None) };
        let digest = line.trim_end().parse();
        digest.map(Some).map_err(|_| damaged(key, "one line sha256:<64 hex>"))
    }

    /// The directory of a store that is one.
    #[cfg(test)]
    fn root(&self) -> Option<&std::path::Path> {
        match &self.backend {
            Backend::Dir(dir) => Some(dir.root()),
            Backend::Objects(_) => None,
        }
    }
}

/// One line with a digest.
fn digest_line(digest: &Digest) -> String {
    format!("{digest}\n")
}

/// A name that says something else than it must.
fn damaged(key: &str, want: &str) -> io::Error {
    let text = format!("{key} in the store: not {want}; restore it from a backup or remove it");
    io::Error::new(ErrorKind::InvalidData, text)
}

fn source_of<'a, S, E>(source: S) -> BoxStream<'a, Result<Bytes, PutError>>
where
    S: Stream<Item = Result<Bytes, E>> + Send + 'a,
    E: std::fmt::Display,
{
    source.map_err(|error| PutError::Source(error.to_string())).boxed()
}

/// Reads all bytes and compares their hash.
async fn prove(
    digest: &Digest,
    mut source: BoxStream<'_, Result<Bytes, PutError>>,
    max: u64,
) -> Result<(), PutError> {
    let (mut sha, mut size) = (Sha256::new(), 0_u64);
    while let Some(piece) = source.try_next().await? {
        size += piece.len() as u64;
        if size > max {
            return Err(PutError::TooLarge(max));
        }
        sha.update(&piece);
    }
    match Digest::from_bytes(sha.finalize().into()) {
        got if got == *digest => Ok(()),
        got => Err(PutError::Digest(got)),
    }
}
