//! What is not exactly our model, or not exactly a directory of one, is refused by name.

use std::fs;

use muster_numerics::spec::{LlamaShape, ModelSpec, TiedEmbeddings};
use serde_json::{Value, json};

use super::{Site, gpt2, llama, names};
use crate::checkpoint::{CONFIG_FILE, MODEL_FILE};
use crate::hf::{Dtype, INDEX_FILE};

#[test]
fn another_model_is_refused_field_by_field() {
    let mut site = Site::new(llama(TiedEmbeddings::Tied), Dtype::Bf16, u64::MAX);
    let own = site.model.llama.unwrap();
    let right = site.model.clone();
    let other = |edit: &dyn Fn(&mut ModelSpec)| {
        let mut model = right.clone();
        edit(&mut model);
        model
    };
    for (model, words) in [
        (other(&|m| m.layers = 3), "spec.model.layers is 3 and not 2"),
        (other(&|m| m.width = 64), "spec.model.width is 64 and not 32"),
        (other(&|m| m.heads = 2), "spec.model.heads is 2 and not 4"),
        (other(&|m| m.vocabulary = 256), "spec.model.vocabulary is 256 and not 40"),
        (other(&|m| m.context = 17), "spec.model.context is 17 and more than 16"),
        (
            other(&|m| m.tied_embeddings = TiedEmbeddings::Untied),
            "spec.model.tiedEmbeddings is Untied and not Tied",
        ),
        (other(&|m| m.llama = Some(LlamaShape { kv_heads: 4, ..own })), "spec.model.kvHeads is 4 and not 2"),
        (
            other(&|m| m.llama = Some(LlamaShape { mlp_width: 48, ..own })),
            "spec.model.mlpWidth is 48 and not 40",
        ),
        (
            other(&|m| m.llama = Some(LlamaShape { rope_base: 9, ..own })),
            "spec.model.ropeBase is 9 and not 10000",
        ),
        (gpt2(TiedEmbeddings::Tied), "spec.model.architecture is gpt2 and not llama"),
    ] {
        site.model = model;
        site.refused(&[words, "exported has another model than the job", "change the job's spec.model"]);
    }
    let mut site = Site::new(gpt2(TiedEmbeddings::Tied), Dtype::F16, u64::MAX);
    site.model.context = 8;
    site.refused(&["spec.model.context is 8 and not 16"]);
}

#[test]
fn a_directory_that_is_no_model_is_refused_by_name() {
    let site = Site::new(gpt2(TiedEmbeddings::Tied), Dtype::F32, u64::MAX);
    site.config("layer_norm_epsilon", json!(1e-6));
    site.refused(&["config.json: layer_norm_epsilon: is 1e-6", "1e-05"]);
    fs::remove_file(site.file(CONFIG_FILE)).unwrap();
    site.refused(&["config.json"]);

    let site = Site::new(gpt2(TiedEmbeddings::Tied), Dtype::F32, 20_000);
    fs::write(site.file(MODEL_FILE), "").unwrap();
    site.refused(&["both there"]);
    fs::remove_file(site.file(MODEL_FILE)).unwrap();
    let index = site.file(INDEX_FILE);
    let good = fs::read_to_string(&index).unwrap();
    let shard = "model-00001-of-";
    assert!(good.contains(shard));
    fs::write(&index, good.replace("\"model-00001", "\"../exported/model-00001")).unwrap();
    site.refused(&[INDEX_FILE, "../exported/model-00001", "not the name of a file here"]);
    let first = good.lines().find(|line| line.contains(shard)).unwrap();
    fs::write(&index, good.replacen(first, &first.replace(shard, "model-00002-of-"), 1)).unwrap();
    site.refused(&["does not say that it is here"]);
    fs::write(&index, good.replacen(first, &format!("{}\n{first}", first.replace("\": ", ".x\": ")), 1))
        .unwrap();
    site.refused(&[INDEX_FILE, ".x is not in the file"]);
    fs::write(&index, &good).unwrap();
    site.load().unwrap();
    let last = names(&site.path).into_iter().rfind(|name| name.starts_with("model-")).unwrap();
    fs::remove_file(site.file(&last)).unwrap();
    site.refused(&[&last]);
    fs::remove_file(index).unwrap();
    fs::write(site.file("pytorch_model.bin"), "").unwrap();
    site.refused(&["no model.safetensors", "pytorch_model.bin is not read", "safetensors"]);
    fs::create_dir(site.file(MODEL_FILE)).unwrap();
    site.refused(&["it is not a file"]);
}

#[test]
fn hostile_tensors_are_refused_by_name() {
    let fresh = || Site::new(gpt2(TiedEmbeddings::Tied), Dtype::F32, u64::MAX);
    let key = "transformer.h.0.ln_1.bias";
    type Edit = fn(&mut Value, &mut Vec<u8>);
    let edits: [(Edit, &[&str]); 9] = [
        (|json, _| drop(json.as_object_mut().unwrap().remove("__metadata__")), &[]),
        (
            |json, values| {
                let end = values.len();
                json["score.weight"] = json!({"dtype": "F32", "shape": [1], "data_offsets": [end, end + 4]});
                values.extend([0; 4]);
            },
            &["tensor score.weight: the model has none"],
        ),
        (
            |json, values| {
                let end = values.len();
                json["../../a\n"] = json!({"dtype": "F32", "shape": [0], "data_offsets": [end, end]});
            },
            &["tensor ../../a\\n: the model has none"],
        ),
        (
            |json, _| json["transformer.h.0.ln_1.bias"]["shape"] = json!([16, 2]),
            &["transformer.h.0.ln_1.bias: shape [16, 2], the model's is [32]"],
        ),
        (
            |json, _| {
                let entry = json["transformer.h.0.ln_1.bias"].clone();
                drop(json.as_object_mut().unwrap().remove("transformer.h.0.ln_1.bias"));
                json["transformer.h.0.ln_1.bia"] = entry;
            },
            &["tensor transformer.h.0.ln_1.bias is missing"],
        ),
        (
            |json, _| {
                json["transformer.h.0.ln_1.bias"]["dtype"] = json!("F64");
                json["transformer.h.0.ln_1.bias"]["shape"] = json!([16]);
            },
            &["transformer.h.0.ln_1.bias"],
        ),
        (
            |json, _| json["transformer.h.0.ln_1.bias"]["dtype"] = json!("I32"),
            &["is I32", "converted exactly"],
        ),
        (|_, values| values.truncate(values.len() - 1), &["bytes of values where its header describes"]),
        (
            |json, values| {
                let end = values.len();
                json["h.0.ln_1.bias"] =
                    json!({"dtype": "F32", "shape": [32], "data_offsets": [end, end + 128]});
                values.extend([0; 128]);
            },
            &["is there twice, as h.0.ln_1.bias too"],
        ),
    ];
    for (edit, words) in edits {
        let site = fresh();
        site.header(edit);
        match words {
            [] => assert_eq!(site.load().unwrap(), site.state),
            words => site.refused(words),
        }
    }

    // A value that is none.
    for bits in [f32::NAN, f32::NEG_INFINITY] {
        let site = fresh();
        site.header(|json, values| {
            let at = json[key]["data_offsets"][0].as_u64().unwrap() as usize + 4 * 5;
            values[at..at + 4].copy_from_slice(&bits.to_le_bytes());
        });
        site.refused(&[key, "element 5", "nothing can be trained"]);
    }

    // Sizes that only exist in the header's first bytes.
    for length in [u64::MAX, 1 << 63, 1 << 40, 9] {
        let site = fresh();
        fs::write(site.file(MODEL_FILE), [&length.to_le_bytes()[..], b"{}"].concat()).unwrap();
        site.refused(&["its header claims", &length.to_string()]);
    }
    for short in 0..8 {
        let site = fresh();
        fs::write(site.file(MODEL_FILE), vec![0; short]).unwrap();
        site.refused(&["ends inside its header"]);
    }
    let site = fresh();
    site.raw("{\"a\":1,\"a\":2}", &[]);
    site.refused(&[MODEL_FILE]);
    site.raw("{}", &[]);
    site.refused(&["is missing"]);
}
