//! The store in a directory. A key is a path under the root. Names are replaced by rename, so a reader sees the old line
//! or the new, and are written under one lock that other processes of this machine respect too.
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use axum::body::Bytes;
use futures::stream::{BoxStream, StreamExt};
use muster_proof::Digest;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

use super::Bytestream;
use super::backend::{Entry, Found, MAX_LINE};
use crate::runtime::blobdir::{BlobDir, PutError};
use crate::runtime::files::{self, Access};

/// A blob is read in pieces of this size: one blocking call each.
const PIECE: usize = 256 * 1024;
/// Held while a name is compared and written.
const LOCK: &str = ".names.lock";

/// See the module.
#[derive(Debug)]
pub struct Dir {
    root: PathBuf,
    blobs: BlobDir,
}

impl Dir {
    /// Uses the directory; makes it if it is missing.
    pub async fn open(root: &Path) -> io::Result<Self> {
        let blobs = BlobDir::attach(&root.join("blobs")).await?;
        tokio::fs::create_dir_all(root.join("catalogue")).await?;
        tokio::fs::create_dir_all(root.join("jobs")).await?;
        Ok(Self { root: root.to_owned(), blobs })
    }

    #[cfg(test)]
    pub fn root(&self) -> &Path {
        &self.root
    }

    pub async fn size(&self, digest: &Digest) -> io::Result<Option<u64>> {
        self.blobs.size(digest).await
    }

    pub async fn stream(&self, digest: &Digest, range: Range<u64>) -> io::Result<Option<Bytestream>> {
        let Some((mut file, _)) = self.blobs.file(digest).await? else { return Ok(None) };
        if range.start > 0 {
            file.seek(io::SeekFrom::Start(range.start)).await?;
        }
        let part = file.take(range.end.saturating_sub(range.start));
        Ok(Some(ReaderStream::with_capacity(part, PIECE).boxed()))
    }

    pub async fn write_blob(
        &self,
        digest: &Digest,
        source: BoxStream<'_, Result<Bytes, PutError>>,
        max: u64,
    ) -> Result<(), PutError> {
        self.blobs.replace(digest, source, max).await.map(|_| ())
    }

    pub async fn remove_blob(&self, digest: &Digest) -> io::Result<()> {
        self.blobs.remove(digest).await
    }

    pub async fn touch(&self, digest: &Digest) -> io::Result<bool> {
        let path = self.blobs.path(digest);
        let touched =
            blocking(move || File::open(path).and_then(|file| file.set_modified(SystemTime::now()))).await;
        absent(touched).map(|there| there.is_some())
    }

    pub async fn wanted(&self, digest: &Digest) -> io::Result<Option<SystemTime>> {
        let meta = absent(tokio::fs::metadata(self.blobs.path(digest)).await)?;
        meta.map(|meta| meta.modified()).transpose()
    }

    pub async fn blobs_under(&self, two_hex: &str) -> io::Result<Vec<Found>> {
        let folder = self.root.join("blobs").join("sha256").join(two_hex);
        blocking(move || {
            let mut found = Vec::new();
            for entry in entries(&folder)? {
                let hex = entry.file_name();
                let Some(digest) = hex.to_str().and_then(|hex| Digest::from_hex(hex).ok()) else { continue };
                if let Some(meta) = absent(entry.metadata())? {
                    found.push(Found { digest, size: meta.len(), wanted: meta.modified()? });
                }
            }
            Ok(found)
        })
        .await
    }

    pub async fn tidy(&self, before: SystemTime) -> io::Result<()> {
        self.blobs.sweep_incoming(before).await
    }

    pub async fn read(&self, key: &str, max: u64) -> io::Result<Option<Vec<u8>>> {
        let path = self.root.join(key);
        absent(blocking(move || files::read_capped(&path, max)).await)
    }

    pub async fn write(&self, key: &str, bytes: &[u8]) -> io::Result<()> {
        let (root, key, bytes) = (self.root.clone(), key.to_owned(), bytes.to_owned());
        blocking(move || {
            let _lock = lock(&root)?;
            write(&root, &key, &bytes)
        })
        .await
    }

    pub async fn swap(&self, key: &str, expected: Option<&str>, line: &str) -> io::Result<bool> {
        let (root, key, line) = (self.root.clone(), key.to_owned(), line.to_owned());
        let expected = expected.map(str::to_owned);
        blocking(move || {
            let _lock = lock(&root)?;
            let now = absent(files::read_capped(&root.join(&key), MAX_LINE))?;
            if now.as_deref() != expected.as_deref().map(str::as_bytes) {
                return Ok(false);
            }
            write(&root, &key, line.as_bytes())?;
            Ok(true)
        })
        .await
    }

    pub async fn list(&self, folder: &str) -> io::Result<Vec<Entry>> {
        let folder = self.root.join(folder);
        blocking(move || {
            let mut found = Vec::new();
            for entry in entries(&folder)? {
                let Some(name) = plain_name(&entry) else { continue };
                let Some(meta) = absent(entry.metadata())? else { continue };
                if meta.is_file() {
                    found.push(Entry { name, modified: meta.modified()? });
                }
            }
            found.sort_by(|a, b| a.name.cmp(&b.name));
            Ok(found)
        })
        .await
    }

    pub async fn folders(&self, folder: &str) -> io::Result<Vec<String>> {
        let folder = self.root.join(folder);
        blocking(move || {
            let is_dir = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
            let mut found: Vec<_> =
                entries(&folder)?.iter().filter(|entry| is_dir(entry)).filter_map(plain_name).collect();
            found.sort();
            Ok(found)
        })
        .await
    }

    pub async fn remove(&self, key: &str) -> io::Result<()> {
        absent(tokio::fs::remove_file(self.root.join(key)).await).map(|_| ())
    }

    pub async fn remove_tree(&self, folder: &str) -> io::Result<()> {
        absent(tokio::fs::remove_dir_all(self.root.join(folder)).await).map(|_| ())
    }
}

/// Waits for the lock on the names, which is let go with the file, also by a crash.
fn lock(root: &Path) -> io::Result<File> {
    let file = File::options().create(true).truncate(false).write(true).open(root.join(LOCK))?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)?;
    Ok(file)
}

/// Writes a name, durable when this returns.
fn write(root: &Path, key: &str, bytes: &[u8]) -> io::Result<()> {
    let path = root.join(key);
    if let Some(dir) = path.parent()
        && !dir.is_dir()
    {
        fs::create_dir_all(dir)?;
        // The directories' own names must survive as well; there are few up to the root.
        for parent in dir.ancestors().skip(1).take_while(|parent| parent.starts_with(root)) {
            files::sync_dir(parent)?;
        }
    }
    files::write_atomic(&path, bytes, Access::Public)
}

fn entries(folder: &Path) -> io::Result<Vec<fs::DirEntry>> {
    match absent(fs::read_dir(folder))? {
        Some(entries) => entries.collect(),
        None => Ok(Vec::new()),
    }
}

/// Names that are UTF-8 and neither temporary files nor the lock.
fn plain_name(entry: &fs::DirEntry) -> Option<String> {
    entry.file_name().into_string().ok().filter(|name| !name.starts_with('.'))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

fn absent<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
