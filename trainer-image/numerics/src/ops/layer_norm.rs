//! layer norm of each row, eps = 1e-5 (spec 4.3; Ba, Kiros and Hinton, 2016).

use super::{Backward, Forward, Needs, Operator, cut, one_input, operand};
use crate::env::{Env, Failed, grown};
use crate::graph::{Json, Tensor, TensorId};
use crate::isa::multiversion;
use crate::kernel::reduction::{BLOCK, LANES, fold_blocks, sum, tree32};
use crate::pool::Chunks;

/// (x - mean) / sqrt(variance + eps) * weight + bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerNorm {
    /// `[width]`.
    pub weight: TensorId,
    /// `[width]`.
    pub bias: TensorId,
}

/// Of every norm: 1e-5.
pub(super) const EPSILON: f32 = f32::from_bits(0x3727_c5ac);

/// Rows per piece of forward work.
const PIECE: usize = 32;

multiversion! {
    /// Rows of `x` to rows of `y`; `stats` gets (mean, 1 / sqrt(variance + eps)) of each.
    pub(super) fn forward<A>(x: &[f32], weight: &[f32], bias: &[f32], y: &mut [f32], stats: &mut [f32]) {
        let d = weight.len();
        let inv = 1.0 / d as f32;
        let rows = x.chunks_exact(d).zip(y.chunks_exact_mut(d));
        for ((x, y), stats) in rows.zip(stats.as_chunks_mut::<2>().0) {
            let mean = sum::<A>(x) * inv;
            let mut a = [0.0; LANES];
            let (whole, rest) = x.as_chunks::<LANES>();
            for x in whole {
                for l in 0..LANES {
                    let c = x[l] - mean;
                    a[l] = A::fma(c, c, a[l]);
                }
            }
            for (a, x) in a.iter_mut().zip(rest) {
                let c = *x - mean;
                *a = A::fma(c, c, *a);
            }
            let variance = tree32(a) * inv;
            let rs = 1.0 / (variance + EPSILON).sqrt();
            *stats = [mean, rs];
            for (((y, x), w), b) in y.iter_mut().zip(x).zip(weight).zip(bias) {
                *y = A::fma((*x - mean) * rs, *w, *b);
            }
        }
    }
}

multiversion! {
    /// One block of rows: dx, and the block's share of dw and db, which lie one after the other in
    /// `partial`.
    pub(super) fn backward<A>(
        x: &[f32], stats: &[f32], weight: &[f32], dy: &[f32], dx: &mut [f32], partial: &mut [f32],
    ) {
        let d = weight.len();
        let inv = 1.0 / d as f32;
        partial.fill(0.0);
        let (dw, db) = partial.split_at_mut(d);
        let db = &mut db[..d];
        let rows = x.chunks_exact(d).zip(dy.chunks_exact(d)).zip(dx.chunks_exact_mut(d));
        for (((x, dy), dx), &[mean, rs]) in rows.zip(stats.as_chunks::<2>().0) {
            let (mut a, mut b) = ([0.0; LANES], [0.0; LANES]);
            let (xs, x_rest) = x.as_chunks::<LANES>();
            let (dys, dy_rest) = dy.as_chunks::<LANES>();
            let (ws, w_rest) = weight.as_chunks::<LANES>();
            for ((x, dy), w) in xs.iter().zip(dys).zip(ws) {
                for l in 0..LANES {
                    let dn = dy[l] * w[l];
                    let n = (x[l] - mean) * rs;
                    a[l] += dn;
                    b[l] = A::fma(dn, n, b[l]);
                }
            }
            for l in 0..x_rest.len() {
                let dn = dy_rest[l] * w_rest[l];
                let n = (x_rest[l] - mean) * rs;
                a[l] += dn;
                b[l] = A::fma(dn, n, b[l]);
            }
            let (a, b) = (tree32(a) * inv, tree32(b) * inv);
            for j in 0..d {
                let n = (x[j] - mean) * rs;
                let dn = dy[j] * weight[j];
                dx[j] = A::fma(-n, b, dn - a) * rs;
                dw[j] = A::fma(dy[j], n, dw[j]);
                db[j] += dy[j];
            }
        }
    }
}

impl Operator for LayerNorm {
    fn name(&self) -> &'static str {
        "layer_norm"
    }

    fn fields(&self) -> Vec<(&'static str, Json)> {
        vec![("weight", Json::index(self.weight)), ("bias", Json::index(self.bias))]
    }

    fn parameters(&self) -> Vec<TensorId> {
        vec![self.weight, self.bias]
    }

    fn output_width(&self, inputs: &[usize], tensors: &[Tensor]) -> Result<usize, String> {
        let width = one_input(inputs)?;
        match [self.weight, self.bias].into_iter().find(|&id| tensors[id].shape() != [width]) {
            Some(id) => Err(format!("{} has not {width} elements", tensors[id].name)),
            None => Ok(width),
        }
    }

    fn saved_width(&self) -> usize {
        2
    }

    fn needs(&self) -> Needs {
        Needs { inputs: true, output: false }
    }

    fn forward(&self, env: &mut Env, call: Forward<'_>) -> Result<(), Failed> {
        let weight = &call.weights[operand(call.parameters, 0)?.clone()];
        let bias = &call.weights[operand(call.parameters, 1)?.clone()];
        let [x, y, stats] = cut(call.buffer, [operand(call.inputs, 0)?, &call.output, &call.saved])?;
        let (level, x, chunk) = (env.level, &*x, PIECE * weight.len());
        let pieces = (Chunks::new(y, chunk), Chunks::new(stats, PIECE * 2));
        Ok(env.pool.each(pieces, &mut env.scratch, |i, (y, stats), _| {
            forward(level, &x[i * chunk..], weight, bias, y, stats);
        })?)
    }

    fn backward(&self, env: &mut Env, call: Backward<'_>) -> Result<(), Failed> {
        let weight = &call.weights[operand(call.parameters, 0)?.clone()];
        let d = weight.len();
        let places = [operand(call.inputs, 0)?, &call.saved, &call.d_output, operand(call.d_inputs, 0)?];
        let [x, stats, dy, dx] = cut(call.buffer, places)?;
        let (level, x, stats, dy) = (env.level, &*x, &*stats, &*dy);
        let partial = grown(&mut env.partial, call.rows.count().div_ceil(BLOCK) * 2 * d);
        let pieces = (Chunks::new(dx, BLOCK * d), Chunks::new(&mut *partial, 2 * d));
        env.pool.each(pieces, &mut env.scratch, |i, (dx, partial), _| {
            let (x, dy) = (&x[i * BLOCK * d..], &dy[i * BLOCK * d..]);
            backward(level, x, &stats[i * BLOCK * 2..], weight, dy, dx, partial);
        })?;
        let (dw, db) = (operand(call.d_parameters, 0)?, operand(call.d_parameters, 1)?);
        let [dw, db] = cut(call.gradients, [dw, db])?;
        fold_blocks(level, partial, 2 * d, dw);
        fold_blocks(level, &partial[d..], 2 * d, db);
        Ok(())
    }
}
