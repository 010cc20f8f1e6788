//! The start: everything that is on the disk is read before anything is written. What was published must be whole, or the log
//! does not start; what a crash left beyond the last head is taken over if it is whole, else it is as if it had never been.
use std::collections::HashSet;
use std::io;

use muster_proof::Digest;
use muster_proof::tlog::checkpoint::SignedCheckpoint;
use muster_proof::tlog::entry::Entry;
use muster_proof::tlog::note::VerifierKey;

use super::admit::{Admit, Refusal};
use super::disk::Disk;
use super::growth::Tip;
use super::layout;
use super::read::{self, ReadError};
use super::tiles::WIDTH;
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
    /// There are tiles, but no head.
    #[error(
        "the log has entries, but no file `checkpoint`: restore it from a backup. If there is none, `muster log rebuild DIR` \
         makes it anew from all entries that are there"
    )]
    NoCheckpoint,
    /// What is in the log is refused by who decides what may be.
    #[error("entry {index} of the log, record {record}, is refused: {refusal}; is this gateway of an older version?")]
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
pub fn recover(
    disk: &dyn Disk,
    key: &VerifierKey,
    admit: &mut dyn Admit,
) -> Result<Recovered, RecoverError> {
    // A name that a killed process had not synced yet may be seen now and gone after a power cut: what is served must stay.
    disk.sync_folder("")?;
    let head = read::checkpoint(disk, key)?;
    if head.is_none() && !disk.list(layout::TILES)?.is_empty() {
        return Err(RecoverError::NoCheckpoint);
    }
    let size = head.as_ref().map_or(0, |head| head.checkpoint().size());
    let mut tip = Tip::default();
    let mut records = Vec::new();
    while tip.size() < size {
        let index = tip.size() / WIDTH;
        let width = WIDTH.min(size - index * WIDTH);
        let bundle = read::entries(disk, index, width)?;
        for body in &bundle {
            let at = records.len() as u64;
            let record = replay(disk, admit, at, body)?;
            records.push(record);
        }
        let growth = tip.grow(bundle.iter().map(Vec::as_slice))?;
        // Of the last tiles these are the partial ones of the head, as they were written with it.
        for (path, bytes) in &growth.files {
            read::same(disk, path, bytes)?;
        }
        tip = growth.tip;
        if tip.size() == size {
            check_root(size, growth.root, head.as_ref())?;
        }
    }
    let known: HashSet<_> = records.iter().copied().collect();
    let tail = tail(disk, &tip, &known)?;
    sweep(disk)?;
    Ok(Recovered { tip, head, records, tail })
}

fn check_root(size: u64, got: Digest, head: Option<&SignedCheckpoint>) -> Result<(), RecoverError> {
    match head.map(|head| *head.checkpoint().root()) {
        Some(want) if want != got => Err(RecoverError::Root { size, got, want }),
        _ => Ok(()),
    }
}

/// One entry that was published. That its signature is good was checked when it came; its bytes are those of the root.
fn replay(
    disk: &dyn Disk,
    admit: &mut dyn Admit,
    index: u64,
    body: &[u8],
) -> Result<Digest, RecoverError> {
    let entry = read::entry(index, body)?;
    let record = entry.record_id();
    let envelope = read::envelope(disk, index, &record)?;
    let refused = |refusal| RecoverError::Replay { index, record, refusal };
    let known = std::slice::from_ref(entry.key());
    if admit.signer(&envelope, known).is_none_or(|signer| signer != *entry.key()) {
        let message = "the key of its leaf is not the one that the log's records name";
        return Err(refused(Refusal::conflict("UnknownSigner", message)));
    }
    admit.admit(index, &envelope).map_err(refused)?;
    Ok(record)
}

/// Entries beyond the head, up to the first that is not whole.
fn tail(disk: &dyn Disk, tip: &Tip, known: &HashSet<Digest>) -> Result<Vec<Submission>, RecoverError> {
    let mut found = Vec::new();
    let mut own = tip.bundle().to_vec();
    let mut index = tip.size() / WIDTH;
    loop {
        let bundle = read::longest_entries(disk, index, &own)?;
        for body in bundle.iter().skip(own.len()) {
            match whole(disk, body, known) {
                Some(submission) => found.push(submission),
                None => return Ok(found),
            }
        }
        if (bundle.len() as u64) < WIDTH {
            return Ok(found);
        }
        own.clear();
        index += 1;
    }
}

/// The record of an entry, if all of it is there.
fn whole(disk: &dyn Disk, body: &[u8], known: &HashSet<Digest>) -> Option<Submission> {
    let entry = Entry::parse(body).ok()?;
    let record = entry.record_id();
    let envelope = read::envelope(disk, 0, &record).ok()?;
    let again = Entry::of(&envelope, entry.key()).ok()?;
    (again.body() == body && !known.contains(&record))
        .then(|| Submission { envelope, known: vec![entry.key().clone()] })
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
