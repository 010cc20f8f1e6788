//! From files to a manifest: the one place where a checkpoint's digests and StateRoot are computed, from the bytes on
//! the disk, by a worker of `muster local` and by the sidecar of a pod.
//!
//! Each file is read twice: once through SHA-256, and once tensor by tensor in canonical order and orientation. No
//! more than a block is in memory, for the sidecar's share of it is small and fixed, whatever the model.

use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use muster_numerics::graph::{Graph, Tensor};
use muster_proof::tensor::{self, Role, TensorHasher};
use muster_proof::{Digest, StateRootBuilder};

use super::save::{file_shape, layout};
use super::{Error, FILES, FileEntry, MODEL_FILE, Manifest, OPTIMIZER_FILE, Orientation, Scalars, model_of};
use crate::files::{self, Named as _};
use crate::safetensors::Header;

/// Values in memory at a time: 8 MiB.
const BLOCK: usize = 1 << 21;

/// The manifest of the files in `dir`, which are those of a checkpoint of this graph's model. Writes nothing.
///
/// # Errors
/// [`Error::Read`], [`Error::Corrupt`] naming the file that is not what a checkpoint has.
pub fn seal(dir: &Path, graph: &Graph, scalars: &Scalars) -> Result<Manifest, Error> {
    // Who starts from the checkpoint refuses any other spelling, and any other model.
    model_of(dir)?;
    let state_root = state_root(dir, graph, scalars, BLOCK)?;
    let mut entries = Vec::new();
    for name in FILES {
        let (sha256, size) = files::digest(&dir.join(name)).map_err(Error::Read)?;
        entries.push(FileEntry { path: name.into(), size, sha256 });
    }
    let products = scalars.beta_products();
    Manifest::new(scalars.step(), scalars.training_digest(), state_root, products, entries)
        .map_err(Error::State)
}

fn state_root(dir: &Path, graph: &Graph, scalars: &Scalars, block: usize) -> Result<Digest, Error> {
    let model = Tensors::open(dir, MODEL_FILE, graph, &[""])?;
    let optimizer = Tensors::open(dir, OPTIMIZER_FILE, graph, &["m.", "v."])?;
    let [b1p, b2p] = scalars.beta_products();
    let mut root = StateRootBuilder::new(scalars.step(), b1p, b2p);
    for (index, tensor) in graph.tensors().iter().enumerate() {
        let w = model.root(0, index, tensor, Role::Weight, block)?;
        let m = optimizer.root(0, index, tensor, Role::FirstMoment, block)?;
        let v = optimizer.root(1, index, tensor, Role::SecondMoment, block)?;
        root.roots(&tensor.name, w, m, v).map_err(|error| Error::State(error.to_string()))?;
    }
    Ok(root.finish())
}

/// A file of tensors, and where in it each of the graph's lies.
struct Tensors {
    file: File,
    path: PathBuf,
    /// By prefix, then in canonical order: first byte and orientation.
    places: Vec<Vec<(u64, Orientation)>>,
}

impl Tensors {
    /// Opens a file that must hold the graph's tensors under these prefixes and no others.
    fn open(dir: &Path, name: &str, graph: &Graph, prefixes: &[&str]) -> Result<Self, Error> {
        let path = dir.join(name);
        let file = File::open(&path).named("open", &path).map_err(Error::Read)?;
        let layouts: Vec<_> =
            prefixes.iter().map(|prefix| layout(graph, prefix)).collect::<Result<_, _>>()?;
        let tensors = layouts.iter().flatten();
        let shapes = tensors.map(|(key, tensor, way)| (key.clone(), file_shape(tensor, *way)));
        let header = Header::new(shapes).map_err(|error| Error::State(error.to_string()))?;
        let bytes = header.bytes();
        let size = file.metadata().named("inspect", &path).map_err(Error::Read)?.len();
        // One set of tensors has one header, so this compares names, shapes and places at once.
        let mut there = vec![0; bytes.len()];
        if size != header.file_size() || file.read_exact_at(&mut there, 0).is_err() || there != bytes {
            return Err(Error::corrupt(&path, "does not hold the model's tensors, and only them"));
        }
        let starts: HashMap<&str, u64> = header
            .entries()
            .iter()
            .map(|entry| (entry.name.as_str(), bytes.len() as u64 + entry.start))
            .collect();
        let place = |key: &str| starts.get(key).copied().unwrap_or(size);
        let places =
            layouts.iter().map(|all| all.iter().map(|(key, _, way)| (place(key), *way)).collect()).collect();
        Ok(Self { file, path, places })
    }

    /// The root of tensor `index` of the graph under the prefix `part`.
    fn root(
        &self,
        part: usize,
        index: usize,
        tensor: &Tensor,
        role: Role,
        block: usize,
    ) -> Result<Digest, Error> {
        let state = |error: tensor::Error| Error::State(error.to_string());
        let (start, orientation) = self.places[part][index];
        let mut hasher = TensorHasher::new(&tensor.name, role, &tensor.shape()).map_err(state)?;
        match (orientation, tensor.cols) {
            (Orientation::Transposed, Some(cols)) => {
                let rows = (block / cols).clamp(1, tensor.rows);
                for first in (0..tensor.rows).step_by(rows) {
                    let band = first..tensor.rows.min(first + rows);
                    hasher.update(&self.band(start, tensor.rows, cols, band)?).map_err(state)?;
                }
            }
            _ => {
                for first in (0..tensor.elements()).step_by(block) {
                    let n = block.min(tensor.elements() - first);
                    hasher.update(&self.values(start, first, n)?).map_err(state)?;
                }
            }
        }
        hasher.finish().map_err(state)
    }

    /// A band of the canonical rows of a matrix `[rows, cols]` that the file has as `[cols, rows]`.
    fn band(&self, start: u64, rows: usize, cols: usize, band: Range<usize>) -> Result<Vec<f32>, Error> {
        let height = band.len();
        // A whole matrix lies in one piece.
        let all = if height == rows { Some(self.values(start, 0, rows * cols)?) } else { None };
        let mut values = vec![0.0; height * cols];
        for col in 0..cols {
            let read;
            let column = match &all {
                Some(all) => &all[col * rows..(col + 1) * rows],
                None => {
                    read = self.values(start, col * rows + band.start, height)?;
                    &read[..]
                }
            };
            for (row, value) in column.iter().enumerate() {
                values[row * cols + col] = *value;
            }
        }
        Ok(values)
    }

    /// `n` values of the tensor that starts at byte `start`, from its value `first`.
    fn values(&self, start: u64, first: usize, n: usize) -> Result<Vec<f32>, Error> {
        let mut bytes = vec![0; 4 * n];
        let at = start + 4 * first as u64;
        self.file.read_exact_at(&mut bytes, at).named("read", &self.path).map_err(Error::Read)?;
        Ok(bytes
            .chunks_exact(4)
            .map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]]))
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{graph, job, model, records, state};
    use super::super::{hand_over, save};
    use super::*;
    use crate::resolved;

    /// What the sidecar computes from a hand-over is what a worker without one computes, and what the values in memory
    /// give, whatever the size of the blocks.
    #[test]
    fn a_hand_over_becomes_the_checkpoint_that_the_worker_would_have_written() {
        let dir = tempfile::tempdir().unwrap();
        let (own, handed) = (dir.path().join("own"), dir.path().join("handed"));
        let saved = save(&own, &model(), &graph(), job(), &state(3)).unwrap();
        hand_over(&handed, &model(), &graph(), job(), &state(3), &records(3)).unwrap();
        let scalars =
            Scalars::parse(&std::fs::read(handed.join(super::super::SCALARS_FILE)).unwrap()).unwrap();
        let manifest = seal(&handed, &graph(), &scalars).unwrap();
        assert_eq!(Digest::of(&manifest.to_bytes().unwrap()), saved.manifest);
        let want = resolved::state_root(&graph(), &state(3)).unwrap();
        assert_eq!((manifest.state_root(), saved.state_root), (want, want));
        for block in [1, 7, 64, 500] {
            assert_eq!(state_root(&handed, &graph(), &scalars, block).unwrap(), want, "{block}");
        }
    }

    #[test]
    fn damage_is_named_and_never_sealed_as_the_same_state() {
        let dir = tempfile::tempdir().unwrap();
        let handed = dir.path().join("handed");
        hand_over(&handed, &model(), &graph(), job(), &state(3), &records(3)).unwrap();
        let scalars = Scalars::of(job(), &state(3));
        let good = seal(&handed, &graph(), &scalars).unwrap();
        for name in FILES {
            let path = handed.join(name);
            let bytes = std::fs::read(&path).unwrap();
            for bad in [&bytes[..bytes.len() - 4], &[&bytes[..], b" "].concat(), b""] {
                std::fs::write(&path, bad).unwrap();
                let error = seal(&handed, &graph(), &scalars).unwrap_err();
                assert!(error.is_damage() && error.to_string().contains(name), "{error}");
            }
            let mut flipped = bytes.clone();
            *flipped.last_mut().unwrap() ^= 1;
            std::fs::write(&path, &flipped).unwrap();
            // A flipped value is another state; a flipped configuration is none.
            assert!(seal(&handed, &graph(), &scalars).ok().is_none_or(|other| other != good), "{name}");
            std::fs::write(&path, &bytes).unwrap();
        }
        assert_eq!(seal(&handed, &graph(), &scalars).unwrap(), good);
    }
}
