use std::collections::BTreeMap;

use super::*;
use crate::tlog::tile::new_tiles;

fn leaves(range: std::ops::Range<u64>) -> Vec<Digest> {
    range.map(|i| merkle::leaf(&i.to_le_bytes())).collect()
}

/// In steps of odd sizes: roots, files and their places are those of the whole tree.
#[test]
fn a_tree_that_grows_in_steps() {
    let all = leaves(0..70_000);
    let mut frontier = Frontier::new();
    let mut files: BTreeMap<Tile, Vec<u8>> = BTreeMap::new();
    assert_eq!(frontier.root(), Digest::of(b""));
    for size in [1_usize, 2, 3, 255, 256, 257, 511, 512, 1000, 65_279, 65_535, 65_536, 65_537, 70_000] {
        let old = frontier.size();
        let written = frontier.append(&all[old as usize..size]).unwrap();
        assert_eq!(frontier.root(), merkle::root_of_hashes(&all[..size]), "{size}");
        let mut places: Vec<_> = written.iter().map(|file| file.tile).collect();
        places.sort_unstable();
        let mut want: Vec<_> = new_tiles(old, size as u64).collect();
        want.sort_unstable();
        assert_eq!(places, want, "{old} to {size}");
        for file in written {
            assert_eq!(file.data.len(), file.tile.length());
            files.insert(file.tile, file.data);
        }
        // A log that starts again from its files is where it was.
        assert_eq!(Frontier::read(size as u64, &frontier.root(), &mut files).unwrap(), frontier, "{size}");
    }
    // Level 0 holds the leaf hashes themselves.
    let first: Vec<u8> = all[..256].iter().flat_map(|hash| *hash.as_bytes()).collect();
    assert_eq!(files[&Tile::new(0, 0, 256).unwrap()], first);
    assert_eq!(frontier.append(&[]).unwrap(), []);
}

#[test]
fn another_root_s_tiles_are_refused() {
    let mut frontier = Frontier::new();
    let written = frontier.append(&leaves(0..300)).unwrap();
    let mut files: BTreeMap<_, _> = written.into_iter().map(|file| (file.tile, file.data)).collect();
    let other = Frontier::read(300, &Digest::of(b"x"), &mut files);
    assert_eq!(other, Err(read::Error::Root { size: 300 }));
    assert!(matches!(Frontier::read(299, &frontier.root(), &mut files), Err(read::Error::Source { .. })));
    assert!(matches!(Frontier::read(1 << 63, &frontier.root(), &mut files), Err(read::Error::Range { .. })));
    assert_eq!(Frontier::read(0, &Digest::of(b""), &mut files), Ok(Frontier::new()));
}

#[test]
fn a_full_log_refuses_leaves() {
    let edge = |size: u64| -> BTreeMap<Tile, Vec<u8>> {
        right_edge(size).into_iter().map(|tile| (tile, vec![7; tile.length()])).collect()
    };
    let root = read::root(MAX_SIZE - 1, &mut edge(MAX_SIZE - 1)).unwrap();
    let mut frontier = Frontier::read(MAX_SIZE - 1, &root, &mut edge(MAX_SIZE - 1)).unwrap();
    assert_eq!(frontier.append(&leaves(0..2)), Err(Full(2)));
    assert_eq!((frontier.size(), frontier.root()), (MAX_SIZE - 1, root));
    assert_eq!(frontier.append(&leaves(0..1)).unwrap().len(), 1);
    assert_eq!(frontier.append(&leaves(0..1)), Err(Full(1)));
}
