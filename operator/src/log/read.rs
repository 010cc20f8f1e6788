//! The files of a log as values. Every reader names the file that is wrong.
use std::io;

use muster_proof::Digest;
use muster_proof::dsse::Envelope;
use muster_proof::tlog::checkpoint::SignedCheckpoint;
use muster_proof::tlog::entry::{Entry, MAX_ENTRY};
use muster_proof::tlog::note::{MAX_NOTE, VerifierKey};
use muster_proof::tlog::tile::{Bundle, Resource, Tile, WIDTH, parse_entries};

use super::disk::Disk;
use super::growth::{bundle, place};
use super::layout;

/// No tile or bundle is longer: 256 entries and their lengths.
pub const MAX_TILE: u64 = 256 * (MAX_ENTRY as u64 + 2);
/// No envelope is longer, in JSON: its payload in base64, and a little.
const MAX_ENVELOPE: u64 = 2 << 20;

/// A file is not what it must be.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The disk.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It is not there.
    #[error("{file} is missing")]
    Missing {
        /// Relative to the log's directory.
        file: String,
    },
    /// It is there, and wrong.
    #[error("{file}: {problem}")]
    Wrong {
        /// Relative to the log's directory.
        file: String,
        /// Why.
        problem: String,
    },
}

impl From<ReadError> for io::Error {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Io(error) => error,
            other => Self::new(io::ErrorKind::InvalidData, other),
        }
    }
}

fn wrong(file: impl Into<String>, problem: impl std::fmt::Display) -> ReadError {
    ReadError::Wrong { file: file.into(), problem: problem.to_string() }
}

/// Bytes of a file that must be there.
fn bytes(disk: &dyn Disk, file: String, max: u64) -> Result<Vec<u8>, ReadError> {
    match disk.read(&file, max) {
        Ok(Some(bytes)) => Ok(bytes),
        Ok(None) => Err(ReadError::Missing { file }),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(wrong(file, error)),
        Err(error) => Err(error.into()),
    }
}

/// The newest head, if one was published.
pub fn checkpoint(disk: &dyn Disk, key: &VerifierKey) -> Result<Option<SignedCheckpoint>, ReadError> {
    match bytes(disk, layout::CHECKPOINT.to_owned(), MAX_NOTE as u64) {
        Ok(note) => {
            let head = SignedCheckpoint::open(&note, std::slice::from_ref(key))
                .map_err(|error| wrong(layout::CHECKPOINT, error))?;
            if head.note().signatures().len() != 1 {
                return Err(wrong(layout::CHECKPOINT, "it has more signatures than the log's own"));
            }
            Ok(Some(head))
        }
        Err(ReadError::Missing { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A tile or bundle, `None` if it is not there. Instead of a partial one the full one of its place is not taken here.
pub fn resource(disk: &dyn Disk, resource: &Resource) -> Result<Option<Vec<u8>>, ReadError> {
    match bytes(disk, resource.to_string(), MAX_TILE) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(ReadError::Missing { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The entries of a bundle: from its file, or from the full one in its place.
pub fn entries(disk: &dyn Disk, wanted: Bundle) -> Result<Vec<Vec<u8>>, ReadError> {
    let path = Resource::Entries(wanted);
    if let Some(data) = resource(disk, &path)? {
        return parse(wanted, &data);
    }
    let full = wanted.tile().full().and_then(Bundle::of).filter(|full| *full != wanted);
    if let Some(full) = full
        && let Some(data) = resource(disk, &Resource::Entries(full))?
    {
        let mut entries = parse(full, &data)?;
        entries.truncate(usize::from(wanted.tile().width()));
        return Ok(entries);
    }
    Err(ReadError::Missing { file: path.to_string() })
}

fn parse(bundle: Bundle, data: &[u8]) -> Result<Vec<Vec<u8>>, ReadError> {
    let entries = parse_entries(bundle, data).map_err(|error| wrong(bundle.to_string(), error))?;
    Ok(entries.into_iter().map(<[u8]>::to_vec).collect())
}

/// The longest bundle at this place that begins with `own` entries; these alone if there is none.
pub fn longest_entries(disk: &dyn Disk, index: u64, own: &[Vec<u8>]) -> Result<Vec<Vec<u8>>, ReadError> {
    let Some(full) = bundle(index, WIDTH) else { return Ok(own.to_vec()) };
    let mut found = vec![full];
    let partial = disk.list(&format!("{full}.p"))?;
    let mut widths: Vec<u16> = partial.iter().filter_map(|name| name.parse().ok()).collect();
    widths.sort_unstable_by(|a, b| b.cmp(a));
    found.extend(widths.into_iter().filter_map(|width| bundle(index, width)));
    for bundle in found.into_iter().filter(|bundle| usize::from(bundle.tile().width()) > own.len()) {
        // What is damaged here was never published: a shorter one may do.
        let Some(data) = resource(disk, &Resource::Entries(bundle)).ok().flatten() else { continue };
        match parse(bundle, &data) {
            Ok(entries) if entries.starts_with(own) => return Ok(entries),
            _ => {}
        }
    }
    Ok(own.to_vec())
}

/// An entry, its signature checked.
pub fn entry(bundle: Bundle, at: usize, body: &[u8]) -> Result<Entry, ReadError> {
    Entry::parse(body)
        .map_err(|error| wrong(bundle.to_string(), format!("entry {at} of the bundle: {error}")))
}

/// The envelope of a record.
pub fn envelope(disk: &dyn Disk, record: &Digest) -> Result<Envelope, ReadError> {
    let file = layout::envelope(record);
    let bytes = bytes(disk, file.clone(), MAX_ENVELOPE)?;
    let envelope = Envelope::parse(&bytes, bytes.len()).map_err(|error| wrong(&file, error))?;
    let id = envelope.record_id();
    if id != *record {
        return Err(wrong(file, format!("it is the envelope of record {id}")));
    }
    if envelope.to_json().is_ok_and(|json| json == bytes) {
        Ok(envelope)
    } else {
        Err(wrong(file, "it is not in canonical JSON, as it was written"))
    }
}

/// The envelope from which an entry was made.
pub fn envelope_of(disk: &dyn Disk, entry: &Entry) -> Result<Envelope, ReadError> {
    let envelope = envelope(disk, &entry.record_id())?;
    let first = envelope.signatures().first();
    let is_its =
        first.is_some_and(|first| first.keyid == entry.key().key_id() && first.sig == entry.signature());
    if !is_its {
        return Err(wrong(
            layout::envelope(&entry.record_id()),
            "its first signature is not that of its entry",
        ));
    }
    Ok(envelope)
}

/// That a file which was published is there as it was. A partial one may have given way to the full one of its place.
pub fn same(disk: &dyn Disk, path: &Resource, want: &[u8]) -> Result<(), ReadError> {
    let differs = || wrong(path.to_string(), "it is not what its entries give");
    if let Some(got) = resource(disk, path)? {
        return if got == want { Ok(()) } else { Err(differs()) };
    }
    let full = place(path).full().filter(|full: &Tile| *full != place(path));
    let full = full.and_then(|full| match path {
        Resource::Tile(_) => Some(Resource::Tile(full)),
        Resource::Entries(_) => Bundle::of(full).map(Resource::Entries),
    });
    let found = match &full {
        Some(full) => resource(disk, full)?,
        None => None,
    };
    match found {
        Some(bytes) if bytes.starts_with(want) => Ok(()),
        Some(_) => Err(differs()),
        None => Err(ReadError::Missing { file: path.to_string() }),
    }
}
