//! Bundles, entries, statements and step records from strangers: an answer for any bytes, and one spelling for what is
//! accepted.

#![allow(clippy::unwrap_used)] // helpers of tests are tests too

use muster_proof::key::SigningKey;
use muster_proof::model_signing::{self, Files};
use muster_proof::sigstore::{Bundle, LogEntry};
use muster_proof::steps::{Bits, Records, StepRecord};
use muster_proof::tlog::checkpoint::{Checkpoint, SignedCheckpoint};
use muster_proof::tlog::entry::Entry;
use muster_proof::tlog::note::{Algorithm, KeyName, NoteKey};
use muster_proof::{Digest, merkle};
use proptest::prelude::*;

fn log() -> NoteKey {
    NoteKey::new(KeyName::new("hub.example/log").unwrap(), Algorithm::Ed25519, [9; 32])
}

fn key() -> SigningKey {
    SigningKey::generate([1; 32]).unwrap()
}

const NAMES: [&str; 2] = ["config.json", "model.safetensors"];

fn logged() -> Bundle {
    let files = NAMES.map(|name| (name, Digest::of(name.as_bytes())));
    let bundle = model_signing::sign(&files, "m", &key()).unwrap();
    let entry = Entry::of(bundle.envelope(), key().public()).unwrap();
    let leaves = [merkle::leaf(b"0"), entry.leaf(), merkle::leaf(b"2")];
    let head = Checkpoint::new("hub.example/log", 3, merkle::root_of_hashes(&leaves)).unwrap();
    let head = SignedCheckpoint::sign(head, &log()).unwrap();
    let path = merkle::prove(&leaves, 1).unwrap();
    bundle.with_entry(LogEntry::new(&entry, 1, path, &head, log().public()).unwrap())
}

fn read_all(bytes: &[u8]) {
    let _ = Entry::parse(bytes);
    let _ = Bundle::parse(bytes);
    let _ = Files::parse_statement(bytes);
    let _ = model_signing::open(bytes, &[key().public().clone()]);
    let _ = Records::parse(1, bytes);
    let _ = StepRecord::parse(bytes);
}

fn finite() -> impl Strategy<Value = Bits> {
    any::<f32>().prop_filter("finite", |x| x.is_finite()).prop_map(Bits::of)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_bytes_get_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        read_all(&bytes);
    }

    /// What verifies is what was written; no bit of it can be another, nor any value be of another type.
    #[test]
    fn a_changed_bundle_is_refused(at: usize, bit in 0..8u8, cut: bool, with in "null|0|-1|\\[\\]|\\{\\}|\"\"") {
        let good = logged();
        let mut json = good.to_json().unwrap();
        let at = at % json.len();
        if cut {
            json.truncate(at);
            json.extend_from_slice(with.as_bytes());
        } else {
            json[at] ^= 1 << bit;
        }
        read_all(&json);
        let accepted = model_signing::open(&json, &[key().public().clone()]).is_ok_and(|signed| {
            signed.bundle().verify_logged(signed.key(), log().public()).is_ok() && *signed.bundle() != good
        });
        prop_assert!(!accepted);
    }

    #[test]
    fn a_changed_entry_or_statement_is_another(at: usize, bit in 0..8u8) {
        let bundle = logged();
        let flip = |bytes: &[u8]| {
            let mut bytes = bytes.to_vec();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            bytes
        };
        let entry = Entry::of(bundle.envelope(), key().public()).unwrap();
        // ECDSA lets a bit of the key or the digest go only with the signature.
        prop_assert!(Entry::parse(&flip(entry.body())).is_err());
        let statement = bundle.envelope().unverified_payload();
        let files = Files::parse_statement(statement).unwrap();
        if let Ok(other) = Files::parse_statement(&flip(statement)) {
            prop_assert_ne!(&other, &files);
            prop_assert_eq!(other.to_statement().unwrap(), flip(statement));
        }
    }

    #[test]
    fn records_read_back(
        first in 1..1_000_000u64,
        numbers in prop::collection::vec((finite(), finite(), finite(), prop::option::of(finite())), 0..20),
    ) {
        let records: Vec<_> = (first..)
            .zip(numbers)
            .map(|(step, (loss, grad_norm, learning_rate, eval_loss))| {
                StepRecord { eval_loss, grad_norm, learning_rate, loss, step }
            })
            .collect();
        let list = Records::new(first, records).unwrap();
        let bytes = list.to_bytes().unwrap();
        let read = Records::parse(first, &bytes).unwrap();
        prop_assert_eq!(read.root(), list.root());
        prop_assert_eq!(read, list);
        // The leaves are the lines.
        prop_assert_eq!(
            merkle::root(bytes.split_inclusive(|byte| *byte == b'\n').map(|line| &line[..line.len() - 1])),
            Records::parse(first, &bytes).unwrap().root()
        );
    }
}
