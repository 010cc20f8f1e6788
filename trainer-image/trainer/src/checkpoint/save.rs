//! Writing a state: whole or not at all, as a checkpoint or as a hand-over that the sidecar makes a checkpoint of.

use std::path::Path;

use muster_numerics::graph::{Graph, Tensor};
use muster_numerics::spec::ModelSpec;
use muster_numerics::state::State;
use muster_proof::Digest;
use muster_proof::steps::Records;
use muster_proof::tensor::{Role, take_columns};

use super::names::Place;
use super::split::{self, LIMIT};
use super::{
    CONFIG_FILE, Error, INDEX_FILE, MANIFEST_FILE, Orientation, SCALARS_FILE, Scalars, config, names, seal,
};
use crate::files::{NewDir, NewFile};
use crate::records::{self, RECORDS_FILE};

/// Values written at a time.
const BLOCK: usize = 1 << 14;
/// Values in a line of the cache: no fewer columns than these are turned at a time.
const LINE: usize = 16;

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
    let new = NewDir::create(dir).map_err(Error::Write)?;
    write_files(&new, model, graph, state, LIMIT)?;
    let manifest = seal(new.path(), graph, &Scalars::of(training_digest, state))?;
    let bytes = manifest.to_bytes().map_err(Error::State)?;
    write(&new, MANIFEST_FILE, &bytes)?;
    new.commit().map_err(Error::Write)?;
    Ok(Saved { step: state.step, state_root: manifest.state_root(), manifest: Digest::of(&bytes) })
}

/// Writes `state` as the hand-over `dir`: the files of a checkpoint without its manifest, and the scalars that its
/// tensors do not hold, and the records of the steps that led to it. Nothing is digested: that is the sidecar's work.
/// Durability is that of [`save`].
///
/// # Errors
/// As [`save`].
pub fn hand_over(
    dir: &Path,
    model: &ModelSpec,
    graph: &Graph,
    training_digest: Digest,
    state: &State,
    records: &Records,
) -> Result<(), Error> {
    let new = NewDir::create(dir).map_err(Error::Write)?;
    write_files(&new, model, graph, state, LIMIT)?;
    let scalars = Scalars::of(training_digest, state).to_bytes().map_err(Error::State)?;
    write(&new, SCALARS_FILE, &scalars)?;
    let records = records::to_bytes(records).map_err(|error| Error::State(error.to_string()))?;
    write(&new, RECORDS_FILE, &records)?;
    new.commit().map_err(Error::Write)
}

/// The files that a manifest names.
pub(super) fn write_files(
    new: &NewDir,
    model: &ModelSpec,
    graph: &Graph,
    state: &State,
    limit: u64,
) -> Result<(), Error> {
    write(new, CONFIG_FILE, config::render(model).as_bytes())?;
    let files = split::files(graph, limit)?;
    if let Some(index) = split::index(&files)? {
        write(new, INDEX_FILE, &index)?;
    }
    for split::Planned { name, header, places } in files {
        let mut file = new.file(&name).map_err(Error::Write)?;
        file.write(&header.bytes()).map_err(Error::Write)?;
        for (role, place) in &places {
            let values = match role {
                Role::Weight => &state.w,
                Role::FirstMoment => &state.m,
                Role::SecondMoment => &state.v,
            };
            write_place(&mut file, place, values)?;
        }
        file.finish().map_err(Error::Write)?;
    }
    Ok(())
}

fn write(new: &NewDir, name: &str, bytes: &[u8]) -> Result<(), Error> {
    let mut file = new.file(name).map_err(Error::Write)?;
    file.write(bytes).map_err(Error::Write)?;
    file.finish().map_err(Error::Write)?;
    Ok(())
}

/// Writes one safetensors file of the model's tensors: one flat buffer for each prefix of keys. The file is still to be
/// finished.
pub(crate) fn write_tensors(
    dir: &NewDir,
    name: &str,
    graph: &Graph,
    parts: &[(&str, &[f32])],
) -> Result<NewFile, Error> {
    let prefixes: Vec<&str> = parts.iter().map(|(prefix, _)| *prefix).collect();
    let places = names::places(graph, &prefixes)?;
    let mut file = dir.file(name).map_err(Error::Write)?;
    file.write(&names::header(&places)?.bytes()).map_err(Error::Write)?;
    for (part, place) in places {
        write_place(&mut file, &place, parts.get(part).map_or(&[], |(_, values)| values))?;
    }
    Ok(file)
}

/// Writes the tensor of a place, one of those in the flat buffer `values`.
fn write_place(file: &mut NewFile, place: &Place<'_>, values: &[f32]) -> Result<(), Error> {
    let tensor = place.tensor;
    let missing = || Error::State(format!("tensor {} is not in the state", tensor.name));
    write_values(file, tensor, place.orientation, values.get(tensor.range()).ok_or_else(missing)?)
}

fn write_values(
    file: &mut NewFile,
    tensor: &Tensor,
    orientation: Orientation,
    values: &[f32],
) -> Result<(), Error> {
    let mut bytes = Vec::new();
    let mut write = |values: &[f32]| {
        bytes.resize(4 * values.len(), 0);
        for (four, value) in bytes.as_chunks_mut().0.iter_mut().zip(values) {
            *four = value.to_le_bytes();
        }
        file.write(&bytes)
    };
    match (orientation, tensor.cols) {
        (Orientation::Transposed, Some(cols)) => {
            let wide = (BLOCK / tensor.rows.max(1)).clamp(LINE, BLOCK);
            let mut columns = Vec::new();
            for left in (0..cols).step_by(wide) {
                let right = cols.min(left + wide);
                columns.resize((right - left) * tensor.rows, 0.0);
                take_columns(values, cols, left..right, &mut columns);
                columns.chunks(BLOCK).try_for_each(&mut write).map_err(Error::Write)?;
            }
        }
        _ => values.chunks(BLOCK).try_for_each(write).map_err(Error::Write)?,
    }
    Ok(())
}
