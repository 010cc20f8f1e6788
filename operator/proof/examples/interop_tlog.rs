//! Writes a small log for readers that others wrote: `interop_tlog DIR`. See `tests/interop/go`.
//!
//! ```text
//! log.vkey, witness.vkey, other.vkey      verifier keys
//! sizes                                   the sizes of the checkpoints, one a line
//! checkpoint.<size>                       signed and cosigned; witness at the time in `time`
//! tile/...                                all tiles of the largest tree, its entry bundles, and the partial
//!                                         tiles of the smaller ones
//! inclusion.<index>.<size>                the leaf hash, then the path; base64, a hash a line
//! consistency.<old>.<new>                 the proof
//! bad/<case>                              what must be refused, see `negatives`
//! ```
#![allow(clippy::unwrap_used)] // an example for tests: a failure must stop it

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use muster_proof::tlog::checkpoint::{Checkpoint, SignedCheckpoint};
use muster_proof::tlog::frontier::Frontier;
use muster_proof::tlog::note::{Algorithm, KeyName, NoteKey};
use muster_proof::tlog::read;
use muster_proof::tlog::tile::{Bundle, Tile, encode_entries};
use muster_proof::{Digest, merkle};

const ORIGIN: &str = "hub.example/log";
const TIME: u64 = 1_760_000_000;
const SIZES: [u64; 8] = [0, 1, 255, 256, 257, 65_536, 69_999, 70_000];

fn main() {
    let out = PathBuf::from(std::env::args_os().nth(1).unwrap_or_else(|| "interop".into()));
    let log = key(ORIGIN, Algorithm::Ed25519, 1);
    let witness = key("witness.example/w1", Algorithm::CosignatureV1, 2);
    let other = key(ORIGIN, Algorithm::Ed25519, 3);
    for (name, key) in [("log", &log), ("witness", &witness), ("other", &other)] {
        write(&out.join(format!("{name}.vkey")), format!("{}\n", key.public()).as_bytes());
    }
    write(&out.join("sizes"), SIZES.map(|size| format!("{size}\n")).concat().as_bytes());
    write(&out.join("time"), format!("{TIME}\n").as_bytes());

    let mut frontier = Frontier::new();
    let mut tiles: BTreeMap<Tile, Vec<u8>> = BTreeMap::new();
    let mut leaves: Vec<Digest> = Vec::new();
    for size in SIZES {
        let new: Vec<_> = (frontier.size()..size).map(|i| merkle::leaf(&entry(i))).collect();
        leaves.extend(&new);
        tiles.extend(frontier.append(&new).unwrap().into_iter().map(|file| (file.tile, file.data)));
        let head = Checkpoint::new(ORIGIN, size, frontier.root()).unwrap();
        let mut signed = SignedCheckpoint::sign(head, &log).unwrap();
        let line = signed.cosign(&witness, TIME).unwrap();
        signed.merge(&[line], &[witness.public().clone()]).unwrap();
        write(&out.join(format!("checkpoint.{size}")), signed.to_string().as_bytes());
    }
    for (tile, data) in &tiles {
        write(&out.join(tile.to_string()), data);
        if let Some(bundle) = Bundle::of(*tile) {
            let first = tile.index() * 256;
            let entries: Vec<_> = (first..first + u64::from(tile.width())).map(entry).collect();
            write(&out.join(bundle.to_string()), &encode_entries(&entries).unwrap());
        }
    }
    for (at, size) in SIZES.iter().enumerate().filter(|(_, size)| **size > 0) {
        for index in [0, 1, 200, 255, 256, 65_535, 65_536, 69_000, size - 1].into_iter().filter(|i| i < size)
        {
            let root = merkle::root_of_hashes(&leaves[..*size as usize]);
            let (leaf, path) = read::inclusion(index, *size, Some(&root), &mut tiles).unwrap();
            let hashes: Vec<_> = std::iter::once(leaf).chain(path).collect();
            write(&out.join(format!("inclusion.{index}.{size}")), lines(&hashes).as_bytes());
        }
        for old in SIZES[..=at].iter().filter(|old| **old > 0) {
            let proof = read::consistency(*old, *size, None, &mut tiles).unwrap();
            write(&out.join(format!("consistency.{old}.{size}")), lines(&proof).as_bytes());
        }
    }
    negatives(&out, &log, &other, &leaves);
}

/// Heads that no honest log signs, and a head under another key.
fn negatives(out: &Path, log: &NoteKey, other: &NoteKey, leaves: &[Digest]) {
    let root = merkle::root_of_hashes(leaves);
    let size = leaves.len() as u64;
    let head = |root| Checkpoint::new(ORIGIN, size, root).unwrap();
    let sign = |root, key| SignedCheckpoint::sign(head(root), key).unwrap().to_string();
    write(&out.join("bad/other-root"), sign(Digest::of(b"another root"), log).as_bytes());
    write(&out.join("bad/other-key"), sign(root, other).as_bytes());
    let changed = sign(root, log).replacen(&format!("\n{size}\n"), &format!("\n{}\n", size + 1), 1);
    write(&out.join("bad/changed-size"), changed.as_bytes());
}

fn key(name: &str, algorithm: Algorithm, seed: u8) -> NoteKey {
    NoteKey::new(KeyName::new(name).unwrap(), algorithm, [seed; 32])
}

fn entry(index: u64) -> Vec<u8> {
    format!("entry {index}").into_bytes()
}

fn lines(hashes: &[Digest]) -> String {
    hashes.iter().map(|hash| STANDARD.encode(hash.as_bytes()) + "\n").collect()
}

fn write(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}
