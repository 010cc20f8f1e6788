//! StateRoots of the published conformance cases (docs/spec/numerics.md, tests/vectors/vectors.txt): an independent
//! implementation computed them.

// Helpers of tests: a failure here is a failed test.
#![allow(clippy::unwrap_used)]

#[path = "../../numerics/tests/numerics/cases.rs"]
#[allow(dead_code)] // what the numerics' own tests look at
mod cases;

use cases::{Case, short, vectors, walk};
use muster_numerics::isa::Isa;
use muster_numerics::spec::Arithmetic;
use muster_trainer::resolved::state_root;

#[test]
fn published_state_roots() {
    let published = vectors();
    let mut left: Vec<&str> = published.lines().filter(|line| line.contains(" state ")).collect();
    for case in Case::ALL {
        // Of the extra case every third state is published.
        let (shards, every) = if case == Case::LlamaExtra { (3, 3) } else { (2, 1) };
        for arithmetic in [Arithmetic::F32Chain, Arithmetic::I16Exact] {
            let graph = case.graph(shards, arithmetic);
            walk(case, arithmetic, shards, Isa::detect(), 1, |state, step| {
                if state.step % every != 0 {
                    return;
                }
                let root = state_root(&graph, state).unwrap();
                let line = match step {
                    None => format!("{} state 0 {root}", case.name()),
                    Some(_) => {
                        format!(
                            "{} {} S={shards} state {} {root}",
                            case.name(),
                            short(arithmetic),
                            state.step
                        )
                    }
                };
                assert!(published.lines().any(|published| published == line), "not published: {line}");
                left.retain(|published| *published != line);
            });
        }
    }
    assert!(left.is_empty(), "not computed: {left:?}");
}
