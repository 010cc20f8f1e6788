//! The right edge of a growing log: enough to append leaves, to know the root, and to write the tiles that
//! changed, without the rest of the tree. At most 255 hashes a level.

use super::MAX_SIZE;
use super::read::{self, TileSource, Tiles};
use super::tile::{LEVELS, Tile, WIDTH, hashes_at, range_root, right_edge};
use crate::{Digest, merkle};

/// The tree would have 2^63 or more leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a log has less than 2^63 entries; this one cannot grow by {0}")]
pub struct Full(pub usize);

/// A tile's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TileFile {
    /// Where it goes.
    pub tile: Tile,
    /// Its bytes: 32 for each hash.
    pub data: Vec<u8>,
}

/// The hashes at the right edge of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    /// The hashes of the partial tile of each level, possibly none.
    levels: [Vec<Digest>; LEVELS as usize],
}

impl Frontier {
    /// That of a tree without leaves.
    pub fn new() -> Self {
        Self { size: 0, levels: Default::default() }
    }

    /// That of the tree of `size` leaves under `root`, from its partial tiles: one or none for each level.
    ///
    /// # Errors
    /// As [`read::inclusion`]; [`read::Error::Root`] if the tiles are not those of this tree.
    pub fn read<S: TileSource>(
        size: u64,
        root: &Digest,
        source: &mut S,
    ) -> Result<Self, read::Error<S::Error>> {
        let tiles = read::tiles_for_root(size).ok_or(read::Error::Range { at: size, size })?;
        let mut hashes = Tiles::read(size, Some(root), &tiles, source)?;
        let mut frontier = Self { size, ..Self::new() };
        for tile in right_edge(size) {
            if let Some(level) = frontier.levels.get_mut(usize::from(tile.level())) {
                *level = hashes.take(tile).unwrap_or_default();
            }
        }
        Ok(frontier)
    }

    /// How many leaves the tree has.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The root over them.
    pub fn root(&self) -> Digest {
        let hash = |node: super::tile::Node| node.hash(self.levels.get(usize::from(node.tile().0))?);
        // The edge has all the subtrees that the root is made of.
        range_root(0..self.size, hash).unwrap_or_else(|| Digest::of(b""))
    }

    /// Appends leaf hashes. Returns the files to write before the new root is published: the tiles that were
    /// filled, lower levels first where one fills another, then the new partial ones.
    ///
    /// # Errors
    /// [`Full`]; the frontier is then as it was.
    pub fn append(&mut self, leaves: &[Digest]) -> Result<Vec<TileFile>, Full> {
        let old = self.size;
        let grown = u64::try_from(leaves.len()).ok().and_then(|more| old.checked_add(more));
        let new = grown.filter(|new| *new <= MAX_SIZE).ok_or(Full(leaves.len()))?;
        let mut files = Vec::new();
        for leaf in leaves {
            self.push(*leaf, &mut files);
        }
        let changed = right_edge(new).into_iter().rev();
        for tile in changed.filter(|tile| hashes_at(tile.level(), old) != hashes_at(tile.level(), new)) {
            if let Some(hashes) = self.levels.get(usize::from(tile.level())) {
                files.push(file(tile, hashes));
            }
        }
        Ok(files)
    }

    fn push(&mut self, leaf: Digest, files: &mut Vec<TileFile>) {
        self.size += 1;
        let mut hash = leaf;
        for (level, hashes) in (0..LEVELS).zip(&mut self.levels) {
            hashes.push(hash);
            if hashes.len() < usize::from(WIDTH) {
                return;
            }
            // Its last hash came just now, so it is the last full tile of its level.
            let index = hashes_at(level, self.size) / u64::from(WIDTH) - 1;
            if let Ok(tile) = Tile::new(level, index, WIDTH) {
                files.push(file(tile, hashes));
            }
            hash = merkle::root_of_hashes(hashes);
            hashes.clear();
        }
    }
}

impl Default for Frontier {
    fn default() -> Self {
        Self::new()
    }
}

fn file(tile: Tile, hashes: &[Digest]) -> TileFile {
    TileFile { tile, data: hashes.iter().flat_map(|hash| *hash.as_bytes()).collect() }
}

#[cfg(test)]
mod tests;
