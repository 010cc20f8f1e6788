use super::*;
use serde_json::json;

/// As `openai-community/gpt2` has it, smaller.
fn gpt2() -> Value {
    json!({
        "activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.1,
        "bos_token_id": 50256, "embd_pdrop": 0.1, "eos_token_id": 50256, "initializer_range": 0.02,
        "layer_norm_epsilon": 1e-05, "model_type": "gpt2", "n_ctx": 64, "n_embd": 48, "n_head": 3, "n_layer": 2,
        "n_positions": 64, "resid_pdrop": 0.1, "summary_activation": null, "summary_first_dropout": 0.1,
        "summary_proj_to_labels": true, "summary_type": "cls_index", "summary_use_proj": true,
        "task_specific_params": {"text-generation": {"do_sample": true, "max_length": 50}}, "vocab_size": 300
    })
}

/// As `TinyLlama` has it, smaller.
fn llama() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "attention_bias": false, "bos_token_id": 1, "eos_token_id": 2,
        "hidden_act": "silu", "hidden_size": 64, "initializer_range": 0.02, "intermediate_size": 160,
        "max_position_embeddings": 131_072, "model_type": "llama", "num_attention_heads": 4, "num_hidden_layers": 2,
        "num_key_value_heads": 2, "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_scaling": null,
        "rope_theta": 500_000.0, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
        "transformers_version": "4.35.0", "use_cache": true, "vocab_size": 320
    })
}

fn of(base: &Value, key: &str, value: Value) -> Result<ModelSpec, String> {
    let mut json = base.clone();
    match value {
        Value::String(text) if text == "-" => drop(json.as_object_mut().unwrap().remove(key)),
        value => json[key] = value,
    }
    parse(json.to_string().as_bytes())
}

#[test]
fn published_spellings_are_read() {
    let shape = parse(gpt2().to_string().as_bytes()).unwrap();
    assert_eq!((shape.layers, shape.width, shape.heads), (2, 48, 3));
    assert_eq!((shape.context, shape.vocabulary), (64, 300));
    assert_eq!(shape.tied_embeddings, TiedEmbeddings::Tied);
    for (key, value) in [
        ("layer_norm_epsilon", json!("-")),
        ("layer_norm_epsilon", json!(9.999_999_747_378_752e-6)),
        ("n_inner", json!(192)),
        ("n_inner", json!(null)),
        ("activation_function", json!("gelu_pytorch_tanh")),
        ("architectures", json!(["GPT2Model"])),
        ("n_ctx", json!("-")),
    ] {
        assert_eq!(of(&gpt2(), key, value).unwrap(), shape, "{key}");
    }

    let shape = parse(llama().to_string().as_bytes()).unwrap();
    let own = LlamaShape { kv_heads: 2, mlp_width: 160, rope_base: 500_000 };
    assert_eq!(shape.llama, Some(own));
    assert_eq!((shape.context, shape.tied_embeddings), (131_072, TiedEmbeddings::Untied));
    // As versions from 5 on write it.
    let mut json = llama();
    json.as_object_mut().unwrap().remove("rope_theta");
    json["rope_parameters"] = json!({"rope_theta": 500_000.0, "rope_type": "default"});
    assert_eq!(parse(json.to_string().as_bytes()).unwrap(), shape);
    assert_eq!(of(&llama(), "head_dim", json!(16)).unwrap(), shape);
    assert_eq!(of(&llama(), "rope_scaling", json!({"type": "default"})).unwrap(), shape);
    assert_eq!(of(&llama(), "num_key_value_heads", json!("-")).unwrap().llama.unwrap().kv_heads, 4);
    assert_eq!(of(&llama(), "rope_theta", json!("-")).unwrap().llama.unwrap().rope_base, 10_000);
}

/// What we write, others read; so do we.
#[test]
fn our_own_is_read() {
    for base in [gpt2(), llama()] {
        let mut shape = parse(base.to_string().as_bytes()).unwrap();
        shape.context = 64;
        let text = crate::checkpoint::render_config_as(&shape, "bfloat16");
        assert_eq!(parse(text.as_bytes()).unwrap(), shape);
    }
}

#[test]
fn what_is_another_function_is_refused_by_name() {
    for (key, value) in [
        ("model_type", json!("gpt_neo")),
        ("model_type", json!("-")),
        ("architectures", json!(["GPT2ForSequenceClassification"])),
        ("layer_norm_epsilon", json!(1e-6)),
        ("layer_norm_epsilon", json!("1e-05")),
        ("activation_function", json!("relu")),
        ("activation_function", json!("gelu")),
        ("n_inner", json!(100)),
        ("n_ctx", json!(32)),
        ("n_layer", json!(0)),
        ("n_head", json!(-3)),
        ("n_embd", json!(48.5)),
        ("n_positions", json!("-")),
        ("vocab_size", json!("many")),
        ("scale_attn_weights", json!(false)),
        ("scale_attn_by_inverse_layer_idx", json!(true)),
        ("add_cross_attention", json!(true)),
        ("is_encoder_decoder", json!(true)),
        ("pruned_heads", json!({"0": [1]})),
        ("quantization_config", json!({"bits": 4})),
        ("tie_word_embeddings", json!(1)),
        ("auto_map", json!({"AutoModel": "evil.Model"})),
        ("alibi", json!(true)),
    ] {
        let error = of(&gpt2(), key, value.clone()).unwrap_err();
        assert!(error.starts_with(&format!("{key}: ")), "{key} = {value}: {error}");
    }
    for (key, value) in [
        ("rms_norm_eps", json!(1e-6)),
        ("rms_norm_eps", json!("-")),
        ("hidden_act", json!("gelu")),
        ("attention_bias", json!(true)),
        ("mlp_bias", json!(true)),
        ("head_dim", json!(32)),
        ("partial_rotary_factor", json!(0.5)),
        ("rope_theta", json!(10_000.5)),
        ("rope_theta", json!(-1.0)),
        ("rope_theta", json!(1e300)),
        ("num_key_value_heads", json!(0)),
        ("sliding_window", json!(4096)),
        ("intermediate_size", json!("-")),
    ] {
        let error = of(&llama(), key, value.clone()).unwrap_err();
        assert!(error.starts_with(&format!("{key}: ")), "{key} = {value}: {error}");
    }
    for (key, value, name) in [
        ("rope_scaling", json!({"type": "linear", "factor": 2.0}), "rope_scaling.factor"),
        ("rope_scaling", json!({"rope_type": "llama3"}), "rope_scaling.rope_type"),
        ("rope_parameters", json!({"rope_type": "yarn"}), "rope_parameters.rope_type"),
        ("rope_parameters", json!({"rope_theta": 7.0}), "rope_parameters.rope_theta"),
        ("rope_parameters", json!({"partial_rotary_factor": 0.5}), "rope_parameters.partial_rotary_factor"),
        ("rope_scaling", json!("linear"), "rope_scaling"),
    ] {
        let error = of(&llama(), key, value).unwrap_err();
        assert!(error.starts_with(&format!("{name}: ")), "{error}");
    }
    let twice = gpt2().to_string().replace('{', "{\"n_layer\":3,");
    assert!(parse(twice.as_bytes()).unwrap_err().contains("\"n_layer\" occurs twice"));
    for bad in ["", "[]", "{", "null", "{}{}"] {
        parse(bad.as_bytes()).unwrap_err();
    }
    parse("[".repeat(100_000).as_bytes()).unwrap_err();
}
