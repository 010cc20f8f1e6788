//! Every published line, on every instruction set of this CPU.

use super::cases::{Case, SEED, digest, published, run, vectors};
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

/// Three shards, heads in threes, and steps beyond the warm-up.
#[test]
fn llama_extra() {
    check(Case::LlamaExtra, &[(3, 1), (3, 2)]);
}
