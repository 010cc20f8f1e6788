//! What a store stands on: a directory ([`Dir`]) or a bucket ([`Objects`]). Both keep two things: blobs, immutable and
//! visible only whole, and names, one short line each under a key of plain segments.
//!
//! The one operation on which two processes may meet is [`Backend::swap`]: it writes a name only if the name still says
//! what the caller believes, and tells him if it does not.
use std::io;
use std::ops::Range;
use std::time::{Duration, SystemTime};

use axum::body::Bytes;
use futures::stream::BoxStream;
use muster_proof::Digest;

use super::Bytestream;
use super::dir::Dir;
use super::objects::Objects;
use crate::runtime::blobdir::PutError;

/// No name has a longer line.
pub const MAX_LINE: u64 = 128;
/// What an interrupted upload left is removed after this; no upload takes so long.
pub const LEFTOVER: Duration = Duration::from_secs(86_400);
/// What was uploaded past the gateway and never published is removed after this.
const STAGING: Duration = Duration::from_secs(3600);

/// See the module.
#[derive(Debug)]
pub enum Backend {
    /// A directory.
    Dir(Dir),
    /// A bucket.
    Objects(Objects),
}

/// A name in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The last segment of its key.
    pub name: String,
    /// When it was last written.
    pub modified: SystemTime,
}

/// A blob as garbage collection sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Which.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    /// When somebody last wanted it.
    pub wanted: SystemTime,
}

/// Both backends have the same methods.
macro_rules! on {
    ($backend:expr, $inner:ident => $call:expr) => {
        match $backend {
            Backend::Dir($inner) => $call,
            Backend::Objects($inner) => $call,
        }
    };
}

impl Backend {
    /// A blob's size, if it is there.
    pub async fn size(&self, digest: &Digest) -> io::Result<Option<u64>> {
        on!(self, inner => inner.size(digest).await)
    }

    /// A part of a blob, if it is there.
    pub async fn stream(&self, digest: &Digest, range: Range<u64>) -> io::Result<Option<Bytestream>> {
        on!(self, inner => inner.stream(digest, range).await)
    }

    /// Writes a blob, whether one of this name is there or not. It is durable when this returns; nothing of it is ever seen
    /// if the bytes are others than the digest's, more than `max`, or end early.
    pub async fn write_blob(
        &self,
        digest: &Digest,
        source: BoxStream<'_, Result<Bytes, PutError>>,
        max: u64,
    ) -> Result<(), PutError> {
        on!(self, inner => inner.write_blob(digest, source, max).await)
    }

    /// Removes a blob, if it is there.
    pub async fn remove_blob(&self, digest: &Digest) -> io::Result<()> {
        on!(self, inner => inner.remove_blob(digest).await)
    }

    /// Makes a blob young for garbage collection; false if it is not there.
    pub async fn touch(&self, digest: &Digest) -> io::Result<bool> {
        on!(self, inner => inner.touch(digest).await)
    }

    /// When somebody last wanted a blob, if it is there.
    pub async fn wanted(&self, digest: &Digest) -> io::Result<Option<SystemTime>> {
        on!(self, inner => inner.wanted(digest).await)
    }

    /// The blobs whose hex begins with these two digits.
    pub async fn blobs_under(&self, two_hex: &str) -> io::Result<Vec<Found>> {
        on!(self, inner => inner.blobs_under(two_hex).await)
    }

    /// Removes what interrupted uploads and old marks left.
    pub async fn tidy(&self, now: SystemTime) -> io::Result<()> {
        let before = |age| now.checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH);
        match self {
            Self::Dir(dir) => dir.tidy(before(LEFTOVER)).await,
            Self::Objects(objects) => {
                objects.tidy(before(LEFTOVER)).await?;
                objects.tidy_staging(before(STAGING)).await
            }
        }
    }

    /// A name's line, if there is one.
    pub async fn read(&self, key: &str) -> io::Result<Option<String>> {
        let bytes = self.read_bytes(key, MAX_LINE).await?;
        let text = bytes.map(String::from_utf8).transpose();
        text.map_err(|_| super::damaged(key, "text"))
    }

    /// What a name holds, at most `max` bytes, if it is there.
    pub async fn read_bytes(&self, key: &str, max: u64) -> io::Result<Option<Vec<u8>>> {
        on!(self, inner => inner.read(key, max).await)
    }

    /// Writes a name, whatever it said before. Durable when this returns.
    pub async fn write(&self, key: &str, line: &str) -> io::Result<()> {
        self.write_bytes(key, line.as_bytes()).await
    }

    /// As [`Backend::write`], for names that hold more than a line.
    pub async fn write_bytes(&self, key: &str, bytes: &[u8]) -> io::Result<()> {
        on!(self, inner => inner.write(key, bytes).await)
    }

    /// Writes a name if it says `expected` (`None`: is not there). False if it does not; then it is as it was.
    pub async fn swap(&self, key: &str, expected: Option<&str>, line: &str) -> io::Result<bool> {
        on!(self, inner => inner.swap(key, expected, line).await)
    }

    /// The names directly in a folder, sorted; none if there is no such folder.
    pub async fn list(&self, folder: &str) -> io::Result<Vec<Entry>> {
        on!(self, inner => inner.list(folder).await)
    }

    /// The folders directly in a folder, sorted; none if there is no such folder.
    pub async fn folders(&self, folder: &str) -> io::Result<Vec<String>> {
        on!(self, inner => inner.folders(folder).await)
    }

    /// Removes a name, if it is there.
    pub async fn remove(&self, key: &str) -> io::Result<()> {
        on!(self, inner => inner.remove(key).await)
    }

    /// Removes a folder and all in it, if it is there.
    pub async fn remove_tree(&self, folder: &str) -> io::Result<()> {
        on!(self, inner => inner.remove_tree(folder).await)
    }
}
