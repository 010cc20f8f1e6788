//! clip: the gradient norm and the factor that keeps it below a bound (spec 6.2, 6.3).

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

/// Square root of the sum of squares: a dot per chunk of 4096 within a tensor, a tree over a tensor's
/// chunks, a tree over tensors. `sums` is scratch.
pub(crate) fn gradient_norm(
    env: &mut Env,
    graph: &Graph,
    gradient: &[f32],
    sums: &mut Vec<f32>,
) -> Result<f32, Failed> {
    let chunks: Vec<(usize, usize)> = graph
        .tensors()
        .iter()
        .flat_map(|t| t.range().step_by(CHUNK).map(move |from| (from, (from + CHUNK).min(t.range().end))))
        .collect();
    sums.clear();
    sums.resize(chunks.len(), 0.0);
    let level = env.level;
    // 16 chunks a piece: long enough to be worth handing out.
    env.pool.each(Chunks::new(sums, 16), &mut env.scratch, |piece, sums, _| {
        for (sum, &(from, to)) in sums.iter_mut().zip(&chunks[piece * 16..]) {
            *sum = kernel::rows_dot(level, &gradient[from..to], &gradient[from..to]);
        }
    })?;
    let mut rest = sums.as_slice();
    let mut tensors = vec![];
    for tensor in graph.tensors() {
        let (own, others) = rest.split_at(tensor.elements().div_ceil(CHUNK));
        tensors.push(kernel::tree(own.to_vec()));
        rest = others;
    }
    Ok(kernel::tree(tensors).sqrt())
}
