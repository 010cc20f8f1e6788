//! Which file key and orientation a canonical tensor has: Hugging Face's for GPT-2.
//!
//! | canonical, `[out, in]` | in the files |
//! |---|---|
//! | `wte`, `wpe` | `transformer.wte.weight`, `transformer.wpe.weight` |
//! | `h.N.ln_1.*`, `h.N.ln_2.*`, `ln_f.*` | `transformer.` before it |
//! | `h.N.attn.qkv.*` | `transformer.h.N.attn.c_attn.*`, weight transposed |
//! | `h.N.attn.proj.*` | `transformer.h.N.attn.c_proj.*`, weight transposed |
//! | `h.N.mlp.fc.*` | `transformer.h.N.mlp.c_fc.*`, weight transposed |
//! | `h.N.mlp.proj.*` | `transformer.h.N.mlp.c_proj.*`, weight transposed |
//! | `head.weight` (untied) | `lm_head.weight` |
//!
//! GPT-2's linear layers were `Conv1D`s, whose weights are `[in, out]`; hence the transposes.

/// How a tensor lies in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Orientation {
    /// As in memory.
    Same,
    /// Rows and columns exchanged.
    Transposed,
}

/// The linear layers: canonical name inside a block, and the file's.
const LINEAR: [(&str, &str); 4] = [
    ("attn.qkv", "attn.c_attn"),
    ("attn.proj", "attn.c_proj"),
    ("mlp.fc", "mlp.c_fc"),
    ("mlp.proj", "mlp.c_proj"),
];

/// The key and orientation in the files of the tensor with this canonical name; `None` for a name GPT-2 does not
/// have.
pub fn file_name(canonical: &str) -> Option<(String, Orientation)> {
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

#[cfg(test)]
mod tests {
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
            assert_eq!(file_name(ours), Some((theirs.into(), orientation)));
        }
        for other in ["", "h.x.ln_1.bias", "h.0.ln_1", "h.0.attn.o.weight", "embed.weight", "h.0.ln_1.scale"]
        {
            assert_eq!(file_name(other), None, "{other}");
        }
    }
}
