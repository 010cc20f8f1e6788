use super::*;

fn tile(level: u8, index: u64, width: u16) -> Tile {
    Tile::new(level, index, width).unwrap()
}

/// The examples of c2sp.org/tlog-tiles.
#[test]
fn the_specification_s_examples() {
    assert_eq!(tile(0, 1_234_067, 256).to_string(), "tile/0/x001/x234/067");
    let of = |level| -> Vec<_> {
        let tiles = new_tiles(0, 70_000).filter(|tile| tile.level() == level);
        tiles.map(|tile| tile.width()).collect()
    };
    assert_eq!((of(0).len(), of(0)[..273].iter().all(|w| *w == 256), of(0)[273]), (274, true, 112));
    assert_eq!((of(1), of(2), of(3)), (vec![256, 17], vec![1], vec![]));
    assert_eq!(right_edge(70_000), [tile(2, 0, 1), tile(1, 1, 17), tile(0, 273, 112)]);
    assert_eq!(new_tiles(0, 256).collect::<Vec<_>>(), [tile(0, 0, 256), tile(1, 0, 1)]);
}

#[test]
fn paths_read_back() {
    for (path, level, index, width) in [
        ("tile/0/000", 0, 0, 256),
        ("tile/0/000.p/1", 0, 0, 1),
        ("tile/3/x001/000.p/255", 3, 1000, 255),
        ("tile/0/x001/x234/067.p/8", 0, 1_234_067, 8),
        ("tile/7/000.p/127", 7, 0, 127),
    ] {
        let resource = Resource::Tile(tile(level, index, width));
        assert_eq!((path.parse(), resource.to_string().as_str()), (Ok(resource), path));
    }
    let entries = "tile/entries/x001/234.p/5";
    let bundle = Bundle::of(tile(0, 1234, 5)).unwrap();
    assert_eq!((entries.parse(), bundle.to_string().as_str()), (Ok(Resource::Entries(bundle)), entries));
    assert_eq!(Bundle::of(tile(1, 0, 1)), None);
}

#[test]
fn other_spellings_are_refused() {
    for bad in [
        "",
        "tile",
        "tile/",
        "tile/0",
        "tile/0/",
        "/tile/0/000",
        "tile/0/0",
        "tile/0/00",
        "tile/0/0000",
        "tile/0/x000/000",
        "tile/0/x000/x001/000",
        "tile/0/001/000",
        "tile/0/x001",
        "tile/0/x001/",
        "tile/0/x001/x000",
        "tile/0/X001/000",
        "tile/0/+01",
        "tile/0/-01",
        "tile/00/000",
        "tile/+0/000",
        "tile/-1/000",
        "tile/64/000",
        "tile/256/000",
        "tile/data/000",
        "tile/8/000",
        "tile/7/000",
        "tile/7/000.p/128",
        "tile/0/000.p/0",
        "tile/0/000.p/01",
        "tile/0/000.p/256",
        "tile/0/000.p/",
        "tile/0/000.p",
        "tile/0/000.p/1/",
        "tile/0/000.p/1.p/1",
        "tile/0/000/.p/1",
        "tile/0/x001/.p/1",
        "tile/0/x36/x028/x797/x018/x963/967",
        "tile/0/x036/x028/x797/x018/x963/968",
        "tile/0/x999/x999/x999/x999/x999/x999/x999/999",
        "tile/entries/0/000",
        "tile/entries/",
        "tile/0/\u{661}\u{661}\u{661}",
        "checkpoint",
    ] {
        assert!(bad.parse::<Resource>().is_err(), "{bad}");
    }
}

#[test]
fn the_last_tiles_of_the_largest_tree() {
    let edge = right_edge(MAX_SIZE);
    assert_eq!(edge.len(), 8);
    assert_eq!((edge[0].width(), edge[7].width()), (127, 255));
    for tile in &edge {
        assert_eq!(Resource::Tile(*tile).to_string().parse(), Ok(Resource::Tile(*tile)));
        assert_eq!(Tile::of_tree(tile.level(), tile.index(), MAX_SIZE), Some(*tile));
        assert_eq!(tile.full(), None);
    }
    assert_eq!(Tile::of_tree(0, u64::MAX, MAX_SIZE), None);
    assert_eq!(Tile::of_tree(8, 0, u64::MAX), None);
    assert!(Tile::new(0, u64::MAX, 256).is_err() && Tile::new(255, 1, 1).is_err());
    assert!(Tile::new(0, 0, 0).is_err() && Tile::new(0, 0, 257).is_err());
    assert_eq!((right_edge(1 << 63), right_edge(u64::MAX)), (vec![], vec![]));
    assert_eq!(new_tiles(MAX_SIZE - 1, u64::MAX).count(), 1);
    assert_eq!(new_tiles(5, 5).count() + new_tiles(6, 5).count() + new_tiles(u64::MAX, 0).count(), 0);
}

#[test]
fn growth_writes_what_changed() {
    assert_eq!(new_tiles(255, 257).collect::<Vec<_>>(), [tile(0, 0, 256), tile(0, 1, 1), tile(1, 0, 1)]);
    assert_eq!(new_tiles(256, 257).collect::<Vec<_>>(), [tile(0, 1, 1)]);
    assert_eq!(
        new_tiles(65_535, 65_536).collect::<Vec<_>>(),
        [tile(0, 255, 256), tile(1, 0, 256), tile(2, 0, 1)]
    );
}

#[test]
fn bytes_of_tiles() {
    let hashes = [Digest::of(b"a"), Digest::of(b"b")];
    let data: Vec<u8> = hashes.iter().flat_map(|hash| *hash.as_bytes()).collect();
    assert_eq!(tile(0, 0, 2).parse(&data).unwrap(), hashes);
    for bad in [&data[..63], &data[..32], &[data.as_slice(), &[0]].concat(), &[]] {
        assert!(matches!(tile(0, 0, 2).parse(bad), Err(Error::Length { want: 64, .. })));
    }
}

#[test]
fn entry_bundles() {
    let long = vec![7; MAX_ENTRY];
    let entries: [&[u8]; 4] = [b"", b"a", &long, b"bc"];
    let data = encode_entries(&entries).unwrap();
    assert_eq!(data[..5], [0, 0, 0, 1, b'a']);
    let bundle = |width| Bundle::of(tile(0, 0, width)).unwrap();
    assert_eq!(parse_entries(bundle(4), &data).unwrap(), entries);
    assert!(matches!(parse_entries(bundle(3), &data), Err(Error::Entry { at: 3, .. })));
    assert!(matches!(parse_entries(bundle(5), &data), Err(Error::Entry { at: 4, .. })));
    assert!(matches!(parse_entries(bundle(4), &data[..data.len() - 1]), Err(Error::Entry { at: 3, .. })));
    assert!(matches!(parse_entries(bundle(1), &[0]), Err(Error::Entry { at: 0, .. })));
    assert!(matches!(encode_entries(&[vec![0; MAX_ENTRY + 1]]), Err(Error::Entry { at: 0, .. })));
    assert!(encode_entries(&[b""; 256]).is_ok() && encode_entries(&[b""; 257]).is_err());
    assert_eq!(Bundle::with_entry(257, 258), Bundle::of(tile(0, 1, 2)));
    assert_eq!(Bundle::with_entry(258, 258), None);
    assert_eq!(Bundle::with_entry(u64::MAX, u64::MAX), None);
}

/// Every range of a proof is cut into subtrees that lie in one tile each.
#[test]
fn nodes_cover_their_leaves() {
    for size in 1..600_u64 {
        let nodes = Node::all_of(0..size);
        assert_eq!(nodes.len() as u32, size.count_ones());
        let leaves: u64 = nodes.iter().map(|node| 1 << node.height).sum();
        assert_eq!(leaves, size);
    }
    assert_eq!(Node::all_of(5..5).len(), 0);
    assert_eq!(range_root(0..0, |_| None), Some(Digest::of(b"")));
}
