//! The start: everything that is on the disk is read before anything is written. What was published must be whole, or the log
//! does not start; what a crash left beyond the last head is taken over if it is whole, else it is as if it had never been.
use std::collections::HashSet;
use std::io;
use std::thread;

use muster_proof::Digest;
use muster_proof::dsse::Envelope;
use muster_proof::tlog::checkpoint::SignedCheckpoint;
use muster_proof::tlog::entry::Entry;
use muster_proof::tlog::note::VerifierKey;
use muster_proof::tlog::tile::{Bundle, WIDTH};

use super::admit::{Admit, Refusal};
use super::disk::Disk;
use super::growth::{Tip, place};
use super::layout;
use super::read::{self, ReadError};
use super::writer::Submission;

/// Why the log does not start.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The disk.
    #[error("the log cannot be read: {0}")]
    Io(#[from] io::Error),
    /// What was published is not there as it was.
    #[error(
        "the log is damaged: {0}. It does not start, since what it has published must stay; `muster log fsck DIR` says what is \
         wrong, `muster log rebuild DIR` makes tiles anew, all else is in a backup"
    )]
    Damaged(#[from] ReadError),
    /// The entries are others than the published ones.
    #[error(
        "the log is damaged: its first {size} entries have the root {got}, published was {want}. It does not start; `muster log \
         fsck DIR` says what is wrong, a backup has what is missing"
    )]
    Root {
        /// Entries under the head.
        size: u64,
        /// What is on the disk.
        got: Digest,
        /// What was published.
        want: Digest,
    },
    /// A head that witnesses have seen is gone.
    #[error(
        "the log went back: its head has {size} entries, but witnesses have cosigned one of {cosigned} (cosignatures/{cosigned}). \
         It was restored from an old backup, and to go on would fork it; restore the newest files"
    )]
    WentBack {
        /// Entries under the head.
        size: u64,
        /// Entries under the cosigned one.
        cosigned: u64,
    },
    /// There are tiles, but no head.
    #[error(
        "the log has entries, but no file `checkpoint`: restore it from a backup. If there is none, `muster log rebuild DIR` \
         makes it anew from all entries that are there"
    )]
    NoCheckpoint,
    /// What is in the log is refused by who decides what may be.
    #[error(
        "entry {index} of the log, record {record}, is refused: {refusal}; is this gateway of an older version?"
    )]
    Replay {
        /// Its index.
        index: u64,
        /// The record.
        record: Digest,
        /// Why.
        refusal: Refusal,
    },
}

/// What is on the disk.
pub struct Recovered {
    /// Where the log goes on.
    pub tip: Tip,
    /// The last head; none if nothing was published yet.
    pub head: Option<SignedCheckpoint>,
    /// All records under it, in order.
    pub records: Vec<Digest>,
    /// What a crash left beyond it.
    pub tail: Vec<Submission>,
}

/// Reads the log and shows `admit` every record.
///
/// # Errors
/// [`RecoverError`].
pub fn recover(disk: &dyn Disk, key: &VerifierKey, admit: &mut dyn Admit) -> Result<Recovered, RecoverError> {
    // A name that a killed process had not synced yet may be seen now and gone after a power cut: what is served must stay.
    disk.sync_folder("")?;
    let head = read::checkpoint(disk, key)?;
    if head.is_none() && !disk.list(layout::TILES)?.is_empty() {
        return Err(RecoverError::NoCheckpoint);
    }
    let size = head.as_ref().map_or(0, |head| head.checkpoint().size());
    let cosigned = disk.list(layout::COSIGNATURES)?.iter().filter_map(|name| name.parse().ok()).max();
    if let Some(cosigned) = cosigned.filter(|cosigned| *cosigned > size) {
        return Err(RecoverError::WentBack { size, cosigned });
    }
    let mut tip = Tip::default();
    let mut records = Vec::new();
    while tip.size() < size {
        let bundle =
            Bundle::with_entry(tip.size(), size).ok_or_else(|| io::Error::other("no such bundle"))?;
        let bodies = read::entries(disk, bundle)?;
        for read in each(disk, bundle, &bodies) {
            let (entry, envelope) = read?;
            replay(admit, records.len() as u64, &entry, &envelope)?;
            records.push(entry.record_id());
        }
        let growth = tip.grow(bodies.iter().map(Vec::as_slice))?;
        tip = growth.tip;
        // Partial tiles within the log may never have been written: only those of the head itself must be there.
        let is_last = tip.size() == size;
        for (path, bytes) in growth.files.iter().filter(|(path, _)| is_last || place(path).is_full()) {
            read::same(disk, path, bytes)?;
        }
    }
    if let Some(head) = &head
        && *head.checkpoint().root() != tip.root()
    {
        return Err(RecoverError::Root { size, got: tip.root(), want: *head.checkpoint().root() });
    }
    let known: HashSet<_> = records.iter().copied().collect();
    let tail = tail(disk, &tip, &known)?;
    sweep(disk)?;
    Ok(Recovered { tip, head, records, tail })
}

/// The entries of a bundle with their envelopes; that signatures verify takes the time, so all cores do it.
pub fn each(
    disk: &dyn Disk,
    bundle: Bundle,
    bodies: &[Vec<u8>],
) -> Vec<Result<(Entry, Envelope), ReadError>> {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let part = bodies.len().div_ceil(threads).max(1);
    let one = |at: usize, body: &Vec<u8>| {
        let entry = read::entry(bundle, at, body)?;
        let envelope = read::envelope_of(disk, &entry)?;
        Ok((entry, envelope))
    };
    thread::scope(|scope| {
        let parts = bodies.chunks(part).zip((0..).step_by(part));
        let work: Vec<_> = parts
            .map(|(bodies, first)| {
                let read =
                    move || bodies.iter().zip(first..).map(|(body, at)| one(at, body)).collect::<Vec<_>>();
                scope.spawn(read)
            })
            .collect();
        let panicked = || vec![Err(io::Error::other("a reader has panicked").into())];
        work.into_iter().flat_map(|part| part.join().unwrap_or_else(|_| panicked())).collect()
    })
}

/// One entry that was published.
fn replay(admit: &mut dyn Admit, index: u64, entry: &Entry, envelope: &Envelope) -> Result<(), RecoverError> {
    let record = entry.record_id();
    let refused = |refusal| RecoverError::Replay { index, record, refusal };
    let known = std::slice::from_ref(entry.key());
    if admit.signer(envelope, known).is_none_or(|signer| signer != *entry.key()) {
        let message = "the key of its leaf is not the one that the log's records name";
        return Err(refused(Refusal::conflict("UnknownSigner", message)));
    }
    admit.admit(index, envelope).map_err(refused)
}

/// Entries beyond the head, up to the first that is not whole.
fn tail(disk: &dyn Disk, tip: &Tip, known: &HashSet<Digest>) -> Result<Vec<Submission>, RecoverError> {
    let mut found = Vec::new();
    let mut own = tip.bundle().to_vec();
    let mut index = tip.size() / u64::from(WIDTH);
    loop {
        let bodies = read::longest_entries(disk, index, &own)?;
        for body in bodies.iter().skip(own.len()) {
            match whole(disk, body, known) {
                Some(submission) => found.push(submission),
                None => return Ok(found),
            }
        }
        if bodies.len() < usize::from(WIDTH) {
            return Ok(found);
        }
        own.clear();
        index += 1;
    }
}

/// The record of an entry, if all of it is there.
fn whole(disk: &dyn Disk, body: &[u8], known: &HashSet<Digest>) -> Option<Submission> {
    let entry = Entry::parse(body).ok()?;
    let envelope = read::envelope_of(disk, &entry).ok()?;
    (!known.contains(&entry.record_id())).then(|| Submission { envelope, known: vec![entry.key().clone()] })
}

/// Removes envelopes that were half-written.
fn sweep(disk: &dyn Disk) -> io::Result<()> {
    for folder in disk.list(layout::ENVELOPES)? {
        let folder = format!("{}/{folder}", layout::ENVELOPES);
        for name in disk.list(&folder)?.into_iter().filter(|name| name.starts_with('.')) {
            disk.remove(&format!("{folder}/{name}"))?;
        }
    }
    Ok(())
}
