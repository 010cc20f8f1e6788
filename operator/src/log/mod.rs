//! The transparency log that the gateway keeps in a directory (docs/spec/log.md): records in, signed heads and tiles out. One
//! process writes, one of its threads; whoever reads sees what was published, which is what is durable.
//!
//! | file | what |
//! |---|---|
//! | `home` | the directory: whose log it is, its key, its one writer |
//! | `disk` | the operations on files that it is made of |
//! | `layout`, `growth`, `read` | which files there are, those that entries add, and what they say |
//! | `writer` | batches: admission, envelopes, tiles, head |
//! | `admit` | what the caller decides of each record |
//! | `recover` | the start after any end |
//! | `published` | what readers see |
//! | `cosignatures` | what witnesses add to a head |
//! | `fsck` | `muster log fsck` and `rebuild` |
//! | `client` | submitting and reading, over HTTPS |
//!
//! What it does not know: which records there are, who submits, Kubernetes. The formats are `muster_proof::tlog`'s.
pub mod admit;
pub mod client;
pub mod cosignatures;
pub mod disk;
pub mod fsck;
mod growth;
mod home;
mod layout;
mod metrics;
mod published;
mod read;
mod recover;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod writer;

pub use home::{Home, HomeError};
pub use metrics::LogMetrics;
pub use published::{Head, Published};
pub use recover::RecoverError;
pub use writer::Submission;

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::thread::JoinHandle;
use std::time::Instant;

use muster_proof::Digest;
use muster_proof::dsse::Envelope;
use muster_proof::tlog::note::{NoteKey, VerifierKey};
use muster_proof::tlog::tile::{Bundle, Resource, Tile, WIDTH};
use tokio::sync::{Semaphore, oneshot};

use self::admit::{Admit, Refusal};
use self::cosignatures::{CosignError, Cosignatures, Witnesses};
use self::disk::Disk;
use self::writer::{Waiting, Writer};

/// Records that may wait for their index at once.
const QUEUE: usize = 4096;

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The directory.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// What is in it.
    #[error(transparent)]
    Recover(#[from] RecoverError),
    /// The disk.
    #[error("the log: {0}")]
    Io(#[from] io::Error),
}

/// Why a record has no index.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// It was not admitted.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Too many wait.
    #[error("too many records wait for the log; try again")]
    Busy,
    /// Nothing is appended any more. Whether this record is in the log will be known after the next start: submit it again.
    #[error("the log does not take records now: {0}; submit it again later")]
    Stopped(String),
}

/// What a gateway shows of its log.
#[derive(Debug, Clone, Default)]
pub struct LogView {
    /// Heads and indices.
    pub published: Arc<Published>,
    /// Counts.
    pub metrics: LogMetrics,
}

/// See the module.
pub struct Log {
    queue: Option<Sender<Waiting>>,
    /// The writer without a thread, for simulations: their order of events must not depend on another one.
    #[cfg(test)]
    here: Option<std::sync::Mutex<Writer>>,
    room: Semaphore,
    writer: Option<JoinHandle<()>>,
    disk: Arc<dyn Disk>,
    key: VerifierKey,
    view: LogView,
    cosignatures: Cosignatures,
    /// Held until the writer has ended.
    _home: Option<Home>,
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Log({}, {} entries)", self.key.name(), self.view.published.size())
    }
}

impl Log {
    /// Opens the log in a directory, makes it on the first start, reads all of it and starts the writer. Blocks.
    ///
    /// # Errors
    /// [`LogError`].
    pub fn open(path: &Path, origin: &str, admit: Box<dyn Admit>) -> Result<Self, LogError> {
        let home = Home::open(path, origin)?;
        let (disk, key) = (Arc::new(home.disk()), home.key().clone());
        Self::start(disk, key, admit, Some(home))
    }

    /// The same on any disk; that nobody else writes is the caller's to see to.
    ///
    /// # Errors
    /// [`LogError`].
    pub fn on(disk: Arc<dyn Disk>, key: NoteKey, admit: Box<dyn Admit>) -> Result<Self, LogError> {
        Self::start(disk, key, admit, None)
    }

    fn start(
        disk: Arc<dyn Disk>,
        key: NoteKey,
        admit: Box<dyn Admit>,
        home: Option<Home>,
    ) -> Result<Self, LogError> {
        let (view, public) = (LogView::default(), key.public().clone());
        let writer = writer(&disk, key, admit, &view)?;
        let cosignatures = Cosignatures::open(disk.clone(), public.clone())?;
        let (queue, waiting) = mpsc::channel();
        let writer =
            std::thread::Builder::new().name("log".to_owned()).spawn(move || writer.run(&waiting))?;
        Ok(Self {
            queue: Some(queue),
            #[cfg(test)]
            here: None,
            room: Semaphore::new(QUEUE),
            writer: Some(writer),
            disk,
            key: public,
            view,
            cosignatures,
            _home: home,
        })
    }

    /// Appends a record and returns its index once a published head has it. A record that is in the log has its index already.
    ///
    /// # Errors
    /// [`AppendError`].
    pub async fn append(&self, submission: Submission) -> Result<u64, AppendError> {
        let _permit = self.room.try_acquire().map_err(|_| AppendError::Busy)?;
        let (answer, told) = oneshot::channel();
        let waiting = Waiting { submission, since: Instant::now(), answer };
        let sent = self.send(waiting);
        match told.await {
            Ok(told) if sent => told,
            _ => Err(AppendError::Stopped(self.view.published.stopped().unwrap_or_default())),
        }
    }

    fn send(&self, waiting: Waiting) -> bool {
        #[cfg(test)]
        if let Some(writer) = &self.here {
            let mut writer = writer.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            return writer.batch(vec![waiting]).is_ok();
        }
        self.queue.as_ref().is_some_and(|queue| queue.send(waiting).is_ok())
    }

    /// Heads, indices and counts.
    #[must_use]
    pub fn view(&self) -> &LogView {
        &self.view
    }

    /// What heads are signed with; its name is the origin.
    #[must_use]
    pub fn key(&self) -> &VerifierKey {
        &self.key
    }

    /// Keeps what witnesses add to the published head of this size; durable when this returns. Blocks.
    ///
    /// # Errors
    /// [`CosignError`]; then none was kept.
    pub fn cosign(&self, size: u64, lines: &[u8], witnesses: &dyn Witnesses) -> Result<usize, CosignError> {
        let taken = self.cosignatures.add(&self.view.published, size, lines, witnesses)?;
        self.view.metrics.cosignatures.inc_by(taken as u64);
        Ok(taken)
    }

    /// What witnesses have added.
    #[must_use]
    pub fn cosignatures(&self) -> &Cosignatures {
        &self.cosignatures
    }

    /// A tile or entry bundle, if it is of the newest head or an earlier one. Blocks.
    ///
    /// # Errors
    /// Any of the disk.
    pub fn tile(&self, path: &Resource) -> io::Result<Option<Vec<u8>>> {
        let place = growth::place(path);
        // What is on the disk beyond the newest head may still become something else.
        let published = Tile::of_tree(place.level(), place.index(), self.view.published.size());
        if published.is_none_or(|published| published.width() < place.width()) {
            return Ok(None);
        }
        self.disk.read(&path.to_string(), read::MAX_TILE)
    }

    /// The records from `from` to the end of the bundle that it is in, as far as they are published; none at the end of the log.
    /// Blocks.
    ///
    /// # Errors
    /// Any of the disk, and `InvalidData` for a file that is damaged.
    pub fn records(&self, from: u64) -> io::Result<Vec<(u64, Envelope)>> {
        let Some(bundle) = Bundle::with_entry(from, self.view.published.size()) else {
            return Ok(Vec::new());
        };
        let first = from - from % u64::from(WIDTH);
        let mut records = Vec::new();
        for (at, body) in read::entries(self.disk.as_ref(), bundle)?.iter().enumerate() {
            let index = first + at as u64;
            if index >= from {
                let entry = read::entry(bundle, at, body)?;
                records.push((index, read::envelope_of(self.disk.as_ref(), &entry)?));
            }
        }
        Ok(records)
    }

    /// A record and its index, if it is published. Blocks.
    ///
    /// # Errors
    /// Any of the disk, and `InvalidData` if the envelope is damaged.
    pub fn entry(&self, record: &Digest) -> io::Result<Option<(u64, Envelope)>> {
        let Some(index) = self.view.published.index(record) else { return Ok(None) };
        let envelope = read::envelope(self.disk.as_ref(), record);
        envelope.map(|envelope| Some((index, envelope))).map_err(io::Error::from)
    }
}

/// Reads what is on the disk and ends what a crash cut short.
fn writer(
    disk: &Arc<dyn Disk>,
    key: NoteKey,
    mut admit: Box<dyn Admit>,
    view: &LogView,
) -> Result<Writer, LogError> {
    let found = recover::recover(disk.as_ref(), key.public(), admit.as_mut())?;
    let mut writer = Writer {
        disk: disk.clone(),
        key,
        admit,
        published: view.published.clone(),
        metrics: view.metrics.clone(),
        tip: found.tip,
        folders: BTreeSet::new(),
    };
    writer.resume(found.head.as_ref(), found.records)?;
    writer.take_over(&found.tail)?;
    Ok(writer)
}

impl Drop for Log {
    fn drop(&mut self) {
        // The writer ends with its queue, and the lock goes after it.
        self.queue = None;
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}
