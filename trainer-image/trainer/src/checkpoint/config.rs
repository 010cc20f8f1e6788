//! `config.json`: what `transformers` needs to build a `GPT2LMHeadModel` or a `LlamaForCausalLM` of this shape, one spelling per shape.

use muster_numerics::spec::{Architecture, LlamaShape, ModelSpec, TiedEmbeddings};
use serde::Deserialize;

/// Which of the families it is. Fields that vary are read by family; the rest is fixed text: [`model_spec`] compares it by writing the
/// file again.
#[derive(Deserialize)]
#[serde(tag = "model_type", rename_all = "lowercase")]
enum Config {
    Gpt2 {
        n_embd: u64,
        n_head: u64,
        n_layer: u64,
        n_positions: u64,
        tie_word_embeddings: bool,
        vocab_size: u64,
    },
    Llama {
        hidden_size: u64,
        intermediate_size: u64,
        max_position_embeddings: u64,
        num_attention_heads: u64,
        num_hidden_layers: u64,
        num_key_value_heads: u64,
        rope_theta: f64,
        tie_word_embeddings: bool,
        vocab_size: u64,
    },
}

/// The bytes of `config.json` for a model of this shape; keys sorted, one trailing newline.
pub fn render(model: &ModelSpec) -> String {
    render_as(model, "float32")
}

/// The same beside tensors of another type, by PyTorch's name of it. A checkpoint's are float32.
pub fn render_as(model: &ModelSpec, dtype: &str) -> String {
    match (model.architecture, &model.llama) {
        (Architecture::Llama, Some(own)) => llama(model, own, dtype),
        _ => gpt2(model, dtype),
    }
}

fn llama(model: &ModelSpec, own: &LlamaShape, dtype: &str) -> String {
    format!(
        r#"{{
  "architectures": ["LlamaForCausalLM"],
  "attention_bias": false,
  "attention_dropout": 0.0,
  "bos_token_id": null,
  "eos_token_id": null,
  "head_dim": {head},
  "hidden_act": "silu",
  "hidden_size": {width},
  "intermediate_size": {mlp},
  "max_position_embeddings": {context},
  "mlp_bias": false,
  "model_type": "llama",
  "num_attention_heads": {heads},
  "num_hidden_layers": {layers},
  "num_key_value_heads": {kv_heads},
  "rms_norm_eps": 1e-05,
  "rope_scaling": null,
  "rope_theta": {base}.0,
  "tie_word_embeddings": {tied},
  "torch_dtype": "{dtype}",
  "vocab_size": {vocabulary}
}}
"#,
        head = model.width / model.heads.max(1),
        width = model.width,
        mlp = own.mlp_width,
        context = model.context,
        heads = model.heads,
        layers = model.layers,
        kv_heads = own.kv_heads,
        base = own.rope_base,
        tied = model.tied_embeddings == TiedEmbeddings::Tied,
        vocabulary = model.vocabulary,
    )
}

fn gpt2(model: &ModelSpec, dtype: &str) -> String {
    format!(
        r#"{{
  "activation_function": "gelu_new",
  "architectures": ["GPT2LMHeadModel"],
  "attn_pdrop": 0.0,
  "bos_token_id": null,
  "embd_pdrop": 0.0,
  "eos_token_id": null,
  "layer_norm_epsilon": 1e-05,
  "model_type": "gpt2",
  "n_embd": {width},
  "n_head": {heads},
  "n_inner": null,
  "n_layer": {layers},
  "n_positions": {context},
  "resid_pdrop": 0.0,
  "scale_attn_weights": true,
  "tie_word_embeddings": {tied},
  "torch_dtype": "{dtype}",
  "vocab_size": {vocabulary}
}}
"#,
        width = model.width,
        heads = model.heads,
        layers = model.layers,
        context = model.context,
        tied = model.tied_embeddings == TiedEmbeddings::Tied,
        vocabulary = model.vocabulary,
    )
}

/// The shape that `bytes`, the contents of a `config.json`, describe.
///
/// # Errors
/// A sentence, for anything [`render`] would not have written.
pub fn model_spec(bytes: &[u8]) -> Result<ModelSpec, String> {
    let config: Config = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let tied = |tied| if tied { TiedEmbeddings::Tied } else { TiedEmbeddings::Untied };
    let model = match config {
        Config::Gpt2 { n_embd, n_head, n_layer, n_positions, tie_word_embeddings, vocab_size } => ModelSpec {
            architecture: Architecture::Gpt2,
            layers: n_layer,
            width: n_embd,
            heads: n_head,
            context: n_positions,
            vocabulary: vocab_size,
            tied_embeddings: tied(tie_word_embeddings),
            llama: None,
        },
        Config::Llama {
            hidden_size,
            intermediate_size,
            max_position_embeddings,
            num_attention_heads,
            num_hidden_layers,
            num_key_value_heads,
            rope_theta,
            tie_word_embeddings,
            vocab_size,
        } => ModelSpec {
            architecture: Architecture::Llama,
            layers: num_hidden_layers,
            width: hidden_size,
            heads: num_attention_heads,
            context: max_position_embeddings,
            vocabulary: vocab_size,
            tied_embeddings: tied(tie_word_embeddings),
            // A fraction or a negative base does not come back the same, below.
            llama: Some(LlamaShape {
                kv_heads: num_key_value_heads,
                mlp_width: intermediate_size,
                rope_base: rope_theta as u64,
            }),
        },
    };
    if render(&model).as_bytes() != bytes {
        return Err("not the configuration that Muster writes for a model of this shape".into());
    }
    model.validate().map_err(|error| error.to_string())?;
    Ok(model)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(llama: Option<LlamaShape>) -> ModelSpec {
        ModelSpec {
            architecture: if llama.is_some() { Architecture::Llama } else { Architecture::Gpt2 },
            layers: 4,
            width: 256,
            heads: 4,
            context: 128,
            vocabulary: 300,
            tied_embeddings: TiedEmbeddings::Untied,
            llama,
        }
    }

    #[test]
    fn shapes_round_trip_and_edits_are_refused() {
        let own = LlamaShape { kv_heads: 2, mlp_width: 704, rope_base: 500_000 };
        for own in [None, Some(own)] {
            let mut model = shape(own);
            assert_eq!(model_spec(render(&model).as_bytes()).unwrap(), model);
            model.tied_embeddings = TiedEmbeddings::Tied;
            let text = render(&model);
            assert_eq!(model_spec(text.as_bytes()).unwrap(), model);
            for (from, to) in [
                ("gelu_new", "relu"),
                ("silu", "gelu"),
                ("128", "-1"),
                ("1e-05", "1e-06"),
                ("500000.0", "500000.5"),
                ("500000.0", "-5.0"),
                ("500000.0", "1e300"),
                ("\"rope_scaling\": null", "\"rope_scaling\": {}"),
                ("\"head_dim\": 64", "\"head_dim\": 32"),
                ("\"llama\"", "\"gpt2\""),
                ("\"model_type\": \"gpt2\"", "\"model_type\": \"llama\""),
                ("model_type", "model_typ"),
            ] {
                let edited = text.replace(from, to);
                assert!(edited == text || model_spec(edited.as_bytes()).is_err(), "{from} -> {to}");
            }
            assert!(model_spec(b"").is_err());
            // A graph of so many layers is not even begun.
            model.layers = 1 << 40;
            assert!(model_spec(render(&model).as_bytes()).unwrap_err().contains("model.layers"));
        }
    }
}
