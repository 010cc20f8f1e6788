//! How a tree is cut into files: c2sp.org/tlog-tiles. A tile is up to 256 consecutive hashes of one level:
//! level 0 has the leaf hashes, and each hash of a level above is the root of a full tile of the level below.
//!
//! ```text
//! tile/<level>/<index>          256 hashes, 8192 bytes, never changes
//! tile/<level>/<index>.p/<W>    the first W of them (1 to 255), while the tree ends there
//! tile/entries/<index>[.p/<W>]  the data of the leaves of the tile of level 0
//! ```
//!
//! The index is written in groups of three digits, all but the last with an `x`: 1234067 is `x001/x234/067`.
//! Each path has one spelling.

use std::fmt;
use std::str::FromStr;

use super::{MAX_SIZE, decimal};
use crate::{Digest, merkle};

mod bundle;

pub use bundle::{MAX_ENTRY, encode_entries, parse_entries};

/// Levels of a binary tree in one tile.
pub const HEIGHT: u32 = 8;
/// Hashes of a full tile.
pub const WIDTH: u16 = 1 << HEIGHT;
/// Levels that a tree of less than 2^63 leaves can have.
pub const LEVELS: u8 = 8;
/// Bytes of a hash.
const HASH: usize = 32;

/// Why a path or the bytes of a tile are not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Not the one spelling of a path of this module.
    #[error(
        "not the path of a tile: want `tile/<level>/<index>` or `tile/entries/<index>`, with `.p/<width>`"
    )]
    Path,
    /// No tree of less than 2^63 leaves has this tile.
    #[error("no log has a tile of level {level} with index {index} and width {width}")]
    Coordinates {
        /// The level.
        level: u8,
        /// The index.
        index: u64,
        /// The width.
        width: u16,
    },
    /// Not the number of bytes that its width wants.
    #[error("{tile} has {got} bytes, want {want}; fetch it again")]
    Length {
        /// Which tile.
        tile: Tile,
        /// Its bytes.
        got: usize,
        /// 32 bytes for each hash.
        want: usize,
    },
    /// An entry of no or too many bytes for its length field, or too many entries.
    #[error("entry {at} of a bundle: {why}")]
    Entry {
        /// Counted from 0 within the bundle.
        at: usize,
        /// What is wrong.
        why: &'static str,
    },
}

/// The coordinates of a tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tile {
    level: u8,
    index: u64,
    width: u16,
}

impl Tile {
    /// The tile with these coordinates; `width` is 1 to 256.
    ///
    /// # Errors
    /// [`Error::Coordinates`]: such a tile would be of a tree of 2^63 or more leaves, or have no hashes.
    pub fn new(level: u8, index: u64, width: u16) -> Result<Self, Error> {
        let error = Error::Coordinates { level, index, width };
        if level >= LEVELS || width == 0 || width > WIDTH {
            return Err(error);
        }
        // The leaves up to its end, without overflow.
        let end = (u128::from(index) * u128::from(WIDTH) + u128::from(width)) << (HEIGHT * u32::from(level));
        if end > u128::from(MAX_SIZE) { Err(error) } else { Ok(Self { level, index, width }) }
    }

    /// The tile at this place in a tree of `size` leaves, as wide as it is there; `None` if the tree does not
    /// reach it.
    pub fn of_tree(level: u8, index: u64, size: u64) -> Option<Self> {
        let hashes = hashes_at(level, size);
        let before = index.checked_mul(u64::from(WIDTH))?;
        let width = hashes.checked_sub(before)?.min(u64::from(WIDTH));
        Self::new(level, index, u16::try_from(width).ok()?).ok()
    }

    /// Level 0 has the leaves.
    pub fn level(self) -> u8 {
        self.level
    }

    /// Which tile of its level, from 0.
    pub fn index(self) -> u64 {
        self.index
    }

    /// How many hashes it has, 1 to 256.
    pub fn width(self) -> u16 {
        self.width
    }

    /// Whether it has all its hashes and so never changes.
    pub fn is_full(self) -> bool {
        self.width == WIDTH
    }

    /// The bytes of its file: 32 for each hash.
    pub fn length(self) -> usize {
        usize::from(self.width) * HASH
    }

    /// The full tile of the same place, which holds the same hashes first; `None` if no tree can fill it.
    pub fn full(self) -> Option<Self> {
        Self::new(self.level, self.index, WIDTH).ok()
    }

    /// Where in the tile of the level above this tile's root stands: the tile's index and the hash's place.
    pub(super) fn parent(self) -> (u64, usize) {
        // Both fit: the place is below 256.
        (self.index / u64::from(WIDTH), (self.index % u64::from(WIDTH)) as usize)
    }

    /// Reads the hashes of its file.
    ///
    /// # Errors
    /// [`Error::Length`].
    pub fn parse(self, data: &[u8]) -> Result<Vec<Digest>, Error> {
        if data.len() != self.length() {
            return Err(Error::Length { tile: self, got: data.len(), want: self.length() });
        }
        let (hashes, _) = data.as_chunks::<HASH>();
        Ok(hashes.iter().map(|hash| Digest::from_bytes(*hash)).collect())
    }
}

/// The path, without a slash before it.
impl fmt::Display for Tile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tile/{}/{}", self.level, Place(self.index, self.width))
    }
}

/// A file of a log below its prefix, but for the checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resource {
    /// Hashes.
    Tile(Tile),
    /// The data of the leaves of a tile of level 0.
    Entries(Bundle),
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tile(tile) => tile.fmt(f),
            Self::Entries(bundle) => bundle.fmt(f),
        }
    }
}

/// Reads a path without a slash before it, in its one spelling.
impl FromStr for Resource {
    type Err = Error;

    fn from_str(path: &str) -> Result<Self, Error> {
        let rest = path.strip_prefix("tile/").ok_or(Error::Path)?;
        let (kind, place) = rest.split_once('/').ok_or(Error::Path)?;
        let Place(index, width) = place.parse()?;
        if kind == "entries" {
            return Ok(Self::Entries(Bundle(Tile::new(0, index, width)?)));
        }
        let level = decimal(kind).and_then(|level| u8::try_from(level).ok()).filter(|level| *level < 64);
        Ok(Self::Tile(Tile::new(level.ok_or(Error::Path)?, index, width)?))
    }
}

/// The bundle of the entries whose leaf hashes are a tile of level 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bundle(Tile);

impl Bundle {
    /// The bundle beside a tile of level 0; `None` for other levels.
    pub fn of(tile: Tile) -> Option<Self> {
        (tile.level == 0).then_some(Self(tile))
    }

    /// The bundle that entry `index` of a tree of `size` leaves is in; `None` if it is not in the tree.
    pub fn with_entry(index: u64, size: u64) -> Option<Self> {
        let tile = Tile::of_tree(0, index / u64::from(WIDTH), size)?;
        (index < size).then_some(Self(tile))
    }

    /// The tile with its leaf hashes.
    pub fn tile(self) -> Tile {
        self.0
    }
}

impl fmt::Display for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tile/entries/{}", Place(self.0.index, self.0.width))
    }
}

/// Index and width as they stand in a path.
struct Place(u64, u16);

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut groups = vec![format!("{:03}", self.0 % 1000)];
        let mut rest = self.0 / 1000;
        while rest > 0 {
            groups.push(format!("x{:03}", rest % 1000));
            rest /= 1000;
        }
        groups.reverse();
        f.write_str(&groups.join("/"))?;
        if self.1 == WIDTH { Ok(()) } else { write!(f, ".p/{}", self.1) }
    }
}

impl FromStr for Place {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let (place, width) = match text.split_once(".p/") {
            Some((place, width)) => {
                let width = decimal(width).and_then(|width| u16::try_from(width).ok());
                (place, width.filter(|width| (1..WIDTH).contains(width)).ok_or(Error::Path)?)
            }
            None => (text, WIDTH),
        };
        let mut index: u64 = 0;
        let mut groups = place.split('/').peekable();
        while let Some(group) = groups.next() {
            // All groups but the last are marked, so that no file has the name of a directory.
            let digits = if groups.peek().is_some() { group.strip_prefix('x') } else { Some(group) };
            let digits =
                digits.filter(|digits| digits.len() == 3 && digits.bytes().all(|b| b.is_ascii_digit()));
            let value: u64 = digits.and_then(|digits| digits.parse().ok()).ok_or(Error::Path)?;
            index = index.checked_mul(1000).and_then(|index| index.checked_add(value)).ok_or(Error::Path)?;
            if index == 0 && groups.peek().is_some() {
                return Err(Error::Path); // a leading group of zeros
            }
        }
        Ok(Self(index, width))
    }
}

/// How many hashes a tree of `size` leaves has at a level.
pub(super) fn hashes_at(level: u8, size: u64) -> u64 {
    size.checked_shr(HEIGHT * u32::from(level)).unwrap_or(0)
}

/// The partial tiles at the right edge of a tree of `size` leaves, highest level first. Root and frontier of
/// the tree are in them. None for the empty tree and for 2^63 leaves and more.
pub fn right_edge(size: u64) -> Vec<Tile> {
    let levels = if size > MAX_SIZE { 0 } else { LEVELS };
    let tile = |level| {
        let width = u16::try_from(hashes_at(level, size) % u64::from(WIDTH)).ok()?;
        Tile::new(level, hashes_at(level, size) / u64::from(WIDTH), width).ok()
    };
    (0..levels).rev().filter_map(tile).collect()
}

/// The tiles that a tree of `new` leaves has and one of `old` leaves has not, lower levels first: what is
/// written when a log grows. From 0: all tiles of a tree. Empty if `old` is not below `new`. There are as
/// many as there are new leaves / 255, so the caller bounds that.
pub fn new_tiles(old: u64, new: u64) -> impl Iterator<Item = Tile> {
    let new = new.min(MAX_SIZE);
    (0..LEVELS).flat_map(move |level| {
        let (had, has) = (hashes_at(level, old), hashes_at(level, new));
        let indices = if had < has { had / u64::from(WIDTH)..has.div_ceil(u64::from(WIDTH)) } else { 0..0 };
        indices.filter_map(move |index| Tile::of_tree(level, index, new))
    })
}

/// A complete subtree: the leaves from `index` << `height`, 1 << `height` of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Node {
    height: u32,
    index: u64,
}

impl Node {
    /// The complete subtrees of these leaves, which begin where a subtree can: biggest first.
    pub(super) fn all_of(leaves: std::ops::Range<u64>) -> Vec<Self> {
        let mut nodes = Vec::new();
        let mut at = leaves.start;
        while at < leaves.end {
            let height = at.trailing_zeros().min((leaves.end - at).ilog2());
            nodes.push(Self { height, index: at >> height });
            at += 1 << height;
        }
        nodes
    }

    /// Level and index of the tile that its hash is computed from.
    pub(super) fn tile(self) -> (u8, u64) {
        // A height is below 64, so the level is below 8.
        ((self.height / HEIGHT) as u8, (self.index << (self.height % HEIGHT)) / u64::from(WIDTH))
    }

    /// Its hash, from the hashes of that tile; `None` if the tile is too narrow.
    pub(super) fn hash(self, tile: &[Digest]) -> Option<Digest> {
        let inside = self.height % HEIGHT;
        let start = usize::try_from((self.index << inside) % u64::from(WIDTH)).ok()?;
        tile.get(start..start + (1 << inside)).map(merkle::root_of_hashes)
    }
}

/// The root of the tree over these leaves, from the hashes of its complete subtrees.
pub(super) fn range_root(
    leaves: std::ops::Range<u64>,
    hash: impl Fn(Node) -> Option<Digest>,
) -> Option<Digest> {
    let mut root = None;
    for node in Node::all_of(leaves).into_iter().rev() {
        let left = hash(node)?;
        root = Some(root.map_or(left, |right| merkle::node(&left, &right)));
    }
    Some(root.unwrap_or_else(|| Digest::of(b"")))
}

#[cfg(test)]
mod tests;
