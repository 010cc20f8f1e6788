//! The few operations on files that the log is made of, so that tests can stop it between any two of them and take away what
//! was not durable. Paths are relative to the log's directory and spelt with `/`.
//!
//! What holds of a real disk and is relied upon: a file's bytes are durable once it was synced, a name once its folder was, and
//! a rename puts the new file in the place of the old one whole.
use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::thread;

use crate::runtime::files;

/// See the module.
pub trait Disk: Send + Sync + 'static {
    /// A file's bytes, `None` if it is not there.
    ///
    /// # Errors
    /// Any other, with the path in its text; `InvalidData` for a file longer than `max`.
    fn read(&self, path: &str, max: u64) -> io::Result<Option<Vec<u8>>>;

    /// The names in a folder, sorted; none if it is not there.
    ///
    /// # Errors
    /// Any other, with the path in its text.
    fn list(&self, folder: &str) -> io::Result<Vec<String>>;

    /// Makes or overwrites a file. Not durable yet.
    ///
    /// # Errors
    /// Any, with the path in its text.
    fn write(&self, path: &str, bytes: &[u8]) -> io::Result<()>;

    /// Makes a file's bytes durable.
    ///
    /// # Errors
    /// Any, with the path in its text.
    fn sync(&self, path: &str) -> io::Result<()>;

    /// Gives a file the name `to`, in place of what was there. Not durable yet.
    ///
    /// # Errors
    /// Any, with the path in its text.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Makes the names in a folder durable; `""` is the log's own.
    ///
    /// # Errors
    /// Any, with the path in its text.
    fn sync_folder(&self, folder: &str) -> io::Result<()>;

    /// Makes a folder whose parent is there; no error if it is there itself. Not durable yet.
    ///
    /// # Errors
    /// Any other, with the path in its text.
    fn make_folder(&self, folder: &str) -> io::Result<()>;

    /// Removes a file, or a folder with what is in it; no error if it was not there. Not durable.
    ///
    /// # Errors
    /// Any other, with the path in its text.
    fn remove(&self, path: &str) -> io::Result<()>;

    /// How many files may be synced at once. A disk makes several durable in one go if it is asked for them together.
    fn at_once(&self) -> usize {
        1
    }
}

/// A directory of this machine.
#[derive(Debug, Clone)]
pub struct RealDisk {
    root: PathBuf,
}

impl RealDisk {
    /// In this directory, which is there.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    fn at(&self, path: &str) -> PathBuf {
        if path.is_empty() { self.root.clone() } else { self.root.join(path) }
    }

    fn named<T>(&self, verb: &str, path: &str, result: io::Result<T>) -> io::Result<T> {
        result.map_err(|error| {
            io::Error::new(error.kind(), format!("cannot {verb} {}: {error}", self.at(path).display()))
        })
    }
}

impl Disk for RealDisk {
    fn read(&self, path: &str, max: u64) -> io::Result<Option<Vec<u8>>> {
        absent(files::read_capped(&self.at(path), max))
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        let entries = absent(fs::read_dir(self.at(folder)).and_then(Iterator::collect::<io::Result<Vec<_>>>));
        let entries = self.named("list", folder, entries)?.unwrap_or_default();
        // A name that is no UTF-8 is none of ours.
        let mut names: Vec<_> =
            entries.into_iter().filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        Ok(names)
    }

    fn write(&self, path: &str, bytes: &[u8]) -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o644);
        self.named("write", path, options.open(self.at(path)).and_then(|mut file| file.write_all(bytes)))
    }

    fn sync(&self, path: &str) -> io::Result<()> {
        self.named("sync", path, File::open(self.at(path)).and_then(|file| file.sync_all()))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.named("rename to", to, fs::rename(self.at(from), self.at(to)))
    }

    fn sync_folder(&self, folder: &str) -> io::Result<()> {
        files::sync_dir(&self.at(folder))
    }

    fn make_folder(&self, folder: &str) -> io::Result<()> {
        match fs::create_dir(self.at(folder)) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            other => self.named("create", folder, other),
        }
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let at = self.at(path);
        let removed = match fs::symlink_metadata(&at) {
            Ok(meta) if meta.is_dir() => fs::remove_dir_all(&at),
            Ok(_) => fs::remove_file(&at),
            Err(error) => Err(error),
        };
        self.named("remove", path, absent(removed)).map(|_| ())
    }

    fn at_once(&self) -> usize {
        32
    }
}

fn absent<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes files whole: each under a temporary name, synced, renamed; then the folders, once each. What it has written is
/// durable when [`Writing::finish`] returns, and not before.
pub struct Writing<'a> {
    disk: &'a dyn Disk,
    /// Folders that are there and whose own names are durable; kept from one writing to the next.
    known: &'a mut BTreeSet<String>,
    /// Made or found here, durable after the end.
    found: BTreeSet<String>,
    changed: BTreeSet<String>,
}

impl<'a> Writing<'a> {
    /// On this disk. `known` begins empty for each process: what an earlier one made may not be durable.
    pub fn new(disk: &'a dyn Disk, known: &'a mut BTreeSet<String>) -> Self {
        Self { disk, known, found: BTreeSet::new(), changed: BTreeSet::new() }
    }

    /// Writes one file.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn put(&mut self, path: &str, bytes: &[u8]) -> io::Result<()> {
        self.put_all(&[(path, bytes)])
    }

    /// Writes several, many at once if the disk likes that.
    ///
    /// # Errors
    /// Those of the disk; some of the files may have been written.
    pub fn put_all<P: AsRef<str> + Sync, B: AsRef<[u8]> + Sync>(
        &mut self,
        files: &[(P, B)],
    ) -> io::Result<()> {
        for (path, _) in files {
            let folder = folder_of(path.as_ref());
            self.enter(folder)?;
            self.changed.insert(folder.to_owned());
        }
        let disk = self.disk;
        let each = |part: &[(P, B)]| {
            part.iter().try_for_each(|(path, bytes)| {
                let (path, bytes) = (path.as_ref(), bytes.as_ref());
                let temporary = temporary(path);
                disk.write(&temporary, bytes)?;
                disk.sync(&temporary)?;
                disk.rename(&temporary, path)
            })
        };
        let threads = disk.at_once().min(files.len()).max(1);
        if threads == 1 {
            return each(files);
        }
        thread::scope(|scope| {
            let parts = files.chunks(files.len().div_ceil(threads));
            let writers: Vec<_> = parts.map(|part| scope.spawn(move || each(part))).collect();
            // All are waited for, whatever the first says.
            let ends: Vec<_> = writers.into_iter().map(thread::ScopedJoinHandle::join).collect();
            ends.into_iter()
                .try_for_each(|end| end.unwrap_or_else(|_| Err(io::Error::other("a writer has panicked"))))
        })
    }

    /// Makes everything durable.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn finish(self) -> io::Result<()> {
        self.changed.iter().try_for_each(|folder| self.disk.sync_folder(folder))?;
        self.known.extend(self.found);
        Ok(())
    }

    /// Sees that a folder is there, and that its name will be durable with the others.
    fn enter(&mut self, folder: &str) -> io::Result<()> {
        if folder.is_empty() || self.known.contains(folder) || self.found.contains(folder) {
            return Ok(());
        }
        let parent = folder_of(folder);
        self.enter(parent)?;
        self.disk.make_folder(folder)?;
        self.changed.insert(parent.to_owned());
        self.found.insert(folder.to_owned());
        Ok(())
    }
}

/// The folder that a path lies in; `""` is the log's own.
fn folder_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// A name beside `path` that nobody serves: none of the log's own names begins with a dot.
fn temporary(path: &str) -> String {
    match path.rsplit_once('/') {
        Some((folder, name)) => format!("{folder}/.{name}.tmp"),
        None => format!(".{path}.tmp"),
    }
}
