//! Reading a checkpoint: checked in full before a value is used.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use muster_numerics::graph::{Graph, StepShape};
use muster_numerics::spec::{Arithmetic, ModelSpec};
use muster_numerics::state::State;
use muster_proof::Digest;
use muster_proof::tensor::Role;
use sha2::{Digest as _, Sha256};

use super::names::Place;
use super::split::{self, LIMIT, Planned};
use super::{CONFIG_FILE, Error, INDEX_FILE, MANIFEST_FILE, MAX_MANIFEST, Manifest, Orientation, config};
use crate::files::{self, FileError, Named as _};
use crate::resolved;
use crate::safetensors::{self, Header, PREFIX};

/// The largest `config.json` that is read, in bytes.
pub const MAX_CONFIG: u64 = 16 * 1024;
/// Values read at a time.
const BLOCK: usize = 1 << 14;

/// The manifest of the checkpoint directory `dir`, and its digest.
///
/// # Errors
/// [`Error::Missing`], [`Error::Read`], [`Error::Corrupt`].
pub fn read_manifest(dir: &Path) -> Result<(Manifest, Digest), Error> {
    let path = dir.join(MANIFEST_FILE);
    if !dir.is_dir() {
        return Err(Error::Missing(dir.display().to_string()));
    }
    let bytes = files::read_at_most(&path, MAX_MANIFEST).map_err(Error::Read)?;
    let manifest = Manifest::parse(&bytes).map_err(|problem| Error::corrupt(&path, problem))?;
    Ok((manifest, Digest::of(&bytes)))
}

/// The shape of the model in the checkpoint directory `dir`, by its `config.json` alone.
///
/// # Errors
/// [`Error::Read`], [`Error::Corrupt`].
pub fn model_of(dir: &Path) -> Result<ModelSpec, Error> {
    let path = dir.join(CONFIG_FILE);
    let bytes = files::read_at_most(&path, MAX_CONFIG).map_err(Error::Read)?;
    config::model_spec(&bytes).map_err(|problem| Error::corrupt(&path, problem))
}

/// The model in the checkpoint directory `dir` by its `config.json` alone, and its graph for batches of one sequence,
/// whose tensors are those of any batch.
///
/// # Errors
/// [`Error::Read`], [`Error::Corrupt`] for a configuration that is no model.
pub fn graph_of(dir: &Path) -> Result<(ModelSpec, Graph), Error> {
    let model = model_of(dir)?;
    let graph = Graph::build(&model, StepShape { batch: 1, shards: 1 }, Arithmetic::F32Chain)
        .map_err(|error| Error::corrupt(&dir.join(CONFIG_FILE), error.to_string()))?;
    Ok((model, graph))
}

/// Opens a checkpoint of unknown origin: the model is that of its own `config.json`. For inference and verification.
///
/// # Errors
/// As [`load`] and [`graph_of`].
pub fn open(dir: &Path) -> Result<(ModelSpec, Graph, State, Manifest), Error> {
    let (model, graph) = graph_of(dir)?;
    let (state, manifest) = load(dir, &model, &graph, None)?;
    Ok((model, graph, state, manifest))
}

/// Loads the checkpoint directory `dir` of a model of this shape. Checks the manifest, the training digest if one is
/// given, size and SHA-256 of every file, every tensor's name and shape, and last the StateRoot, recomputed from
/// the values.
///
/// # Errors
/// [`Error::OtherJob`]; [`Error::Corrupt`], [`Error::Read`], [`Error::Missing`] naming the file.
pub fn load(
    dir: &Path,
    model: &ModelSpec,
    graph: &Graph,
    training_digest: Option<Digest>,
) -> Result<(State, Manifest), Error> {
    load_split(dir, model, graph, training_digest, LIMIT)
}

/// [`load`] of files of about `limit` bytes.
pub(super) fn load_split(
    dir: &Path,
    model: &ModelSpec,
    graph: &Graph,
    training_digest: Option<Digest>,
    limit: u64,
) -> Result<(State, Manifest), Error> {
    let (manifest, _) = read_manifest(dir)?;
    let path = dir.join(MANIFEST_FILE);
    if let Some(want) = training_digest
        && manifest.training_digest() != want
    {
        let path = path.display().to_string();
        return Err(Error::OtherJob { path, got: manifest.training_digest(), want });
    }
    // Sizes before contents: nothing is read or allocated by the word of a manifest.
    for file in manifest.files() {
        let path = dir.join(&file.path);
        let size = std::fs::metadata(&path).named("open", &path).map_err(Error::Read)?.len();
        if size != file.size {
            let problem = format!("has {size} bytes, the manifest says {}", file.size);
            return Err(Error::corrupt(&path, problem));
        }
    }
    let config = dir.join(CONFIG_FILE);
    let bytes = files::read_at_most(&config, MAX_CONFIG).map_err(Error::Read)?;
    check_digest(&manifest, CONFIG_FILE, &config, Digest::of(&bytes))?;
    if config::render(model).as_bytes() != bytes {
        return Err(Error::corrupt(&config, "describes another model than the job"));
    }

    let n = graph.parameters();
    let [b1p, b2p] = manifest.beta_products();
    let mut state =
        State { step: manifest.step(), b1p, b2p, w: vec![0.0; n], m: vec![0.0; n], v: vec![0.0; n] };
    let files = split::files(graph, limit)?;
    if let Some(want) = split::index(&files)? {
        let path = dir.join(INDEX_FILE);
        check_digest(&manifest, INDEX_FILE, &path, Digest::of(&want))?;
        let (there, _) = files::digest(&path).map_err(Error::Read)?;
        check_digest(&manifest, INDEX_FILE, &path, there)?;
    }
    // The manifest's names are those of a checkpoint; so if it has all that the model has, it has no other.
    for file in &files {
        read_tensors(dir, file, &manifest, &mut state)?;
    }

    let root = resolved::state_root(graph, &state).map_err(|error| Error::State(error.to_string()))?;
    if root != manifest.state_root() {
        let problem = format!("stateRoot: is {}, but the values give {root}", manifest.state_root());
        return Err(Error::corrupt(&path, problem));
    }
    Ok((state, manifest))
}

fn check_digest(manifest: &Manifest, name: &str, path: &Path, got: Digest) -> Result<(), Error> {
    match manifest.files().iter().find(|file| file.path == name) {
        Some(file) if file.sha256 == got => Ok(()),
        Some(file) => {
            Err(Error::corrupt(path, format!("its digest is {got}, the manifest says {}", file.sha256)))
        }
        None => Err(Error::corrupt(path, "the manifest does not name it")),
    }
}

/// Reads one file into the state, digesting it on the way.
fn read_tensors(
    dir: &Path,
    planned: &Planned<'_>,
    manifest: &Manifest,
    state: &mut State,
) -> Result<(), Error> {
    let Planned { name, places, .. } = planned;
    let path = dir.join(name);
    let file = File::open(&path).named("open", &path).map_err(Error::Read)?;
    let size = file.metadata().named("inspect", &path).map_err(Error::Read)?.len();
    let mut reader =
        Digesting { file: BufReader::with_capacity(1 << 18, file), sha: Sha256::new(), path: &path };
    let header = read_header(&mut reader, size)?;
    let pieces = || places.iter().flat_map(|(_, place)| &place.pieces);
    if !header.entries().iter().map(|entry| &entry.name).eq(pieces().map(|(key, _)| key)) {
        return Err(Error::corrupt(&path, "does not hold the model's tensors"));
    }
    for (entry, (_, want)) in header.entries().iter().zip(pieces()) {
        if entry.shape != *want {
            let problem = format!("tensor {}: shape {:?}, the model's is {want:?}", entry.name, entry.shape);
            return Err(Error::corrupt(&path, problem));
        }
    }
    for (role, Place { tensor, orientation, .. }) in places {
        let values = match role {
            Role::Weight => &mut state.w,
            Role::FirstMoment => &mut state.m,
            Role::SecondMoment => &mut state.v,
        };
        let values = &mut values[tensor.range()];
        match (orientation, tensor.cols) {
            (Orientation::Transposed, Some(cols)) => {
                for col in 0..cols {
                    reader.values(&mut values[col..].iter_mut().step_by(cols))?;
                }
            }
            _ => reader.values(&mut values.iter_mut())?,
        }
    }
    let mut rest = [0];
    if reader.file.read(&mut rest).named("read", &path).map_err(Error::Read)? != 0 {
        return Err(Error::corrupt(&path, "grew while it was read"));
    }
    check_digest(manifest, name, &path, Digest::from_bytes(reader.sha.finalize().into()))
}

fn read_header(reader: &mut Digesting<'_>, size: u64) -> Result<Header, Error> {
    let path = reader.path;
    let format = |error| Error::format(path, &error);
    let mut prefix = [0; PREFIX as usize];
    if size < PREFIX {
        return Err(format(safetensors::Error::Truncated));
    }
    reader.exact(&mut prefix)?;
    let length = Header::length(prefix).map_err(format)?;
    if length > size - PREFIX {
        return Err(format(safetensors::Error::Truncated));
    }
    let mut json = vec![0; length as usize]; // at most MAX_HEADER, and in the file
    reader.exact(&mut json)?;
    let header = Header::parse(&json).map_err(format)?;
    if header.file_size() != size {
        return Err(format(safetensors::Error::Length { want: header.file_size(), got: size }));
    }
    Ok(header)
}

struct Digesting<'a> {
    file: BufReader<File>,
    sha: Sha256,
    path: &'a Path,
}

impl Digesting<'_> {
    fn exact(&mut self, bytes: &mut [u8]) -> Result<(), Error> {
        self.file.read_exact(bytes).map_err(|e| Error::Read(FileError::new("read", self.path, e)))?;
        self.sha.update(bytes);
        Ok(())
    }

    fn values(&mut self, values: &mut dyn ExactSizeIterator<Item = &mut f32>) -> Result<(), Error> {
        let mut buffer = vec![0; 4 * BLOCK.min(values.len())];
        while values.len() > 0 {
            let bytes = &mut buffer[..4 * BLOCK.min(values.len())];
            self.exact(bytes)?;
            for four in bytes.chunks_exact(4) {
                if let Some(value) = values.next() {
                    *value = f32::from_le_bytes([four[0], four[1], four[2], four[3]]);
                }
            }
        }
        Ok(())
    }
}
