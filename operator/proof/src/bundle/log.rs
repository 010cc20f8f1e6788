//! The log's part: that the entries are all of the log's, in its order, and that each record is the one that its entry names.

use std::collections::{BTreeMap, BTreeSet};

use super::verify::Reader;
use super::{Bundle, RecordRef, Report};
use crate::dsse::Envelope;
use crate::tlog::checkpoint::Checkpoint;
use crate::tlog::entry::Entry;
use crate::tlog::tile::{self, Tile, WIDTH, parse_entries};
use crate::{Digest, merkle, records};

/// A record whose envelope is its entry's.
pub(super) struct Shown {
    pub index: u64,
    pub envelope: Envelope,
    pub file: String,
}

/// An entry without an envelope.
pub(super) struct Hidden {
    pub index: u64,
    /// The key that signed it.
    pub key: Digest,
}

/// What the log's part gives to the job's.
#[derive(Default)]
pub(super) struct Opened {
    pub shown: Vec<Shown>,
    pub hidden: Vec<Hidden>,
}

/// Checks entries and envelopes against the head.
pub(super) fn open(report: &mut Report, reader: &Reader<'_>, bundle: &Bundle, head: &Checkpoint) -> Opened {
    let all = match &bundle.entries {
        Some(_) => all_entries(report, reader, bundle, head),
        None => {
            let what = "the bundle has not all entries of the log, so nothing shows that no record of the job was left out";
            report.lacks("log", what, None);
            None
        }
    };
    let mut opened = Opened::default();
    let mut wrong = 0u64;
    for record in &bundle.records {
        match shown(reader, record, all.as_ref(), head) {
            Ok(shown) => opened.shown.push(shown),
            Err(Problem { refuted, what, file }) => {
                wrong += 1;
                let what = format!("record {} of the log: {what}", record.index);
                if refuted {
                    report.refute("records", what, Some(&file));
                } else {
                    report.lacks("records", what, Some(&file));
                }
            }
        }
    }
    if wrong == 0 {
        let what = format!("{} envelopes are those of their entries in the log", opened.shown.len());
        report.holds("records", what);
    }
    let listed: BTreeSet<u64> = bundle.records.iter().map(|record| record.index).collect();
    let hidden = all.iter().flatten().filter(|(index, _)| !listed.contains(index));
    opened.hidden =
        hidden.map(|(index, entry)| Hidden { index: *index, key: entry.key().key_id() }).collect();
    opened
}

/// All entries of the log, if they have the head's root.
fn all_entries(
    report: &mut Report,
    reader: &Reader<'_>,
    bundle: &Bundle,
    head: &Checkpoint,
) -> Option<BTreeMap<u64, Entry>> {
    let files = bundle.entries.as_deref().unwrap_or_default();
    let size = head.size();
    if files.len() as u64 != size.div_ceil(u64::from(WIDTH)) {
        let what = format!("{} files of entries cannot be the {size} entries of the checkpoint", files.len());
        report.refute("log", what, Some(super::FILE));
        return None;
    }
    let (mut tree, mut entries, mut records) = (merkle::TreeHasher::new(), BTreeMap::new(), BTreeSet::new());
    let mut wrong = Vec::new();
    for (at, file) in (0u64..).zip(files) {
        let name = file.name();
        let Some(data) = reader.read(file) else {
            report.lacks("log", "entries cannot be read, so the log's root cannot be computed", Some(&name));
            return None;
        };
        let place = Tile::of_tree(0, at, size).and_then(tile::Bundle::of);
        let bodies = place.map(|place| parse_entries(place, &data));
        let bodies = match bodies {
            Some(Ok(bodies)) => bodies,
            Some(Err(error)) => {
                report.refute("log", error.to_string(), Some(&name));
                return None;
            }
            None => return None,
        };
        let first = at * u64::from(WIDTH);
        for (index, body) in (first..).zip(bodies) {
            tree.push(body);
            match Entry::parse(body) {
                Ok(entry) if records.insert(entry.record_id()) => {
                    entries.insert(index, entry);
                }
                Ok(entry) => {
                    let what = format!("entry {index}: record {} is in the log before", entry.record_id());
                    wrong.push((what, name.clone()));
                }
                Err(error) => wrong.push((format!("entry {index}: {error}"), name.clone())),
            }
        }
    }
    if tree.root() != *head.root() {
        let what = format!(
            "the root over the {size} entries is {}, the log has signed {}",
            tree.root(),
            head.root()
        );
        report.refute("log", what, Some(&bundle.checkpoint.name()));
        return None;
    }
    for (what, file) in &wrong {
        report.refute("log", what.clone(), Some(file));
    }
    if wrong.is_empty() {
        let what =
            format!("the {size} entries have the root that the log has signed, each with a good signature");
        report.holds("log", what);
    }
    Some(entries)
}

struct Problem {
    refuted: bool,
    what: String,
    file: String,
}

/// An envelope that is its entry's.
fn shown(
    reader: &Reader<'_>,
    record: &RecordRef,
    all: Option<&BTreeMap<u64, Entry>>,
    head: &Checkpoint,
) -> Result<Shown, Problem> {
    let file = record.envelope.name();
    let refuted = |what: String| Problem { refuted: true, what, file: file.clone() };
    let lacks = |what: &str, file: String| Problem { refuted: false, what: what.to_owned(), file };
    let from_list =
        |what: &str| Problem { refuted: true, what: what.to_owned(), file: super::FILE.to_owned() };
    if record.envelope.size > records::MAX_ENVELOPE as u64 {
        return Err(from_list("no envelope is so long"));
    }
    let bytes =
        reader.read(&record.envelope).ok_or_else(|| lacks("its envelope cannot be read", file.clone()))?;
    let envelope =
        Envelope::parse(&bytes, records::MAX_ENVELOPE).map_err(|error| refuted(error.to_string()))?;
    if !envelope.to_json().is_ok_and(|json| json == bytes) {
        return Err(refuted("the envelope is not in canonical JSON".to_owned()));
    }
    let read;
    let entry = match (&record.leaf, all) {
        (Some(leaf), _) => {
            let name = leaf.name();
            let body = reader.read(leaf).ok_or_else(|| lacks("its entry cannot be read", name.clone()))?;
            let wrong = |what: String| Problem { refuted: true, what, file: name.clone() };
            read = Entry::parse(&body).map_err(|error| wrong(error.to_string()))?;
            &read
        }
        (None, Some(all)) => all
            .get(&record.index)
            .ok_or_else(|| from_list("the log has no such entry under this checkpoint"))?,
        (None, None) => return Err(lacks("the entries cannot be read", super::FILE.to_owned())),
    };
    if !merkle::verify(head.root(), record.index, head.size(), &entry.leaf(), &record.proof) {
        return Err(from_list("its proof does not lead to the checkpoint's root"));
    }
    let first = envelope.signatures().first();
    let is_its = entry.record_id() == envelope.record_id()
        && first.is_some_and(|first| first.keyid == entry.key().key_id() && first.sig == entry.signature());
    if !is_its {
        let id = envelope.record_id();
        return Err(refuted(format!("the entry is of record {}, the envelope is {id}", entry.record_id())));
    }
    Ok(Shown { index: record.index, envelope, file })
}
