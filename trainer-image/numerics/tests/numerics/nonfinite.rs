//! Numbers that are not finite end a run in a defined way (spec 1.4).

use muster_numerics::exec::Executor;
use muster_numerics::isa::Isa;
use muster_numerics::optim::{NonFinite, OptimError, Optimizer, Quantity, gradient_norm, mean_loss};
use muster_numerics::order::DataOrder;
use muster_numerics::spec::Arithmetic;
use muster_numerics::state::State;

use super::cases::{Case, SEED, batch, hyper_parameters, stream};

fn raised(result: Result<muster_numerics::optim::StepStats, OptimError>) -> Option<NonFinite> {
    match result {
        Err(OptimError::NonFinite(e)) => Some(e),
        _ => None,
    }
}

#[test]
fn a_nan_parameter_shows_in_the_shard_loss() {
    let stream = stream(64, 256);
    let order = DataOrder::new(SEED, 200, 4).unwrap();
    let (tokens, targets) = batch(&order, &stream, 64, 1, 0, 4);
    for case in [Case::Gpt2, Case::Llama] {
        for arithmetic in [Arithmetic::F32Chain, Arithmetic::I16Exact] {
            let graph = case.graph(4, arithmetic);
            // A norm's weight, and one that exact products would quantise to a zero if they did not look.
            for tensor in ["ln_1.weight", "attn_norm.weight", "attn.qkv.weight"] {
                let Some(tensor) = graph.tensors().iter().find(|t| t.name.ends_with(tensor)) else {
                    continue;
                };
                let mut state = State::genesis(&graph, SEED);
                state.w[tensor.offset] = f32::NAN;
                for isa in Isa::available() {
                    let mut executor = Executor::new(&graph, 1, isa, 2).unwrap();
                    let mut gradient = vec![0.0; graph.parameters()];
                    let loss = executor.shard_gradient(&state.w, &tokens, &targets, &mut gradient).unwrap();
                    let error = mean_loss(1, &[5.5, loss, 5.5, 5.5]).unwrap_err();
                    assert_eq!(error, NonFinite { step: 1, what: Quantity::ShardLoss(1) });
                    assert!(error.to_string().starts_with("step 1: the loss of shard 1 is not finite"));
                }
            }
        }
    }
}

#[test]
fn an_infinite_loss_is_not_averaged_away() {
    assert_eq!(mean_loss(7, &[1.0, 2.0, 3.0]).map(f32::to_bits), Ok((6.0f32 * (1.0 / 3.0)).to_bits()));
    assert_eq!(mean_loss(7, &[f32::INFINITY]).unwrap_err().what, Quantity::ShardLoss(0));
}

#[test]
fn the_norm_is_checked_before_the_update() {
    let graph = Case::Gpt2.graph(4, Arithmetic::F32Chain);
    for isa in Isa::available() {
        let mut optimizer = Optimizer::new(&graph, &hyper_parameters(), isa, 2).unwrap();
        // Finite, but its squares are not; infinite; not a number.
        for bad in [1e30, f32::INFINITY, f32::NAN] {
            let mut state = State::genesis(&graph, SEED);
            let mut gradient = vec![0.0; graph.parameters()];
            gradient[4097] = bad;
            let error = raised(optimizer.step(&mut state, &gradient)).unwrap();
            assert_eq!(error, NonFinite { step: 1, what: Quantity::GradientNorm });
            assert_eq!(state, State::genesis(&graph, SEED), "nothing was touched");
        }
    }
}

#[test]
fn a_huge_learning_rate_is_found_after_the_update() {
    let graph = Case::Gpt2.graph(4, Arithmetic::F32Chain);
    let mut hyper = hyper_parameters();
    hyper.peak = 1e37;
    hyper.floor = 1e37;
    hyper.warmup_steps = 0;
    for isa in Isa::available() {
        for threads in [1, 3] {
            let mut optimizer = Optimizer::new(&graph, &hyper, isa, threads).unwrap();
            let mut state = State::genesis(&graph, SEED);
            let gradient: Vec<f32> = (0..graph.parameters()).map(|i| (i % 7) as f32 * 1e-3).collect();
            assert!(optimizer.step(&mut state, &gradient).is_ok(), "1e37 is still finite");
            let before = state.clone();
            let error = raised(optimizer.step(&mut state, &gradient)).unwrap();
            assert_eq!(error, NonFinite { step: 2, what: Quantity::State });
            assert_eq!(state, before, "what fails is named by the state before");
        }
    }
}

#[test]
fn one_bad_element_anywhere_is_found() {
    let graph = Case::Gpt2.graph(4, Arithmetic::F32Chain);
    let gradient = vec![1e-4; graph.parameters()];
    for index in [0, 4096, graph.parameters() - 1] {
        for pick in [0, 1, 2] {
            let mut optimizer = Optimizer::new(&graph, &hyper_parameters(), Isa::detect(), 2).unwrap();
            let mut state = State::genesis(&graph, SEED);
            [&mut state.w, &mut state.m, &mut state.v][pick][index] = f32::INFINITY;
            let before = state.clone();
            let error = raised(optimizer.step(&mut state, &gradient)).unwrap();
            assert_eq!(error.what, Quantity::State);
            assert_eq!((state.b1p, state.step), (before.b1p, 0));
            assert!(state == before, "untouched");
        }
    }
}

/// Whether a step is looked at beforehand or known to be harmless, its bits are the same, and a step that goes wrong after
/// calm ones is found all the same.
#[test]
fn a_calm_run_that_goes_wild_is_found() {
    let graph = Case::Gpt2.graph(4, Arithmetic::F32Chain);
    let hyper = hyper_parameters();
    let gradient = vec![1e-4; graph.parameters()];
    let mut optimizer = Optimizer::new(&graph, &hyper, Isa::detect(), 2).unwrap();
    let mut state = State::genesis(&graph, SEED);
    for _ in 0..3 {
        let mut fresh = Optimizer::new(&graph, &hyper, Isa::detect(), 2).unwrap();
        let mut other = state.clone();
        fresh.step(&mut other, &gradient).unwrap();
        optimizer.step(&mut state, &gradient).unwrap();
        assert!(state == other);
    }
    let mut unclipped = hyper;
    unclipped.clip_norm = None;
    let mut optimizer = Optimizer::new(&graph, &unclipped, Isa::detect(), 2).unwrap();
    optimizer.step(&mut state, &gradient).unwrap();
    // Its square is just finite, and so is all that follows from it.
    let mut huge = gradient.clone();
    huge[7] = 1.8e19;
    optimizer.step(&mut state, &huge).unwrap();
    state.w[7] = f32::MAX;
    let before = state.clone();
    let mut falls = unclipped;
    (falls.peak, falls.floor) = (1e30, 1e30);
    let error = raised(Optimizer::new(&graph, &falls, Isa::detect(), 2).unwrap().step(&mut state, &gradient));
    assert_eq!(error.map(|error| error.what), Some(Quantity::State));
    assert!(state == before, "untouched");
}

#[test]
fn clipping_acts_only_beyond_the_bound_and_can_be_off() {
    let graph = Case::Gpt2.graph(4, Arithmetic::F32Chain);
    let gradient = vec![1e-2; graph.parameters()];
    let norm = gradient_norm(&graph, &gradient).unwrap();
    let exact = 1e-2 * (graph.parameters() as f32).sqrt();
    assert!((norm - exact).abs() < 1e-5 * exact);
    for (clip, want) in [(None, 1.0), (Some(2.0 * norm), 1.0), (Some(1.0), 1.0 / (norm + 1e-6))] {
        let mut hyper = hyper_parameters();
        hyper.clip_norm = clip;
        let mut optimizer = Optimizer::new(&graph, &hyper, Isa::detect(), 1).unwrap();
        let stats = optimizer.step(&mut State::genesis(&graph, SEED), &gradient).unwrap();
        assert_eq!((stats.norm.to_bits(), stats.factor), (norm.to_bits(), want), "{clip:?}");
    }
}

#[test]
fn wrong_lengths_are_named() {
    let graph = Case::Gpt2.graph(4, Arithmetic::F32Chain);
    let mut optimizer = Optimizer::new(&graph, &hyper_parameters(), Isa::Portable, 1).unwrap();
    let mut state = State::genesis(&graph, SEED);
    let error = optimizer.step(&mut state, &[0.0; 3]).unwrap_err();
    assert_eq!(error.to_string(), format!("gradient has 3 elements where {} belong", graph.parameters()));
    state.m.pop();
    assert!(optimizer.step(&mut state, &vec![0.0; graph.parameters()]).is_err());
    assert!(gradient_norm(&graph, &[]).is_err());
}
