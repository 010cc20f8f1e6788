//! The digest of one tensor of the training state.
//!
//! ```text
//! tensor root = H("muster.tensor/1"; header, root of the RFC 6962 tree over the tiles)
//! header      = canonical JSON {"dtype":"F32","name":N,"ops":"muster.ops/1","role":"w"|"m"|"v","shape":[..]}
//! ```
//!
//! A matrix is cut into tiles of 64 x 64, a vector into tiles of 4096, row-major, smaller at the right and
//! lower edge and never padded. Tiles are numbered row by row: `tile_row * ceil(cols / 64) + tile_col`. A
//! tile's data are its f32 values, row-major, little-endian, bits as they are. One tile can so be shown and
//! recomputed without the rest of the tensor.

use serde_json::json;

use crate::hash::{self, h};
use crate::merkle::TreeHasher;
use crate::{Digest, jcs};

mod leaves;
mod transposed;

pub use leaves::Beside;
use leaves::{Leaf, hash_leaves};
pub use transposed::{TransposedHasher, take_columns};

/// The version of the arithmetic that gives the numbers their meaning; part of every tensor's header.
pub const OPS: &str = "muster.ops/1";
/// Rows and columns of a matrix tile.
pub const TILE_SIDE: usize = 64;
/// Elements of a vector tile.
pub const TILE_LENGTH: usize = 4096;
/// Longest accepted tensor name, in bytes.
pub const MAX_NAME: usize = 256;

/// What a tensor is to its parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// The weights.
    Weight,
    /// Adam's first moment.
    FirstMoment,
    /// Adam's second moment.
    SecondMoment,
}

impl Role {
    /// All roles in the order in which a state lists them.
    pub const ALL: [Self; 3] = [Self::Weight, Self::FirstMoment, Self::SecondMoment];

    /// The letter in the header: `w`, `m` or `v`.
    pub const fn letter(self) -> &'static str {
        match self {
            Self::Weight => "w",
            Self::FirstMoment => "m",
            Self::SecondMoment => "v",
        }
    }
}

/// Why a tensor has no digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The name is empty or longer than [`MAX_NAME`].
    #[error("tensor name {0:?} is empty or longer than {MAX_NAME} bytes")]
    Name(String),
    /// The shape has not one or two dimensions of at least 1, or too many elements to count.
    #[error("tensor {name}: shape {shape:?} is not [n] or [rows, columns] with each at least 1")]
    Shape {
        /// The tensor.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// The number of values is not what the shape says.
    #[error("tensor {name}: {got} values, but its shape has {want}")]
    Length {
        /// The tensor.
        name: String,
        /// Elements of the shape.
        want: usize,
        /// Values given.
        got: usize,
    },
    /// The name occurs twice in one state. A tied tensor is listed once.
    #[error("tensor {0} occurs twice in the state")]
    Duplicate(String),
}

/// Computes a tensor root from its values as they come, in row-major order and in pieces of any size. Holds the
/// values of up to 64 rows of a matrix, or of two tiles of a vector: tiles are hashed two at a time.
#[derive(Debug, Clone)]
pub struct TensorHasher {
    name: String,
    header: Vec<u8>,
    /// Elements of a row; a vector is a single row of wider tiles.
    columns: usize,
    /// Columns of a full tile.
    tile_columns: usize,
    elements: usize,
    /// How many values have been hashed.
    seen: usize,
    /// Where the next value goes: its row in the band, its column, and the tile of the row that this is in.
    row: usize,
    column: usize,
    tile: usize,
    /// The tile of the row that is first in `band`.
    first: usize,
    /// The tiles being filled, left to right, as leaves. Grows as values come, so that a hostile shape costs nothing.
    band: Vec<Leaf>,
    tree: TreeHasher,
}

impl TensorHasher {
    /// A tensor of this canonical name, role and shape (`[n]` or `[rows, columns]`, elements).
    ///
    /// # Errors
    /// [`Error::Name`], [`Error::Shape`].
    pub fn new(name: &str, role: Role, shape: &[usize]) -> Result<Self, Error> {
        let (header, elements) = header(name, role, shape)?;
        let (columns, tile_columns) = match *shape {
            [_, columns] => (columns, TILE_SIDE),
            _ => (elements, TILE_LENGTH),
        };
        Ok(Self {
            name: name.to_owned(),
            header,
            columns,
            tile_columns,
            elements,
            seen: 0,
            row: 0,
            column: 0,
            tile: 0,
            first: 0,
            band: Vec::new(),
            tree: TreeHasher::new(),
        })
    }

    /// Adds the next values in row-major order.
    ///
    /// # Errors
    /// [`Error::Length`] when they are more than the shape has.
    pub fn update(&mut self, values: &[f32]) -> Result<(), Error> {
        self.update_beside(values, &mut Beside::nothing())
    }

    /// As [`TensorHasher::update`], beside bytes of a stream.
    ///
    /// # Errors
    /// As [`TensorHasher::update`].
    pub fn update_beside(&mut self, mut values: &[f32], beside: &mut Beside<'_>) -> Result<(), Error> {
        let got = self.seen.saturating_add(values.len());
        if got > self.elements {
            return Err(self.wrong_length(got));
        }
        self.seen = got;
        while !values.is_empty() {
            // Up to the right edge of the tile this value is in. Counted along: to divide costs as much as to hash a block.
            let edge = self.columns.min((self.tile + 1) * self.tile_columns);
            let (run, rest) = values.split_at(values.len().min(edge - self.column));
            let place = self.tile - self.first;
            if place == self.band.len() {
                self.band.push(Leaf::default());
            }
            self.band[place].extend(run);
            self.column += run.len();
            values = rest;
            if self.column == self.columns {
                (self.row, self.column, self.tile) = (self.row + 1, 0, 0);
                if self.row == TILE_SIDE || (values.is_empty() && self.seen == self.elements) {
                    self.row = 0;
                    self.close_band(beside);
                }
            } else if self.column == edge {
                self.tile += 1;
                // A vector is one row, and its tiles are whole at once.
                if self.tile_columns == TILE_LENGTH && place == 1 {
                    self.close_band(beside);
                }
            }
        }
        Ok(())
    }

    /// The tensor root.
    ///
    /// # Errors
    /// [`Error::Length`] when values are missing.
    pub fn finish(self) -> Result<Digest, Error> {
        if self.seen != self.elements {
            return Err(self.wrong_length(self.seen));
        }
        Ok(h(hash::TENSOR, &[&self.header, self.tree.root().as_bytes()]))
    }

    /// Hashes the tiles that were filled.
    fn close_band(&mut self, beside: &mut Beside<'_>) {
        self.first = self.tile;
        hash_leaves(&mut self.band, beside, |leaf| self.tree.push_hash(leaf));
    }

    fn wrong_length(&self, got: usize) -> Error {
        Error::Length { name: self.name.clone(), want: self.elements, got }
    }
}

/// The header of a tensor, and how many elements it has.
fn header(name: &str, role: Role, shape: &[usize]) -> Result<(Vec<u8>, usize), Error> {
    if name.is_empty() || name.len() > MAX_NAME {
        return Err(Error::Name(name.to_owned()));
    }
    let wrong_shape = || Error::Shape { name: name.to_owned(), shape: shape.to_vec() };
    let (rows, columns) = match *shape {
        [n] => (1, n),
        [rows, columns] => (rows, columns),
        _ => return Err(wrong_shape()),
    };
    let elements = rows.checked_mul(columns).filter(|n| *n > 0).ok_or_else(wrong_shape)?;
    let header = json!({"dtype": "F32", "name": name, "ops": OPS, "role": role.letter(), "shape": shape});
    // A dimension beyond 2^53 has no canonical JSON.
    let header = jcs::to_vec(&header).map_err(|_| wrong_shape())?;
    Ok((header, elements))
}

/// The tensor root of values that are all in memory, row-major. Independent of any other tensor, so a caller
/// may compute the roots of a state on several threads and hand them to
/// [`StateRootBuilder::roots`](crate::state_root::StateRootBuilder::roots).
///
/// # Errors
/// As [`TensorHasher`].
pub fn tensor_root(name: &str, role: Role, shape: &[usize], values: &[f32]) -> Result<Digest, Error> {
    let mut hasher = TensorHasher::new(name, role, shape)?;
    hasher.update(values)?;
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merkle;

    fn values(n: usize) -> Vec<f32> {
        (0..n).map(|i| i as f32 * 0.5 - 3.0).collect()
    }

    /// The definition, tile by tile with copies: the second opinion of these tests.
    fn by_definition(name: &str, role: &str, shape: &[usize], values: &[f32]) -> Digest {
        let (rows, columns, tall, wide) = match *shape {
            [n] => (1, n, 1, 4096),
            [rows, columns] => (rows, columns, 64, 64),
            _ => unreachable!(),
        };
        let mut leaves = Vec::new();
        for top in (0..rows).step_by(tall) {
            for left in (0..columns).step_by(wide) {
                let mut tile = Vec::new();
                for row in top..rows.min(top + tall) {
                    for column in left..columns.min(left + wide) {
                        tile.extend(values[row * columns + column].to_le_bytes());
                    }
                }
                leaves.push(tile);
            }
        }
        let shape = shape.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let header = format!(
            r#"{{"dtype":"F32","name":"{name}","ops":"muster.ops/1","role":"{role}","shape":[{shape}]}}"#
        );
        h(hash::TENSOR, &[header.as_bytes(), merkle::root(leaves).as_bytes()])
    }

    #[test]
    fn equals_the_definition_at_all_edges() {
        let shapes: [&[usize]; 12] = [
            &[1],
            &[63],
            &[4096],
            &[4097],
            &[9000],
            &[1, 1],
            &[64, 64],
            &[65, 63],
            &[63, 65],
            &[129, 200],
            &[1, 5000],
            &[300, 1],
        ];
        for shape in shapes {
            let values = values(shape.iter().product());
            for (role, letter) in Role::ALL.into_iter().zip(["w", "m", "v"]) {
                let got = tensor_root("h.0.x", role, shape, &values).unwrap();
                assert_eq!(got, by_definition("h.0.x", letter, shape, &values), "{shape:?}");
            }
        }
    }

    #[test]
    fn pieces_do_not_matter() {
        for shape in [&[130, 70][..], &[9100]] {
            let values = values(9100);
            let whole = tensor_root("t", Role::Weight, shape, &values).unwrap();
            for piece in [1, 7, 64, 70, 4096, 9000] {
                let mut hasher = TensorHasher::new("t", Role::Weight, shape).unwrap();
                for part in values.chunks(piece) {
                    hasher.update(part).unwrap();
                }
                assert_eq!(hasher.finish().unwrap(), whole, "{shape:?} in pieces of {piece}");
            }
        }
    }

    /// Bits count, not values: -0 and +0 differ.
    #[test]
    fn the_sign_of_zero_counts() {
        let root = |x| tensor_root("t", Role::Weight, &[1], &[x]).unwrap();
        assert_ne!(root(0.0), root(-0.0));
    }

    #[test]
    fn wrong_tensors_are_refused() {
        let root = |name: &str, shape: &[usize], n| tensor_root(name, Role::Weight, shape, &values(n));
        assert!(matches!(root("", &[1], 1), Err(Error::Name(_))));
        assert!(matches!(root(&"x".repeat(257), &[1], 1), Err(Error::Name(_))));
        for shape in [&[][..], &[0], &[0, 4], &[4, 0], &[1, 1, 1], &[usize::MAX, 2], &[1 << 60]] {
            assert!(
                matches!(root("t", shape, 0), Err(Error::Shape { .. } | Error::Length { .. })),
                "{shape:?}"
            );
        }
        let message = root("t", &[2, 3], 5).unwrap_err().to_string();
        assert_eq!(message, "tensor t: 5 values, but its shape has 6");
        assert!(matches!(root("t", &[2, 3], 7), Err(Error::Length { want: 6, got: 7, .. })));
    }
}
