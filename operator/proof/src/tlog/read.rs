//! Roots and proofs out of tiles. Every tile is checked before a hash of it is used: those at the right edge
//! against the root, each other one against its own root in the tile above.
//!
//! Reading is done by the caller, through [`TileSource`]. Who reads asynchronously asks which tiles are
//! needed ([`tiles_for_inclusion`] and its like), fetches these, and passes them as a map.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::MAX_SIZE;
use super::tile::{self, LEVELS, Node, Tile, right_edge};
use crate::{Digest, merkle};

/// Where tiles come from: a directory, a bucket, what was fetched before.
pub trait TileSource {
    /// Why a tile could not be read.
    type Error;

    /// The bytes of a tile's file. Instead of a partial tile, the full one of the same place may be given:
    /// a log may have deleted the former.
    ///
    /// # Errors
    /// The source's own.
    fn tile(&mut self, tile: Tile) -> Result<Vec<u8>, Self::Error>;
}

/// A tile that should have been fetched and was not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} was not fetched")]
pub struct NotFetched(pub Tile);

/// Tiles that were fetched before.
impl TileSource for BTreeMap<Tile, Vec<u8>> {
    type Error = NotFetched;

    fn tile(&mut self, tile: Tile) -> Result<Vec<u8>, NotFetched> {
        let full = || tile.full().and_then(|full| self.get(&full));
        self.get(&tile).or_else(full).cloned().ok_or(NotFetched(tile))
    }
}

/// Why a root or a proof cannot be computed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error<E> {
    /// The source failed.
    #[error("cannot read {tile}: {error}")]
    Source {
        /// Which tile was wanted.
        tile: Tile,
        /// The source's error.
        error: E,
    },
    /// Not the bytes of a tile.
    #[error(transparent)]
    Tile(#[from] tile::Error),
    /// The tiles at the right edge do not have the root that is known.
    #[error(
        "the tiles of the tree of {size} leaves have another root than is signed; they are not the log's"
    )]
    Root {
        /// The tree's size.
        size: u64,
    },
    /// A full tile does not have the root that stands in the tile above it.
    #[error("{0} has another root than the tile above says; it is not the log's")]
    Parent(Tile),
    /// No leaf of this index, no tree of this size, or an old size above the new one.
    #[error("a tree of {size} leaves has no proof for {at}")]
    Range {
        /// The index, or the old size.
        at: u64,
        /// The tree's size.
        size: u64,
    },
}

/// The tiles that the root of a tree of `size` leaves needs. `None` for 2^63 leaves and more.
pub fn tiles_for_root(size: u64) -> Option<Vec<Tile>> {
    needed(size, &[])
}

/// The tiles that [`inclusion`] needs, highest level first. `None` if there is no such leaf.
pub fn tiles_for_inclusion(index: u64, size: u64) -> Option<Vec<Tile>> {
    needed(size, &inclusion_ranges(index, size)?)
}

/// The tiles that [`consistency`] needs, highest level first. `None` if `old` is above `new`.
pub fn tiles_for_consistency(old: u64, new: u64) -> Option<Vec<Tile>> {
    needed(new, &merkle::consistency_ranges(old, new)?)
}

/// The root of the tree of `size` leaves; the tiles are believed.
///
/// # Errors
/// [`Error::Source`], [`Error::Tile`], [`Error::Range`].
pub fn root<S: TileSource>(size: u64, source: &mut S) -> Result<Digest, Error<S::Error>> {
    let tiles = tiles_for_root(size).ok_or(Error::Range { at: size, size })?;
    Ok(Tiles::read(size, None, &tiles, source)?.root)
}

/// The inclusion path of leaf `index` in the tree of `size` leaves, nearest sibling first, and the leaf's
/// hash. `root` is the signed one, if the caller has it: without, the tiles are checked against each other
/// only.
///
/// # Errors
/// [`Error::Range`]; [`Error::Source`] and [`Error::Tile`] for a tile that cannot be had; [`Error::Root`]
/// and [`Error::Parent`] for one that is not of this tree.
pub fn inclusion<S: TileSource>(
    index: u64,
    size: u64,
    root: Option<&Digest>,
    source: &mut S,
) -> Result<(Digest, Vec<Digest>), Error<S::Error>> {
    let none = || Error::Range { at: index, size };
    let ranges = inclusion_ranges(index, size).ok_or_else(none)?;
    let tiles = needed(size, &ranges).ok_or_else(none)?;
    let mut hashes = Tiles::read(size, root, &tiles, source)?.proof(ranges).ok_or_else(none)?;
    let leaf = hashes.pop().ok_or_else(none)?;
    Ok((leaf, hashes))
}

/// The consistency proof from the tree of `old` leaves to that of `new` leaves, whose signed root is `root`,
/// if the caller has it.
///
/// # Errors
/// As [`inclusion`].
pub fn consistency<S: TileSource>(
    old: u64,
    new: u64,
    root: Option<&Digest>,
    source: &mut S,
) -> Result<Vec<Digest>, Error<S::Error>> {
    let none = || Error::Range { at: old, size: new };
    let ranges = merkle::consistency_ranges(old, new).ok_or_else(none)?;
    let tiles = needed(new, &ranges).ok_or_else(none)?;
    Tiles::read(new, root, &tiles, source)?.proof(ranges).ok_or_else(none)
}

/// The ranges of the path, then the leaf itself.
fn inclusion_ranges(index: u64, size: u64) -> Option<Vec<Range<u64>>> {
    let mut ranges = merkle::inclusion_ranges(index, size)?;
    ranges.push(index..index + 1);
    Some(ranges)
}

/// The tiles that these ranges of leaves need in a tree of `size` leaves, with all that authenticates them.
fn needed(size: u64, ranges: &[Range<u64>]) -> Option<Vec<Tile>> {
    if size > MAX_SIZE {
        return None;
    }
    let mut tiles: BTreeSet<Tile> = right_edge(size).into_iter().collect();
    for node in ranges.iter().cloned().flat_map(Node::all_of) {
        let (level, index) = node.tile();
        let mut at = Tile::of_tree(level, index, size)?;
        // A partial tile is part of the right edge; a full one has its root in the tile above.
        while tiles.insert(at) && at.level() < LEVELS {
            at = Tile::of_tree(at.level() + 1, at.parent().0, size)?;
        }
    }
    Some(tiles.into_iter().rev().collect())
}

/// The hashes of checked tiles of one tree.
pub(super) struct Tiles {
    root: Digest,
    hashes: BTreeMap<(u8, u64), Vec<Digest>>,
}

impl Tiles {
    /// Reads `tiles`, which are [`needed`] ones in their order: each after the tile above it.
    pub(super) fn read<S: TileSource>(
        size: u64,
        root: Option<&Digest>,
        tiles: &[Tile],
        source: &mut S,
    ) -> Result<Self, Error<S::Error>> {
        let mut all = Self { root: Digest::of(b""), hashes: BTreeMap::new() };
        let (full, edge): (Vec<Tile>, Vec<Tile>) = tiles.iter().partition(|tile| tile.is_full());
        for tile in edge {
            all.hashes.insert((tile.level(), tile.index()), read(tile, source)?);
        }
        let none = Error::Range { at: size, size };
        all.root = range_root(&all.hashes, 0..size).ok_or(none)?;
        if root.is_some_and(|root| *root != all.root) {
            return Err(Error::Root { size });
        }
        for tile in full {
            let hashes = read(tile, source)?;
            let (index, at) = tile.parent();
            let above = all.hashes.get(&(tile.level() + 1, index)).and_then(|above| above.get(at));
            if above != Some(&merkle::root_of_hashes(&hashes)) {
                return Err(Error::Parent(tile));
            }
            all.hashes.insert((tile.level(), tile.index()), hashes);
        }
        Ok(all)
    }

    /// The hashes of a tile that was read.
    pub(super) fn take(&mut self, tile: Tile) -> Option<Vec<Digest>> {
        self.hashes.remove(&(tile.level(), tile.index()))
    }

    fn proof(&self, ranges: Vec<Range<u64>>) -> Option<Vec<Digest>> {
        ranges.into_iter().map(|range| range_root(&self.hashes, range)).collect()
    }
}

fn range_root(hashes: &BTreeMap<(u8, u64), Vec<Digest>>, range: Range<u64>) -> Option<Digest> {
    tile::range_root(range, |node| node.hash(hashes.get(&node.tile())?))
}

fn read<S: TileSource>(tile: Tile, source: &mut S) -> Result<Vec<Digest>, Error<S::Error>> {
    let data = source.tile(tile).map_err(|error| Error::Source { tile, error })?;
    match tile.full() {
        Some(full) if data.len() == full.length() => {
            let mut hashes = full.parse(&data)?;
            hashes.truncate(usize::from(tile.width()));
            Ok(hashes)
        }
        _ => Ok(tile.parse(&data)?),
    }
}

#[cfg(test)]
mod tests;
