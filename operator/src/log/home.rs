//! The log's directory: whose it is, with which key it signs, and that one process writes.
//!
//! ```text
//! lock      held by the one process that writes
//! log.key   the Ed25519 seed, 32 bytes, mode 0600; made once
//! origin    one line: the log's name; written last, so that its presence says that the key is whole
//! ```
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use muster_proof::tlog::checkpoint::Checkpoint;
use muster_proof::tlog::note::{self, Algorithm, KeyName, NoteKey};
use rustix::fs::{FlockOperation, flock};

use super::disk::RealDisk;
use crate::runtime::files::{self, Access};

const LOCK: &str = "lock";
const KEY: &str = "log.key";
const ORIGIN: &str = "origin";
/// An origin has at most 255 bytes and a newline.
const MAX_ORIGIN: u64 = 256;
const SEED: usize = 32;

/// Why the directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// The file system.
    #[error("the log's directory: {0}")]
    Io(#[from] io::Error),
    /// Another process writes.
    #[error("{0} is locked: another gateway writes this log; stop it first, two writers would fork the log")]
    Locked(PathBuf),
    /// There is no log here.
    #[error("{0} has no log (no file `origin`); name the directory `log` in the gateway's --state")]
    NoLog(PathBuf),
    /// The log has another name.
    #[error(
        "this log is {kept:?} and cannot become {asked:?}: its checkpoints are signed under that name. Give --log-origin {kept}, \
         or another --state for another log"
    )]
    OtherOrigin {
        /// Its name.
        kept: String,
        /// What was asked for.
        asked: String,
    },
    /// No log can have this name.
    #[error("origin {origin:?}: {problem}; want a name like log.example.org/muster, without spaces and `+`")]
    BadOrigin {
        /// The name.
        origin: String,
        /// Why.
        problem: String,
    },
    /// A log without its key is another log.
    #[error(
        "{0} is missing or not {SEED} bytes, but the log has signed with it: restore it from a backup; without it nothing can be \
         appended to this log"
    )]
    Key(PathBuf),
    /// The file says something else.
    #[error("{0} is not one line with the log's name; restore it from a backup")]
    Origin(PathBuf),
}

/// The directory of a log, and the right to write it for as long as this lives.
#[derive(Debug)]
pub struct Home {
    path: PathBuf,
    key: NoteKey,
    _lock: File,
}

impl Home {
    /// Opens the directory as its one writer; makes directory, key and name on the first start.
    ///
    /// # Errors
    /// [`HomeError`].
    pub fn open(path: &Path, origin: &str) -> Result<Self, HomeError> {
        files::create_private_dir(path)?;
        let lock = lock(path)?;
        let key = match kept_origin(path)? {
            Some(kept) if kept == origin => read_key(path, &kept)?,
            Some(kept) => return Err(HomeError::OtherOrigin { kept, asked: origin.to_owned() }),
            None => make(path, origin)?,
        };
        Ok(Self { path: path.to_owned(), key, _lock: lock })
    }

    /// Opens a log that is there, as its one writer.
    ///
    /// # Errors
    /// [`HomeError`].
    pub fn existing(path: &Path) -> Result<Self, HomeError> {
        let kept = kept_origin(path)?.ok_or_else(|| HomeError::NoLog(path.to_owned()))?;
        let lock = lock(path)?;
        Ok(Self { path: path.to_owned(), key: read_key(path, &kept)?, _lock: lock })
    }

    /// Files and key of a log that somebody else may be writing.
    ///
    /// # Errors
    /// [`HomeError`].
    pub fn look(path: &Path) -> Result<(RealDisk, NoteKey), HomeError> {
        let kept = kept_origin(path)?.ok_or_else(|| HomeError::NoLog(path.to_owned()))?;
        Ok((RealDisk::new(path), read_key(path, &kept)?))
    }

    /// Signs the log's heads; its name is the origin.
    #[must_use]
    pub fn key(&self) -> &NoteKey {
        &self.key
    }

    /// The directory's files.
    #[must_use]
    pub fn disk(&self) -> RealDisk {
        RealDisk::new(&self.path)
    }
}

fn lock(path: &Path) -> Result<File, HomeError> {
    let file = File::options().create(true).truncate(false).write(true).open(path.join(LOCK))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(HomeError::Locked(path.join(LOCK))),
        Err(error) => Err(io::Error::from(error).into()),
    }
}

fn kept_origin(path: &Path) -> Result<Option<String>, HomeError> {
    let file = path.join(ORIGIN);
    let Some(bytes) = files::read_if_there(&file, MAX_ORIGIN)? else { return Ok(None) };
    let line = String::from_utf8(bytes).ok().and_then(|text| text.strip_suffix('\n').map(str::to_owned));
    line.filter(|line| !line.is_empty() && !line.contains('\n')).map(Some).ok_or(HomeError::Origin(file))
}

fn read_key(path: &Path, origin: &str) -> Result<NoteKey, HomeError> {
    let file = path.join(KEY);
    let Some(seed) = files::read_if_there(&file, SEED as u64)? else { return Err(HomeError::Key(file)) };
    let seed: [u8; SEED] = seed.try_into().map_err(|_| HomeError::Key(file))?;
    Ok(NoteKey::new(name(origin)?, Algorithm::Ed25519, seed))
}

fn make(path: &Path, origin: &str) -> Result<NoteKey, HomeError> {
    let name = name(origin)?;
    if path.join("checkpoint").exists() {
        // What was published is somebody's, and this process does not know whose.
        return Err(HomeError::Origin(path.join(ORIGIN)));
    }
    let mut seed = [0; SEED];
    getrandom::fill(&mut seed).map_err(|error| io::Error::other(format!("no randomness: {error}")))?;
    files::write_atomic(&path.join(KEY), &seed, Access::Private)?;
    files::write_atomic(&path.join(ORIGIN), format!("{origin}\n").as_bytes(), Access::Public)?;
    Ok(NoteKey::new(name, Algorithm::Ed25519, seed))
}

/// A name that both a key and a checkpoint may have.
fn name(origin: &str) -> Result<KeyName, HomeError> {
    let bad = |problem: String| HomeError::BadOrigin { origin: origin.to_owned(), problem };
    let name = KeyName::new(origin).map_err(|error: note::Error| bad(error.to_string()))?;
    let empty = muster_proof::Digest::of(b"");
    Checkpoint::new(origin, 0, empty).map_err(|error| bad(error.to_string()))?;
    Ok(name)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn name_and_key_are_made_once_and_stay() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        assert!(matches!(Home::existing(&path), Err(HomeError::NoLog(_))));
        let first = Home::open(&path, "hub.example/log").unwrap();
        let public = first.key().public().clone();
        let mode = std::fs::metadata(path.join("log.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(matches!(Home::open(&path, "hub.example/log"), Err(HomeError::Locked(_))));
        drop(first);
        let again = Home::open(&path, "hub.example/log").unwrap();
        assert_eq!(*again.key().public(), public);
        drop(again);
        let other = Home::open(&path, "hub.example/other").unwrap_err().to_string();
        assert!(other.contains("--log-origin hub.example/log"), "{other}");
        assert_eq!(*Home::look(&path).unwrap().1.public(), public);
    }

    #[test]
    fn a_lost_key_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        drop(Home::open(dir.path(), "a/log").unwrap());
        std::fs::write(dir.path().join("log.key"), b"short").unwrap();
        assert!(matches!(Home::open(dir.path(), "a/log"), Err(HomeError::Key(_))));
        std::fs::remove_file(dir.path().join("log.key")).unwrap();
        let text = Home::open(dir.path(), "a/log").unwrap_err().to_string();
        assert!(text.contains("log.key") && text.contains("backup"), "{text}");
        std::fs::write(dir.path().join("origin"), b"a/log").unwrap();
        assert!(matches!(Home::open(dir.path(), "a/log"), Err(HomeError::Origin(_))));
        std::fs::remove_file(dir.path().join("origin")).unwrap();
        std::fs::write(dir.path().join("checkpoint"), b"x").unwrap();
        assert!(matches!(Home::open(dir.path(), "a/log"), Err(HomeError::Origin(_))));
        for bad in ["", "a b", "a+b", "a\nb"] {
            let other = dir.path().join("other");
            assert!(matches!(Home::open(&other, bad), Err(HomeError::BadOrigin { .. })), "{bad:?}");
        }
    }
}
