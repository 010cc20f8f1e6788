//! Readers of what a model is: a job's resolved spec, the configuration beside a checkpoint's tensors, and the same of strangers.
use muster_numerics::spec::{Architecture, LlamaShape, ModelSpec, TiedEmbeddings, TrainingSpec};
use muster_proof::evaluation::Evaluation;
use muster_proof::inputs::Inputs;
use muster_proof::{Digest, jcs};
use muster_trainer::{checkpoint, hf};

use crate::Target;

pub fn targets() -> Vec<Target> {
    vec![
        Target { name: "spec", run: spec, seeds: spec_seeds },
        Target { name: "config", run: config, seeds: config_seeds },
        Target { name: "hf-config", run: foreign_config, seeds: foreign_config_seeds },
        Target { name: "hf-header", run: foreign_header, seeds: foreign_header_seeds },
        Target { name: "hf-index", run: foreign_index, seeds: foreign_index_seeds },
        Target { name: "hf-manifest", run: foreign_manifest, seeds: foreign_manifest_seeds },
    ]
}

fn spec(data: &[u8]) {
    if let Ok(spec) = TrainingSpec::from_json(data) {
        let _ = spec.hyper_parameters().is_ok();
        says_the_same(&spec);
        let again = serde_json::to_vec(&spec).ok().and_then(|json| TrainingSpec::from_json(&json).ok());
        assert_eq!(again, Some(spec));
    }
}

/// The hub's readers and the trainer's agree on which steps evaluate, on what, and with which weights the job begins.
fn says_the_same(spec: &TrainingSpec) {
    let bytes = jcs::serialize(spec).unwrap_or_default();
    let Ok(said) = Evaluation::of_spec(&bytes) else { unreachable!("a spec of {} bytes", bytes.len()) };
    let Ok(inputs) = Inputs::of_spec(&bytes) else { unreachable!("a spec of {} bytes", bytes.len()) };
    let held_out = spec.training.eval.as_ref().map(|eval| eval.data.manifest.clone());
    let init = spec.init.as_ref().map(|init| init.manifest.clone());
    assert_eq!(
        (inputs.held_out.map(|d| d.to_string()), inputs.init.map(|d| d.to_string())),
        (held_out, init)
    );
    let steps = spec.training.steps;
    for step in (1..=steps.min(64)).chain([steps.max(2) - 1, steps]) {
        assert_eq!(said.is_due(step), spec.training.evaluates(step), "{step}");
    }
}

fn config(data: &[u8]) {
    if let Ok(model) = checkpoint::model_spec(data) {
        // One spelling for each shape, and no shape out of bounds.
        assert_eq!(checkpoint::render_config(&model).as_bytes(), data);
        model.validate().unwrap_or_else(|error| unreachable!("{error}"));
    }
}

/// What is accepted computes what the model of this shape computes, so the file that we would write for it is accepted, too.
fn foreign_config(data: &[u8]) {
    let Ok(model) = hf::parse_config(data) else { return };
    if model.validate().is_ok() {
        assert_eq!(hf::parse_config(checkpoint::render_config(&model).as_bytes()), Ok(model));
    }
}

/// The first eight bytes say how many bytes of values there are. All of them belong to a tensor, and each to one.
fn foreign_header(data: &[u8]) {
    let Some((values, json)) = data.split_first_chunk::<8>() else { return };
    let values = u64::from_le_bytes(*values);
    if let Ok(header) = hf::parse_header(json, values) {
        let sizes = header.values().map(|entry| entry.end.checked_sub(entry.start));
        assert_eq!(sizes.sum::<Option<u64>>(), Some(values));
        let mut places: Vec<_> =
            header.values().map(|e| (e.start, e.end)).filter(|place| place.0 < place.1).collect();
        places.sort_unstable();
        assert!(places.windows(2).all(|two| matches!(two, [a, b] if a.1 == b.0)));
    }
}

/// No name leads out of the directory.
fn foreign_index(data: &[u8]) {
    if let Ok(map) = hf::parse_index(data) {
        assert!(!map.is_empty());
        for name in map.values() {
            let parts: Vec<_> = std::path::Path::new(name).components().collect();
            assert!(matches!(parts[..], [std::path::Component::Normal(part)] if part == name.as_str()));
            assert!(name.ends_with(".safetensors") && !name.starts_with('.'));
        }
    }
}

/// One spelling for each manifest, no name leads out of the directory, and the shape is one that we compute.
fn foreign_manifest(data: &[u8]) {
    if let Ok(manifest) = hf::Manifest::parse(data) {
        assert_eq!(manifest.to_bytes().ok().as_deref(), Some(data));
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        assert!(
            manifest.files().iter().all(|file| !file.path.starts_with('.') && file.path.bytes().all(plain))
        );
        manifest.model().validate().unwrap_or_else(|error| unreachable!("{error}"));
        assert_eq!(manifest.differences(manifest.model()), Vec::<String>::new());
    }
}

fn spec_seeds() -> Vec<Vec<u8>> {
    let digest = Digest::of(b"x");
    let gpt2 = format!(
        r#"{{"format":"muster.spec/1","ops":"muster.ops/1","graph":"{digest}","model":{{"architecture":"gpt2","layers":4,"width":256,"heads":4,"context":256,"vocabulary":256,"tiedEmbeddings":"Tied"}},"data":{{"root":"{digest}","tokens":4400000}},"training":{{"steps":200,"batch":8,"shards":8,"seed":0,"arithmetic":"f32-chain","optimizer":{{"name":"adamw","learningRate":"6e-4","beta1":"0.9","beta2":"0.95","epsilon":"1e-8","weightDecay":"0.1","clipNorm":"1.0"}},"schedule":{{"name":"cosine","warmupSteps":20,"finalFraction":"0.1"}}}},"genesis":"{digest}"}}"#
    );
    let llama = format!(
        r#"{{"format":"muster.spec/1","ops":"muster.ops/1","graph":"{digest}","model":{{"architecture":"llama","layers":4,"width":256,"heads":4,"context":256,"vocabulary":256,"tiedEmbeddings":"Untied","llama":{{"kvHeads":2,"mlpWidth":704,"ropeBase":10000}}}},"data":{{"root":"{digest}","tokens":4400000}},"training":{{"steps":200,"batch":8,"shards":8,"seed":0,"arithmetic":"i16-exact","optimizer":{{"name":"adamw","learningRate":"6e-4","beta1":"0.9","beta2":"0.95","epsilon":"1e-8","weightDecay":"0.1","clipNorm":"1.0"}},"schedule":{{"name":"cosine","warmupSteps":20,"finalFraction":"0.1"}}}},"genesis":"{digest}"}}"#
    );
    let eval = format!(
        r#""eval":{{"everySteps":60,"sequences":64,"data":{{"manifest":"{digest}","root":"{digest}","tokens":16385}}}},"#
    );
    let evaluated = gpt2.replace(r#""seed":0,"#, &format!(r#"{eval}"seed":0,"#));
    let stops = evaluated.replace(r#""everySteps":60,"#, r#""everySteps":60,"stopAt":"2.5e-1","#);
    let begins =
        stops.replacen(r#""genesis":"#, &format!(r#""init":{{"manifest":"{digest}"}},"genesis":"#), 1);
    vec![
        gpt2.into_bytes(),
        llama.into_bytes(),
        evaluated.into_bytes(),
        stops.into_bytes(),
        begins.into_bytes(),
    ]
}

fn config_seeds() -> Vec<Vec<u8>> {
    let own = LlamaShape { kv_heads: 2, mlp_width: 704, rope_base: 10_000 };
    let of = |architecture, llama| ModelSpec {
        architecture,
        layers: 4,
        width: 256,
        heads: 4,
        context: 128,
        vocabulary: 300,
        tied_embeddings: TiedEmbeddings::Untied,
        llama,
    };
    [of(Architecture::Gpt2, None), of(Architecture::Llama, Some(own))]
        .iter()
        .map(|model| checkpoint::render_config(model).into_bytes())
        .collect()
}

fn foreign_config_seeds() -> Vec<Vec<u8>> {
    let gpt2 = r#"{"activation_function":"gelu_new","architectures":["GPT2LMHeadModel"],"attn_pdrop":0.1,"bos_token_id":50256,"layer_norm_epsilon":1e-05,"model_type":"gpt2","n_ctx":64,"n_embd":48,"n_head":3,"n_inner":null,"n_layer":2,"n_positions":64,"vocab_size":300}"#;
    let llama = r#"{"architectures":["LlamaForCausalLM"],"attention_bias":false,"head_dim":16,"hidden_act":"silu","hidden_size":64,"intermediate_size":160,"max_position_embeddings":131072,"model_type":"llama","num_attention_heads":4,"num_hidden_layers":2,"num_key_value_heads":2,"rms_norm_eps":1e-05,"rope_scaling":null,"rope_parameters":{"rope_theta":500000.0,"rope_type":"default"},"tie_word_embeddings":false,"vocab_size":320}"#;
    [gpt2, llama].map(|text| text.as_bytes().to_vec()).into_iter().chain(config_seeds()).collect()
}

fn foreign_header_seeds() -> Vec<Vec<u8>> {
    let json = r#"{"__metadata__":{"format":"pt"},"b":{"dtype":"BF16","shape":[2,3],"data_offsets":[4,16]},"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"e":{"dtype":"U8","shape":[0,7],"data_offsets":[4,4]}}"#;
    vec![[&16u64.to_le_bytes()[..], json.as_bytes()].concat()]
}

fn foreign_index_seeds() -> Vec<Vec<u8>> {
    let json = r#"{"metadata":{"total_size":16},"weight_map":{"a":"model-00001-of-00002.safetensors","b":"model-00002-of-00002.safetensors"}}"#;
    vec![json.as_bytes().to_vec()]
}

fn foreign_manifest_seeds() -> Vec<Vec<u8>> {
    let (digest, model) = (
        Digest::of(b"x"),
        r#"{"architecture":"gpt2","context":16,"heads":1,"layers":1,"tiedEmbeddings":"Tied","vocabulary":256,"width":16}"#,
    );
    let file = |name: &str, size: u64| format!(r#"{{"path":"{name}","sha256":"{digest}","size":{size}}}"#);
    let of = |files: &[String]| {
        let files = files.join(",");
        format!(r#"{{"files":[{files}],"format":"muster.model/1","model":{model},"stateRoot":"{digest}"}}"#)
    };
    let config = file("config.json", 500);
    let one = of(&[config.clone(), file("model.safetensors", 9000)]);
    let shards =
        ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"].map(|name| file(name, 5000));
    let several = of(&[&[config, file("model.safetensors.index.json", 300)][..], &shards].concat());
    vec![one.into_bytes(), several.into_bytes()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seeds_are_accepted() {
        for seed in spec_seeds() {
            TrainingSpec::from_json(&seed).unwrap();
            spec(&seed);
        }
        for seed in config_seeds() {
            checkpoint::model_spec(&seed).unwrap();
        }
        for seed in foreign_config_seeds() {
            hf::parse_config(&seed).unwrap();
        }
        for seed in foreign_header_seeds() {
            hf::parse_header(&seed[8..], 16).unwrap();
        }
        for seed in foreign_index_seeds() {
            hf::parse_index(&seed).unwrap();
        }
        for seed in foreign_manifest_seeds() {
            hf::Manifest::parse(&seed).unwrap();
            foreign_manifest(&seed);
        }
    }
}
