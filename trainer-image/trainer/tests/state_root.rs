//! StateRoots of the published conformance cases (docs/spec/numerics.md, tests/vectors/vectors.txt): an independent
//! implementation computed them.

// Helpers of tests: a failure here is a failed test.
#![allow(clippy::unwrap_used)]

use muster_numerics::exec::Executor;
use muster_numerics::graph::{Graph, Init, StepShape};
use muster_numerics::isa::Isa;
use muster_numerics::optim::Optimizer;
use muster_numerics::order::DataOrder;
use muster_numerics::philox::{DOMAIN_TEST, key, normal, normal_scale, philox4x32};
use muster_numerics::reduce::{SubtreeAccumulator, finish};
use muster_numerics::spec::{
    Architecture, Arithmetic, HyperParameters, ModelSpec, ScheduleName, TiedEmbeddings,
};
use muster_numerics::state::State;
use muster_trainer::resolved::state_root;

const SEED: u64 = 0x0123_4567_89ab_cdef;
const SHARDS: u64 = 2;
const BATCH: u64 = 4;

fn model(stress: bool) -> ModelSpec {
    let (layers, width, context, vocabulary) = if stress { (1, 128, 72, 100) } else { (2, 64, 64, 256) };
    ModelSpec {
        architecture: Architecture::Gpt2,
        layers,
        width,
        heads: 2,
        context,
        vocabulary,
        tied_embeddings: TiedEmbeddings::Tied,
    }
}

fn genesis(graph: &Graph, stress: bool) -> State {
    let mut state = State::genesis(graph, SEED);
    if stress {
        let scale = normal_scale(0.02);
        for (t, tensor) in graph.tensors().iter().enumerate() {
            for (i, w) in (0..).zip(&mut state.w[tensor.range()]) {
                let x = 8.0 * normal(SEED, t as u32, i, scale);
                *w = if tensor.init == Init::Ones { 1.0 + x } else { x };
            }
        }
    }
    state
}

fn token(i: u64, vocabulary: u64) -> u32 {
    let w = philox4x32([i as u32, 0, 0, DOMAIN_TEST], key(SEED))[0];
    let token = if (w >> 16) & 3 == 0 { u64::from(w) } else { (7 * i) % 61 };
    (token % vocabulary) as u32
}

/// The StateRoots of states 0, 1 and 2.
fn roots(stress: bool) -> Vec<String> {
    let model = model(stress);
    let graph =
        Graph::build(&model, StepShape { batch: BATCH, shards: SHARDS }, Arithmetic::F32Chain).unwrap();
    let hyper = HyperParameters {
        steps: 20,
        warmup_steps: 4,
        schedule: ScheduleName::Cosine,
        peak: 1e-3,
        floor: 1e-4,
        beta1: 0.9,
        beta2: 0.95,
        epsilon: 1e-8,
        weight_decay: 0.1,
        clip_norm: Some(1.0),
    };
    let order = DataOrder::new(SEED, 200, BATCH).unwrap();
    let mut executor = Executor::new(&graph, graph.sequences_per_shard(), Isa::detect(), 1).unwrap();
    let mut optimizer = Optimizer::new(&graph, &hyper, Isa::detect(), 1).unwrap();
    let mut state = genesis(&graph, stress);
    let mut roots = vec![state_root(&graph, &state).unwrap().to_string()];
    for step in 1..=2 {
        let mut sums = SubtreeAccumulator::new(SHARDS, 0..SHARDS, graph.parameters()).unwrap();
        let mut gradient = vec![0.0; graph.parameters()];
        for shard in 0..SHARDS {
            let ids = |shift: u64| -> Vec<u32> {
                let samples = order.shard_samples(step, shard, SHARDS);
                let at = |sample: u64| (0..model.context).map(move |i| sample * model.context + i + shift);
                samples.into_iter().flat_map(at).map(|i| token(i, model.vocabulary)).collect()
            };
            executor.shard_gradient(&state.w, &ids(0), &ids(1), &mut gradient).unwrap();
            sums.push(&gradient).unwrap();
        }
        let mut mean = sums.subtrees().unwrap()[0].sum.clone();
        finish(&mut mean, SHARDS);
        optimizer.step(&mut state, &mean).unwrap();
        roots.push(state_root(&graph, &state).unwrap().to_string());
    }
    roots
}

#[test]
fn published_state_roots() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/vectors.txt");
    let published = std::fs::read_to_string(path).unwrap();
    let published: Vec<_> = published.lines().collect();
    for (name, stress) in [("gpt2", false), ("gpt2-stress", true)] {
        for (step, root) in roots(stress).into_iter().enumerate() {
            let line = match step {
                0 => format!("{name} state 0 {root}"),
                step => format!("{name} f32 S=2 state {step} {root}"),
            };
            assert!(published.contains(&line.as_str()), "not published: {line}");
        }
    }
}
