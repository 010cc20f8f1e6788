//! A directory as state 0 of a job: its weights, converted exactly, and no moments.

use std::collections::BTreeSet;
use std::path::Path;

use muster_numerics::graph::{Graph, StepShape};
use muster_numerics::spec::{Architecture, Arithmetic, ModelSpec};
use muster_numerics::state::State;

use super::weights::{Tensor, Weights};
use super::{Dtype, Error, MAX_CONFIG, config, shown};
use crate::checkpoint::{CONFIG_FILE, Orientation, places};
use crate::files;

/// Values converted at a time.
const BLOCK: usize = 1 << 16;
/// The longest context that a model of ours has (docs/spec/numerics.md section 8.2).
const MAX_CONTEXT: u64 = 8192;
/// Of the language-model head, which a tied model has once more under another name.
const HEAD: &str = "lm_head.weight";

/// The model of the directory `dir` by its own word, with its weights as state 0. `progress` is told of every few bytes that are read.
///
/// # Errors
/// As [`load`], and [`Error::Refused`] for a model that we cannot compute.
pub fn open(dir: &Path, progress: &mut dyn FnMut(u64)) -> Result<(ModelSpec, Graph, State), Error> {
    let model = shape_of(dir)?;
    let state = load(dir, &model, progress)?;
    let graph = graph_of(&model)?;
    Ok((model, graph, state))
}

/// The shape of the model of the directory `dir`, with the longest context that we can compute.
pub(super) fn shape_of(dir: &Path) -> Result<ModelSpec, Error> {
    let path = dir.join(CONFIG_FILE);
    let mut model = read_config(&path)?;
    if model.architecture == Architecture::Llama {
        // Positions that are turned have no table.
        model.context = model.context.min(MAX_CONTEXT);
    }
    model.validate().map_err(|error| Error::refused(&path, error.to_string()))?;
    Ok(model)
}

fn read_config(path: &Path) -> Result<ModelSpec, Error> {
    config::parse(&files::read_regular(path, MAX_CONFIG)?).map_err(|problem| Error::refused(path, problem))
}

/// For batches of one sequence; the tensors are those of any batch.
pub(super) fn graph_of(model: &ModelSpec) -> Result<Graph, Error> {
    Graph::build(model, StepShape { batch: 1, shards: 1 }, Arithmetic::F32Chain)
        .map_err(|error| Error::Model(error.to_string()))
}

/// State 0 of the model `model` with the weights of the directory `dir`. `progress` is told of every few bytes that are read.
///
/// # Errors
/// [`Error::OtherModel`] naming all fields that differ; [`Error::Refused`] naming file and tensor; [`Error::File`].
pub fn load(dir: &Path, model: &ModelSpec, progress: &mut dyn FnMut(u64)) -> Result<State, Error> {
    let theirs = read_config(&dir.join(CONFIG_FILE))?;
    let differences = differences(model, &theirs);
    if !differences.is_empty() {
        return Err(Error::OtherModel {
            path: dir.display().to_string(),
            differences: differences.join(", "),
        });
    }
    model.validate().map_err(|error| Error::Model(error.to_string()))?;
    let graph = graph_of(model)?;
    let places = places(&graph, &[""])?;
    let mut weights = Source { weights: Weights::open(dir)?, taken: BTreeSet::new() };

    // All shapes before any value: the files have at least as many bytes as are allocated now.
    let mut found = Vec::new();
    for (_, place) in &places {
        let pieces = place.pieces.iter().map(|(key, shape)| weights.take(dir, key, shape));
        found.push((place, pieces.collect::<Result<Vec<_>, _>>()?));
    }
    let tied_head = weights.rest(dir, model)?;
    let n = graph.parameters();
    let mut state = State { step: 0, b1p: 1.0, b2p: 1.0, w: vec![0.0; n], m: vec![0.0; n], v: vec![0.0; n] };
    for (place, pieces) in found {
        let mut values = state.w[place.tensor.range()].iter_mut();
        match (place.orientation, place.tensor.cols) {
            (Orientation::Transposed, Some(cols)) => {
                let all = values.into_slice();
                for (key, tensor) in &pieces {
                    weights.transposed(key, tensor, all, cols, progress)?;
                }
            }
            _ => {
                for (key, tensor) in &pieces {
                    weights.values(key, tensor, progress, |value| {
                        if let Some(place) = values.next() {
                            *place = value;
                        }
                    })?;
                }
            }
        }
    }
    if let Some(head) = tied_head {
        let embedding = places.iter().find(|(_, place)| place.tensor.name == embedding_of(model));
        let values = embedding.map_or(&[][..], |(_, place)| &state.w[place.tensor.range()]);
        weights.same(&head, values, progress)?;
    }
    Ok(state)
}

/// What the job's model has otherwise than the directory's, in words.
pub(super) fn differences(ours: &ModelSpec, theirs: &ModelSpec) -> Vec<String> {
    let mut all = Vec::new();
    let mut compare = |field: &str, ours: String, theirs: String| {
        if ours != theirs {
            all.push(format!("spec.model.{field} is {ours} and not {theirs}"));
        }
    };
    let name = |model: &ModelSpec| match model.architecture {
        Architecture::Gpt2 => "gpt2".to_owned(),
        Architecture::Llama => "llama".to_owned(),
    };
    compare("architecture", name(ours), name(theirs));
    let count = |n: u64| n.to_string();
    compare("layers", count(ours.layers), count(theirs.layers));
    compare("width", count(ours.width), count(theirs.width));
    compare("heads", count(ours.heads), count(theirs.heads));
    compare("vocabulary", count(ours.vocabulary), count(theirs.vocabulary));
    compare("tiedEmbeddings", format!("{:?}", ours.tied_embeddings), format!("{:?}", theirs.tied_embeddings));
    if let (Some(ours), Some(theirs)) = (&ours.llama, &theirs.llama) {
        compare("kvHeads", count(ours.kv_heads), count(theirs.kv_heads));
        compare("mlpWidth", count(ours.mlp_width), count(theirs.mlp_width));
        compare("ropeBase", count(ours.rope_base), count(theirs.rope_base));
    }
    // A table of positions has its length; rotary positions end where training on them ended.
    if theirs.architecture == Architecture::Gpt2 {
        compare("context", count(ours.context), count(theirs.context));
    } else if ours.context > theirs.context {
        all.push(format!("spec.model.context is {} and more than {}", ours.context, theirs.context));
    }
    all
}

fn embedding_of(model: &ModelSpec) -> &'static str {
    match model.architecture {
        Architecture::Gpt2 => "wte",
        Architecture::Llama => "embed.weight",
    }
}

/// Buffers that old versions saved with the weights. They follow from the shape.
fn is_buffer(key: &str) -> bool {
    let key = without_base(key);
    let in_block = |suffix: &str| {
        let middle =
            key.strip_prefix("h.").or(key.strip_prefix("layers.")).and_then(|k| k.strip_suffix(suffix));
        middle.is_some_and(|number| number.parse::<u16>().is_ok())
    };
    in_block(".attn.bias") || in_block(".attn.masked_bias") || in_block(".self_attn.rotary_emb.inv_freq")
}

/// Models that were saved without their head have their keys without the name of the part that is not the head.
fn without_base(key: &str) -> &str {
    key.strip_prefix("transformer.").or(key.strip_prefix("model.")).unwrap_or(key)
}

struct Source {
    weights: Weights,
    taken: BTreeSet<String>,
}

impl Source {
    /// The tensor that the model calls `key`, of this shape.
    fn take(&mut self, dir: &Path, key: &str, shape: &[u64]) -> Result<(String, Tensor), Error> {
        let tensors = &self.weights.tensors;
        let short = Some(without_base(key)).filter(|short| *short != key);
        let (key, tensor) =
            match (tensors.get_key_value(key), short.and_then(|key| tensors.get_key_value(key))) {
                (Some(found), None) | (None, Some(found)) => found,
                (None, None) => return Err(Error::refused(dir, format!("tensor {key} is missing"))),
                (Some(_), Some((short, _))) => {
                    return Err(Error::refused(dir, format!("tensor {key} is there twice, as {short} too")));
                }
            };
        let path = self.weights.path(tensor);
        if tensor.entry.shape != shape {
            let text = format!("tensor {key}: shape {:?}, the model's is {shape:?}", tensor.entry.shape);
            return Err(Error::refused(path, text));
        }
        if Dtype::of_header(tensor.entry.dtype).is_none() {
            let text =
                format!("tensor {key}: is {}; F32, BF16 and F16 are converted exactly", tensor.entry.dtype);
            return Err(Error::refused(path, text));
        }
        let found = (key.clone(), tensor.clone());
        self.taken.insert(found.0.clone());
        Ok(found)
    }

    /// What is left must be nothing but buffers, and the second name of a tied head, which is returned.
    fn rest(&mut self, dir: &Path, model: &ModelSpec) -> Result<Option<(String, Tensor)>, Error> {
        let mut head = None;
        let left: Vec<String> =
            self.weights.tensors.keys().filter(|key| !self.taken.contains(*key)).cloned().collect();
        for key in left {
            if key == HEAD {
                head = Some(self.take(dir, HEAD, &[model.vocabulary, model.width])?);
            } else if !is_buffer(&key) {
                let path = self.weights.tensors.get(&key).map_or(dir, |tensor| self.weights.path(tensor));
                let text = format!("tensor {}: the model has none of this name", shown(&key));
                return Err(Error::refused(path, text));
            }
        }
        Ok(head)
    }

    /// Gives the tensor's values in the file's order.
    fn values(
        &self,
        key: &str,
        tensor: &Tensor,
        progress: &mut dyn FnMut(u64),
        mut each: impl FnMut(f32),
    ) -> Result<(), Error> {
        let path = self.weights.path(tensor);
        let Some(dtype) = Dtype::of_header(tensor.entry.dtype) else { return Ok(()) };
        let (mut at, size) = (0, tensor.entry.end - tensor.entry.start);
        let (mut bytes, mut values) = (vec![0; dtype.size() * BLOCK], Vec::with_capacity(BLOCK));
        while at < size {
            let piece = (size - at).min(bytes.len() as u64);
            let bytes = &mut bytes[..piece as usize];
            self.weights.read(tensor, at, bytes)?;
            values.clear();
            dtype.decode(bytes, &mut values);
            if let Some(i) = values.iter().position(|value| !value.is_finite()) {
                let element = at / dtype.size() as u64 + i as u64;
                let text = format!(
                    "tensor {key}: element {element} is {}; nothing can be trained from it",
                    values[i]
                );
                return Err(Error::refused(path, text));
            }
            values.iter().copied().for_each(&mut each);
            at += piece;
            progress(piece);
        }
        Ok(())
    }

    /// Fills `all`, rows of `cols`, from a file that has the columns one after the other.
    fn transposed(
        &self,
        key: &str,
        tensor: &Tensor,
        all: &mut [f32],
        cols: usize,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), Error> {
        let rows = all.len() / cols.max(1);
        let mut i = 0;
        self.values(key, tensor, progress, |value| {
            if let Some(place) = all.get_mut(i % rows.max(1) * cols + i / rows.max(1)) {
                *place = value;
            }
            i += 1;
        })
    }

    /// Refuses a head that is not the embedding it is said to be.
    fn same(
        &self,
        (key, tensor): &(String, Tensor),
        want: &[f32],
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), Error> {
        let (mut i, mut differs) = (0, None);
        self.values(key, tensor, progress, |value| {
            if want.get(i).map(|want| want.to_bits()) != Some(value.to_bits()) {
                differs = differs.or(Some(i));
            }
            i += 1;
        })?;
        match differs {
            None => Ok(()),
            Some(i) => {
                let text = format!(
                    "tensor {key}: element {i} differs from the embedding's, though tie_word_embeddings says they are one; \
                     say false there, and Untied in the job, if the head is its own"
                );
                Err(Error::refused(self.weights.path(tensor), text))
            }
        }
    }
}
