//! Directories as a whole: what is exported comes back, and what others may have put there is read or refused by name.

mod refusals;

use std::fs;
use std::path::{Path, PathBuf};

use muster_numerics::graph::{Graph, StepShape};
use muster_numerics::spec::{Architecture, Arithmetic, LlamaShape, ModelSpec, TiedEmbeddings};
use muster_numerics::state::State;
use serde_json::{Value, json};

use super::*;
use crate::checkpoint::{self, CONFIG_FILE, MODEL_FILE};
use crate::resolved::state_root;

fn gpt2(tied_embeddings: TiedEmbeddings) -> ModelSpec {
    ModelSpec {
        architecture: Architecture::Gpt2,
        layers: 2,
        width: 32,
        heads: 2,
        context: 16,
        vocabulary: 40,
        tied_embeddings,
        llama: None,
    }
}

fn llama(tied_embeddings: TiedEmbeddings) -> ModelSpec {
    ModelSpec {
        architecture: Architecture::Llama,
        heads: 4,
        llama: Some(LlamaShape { kv_heads: 2, mlp_width: 40, rope_base: 10_000 }),
        ..gpt2(tied_embeddings)
    }
}

fn all() -> [ModelSpec; 4] {
    use TiedEmbeddings::{Tied, Untied};
    [gpt2(Tied), gpt2(Untied), llama(Tied), llama(Untied)]
}

fn graph(model: &ModelSpec) -> Graph {
    Graph::build(model, StepShape { batch: 1, shards: 1 }, Arithmetic::F32Chain).unwrap()
}

/// Weights with all kinds of values: subnormal, tiny, negative zero.
fn state(graph: &Graph) -> State {
    let mut state = State::genesis(graph, 5);
    for (i, value) in state.w.iter_mut().enumerate().filter(|(i, _)| i % 7 == 0) {
        *value = [-0.0, f32::from_bits(i as u32 + 1), -1e-30, 3.0][i / 7 % 4];
    }
    state
}

/// A directory with an exported model, for tests to spoil.
struct Site {
    _dir: tempfile::TempDir,
    path: PathBuf,
    model: ModelSpec,
    state: State,
}

impl Site {
    fn new(model: ModelSpec, dtype: Dtype, max_shard: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("exported");
        let graph = graph(&model);
        let state = state(&graph);
        let options = ExportOptions { dtype, max_shard };
        let mut bytes = 0;
        let done = export(
            &path,
            &model,
            &graph,
            &state.w,
            options,
            &[("tokenizer.json", b"{}".to_vec())],
            &mut |n| bytes += n,
        );
        assert_eq!(bytes, (state.w.len() * dtype.size()) as u64);
        for (name, size) in done.unwrap().files {
            assert_eq!(fs::metadata(path.join(name)).unwrap().len(), size);
        }
        Self { _dir: dir, path, model, state }
    }

    fn load(&self) -> Result<State, Error> {
        load(&self.path, &self.model, &mut |_| {})
    }

    /// The error names all words.
    fn refused(&self, words: &[&str]) {
        let error = self.load().unwrap_err().to_string();
        for word in words {
            assert!(error.contains(word), "{word:?} is not in {error}");
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Writes the file of weights again, with an edited header and as many bytes of values as are given.
    fn header(&self, edit: impl FnOnce(&mut Value, &mut Vec<u8>)) {
        let path = self.file(MODEL_FILE);
        let bytes = fs::read(&path).unwrap();
        let n = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let mut json: Value = serde_json::from_slice(&bytes[8..8 + n]).unwrap();
        let mut values = bytes[8 + n..].to_vec();
        edit(&mut json, &mut values);
        self.raw(&json.to_string(), &values);
    }

    fn raw(&self, json: &str, values: &[u8]) {
        let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
        bytes.extend(json.bytes());
        bytes.extend(values);
        fs::write(self.file(MODEL_FILE), bytes).unwrap();
    }

    fn config(&self, key: &str, value: Value) {
        let path = self.file(CONFIG_FILE);
        let mut json: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        json[key] = value;
        fs::write(path, json.to_string()).unwrap();
    }
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn an_export_comes_back_bit_for_bit() {
    for model in all() {
        let graph = graph(&model);
        for max_shard in [u64::MAX, 4096, 1] {
            let site = Site::new(model.clone(), Dtype::F32, max_shard);
            let back = site.load().unwrap();
            assert_eq!((back.step, back.b1p, back.b2p), (0, 1.0, 1.0));
            let root = state_root(&graph, &back).unwrap();
            assert_eq!(root, state_root(&graph, &site.state).unwrap(), "{model:?}, {max_shard}");
            assert_eq!(max_shard == u64::MAX, site.file(MODEL_FILE).exists());
            if max_shard == 1 {
                let files = names(&site.path).iter().filter(|name| name.starts_with("model-")).count();
                let index = parse_index(&fs::read(site.file(INDEX_FILE)).unwrap()).unwrap();
                assert_eq!(files, index.len(), "a file for each tensor");
            }
        }
    }
}

/// One file in f32 is the very file of a checkpoint.
#[test]
fn the_one_file_is_the_checkpoints() {
    for model in all() {
        let site = Site::new(model.clone(), Dtype::F32, u64::MAX);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("step-00000000");
        checkpoint::save(&path, &model, &graph(&model), muster_proof::Digest::of(b"job"), &site.state)
            .unwrap();
        for name in [MODEL_FILE, CONFIG_FILE] {
            assert_eq!(fs::read(path.join(name)).unwrap(), fs::read(site.file(name)).unwrap(), "{name}");
        }
        assert_eq!(
            names(&site.path),
            [CONFIG_FILE, "generation_config.json", MODEL_FILE, "tokenizer.json"].map(str::to_owned)
        );
        // A checkpoint of ours is read as well as anybody else's directory.
        assert_eq!(load(&path, &model, &mut |_| {}).unwrap(), site.state);
        assert!(is_foreign(&site.path) && !is_foreign(&path));
    }
}

/// Halves lose bits once: what was rounded comes back as it is.
#[test]
fn halves_are_rounded_once_and_then_exact() {
    for (dtype, relative) in [(Dtype::Bf16, 2f32.powi(-8)), (Dtype::F16, 2f32.powi(-11))] {
        for model in [gpt2(TiedEmbeddings::Tied), llama(TiedEmbeddings::Untied)] {
            let first = Site::new(model.clone(), dtype, 5000);
            let rounded = first.load().unwrap();
            assert!(first.file(INDEX_FILE).exists());
            for (was, is) in first.state.w.iter().zip(&rounded.w) {
                // Half of f16's smallest step, where there are no more digits.
                assert!((was - is).abs() <= was.abs() * relative + 2f32.powi(-25), "{was} {is}");
            }
            let again = first.path.with_file_name("again");
            let options = ExportOptions { dtype, max_shard: u64::MAX };
            export(&again, &model, &graph(&model), &rounded.w, options, &[], &mut |_| {}).unwrap();
            assert_eq!(load(&again, &model, &mut |_| {}).unwrap(), rounded);
            let text = fs::read_to_string(again.join(CONFIG_FILE)).unwrap();
            assert!(text.contains(&format!("\"torch_dtype\": \"{}\"", dtype.in_torch())), "{text}");
        }
    }
}

#[test]
fn what_a_type_cannot_hold_is_not_exported() {
    let model = gpt2(TiedEmbeddings::Tied);
    let graph = graph(&model);
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let mut weights = state(&graph).w;
    let at = graph.tensors().iter().find(|t| t.name == "h.1.mlp.fc.bias").unwrap().range().start;
    for (value, dtype, word) in [
        (70_000.0, Dtype::F16, "as bf16 or f32"),
        (f32::MAX, Dtype::Bf16, "as f32"),
        (f32::NAN, Dtype::F32, "ceased to be finite"),
        (f32::INFINITY, Dtype::F16, "ceased to be finite"),
    ] {
        weights[at + 3] = value;
        let options = ExportOptions { dtype, max_shard: u64::MAX };
        let error = export(&out, &model, &graph, &weights, options, &[], &mut |_| {}).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("transformer.h.1.mlp.c_fc.bias: element 3") && text.contains(word), "{text}");
        assert!(names(dir.path()).is_empty(), "nothing is left of it");
    }
    fs::create_dir(&out).unwrap();
    fs::write(out.join("mine"), "").unwrap();
    let options = ExportOptions { dtype: Dtype::F32, max_shard: 1 };
    let error = export(&out, &model, &graph, &weights, options, &[], &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("is there already"), "{error}");
    assert_eq!(names(&out), ["mine"]);
}

/// The published GPT-2: no `transformer.` before its keys, masks as buffers, and the head once more, or not at all.
#[test]
fn other_peoples_spellings_are_read() {
    let site = Site::new(gpt2(TiedEmbeddings::Tied), Dtype::F32, u64::MAX);
    site.header(|json, values| {
        let old = std::mem::take(json.as_object_mut().unwrap());
        let mut new = serde_json::Map::new();
        let mut at = values.len();
        let mut add = |name: &str, dtype: &str, shape: Value, bytes: &[u8]| {
            new.insert(
                name.into(),
                json!({"dtype": dtype, "shape": shape, "data_offsets": [at, at + bytes.len()]}),
            );
            values.extend(bytes);
            at += bytes.len();
        };
        let [from, to] =
            [0, 1].map(|i| old["transformer.wte.weight"]["data_offsets"][i].as_u64().unwrap() as usize);
        let head = values_of(&site, from, to);
        add("h.0.attn.bias", "BOOL", json!([1, 1, 16, 16]), &[1; 256]);
        add("h.1.attn.masked_bias", "F32", json!([]), &[0, 0, 0, 0xc6]);
        add("lm_head.weight", "F32", old["transformer.wte.weight"]["shape"].clone(), &head);
        for (name, entry) in old {
            new.insert(name.trim_start_matches("transformer.").into(), entry);
        }
        *json = Value::Object(new);
    });
    assert_eq!(site.load().unwrap(), site.state);
    // The same, but the head is another matrix.
    site.header(|_, values| *values.last_mut().unwrap() ^= 1);
    site.refused(&["lm_head.weight", "differs from the embedding", "tie_word_embeddings"]);

    // Rotary positions have no end of their own.
    let mut site = Site::new(llama(TiedEmbeddings::Untied), Dtype::F32, u64::MAX);
    site.config("max_position_embeddings", json!(131_072));
    assert_eq!(site.load().unwrap(), site.state);
    site.model.context = 8;
    assert_eq!(site.load().unwrap(), site.state);
    let (opened, _, state) = open(&site.path, &mut |_| {}).unwrap();
    assert_eq!((opened.context, state), (8192, site.state.clone()));
    // Links are followed: caches are made of them.
    let blob = site.path.with_file_name("blob");
    fs::rename(site.file(MODEL_FILE), &blob).unwrap();
    std::os::unix::fs::symlink(&blob, site.file(MODEL_FILE)).unwrap();
    assert_eq!(site.load().unwrap(), site.state);
}

fn values_of(site: &Site, from: usize, to: usize) -> Vec<u8> {
    let bytes = fs::read(site.file(MODEL_FILE)).unwrap();
    let n = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    bytes[8 + n + from..8 + n + to].to_vec()
}

#[test]
fn sizes_are_read() {
    for (text, size) in
        [("1", 1), ("1B", 1), ("2kB", 2000), ("500MB", 500_000_000), ("1GiB", 1 << 30), ("3 MiB", 3 << 20)]
    {
        assert_eq!(parse_size(text), Ok(size), "{text}");
    }
    for text in ["", "0", "GiB", "-1", "1.5GiB", "1TiB", "99999999999GiB", "1Gi B"] {
        parse_size(text).unwrap_err();
    }
}

/// A manifest speaks of all files that are read, and of no other; the state that it speaks of is the one they become.
#[test]
fn a_manifest_names_a_directory() {
    for model in all() {
        for (max_shard, dtype) in [(u64::MAX, Dtype::F32), (4096, Dtype::Bf16), (1, Dtype::F16)] {
            let site = Site::new(model.clone(), dtype, max_shard);
            let (shape, graph, state) = open(&site.path, &mut |_| {}).unwrap();
            let manifest = Manifest::of(&site.path, &state, &mut |_| {}).unwrap();
            assert_eq!((manifest.model(), manifest.differences(&model)), (&shape, vec![]));
            assert_eq!(manifest.state_root(), state_root(&graph, &state).unwrap());
            let listed: Vec<_> = manifest.files().iter().map(|file| file.path.clone()).collect();
            let mut sorted = listed.clone();
            sorted.sort();
            let mut there = names(&site.path);
            there.retain(|name| !["generation_config.json", "tokenizer.json"].contains(&&**name));
            assert_eq!(sorted, there);
            for file in manifest.files() {
                let bytes = fs::read(site.file(&file.path)).unwrap();
                assert_eq!((bytes.len() as u64, muster_proof::Digest::of(&bytes)), (file.size, file.sha256));
            }
            let bytes = manifest.to_bytes().unwrap();
            assert_eq!(Manifest::parse(&bytes).unwrap(), manifest);
            assert_eq!(manifest.digest().unwrap(), muster_proof::Digest::of(&bytes));
        }
    }
    let site = Site::new(gpt2(TiedEmbeddings::Tied), Dtype::F32, u64::MAX);
    let manifest = Manifest::of(&site.path, &site.state, &mut |_| {}).unwrap();
    let longer = ModelSpec { context: 17, layers: 3, ..site.model.clone() };
    let want = ["spec.model.layers is 3 and not 2", "spec.model.context is 17 and not 16"];
    assert_eq!(manifest.differences(&longer), want);
    Manifest::of(&site.path, &State { w: vec![0.0; 3], ..site.state.clone() }, &mut |_| {}).unwrap_err();
}

#[test]
fn a_strangers_manifest_is_refused_by_field() {
    let site = Site::new(gpt2(TiedEmbeddings::Tied), Dtype::F32, 4096);
    let bytes = Manifest::of(&site.path, &site.state, &mut |_| {}).unwrap().to_bytes().unwrap();
    let good: Value = serde_json::from_slice(&bytes).unwrap();
    let last = good["files"].as_array().unwrap().len() - 1;
    type Edit<'a> = (&'a str, &'a dyn Fn(&mut Value));
    let edits: &[Edit<'_>] = &[
        ("format", &|m| m["format"] = json!("muster.model/2")),
        ("unknown field", &|m| m["more"] = json!(1)),
        ("missing field", &|m| drop(m.as_object_mut().unwrap().remove("stateRoot"))),
        ("layers", &|m| m["model"]["layers"] = json!(0)),
        ("files: are not", &|m| m["files"] = json!([])),
        ("files: are not", &|m| m["files"].as_array_mut().unwrap().swap(0, 1)),
        ("1 to 512", &|m| m["files"].as_array_mut().unwrap().truncate(2)),
        ("sorted by name", &|m| m["files"].as_array_mut().unwrap().swap(2, 3)),
        ("sorted by name", &|m| m["files"][3] = m["files"][2].clone()),
        ("is no name", &|m| m["files"][last]["path"] = json!("z/../../x.safetensors")),
        ("is no name", &|m| m["files"][last]["path"] = json!("pytorch_model.bin")),
        ("0 bytes", &|m| m["files"][last]["size"] = json!(0)),
        ("bytes; 1 to", &|m| m["files"][0]["size"] = json!(1_u64 << 40)),
        ("bytes; 1 to", &|m| m["files"][last]["size"] = json!(1_u64 << 50)),
    ];
    for (word, edit) in edits {
        let mut other = good.clone();
        edit(&mut other);
        let error = Manifest::parse(&muster_proof::jcs::to_vec(&other).unwrap()).unwrap_err();
        assert!(error.contains(word), "{word:?} is not in {error}");
    }
    let mut spaced = bytes.clone();
    spaced.insert(1, b' ');
    for bad in [&spaced[..], b"", b"{}", &vec![b' '; MAX_MANIFEST as usize + 1]] {
        Manifest::parse(bad).unwrap_err();
    }
}
