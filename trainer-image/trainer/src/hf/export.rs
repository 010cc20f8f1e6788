//! A state's weights as a directory that `transformers` loads: one file or shards with an index, in f32 as they are or rounded.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use muster_numerics::graph::Graph;
use muster_numerics::spec::ModelSpec;
use muster_proof::jcs;
use serde::Serialize;
use serde_json::{Value, json};

use super::{Dtype, Error, INDEX_FILE};
use crate::checkpoint::{CONFIG_FILE, Orientation, Place, places, render_config_as, tensor_file_name};
use crate::files::{FileError, NewDir, NewFile};

/// Values converted at a time.
const BLOCK: usize = 1 << 16;

/// How a model is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Type of the values in the files. Only f32 keeps every bit.
    pub dtype: Dtype,
    /// The most bytes of values in a file; a larger tensor has a file of its own.
    pub max_shard: u64,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Exported {
    /// Names of the files, with their bytes.
    pub files: BTreeMap<String, u64>,
}

/// A tensor as the files have it, and where its values are.
struct Piece<'g> {
    key: String,
    shape: Vec<u64>,
    place: Place<'g>,
    /// In the flat buffer; of a transposed one the whole tensor.
    range: Range<usize>,
}

/// Writes the model with the flat weights `weights` as the directory `out`, which appears whole or not at all. `beside` are more
/// files, by name. `progress` is told of every few bytes of values.
///
/// # Errors
/// [`Error::Refused`] for a directory that is there already, [`Error::Value`] for a weight that the type cannot hold,
/// [`Error::File`].
pub fn export(
    out: &Path,
    model: &ModelSpec,
    graph: &Graph,
    weights: &[f32],
    options: Options,
    beside: &[(&str, Vec<u8>)],
    progress: &mut dyn FnMut(u64),
) -> Result<Exported, Error> {
    if out.read_dir().map_or(out.exists(), |mut entries| entries.next().is_some()) {
        return Err(Error::refused(out, "is there already; choose another directory"));
    }
    let shards = shards(pieces(graph)?, options);
    let dir = NewDir::create(out)?;
    let mut files = BTreeMap::new();
    let mut small = vec![
        (CONFIG_FILE, render_config_as(model, options.dtype.in_torch()).into_bytes()),
        ("generation_config.json", generation_config(model)),
    ];
    let (mut map, mut total) = (BTreeMap::new(), 0);
    let count = shards.len();
    for (number, shard) in (1..).zip(&shards) {
        let name = tensor_file_name("model", number, count);
        let mut file = dir.file(&name)?;
        file.write(&header(shard, options.dtype)?)?;
        for piece in shard {
            let mut writer = Writer { file: &mut file, dtype: options.dtype, key: &piece.key, done: 0 };
            writer.piece(piece, weights, progress)?;
            map.insert(piece.key.clone(), name.clone());
            total += piece.bytes(options.dtype);
        }
        files.insert(name, file.finish()?);
    }
    if count > 1 {
        let index = json!({"metadata": {"total_size": total}, "weight_map": map});
        small.push((INDEX_FILE, format!("{index:#}\n").into_bytes()));
    }
    small.extend(beside.iter().map(|(name, bytes)| (*name, bytes.clone())));
    for (name, bytes) in small {
        let mut file = dir.file(name)?;
        file.write(&bytes)?;
        files.insert(name.to_owned(), file.finish()?);
    }
    dir.commit()?;
    Ok(Exported { files })
}

/// Reads a size: a whole number of bytes, or of kB, MB, GB (powers of 1000), KiB, MiB, GiB (of 1024).
///
/// # Errors
/// A sentence with an example.
pub fn parse_size(text: &str) -> Result<u64, &'static str> {
    const WRONG: &str = "give a size above 0 like 1GiB, 500MB or 1000000";
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit: u64 = match unit.trim_start() {
        "" | "B" => 1,
        "kB" | "KB" => 1000,
        "MB" => 1000 * 1000,
        "GB" => 1000 * 1000 * 1000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(WRONG),
    };
    let number: u64 = number.parse().map_err(|_| WRONG)?;
    number.checked_mul(unit).filter(|size| *size > 0).ok_or(WRONG)
}

impl Piece<'_> {
    fn bytes(&self, dtype: Dtype) -> u64 {
        (self.range.len() * dtype.size()) as u64
    }
}

/// All tensors of the files, in the order of a checkpoint's.
fn pieces(graph: &Graph) -> Result<Vec<Piece<'_>>, Error> {
    let mut all = Vec::new();
    for (_, place) in places(graph, &[""])? {
        let mut at = place.tensor.range().start;
        for (key, shape) in place.pieces.clone() {
            let elements: u64 = shape.iter().product();
            let range = at..at + elements as usize;
            at = range.end;
            all.push(Piece { key, shape, place: place.clone(), range });
        }
    }
    Ok(all)
}

fn shards(pieces: Vec<Piece<'_>>, options: Options) -> Vec<Vec<Piece<'_>>> {
    let (mut shards, mut size) = (vec![Vec::new()], 0);
    for piece in pieces {
        let bytes = piece.bytes(options.dtype);
        if size > 0 && size + bytes > options.max_shard {
            shards.push(Vec::new());
            size = 0;
        }
        size += bytes;
        if let Some(shard) = shards.last_mut() {
            shard.push(piece);
        }
    }
    shards
}

/// Prefix and padded JSON, as a checkpoint's files have it.
fn header(pieces: &[Piece<'_>], dtype: Dtype) -> Result<Vec<u8>, Error> {
    let mut members = serde_json::Map::from_iter([("__metadata__".to_owned(), json!({"format": "pt"}))]);
    let mut at = 0;
    for piece in pieces {
        let end = at + piece.bytes(dtype);
        let entry = json!({"dtype": dtype.in_header(), "shape": piece.shape, "data_offsets": [at, end]});
        members.insert(piece.key.clone(), entry);
        at = end;
    }
    let mut json = jcs::to_vec(&Value::Object(members)).map_err(|error| Error::Model(error.to_string()))?;
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend(json);
    Ok(bytes)
}

/// No token ends a text, and no text is longer than the positions.
fn generation_config(model: &ModelSpec) -> Vec<u8> {
    let config = json!({"bos_token_id": null, "eos_token_id": null, "max_length": model.context, "pad_token_id": null});
    format!("{config:#}\n").into_bytes()
}

/// Writes a tensor's values.
struct Writer<'a> {
    file: &'a mut NewFile,
    dtype: Dtype,
    key: &'a str,
    done: usize,
}

impl Writer<'_> {
    fn piece(
        &mut self,
        piece: &Piece<'_>,
        weights: &[f32],
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), Error> {
        let values = weights
            .get(piece.range.clone())
            .ok_or_else(|| Error::Model(format!("tensor {} is not in the state", piece.key)))?;
        match (piece.place.orientation, piece.place.tensor.cols) {
            (Orientation::Transposed, Some(cols)) => {
                for col in 0..cols {
                    self.values(&mut values[col..].iter().step_by(cols).copied(), progress)?;
                }
            }
            _ => self.values(&mut values.iter().copied(), progress)?,
        }
        Ok(())
    }

    fn values(
        &mut self,
        values: &mut dyn Iterator<Item = f32>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), Error> {
        let mut bytes = Vec::new();
        for value in values {
            self.dtype.encode(value, &mut bytes).ok_or_else(|| self.cannot(value))?;
            self.done += 1;
            if bytes.len() >= self.dtype.size() * BLOCK {
                self.flush(&mut bytes, progress)?;
            }
        }
        Ok(self.flush(&mut bytes, progress)?)
    }

    fn flush(&mut self, bytes: &mut Vec<u8>, progress: &mut dyn FnMut(u64)) -> Result<(), FileError> {
        self.file.write(bytes)?;
        progress(bytes.len() as u64);
        bytes.clear();
        Ok(())
    }

    fn cannot(&self, value: f32) -> Error {
        let remedy = match self.dtype {
            Dtype::F16 if value.is_finite() => "export as bf16 or f32",
            Dtype::Bf16 if value.is_finite() => "export as f32",
            _ => "choose a state before its numbers ceased to be finite",
        };
        Error::Value { tensor: self.key.to_owned(), element: self.done, value, dtype: self.dtype, remedy }
    }
}
