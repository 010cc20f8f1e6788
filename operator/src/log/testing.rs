//! For tests: a disk in memory that stops after so many operations and, like a real one, loses what was not made durable.
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use muster_proof::tlog::note::NoteKey;
use tokio::sync::Semaphore;

use super::admit::Admit;
use super::cosignatures::Cosignatures;
use super::disk::Disk;
use super::{Log, LogError, LogView, QUEUE, writer};

/// What becomes of what was not durable when the disk stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The process was killed: all is there, and what was not durable still is not.
    Killed,
    /// The power went, and nothing was written on the disk's own account.
    Lost,
    /// The power went, but all had been written.
    Kept,
    /// The power went in the middle: of each file and each folder some of the operations are there, in their order.
    Torn(u64),
}

type Inode = u64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Node {
    File(Inode),
    Folder,
}

#[derive(Debug, Clone)]
enum Change {
    Set(String, Node),
    Remove(String),
    /// From, to, and the file that is renamed.
    Rename(String, String, Inode),
}

#[derive(Debug, Clone, Default)]
struct Folder {
    durable: BTreeMap<String, Node>,
    now: BTreeMap<String, Node>,
    pending: Vec<Change>,
}

impl Folder {
    fn change(&mut self, change: Change) {
        apply(&mut self.now, &change);
        self.pending.push(change);
    }
}

fn apply(names: &mut BTreeMap<String, Node>, change: &Change) {
    match change {
        Change::Set(name, node) => {
            names.insert(name.clone(), *node);
        }
        Change::Remove(name) => {
            names.remove(name);
        }
        Change::Rename(from, to, inode) => {
            names.remove(from);
            names.insert(to.clone(), Node::File(*inode));
        }
    }
}

#[derive(Debug, Clone, Default)]
struct Bytes {
    /// `None` before the first sync: the file may be there, and empty.
    durable: Option<Vec<u8>>,
    now: Vec<u8>,
}

#[derive(Debug, Clone)]
struct State {
    folders: BTreeMap<String, Folder>,
    /// Folders that were removed, whose names may still be durable.
    graves: BTreeMap<String, Folder>,
    files: BTreeMap<Inode, Bytes>,
    next: Inode,
    /// Operations that still succeed.
    left: usize,
    stopped: bool,
    /// Operations that changed or synced something.
    done: usize,
}

/// See the module. Clones are the same disk.
#[derive(Debug, Clone)]
pub struct MemoryDisk(Arc<Mutex<State>>);

impl Default for MemoryDisk {
    fn default() -> Self {
        let folders = [(String::new(), Folder::default())].into();
        Self(Arc::new(Mutex::new(State {
            folders,
            graves: BTreeMap::new(),
            files: BTreeMap::new(),
            next: 0,
            left: usize::MAX,
            stopped: false,
            done: 0,
        })))
    }
}

impl MemoryDisk {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stops before operation `n` from now, counted from 0.
    pub fn stop_after(&self, n: usize) {
        self.lock().left = n;
    }

    /// How many operations there were.
    pub fn operations(&self) -> usize {
        self.lock().done
    }

    /// The disk as a new process finds it.
    pub fn restart(&self, end: End) -> Self {
        let mut state = self.lock().clone();
        let mut random = match end {
            End::Torn(seed) => Some(seed | 1),
            _ => None,
        };
        let mut below = |limit: usize| {
            let random = random.get_or_insert(1);
            *random ^= *random << 13;
            *random ^= *random >> 7;
            *random ^= *random << 17;
            usize::try_from(*random % (limit as u64 + 1)).unwrap()
        };
        (state.left, state.done, state.stopped) = (usize::MAX, 0, false);
        if end == End::Killed {
            return Self(Arc::new(Mutex::new(state)));
        }
        for (path, folder) in std::mem::take(&mut state.graves) {
            state.folders.entry(path).or_insert(folder);
        }
        for folder in state.folders.values_mut() {
            let keep = match end {
                End::Lost | End::Killed => 0,
                End::Kept => folder.pending.len(),
                End::Torn(_) => below(folder.pending.len()),
            };
            for change in folder.pending.drain(..).take(keep) {
                apply(&mut folder.durable, &change);
            }
            folder.now = folder.durable.clone();
        }
        for file in state.files.values_mut() {
            let durable = file.durable.clone();
            file.now = match end {
                End::Kept => file.now.clone(),
                End::Torn(_) if durable.as_ref() != Some(&file.now) && below(1) == 1 => {
                    file.now[..below(file.now.len())].to_vec()
                }
                _ => durable.unwrap_or_default(),
            };
            file.durable = Some(file.now.clone());
        }
        // A folder whose name was lost is lost with what is in it.
        let reached: Vec<String> = state.folders.keys().filter(|path| state.reaches(path)).cloned().collect();
        state.folders.retain(|path, _| reached.contains(path));
        Self(Arc::new(Mutex::new(state)))
    }

    /// Overwrites a file, or removes it, as damage does.
    pub fn damage(&self, path: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.lock();
        let inode = state.file(path).unwrap();
        let bytes = state.files.get_mut(&inode).unwrap();
        change(&mut bytes.now);
        bytes.durable = Some(bytes.now.clone());
    }

    /// All files, with their bytes.
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let state = self.lock();
        let mut all = BTreeMap::new();
        for (path, folder) in &state.folders {
            for (name, node) in &folder.now {
                if let Node::File(inode) = node {
                    let path = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
                    all.insert(path, state.files[inode].now.clone());
                }
            }
        }
        all
    }

    fn operate<T>(&self, work: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.lock();
        state.spend()?;
        work(&mut state)
    }
}

fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

fn stopped() -> io::Error {
    io::Error::other("the disk has stopped")
}

fn missing(path: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{path} is not there"))
}

impl State {
    fn spend(&mut self) -> io::Result<()> {
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                self.done += 1;
                Ok(())
            }
            None => {
                self.stopped = true;
                Err(stopped())
            }
        }
    }

    fn folder(&mut self, path: &str) -> io::Result<&mut Folder> {
        self.folders.get_mut(path).ok_or_else(|| missing(path))
    }

    fn file(&self, path: &str) -> Option<Inode> {
        let (folder, name) = split(path);
        match self.folders.get(folder)?.now.get(name)? {
            Node::File(inode) => Some(*inode),
            Node::Folder => None,
        }
    }

    fn reaches(&self, path: &str) -> bool {
        if path.is_empty() {
            return true;
        }
        let (parent, name) = split(path);
        let named =
            self.folders.get(parent).is_some_and(|folder| folder.now.get(name) == Some(&Node::Folder));
        named && self.reaches(parent)
    }
}

impl Disk for MemoryDisk {
    fn read(&self, path: &str, max: u64) -> io::Result<Option<Vec<u8>>> {
        let state = self.lock();
        let Some(inode) = state.file(path) else { return Ok(None) };
        let bytes = state.files[&inode].now.clone();
        if bytes.len() as u64 > max {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{path}: too long")));
        }
        Ok(Some(bytes))
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        Ok(self
            .lock()
            .folders
            .get(folder)
            .map(|folder| folder.now.keys().cloned().collect())
            .unwrap_or_default())
    }

    fn write(&self, path: &str, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.lock();
        let was_stopped = state.stopped;
        let spent = state.spend();
        if was_stopped {
            return spent;
        }
        // The operation at which the disk stops has written a part.
        let bytes = if spent.is_ok() { bytes } else { &bytes[..bytes.len() / 2] };
        let (folder, name) = split(path);
        let inode = match state.file(path) {
            Some(inode) => inode,
            None => {
                let inode = state.next;
                state.next += 1;
                state.folder(folder)?.change(Change::Set(name.to_owned(), Node::File(inode)));
                inode
            }
        };
        state.files.entry(inode).or_default().now = bytes.to_vec();
        spent
    }

    fn sync(&self, path: &str) -> io::Result<()> {
        self.operate(|state| {
            let inode = state.file(path).ok_or_else(|| missing(path))?;
            let bytes = state.files.entry(inode).or_default();
            bytes.durable = Some(bytes.now.clone());
            Ok(())
        })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.operate(|state| {
            let inode = state.file(from).ok_or_else(|| missing(from))?;
            let ((folder, old), (other, new)) = (split(from), split(to));
            assert_eq!(folder, other, "the log renames within a folder");
            let change = Change::Rename(old.to_owned(), new.to_owned(), inode);
            state.folder(folder)?.change(change);
            Ok(())
        })
    }

    fn sync_folder(&self, folder: &str) -> io::Result<()> {
        self.operate(|state| {
            let folder = state.folder(folder)?;
            folder.durable = folder.now.clone();
            folder.pending.clear();
            Ok(())
        })
    }

    fn make_folder(&self, folder: &str) -> io::Result<()> {
        self.operate(|state| {
            if state.folders.contains_key(folder) {
                return Ok(());
            }
            let (parent, name) = split(folder);
            state.folder(parent)?.change(Change::Set(name.to_owned(), Node::Folder));
            state.folders.insert(folder.to_owned(), Folder::default());
            Ok(())
        })
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.operate(|state| {
            let (folder, name) = split(path);
            let Ok(parent) = state.folder(folder) else { return Ok(()) };
            if parent.now.contains_key(name) {
                parent.change(Change::Remove(name.to_owned()));
            }
            let below = format!("{path}/");
            let gone: Vec<_> =
                state.folders.keys().filter(|f| *f == path || f.starts_with(&below)).cloned().collect();
            for path in gone {
                let Some(mut folder) = state.folders.remove(&path) else { continue };
                for name in folder.now.keys().cloned().collect::<Vec<_>>() {
                    folder.change(Change::Remove(name));
                }
                state.graves.insert(path, folder);
            }
            Ok(())
        })
    }
}

/// An empty log in memory that is written by whoever submits, with no thread of its own.
pub fn here(key: NoteKey, admit: Box<dyn Admit>) -> Result<Log, LogError> {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::default());
    let (view, public) = (LogView::default(), key.public().clone());
    let writer = writer(&disk, key, admit, &view)?;
    let cosignatures = Cosignatures::open(disk.clone(), public.clone())?;
    Ok(Log {
        queue: None,
        here: Some(Mutex::new(writer)),
        room: Semaphore::new(QUEUE),
        writer: None,
        disk,
        key: public,
        view,
        cosignatures,
        _home: None,
    })
}
