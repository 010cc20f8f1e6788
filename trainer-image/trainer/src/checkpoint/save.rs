//! Writing a checkpoint: whole or not at all.

use std::path::Path;

use muster_numerics::graph::{Graph, Tensor};
use muster_numerics::spec::ModelSpec;
use muster_numerics::state::State;
use muster_proof::Digest;

use super::{
    CONFIG_FILE, Error, FileEntry, MANIFEST_FILE, MODEL_FILE, Manifest, OPTIMIZER_FILE, Orientation, config,
    names,
};
use crate::files::{NewDir, NewFile};
use crate::resolved;
use crate::safetensors::Header;

/// Values written at a time.
const BLOCK: usize = 1 << 14;

/// A checkpoint that is durable on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Saved {
    /// The state it holds.
    pub step: u64,
    /// Digest of the state.
    pub state_root: Digest,
    /// SHA-256 of the manifest.
    pub manifest: Digest,
}

/// Writes `state` as the checkpoint directory `dir`, which must not exist or be empty. When this returns, the
/// checkpoint survives a power cut; when it fails, there is nothing under that name.
///
/// # Errors
/// [`Error::Write`] naming the file (a full disk above all), [`Error::State`].
pub fn save(
    dir: &Path,
    model: &ModelSpec,
    graph: &Graph,
    training_digest: Digest,
    state: &State,
) -> Result<Saved, Error> {
    let state_root = resolved::state_root(graph, state).map_err(|error| Error::State(error.to_string()))?;
    let new = NewDir::create(dir).map_err(Error::Write)?;
    let mut files = Vec::new();
    let mut finish = |path: &str, file: NewFile| {
        let (sha256, size) = file.finish().map_err(Error::Write)?;
        files.push(FileEntry { path: path.into(), size, sha256 });
        Ok::<_, Error>(())
    };

    let mut file = new.file(CONFIG_FILE).map_err(Error::Write)?;
    file.write(config::render(model).as_bytes()).map_err(Error::Write)?;
    finish(CONFIG_FILE, file)?;
    finish(MODEL_FILE, write_tensors(&new, MODEL_FILE, graph, &[("", &state.w)])?)?;
    finish(
        OPTIMIZER_FILE,
        write_tensors(&new, OPTIMIZER_FILE, graph, &[("m.", &state.m), ("v.", &state.v)])?,
    )?;

    let manifest = Manifest::new(state.step, training_digest, state_root, [state.b1p, state.b2p], files)
        .and_then(|manifest| manifest.to_bytes())
        .map_err(Error::State)?;
    let mut file = new.file(MANIFEST_FILE).map_err(Error::Write)?;
    file.write(&manifest).map_err(Error::Write)?;
    file.finish().map_err(Error::Write)?;
    new.commit().map_err(Error::Write)?;
    Ok(Saved { step: state.step, state_root, manifest: Digest::of(&manifest) })
}

/// The tensors of a file in canonical order: key, canonical tensor, orientation.
pub(super) fn layout<'g>(
    graph: &'g Graph,
    prefix: &str,
) -> Result<Vec<(String, &'g Tensor, Orientation)>, Error> {
    graph
        .tensors()
        .iter()
        .map(|tensor| {
            let (name, orientation) = names::file_name(&tensor.name)
                .ok_or_else(|| Error::State(format!("tensor {} has no name in a GPT-2 file", tensor.name)))?;
            Ok((format!("{prefix}{name}"), tensor, orientation))
        })
        .collect()
}

/// The shape of a tensor in its file.
pub(super) fn file_shape(tensor: &Tensor, orientation: Orientation) -> Vec<u64> {
    let mut shape: Vec<u64> = tensor.shape().into_iter().map(|n| n as u64).collect();
    if orientation == Orientation::Transposed {
        shape.reverse();
    }
    shape
}

/// Writes one safetensors file of the model's tensors: one flat buffer for each prefix of keys. The file is still to be
/// finished.
pub(crate) fn write_tensors(
    dir: &NewDir,
    name: &str,
    graph: &Graph,
    parts: &[(&str, &[f32])],
) -> Result<NewFile, Error> {
    let mut tensors = Vec::new();
    for (prefix, values) in parts {
        for (key, tensor, orientation) in layout(graph, prefix)? {
            tensors.push((key, tensor, orientation, *values));
        }
    }
    let shapes = tensors.iter().map(|(key, tensor, way, _)| (key.clone(), file_shape(tensor, *way)));
    let header = Header::new(shapes).map_err(|error| Error::State(error.to_string()))?;
    // The file's order is that of the keys.
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    let mut file = dir.file(name).map_err(Error::Write)?;
    file.write(&header.bytes()).map_err(Error::Write)?;
    for (_, tensor, orientation, values) in tensors {
        let values = values
            .get(tensor.range())
            .ok_or_else(|| Error::State(format!("tensor {} is not in the state", tensor.name)))?;
        write_values(&mut file, tensor, orientation, values)?;
    }
    Ok(file)
}

fn write_values(
    file: &mut NewFile,
    tensor: &Tensor,
    orientation: Orientation,
    values: &[f32],
) -> Result<(), Error> {
    let mut bytes = Vec::with_capacity(4 * BLOCK);
    let mut write = |values: &mut dyn Iterator<Item = f32>| {
        for value in values {
            bytes.extend(value.to_le_bytes());
            if bytes.len() == 4 * BLOCK {
                file.write(&bytes)?;
                bytes.clear();
            }
        }
        file.write(&bytes)?;
        bytes.clear();
        Ok(())
    };
    match (orientation, tensor.cols) {
        (Orientation::Transposed, Some(cols)) => {
            for col in 0..cols {
                write(&mut values[col..].iter().step_by(cols).copied()).map_err(Error::Write)?;
            }
        }
        _ => write(&mut values.iter().copied()).map_err(Error::Write)?,
    }
    Ok(())
}
