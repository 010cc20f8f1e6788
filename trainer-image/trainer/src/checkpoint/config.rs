//! `config.json`: what `transformers` needs to build a `GPT2LMHeadModel` of this shape, one spelling per shape.

use muster_numerics::spec::{Architecture, ModelSpec, TiedEmbeddings};
use serde::Deserialize;

/// The fields that vary. The rest is fixed text: [`model_spec`] compares it by writing the file again.
#[derive(Deserialize)]
struct Config {
    n_embd: u64,
    n_head: u64,
    n_layer: u64,
    n_positions: u64,
    tie_word_embeddings: bool,
    vocab_size: u64,
}

/// The bytes of `config.json` for a GPT-2 of this shape; keys sorted, one trailing newline.
pub fn render(model: &ModelSpec) -> String {
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
  "torch_dtype": "float32",
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
    let model = ModelSpec {
        architecture: Architecture::Gpt2,
        layers: config.n_layer,
        width: config.n_embd,
        heads: config.n_head,
        context: config.n_positions,
        vocabulary: config.vocab_size,
        tied_embeddings: if config.tie_word_embeddings {
            TiedEmbeddings::Tied
        } else {
            TiedEmbeddings::Untied
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

    #[test]
    fn shapes_round_trip_and_edits_are_refused() {
        let mut model = ModelSpec {
            architecture: Architecture::Gpt2,
            layers: 4,
            width: 256,
            heads: 4,
            context: 128,
            vocabulary: 300,
            tied_embeddings: TiedEmbeddings::Untied,
        };
        assert_eq!(model_spec(render(&model).as_bytes()).unwrap(), model);
        model.tied_embeddings = TiedEmbeddings::Tied;
        let text = render(&model);
        assert_eq!(model_spec(text.as_bytes()).unwrap(), model);
        assert!(model_spec(text.replace("gelu_new", "relu").as_bytes()).is_err());
        assert!(model_spec(text.replace("128", "-1").as_bytes()).is_err());
        assert!(model_spec(b"").is_err());
        // A graph of so many layers is not even begun.
        model.layers = 1 << 40;
        assert!(model_spec(render(&model).as_bytes()).unwrap_err().contains("model.layers"));
    }
}
