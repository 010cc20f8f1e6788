//! The log against code that others wrote: `ct-merkle` for trees and proofs, `tlog_tiles` for checkpoints, paths and
//! proofs from tiles. And whatever a stranger sends, the answer is a value or an error; what we print we read back.
#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::cell::RefCell;
use std::collections::BTreeMap;

use ct_merkle::mem_backed_tree::MemoryBackedTree;
use ct_merkle::{ConsistencyProof, InclusionProof, RootHash};
use muster_proof::tlog::checkpoint::{Checkpoint, SignedCheckpoint};
use muster_proof::tlog::frontier::Frontier;
use muster_proof::tlog::note::{self, Algorithm, KeyName, Note, NoteKey, VerifierKey};
use muster_proof::tlog::policy::Policy;
use muster_proof::tlog::proof::LogProof;
use muster_proof::tlog::tile::{Bundle, Resource, Tile, encode_entries, new_tiles, parse_entries};
use muster_proof::tlog::witness::{self, Decision, Request};
use muster_proof::tlog::{MAX_SIZE, read};
use muster_proof::{Digest, merkle};
use proptest::prelude::*;
use sha2::Sha256;

fn leaf(i: u64) -> Digest {
    merkle::leaf(&i.to_le_bytes())
}

fn leaves(n: u64) -> Vec<Digest> {
    (0..n).map(leaf).collect()
}

fn key(name: &str, algorithm: Algorithm, seed: u8) -> NoteKey {
    NoteKey::new(KeyName::new(name).unwrap(), algorithm, [seed; 32])
}

fn log_key() -> NoteKey {
    key("hub.example/log", Algorithm::Ed25519, 1)
}

fn witness_key() -> NoteKey {
    key("w.example", Algorithm::CosignatureV1, 2)
}

fn signed(size: u64) -> SignedCheckpoint {
    let head = Checkpoint::new("hub.example/log", size, merkle::root_of_hashes(&leaves(size))).unwrap();
    SignedCheckpoint::sign(head, &log_key()).unwrap()
}

fn cosigned(size: u64) -> String {
    let mut signed = signed(size);
    let line = signed.cosign(&witness_key(), 1_760_000_000).unwrap();
    signed.merge(&[line], &[witness_key().public().clone()]).unwrap();
    signed.to_string()
}

fn policy() -> Policy {
    let (log, witness) = (log_key(), witness_key());
    format!("log {}\nwitness W {}\ngroup G any W\nquorum G\n", log.public(), witness.public())
        .parse()
        .unwrap()
}

#[test]
fn ct_merkle_agrees() {
    let as_output = |hash: &Digest| sha2::digest::Output::<Sha256>::from(*hash.as_bytes());
    let mut tree = MemoryBackedTree::<Sha256, [u8; 8]>::new();
    let mut roots: Vec<RootHash<Sha256>> = vec![tree.root()];
    for n in 1..=70_u64 {
        tree.push((n - 1).to_le_bytes());
        roots.push(tree.root());
        let hashes = leaves(n);
        let root = merkle::root_of_hashes(&hashes);
        assert_eq!(tree.root().as_bytes().as_slice(), root.as_bytes());
        for i in 0..n {
            let ours = merkle::prove(&hashes, i as usize).unwrap();
            let bytes: Vec<u8> = ours.iter().flat_map(|hash| *hash.as_bytes()).collect();
            assert_eq!(tree.prove_inclusion(i as usize).as_bytes(), bytes);
            let path: Vec<_> = ours.iter().map(as_output).collect();
            let proof = InclusionProof::<Sha256>::from_digests(path.iter());
            tree.root().verify_inclusion(&i.to_le_bytes(), i, &proof).unwrap();
        }
        for old in 1..=n {
            let ours = merkle::prove_consistency(&hashes, old as usize).unwrap();
            let bytes: Vec<u8> = ours.iter().flat_map(|hash| *hash.as_bytes()).collect();
            assert_eq!(tree.prove_consistency((n - old) as usize).as_bytes(), bytes, "{old} to {n}");
            let proof = ConsistencyProof::<Sha256>::try_from_bytes(bytes).unwrap();
            tree.root().verify_consistency(&roots[old as usize], &proof).unwrap();
        }
    }
}

/// Our files behind their reader of tiles, whose paths name the height too.
struct Files(RefCell<BTreeMap<String, Vec<u8>>>);

impl tlog_tiles::TileReader for Files {
    fn height(&self) -> u8 {
        8
    }

    fn read_tiles(&self, tiles: &[tlog_tiles::Tile]) -> Result<Vec<Vec<u8>>, tlog_tiles::Error> {
        let files = self.0.borrow();
        let read = |tile: &tlog_tiles::Tile| files.get(&tile.path().replacen("tile/8/", "tile/", 1)).cloned();
        tiles.iter().map(|tile| read(tile).ok_or(tlog_tiles::Error::InvalidTile)).collect()
    }

    fn save_tiles(&self, _: &[tlog_tiles::Tile], _: &[Vec<u8>]) {}
}

#[test]
fn tlog_tiles_reads_our_tiles() {
    let theirs = |hash: &Digest| tlog_tiles::Hash(*hash.as_bytes());
    for size in [1, 2, 255, 256, 257, 1000, 65_536, 66_000_u64] {
        let hashes = leaves(size);
        let mut frontier = Frontier::new();
        let files = frontier.append(&hashes).unwrap();
        let root = frontier.root();
        let by_path = files.iter().map(|file| (file.tile.to_string(), file.data.clone())).collect();
        let mut by_tile: BTreeMap<_, _> = files.into_iter().map(|file| (file.tile, file.data)).collect();
        let by_path = Files(RefCell::new(by_path));
        let reader = tlog_tiles::TileHashReader::new(size, theirs(&root), &by_path);
        assert_eq!(tlog_tiles::tree_hash(size, &reader).unwrap().0, *root.as_bytes());
        for i in [0, 1, 254, 255, 256, 300, 65_535, 65_536, size - 1].into_iter().filter(|i| *i < size) {
            let (hash, ours) = read::inclusion(i, size, Some(&root), &mut by_tile).unwrap();
            let proof = tlog_tiles::prove_record(size, i, &reader).unwrap();
            assert!(
                proof.iter().map(|hash| hash.0).eq(ours.iter().map(|hash| *hash.as_bytes())),
                "{i} of {size}"
            );
            tlog_tiles::check_record(&proof, size, theirs(&root), i, theirs(&hash)).unwrap();
            let old = i + 1;
            let old_root = theirs(&merkle::root_of_hashes(&hashes[..old as usize]));
            let ours = read::consistency(old, size, Some(&root), &mut by_tile).unwrap();
            let proof = tlog_tiles::prove_tree(size, old, &reader).unwrap();
            assert!(
                proof.iter().map(|hash| hash.0).eq(ours.iter().map(|hash| *hash.as_bytes())),
                "{old} to {size}"
            );
            tlog_tiles::check_tree(&proof, size, theirs(&root), old, old_root).unwrap();
        }
    }
}

#[test]
fn tlog_tiles_lists_and_names_the_same_tiles() {
    for (old, new) in [(0, 1), (0, 70_000), (255, 257), (256, 512), (69_999, 70_001), (65_535, 131_073)] {
        let mut theirs: Vec<_> = tlog_tiles::Tile::new_tiles(8, old, new)
            .iter()
            .map(|tile| tile.path().replacen("tile/8/", "tile/", 1))
            .collect();
        let mut ours: Vec<_> = new_tiles(old, new).map(|tile| tile.to_string()).collect();
        theirs.sort_unstable();
        ours.sort_unstable();
        assert_eq!(ours, theirs, "{old} to {new}");
    }
    let checkpoint = signed(7);
    let theirs = tlog_tiles::Checkpoint::from_bytes(checkpoint.checkpoint().to_string().as_bytes()).unwrap();
    assert_eq!((theirs.origin(), theirs.size()), ("hub.example/log", 7));
    assert_eq!(theirs.hash().0, *checkpoint.checkpoint().root().as_bytes());
    assert_eq!(theirs.to_bytes(), checkpoint.checkpoint().to_string().into_bytes());
}

/// All readers of strangers' bytes. What one accepts, it prints as the same bytes.
fn read_all(bytes: &[u8]) {
    if let Ok(note) = Note::parse(bytes) {
        assert_eq!(note.to_string().as_bytes(), bytes);
    }
    if let Ok(lines) = note::parse_signatures(bytes) {
        assert_eq!(lines.iter().map(ToString::to_string).collect::<String>().as_bytes(), bytes);
    }
    if let Ok(signed) = SignedCheckpoint::open(bytes, &[log_key().public().clone()]) {
        assert_eq!(signed.to_string().as_bytes(), bytes);
    }
    if let Ok(request) = Request::parse(bytes) {
        assert_eq!(request.to_string().as_bytes(), bytes);
        let _ = witness::decide(&[log_key().public().clone()], Some(&signed(3)), &request).status();
    }
    if let Ok(proof) = LogProof::parse(bytes) {
        assert_eq!(proof.to_string().as_bytes(), bytes);
        let _ = proof.verify(&leaf(0), &policy());
    }
    let bundle = Bundle::of(Tile::new(0, 0, 2).unwrap()).unwrap();
    if let Ok(entries) = parse_entries(bundle, bytes) {
        assert_eq!(encode_entries(&entries).unwrap(), bytes);
    }
    let _ = policy().check(bytes);
    let text = String::from_utf8_lossy(bytes);
    if let Ok(checkpoint) = Checkpoint::parse(&text) {
        assert_eq!(checkpoint.to_string(), text);
    }
    if let Ok(key) = text.parse::<VerifierKey>() {
        assert_eq!(key.to_string(), text);
    }
    if let Ok(key) = NoteKey::from_text(&text) {
        assert_eq!(*key.to_text(), text);
    }
    if let Ok(resource) = text.parse::<Resource>() {
        assert_eq!(resource.to_string(), text);
    }
    if let Ok(policy) = text.parse::<Policy>() {
        assert_eq!(policy.to_string().parse(), Ok(policy));
    }
}

/// One good text for each reader.
fn samples() -> Vec<String> {
    let log = log_key();
    let proof = merkle::prove_consistency(&leaves(9), 3).unwrap();
    let hashes = merkle::prove(&leaves(9), 4).unwrap();
    vec![
        cosigned(9),
        signed(9).checkpoint().to_string(),
        signed(9).note().signatures()[0].to_string(),
        log.public().to_string(),
        log.to_text().to_string(),
        Request { old: 3, proof, checkpoint: cosigned(9) }.to_string(),
        LogProof { extra: Some(b"x".to_vec()), index: 4, hashes, checkpoint: cosigned(9) }.to_string(),
        policy().to_string(),
        "tile/0/x001/234.p/5".to_owned(),
        "tile/entries/x001/234".to_owned(),
    ]
}

#[test]
fn the_samples_are_good() {
    let samples = samples();
    let request = Request::parse(samples[5].as_bytes()).unwrap();
    let decision = witness::decide(&[log_key().public().clone()], Some(&signed(3)), &request);
    assert!(matches!(decision, Decision::Cosign(_)));
    LogProof::parse(samples[6].as_bytes()).unwrap().verify(&leaf(4), &policy()).unwrap();
    samples.iter().for_each(|sample| read_all(sample.as_bytes()));
}

proptest! {
    #[test]
    fn any_bytes_get_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        read_all(&bytes);
    }

    #[test]
    fn any_changed_sample_gets_an_answer(
        which in 0..10_usize,
        at: prop::sample::Index,
        to in prop::collection::vec(any::<u8>(), 0..4),
        cut in 0..4_usize,
    ) {
        let mut bytes = samples()[which].clone().into_bytes();
        let at = at.index(bytes.len());
        let end = (at + cut).min(bytes.len());
        bytes.splice(at..end, to);
        read_all(&bytes);
    }

    /// Nearly notes, nearly policies, nearly paths.
    #[test]
    fn any_near_text_gets_an_answer(
        text in "(\u{2014} |[a-c+/=0-9 \t\n#]|old |index |extra |quorum |group |all |none|tile/|x00|\\.p/|\n\n){0,40}",
    ) {
        read_all(text.as_bytes());
    }

    /// A changed text, root or path never verifies.
    #[test]
    fn a_changed_checkpoint_never_opens(at: prop::sample::Index, bit in 0..8_u8) {
        let good = signed(9).to_string().into_bytes();
        let mut bad = good.clone();
        let at = at.index(bad.len());
        bad[at] ^= 1_u8 << bit;
        prop_assert!(SignedCheckpoint::open(&good, &[log_key().public().clone()]).is_ok());
        prop_assert!(SignedCheckpoint::open(&bad, &[log_key().public().clone()]).is_err());
    }

    #[test]
    fn consistency_proofs(new in 1..200_usize, old: prop::sample::Index, at: prop::sample::Index, bit in 0..8_u8) {
        let hashes = leaves(new as u64);
        let old = old.index(new) + 1;
        let (old_root, new_root) = (merkle::root_of_hashes(&hashes[..old]), merkle::root_of_hashes(&hashes));
        let path = merkle::prove_consistency(&hashes, old).unwrap();
        let verify = |path: &[Digest]| {
            merkle::verify_consistency(old as u64, &old_root, new as u64, &new_root, path)
        };
        prop_assert!(verify(&path));
        if !path.is_empty() {
            let at = at.index(32 * path.len());
            let mut bad = path.clone();
            let mut bytes = *bad[at / 32].as_bytes();
            bytes[at % 32] ^= 1_u8 << bit;
            bad[at / 32] = Digest::from_bytes(bytes);
            prop_assert!(!verify(&bad));
        }
    }

    #[test]
    fn verification_is_total(old: u64, new: u64, length in 0..70_usize) {
        let hash = leaf(0);
        let path = vec![hash; length];
        prop_assert_eq!(merkle::verify_consistency(old, &hash, new, &hash, &path), old == new && length == 0 && old > 0);
        let _ = merkle::verify(&hash, old, new, &hash, &path);
        prop_assert!(read::tiles_for_inclusion(old, new).is_none_or(|tiles| tiles.len() <= 16));
        prop_assert!(read::tiles_for_consistency(old, new).is_none_or(|tiles| tiles.len() <= 24));
        let tile = Tile::of_tree((old % 9) as u8, new, old & MAX_SIZE);
        prop_assert!(tile.is_none_or(|tile| tile.to_string().parse() == Ok(Resource::Tile(tile))));
    }

    #[test]
    fn entries_round_trip(entries in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..256)) {
        let data = encode_entries(&entries).unwrap();
        let bundle = Bundle::of(Tile::new(0, 0, entries.len() as u16).unwrap()).unwrap();
        prop_assert_eq!(parse_entries(bundle, &data).unwrap(), entries);
    }
}
