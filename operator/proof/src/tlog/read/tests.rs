use super::*;
use crate::tlog::frontier::Frontier;

fn leaves(n: u64) -> Vec<Digest> {
    (0..n).map(|i| merkle::leaf(&i.to_le_bytes())).collect()
}

/// A log's files, with the partial tiles of its last size only, and what was asked for.
struct Log {
    hashes: Vec<Digest>,
    files: BTreeMap<Tile, Vec<u8>>,
    asked: BTreeSet<Tile>,
}

impl Log {
    fn new(size: u64) -> Self {
        let hashes = leaves(size);
        let files = Frontier::new().append(&hashes).unwrap();
        let files = files.into_iter().map(|file| (file.tile, file.data)).collect();
        Self { hashes, files, asked: BTreeSet::new() }
    }

    fn size(&self) -> u64 {
        self.hashes.len() as u64
    }

    fn root(&self) -> Digest {
        merkle::root_of_hashes(&self.hashes)
    }
}

impl TileSource for Log {
    type Error = NotFetched;

    fn tile(&mut self, tile: Tile) -> Result<Vec<u8>, NotFetched> {
        self.asked.insert(tile);
        self.files.tile(tile)
    }
}

#[test]
fn proofs_from_tiles_are_those_from_leaves() {
    for size in [1, 2, 3, 255, 256, 257, 300, 511, 512, 513, 1000, 65_535, 65_536, 65_537, 70_000] {
        let mut log = Log::new(size);
        let root = log.root();
        assert_eq!(super::root(size, &mut log), Ok(root), "{size}");
        for at in [0, 1, 2, 254, 255, 256, 257, 299, 511, 512, 65_535, 65_536, size / 2, size - 1, size] {
            if at < size {
                log.asked.clear();
                let (leaf, path) = inclusion(at, size, Some(&root), &mut log).unwrap();
                assert_eq!(leaf, log.hashes[at as usize]);
                assert!(merkle::verify(&root, at, size, &leaf, &path), "{at} of {size}");
                assert_eq!(Some(path), merkle::prove(&log.hashes, at as usize));
                let needs = tiles_for_inclusion(at, size).unwrap();
                assert!(log.asked.iter().eq(needs.iter().rev()), "{at} of {size}");
            }
            if at <= size {
                log.asked.clear();
                let path = consistency(at, size, Some(&root), &mut log).unwrap();
                assert_eq!(Some(path), merkle::prove_consistency(&log.hashes, at as usize), "{at} to {size}");
                let needs = tiles_for_consistency(at, size).unwrap();
                assert!(log.asked.iter().eq(needs.iter().rev()), "{at} of {size}");
            }
        }
    }
}

/// One changed bit in any tile that a proof needs is found, whichever tile it is.
#[test]
fn every_tile_is_checked() {
    let size = 66_000;
    let log = Log::new(size);
    let root = log.root();
    for index in [0, 70, 65_535, 65_600, 65_999] {
        for tile in tiles_for_inclusion(index, size).unwrap() {
            for at in [0, tile.length() - 1] {
                let mut files = log.files.clone();
                files.get_mut(&tile).unwrap()[at] ^= 1;
                let error = inclusion(index, size, Some(&root), &mut files).unwrap_err();
                let want = if tile.is_full() { Error::Parent(tile) } else { Error::Root { size } };
                assert_eq!(error, want, "{tile}");
            }
            let mut files = log.files.clone();
            files.get_mut(&tile).unwrap().pop();
            assert!(matches!(inclusion(index, size, Some(&root), &mut files), Err(Error::Tile(_))));
            files.remove(&tile);
            let error = inclusion(index, size, Some(&root), &mut files).unwrap_err();
            assert_eq!(error, Error::Source { tile, error: NotFetched(tile) });
        }
    }
    let other = Digest::of(b"x");
    let refused = inclusion(0, size, Some(&other), &mut log.files.clone());
    assert_eq!(refused, Err(Error::Root { size }));
}

/// A log may delete partial tiles once the full one is there: an older tree still proves.
#[test]
fn full_tiles_stand_for_partial_ones() {
    let mut log = Log::new(768);
    let old = 700;
    let root = merkle::root_of_hashes(&log.hashes[..old]);
    let level_1: Vec<u8> = (0..2)
        .flat_map(|i| *merkle::root_of_hashes(&log.hashes[256 * i..256 * (i + 1)]).as_bytes())
        .collect();
    log.files.insert(Tile::new(1, 0, 2).unwrap(), level_1);
    let (leaf, path) = inclusion(600, old as u64, Some(&root), &mut log).unwrap();
    assert!(merkle::verify(&root, 600, old as u64, &leaf, &path));
}

#[test]
fn few_tiles_are_needed_and_odd_questions_have_answers() {
    for size in [1, 1 << 40, MAX_SIZE - 1, MAX_SIZE] {
        for at in [0, size / 3, size / 2, size - 1] {
            assert!(tiles_for_inclusion(at, size).unwrap().len() <= 16);
            assert!(tiles_for_consistency(at, size).unwrap().len() <= 24);
        }
        assert_eq!(tiles_for_inclusion(size, size), None);
        assert_eq!(tiles_for_consistency(size + 1, size), None);
    }
    for size in [1 << 63, u64::MAX] {
        assert_eq!((tiles_for_root(size), tiles_for_inclusion(0, size)), (None, None));
        assert_eq!(tiles_for_consistency(1, size), None);
    }
    let mut none = BTreeMap::new();
    assert_eq!(root(0, &mut none), Ok(Digest::of(b"")));
    assert_eq!(consistency(0, 0, Some(&Digest::of(b"")), &mut none), Ok(vec![]));
    assert_eq!(inclusion(0, 0, None, &mut none), Err(Error::Range { at: 0, size: 0 }));
    assert_eq!(consistency(1, 0, None, &mut none), Err(Error::Range { at: 1, size: 0 }));
    assert_eq!(root(u64::MAX, &mut none), Err(Error::Range { at: u64::MAX, size: u64::MAX }));
    let log = Log::new(5);
    assert_eq!(log.size(), 5);
}
