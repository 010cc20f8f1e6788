use super::*;
use crate::merkle::{TreeHasher, leaf, prove, root};

fn leaves(n: usize) -> Vec<Digest> {
    (0..n).map(|i| leaf(&i.to_le_bytes())).collect()
}

fn hex(text: &str) -> Digest {
    Digest::from_hex(text).unwrap()
}

/// The test data of Certificate Transparency's reference log, as in `merkle`: sizes, and the proof between.
#[test]
fn known_proofs() {
    let entries: [&[u8]; 8] = [
        &[],
        &[0x00],
        &[0x10],
        &[0x20, 0x21],
        &[0x30, 0x31],
        &[0x40, 0x41, 0x42, 0x43],
        &[0x50, 0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57],
        &[0x60, 0x61, 0x62, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69, 0x6a, 0x6b, 0x6c, 0x6d, 0x6e, 0x6f],
    ];
    let hashes: Vec<_> = entries.iter().map(|entry| leaf(entry)).collect();
    let proofs: [(usize, usize, &[&str]); 4] = [
        (1, 1, &[]),
        (
            1,
            8,
            &[
                "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
            ],
        ),
        (
            6,
            8,
            &[
                "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
                "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
                "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            ],
        ),
        (
            2,
            5,
            &[
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            ],
        ),
    ];
    for (old, new, want) in proofs {
        let proof = prove_consistency(&hashes[..new], old).unwrap();
        assert_eq!(proof, want.iter().map(|text| hex(text)).collect::<Vec<_>>(), "{old} to {new}");
        let (old_root, new_root) = (root(&entries[..old]), root(&entries[..new]));
        assert!(verify_consistency(old as u64, &old_root, new as u64, &new_root, &proof));
    }
}

#[test]
fn every_tree_continues_its_beginnings_and_nothing_else() {
    let hashes = leaves(40);
    let roots: Vec<_> = (0..=40).map(|n| root_of_hashes(&hashes[..n])).collect();
    for new in 0..=40 {
        for old in 0..=new {
            let proof = prove_consistency(&hashes[..new], old).unwrap();
            let verify = |old_root: &Digest, new_root: &Digest, path: &[Digest]| {
                verify_consistency(old as u64, old_root, new as u64, new_root, path)
            };
            assert!(verify(&roots[old], &roots[new], &proof), "{old} to {new}");
            let other = leaf(b"other");
            assert!(!verify(&other, &roots[new], &proof), "{old} to {new}");
            // The empty tree says nothing about what follows; every other root does.
            assert_eq!(verify(&roots[old], &other, &proof), old == 0 && new != 0, "{old} to {new}");
            let longer: Vec<_> = proof.iter().copied().chain([other]).collect();
            assert!(!verify(&roots[old], &roots[new], &longer), "{old} to {new}");
            if let Some((_, shorter)) = proof.split_last() {
                assert!(!verify(&roots[old], &roots[new], shorter), "{old} to {new}");
            }
            for at in 0..proof.len() {
                let mut bad = proof.clone();
                bad[at] = other;
                assert!(!verify(&roots[old], &roots[new], &bad), "{old} to {new}, hash {at}");
            }
            // A proof between other sizes is no proof unless it is truly the same.
            for size in (1..=40).filter(|size| *size != old) {
                assert!(
                    !verify_consistency(size as u64, &roots[old], new as u64, &roots[new], &proof)
                        || old == 0
                );
            }
        }
        assert_eq!(prove_consistency(&hashes[..new], new + 1), None);
    }
}

#[test]
fn ranges_are_those_of_the_inclusion_path() {
    for n in 1..70_usize {
        let hashes = leaves(n);
        for index in 0..n {
            let ranges = inclusion_ranges(index as u64, n as u64).unwrap();
            let path: Vec<_> =
                ranges.iter().map(|r| root_of_hashes(&hashes[r.start as usize..r.end as usize])).collect();
            assert_eq!(Some(path), prove(&hashes, index));
        }
        assert_eq!(inclusion_ranges(n as u64, n as u64), None);
    }
}

#[test]
fn hostile_sizes_and_paths_are_answered() {
    let hash = leaf(b"x");
    for old in [0, 1, 2, 3, 7, 1 << 62, (1 << 63) - 1, 1 << 63, u64::MAX - 1, u64::MAX] {
        for new in [0, 1, 2, 3, 8, 1 << 62, (1 << 63) + 1, u64::MAX - 1, u64::MAX] {
            for length in [0, 1, 2, 63, 64, 65, 200] {
                let answer = verify_consistency(old, &hash, new, &hash, &vec![hash; length]);
                // Only a tree of the same size and root needs no work.
                assert_eq!(answer, old == new && old != 0 && length == 0, "{old} {new} {length}");
            }
            assert!(consistency_ranges(old, new).is_none_or(|ranges| ranges.len() <= 65));
            assert!(inclusion_ranges(old, new).is_none_or(|ranges| ranges.len() <= 64));
        }
    }
    let empty = TreeHasher::new().root();
    assert!(verify_consistency(0, &empty, 0, &empty, &[]));
    assert!(verify_consistency(0, &empty, 5, &hash, &[]));
    assert!(!verify_consistency(0, &empty, 5, &hash, &[hash]));
    assert!(!verify_consistency(0, &hash, 5, &hash, &[]));
}
