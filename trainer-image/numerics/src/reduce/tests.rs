//! The tree is the same whoever computes its parts.

use super::*;
use crate::ops::tests::harness::{SPREADS, assert_same, values};

/// Spec 2.3, on whole vectors.
fn plain_tree(mut v: Vec<Vec<f32>>) -> Vec<f32> {
    while v.len() > 1 {
        v = v
            .chunks(2)
            .map(|pair| match pair {
                [a, b] => a.iter().zip(b).map(|(a, b)| a + b).collect(),
                _ => pair[0].clone(),
            })
            .collect();
    }
    v.remove(0)
}

fn gradients(shards: u64, n: usize) -> Vec<Vec<f32>> {
    (0..shards).map(|s| values(s as u32, n, SPREADS[s as usize % 3])).collect()
}

fn subtrees(shards: u64, range: Range<u64>, gradients: &[Vec<f32>]) -> Vec<Subtree> {
    let mut accumulator = SubtreeAccumulator::new(shards, range.clone(), gradients[0].len()).unwrap();
    for shard in range {
        accumulator.push(&gradients[shard as usize]).unwrap();
    }
    accumulator.subtrees().unwrap().to_vec()
}

fn combined(shards: u64, parts: &[Subtree]) -> Result<Vec<f32>, ReduceError> {
    let parts: Vec<SubtreeRef<'_>> =
        parts.iter().map(|s| SubtreeRef { level: s.level, index: s.index, sum: &s.sum }).collect();
    combine(shards, &parts)
}

#[test]
fn any_split_over_workers_gives_the_same_bits() {
    for shards in 1..=17u64 {
        let gradients = gradients(shards, 50);
        let want = plain_tree(gradients.clone());
        for workers in 1..=shards {
            let mut parts: Vec<Subtree> = (0..workers)
                .flat_map(|w| subtrees(shards, w * shards / workers..(w + 1) * shards / workers, &gradients))
                .collect();
            parts.reverse(); // arrival order does not matter
            assert_same(&combined(shards, &parts).unwrap(), &want, &format!("{shards} / {workers}"));
        }
        // Uneven cuts, the worst for alignment.
        for cut in 1..shards {
            let mut parts = subtrees(shards, 0..cut, &gradients);
            parts.extend(subtrees(shards, cut..shards, &gradients));
            assert_same(&combined(shards, &parts).unwrap(), &want, &format!("{shards} at {cut}"));
        }
    }
}

#[test]
fn loss_trees_of_odd_sizes() {
    for n in [1, 2, 3, 5, 6, 7, 8, 9] {
        let x = values(n as u32, n, SPREADS[2]);
        let want = plain_tree(x.iter().map(|x| vec![*x]).collect())[0];
        assert_eq!(crate::kernel::tree(x).to_bits(), want.to_bits(), "{n}");
    }
    // (v0 + v1) + (v2 + v3), then the fifth: not left to right.
    let v = [1.0, 2f32.powi(-24), 2f32.powi(-24), 2f32.powi(-24), -1.0];
    assert_eq!(crate::kernel::tree(v.to_vec()), (1.0 + 2f32.powi(-23)) - 1.0);
}

#[test]
fn subtrees_are_maximal() {
    assert_eq!(subtree_keys(8, 0..8).unwrap(), [(3, 0)]);
    assert_eq!(subtree_keys(8, 0..3).unwrap(), [(1, 0), (0, 2)]);
    assert_eq!(subtree_keys(8, 3..6).unwrap(), [(0, 3), (1, 2)]);
    // The last shard of an odd number moves up unpaired.
    assert_eq!(subtree_keys(3, 2..3).unwrap(), [(1, 1)]);
    assert_eq!(subtree_keys(5, 4..5).unwrap(), [(2, 1)]);
    assert_eq!(subtree_keys(6, 4..6).unwrap(), [(2, 1)]);
    assert_eq!(subtree_keys(1, 0..1).unwrap(), [(0, 0)]);
}

#[test]
fn memory_is_bounded_and_reused() {
    let mut accumulator = SubtreeAccumulator::new(256, 1..256, 10).unwrap();
    for step in 0..2 {
        accumulator.reset();
        for _ in 1..256 {
            accumulator.push(&[1.0; 10]).unwrap();
            assert!(accumulator.done.len() + accumulator.spare.len() <= 16);
        }
        let total: f32 = accumulator.subtrees().unwrap().iter().map(|s| s.sum[0]).sum();
        assert_eq!(total, 255.0, "step {step}");
    }
}

#[test]
fn misuse_is_named() {
    assert!(matches!(SubtreeAccumulator::new(4, 2..2, 1), Err(ReduceError::Range { .. })));
    assert!(matches!(SubtreeAccumulator::new(4, 2..5, 1), Err(ReduceError::Range { .. })));
    let mut accumulator = SubtreeAccumulator::new(4, 0..2, 3).unwrap();
    assert_eq!(accumulator.push(&[0.0; 2]), Err(ReduceError::Length { got: 2, expected: 3 }));
    assert_eq!(accumulator.subtrees(), Err(ReduceError::Count { pushed: 0, expected: 2 }));
    accumulator.push(&[0.0; 3]).unwrap();
    accumulator.push(&[0.0; 3]).unwrap();
    assert_eq!(accumulator.push(&[0.0; 3]), Err(ReduceError::Count { pushed: 3, expected: 2 }));

    let gradients = gradients(4, 2);
    let mut parts = subtrees(4, 0..3, &gradients);
    assert_eq!(combined(4, &parts), Err(ReduceError::Missing { shard: 3 }));
    parts.extend(subtrees(4, 3..4, &gradients));
    assert!(combined(4, &parts).is_ok());
    parts.push(Subtree { level: 0, index: 0, sum: vec![0.0; 2] });
    assert_eq!(combined(4, &parts), Err(ReduceError::Surplus { level: 0, index: 0, shards: 4 }));
    parts[3].sum.pop();
    assert_eq!(combined(4, &parts), Err(ReduceError::Length { got: 1, expected: 2 }));
}

/// 1/S is rounded once: through f64 or by an f32 division, it is the same number.
#[test]
fn the_reciprocal_of_s_is_unambiguous() {
    for shards in 1..=65536u32 {
        assert_eq!((1.0 / f64::from(shards)) as f32, 1.0 / shards as f32, "{shards}");
    }
    let mut x = [3.0, -0.0, 1e-45];
    finish(&mut x, 2);
    assert_eq!(x.map(f32::to_bits), [1.5f32.to_bits(), 0x8000_0000, 0]);
}

#[test]
fn slices_cover_everything_and_split_no_chunk() {
    use crate::graph::{Graph, StepShape};
    use crate::spec::{Architecture, Arithmetic, ModelSpec, TiedEmbeddings};
    let model = ModelSpec {
        architecture: Architecture::Gpt2,
        layers: 2,
        width: 80,
        heads: 2,
        context: 70,
        vocabulary: 333,
        tied_embeddings: TiedEmbeddings::Untied,
        llama: None,
    };
    let graph = Graph::build(&model, StepShape { batch: 2, shards: 2 }, Arithmetic::F32Chain).unwrap();
    for parts in 1..=40 {
        let slices = slices(&graph, parts);
        assert_eq!(slices.len(), parts);
        assert_eq!(slices[0].start, 0);
        assert_eq!(slices[parts - 1].end, graph.parameters());
        for (a, b) in slices.iter().zip(&slices[1..]) {
            assert_eq!(a.end, b.start);
            let inside = graph.tensors().iter().any(|t| {
                (t.offset <= b.start) && b.start < t.range().end && (b.start - t.offset).is_multiple_of(CHUNK)
            });
            assert!(inside, "cut at {}", b.start);
        }
    }
}
