//! Every published line, on every instruction set of this CPU.

use super::cases::{Case, SEED, digest, evaluate, published, run, short, vectors};
use muster_numerics::isa::Isa;
use muster_numerics::order::DataOrder;
use muster_numerics::spec::Arithmetic;

#[test]
fn genesis_and_first_batches() {
    for case in Case::ALL {
        let state = case.genesis(&case.graph(case.batch(), Arithmetic::F32Chain));
        let order = DataOrder::new(SEED, 200, case.batch()).unwrap();
        let ids: Vec<Vec<u64>> = (1..=case.steps()).map(|step| order.step_samples(step)).collect();
        let line = format!("{} init {} ids {ids:?}", case.name(), digest(&state.w));
        assert!(vectors().lines().any(|l| l == line), "not published: {line}");
    }
}

/// Every line with one thread; then either number of shards with more, which halves the time that the
/// portable kernels take.
fn check(case: Case, runs: &[(u64, usize)]) {
    for arithmetic in [Arithmetic::F32Chain, Arithmetic::I16Exact] {
        for isa in Isa::available() {
            for &(shards, threads) in runs {
                let want = published(case, arithmetic, shards);
                assert_eq!(want.len() as u64, case.steps());
                let got = run(case, arithmetic, shards, isa, threads);
                assert_eq!(got, want, "{case:?} {arithmetic:?} S={shards} {isa} {threads} threads");
            }
        }
    }
    println!("skipped instruction sets: {:?}", Isa::missing());
}

const BOTH: [(u64, usize); 4] = [(2, 1), (4, 1), (4, 2), (2, 3)];

#[test]
fn gpt2() {
    check(Case::Gpt2, &BOTH);
}

#[test]
fn gpt2_stress() {
    check(Case::Gpt2Stress, &BOTH);
}

#[test]
fn llama() {
    check(Case::Llama, &BOTH);
}

#[test]
fn llama_stress() {
    check(Case::LlamaStress, &BOTH);
}

/// The loss of each case's last state on the first 13 samples of its stream, in calls of different sizes.
#[test]
fn evaluations() {
    for case in Case::ALL {
        let shards = if case == Case::LlamaExtra { 3 } else { 2 };
        for arithmetic in [Arithmetic::F32Chain, Arithmetic::I16Exact] {
            for (isa, at_once) in Isa::available().into_iter().zip([5, 1, 13]) {
                let loss = evaluate(case, arithmetic, shards, isa, at_once);
                let of = format!("{} {} S={shards} eval 13", case.name(), short(arithmetic));
                let line = format!("{of} loss {loss} ({:08x})", loss.to_bits());
                assert!(vectors().lines().any(|l| l == line), "not published: {line}, {isa}");
            }
        }
    }
}

/// Three shards, heads in threes, and steps beyond the warm-up.
#[test]
fn llama_extra() {
    check(Case::LlamaExtra, &[(3, 1), (3, 2)]);
}
