//! Every published `f32` line of the GPT-2 cases, on every instruction set of this CPU.

use super::cases::{Case, SEED, digest, published, run, vectors};
use muster_numerics::isa::Isa;
use muster_numerics::order::DataOrder;

#[test]
fn genesis_and_first_batches() {
    for case in [Case::Base, Case::Stress] {
        let state = case.genesis(&case.graph(2));
        let order = DataOrder::new(SEED, 200, 4).unwrap();
        let ids: Vec<Vec<u64>> = (1..=2).map(|step| order.step_samples(step)).collect();
        let line = format!("{} init {} ids {ids:?}", case.name(), digest(&state.w));
        assert!(vectors().lines().any(|l| l == line), "not published: {line}");
    }
}

/// Every line with one thread; then either number of shards with more, which halves the time that the
/// portable kernels take.
fn check(case: Case) {
    for isa in Isa::available() {
        for (shards, threads) in [(2, 1), (4, 1), (4, 2), (2, 3)] {
            let want = published(case, shards);
            assert_eq!(want.len(), 2);
            assert_eq!(run(case, shards, isa, threads), want, "{case:?} S={shards} {isa} {threads} threads");
        }
    }
    println!("skipped instruction sets: {:?}", Isa::missing());
}

#[test]
fn base_case() {
    check(Case::Base);
}

#[test]
fn stress_case() {
    check(Case::Stress);
}
