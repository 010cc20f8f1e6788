//! The tensors of a checkpoint's files one by one: where each lies, and how its root comes out of the file's own bytes. So a
//! StateRoot is computed from files in a directory, and as well from blobs that are only streamed, on as many threads as
//! there are; the bytes of a tensor are read once, in their order.

use std::ops::Range;
use std::sync::Arc;

use muster_numerics::graph::{Graph, Tensor};
use muster_proof::tensor::{self, Beside, Role, TensorHasher, TransposedHasher};
use muster_proof::{Digest, StateRootBuilder};
use muster_sha256::Stream;

use super::split::{self, LIMIT};
use super::{CONFIG_FILE, Error, INDEX_FILE, Orientation};

/// Values converted at a time.
const BLOCK: usize = 1 << 12;

/// A file of tensors as a model of one shape has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorFile {
    /// Its name.
    pub name: Arc<str>,
    /// Its first bytes. They say names, shapes and places of all tensors, and have one spelling.
    pub header: Vec<u8>,
    /// All its bytes.
    pub size: u64,
}

/// One tensor.
#[derive(Debug, Clone)]
pub struct Part {
    /// The name of its file.
    pub file: Arc<str>,
    /// Its bytes there.
    pub range: Range<u64>,
    tensor: Tensor,
    role: Role,
    orientation: Orientation,
}

/// The files of a model's state, and the tensors in them in the order of the StateRoot.
#[derive(Debug, Clone)]
pub struct Layout {
    files: Vec<TensorFile>,
    index: Option<Vec<u8>>,
    parts: Vec<Part>,
}

impl Layout {
    /// For the model of this graph.
    ///
    /// # Errors
    /// [`Error::State`] for a graph whose tensors have no names in files.
    pub fn of(graph: &Graph) -> Result<Self, Error> {
        Self::split(graph, LIMIT)
    }

    /// With files of about this size.
    pub(super) fn split(graph: &Graph, limit: u64) -> Result<Self, Error> {
        let planned = split::files(graph, limit)?;
        let index = split::index(&planned)?;
        let (mut files, mut parts) = (Vec::new(), Vec::new());
        for split::Planned { name, header, places } in planned {
            let (name, bytes): (Arc<str>, _) = (name.into(), header.bytes());
            let after = bytes.len() as u64;
            let mut entries = header.entries().iter();
            for (role, place) in places {
                let mut pieces = entries.by_ref().take(place.pieces.len());
                let start = pieces.next().map_or(0, |entry| entry.start);
                let end = start + 4 * place.tensor.elements() as u64;
                // Its pieces, if there are more, are passed.
                pieces.for_each(drop);
                let (tensor, orientation) = (place.tensor.clone(), place.orientation);
                parts.push(Part {
                    file: name.clone(),
                    range: after + start..after + end,
                    tensor,
                    role,
                    orientation,
                });
            }
            files.push(TensorFile { name, size: header.file_size(), header: bytes });
        }
        // By tensor, then w, m, v.
        let order = graph.tensors().iter().flat_map(|tensor| Role::ALL.map(|role| (&tensor.name, role)));
        let order: std::collections::HashMap<_, _> = order.zip(0_usize..).collect();
        parts.sort_by_key(|part| order.get(&(&part.tensor.name, part.role)).copied());
        Ok(Self { files, index, parts })
    }

    /// The names of all files that the manifest of a checkpoint of the model names, in its order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let index = self.index.iter().map(|_| INDEX_FILE);
        [CONFIG_FILE].into_iter().chain(index).chain(self.files.iter().map(|file| &*file.name))
    }

    /// The bytes of [`INDEX_FILE`], if there is one.
    pub fn index(&self) -> Option<&[u8]> {
        self.index.as_deref()
    }

    /// The files of tensors.
    pub fn files(&self) -> &[TensorFile] {
        &self.files
    }

    /// All tensors.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The parts that lie in this file in the order of their bytes, which with its header are all that it has; and the place of each among
    /// [`Layout::parts`].
    pub fn parts_of(&self, file: &TensorFile) -> Vec<(usize, &Part)> {
        let mut own: Vec<_> =
            self.parts.iter().enumerate().filter(|(_, part)| part.file == file.name).collect();
        own.sort_by_key(|(_, part)| part.range.start);
        own
    }

    /// The StateRoot over the roots of all [`Layout::parts`], in their order.
    ///
    /// # Errors
    /// [`Error::State`] for another number of roots.
    pub fn state_root(&self, step: u64, [b1p, b2p]: [f64; 2], roots: &[Digest]) -> Result<Digest, Error> {
        if roots.len() != self.parts.len() {
            let text = format!("{} roots of tensors, the state has {}", roots.len(), self.parts.len());
            return Err(Error::State(text));
        }
        let mut state = StateRootBuilder::new(step, b1p, b2p);
        for (parts, roots) in self.parts.chunks_exact(3).zip(roots.chunks_exact(3)) {
            if let ([part, ..], &[w, m, v]) = (parts, roots) {
                state.roots(&part.tensor.name, w, m, v).map_err(|error| Error::State(error.to_string()))?;
            }
        }
        Ok(state.finish())
    }
}

impl Part {
    /// What makes its root of its bytes.
    ///
    /// # Errors
    /// [`Error::State`] for a shape that no tensor has.
    pub fn hasher(&self) -> Result<PartHasher, Error> {
        let (name, role) = (&self.tensor.name, self.role);
        let inner = match (self.orientation, self.tensor.cols) {
            (Orientation::Transposed, Some(cols)) => {
                TransposedHasher::new(name, role, [self.tensor.rows, cols]).map(Inner::Transposed)
            }
            _ => TensorHasher::new(name, role, &self.tensor.shape()).map(Inner::Same),
        };
        Ok(PartHasher { inner: inner.map_err(state)?, begun: Vec::new(), values: Vec::new() })
    }
}

fn state(error: tensor::Error) -> Error {
    Error::State(error.to_string())
}

/// Makes a tensor's root of the bytes that the file has of it, as they come.
#[derive(Debug, Clone)]
pub struct PartHasher {
    inner: Inner,
    /// Bytes of a value of which not all have come.
    begun: Vec<u8>,
    values: Vec<f32>,
}

#[derive(Debug, Clone)]
enum Inner {
    Same(TensorHasher),
    Transposed(TransposedHasher),
}

impl PartHasher {
    /// Adds the next bytes, however many.
    ///
    /// # Errors
    /// [`Error::State`] when they are more than the tensor has.
    pub fn update(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.update_beside(bytes, &mut Beside::nothing())
    }

    /// As [`PartHasher::update`], and the bytes are appended to what `file` is the digest of: in less time than one after the other.
    ///
    /// # Errors
    /// As [`PartHasher::update`].
    pub fn update_with(&mut self, bytes: &[u8], file: &mut Stream) -> Result<(), Error> {
        let mut beside = Beside::new(file, bytes);
        self.update_beside(bytes, &mut beside)?;
        beside.finish();
        Ok(())
    }

    fn update_beside(&mut self, mut bytes: &[u8], beside: &mut Beside<'_>) -> Result<(), Error> {
        if !self.begun.is_empty() {
            let (more, rest) = bytes.split_at(bytes.len().min(4 - self.begun.len()));
            self.begun.extend_from_slice(more);
            bytes = rest;
            if self.begun.len() < 4 {
                return Ok(());
            }
            let four = std::mem::take(&mut self.begun);
            self.whole(&four, beside)?;
        }
        let (whole, rest) = bytes.split_at(bytes.len() - bytes.len() % 4);
        for block in whole.chunks(4 * BLOCK) {
            self.whole(block, beside)?;
        }
        self.begun.extend_from_slice(rest);
        Ok(())
    }

    /// The tensor's root.
    ///
    /// # Errors
    /// [`Error::State`] when bytes are missing.
    pub fn finish(self) -> Result<Digest, Error> {
        match self.inner {
            Inner::Same(hasher) => hasher.finish(),
            Inner::Transposed(hasher) => hasher.finish(),
        }
        .map_err(state)
    }

    fn whole(&mut self, bytes: &[u8], beside: &mut Beside<'_>) -> Result<(), Error> {
        self.values.clear();
        let fours = bytes.as_chunks().0;
        self.values.extend(fours.iter().map(|four| f32::from_le_bytes(*four)));
        match &mut self.inner {
            Inner::Same(hasher) => hasher.update_beside(&self.values, beside),
            Inner::Transposed(hasher) => hasher.update_beside(&self.values, beside),
        }
        .map_err(state)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{graph, job, model, state};
    use super::super::{MANIFEST_FILE, Manifest, save};
    use super::*;

    /// The roots of all tensors in `dir`, read in pieces of `piece` bytes.
    fn root(dir: &std::path::Path, manifest: &Manifest, piece: usize) -> Digest {
        let layout = Layout::of(&graph()).unwrap();
        let mut roots = Vec::new();
        for part in layout.parts() {
            let bytes = std::fs::read(dir.join(&*part.file)).unwrap();
            let mut hasher = part.hasher().unwrap();
            for piece in bytes[part.range.start as usize..part.range.end as usize].chunks(piece) {
                hasher.update(piece).unwrap();
            }
            roots.push(hasher.finish().unwrap());
        }
        layout.state_root(manifest.step(), manifest.beta_products(), &roots).unwrap()
    }

    #[test]
    fn the_files_own_bytes_give_the_state_root() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("state");
        let saved = save(&dir, &model(), &graph(), job(), &state(3)).unwrap();
        let manifest = Manifest::parse(&std::fs::read(dir.join(MANIFEST_FILE)).unwrap()).unwrap();
        for piece in [1, 3, 4, 4096, 1 << 20] {
            assert_eq!(root(&dir, &manifest, piece), saved.state_root, "{piece}");
        }
        let layout = Layout::of(&graph()).unwrap();
        for file in layout.files() {
            let bytes = std::fs::read(dir.join(&*file.name)).unwrap();
            assert_eq!((bytes.len() as u64, &bytes[..file.header.len()]), (file.size, &file.header[..]));
            let parts = layout.parts().iter().filter(|part| part.file == file.name);
            let sum: u64 = parts.map(|part| part.range.end - part.range.start).sum();
            assert_eq!(sum + file.header.len() as u64, file.size, "every byte counts");
        }
    }

    #[test]
    fn too_few_bytes_too_many_and_lost_roots_are_refused() {
        let layout = Layout::of(&graph()).unwrap();
        let part = &layout.parts()[0];
        let size = (part.range.end - part.range.start) as usize;
        let mut hasher = part.hasher().unwrap();
        hasher.update(&vec![0; size - 1]).unwrap();
        assert!(hasher.clone().finish().is_err());
        hasher.update(&[0]).unwrap();
        hasher.clone().finish().unwrap();
        assert!(hasher.update(&[0; 4]).is_err());
        assert!(layout.state_root(1, [1.0, 1.0], &[]).is_err());
    }
}
