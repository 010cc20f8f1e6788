//! A matrix whose values come in the other order.
use std::ops::Range;

use super::{Beside, Error, Leaf, Role, TILE_SIDE, hash_leaves, header};
use crate::hash::{self, h};
use crate::merkle::TreeHasher;
use crate::{Digest, tensor};

/// As [`TensorHasher`](super::TensorHasher) for a matrix `[rows, columns]` whose values come column by column: so they lie
/// in a file that has the matrix transposed, and one pass over the file is enough. Holds the values of 64 columns and the
/// hash of each tile.
#[derive(Debug, Clone)]
pub struct TransposedHasher {
    name: String,
    header: Vec<u8>,
    rows: usize,
    columns: usize,
    elements: usize,
    /// How many values have come.
    seen: usize,
    /// Those of the 64 columns being filled, column by column. Grows as they come, so that a hostile shape costs nothing.
    band: Vec<f32>,
    /// Leaf hashes of the tiles so far, top to bottom, then left to right.
    tiles: Vec<Digest>,
}

impl TransposedHasher {
    /// A matrix of this canonical name, role and shape `[rows, columns]`.
    ///
    /// # Errors
    /// [`Error::Name`], [`Error::Shape`].
    pub fn new(name: &str, role: Role, shape: [usize; 2]) -> Result<Self, Error> {
        let (header, elements) = header(name, role, &shape)?;
        let [rows, columns] = shape;
        let (band, tiles) = (Vec::new(), Vec::new());
        Ok(Self { name: name.to_owned(), header, rows, columns, elements, seen: 0, band, tiles })
    }

    /// Adds the next values, column by column.
    ///
    /// # Errors
    /// [`Error::Length`] when they are more than the shape has.
    pub fn update(&mut self, values: &[f32]) -> Result<(), Error> {
        self.update_beside(values, &mut Beside::nothing())
    }

    /// As [`TransposedHasher::update`], beside bytes of a stream.
    ///
    /// # Errors
    /// As [`TransposedHasher::update`].
    pub fn update_beside(&mut self, mut values: &[f32], beside: &mut Beside<'_>) -> Result<(), Error> {
        let got = self.seen.saturating_add(values.len());
        if got > self.elements {
            return Err(self.wrong_length(got));
        }
        let full = self.rows.saturating_mul(TILE_SIDE);
        while !values.is_empty() {
            let (run, rest) = values.split_at(values.len().min(full - self.band.len()));
            self.band.extend_from_slice(run);
            self.seen += run.len();
            values = rest;
            if self.band.len() == full || self.seen == self.elements {
                self.close_band(beside);
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
        let (down, across) = (self.rows.div_ceil(TILE_SIDE), self.columns.div_ceil(TILE_SIDE));
        let mut tree = TreeHasher::new();
        for row in 0..down {
            for tile in self.tiles.iter().skip(row).step_by(down).take(across) {
                tree.push_hash(*tile);
            }
        }
        Ok(h(hash::TENSOR, &[&self.header, tree.root().as_bytes()]))
    }

    fn close_band(&mut self, beside: &mut Beside<'_>) {
        let wide = self.band.len() / self.rows;
        let (mut tile, mut leaves) = ([0.0; TILE_SIDE * TILE_SIDE], [Leaf::default(), Leaf::default()]);
        for top in (0..self.rows).step_by(TILE_SIDE) {
            let tall = TILE_SIDE.min(self.rows - top);
            let tile = &mut tile[..tall * wide];
            take_columns(&self.band, self.rows, top..top + tall, tile);
            let second = top / TILE_SIDE % 2;
            leaves[second].extend(tile);
            if second == 1 {
                hash_leaves(&mut leaves, beside, |leaf| self.tiles.push(leaf));
            }
        }
        hash_leaves(&mut leaves, beside, |leaf| self.tiles.push(leaf));
        self.band.clear();
    }

    fn wrong_length(&self, got: usize) -> Error {
        tensor::Error::Length { name: self.name.clone(), want: self.elements, got }
    }
}

/// Rows and columns of what [`take_columns`] turns at a time: a row of it is a line of the cache.
const BLOCK: usize = 16;

/// Copies `columns` of a row-major matrix whose rows have `width` values into `target`, one column after the other.
///
/// Block by block, for a walk down a column of a wide matrix fetches a line of the cache for each value; and blocks that are whole
/// by loops of known length, which take half the time.
pub fn take_columns(matrix: &[f32], width: usize, columns: Range<usize>, target: &mut [f32]) {
    let height = matrix.len() / width.max(1);
    for left in columns.clone().step_by(BLOCK) {
        let wide = BLOCK.min(columns.end - left);
        let target = &mut target[(left - columns.start) * height..];
        for top in (0..height).step_by(BLOCK) {
            let tall = BLOCK.min(height - top);
            if (wide, tall) == (BLOCK, BLOCK) {
                let mut block = [[0.0; BLOCK]; BLOCK];
                for (y, row) in block.iter_mut().enumerate() {
                    row.copy_from_slice(&matrix[(top + y) * width + left..][..BLOCK]);
                }
                for x in 0..BLOCK {
                    let column: [f32; BLOCK] = std::array::from_fn(|y| block[y][x]);
                    target[x * height + top..][..BLOCK].copy_from_slice(&column);
                }
            } else {
                for (x, y) in (0..wide).flat_map(|x| (top..top + tall).map(move |y| (x, y))) {
                    target[x * height + y] = matrix[y * width + left + x];
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::tensor_root;

    #[test]
    fn columns_are_taken_whole_whatever_the_edges() {
        for (rows, width) in [(1, 1), (1, 40), (40, 1), (16, 16), (17, 15), (33, 50)] {
            let matrix: Vec<f32> = (0..rows * width).map(|i| i as f32).collect();
            for columns in [0..width, 0..1, width - 1..width, width / 3..width, width / 2..width / 2] {
                let want: Vec<f32> =
                    columns.clone().flat_map(|x| (0..rows).map(move |y| (y * width + x) as f32)).collect();
                let mut got = vec![-1.0; want.len()];
                take_columns(&matrix, width, columns.clone(), &mut got);
                assert_eq!(got, want, "{rows} x {width}, {columns:?}");
            }
        }
    }

    fn transposed(rows: usize, columns: usize, values: &[f32]) -> Vec<f32> {
        (0..columns).flat_map(|column| (0..rows).map(move |row| values[row * columns + column])).collect()
    }

    #[test]
    fn the_other_order_gives_the_same_root_whatever_the_pieces() {
        for (rows, columns) in [(1, 1), (1, 130), (130, 1), (64, 64), (65, 63), (63, 65), (200, 129), (3, 64)]
        {
            let values: Vec<f32> = (0..rows * columns).map(|i| i as f32 * 0.5 - 3.0).collect();
            let want = tensor_root("x", Role::FirstMoment, &[rows, columns], &values).unwrap();
            let file = transposed(rows, columns, &values);
            for piece in [1, 7, 64, 4096, file.len()] {
                let mut hasher = TransposedHasher::new("x", Role::FirstMoment, [rows, columns]).unwrap();
                for part in file.chunks(piece) {
                    hasher.update(part).unwrap();
                }
                assert_eq!(hasher.finish().unwrap(), want, "{rows} x {columns}, {piece}");
            }
        }
    }

    #[test]
    fn too_few_too_many_and_hostile_shapes_are_refused() {
        let new = |shape| TransposedHasher::new("x", Role::Weight, shape);
        let mut hasher = new([3, 5]).unwrap();
        hasher.update(&[0.0; 14]).unwrap();
        assert_eq!(hasher.clone().finish(), Err(Error::Length { name: "x".into(), want: 15, got: 14 }));
        assert!(matches!(hasher.update(&[0.0; 2]), Err(Error::Length { got: 16, .. })));
        hasher.update(&[0.0]).unwrap();
        hasher.finish().unwrap();
        for shape in [[0, 5], [5, 0], [usize::MAX, 2]] {
            assert!(matches!(new(shape), Err(Error::Shape { .. })), "{shape:?}");
        }
        // As much as it says would not fit into any machine; nothing is taken before it comes.
        let mut hasher = new([1 << 40, 1]).unwrap();
        hasher.update(&[0.0]).unwrap();
        assert!(hasher.finish().is_err());
        assert!(matches!(TransposedHasher::new("", Role::Weight, [1, 1]), Err(Error::Name(_))));
    }
}
