//! Durable files: what a reader finds under a name is whole, and still there after a power cut.
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::de::DeserializeOwned;

/// Who may read a file that Muster writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// 0600: keys, tokens.
    Private,
    /// 0644, as the umask allows.
    Public,
}

impl Access {
    fn mode(self) -> u32 {
        match self {
            Self::Private => 0o600,
            Self::Public => 0o644,
        }
    }
}

/// Distinguishes temporary files of one process; the process id distinguishes processes.
static SEQUENCE: AtomicU64 = AtomicU64::new(0);

/// Replaces `path` by `bytes`: temporary file beside it, fsync, rename, fsync of the directory. A reader sees the old
/// content or the new, never a part; when this returns, the new content survives a power cut.
///
/// # Errors
/// Any error of the file system, with the path in its text. The temporary file is removed on failure.
pub fn write_atomic(path: &Path, bytes: &[u8], access: Access) -> io::Result<()> {
    let dir = parent(path)?;
    let temporary = temporary_beside(path)?;
    let written = (|| {
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(access.mode()).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    })();
    if let Err(error) = written {
        // Best effort: the write has failed already, and the leftover is only litter.
        let _ = fs::remove_file(&temporary);
        return Err(named(path, "write", error));
    }
    sync_dir(dir)
}

/// Makes `dir` and its missing parents with mode 0700, and sets that mode on `dir` if it was there with a wider one.
///
/// # Errors
/// Any error of the file system, with the path in its text.
pub fn create_private_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| named(dir, "create", e))?;
    let mode = fs::metadata(dir).map_err(|e| named(dir, "read", e))?.permissions().mode();
    if mode & 0o077 != 0 {
        fs::set_permissions(dir, Permissions::from_mode(0o700)).map_err(|e| named(dir, "restrict", e))?;
    }
    Ok(())
}

/// Makes names written in `dir` durable (a rename alone may be lost with the directory's page).
///
/// # Errors
/// Any error of the file system, with the path in its text.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(|e| named(dir, "sync", e))
}

/// Reads a file of at most `max` bytes; a longer one is refused before it fills the memory.
///
/// # Errors
/// Any error of the file system, and `InvalidData` for a file that is too long; both name the path.
pub fn read_capped(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|e| named(path, "open", e))?;
    file.take(max.saturating_add(1)).read_to_end(&mut bytes).map_err(|e| named(path, "read", e))?;
    if bytes.len() as u64 > max {
        let text = format!("{}: longer than the {max} bytes allowed here", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    Ok(bytes)
}

/// As [`read_capped`]; `None` if there is no such file.
///
/// # Errors
/// As [`read_capped`], but not `NotFound`.
pub fn read_if_there(path: &Path, max: u64) -> io::Result<Option<Vec<u8>>> {
    if_there(read_capped(path, max))
}

/// The JSON that a file of our own holds; `None` if there is no such file.
///
/// # Errors
/// As [`read_if_there`], and `InvalidData` with the path for a file that holds something else.
pub fn load_json<T: DeserializeOwned>(path: &Path, max: u64) -> io::Result<Option<T>> {
    let Some(bytes) = read_if_there(path, max)? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(|error| {
        let text = format!("{}: {error}; restore it from a backup", path.display());
        io::Error::new(io::ErrorKind::InvalidData, text)
    })
}

/// What was done or found; `None` if there was nothing of that name.
///
/// # Errors
/// Any other than `NotFound`.
pub fn if_there<T>(done: io::Result<T>) -> io::Result<Option<T>> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

fn parent(path: &Path) -> io::Result<&Path> {
    match path.parent() {
        Some(dir) if dir.as_os_str().is_empty() => Ok(Path::new(".")),
        Some(dir) => Ok(dir),
        None => {
            Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{}: not a file name", path.display())))
        }
    }
}

fn temporary_beside(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidInput, format!("{}: not a file name", path.display()))
    })?;
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}.{}.tmp", std::process::id(), SEQUENCE.fetch_add(1, Ordering::Relaxed)));
    Ok(path.with_file_name(temporary))
}

fn named(path: &Path, verb: &str, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot {verb} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_whole_with_the_asked_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        write_atomic(&path, b"one", Access::Private).unwrap();
        write_atomic(&path, b"two", Access::Private).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn failure_names_the_path_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("x"), b"").unwrap();
        let error = write_atomic(&path, b"one", Access::Public).unwrap_err();
        assert!(error.to_string().contains("sub"), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn private_dir_narrows_an_open_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        create_private_dir(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn long_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, b"12345").unwrap();
        assert_eq!(read_capped(&path, 5).unwrap(), b"12345");
        assert!(read_capped(&path, 4).unwrap_err().to_string().contains("4 bytes"));
    }
}
