//! The executor on a small model: what it refuses, what it returns, what cannot influence it.

use super::*;
use crate::graph::StepShape;
use crate::ops::tests::harness::{assert_same, ids};
use crate::spec::{Architecture, Arithmetic, LlamaShape, ModelSpec, TiedEmbeddings};
use crate::state::State;

fn model(tied: TiedEmbeddings) -> ModelSpec {
    ModelSpec {
        architecture: Architecture::Gpt2,
        layers: 2,
        width: 48,
        heads: 3,
        context: 20,
        vocabulary: 37,
        tied_embeddings: tied,
        llama: None,
    }
}

fn graph(tied: TiedEmbeddings) -> Graph {
    Graph::build(&model(tied), StepShape { batch: 2, shards: 1 }, Arithmetic::F32Chain).unwrap()
}

fn executor(graph: &Graph, isa: Isa, threads: usize) -> Executor {
    Executor::new(graph, graph.sequences_per_shard(), isa, threads).unwrap()
}

#[test]
fn an_executor_may_move_to_another_thread() {
    fn send<T: Send>() {}
    send::<Executor>();
}

#[test]
fn untied_gradients_add_up_to_the_tied_ones() {
    let (tied, untied) = (graph(TiedEmbeddings::Tied), graph(TiedEmbeddings::Untied));
    let mut w = State::genesis(&untied, 3).w;
    let (n, table) = (tied.parameters(), tied.tensors()[0].range());
    // The head starts out as the embedding, so both models are the same function.
    let embedding = w[table.clone()].to_vec();
    w[n..].copy_from_slice(&embedding);
    let (tokens, targets) = (ids(1, 40, 37), ids(2, 40, 37));
    let (mut g, mut h) = (vec![f32::NAN; n], vec![f32::NAN; untied.parameters()]);
    let loss = executor(&tied, Isa::detect(), 2).shard_gradient(&w[..n], &tokens, &targets, &mut g).unwrap();
    let other = executor(&untied, Isa::detect(), 1).shard_gradient(&w, &tokens, &targets, &mut h).unwrap();
    assert_eq!(loss.to_bits(), other.to_bits());
    let (own, head) = h.split_at(n);
    let mut want = own.to_vec();
    for (want, head) in want[table].iter_mut().zip(head) {
        *want += head; // IEEE addition commutes: head first or last
    }
    assert_same(&g, &want, "tied gradient");
}

#[test]
fn logits_of_a_prefix_are_those_of_the_whole() {
    let graph = graph(TiedEmbeddings::Tied);
    let w = State::genesis(&graph, 4).w;
    let tokens = ids(1, 20, 37);
    for isa in Isa::available() {
        let whole = executor(&graph, isa, 2).logits(&w, &tokens).unwrap();
        assert_eq!(whole.len(), 20 * 37);
        let mut executor = executor(&graph, isa, 1);
        for n in [1, 7, 19, 20] {
            let prefix = executor.logits(&w, &tokens[..n]).unwrap();
            assert_same(&prefix, &whole[..n * 37], &format!("{isa} {n}"));
        }
    }
}

/// However the held-out sequences are split over calls, and whatever a call holds besides.
#[test]
fn the_loss_of_a_sequence_is_its_own() {
    let llama = ModelSpec {
        architecture: Architecture::Llama,
        llama: Some(LlamaShape { kv_heads: 1, mlp_width: 40, rope_base: 10_000 }),
        ..model(TiedEmbeddings::Untied)
    };
    let (tokens, targets) = (ids(1, 7 * 20, 37), ids(2, 7 * 20, 37));
    for model in [model(TiedEmbeddings::Tied), llama] {
        for arithmetic in [Arithmetic::F32Chain, Arithmetic::I16Exact] {
            let shape = StepShape { batch: 7, shards: 1 };
            let graph = Graph::build(&model, shape, arithmetic).unwrap();
            let w: Vec<f32> = State::genesis(&graph, 8).w.iter().map(|w| w * 5.0).collect();
            let mut gradient = vec![0.0; graph.parameters()];
            // A shard of one sequence, as training computes its loss.
            let mut single = Executor::new(&graph, 1, Isa::Portable, 1).unwrap();
            let of = |s: usize| (&tokens[s * 20..(s + 1) * 20], &targets[s * 20..(s + 1) * 20]);
            let want: Vec<f32> =
                (0..7).map(|s| single.shard_gradient(&w, of(s).0, of(s).1, &mut gradient).unwrap()).collect();
            assert!(want.windows(2).any(|two| two[0] != two[1]));
            for isa in Isa::available() {
                for (most, threads) in [(7, 1), (7, 2), (3, 2), (2, 1), (1, 1)] {
                    let mut executor = Executor::new(&graph, most, isa, threads).unwrap();
                    let calls = tokens.chunks(most * 20).zip(targets.chunks(most * 20));
                    let got: Vec<f32> = calls
                        .flat_map(|(tokens, targets)| executor.sequence_losses(&w, tokens, targets).unwrap())
                        .collect();
                    assert_same(&got, &want, &format!("{arithmetic:?} {isa} {most} at once"));
                }
            }
        }
    }
}

/// A later call must not see what an earlier one left in the buffers.
#[test]
fn calls_are_independent() {
    let graph = graph(TiedEmbeddings::Tied);
    let w = State::genesis(&graph, 5).w;
    let (tokens, targets) = (ids(1, 40, 37), ids(2, 40, 37));
    let mut fresh = vec![0.0; graph.parameters()];
    let loss = executor(&graph, Isa::detect(), 2).shard_gradient(&w, &tokens, &targets, &mut fresh).unwrap();
    let mut used = executor(&graph, Isa::detect(), 2);
    let mut g = vec![0.0; graph.parameters()];
    let spoilt = vec![f32::NAN; graph.parameters()];
    assert!(used.shard_gradient(&spoilt, &tokens, &targets, &mut g).unwrap().is_nan());
    assert!(used.logits(&spoilt, &tokens[..3]).unwrap().iter().all(|x| x.is_nan()));
    let again = used.shard_gradient(&w, &tokens, &targets, &mut g).unwrap();
    assert_eq!(loss.to_bits(), again.to_bits());
    assert_same(&g, &fresh, "gradient");
}

#[test]
fn bad_arguments_are_named() {
    let graph = graph(TiedEmbeddings::Tied);
    let w = State::genesis(&graph, 6).w;
    let mut g = w.clone();
    let mut executor = executor(&graph, Isa::Portable, 1);
    let (tokens, mut targets) = (ids(1, 40, 37), ids(2, 40, 37));
    let message = |e: ExecError| e.to_string();
    assert_eq!(
        message(executor.shard_gradient(&w[1..], &tokens, &targets, &mut g).unwrap_err()),
        format!("weights has {} elements where {} belong", w.len() - 1, w.len())
    );
    assert!(executor.shard_gradient(&w, &tokens[..20], &targets, &mut g).is_err());
    assert!(executor.shard_gradient(&w, &tokens, &targets, &mut g[1..]).is_err());
    targets[39] = 37;
    assert_eq!(
        message(executor.shard_gradient(&w, &tokens, &targets, &mut g).unwrap_err()),
        "targets[39] is 37, beyond the vocabulary of 37"
    );
    for n in [0, 19, 21, 60] {
        let (tokens, targets) = (ids(1, n, 37), ids(2, n, 37));
        assert!(executor.sequence_losses(&w, &tokens, &targets).is_err(), "{n} tokens");
    }
    assert!(executor.sequence_losses(&w, &tokens[..20], &tokens).is_err());
    assert!(executor.logits(&w, &[]).is_err());
    assert!(executor.logits(&w, &ids(1, 21, 37)).is_err());
    assert!(matches!(Executor::new(&graph, 0, Isa::Portable, 1), Err(ExecError::TooLarge { .. })));
    assert!(matches!(Executor::new(&graph, usize::MAX, Isa::Portable, 1), Err(ExecError::TooLarge { .. })));
}

/// As if a library of the host process had switched subnormals off in the calling thread.
#[cfg(target_arch = "x86_64")]
#[test]
fn a_polluted_caller_is_repaired() {
    let graph = graph(TiedEmbeddings::Tied);
    // Weights so small that products are subnormal: flushing would show.
    let w: Vec<f32> = State::genesis(&graph, 7).w.iter().map(|w| w * 5e-14).collect();
    let tokens = ids(1, 20, 37);
    for isa in Isa::available() {
        let want = executor(&graph, isa, 1).logits(&w, &tokens).unwrap();
        assert!(want.iter().any(|x| x.is_subnormal()), "the case must be one that flushing changes");
        let mut executor = executor(&graph, isa, 2);
        crate::float::pollute();
        let got = executor.logits(&w, &tokens).unwrap();
        assert_eq!(crate::float::read_mxcsr() & !0x3f, 0x1f80);
        assert_same(&got, &want, isa.name());
    }
}

/// A layer that is computed again is the same layer.
#[test]
fn recomputation_does_not_show() {
    let llama = ModelSpec {
        architecture: Architecture::Llama,
        llama: Some(crate::spec::LlamaShape { kv_heads: 1, mlp_width: 40, rope_base: 10_000 }),
        ..model(TiedEmbeddings::Untied)
    };
    let (tokens, targets) = (ids(1, 40, 37), ids(2, 40, 37));
    for model in [model(TiedEmbeddings::Tied), llama] {
        for layers in [1, 2, 4] {
            let model = ModelSpec { layers, ..model.clone() };
            for arithmetic in [Arithmetic::F32Chain, Arithmetic::I16Exact] {
                let graph = Graph::build(&model, StepShape { batch: 2, shards: 1 }, arithmetic).unwrap();
                let w = State::genesis(&graph, 9).w;
                let run = |recompute| {
                    let mut executor = Executor::with(&graph, 2, Isa::detect(), 2, recompute).unwrap();
                    let mut gradient = vec![f32::NAN; graph.parameters()];
                    let loss = executor.shard_gradient(&w, &tokens, &targets, &mut gradient).unwrap();
                    gradient.push(loss);
                    gradient
                };
                let what = format!("{layers} layers, {arithmetic:?}");
                assert_same(&run(Recompute::Layers), &run(Recompute::Never), &what);
            }
        }
    }
}
