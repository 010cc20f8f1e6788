//! The hub's store: blobs by digest, and the few names that lead to them (docs/spec/protocol.md section 4).
//!
//! ```text
//! blobs/sha256/<first 2 hex>/<hex>          a blob
//! catalogue/<namespace>/datasets/<name>     one line: the dataset manifest's digest
//! jobs/<job uid>/checkpoints/<step>         one line: the checkpoint manifest's digest
//! ```
//!
//! Only one process at a time is the hub ([`Store::open`]); `muster data import` and `muster checkpoint fetch` may use the
//! directory beside it ([`Store::attach`]). Names are replaced by rename, so a reader sees the old line or the new.
mod catalogue;
mod checkpoints;
pub mod gc;
#[cfg(test)]
mod tests;

pub use catalogue::ImportError;
pub use checkpoints::Whole;

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use axum::body::Bytes;
use muster_proof::Digest;
use tokio::fs;

use crate::runtime::blobdir::{BlobDir, PutError};
use crate::runtime::files::{self, Access};

/// Largest blob that is kept: one file of a checkpoint, one shard of a dataset.
pub const MAX_BLOB_BYTES: u64 = 64 << 30;
/// Longest line of a name file: `sha256:`, 64 digits, line feed.
const MAX_NAME_BYTES: u64 = 72;

/// See the module.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    blobs: BlobDir,
}

impl Store {
    /// Opens the store as its hub: makes the directory on first use and removes what a crash left half-written.
    ///
    /// # Errors
    /// Any error of the file system.
    pub async fn open(root: &Path) -> io::Result<Self> {
        let blobs = BlobDir::open(&root.join("blobs")).await?;
        fs::create_dir_all(root.join("catalogue")).await?;
        fs::create_dir_all(root.join("jobs")).await?;
        Ok(Self { root: root.to_owned(), blobs })
    }

    /// Uses the store beside a hub that may be running: nothing is cleaned up, since what looks left over may be an upload
    /// under way.
    ///
    /// # Errors
    /// Any error of the file system.
    pub async fn attach(root: &Path) -> io::Result<Self> {
        let blobs = BlobDir::attach(&root.join("blobs")).await?;
        fs::create_dir_all(root.join("catalogue")).await?;
        fs::create_dir_all(root.join("jobs")).await?;
        Ok(Self { root: root.to_owned(), blobs })
    }

    /// The blobs.
    #[must_use]
    pub fn blobs(&self) -> &BlobDir {
        &self.blobs
    }

    /// Stores bytes that this process made and returns their digest.
    ///
    /// # Errors
    /// [`PutError::Full`] and other errors of the file system.
    pub async fn put_bytes(&self, bytes: Vec<u8>) -> Result<Digest, PutError> {
        let digest = Digest::of(&bytes);
        let piece = futures::stream::once(async move { Ok::<_, io::Error>(Bytes::from(bytes)) });
        self.blobs.put(&digest, piece, MAX_BLOB_BYTES).await?;
        self.touch(&digest).await?;
        Ok(digest)
    }

    /// Marks a blob as wanted now, so that garbage collection spares it for its grace: whoever asks whether a blob is there
    /// relies on the answer before a name leads to it. False if there is no such blob.
    ///
    /// # Errors
    /// Any error of the file system but absence.
    pub async fn touch(&self, digest: &Digest) -> io::Result<bool> {
        let path = self.blobs.path(digest);
        let touched = tokio::task::spawn_blocking(move || {
            std::fs::File::open(path).and_then(|file| file.set_modified(SystemTime::now()))
        });
        match touched.await.map_err(io::Error::other)? {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Reads a one-line name file; `None` if there is none.
    async fn read_name(&self, path: &Path) -> io::Result<Option<Digest>> {
        let bytes = match files::read_capped(path, MAX_NAME_BYTES) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let line = String::from_utf8_lossy(&bytes);
        line.trim_end().parse().map(Some).map_err(|_| {
            let text = format!("{}: not one line sha256:<64 hex>", path.display());
            io::Error::new(ErrorKind::InvalidData, text)
        })
    }

    /// Writes a one-line name file, durable when this returns. The blob it names must be durable before.
    async fn write_name(&self, path: &Path, digest: &Digest) -> io::Result<()> {
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).await?;
            // The directories' own names must survive as well; there are at most four up to the root.
            for parent in dir.ancestors().skip(1).take_while(|parent| parent.starts_with(&self.root)) {
                files::sync_dir(parent)?;
            }
        }
        files::write_atomic(path, format!("{digest}\n").as_bytes(), Access::Public)
    }
}

/// Names of the directory's entries that are UTF-8 and not temporary files; empty if there is no such directory.
async fn names(dir: &Path) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    let mut entries = match fs::read_dir(dir).await {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(found),
        other => other?,
    };
    while let Some(entry) = entries.next_entry().await? {
        if let Ok(name) = entry.file_name().into_string()
            && !name.starts_with('.')
        {
            found.push(name);
        }
    }
    found.sort();
    Ok(found)
}
