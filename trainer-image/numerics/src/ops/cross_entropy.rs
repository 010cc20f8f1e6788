//! cross-entropy of each row's logits against its target (spec 4.8).

use super::{Backward, Forward, Needs, Operator, cut, one_input, operand};
use crate::env::{Env, Failed};
use crate::graph::Tensor;
use crate::isa::multiversion;
use crate::kernel::reduction::{LANES, max_of, tree32};
use crate::math::{exp, log};
use crate::pool::Chunks;

/// Token losses `[rows, 1]` from logits. The shard's loss is their row sum divided by their number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CrossEntropy;

/// Rows per piece of work.
const PIECE: usize = 16;

multiversion! {
    /// Token losses of some rows; `stats` gets (max, sum of exp) of each.
    pub(super) fn forward<A>(logits: &[f32], width: usize, targets: &[u32], losses: &mut [f32], stats: &mut [f32]) {
        let rows = logits.chunks_exact(width).zip(targets);
        for ((x, target), (loss, stats)) in rows.zip(losses.iter_mut().zip(stats.as_chunks_mut::<2>().0)) {
            let m = max_of(x);
            let mut a = [0.0; LANES];
            let (whole, rest) = x.as_chunks::<LANES>();
            for x in whole {
                for l in 0..LANES {
                    a[l] += exp::<A>(x[l] - m);
                }
            }
            for (a, x) in a.iter_mut().zip(rest) {
                *a += exp::<A>(*x - m);
            }
            let s = tree32(a);
            *stats = [m, s];
            *loss = log::<A>(s) - (x[*target as usize] - m);
        }
    }
}

multiversion! {
    /// Gradients of some rows: e * (inv / s), minus inv at the target.
    pub(super) fn backward<A>(
        logits: &[f32], width: usize, targets: &[u32], stats: &[f32], inv: f32, dx: &mut [f32],
    ) {
        let rows = logits.chunks_exact(width).zip(targets);
        for ((x, target), (dx, &[m, s])) in
            rows.zip(dx.chunks_exact_mut(width).zip(stats.as_chunks::<2>().0))
        {
            let scale = inv / s;
            for (dx, x) in dx.iter_mut().zip(x) {
                *dx = exp::<A>(*x - m) * scale;
            }
            dx[*target as usize] -= inv;
        }
    }
}

impl Operator for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }

    fn output_width(&self, inputs: &[usize], _: &[Tensor]) -> Result<usize, String> {
        one_input(inputs).map(|_| 1)
    }

    fn saved_width(&self) -> usize {
        2
    }

    fn needs(&self) -> Needs {
        Needs { inputs: true, output: false }
    }

    fn forward(&self, env: &mut Env, call: Forward<'_>) -> Result<(), Failed> {
        let [x, losses, stats] = cut(call.buffer, [operand(call.inputs, 0)?, &call.output, &call.saved])?;
        let (level, x, width) = (env.level, &*x, x.len() / call.rows.count());
        let pieces = (Chunks::new(losses, PIECE), Chunks::new(stats, PIECE * 2));
        Ok(env.pool.each(pieces, &mut env.scratch, |i, (losses, stats), _| {
            forward(level, &x[i * PIECE * width..], width, &call.targets[i * PIECE..], losses, stats);
        })?)
    }

    fn backward(&self, env: &mut Env, call: Backward<'_>) -> Result<(), Failed> {
        let places = [operand(call.inputs, 0)?, &call.saved, operand(call.d_inputs, 0)?];
        let [x, stats, dx] = cut(call.buffer, places)?;
        let (level, x, stats, width) = (env.level, &*x, &*stats, x.len() / call.rows.count());
        let inv = 1.0 / call.rows.count() as f32;
        Ok(env.pool.each(Chunks::new(dx, PIECE * width), &mut env.scratch, |i, dx, _| {
            let (x, stats) = (&x[i * PIECE * width..], &stats[i * PIECE * 2..]);
            backward(level, x, width, &call.targets[i * PIECE..], stats, inv, dx);
        })?)
    }
}
