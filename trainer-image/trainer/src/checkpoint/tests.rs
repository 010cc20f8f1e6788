use std::fs;
use std::path::Path;

use muster_numerics::graph::{Graph, StepShape};
use muster_numerics::spec::{Architecture, Arithmetic, LlamaShape, ModelSpec, TiedEmbeddings};
use muster_numerics::state::State;
use muster_proof::steps::{Bits, Records, StepRecord};

use super::*;
use crate::files::NewDir;

pub(super) fn model() -> ModelSpec {
    ModelSpec {
        architecture: Architecture::Gpt2,
        layers: 1,
        width: 16,
        heads: 2,
        context: 8,
        vocabulary: 20,
        tied_embeddings: TiedEmbeddings::Untied,
        llama: None,
    }
}

/// Query heads 8 wide in fours, keys and values in twos.
pub(super) fn llama_model() -> ModelSpec {
    ModelSpec {
        architecture: Architecture::Llama,
        layers: 2,
        width: 32,
        heads: 4,
        tied_embeddings: TiedEmbeddings::Untied,
        llama: Some(LlamaShape { kv_heads: 2, mlp_width: 40, rope_base: 10_000 }),
        ..model()
    }
}

pub(super) fn llama() -> Graph {
    Graph::build(&llama_model(), StepShape { batch: 1, shards: 1 }, Arithmetic::I16Exact).unwrap()
}

pub(super) fn graph() -> Graph {
    Graph::build(&model(), StepShape { batch: 1, shards: 1 }, Arithmetic::F32Chain).unwrap()
}

pub(super) fn state(step: u64) -> State {
    state_of(&graph(), step)
}

fn state_of(graph: &Graph, step: u64) -> State {
    let mut state = State::genesis(graph, 7);
    state.step = step;
    (state.b1p, state.b2p) = (0.81, 0.9025);
    for (i, (m, v)) in state.m.iter_mut().zip(&mut state.v).enumerate() {
        (*m, *v) = (i as f32 * 0.5, i as f32 * 0.25);
    }
    state
}

/// Those of the one step that led to `state(step)`.
pub(super) fn records(step: u64) -> Records {
    let one = Bits::of(1.0);
    Records::new(
        step,
        vec![StepRecord { eval_loss: None, grad_norm: one, learning_rate: one, loss: one, step }],
    )
    .unwrap()
}

pub(super) fn job() -> Digest {
    Digest::of(b"job")
}

fn saved(out: &Path, step: u64) -> Saved {
    save(&Store::new(out).path(step), &model(), &graph(), job(), &state(step)).unwrap()
}

#[test]
fn a_state_comes_back_bit_for_bit() {
    let dir = tempfile::tempdir().unwrap();
    let saved = saved(dir.path(), 2);
    let store = Store::new(dir.path());
    let (got, manifest) = store.load(2, &model(), &graph(), job()).unwrap();
    assert_eq!(got, state(2));
    assert_eq!((manifest.step(), manifest.state_root()), (2, saved.state_root));
    assert_eq!(read_manifest(&store.path(2)).unwrap().1, saved.manifest);
    let (opened, _, got, _) = open(&resolve_dir(dir.path()).unwrap()).unwrap();
    assert_eq!((opened, got), (model(), state(2)));
}

#[test]
fn a_llama_comes_back_bit_for_bit_and_its_files_give_its_root() {
    let dir = tempfile::tempdir().unwrap();
    let (model, graph) = (llama_model(), llama());
    let state = state_of(&graph, 2);
    let store = Store::new(dir.path());
    let saved = save(&store.path(2), &model, &graph, job(), &state).unwrap();
    assert_eq!(saved.state_root, crate::resolved::state_root(&graph, &state).unwrap());
    assert_eq!(store.load(2, &model, &graph, job()).unwrap().0, state);
    let (opened, _, got, _) = open(&resolve_dir(dir.path()).unwrap()).unwrap();
    assert_eq!((opened, got), (model, state.clone()));
    // Queries, keys and values of the file are the rows of the one product.
    let bytes = fs::read(store.path(2).join(MODEL_FILE)).unwrap();
    let (header, values) = crate::safetensors::parse(&bytes).unwrap();
    let tensor = graph.tensors().iter().find(|t| t.name == "layers.1.attn.qkv.weight").unwrap();
    let mut rows = Vec::new();
    for part in ["q", "k", "v"] {
        let key = format!("model.layers.1.self_attn.{part}_proj.weight");
        let entry = header.entries().iter().find(|entry| entry.name == key).unwrap();
        assert_eq!(entry.shape, [if part == "q" { 32 } else { 16 }, 32]);
        rows.extend_from_slice(&bytes[values + entry.start as usize..values + entry.end as usize]);
    }
    let want: Vec<u8> = state.w[tensor.range()].iter().flat_map(|w| w.to_le_bytes()).collect();
    assert!(rows == want);
}

#[test]
fn weights_are_transposed_as_hugging_face_wants() {
    let dir = tempfile::tempdir().unwrap();
    saved(dir.path(), 1);
    let bytes = fs::read(Store::new(dir.path()).path(1).join(MODEL_FILE)).unwrap();
    let (header, values) = crate::safetensors::parse(&bytes).unwrap();
    let entry = header.entries().iter().find(|e| e.name == "transformer.h.0.attn.c_attn.weight").unwrap();
    assert_eq!(entry.shape, [16, 48]);
    let graph = graph();
    let tensor = graph.tensors().iter().find(|t| t.name == "h.0.attn.qkv.weight").unwrap();
    let (state, at) = (state(1), values + entry.start as usize);
    let in_file = |row: usize, col: usize| {
        let at = at + 4 * (row * 48 + col);
        f32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
    };
    for (out, input) in [(0, 0), (47, 3), (5, 15), (20, 9)] {
        assert_eq!(in_file(input, out), state.w[tensor.offset + out * 16 + input]);
    }
}

/// Every truncation point of a sample and every kind of flip: an error that names the file, never a state.
#[test]
fn damage_is_found_wherever_it_is() {
    let dir = tempfile::tempdir().unwrap();
    saved(dir.path(), 1);
    let store = Store::new(dir.path());
    let check = |name: &str, bytes: &[u8]| {
        fs::write(store.path(1).join(name), bytes).unwrap();
        let error = store.load(1, &model(), &graph(), job()).unwrap_err();
        assert!(error.is_damage() && error.to_string().contains("step-00000001/"), "{name}: {error}");
        assert_eq!(Failure::from(error).code, ExitCode::BadCheckpoint);
    };
    for name in [MANIFEST_FILE, CONFIG_FILE, MODEL_FILE, OPTIMIZER_FILE] {
        let good = fs::read(store.path(1).join(name)).unwrap();
        let stride = (good.len() / 50).max(1);
        for at in (0..good.len()).step_by(stride) {
            check(name, &good[..at]);
            let mut flipped = good.clone();
            flipped[at] ^= 1 << (at % 8);
            check_flip(&store, name, &flipped, &check);
        }
        check(name, &[&good[..], b" "].concat());
        fs::write(store.path(1).join(name), &good).unwrap();
        assert!(store.load(1, &model(), &graph(), job()).is_ok());
        fs::remove_file(store.path(1).join(name)).unwrap();
        assert!(store.load(1, &model(), &graph(), job()).unwrap_err().is_damage());
        fs::write(store.path(1).join(name), &good).unwrap();
    }
}

/// A flip inside the manifest's training digest makes it another job's: that is refused too, but not as damage.
fn check_flip(store: &Store, name: &str, flipped: &[u8], check: &dyn Fn(&str, &[u8])) {
    fs::write(store.path(1).join(name), flipped).unwrap();
    match store.load(1, &model(), &graph(), job()) {
        Err(Error::OtherJob { .. }) => assert_eq!(name, MANIFEST_FILE),
        _ => check(name, flipped),
    }
}

#[test]
fn the_newest_whole_one_is_found_and_others_are_reported() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(dir.path());
    let newest = || store.newest(&model(), &graph(), job());
    assert!(newest().unwrap().newest.is_none());
    for step in [4, 8, 12] {
        saved(dir.path(), step);
    }
    fs::create_dir(dir.path().join("checkpoints/step-99")).unwrap();
    fs::write(store.path(12).join(MODEL_FILE), b"half").unwrap();
    let found = newest().unwrap();
    assert_eq!(found.newest.unwrap().0.step, 8);
    assert!(found.skipped[0].contains("step-00000012/model.safetensors"), "{:?}", found.skipped);

    fs::rename(store.path(4), store.path(20)).unwrap();
    assert!(newest().unwrap().skipped[0].contains("the directory's name says 20"));
    for step in [8, 20] {
        fs::remove_file(store.path(step).join(MANIFEST_FILE)).unwrap();
    }
    let error = newest().unwrap_err();
    assert!(matches!(error, Error::NoneWhole { count: 3, .. }), "{error}");
}

#[test]
fn another_job_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    saved(dir.path(), 4);
    let other = Digest::of(b"other");
    let error = Store::new(dir.path()).newest(&model(), &graph(), other).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("belongs to another job") && text.contains(&other.to_string()), "{text}");
    assert_eq!(Failure::from(error).code, ExitCode::BadCheckpoint);
}

#[test]
fn the_last_few_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(dir.path());
    for step in [4, 8, 12, 16] {
        saved(dir.path(), step);
    }
    store.keep_last(2, 12).unwrap();
    assert_eq!(store.steps().unwrap(), [8, 12, 16]);
    store.keep_last(0, 16).unwrap();
    assert_eq!(store.steps().unwrap(), [16]);
    store.remove(16).unwrap();
    store.remove(16).unwrap();
    assert!(matches!(resolve_dir(dir.path()), Err(Error::Missing(_))));
}

/// Writes a state in files of about 4000 bytes.
fn save_split(dir: &Path, model: &ModelSpec, graph: &Graph, state: &State) -> Manifest {
    let new = NewDir::create(dir).unwrap();
    save::write_files(&new, model, graph, state, SPLIT).unwrap();
    let layout = Layout::split(graph, SPLIT).unwrap();
    let manifest = seal::seal_files(new.path(), &layout, &Scalars::of(job(), state)).unwrap();
    fs::write(new.path().join(MANIFEST_FILE), manifest.to_bytes().unwrap()).unwrap();
    new.commit().unwrap();
    manifest
}

const SPLIT: u64 = 4000;

#[test]
fn a_large_model_is_in_several_files() {
    let dir = tempfile::tempdir().unwrap();
    for (name, model, graph) in [("gpt2", model(), graph()), ("llama", llama_model(), llama())] {
        let (path, state) = (dir.path().join(name), state_of(&graph, 2));
        let manifest = save_split(&path, &model, &graph, &state);
        let names: Vec<&str> = manifest.files().iter().map(|file| file.path.as_str()).collect();
        assert!(names.iter().any(|name| name.starts_with("model-00002-of-")), "{names:?}");
        assert!(names.iter().any(|name| name.starts_with("optimizer-00003-of-")), "{names:?}");
        assert_eq!(names[1], INDEX_FILE);
        assert_eq!(Manifest::parse(&manifest.to_bytes().unwrap()).unwrap(), manifest);
        // How it lies in files is no part of the state.
        assert_eq!(manifest.state_root(), crate::resolved::state_root(&graph, &state).unwrap());
        let load = || load::load_split(&path, &model, &graph, Some(job()), SPLIT);
        assert_eq!(load().unwrap().0, state);

        for name in names {
            let file = path.join(name);
            let bytes = fs::read(&file).unwrap();
            let mut bad = bytes.clone();
            bad[bytes.len() / 2] ^= 1;
            fs::write(&file, &bad).unwrap();
            let error = load().unwrap_err();
            assert!(error.is_damage() && error.to_string().contains(name), "{name}: {error}");
            fs::remove_file(&file).unwrap();
            assert!(load().unwrap_err().to_string().contains(name));
            fs::write(&file, &bytes).unwrap();
        }
        // An index that leads elsewhere would lead other readers astray.
        let index = path.join(INDEX_FILE);
        let text = fs::read_to_string(&index).unwrap();
        fs::write(&index, text.replacen("model-00001", "model-00002", 1)).unwrap();
        let layout = Layout::split(&graph, SPLIT).unwrap();
        let error = seal::seal_files(&path, &layout, &Scalars::of(job(), &state)).unwrap_err();
        assert!(error.is_damage() && error.to_string().contains(INDEX_FILE), "{error}");
        fs::write(&index, text).unwrap();
        assert_eq!(seal::seal_files(&path, &layout, &Scalars::of(job(), &state)).unwrap(), manifest);
        // A model of this size has one file.
        let error = super::load(&path, &model, &graph, Some(job())).unwrap_err();
        assert!(error.is_damage(), "{error}");
    }
}
