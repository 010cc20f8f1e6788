//! clip: the gradient norm and the factor that keeps it below a bound (spec 6.2, 6.3).

use std::ops::Range;

use crate::env::{Env, Failed};
use crate::graph::Graph;
use crate::kernel;
use crate::pool::Chunks;
use crate::reduce::CHUNK;

pub(crate) const NAME: &str = "clip";

/// 1e-6, added to the norm so that a zero gradient does not divide by zero.
const TINY: f32 = f32::from_bits(0x3586_37bd);

/// min(1, clip / (norm + 1e-6)); 1 without clipping.
pub(crate) fn clip_factor(clip: Option<f32>, norm: f32) -> f32 {
    match clip {
        None => 1.0,
        Some(clip) => {
            let factor = clip / (norm + TINY);
            if factor < 1.0 { factor } else { 1.0 }
        }
    }
}

/// The chunks that the sum of squares is made of, in order: 4096 elements of one tensor, its last ones fewer.
fn chunks(graph: &Graph) -> impl Iterator<Item = Range<usize>> {
    let of = |range: Range<usize>| {
        let end = range.end;
        range.step_by(CHUNK).map(move |from| from..(from + CHUNK).min(end))
    };
    graph.tensors().iter().flat_map(move |tensor| of(tensor.range()))
}

/// How many sums of squares the norm takes from these elements of a gradient, one of [`crate::reduce::slices`] of it.
pub fn squares_in(graph: &Graph, slice: &Range<usize>) -> usize {
    chunks(graph).filter(|chunk| chunk.start >= slice.start && chunk.end <= slice.end).count()
}

/// The sum of squares of each chunk of these elements of a gradient, which begin and end where chunks do: a dot.
pub(crate) fn squares(
    env: &mut Env,
    graph: &Graph,
    slice: &Range<usize>,
    gradient: &[f32],
    sums: &mut Vec<f32>,
) -> Result<(), Failed> {
    let chunks: Vec<Range<usize>> = chunks(graph)
        .filter(|chunk| chunk.start >= slice.start && chunk.end <= slice.end)
        .map(|chunk| chunk.start - slice.start..chunk.end - slice.start)
        .collect();
    sums.clear();
    sums.resize(chunks.len(), 0.0);
    let level = env.level;
    // 16 chunks a piece: long enough to be worth handing out.
    env.pool.each(Chunks::new(sums, 16), &mut env.scratch, |piece, sums, _| {
        for (sum, chunk) in sums.iter_mut().zip(&chunks[piece * 16..]) {
            let chunk = &gradient[chunk.clone()];
            *sum = kernel::rows_dot(level, chunk, chunk);
        }
    })?;
    Ok(())
}

/// The norm by the sums of all chunks: root of a tree over tensors of trees over their chunks. NaN if there are fewer sums.
pub(crate) fn norm_of(graph: &Graph, sums: &[f32]) -> f32 {
    let mut rest = sums;
    let mut tensors = vec![];
    for tensor in graph.tensors() {
        let Some((own, others)) = rest.split_at_checked(tensor.elements().div_ceil(CHUNK)) else {
            return f32::NAN;
        };
        tensors.push(kernel::tree(own.to_vec()));
        rest = others;
    }
    kernel::tree(tensors).sqrt()
}
