//! A job's bundle: its list, and the whole check over files that somebody else made.
use std::collections::BTreeMap;

use muster_proof::Digest;
use muster_proof::bundle::{
    Bundle, FILE, FORMAT, FileRef, Hints, Manifest, Options, Outcome, Trust, verify_bundle,
};
use muster_proof::hub_keys;
use muster_proof::key::SigningKey;
use muster_proof::merkle;
use muster_proof::records::JobId;
use muster_proof::tlog::checkpoint::{Checkpoint, SignedCheckpoint};
use muster_proof::tlog::entry::Entry;
use muster_proof::tlog::note::{Algorithm, KeyName, NoteKey};
use muster_proof::tlog::tile::encode_entries;

use crate::Target;

const ORIGIN: &str = "hub.example/log";

pub fn targets() -> Vec<Target> {
    vec![
        Target { name: "bundle-list", run: list, seeds: list_seeds },
        Target { name: "bundle", run: whole, seeds: whole_seeds },
    ]
}

/// What is read is written as the same bytes.
fn list(bytes: &[u8]) {
    if let Ok(bundle) = Bundle::parse(bytes) {
        assert_eq!(bundle.to_bytes().ok().as_deref(), Some(bytes));
        assert!(bundle.files().len() >= 3);
    }
    let _ = Manifest::parse(bytes);
}

/// Files, each after its length in four bytes: the first is the list, the others have their digests as names.
fn whole(bytes: &[u8]) {
    let mut files = BTreeMap::new();
    let mut rest = bytes;
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(0).min(after.len());
        let (file, after) = after.split_at(length);
        let name = if files.is_empty() { FILE.to_owned() } else { Digest::of(file).to_hex() };
        files.insert(name, file.to_vec());
        rest = after;
    }
    let report = verify_bundle(&files, &Trust::Bundle, Options::default());
    assert!(!report.checks.is_empty() && report.weak);
    let worst = report.checks.iter().map(|check| check.outcome).max();
    assert_eq!(worst, Some(report.outcome));
    // Without the record of a job nothing holds.
    assert!(report.job.is_some() || report.outcome != Outcome::Holds);
    assert!(!report.to_string().is_empty() && serde_json::to_vec(&report).is_ok());
}

/// A log of one entry, the hub's keys, and the bundle of a job that it does not have.
fn made() -> Option<Vec<Vec<u8>>> {
    let hub = SigningKey::generate([1; 32]).ok()?;
    let envelope = hub_keys::sign(1, &[hub.public()], &hub).ok()?;
    let leaf = Entry::of(&envelope, hub.public()).ok()?.body().to_vec();
    let key = NoteKey::new(KeyName::new(ORIGIN).ok()?, Algorithm::Ed25519, [2; 32]);
    let head = Checkpoint::new(ORIGIN, 1, merkle::leaf(&leaf)).ok()?;
    let head = SignedCheckpoint::sign(head, &key).ok()?.to_string().into_bytes();
    let (entries, envelope) = (encode_entries(&[&leaf]).ok()?, envelope.to_json().ok()?);
    let (spec, dataset) = (b"{}".to_vec(), b"[]".to_vec());
    let records = vec![muster_proof::bundle::RecordRef {
        envelope: FileRef::of(&envelope),
        index: 0,
        leaf: None,
        proof: vec![],
    }];
    let bundle = Bundle {
        format: FORMAT.to_owned(),
        checkpoint: FileRef::of(&head),
        dataset: FileRef::of(&dataset),
        entries: Some(vec![FileRef::of(&entries)]),
        hints: Hints { log: key.public().to_string(), witnesses: vec![] },
        job: JobId(Digest::of(b"job")),
        manifests: vec![],
        openings: vec![],
        origin: ORIGIN.parse().ok()?,
        records,
        spec: FileRef::of(&spec),
        states: vec![],
    };
    Some(vec![bundle.to_bytes().ok()?, head, entries, envelope, spec, dataset])
}

fn list_seeds() -> Vec<Vec<u8>> {
    made().and_then(|files| files.into_iter().next()).into_iter().collect()
}

fn whole_seeds() -> Vec<Vec<u8>> {
    let files = made().unwrap_or_default();
    let mut seed = Vec::new();
    for file in &files {
        seed.extend_from_slice(&u32::try_from(file.len()).unwrap_or(0).to_be_bytes());
        seed.extend_from_slice(file);
    }
    vec![seed]
}
