//! Files that are either whole or absent, and reads that cannot be made to swallow the memory.
//!
//! A crash may come between any two instructions, so whatever another process may read under its final name was
//! written under another name, flushed, and renamed; then the directory was flushed, because the rename itself
//! lives there.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read as _, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use muster_proof::Digest;
use rustix::fs::{Mode, OFlags, open};
use sha2::{Digest as _, Sha256};

/// Names of unfinished files and directories start so; nothing with such a name is ever read back.
pub const TEMPORARY: &str = ".tmp-";

/// An operation on a file that did not work.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {path}: {source}{}", remedy(source))]
pub struct FileError {
    /// A verb: `write`, `read`, ...
    pub action: &'static str,
    /// The file or directory.
    pub path: String,
    /// What the system said.
    pub source: io::Error,
}

impl FileError {
    /// An error about this path.
    pub fn new(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self { action, path: path.display().to_string(), source }
    }

    /// Whether the file does not exist.
    pub fn is_missing(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }
}

fn remedy(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; free space there or choose another directory, then start again: it resumes from the last checkpoint"
        }
        io::ErrorKind::PermissionDenied => "; give this user access to it",
        io::ErrorKind::ReadOnlyFilesystem => "; choose a directory that can be written",
        _ => "",
    }
}

/// Puts the action and the path into an [`io::Error`].
pub trait Named<T> {
    /// The same result, with an error that names `path`.
    ///
    /// # Errors
    /// Those of `self`.
    fn named(self, action: &'static str, path: &Path) -> Result<T, FileError>;
}

impl<T> Named<T> for io::Result<T> {
    fn named(self, action: &'static str, path: &Path) -> Result<T, FileError> {
        self.map_err(|source| FileError::new(action, path, source))
    }
}

/// Reads a whole file of at most `limit` bytes.
///
/// # Errors
/// As the system says, and for a longer file.
pub fn read_at_most(path: &Path, limit: u64) -> Result<Vec<u8>, FileError> {
    read_from(File::open(path).named("open", path)?, path, limit)
}

fn read_from(file: File, path: &Path, limit: u64) -> Result<Vec<u8>, FileError> {
    let mut bytes = Vec::new();
    // One byte more than allowed tells a file that is too long from one that just fits.
    file.take(limit + 1).read_to_end(&mut bytes).named("read", path)?;
    if bytes.len() as u64 > limit {
        let message = format!("longer than {limit} bytes");
        return Err(FileError::new("read", path, io::Error::new(io::ErrorKind::FileTooLarge, message)));
    }
    Ok(bytes)
}

/// As [`read_at_most`], of a file that somebody else may have put there: no link is followed, no pipe is waited for.
///
/// # Errors
/// As the system says, for what is not a file, and for a longer one.
pub fn read_plain(path: &Path, limit: u64) -> Result<Vec<u8>, FileError> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(open(path, flags, Mode::empty()).map_err(io::Error::from).named("open", path)?);
    if !file.metadata().named("inspect", path)?.is_file() {
        return Err(FileError::new(
            "read",
            path,
            io::Error::new(io::ErrorKind::InvalidInput, "it is not a file"),
        ));
    }
    read_from(file, path, limit)
}

/// Opens a file that a person has named, or that lies in a directory he has named. Links are followed (caches are made of
/// them); pipes and devices are refused without being waited for.
///
/// # Errors
/// As the system says, and for what is not a file.
pub fn open_regular(path: &Path) -> Result<File, FileError> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(open(path, flags, Mode::empty()).map_err(io::Error::from).named("open", path)?);
    if file.metadata().named("inspect", path)?.is_file() {
        return Ok(file);
    }
    let source = io::Error::new(io::ErrorKind::InvalidInput, "it is not a file");
    Err(FileError::new("read", path, source))
}

/// As [`read_at_most`], of what [`open_regular`] opens.
///
/// # Errors
/// As the system says, for what is not a file, and for a longer one.
pub fn read_regular(path: &Path, limit: u64) -> Result<Vec<u8>, FileError> {
    read_from(open_regular(path)?, path, limit)
}

/// SHA-256 and length in bytes of a file, streamed.
///
/// # Errors
/// As the system says.
pub fn digest(path: &Path) -> Result<(Digest, u64), FileError> {
    let mut file = File::open(path).named("open", path)?;
    let (mut sha, mut length) = (Sha256::new(), 0);
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).named("read", path)? {
            0 => return Ok((Digest::from_bytes(sha.finalize().into()), length)),
            n => {
                sha.update(&buffer[..n]);
                length += n as u64;
            }
        }
    }
}

/// Makes a directory's entries durable.
///
/// # Errors
/// As the system says.
pub fn sync_dir(path: &Path) -> Result<(), FileError> {
    File::open(path).and_then(|dir| dir.sync_all()).named("flush", path)
}

/// Creates a directory and its parents; fine if it is there.
///
/// # Errors
/// As the system says.
pub fn create_dirs(path: &Path) -> Result<(), FileError> {
    fs::create_dir_all(path).named("create", path)
}

/// Replaces `path` by a file with these bytes, durably: a reader sees the old file or the new one.
///
/// # Errors
/// As the system says; then the old file, if any, is as it was.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    write_with(path, bytes, File::options().create(true).truncate(true).write(true))
}

/// As [`write_atomic`], and only this user may read the file.
///
/// # Errors
/// As the system says; then the old file, if any, is as it was.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    // What a crashed process left under the temporary name may have another mode.
    drop(fs::remove_file(parent(path).join(temporary_name(path))));
    write_with(path, bytes, File::options().create_new(true).write(true).mode(0o600))
}

fn write_with(path: &Path, bytes: &[u8], options: &fs::OpenOptions) -> Result<(), FileError> {
    let parent = parent(path);
    let temporary = parent.join(temporary_name(path));
    let write = || {
        let mut file = options.open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().inspect_err(|_| drop(fs::remove_file(&temporary))).named("write", path)?;
    sync_dir(parent)
}

/// Removes what a crashed process left unfinished in `dir`. A directory that does not exist is clean.
///
/// # Errors
/// As the system says.
pub fn remove_unfinished(dir: &Path) -> Result<(), FileError> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.named("list", dir)?,
    };
    for entry in entries {
        let entry = entry.named("list", dir)?;
        if entry.file_name().to_string_lossy().starts_with(TEMPORARY) {
            let path = entry.path();
            let is_dir = entry.file_type().named("inspect", &path)?.is_dir();
            let removed = if is_dir { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.named("remove", &path)?;
        }
    }
    Ok(())
}

/// A directory under construction. It becomes visible, whole, by [`NewDir::commit`]; dropped without that it is
/// gone.
#[derive(Debug)]
pub struct NewDir {
    temporary: PathBuf,
    target: PathBuf,
    committed: bool,
}

impl NewDir {
    /// Starts the directory that will be `target`; its parent is created.
    ///
    /// # Errors
    /// As the system says.
    pub fn create(target: &Path) -> Result<Self, FileError> {
        let parent = parent(target);
        create_dirs(parent)?;
        let temporary = parent.join(temporary_name(target));
        if temporary.exists() {
            fs::remove_dir_all(&temporary).named("remove", &temporary)?;
        }
        fs::create_dir(&temporary).named("create", &temporary)?;
        Ok(Self { temporary, target: target.to_owned(), committed: false })
    }

    /// Where the directory is until it is committed.
    pub fn path(&self) -> &Path {
        &self.temporary
    }

    /// Starts a file in it.
    ///
    /// # Errors
    /// As the system says; the error names the final path.
    pub fn file(&self, name: &str) -> Result<NewFile, FileError> {
        let path = self.target.join(name);
        let file = File::create_new(self.temporary.join(name)).named("write", &path)?;
        Ok(NewFile::start(file, path))
    }

    /// Makes the directory visible under its name, durably. All its files must be finished.
    ///
    /// # Errors
    /// As the system says, also when the target exists and is not empty.
    pub fn commit(mut self) -> Result<(), FileError> {
        sync_dir(&self.temporary)?;
        fs::rename(&self.temporary, &self.target).named("create", &self.target)?;
        self.committed = true;
        sync_dir(parent(&self.target))
    }
}

impl Drop for NewDir {
    fn drop(&mut self) {
        if !self.committed {
            // Nobody reads it under this name, and the next start sweeps it: failing here loses nothing.
            drop(fs::remove_dir_all(&self.temporary));
        }
    }
}

/// A file of a [`NewDir`], being written.
#[derive(Debug)]
pub struct NewFile {
    file: BufWriter<File>,
    path: PathBuf,
    size: u64,
}

impl NewFile {
    fn start(file: File, path: PathBuf) -> Self {
        // For small pieces. Blocks of a tensor are as long as this, and so are not copied once more.
        Self { file: BufWriter::with_capacity(1 << 16, file), path, size: 0 }
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// As the system says; the error names the final path.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        self.file.write_all(bytes).named("write", &self.path)?;
        self.size += bytes.len() as u64;
        Ok(())
    }

    /// Makes the contents durable; gives their size in bytes.
    ///
    /// # Errors
    /// As the system says.
    pub fn finish(self) -> Result<u64, FileError> {
        let flushed = self.file.into_inner().map_err(io::IntoInnerError::into_error);
        flushed.and_then(|file| file.sync_all()).named("write", &self.path)?;
        Ok(self.size)
    }
}

/// A file that is digested while it is written.
#[derive(Debug)]
pub struct DigestedFile {
    file: NewFile,
    sha: Sha256,
}

impl DigestedFile {
    /// Digests what is written to `file`, which has no bytes yet.
    pub fn new(file: NewFile) -> Self {
        Self { file, sha: Sha256::new() }
    }

    /// Starts a file at `path`, replacing what is there. For files whose readers check a digest.
    ///
    /// # Errors
    /// As the system says.
    pub fn create(path: &Path) -> Result<Self, FileError> {
        let file = File::create(path).named("write", path)?;
        Ok(Self::new(NewFile::start(file, path.to_owned())))
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// As the system says; the error names the final path.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        self.file.write(bytes)?;
        self.sha.update(bytes);
        Ok(())
    }

    /// Bytes so far.
    pub fn size(&self) -> u64 {
        self.file.size
    }

    /// Makes the contents durable; gives SHA-256 and size in bytes.
    ///
    /// # Errors
    /// As the system says.
    pub fn finish(self) -> Result<(Digest, u64), FileError> {
        let size = self.file.finish()?;
        Ok((Digest::from_bytes(self.sha.finalize().into()), size))
    }
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn temporary_name(target: &Path) -> String {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    format!("{TEMPORARY}{name}-{}", std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_whole_or_absent() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("a/b");
        {
            let new = NewDir::create(&target).unwrap();
            let mut file = new.file("x").unwrap();
            file.write(b"1").unwrap();
            file.finish().unwrap();
            assert!(!target.exists());
        }
        assert_eq!(fs::read_dir(dir.path().join("a")).unwrap().count(), 0, "an abandoned one leaves nothing");

        let new = NewDir::create(&target).unwrap();
        let mut file = DigestedFile::new(new.file("x").unwrap());
        file.write(b"abc").unwrap();
        assert_eq!(file.finish().unwrap(), (Digest::of(b"abc"), 3));
        new.commit().unwrap();
        assert_eq!(fs::read(target.join("x")).unwrap(), b"abc");
        assert_eq!(digest(&target.join("x")).unwrap(), (Digest::of(b"abc"), 3));
    }

    #[test]
    fn unfinished_things_are_swept_and_finished_ones_kept() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(".tmp-step-1-9")).unwrap();
        fs::write(dir.path().join(".tmp-step-1-9/x"), b"half").unwrap();
        fs::write(dir.path().join(".tmp-spec.json-9"), b"half").unwrap();
        fs::write(dir.path().join("spec.json"), b"whole").unwrap();
        remove_unfinished(dir.path()).unwrap();
        let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["spec.json"]);
        remove_unfinished(&dir.path().join("none")).unwrap();
    }

    #[test]
    fn reads_are_bounded_and_writes_replace() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        write_atomic(&path, b"old").unwrap();
        write_atomic(&path, b"new!").unwrap();
        assert_eq!(read_at_most(&path, 4).unwrap(), b"new!");
        let error = read_at_most(&path, 3).unwrap_err().to_string();
        assert!(error.contains("longer than 3 bytes") && error.contains("/f"), "{error}");
        assert!(read_at_most(&dir.path().join("g"), 3).unwrap_err().is_missing());
        write_private(&path, b"secret").unwrap();
        let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
    }
}
