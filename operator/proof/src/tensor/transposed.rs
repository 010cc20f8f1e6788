//! A matrix whose values come in the other order.
use super::{Error, Leaf, Role, TILE_SIDE, hash_leaves, header};
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
    pub fn update(&mut self, mut values: &[f32]) -> Result<(), Error> {
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
                self.close_band();
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

    fn close_band(&mut self) {
        let wide = self.band.len() / self.rows;
        let (mut tile, mut leaves) = ([0.0; TILE_SIDE * TILE_SIDE], [Leaf::default(), Leaf::default()]);
        for top in (0..self.rows).step_by(TILE_SIDE) {
            let tall = TILE_SIDE.min(self.rows - top);
            let tile = &mut tile[..tall * wide];
            for (column, values) in self.band.chunks_exact(self.rows).enumerate() {
                let places = tile.iter_mut().skip(column).step_by(wide);
                places.zip(&values[top..top + tall]).for_each(|(place, value)| *place = *value);
            }
            let second = top / TILE_SIDE % 2;
            leaves[second].extend(tile);
            if second == 1 {
                hash_leaves(&mut leaves, |leaf| self.tiles.push(leaf));
            }
        }
        hash_leaves(&mut leaves, |leaf| self.tiles.push(leaf));
        self.band.clear();
    }

    fn wrong_length(&self, got: usize) -> Error {
        tensor::Error::Length { name: self.name.clone(), want: self.elements, got }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::tensor_root;

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
