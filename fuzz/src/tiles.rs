//! The tree of the transparency log as files: paths, tiles, entry bundles, and the proofs that come out of them.
use std::collections::BTreeMap;

use muster_proof::tlog::read;
use muster_proof::tlog::tile::{Bundle, Resource, Tile, encode_entries, new_tiles, parse_entries};
use muster_proof::{Digest, merkle};

use crate::Target;
use crate::tlog::{hashes, leaf, one_spelling, root};

/// Leaves of the one true tree: two levels of tiles.
const LEAVES: usize = 300;

pub fn targets() -> Vec<Target> {
    vec![
        Target { name: "log-file", run: file, seeds: file_seeds },
        Target { name: "log-tiles", run: tiles, seeds: tile_seeds },
        Target { name: "log-consistency", run: consistency, seeds: consistency_seeds },
    ]
}

/// A path, a newline, and the bytes of that file.
fn file(data: &[u8]) {
    let end = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (path, bytes) = (data.get(..end).unwrap_or_default(), data.get(end + 1..).unwrap_or_default());
    let Ok(path) = std::str::from_utf8(path) else { return };
    one_spelling::<Resource>(path);
    match path.parse() {
        Ok(Resource::Tile(tile)) => {
            if let Ok(hashes) = tile.parse(bytes) {
                assert_eq!(hashes.len(), usize::from(tile.width()));
            }
        }
        Ok(Resource::Entries(bundle)) => {
            if let Ok(entries) = parse_entries(bundle, bytes) {
                assert_eq!(encode_entries(&entries).ok().as_deref(), Some(bytes));
            }
        }
        Err(_) => {}
    }
}

fn file_seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![b"tile/3/x001/x234/067".to_vec()];
    for (tile, bytes) in true_tiles(3) {
        seeds.push([format!("{tile}\n").as_bytes(), &bytes].concat());
        if let Some(entries) = Bundle::of(tile)
            && let Ok(bytes) = encode_entries(&[&b"one"[..], b"", b"three"])
        {
            seeds.push([format!("{entries}\n").as_bytes(), &bytes].concat());
        }
    }
    seeds
}

/// All tiles of the true tree of so many leaves.
fn true_tiles(size: usize) -> BTreeMap<Tile, Vec<u8>> {
    let mut level = hashes(size);
    let mut all = BTreeMap::new();
    let tiles: Vec<_> = new_tiles(0, size as u64).collect();
    for height in 0.. {
        let of_level = tiles.iter().filter(|tile| tile.level() == height);
        for tile in of_level.clone() {
            let first = usize::try_from(tile.index()).unwrap_or(usize::MAX).saturating_mul(256);
            let of_tile = level.iter().skip(first).take(usize::from(tile.width()));
            all.insert(*tile, of_tile.flat_map(|hash| *hash.as_bytes()).collect());
        }
        if of_level.count() == 0 {
            break;
        }
        level = level.as_chunks::<256>().0.iter().map(|full| merkle::root_of_hashes(full)).collect();
    }
    all
}

/// `at size`, a newline, then files: the length of a path, the path, two bytes of length, the bytes. Under the true root only
/// what is true comes out; under the tiles' own root, what they say.
fn tiles(data: &[u8]) {
    let end = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let head = std::str::from_utf8(data.get(..end).unwrap_or_default()).unwrap_or_default();
    let Some((at, size)) = head.split_once(' ') else { return };
    let (Ok(at), Ok(size)) = (at.parse::<u64>(), size.parse::<u64>()) else { return };
    let mut source = files(data.get(end + 1..).unwrap_or_default());
    if let Ok(root) = read::root(size, &mut source) {
        if let Ok((leaf, path)) = read::inclusion(at, size, Some(&root), &mut source) {
            assert!(merkle::verify(&root, at, size, &leaf, &path));
        }
        let _ = read::consistency(at, size, Some(&root), &mut source);
    }
    let _ = read::inclusion(at, size, None, &mut source);
    let _ = read::consistency(at, size, None, &mut source);
    let (Ok(old), Ok(new)) = (usize::try_from(at), usize::try_from(size)) else { return };
    if new > LEAVES {
        return;
    }
    let head = root(new);
    if let Ok((found, path)) = read::inclusion(at, size, Some(&head), &mut source) {
        assert!(found == leaf(old) && merkle::verify(&head, at, size, &found, &path));
    }
    if let Ok(path) = read::consistency(at, size, Some(&head), &mut source) {
        assert!(merkle::verify_consistency(at, &root(old), size, &head, &path));
    }
}

fn files(mut rest: &[u8]) -> BTreeMap<Tile, Vec<u8>> {
    let mut all = BTreeMap::new();
    while let Some((length, after)) = rest.split_first() {
        let (path, after) = after.split_at(usize::from(*length).min(after.len()));
        let Some((length, after)) = after.split_first_chunk::<2>() else { break };
        let (bytes, after) = after.split_at(usize::from(u16::from_be_bytes(*length)).min(after.len()));
        if let Ok(Resource::Tile(tile)) = String::from_utf8_lossy(path).parse() {
            all.insert(tile, bytes.to_vec());
        }
        rest = after;
    }
    all
}

fn tile_seeds() -> Vec<Vec<u8>> {
    let seed = |(at, size): (u64, usize)| {
        let mut seed = format!("{at} {size}\n").into_bytes();
        for (tile, bytes) in true_tiles(size) {
            let path = tile.to_string();
            seed.push(u8::try_from(path.len()).unwrap_or(0));
            seed.extend(path.as_bytes());
            seed.extend(u16::try_from(bytes.len()).unwrap_or(0).to_be_bytes());
            seed.extend(bytes);
        }
        seed
    };
    [(2, 3), (5, 256), (270, LEAVES)].map(seed).to_vec()
}

/// `old new`, a newline, then hashes: the two roots and the path.
fn consistency(data: &[u8]) {
    let end = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let head = std::str::from_utf8(data.get(..end).unwrap_or_default()).unwrap_or_default();
    let numbers = head.split_once(' ').and_then(|(old, new)| Some((old.parse().ok()?, new.parse().ok()?)));
    let (hashes, _) = data.get(end + 1..).unwrap_or_default().as_chunks::<32>();
    let hashes: Vec<Digest> = hashes.iter().map(|hash| Digest::from_bytes(*hash)).collect();
    let (Some((old, new)), [old_root, new_root, path @ ..]) = (numbers, hashes.as_slice()) else { return };
    let holds = merkle::verify_consistency(old, old_root, new, new_root, path);
    let _ = merkle::verify(new_root, old, new, old_root, path);
    if let (true, Ok(old), Ok(new)) = (holds, usize::try_from(old), usize::try_from(new))
        && new <= 16
        && *new_root == root(new)
    {
        assert_eq!(*old_root, root(old));
    }
}

fn consistency_seeds() -> Vec<Vec<u8>> {
    let seed = |(old, new)| {
        let path = merkle::prove_consistency(&hashes(new), old).unwrap_or_default();
        let hashes = [root(old), root(new)].into_iter().chain(path);
        [format!("{old} {new}\n").into_bytes(), hashes.flat_map(|hash| *hash.as_bytes()).collect()].concat()
    };
    [(0, 3), (3, 7), (4, 8), (6, 13), (16, 16)].map(seed).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seeds_go_far() {
        for (at, size) in [(2, 3), (5, 256), (270, LEAVES)] {
            read::inclusion(at, size as u64, Some(&root(size)), &mut true_tiles(size)).unwrap();
            read::consistency(at, size as u64, Some(&root(size)), &mut true_tiles(size)).unwrap();
        }
        for seed in tile_seeds() {
            let end = seed.iter().position(|byte| *byte == b'\n').unwrap();
            assert!(!files(&seed[end + 1..]).is_empty());
        }
    }
}
