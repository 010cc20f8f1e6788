//! A directory of content-addressed blobs: `<root>/sha256/<first 2 hex>/<hex>`, each visible only whole, checked and
//! durable (docs/spec/protocol.md section 4). The hub's store and the agent's cache are both one of these; the HTTP
//! answers they share are here as well.
//!
//! A blob arrives under `<root>/incoming/`, is hashed while it is written, synced, and only then renamed to its name.
//! What a crash leaves in `incoming/` is removed when the directory is opened.
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use axum::body::{Body, Bytes};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::{Stream, StreamExt};
use muster_proof::Digest;
use sha2::{Digest as _, Sha256};
use tokio::fs::{self, File};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::io::ReaderStream;

/// Written and read in pieces of this size: one blocking call each.
const PIECE: usize = 256 * 1024;

/// See the module.
#[derive(Debug)]
pub struct BlobDir {
    root: PathBuf,
    sequence: AtomicU64,
    nonce: u64,
}

/// What a put did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// The blob is new.
    New,
    /// It was there; the bytes sent were not read to their end.
    Existing,
}

/// Why a blob was not stored. Nothing of it stays.
#[derive(Debug, thiserror::Error)]
pub enum PutError {
    /// The bytes are another blob.
    #[error("these bytes are {0}, not the blob named in the path")]
    Digest(Digest),
    /// More bytes than allowed.
    #[error("a blob has at most {0} bytes here")]
    TooLarge(u64),
    /// No space left.
    #[error("the disk is full")]
    Full,
    /// The sender's bytes ended early.
    #[error("the bytes could not be read: {0}")]
    Source(String),
    /// Anything else the file system says.
    #[error(transparent)]
    Io(io::Error),
}

impl From<io::Error> for PutError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Self::Full,
            _ => Self::Io(error),
        }
    }
}

impl PutError {
    /// The status code of protocol.md section 3.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Digest(_) | Self::Source(_) => StatusCode::BAD_REQUEST,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Full => StatusCode::INSUFFICIENT_STORAGE,
            Self::Io(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl IntoResponse for PutError {
    fn into_response(self) -> Response {
        if let Self::Io(error) = &self {
            tracing::error!(%error, "cannot store a blob");
        }
        (self.status(), format!("{self}\n")).into_response()
    }
}

impl BlobDir {
    /// Opens `root`, makes it if it is missing, and removes what a crash left half-written.
    ///
    /// # Errors
    /// Any error of the file system.
    pub async fn open(root: &Path) -> io::Result<Self> {
        let incoming = root.join("incoming");
        match fs::remove_dir_all(&incoming).await {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        Self::attach(root).await
    }

    /// Uses `root` beside its owner (`muster data import` while the hub runs): makes it if it is missing, removes nothing,
    /// since what looks left over may be an upload of the owner.
    ///
    /// # Errors
    /// Any error of the file system.
    pub async fn attach(root: &Path) -> io::Result<Self> {
        fs::create_dir_all(root.join("incoming")).await?;
        fs::create_dir_all(root.join("sha256")).await?;
        // Two processes that share the directory may have the same process id: each in its own container.
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|error| io::Error::other(error.to_string()))?;
        let nonce = u64::from_le_bytes(random);
        Ok(Self { root: root.to_owned(), sequence: AtomicU64::new(0), nonce })
    }

    /// Where a blob is, if it is there.
    #[must_use]
    pub fn path(&self, digest: &Digest) -> PathBuf {
        let hex = digest.to_hex();
        self.root.join("sha256").join(&hex[..2]).join(hex)
    }

    /// The blob's size, if it is there.
    ///
    /// # Errors
    /// Any error of the file system but absence.
    pub async fn size(&self, digest: &Digest) -> io::Result<Option<u64>> {
        absent(fs::metadata(self.path(digest)).await.map(|meta| meta.len()))
    }

    /// The blob for reading, and its size.
    ///
    /// # Errors
    /// Any error of the file system but absence.
    pub async fn file(&self, digest: &Digest) -> io::Result<Option<(File, u64)>> {
        let Some(file) = absent(File::open(self.path(digest)).await)? else { return Ok(None) };
        let size = file.metadata().await?.len();
        Ok(Some((file, size)))
    }

    /// A small blob's bytes, hashed again before anyone parses them. `None` if it is not there; a damaged one is
    /// removed and counts as not there.
    ///
    /// # Errors
    /// Any error of the file system but absence; `InvalidData` for a blob longer than `max`.
    pub async fn read(&self, digest: &Digest, max: u64) -> io::Result<Option<Vec<u8>>> {
        let Some((file, size)) = self.file(digest).await? else { return Ok(None) };
        if size > max {
            let text = format!("blob {digest} has {size} bytes, at most {max} are read here");
            return Err(io::Error::new(ErrorKind::InvalidData, text));
        }
        let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
        file.take(max).read_to_end(&mut bytes).await?;
        if Digest::of(&bytes) == *digest {
            return Ok(Some(bytes));
        }
        tracing::error!(%digest, "blob is damaged on disk; removed");
        self.remove(digest).await?;
        Ok(None)
    }

    /// Stores the bytes of `source` under `digest` if that is what they are.
    ///
    /// # Errors
    /// [`PutError`]; nothing is left behind.
    pub async fn put<S, E>(&self, digest: &Digest, source: S, max: u64) -> Result<Stored, PutError>
    where
        S: Stream<Item = Result<Bytes, E>>,
        E: std::fmt::Display,
    {
        if self.size(digest).await?.is_some() {
            return Ok(Stored::Existing);
        }
        self.replace(digest, source, max).await
    }

    /// As [`BlobDir::put`], whether the blob is there or not: for one that is there with the wrong size.
    ///
    /// # Errors
    /// [`PutError`]; what was there stays then.
    pub async fn replace<S, E>(&self, digest: &Digest, source: S, max: u64) -> Result<Stored, PutError>
    where
        S: Stream<Item = Result<Bytes, E>>,
        E: std::fmt::Display,
    {
        let number = self.sequence.fetch_add(1, Ordering::Relaxed);
        let name = format!("{number}-{}-{:016x}", std::process::id(), self.nonce);
        let temporary = self.root.join("incoming").join(name);
        let stored = self.put_via(&temporary, digest, source, max).await;
        if stored.is_err() {
            // Best effort: opening the directory removes leftovers too.
            let _ = fs::remove_file(&temporary).await;
        }
        stored
    }

    async fn put_via<S, E>(
        &self,
        temporary: &Path,
        digest: &Digest,
        source: S,
        max: u64,
    ) -> Result<Stored, PutError>
    where
        S: Stream<Item = Result<Bytes, E>>,
        E: std::fmt::Display,
    {
        let mut file = File::options().write(true).create_new(true).open(temporary).await?;
        file.set_max_buf_size(PIECE);
        let (mut sha, mut size) = (Sha256::new(), 0_u64);
        let mut source = std::pin::pin!(source);
        while let Some(piece) = source.next().await {
            let piece = piece.map_err(|error| PutError::Source(error.to_string()))?;
            size += piece.len() as u64;
            if size > max {
                return Err(PutError::TooLarge(max));
            }
            sha.update(&piece);
            file.write_all(&piece).await?;
        }
        let got = Digest::from_bytes(sha.finalize().into());
        if got != *digest {
            return Err(PutError::Digest(got));
        }
        file.flush().await?;
        file.sync_all().await?;
        let path = self.path(digest);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).await?;
            fs::rename(temporary, &path).await?;
            // The names live in the directories: the new one, and on its first use its parent's.
            sync_dir(parent).await?;
            sync_dir(&self.root.join("sha256")).await?;
        }
        Ok(Stored::New)
    }

    /// Removes a blob; it is no error if it was not there.
    ///
    /// # Errors
    /// Any error of the file system but absence.
    pub async fn remove(&self, digest: &Digest) -> io::Result<()> {
        absent(fs::remove_file(self.path(digest)).await).map(|_| ())
    }

    /// Bytes that are free on its volume, and bytes that the volume has.
    ///
    /// # Errors
    /// Any error of the file system.
    pub fn space(&self) -> io::Result<(u64, u64)> {
        let volume = rustix::fs::statvfs(&self.root)?;
        let bytes = |blocks: u64| blocks.saturating_mul(volume.f_frsize);
        Ok((bytes(volume.f_bavail), bytes(volume.f_blocks)))
    }

    /// The blobs that were stored longer ago than `age`.
    ///
    /// # Errors
    /// Any error of the file system.
    pub async fn older_than(&self, age: std::time::Duration) -> io::Result<Vec<Digest>> {
        let mut old = Vec::new();
        let mut folders = fs::read_dir(self.root.join("sha256")).await?;
        while let Some(folder) = folders.next_entry().await? {
            let mut files = fs::read_dir(folder.path()).await?;
            while let Some(file) = files.next_entry().await? {
                let elapsed = file.metadata().await?.modified()?.elapsed().unwrap_or_default();
                let digest = file.file_name().to_str().and_then(|hex| Digest::from_hex(hex).ok());
                old.extend(digest.filter(|_| elapsed > age));
            }
        }
        Ok(old)
    }

    /// Removes uploads of which nothing was written since `before`: a crash left them. Others may be under way.
    ///
    /// # Errors
    /// Any error of the file system but absence.
    pub async fn sweep_incoming(&self, before: SystemTime) -> io::Result<()> {
        let mut entries = fs::read_dir(self.root.join("incoming")).await?;
        while let Some(entry) = entries.next_entry().await? {
            let modified = absent(entry.metadata().await)?.and_then(|meta| meta.modified().ok());
            if modified.is_some_and(|modified| modified < before) {
                absent(fs::remove_file(entry.path()).await)?;
            }
        }
        Ok(())
    }

    /// Answers `GET` (`body` true) or `HEAD`: 200 with the length, or 404.
    pub async fn answer(&self, digest: &Digest, body: bool) -> Response {
        let (file, size) = match self.file(digest).await {
            Ok(Some(found)) => found,
            Ok(None) => return (StatusCode::NOT_FOUND, format!("no blob {digest} here\n")).into_response(),
            Err(error) => return PutError::Io(error).into_response(),
        };
        let headers = [
            (header::CONTENT_LENGTH, size.to_string()),
            (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
            (header::ETAG, format!("\"{digest}\"")),
        ];
        let body =
            if body { Body::from_stream(ReaderStream::with_capacity(file, PIECE)) } else { Body::empty() };
        (headers, body).into_response()
    }

    /// Answers `PUT`: 201 stored, 200 was there, else the error's code.
    pub async fn answer_put<S, E>(&self, digest: &Digest, mut body: S, max: u64) -> Response
    where
        S: Stream<Item = Result<Bytes, E>> + Unpin,
        E: std::fmt::Display,
    {
        let answer = match self.put(digest, &mut body, max).await {
            Ok(Stored::New) => StatusCode::CREATED.into_response(),
            Ok(Stored::Existing) => StatusCode::OK.into_response(),
            Err(error) => error.into_response(),
        };
        drain(&mut body, max).await;
        answer
    }
}

/// Reads the rest of a body, at most about `max` bytes: a sender that is cut off in the middle sees a broken connection
/// instead of the answer.
pub async fn drain<E>(body: &mut (impl Stream<Item = Result<Bytes, E>> + Unpin), max: u64) {
    let (mut rest, mut left) = (0, max);
    while let (true, Some(Ok(piece))) = (rest <= left, body.next().await) {
        rest = piece.len() as u64;
        left -= rest.min(left);
    }
}

async fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir).await?.sync_all().await
}

fn absent<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(bytes: &[u8]) -> impl Stream<Item = Result<Bytes, io::Error>> + use<> {
        let all: Vec<_> = bytes.chunks(3).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        futures::stream::iter(all)
    }

    fn leftovers(dir: &Path) -> usize {
        std::fs::read_dir(dir.join("incoming")).unwrap().count()
    }

    #[tokio::test]
    async fn a_blob_is_stored_once_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = BlobDir::open(dir.path()).await.unwrap();
        let digest = Digest::of(b"hello world");
        assert_eq!(blobs.read(&digest, 100).await.unwrap(), None);
        assert_eq!(blobs.put(&digest, pieces(b"hello world"), 11).await.unwrap(), Stored::New);
        assert_eq!(blobs.put(&digest, pieces(b"hello world"), 11).await.unwrap(), Stored::Existing);
        assert_eq!(blobs.size(&digest).await.unwrap(), Some(11));
        assert_eq!(blobs.read(&digest, 11).await.unwrap().as_deref(), Some(&b"hello world"[..]));
        assert!(blobs.read(&digest, 10).await.is_err());
        blobs.remove(&digest).await.unwrap();
        blobs.remove(&digest).await.unwrap();
        assert_eq!(blobs.size(&digest).await.unwrap(), None);
        assert_eq!(leftovers(dir.path()), 0);
    }

    #[tokio::test]
    async fn wrong_long_and_broken_bytes_leave_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = BlobDir::open(dir.path()).await.unwrap();
        let digest = Digest::of(b"hello world");
        let wrong = blobs.put(&digest, pieces(b"hello"), 100).await.unwrap_err();
        assert_eq!(wrong.status(), StatusCode::BAD_REQUEST, "{wrong}");
        let long = blobs.put(&digest, pieces(b"hello world"), 10).await.unwrap_err();
        assert_eq!(long.status(), StatusCode::PAYLOAD_TOO_LARGE);
        let broken = pieces(b"hello world").chain(futures::stream::iter([Err(io::Error::other("cut"))]));
        assert!(matches!(blobs.put(&digest, broken, 100).await, Err(PutError::Source(_))));
        assert_eq!(blobs.size(&digest).await.unwrap(), None);
        assert_eq!(leftovers(dir.path()), 0);
    }

    #[tokio::test]
    async fn what_a_crash_left_is_removed_and_damage_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = BlobDir::open(dir.path()).await.unwrap();
        let digest = Digest::of(b"hello world");
        blobs.put(&digest, pieces(b"hello world"), 100).await.unwrap();
        std::fs::write(dir.path().join("incoming/7-1"), b"hel").unwrap();
        let blobs = BlobDir::open(dir.path()).await.unwrap();
        assert_eq!(leftovers(dir.path()), 0);
        assert!(blobs.size(&digest).await.unwrap().is_some());
        std::fs::write(blobs.path(&digest), b"hello w0rld").unwrap();
        assert_eq!(blobs.read(&digest, 100).await.unwrap(), None);
        assert_eq!(blobs.size(&digest).await.unwrap(), None);
    }

    #[test]
    fn a_full_disk_has_its_own_code() {
        let error = PutError::from(io::Error::from(ErrorKind::StorageFull));
        assert_eq!(error.status(), StatusCode::INSUFFICIENT_STORAGE);
    }
}
