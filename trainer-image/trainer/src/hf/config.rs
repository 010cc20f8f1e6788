//! A stranger's `config.json`: the shape of the model, if it is a GPT-2 or a Llama that computes what ours computes.
//!
//! Every key is known: it is part of the shape, or has the one value that our function has, or says nothing of the function. A key
//! that is not known is refused by name, for it may change the function.

use muster_numerics::spec::{Architecture, LlamaShape, ModelSpec, TiedEmbeddings};
use serde_json::{Map, Value};

use super::shown;
use super::unique::Unique;

/// The largest `config.json` that is read, in bytes. Published ones have a few hundred.
pub const MAX_CONFIG: u64 = 1 << 20;

/// The epsilon of every norm (docs/spec/numerics.md).
const EPSILON: f32 = 1e-5;
/// The base where a Llama names none.
const ROPE_THETA: f64 = 10_000.0;

/// What does not change the logits of a sequence: bookkeeping, dropout (we have none), caches, which tokens begin and end a text, and
/// the defaults for generation that old versions left here.
const IGNORED: &[&str] = &[
    "_attn_implementation_autoset",
    "_name_or_path",
    "attention_dropout",
    "attn_pdrop",
    "bad_words_ids",
    "begin_suppress_tokens",
    "bos_token_id",
    "chunk_size_feed_forward",
    "cross_attention_hidden_size",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "dtype",
    "early_stopping",
    "embd_pdrop",
    "encoder_no_repeat_ngram_size",
    "eos_token_id",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "gradient_checkpointing",
    "id2label",
    "initializer_range",
    "is_decoder",
    "keys_to_ignore_at_inference",
    "label2id",
    "length_penalty",
    "max_length",
    "max_sequence_length",
    "min_length",
    "model_type",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_past",
    "output_scores",
    "pad_token_id",
    "prefix",
    "pretraining_tp",
    "problem_type",
    "remove_invalid_values",
    "reorder_and_upcast_attn",
    "repetition_penalty",
    "resid_pdrop",
    "return_dict",
    "return_dict_in_generate",
    "sep_token_id",
    "summary_activation",
    "summary_first_dropout",
    "summary_proj_to_labels",
    "summary_type",
    "summary_use_proj",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "tf_legacy_loss",
    "tie_encoder_decoder",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torch_dtype",
    "torchscript",
    "transformers_version",
    "typical_p",
    "unsloth_version",
    "use_bfloat16",
    "use_cache",
    "vocab_file",
];

/// The shape that `bytes` describe. The context is the number of positions; whether we can train the shape is for
/// [`ModelSpec::validate`].
///
/// # Errors
/// A sentence that names the key, for anything that is not exactly a model of ours.
pub fn parse(bytes: &[u8]) -> Result<ModelSpec, String> {
    let Unique(map) =
        serde_json::from_slice::<Unique<Value>>(bytes).map_err(|e| format!("not a JSON object: {e}"))?;
    let mut keys = Keys(map.into_iter().collect());
    let architecture = match keys.0.get("model_type").and_then(Value::as_str) {
        Some("gpt2") => Architecture::Gpt2,
        Some("llama") => Architecture::Llama,
        Some(other) => {
            return Err(format!("model_type: is {:?}; models of type gpt2 and llama are read", shown(other)));
        }
        None => return Err("model_type: is missing; say \"gpt2\" or \"llama\"".into()),
    };
    keys.architectures(architecture)?;
    keys.only("is_encoder_decoder", "false", |value| value == false)?;
    keys.only("add_cross_attention", "false", |value| value == false)?;
    keys.only("pruned_heads", "no heads", |value| value.as_object().is_some_and(Map::is_empty))?;
    keys.only("quantization_config", "null: weights are f32, bf16 or f16", Value::is_null)?;
    let model = match architecture {
        Architecture::Gpt2 => keys.gpt2()?,
        Architecture::Llama => keys.llama()?,
    };
    match keys.0.keys().find(|key| !IGNORED.contains(&key.as_str())) {
        Some(key) => Err(format!(
            "{}: is not known here and may change what the model computes; remove it if it does not",
            shown(key)
        )),
        None => Ok(model),
    }
}

/// The keys that are not dealt with yet.
struct Keys(Map<String, Value>);

impl Keys {
    fn gpt2(&mut self) -> Result<ModelSpec, String> {
        let width = self.count("n_embd")?;
        let context = self.count("n_positions")?;
        let model = ModelSpec {
            architecture: Architecture::Gpt2,
            layers: self.count("n_layer")?,
            width,
            heads: self.count("n_head")?,
            context,
            vocabulary: self.count("vocab_size")?,
            tied_embeddings: self.tied(true)?,
            llama: None,
        };
        // Both names are of GELU with tanh.
        self.only("activation_function", "gelu_new", |value| {
            matches!(value.as_str(), Some("gelu_new" | "gelu_pytorch_tanh"))
        })?;
        self.only("layer_norm_epsilon", "1e-05", is_epsilon)?;
        let inner = width.checked_mul(4);
        self.only("n_inner", "null, which is 4 * n_embd", |value| {
            value.is_null() || value.as_u64() == inner
        })?;
        self.only("n_ctx", "n_positions", |value| value.as_u64() == Some(context))?;
        self.only("scale_attn_weights", "true", |value| value == true)?;
        self.only("scale_attn_by_inverse_layer_idx", "false", |value| value == false)?;
        Ok(model)
    }

    fn llama(&mut self) -> Result<ModelSpec, String> {
        let (width, heads) = (self.count("hidden_size")?, self.count("num_attention_heads")?);
        let kv_heads = match self.0.get("num_key_value_heads") {
            Some(value) if !value.is_null() => self.count("num_key_value_heads")?,
            _ => {
                self.0.remove("num_key_value_heads");
                heads
            }
        };
        let model = ModelSpec {
            architecture: Architecture::Llama,
            layers: self.count("num_hidden_layers")?,
            width,
            heads,
            context: self.count("max_position_embeddings")?,
            vocabulary: self.count("vocab_size")?,
            tied_embeddings: self.tied(false)?,
            llama: Some(LlamaShape {
                kv_heads,
                mlp_width: self.count("intermediate_size")?,
                rope_base: self.rope_base()?,
            }),
        };
        self.only("hidden_act", "silu", |value| matches!(value.as_str(), Some("silu" | "swish")))?;
        if !self.0.contains_key("rms_norm_eps") {
            return Err("rms_norm_eps: is missing, which means 1e-06; Muster's norms have 1e-05".into());
        }
        self.only("rms_norm_eps", "1e-05", is_epsilon)?;
        self.only("attention_bias", "false", |value| value == false)?;
        self.only("mlp_bias", "false", |value| value == false)?;
        let head = width.checked_div(heads);
        self.only("head_dim", "hidden_size / num_attention_heads", |value| {
            value.is_null()
                || (value.as_u64() == head && head.and_then(|h| h.checked_mul(heads)) == Some(width))
        })?;
        Ok(model)
    }

    /// The base of the rotary frequencies, by either of its names, and that nothing else is done to the positions.
    fn rope_base(&mut self) -> Result<u64, String> {
        let mut theta = self.0.remove("rope_theta").filter(|value| !value.is_null());
        for key in ["rope_scaling", "rope_parameters"] {
            let mut inner = match self.0.remove(key) {
                None | Some(Value::Null) => continue,
                Some(Value::Object(inner)) => inner,
                Some(other) => return Err(refused(key, &other, "an object or null")),
            };
            if let Some(there) = inner.remove("rope_theta") {
                if theta.as_ref().is_some_and(|theta| theta.as_f64() != there.as_f64()) {
                    return Err(format!("{key}.rope_theta: differs from rope_theta; leave one"));
                }
                theta = Some(there);
            }
            let harmless = |(name, value): (&String, &Value)| match name.as_str() {
                "rope_type" | "type" => value == "default",
                "partial_rotary_factor" => value.as_f64() == Some(1.0),
                _ => false,
            };
            if let Some((name, value)) = inner.iter().find(|member| !harmless(*member)) {
                let text =
                    refused(&format!("{key}.{}", shown(name)), value, "no scaling of rotary positions");
                return Err(text);
            }
        }
        self.only("partial_rotary_factor", "1", |value| value.as_f64() == Some(1.0))?;
        match theta.map_or(Some(ROPE_THETA), |theta| theta.as_f64()) {
            // Within this, an f64 that is whole is exact.
            Some(base) if base.fract() == 0.0 && (2.0..=1_073_741_824.0).contains(&base) => Ok(base as u64),
            _ => Err("rope_theta: is not a whole number from 2 to 2^30, the bases that Muster has".into()),
        }
    }

    fn tied(&mut self, default: bool) -> Result<TiedEmbeddings, String> {
        match self.0.remove("tie_word_embeddings") {
            None if default => Ok(TiedEmbeddings::Tied),
            Some(Value::Bool(true)) => Ok(TiedEmbeddings::Tied),
            None | Some(Value::Bool(false)) => Ok(TiedEmbeddings::Untied),
            Some(other) => Err(refused("tie_word_embeddings", &other, "true or false")),
        }
    }

    fn architectures(&mut self, of: Architecture) -> Result<(), String> {
        let known: &[&str] = match of {
            Architecture::Gpt2 => &["GPT2LMHeadModel", "GPT2Model"],
            Architecture::Llama => &["LlamaForCausalLM", "LlamaModel"],
        };
        let is_known = |one: &Value| one.as_str().is_some_and(|one| known.contains(&one));
        self.only("architectures", known[0], |value| {
            value.is_null() || value.as_array().is_some_and(|all| all.iter().all(is_known))
        })
    }

    fn count(&mut self, key: &str) -> Result<u64, String> {
        let value = self.0.remove(key).ok_or_else(|| format!("{key}: is missing"))?;
        value.as_u64().filter(|n| *n > 0).ok_or_else(|| refused(key, &value, "a count above 0"))
    }

    /// Takes away a key that must have the value that our function has, if it is there: without it, it has.
    fn only(&mut self, key: &str, want: &str, ok: impl Fn(&Value) -> bool) -> Result<(), String> {
        match self.0.remove(key) {
            Some(value) if !ok(&value) => Err(refused(key, &value, want)),
            _ => Ok(()),
        }
    }
}

/// Some files have it as the f64 of the f32.
fn is_epsilon(value: &Value) -> bool {
    value.as_f64().is_some_and(|value| value as f32 == EPSILON)
}

fn refused(key: &str, value: &Value, want: &str) -> String {
    format!("{key}: is {}; Muster's model has {want}, and this would be another", shown(&value.to_string()))
}

#[cfg(test)]
mod tests;
