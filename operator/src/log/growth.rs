//! What a batch of entries adds to the files: pure, from the right edge of the tree and the entries of the last bundle.
use std::io;

use muster_proof::Digest;
use muster_proof::merkle;
use muster_proof::tlog::frontier::Frontier;
use muster_proof::tlog::tile::{Bundle, Resource, Tile, WIDTH, encode_entries};

/// Where the log ends.
#[derive(Debug, Clone, Default)]
pub struct Tip {
    frontier: Frontier,
    /// The entries of the last bundle, if it is not full.
    bundle: Vec<Vec<u8>>,
}

/// The files of a batch, and where the log ends after it.
#[derive(Debug)]
pub struct Growth {
    /// Tiles and bundles with their bytes; all must be durable before the root is published.
    pub files: Vec<(Resource, Vec<u8>)>,
    /// The root over all entries.
    pub root: Digest,
    /// The new end.
    pub tip: Tip,
}

impl Tip {
    /// How many entries there are.
    pub fn size(&self) -> u64 {
        self.frontier.size()
    }

    /// The root over them.
    pub fn root(&self) -> Digest {
        self.frontier.root()
    }

    /// The entries of the last bundle, if it is not full.
    pub fn bundle(&self) -> &[Vec<u8>] {
        &self.bundle
    }

    /// Appends entries.
    ///
    /// # Errors
    /// An entry that no bundle can hold, or more of them than a log can.
    pub fn grow<'a>(&self, entries: impl IntoIterator<Item = &'a [u8]>) -> io::Result<Growth> {
        let Self { mut frontier, mut bundle } = self.clone();
        let mut index = self.size() / u64::from(WIDTH);
        let mut files = Vec::new();
        let mut leaves = Vec::new();
        for entry in entries {
            leaves.push(merkle::leaf(entry));
            bundle.push(entry.to_vec());
            if bundle.len() == usize::from(WIDTH) {
                files.push(file(index, &bundle)?);
                bundle.clear();
                index += 1;
            }
        }
        if !leaves.is_empty() && !bundle.is_empty() {
            files.push(file(index, &bundle)?);
        }
        let tiles = frontier.append(&leaves).map_err(io::Error::other)?;
        files.extend(tiles.into_iter().map(|file| (Resource::Tile(file.tile), file.data)));
        Ok(Growth { files, root: frontier.root(), tip: Self { frontier, bundle } })
    }
}

fn file(index: u64, entries: &[Vec<u8>]) -> io::Result<(Resource, Vec<u8>)> {
    let width = u16::try_from(entries.len()).map_err(io::Error::other)?;
    let bundle = bundle(index, width).ok_or_else(|| io::Error::other("a log has less than 2^63 entries"))?;
    Ok((Resource::Entries(bundle), encode_entries(entries).map_err(io::Error::other)?))
}

/// The bundle at this place, so wide.
pub fn bundle(index: u64, width: u16) -> Option<Bundle> {
    Tile::new(0, index, width).ok().and_then(Bundle::of)
}

/// The hashes of a file's place.
pub fn place(resource: &Resource) -> Tile {
    match resource {
        Resource::Tile(tile) => *tile,
        Resource::Entries(bundle) => bundle.tile(),
    }
}

/// The folder of the partial files at the place of a full one.
pub fn partials(resource: &Resource) -> Option<String> {
    place(resource).is_full().then(|| format!("{resource}.p"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// However entries are cut into batches, the last files are the same, and those of each size are C2SP's.
    #[test]
    fn batches_leave_no_trace() {
        let entries: Vec<Vec<u8>> = (0..700_u32).map(|i| i.to_le_bytes().repeat(3)).collect();
        let grow = |step: usize| {
            let (mut tip, mut all) = (Tip::default(), std::collections::BTreeMap::new());
            for part in entries.chunks(step) {
                let growth = tip.grow(part.iter().map(Vec::as_slice)).unwrap();
                tip = growth.tip;
                assert_eq!(growth.root, tip.root());
                all.extend(growth.files);
            }
            (tip.root(), tip.bundle().to_vec(), all)
        };
        let (root, bundle, whole) = grow(700);
        assert_eq!(root, merkle::root(&entries));
        assert_eq!(bundle.len(), 700 % 256);
        let names: Vec<_> = whole.keys().map(ToString::to_string).collect();
        let want = [
            "tile/0/000",
            "tile/0/001",
            "tile/0/002.p/188",
            "tile/1/000.p/2",
            "tile/entries/000",
            "tile/entries/001",
            "tile/entries/002.p/188",
        ];
        assert_eq!(names, want);
        for step in [1, 7, 255, 256] {
            let (other, _, files) = grow(step);
            assert_eq!(other, root);
            assert!(whole.iter().all(|(path, bytes)| files.get(path) == Some(bytes)), "{step}");
        }
        let full = Resource::Tile(Tile::new(0, 1, 256).unwrap());
        assert_eq!(partials(&full).as_deref(), Some("tile/0/001.p"));
        assert_eq!(partials(&Resource::Tile(Tile::new(0, 1, 9).unwrap())), None);
    }
}
