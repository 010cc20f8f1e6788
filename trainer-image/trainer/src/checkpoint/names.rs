//! Where a model's tensors lie in their files, and under which keys: Hugging Face's, so that `transformers` reads them.
//!
//! | canonical GPT-2, `[out, in]` | in the files |
//! |---|---|
//! | `wte`, `wpe` | `transformer.wte.weight`, `transformer.wpe.weight` |
//! | `h.N.ln_1.*`, `h.N.ln_2.*`, `ln_f.*` | `transformer.` before it |
//! | `h.N.attn.qkv.*` | `transformer.h.N.attn.c_attn.*`, weight transposed |
//! | `h.N.attn.proj.*` | `transformer.h.N.attn.c_proj.*`, weight transposed |
//! | `h.N.mlp.fc.*` | `transformer.h.N.mlp.c_fc.*`, weight transposed |
//! | `h.N.mlp.proj.*` | `transformer.h.N.mlp.c_proj.*`, weight transposed |
//! | `head.weight` (untied) | `lm_head.weight` |
//!
//! GPT-2's linear layers were `Conv1D`s, whose weights are `[in, out]`; hence the transposes. Its files have their values in the order
//! of the keys.
//!
//! | canonical Llama, `[out, in]` | in the files |
//! |---|---|
//! | `embed.weight`, `norm.weight` | `model.embed_tokens.weight`, `model.norm.weight` |
//! | `layers.N.attn_norm.weight` | `model.layers.N.input_layernorm.weight` |
//! | `layers.N.attn.qkv.weight` | its rows as `self_attn.q_proj.weight`, `.k_proj.weight`, `.v_proj.weight` |
//! | `layers.N.attn.o.weight` | `self_attn.o_proj.weight` |
//! | `layers.N.mlp_norm.weight` | `post_attention_layernorm.weight` |
//! | `layers.N.mlp.gate_up.weight` | its halves as `mlp.gate_proj.weight`, `mlp.up_proj.weight` |
//! | `layers.N.mlp.down.weight` | `mlp.down_proj.weight` |
//! | `head.weight` (untied) | `lm_head.weight` |
//!
//! Its files have their values in the canonical order, so that the rows of `attn.qkv` are one run of bytes, as they are in memory.

use muster_numerics::graph::{Graph, Op, Tensor};

use super::Error;
use crate::safetensors::Header;

/// How a tensor lies in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Orientation {
    /// As in memory.
    Same,
    /// Rows and columns exchanged.
    Transposed,
}

/// One tensor of the model in a file: one run of bytes.
#[derive(Debug, Clone)]
pub(crate) struct Place<'g> {
    pub tensor: &'g Tensor,
    pub orientation: Orientation,
    /// Key and shape of what the file calls a tensor there: one, or parts of its rows one after the other.
    pub pieces: Vec<(String, Vec<u64>)>,
}

/// The linear layers of GPT-2: canonical name inside a block, and the file's.
const LINEAR: [(&str, &str); 4] = [
    ("attn.qkv", "attn.c_attn"),
    ("attn.proj", "attn.c_proj"),
    ("mlp.fc", "mlp.c_fc"),
    ("mlp.proj", "mlp.c_proj"),
];

/// The tensors of Llama's blocks: canonical name, and the file's names of its parts.
const LLAMA: [(&str, &[&str]); 6] = [
    ("attn_norm", &["input_layernorm"]),
    ("attn.qkv", &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
    ("attn.o", &["self_attn.o_proj"]),
    ("mlp_norm", &["post_attention_layernorm"]),
    ("mlp.gate_up", &["mlp.gate_proj", "mlp.up_proj"]),
    ("mlp.down", &["mlp.down_proj"]),
];

/// All tensors of a file in the order of their bytes. The number is that of the prefix before the keys: a file of moments has every
/// tensor once under each.
///
/// # Errors
/// [`Error::State`] for a graph with a tensor that files have no name for.
pub(crate) fn places<'g>(graph: &'g Graph, prefixes: &[&str]) -> Result<Vec<(usize, Place<'g>)>, Error> {
    let mut places = Vec::with_capacity(prefixes.len() * graph.tensors().len());
    for (number, prefix) in prefixes.iter().enumerate() {
        for tensor in graph.tensors() {
            let place = place(graph, tensor, prefix);
            let unknown = || Error::State(format!("tensor {} has no name in a file", tensor.name));
            places.push((number, place.ok_or_else(unknown)?));
        }
    }
    if kv_heads(graph).is_none() {
        places.sort_by(|(_, a), (_, b)| a.pieces.cmp(&b.pieces));
    }
    Ok(places)
}

/// The header of the file with these places.
///
/// # Errors
/// [`Error::State`] for a file that is too large to be described.
pub(super) fn header(places: &[(usize, Place<'_>)]) -> Result<Header, Error> {
    let pieces = places.iter().flat_map(|(_, place)| &place.pieces).cloned();
    Header::new(pieces).map_err(|error| Error::State(error.to_string()))
}

/// Query heads and key/value heads of a Llama; `None` for a GPT-2. What turns its heads is a Llama.
fn kv_heads(graph: &Graph) -> Option<(usize, usize)> {
    graph.nodes().iter().find_map(|node| match node.op {
        Op::Rotary(rotary) => Some((rotary.heads, rotary.kv_heads)),
        _ => None,
    })
}

fn place<'g>(graph: &'g Graph, tensor: &'g Tensor, prefix: &str) -> Option<Place<'g>> {
    let mut shape: Vec<u64> = tensor.shape().into_iter().map(|n| n as u64).collect();
    let Some((heads, kv_heads)) = kv_heads(graph) else {
        let (key, orientation) = gpt2(&tensor.name)?;
        if orientation == Orientation::Transposed {
            shape.reverse();
        }
        return Some(Place { tensor, orientation, pieces: vec![(format!("{prefix}{key}"), shape)] });
    };
    let keys = llama(&tensor.name)?;
    let shares: &[usize] = match keys.len() {
        1 => &[1],
        2 => &[1, 1],
        _ => &[heads, kv_heads, kv_heads],
    };
    let unit = shape.first()? / shares.iter().sum::<usize>() as u64;
    let pieces = keys.into_iter().zip(shares).map(|(key, share)| {
        let mut shape = shape.clone();
        shape[0] = unit * *share as u64;
        (format!("{prefix}{key}"), shape)
    });
    Some(Place { tensor, orientation: Orientation::Same, pieces: pieces.collect() })
}

/// Key and orientation of a tensor of GPT-2; `None` for a name that it does not have.
fn gpt2(canonical: &str) -> Option<(String, Orientation)> {
    match canonical {
        "wte" | "wpe" => return Some((format!("transformer.{canonical}.weight"), Orientation::Same)),
        "head.weight" => return Some(("lm_head.weight".into(), Orientation::Same)),
        "ln_f.weight" | "ln_f.bias" => return Some((format!("transformer.{canonical}"), Orientation::Same)),
        _ => {}
    }
    let (layer, part) = canonical.strip_prefix("h.")?.split_once('.')?;
    layer.parse::<u32>().ok()?;
    let (module, kind) = part.rsplit_once('.')?;
    if !matches!(kind, "weight" | "bias") {
        return None;
    }
    if matches!(module, "ln_1" | "ln_2") {
        return Some((format!("transformer.{canonical}"), Orientation::Same));
    }
    let (_, theirs) = LINEAR.iter().find(|(ours, _)| *ours == module)?;
    let orientation = if kind == "weight" { Orientation::Transposed } else { Orientation::Same };
    Some((format!("transformer.h.{layer}.{theirs}.{kind}"), orientation))
}

/// Keys of the parts of a tensor of Llama; `None` for a name that it does not have.
fn llama(canonical: &str) -> Option<Vec<String>> {
    match canonical {
        "embed.weight" => return Some(vec!["model.embed_tokens.weight".into()]),
        "norm.weight" => return Some(vec!["model.norm.weight".into()]),
        "head.weight" => return Some(vec!["lm_head.weight".into()]),
        _ => {}
    }
    let (layer, part) = canonical.strip_prefix("layers.")?.split_once('.')?;
    layer.parse::<u32>().ok()?;
    let module = part.strip_suffix(".weight")?;
    let (_, theirs) = LLAMA.iter().find(|(ours, _)| *ours == module)?;
    Some(theirs.iter().map(|theirs| format!("model.layers.{layer}.{theirs}.weight")).collect())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{graph, llama as llama_graph};
    use super::*;

    #[test]
    fn names_are_hugging_faces() {
        for (ours, theirs, orientation) in [
            ("wte", "transformer.wte.weight", Orientation::Same),
            ("wpe", "transformer.wpe.weight", Orientation::Same),
            ("h.11.ln_2.bias", "transformer.h.11.ln_2.bias", Orientation::Same),
            ("h.0.attn.qkv.weight", "transformer.h.0.attn.c_attn.weight", Orientation::Transposed),
            ("h.0.attn.qkv.bias", "transformer.h.0.attn.c_attn.bias", Orientation::Same),
            ("h.3.mlp.proj.weight", "transformer.h.3.mlp.c_proj.weight", Orientation::Transposed),
            ("ln_f.weight", "transformer.ln_f.weight", Orientation::Same),
            ("head.weight", "lm_head.weight", Orientation::Same),
        ] {
            assert_eq!(gpt2(ours), Some((theirs.into(), orientation)));
        }
        for other in ["", "h.x.ln_1.bias", "h.0.ln_1", "h.0.attn.o.weight", "embed.weight", "h.0.ln_1.scale"]
        {
            assert_eq!(gpt2(other), None, "{other}");
        }
        let qkv = ["q", "k", "v"].map(|part| format!("model.layers.7.self_attn.{part}_proj.weight"));
        assert_eq!(llama("layers.7.attn.qkv.weight").unwrap(), qkv);
        assert_eq!(
            llama("layers.0.mlp_norm.weight").unwrap(),
            ["model.layers.0.post_attention_layernorm.weight"]
        );
        for other in ["", "wte", "layers.x.attn.o.weight", "layers.0.attn.o.bias", "layers.0.attn.weight"] {
            assert_eq!(llama(other), None, "{other}");
        }
    }

    #[test]
    fn gpt2_lies_in_the_order_of_its_keys_and_llama_in_its_own() {
        let graph = graph();
        let places_of_gpt2 = places(&graph, &["m.", "v."]).unwrap();
        let keys: Vec<&String> =
            places_of_gpt2.iter().flat_map(|(_, p)| &p.pieces).map(|(key, _)| key).collect();
        assert!(keys.is_sorted());
        let graph = llama_graph();
        let places = places(&graph, &["m.", "v."]).unwrap();
        let order: Vec<(usize, &str)> =
            places.iter().map(|(n, place)| (*n, place.tensor.name.as_str())).collect();
        let want = [0, 1].into_iter().flat_map(|n| graph.tensors().iter().map(move |t| (n, t.name.as_str())));
        assert!(order.into_iter().eq(want));
        // Four query heads and two of keys and values, 8 wide.
        let (_, qkv) = places.iter().find(|(_, p)| p.tensor.name.ends_with("attn.qkv.weight")).unwrap();
        let shapes: Vec<&[u64]> = qkv.pieces.iter().map(|(_, shape)| &shape[..]).collect();
        assert_eq!(shapes, [[32, 32], [16, 32], [16, 32]]);
        let header = header(&places).unwrap();
        assert_eq!(header.entries().len(), places.iter().map(|(_, p)| p.pieces.len()).sum::<usize>());
        assert!(header.entries().windows(2).all(|pair| pair[0].end == pair[1].start));
    }
}
