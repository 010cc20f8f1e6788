//! `muster log fsck` reads everything and says what is wrong, by file; `muster log rebuild` makes tiles and head anew from the
//! entries. Neither asks what the records mean: that is `muster verify`'s.
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;

use muster_proof::Digest;
use muster_proof::tlog::checkpoint::SignedCheckpoint;
use muster_proof::tlog::note::{NoteKey, VerifierKey};
use muster_proof::tlog::tile::{Bundle, Resource, Tile, WIDTH, parse_entries};

use super::cosignatures;
use super::disk::{Disk, Writing};
use super::growth::{Tip, place};
use super::recover::each;
use super::{layout, read, writer};

/// No more problems are listed: a log whose disk is gone has one for each entry.
const MAX_PROBLEMS: usize = 1000;

/// What was found.
#[derive(Debug, Default)]
pub struct Report {
    /// Entries that were read.
    pub entries: u64,
    /// What is wrong, each with its file.
    pub problems: Vec<String>,
    /// Envelopes that no entry names: a crash left them, and they do no harm.
    pub orphans: usize,
}

impl Report {
    fn add(&mut self, problem: impl std::fmt::Display) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(problem.to_string());
        }
    }
}

/// Checks all of a log, which may be in use.
///
/// # Errors
/// The disk's, where they are no finding.
pub fn check(disk: &dyn Disk, key: &VerifierKey) -> io::Result<Report> {
    let mut report = Report::default();
    // First: what is published later does no harm to what is read now.
    let cosigned = cosigned(disk, key, &mut report)?;
    let head = match read::checkpoint(disk, key) {
        Ok(Some(head)) => head,
        Ok(None) => {
            report.add(format_args!(
                "{} is missing: nothing says which entries were published",
                layout::CHECKPOINT
            ));
            return Ok(report);
        }
        Err(error) => {
            report.add(error);
            return Ok(report);
        }
    };
    let size = head.checkpoint().size();
    let mut tip = Tip::default();
    let mut records: HashMap<Digest, u64> = HashMap::new();
    while let Some(bundle) = Bundle::with_entry(tip.size(), size) {
        let bodies = match read::entries(disk, bundle) {
            Ok(bodies) => bodies,
            Err(error) => {
                report.add(format_args!("{error}; entries from {} on were not checked", tip.size()));
                return Ok(report);
            }
        };
        for (index, found) in (tip.size()..).zip(each(disk, bundle, &bodies)) {
            match found {
                Ok((entry, _)) => {
                    if let Some(first) = records.insert(entry.record_id(), index) {
                        report.add(format_args!(
                            "{bundle}: entry {index} is the record of entry {first} again"
                        ));
                    }
                }
                Err(error) => report.add(format_args!("entry {index}: {error}")),
            }
        }
        compare(&tip, &bodies, &cosigned, &mut report)?;
        let growth = tip.grow(bodies.iter().map(Vec::as_slice))?;
        tip = growth.tip;
        report.entries = tip.size();
        let is_last = tip.size() == size;
        for (path, bytes) in growth.files.iter().filter(|(path, _)| is_last || place(path).is_full()) {
            if let Err(error) = read::same(disk, path, bytes) {
                report.add(error);
            }
            partials(disk, path, bytes, &mut report)?;
        }
    }
    if tip.root() != *head.checkpoint().root() {
        report.add(format_args!(
            "{}: its root is {}, that of the first {size} entries {}",
            layout::CHECKPOINT,
            head.checkpoint().root(),
            tip.root()
        ));
    }
    for later in cosigned.keys().filter(|later| **later > size) {
        report.add(format_args!(
            "{}: witnesses have cosigned a head of {later} entries, {} has {size}: the log went back",
            layout::cosignatures(*later),
            layout::CHECKPOINT
        ));
    }
    envelopes(disk, &records, &mut report)?;
    Ok(report)
}

/// Heads that witnesses have seen.
fn cosigned(
    disk: &dyn Disk,
    key: &VerifierKey,
    report: &mut Report,
) -> io::Result<BTreeMap<u64, SignedCheckpoint>> {
    let mut found = BTreeMap::new();
    for name in disk.list(layout::COSIGNATURES)?.into_iter().filter(|name| !name.starts_with('.')) {
        match cosignatures::read(disk, key, &name)? {
            Some(note) => {
                found.insert(note.checkpoint().size(), note);
            }
            None => report.add(format_args!("{}/{name}: not a head of this log", layout::COSIGNATURES)),
        }
    }
    Ok(found)
}

/// Compares the cosigned heads that end within these entries.
fn compare(
    tip: &Tip,
    bodies: &[Vec<u8>],
    cosigned: &BTreeMap<u64, SignedCheckpoint>,
    report: &mut Report,
) -> io::Result<()> {
    let end = tip.size() + bodies.len() as u64;
    for (size, note) in cosigned.range(tip.size() + 1..=end) {
        let part = usize::try_from(size - tip.size()).map_err(io::Error::other)?;
        let root = tip.grow(bodies.iter().take(part).map(Vec::as_slice))?.root;
        if root != *note.checkpoint().root() {
            report.add(format_args!(
                "{}: its root is {}, that of the first {size} entries {root}: the log was forked",
                layout::cosignatures(*size),
                note.checkpoint().root()
            ));
        }
    }
    Ok(())
}

/// Compares the partial files of heads before the last with this one of their place; longer ones were never published.
fn partials(disk: &dyn Disk, path: &Resource, bytes: &[u8], report: &mut Report) -> io::Result<()> {
    let own = place(path).width();
    let Some(full) = of_width(path, WIDTH) else { return Ok(()) };
    for name in disk.list(&format!("{full}.p"))? {
        let width = name.parse::<u16>().ok().filter(|width| *width < own);
        let Some(partial) = width.and_then(|width| of_width(path, width)) else { continue };
        let is_its = match (read::resource(disk, &partial), partial) {
            (Ok(Some(got)), Resource::Tile(tile)) => got.len() == tile.length() && bytes.starts_with(&got),
            (Ok(Some(got)), Resource::Entries(bundle)) => {
                bytes.starts_with(&got) && parse_entries(bundle, &got).is_ok()
            }
            // It has given way to the full one meanwhile.
            (Ok(None), _) => true,
            (Err(_), _) => false,
        };
        if !is_its {
            report.add(format_args!("{partial}: it is not the beginning of {path}"));
        }
    }
    Ok(())
}

/// The file of the same place with another width.
fn of_width(path: &Resource, width: u16) -> Option<Resource> {
    let at = place(path);
    let tile = Tile::new(at.level(), at.index(), width).ok()?;
    match path {
        Resource::Tile(_) => Some(Resource::Tile(tile)),
        Resource::Entries(_) => Bundle::of(tile).map(Resource::Entries),
    }
}

/// Looks for envelopes that are nothing of this log's.
fn envelopes(disk: &dyn Disk, records: &HashMap<Digest, u64>, report: &mut Report) -> io::Result<()> {
    for two in disk.list(layout::ENVELOPES)? {
        let folder = format!("{}/{two}", layout::ENVELOPES);
        for name in disk.list(&folder)?.into_iter().filter(|name| !name.starts_with('.')) {
            match Digest::from_hex(&name) {
                Ok(record) if name.starts_with(&two) => {
                    report.orphans += usize::from(!records.contains_key(&record));
                }
                _ => report.add(format_args!("{folder}/{name}: not the name of an envelope")),
            }
        }
    }
    Ok(())
}

/// Why tiles were not made anew. Nothing was changed then, or only tiles that were wrong.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// The disk.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Entries, envelopes or the head are not what they must be.
    #[error("{0}; rebuild needs every entry and envelope as it was: restore it from a backup")]
    Read(#[from] read::ReadError),
    /// The head cannot be read, so nothing says what was published.
    #[error(
        "{0}; restore it from a backup, or remove it to have a head made over all entries that are there"
    )]
    Head(read::ReadError),
    /// The entries do not give what was published.
    #[error(
        "the {entries} entries that are there do not extend the head of size {size} in {file}: entries are missing or changed; \
         restore them from a backup"
    )]
    NotExtended {
        /// Entries that were read.
        entries: u64,
        /// Of the published head.
        size: u64,
        /// Where it is.
        file: String,
    },
}

/// Makes tiles and head anew; nobody else writes meanwhile. Returns how many entries the log has.
///
/// # Errors
/// [`RebuildError`].
pub fn rebuild(disk: &dyn Disk, key: &NoteKey) -> Result<u64, RebuildError> {
    let head = read::checkpoint(disk, key.public()).map_err(RebuildError::Head)?;
    let mut published: BTreeMap<u64, (Digest, String)> = BTreeMap::new();
    for (size, note) in cosigned(disk, key.public(), &mut Report::default())? {
        published.insert(size, (*note.checkpoint().root(), layout::cosignatures(size)));
    }
    let size = head.map(|head| {
        let head = head.checkpoint();
        published.insert(head.size(), (*head.root(), layout::CHECKPOINT.to_owned()));
        head.size()
    });
    // Everything is compared before anything is written.
    let tip = walk(disk, size, |tip, bodies| {
        for (size, (root, file)) in published.range(tip.size() + 1..=tip.size() + bodies.len() as u64) {
            let part = usize::try_from(size - tip.size()).map_err(io::Error::other)?;
            if tip.grow(bodies.iter().take(part).map(Vec::as_slice))?.root != *root {
                let entries = tip.size() + bodies.len() as u64;
                return Err(RebuildError::NotExtended { entries, size: *size, file: file.clone() });
            }
        }
        Ok(())
    })?;
    if let Some((size, (_, file))) = published.range(tip.size() + 1..).next() {
        return Err(RebuildError::NotExtended { entries: tip.size(), size: *size, file: file.clone() });
    }
    let mut folders = BTreeSet::new();
    let end = tip.size();
    walk(disk, Some(end), |tip, bodies| {
        let growth = tip.grow(bodies.iter().map(Vec::as_slice))?;
        let is_last = growth.tip.size() == end;
        let mut writing = Writing::new(disk, &mut folders);
        for (path, bytes) in growth.files.iter().filter(|(path, _)| is_last || place(path).is_full()) {
            writing.put(&path.to_string(), bytes)?;
        }
        Ok(writing.finish()?)
    })?;
    let note = writer::sign(key, end, tip.root())?;
    let mut writing = Writing::new(disk, &mut folders);
    writing.put(layout::CHECKPOINT, note.as_bytes())?;
    writing.finish()?;
    Ok(end)
}

/// Goes through the first `size` entries, or all that are there, bundle by bundle; each is whole and has its envelope.
fn walk(
    disk: &dyn Disk,
    size: Option<u64>,
    mut visit: impl FnMut(&Tip, &[Vec<u8>]) -> Result<(), RebuildError>,
) -> Result<Tip, RebuildError> {
    let mut tip = Tip::default();
    loop {
        let bodies = match size {
            Some(size) => match Bundle::with_entry(tip.size(), size) {
                Some(bundle) => read::entries(disk, bundle)?,
                None => return Ok(tip),
            },
            None => read::longest_entries(disk, tip.size() / u64::from(WIDTH), &[])?,
        };
        let width = u16::try_from(bodies.len()).map_err(io::Error::other)?;
        let Some(bundle) = super::growth::bundle(tip.size() / u64::from(WIDTH), width) else {
            return Ok(tip);
        };
        each(disk, bundle, &bodies).into_iter().try_for_each(|found| found.map(drop))?;
        visit(&tip, &bodies)?;
        tip = tip.grow(bodies.iter().map(Vec::as_slice))?.tip;
        if width < WIDTH {
            return Ok(tip);
        }
    }
}
