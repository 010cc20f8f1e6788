//! RMS norm of each row, eps = 1e-5 (spec 4.11; Zhang and Sennrich, 2019).

use super::layer_norm::EPSILON;
use super::{Backward, Forward, Needs, Operator, cut, one_input, operand};
use crate::env::{Env, Failed, grown};
use crate::graph::{Json, Tensor, TensorId};
use crate::isa::multiversion;
use crate::kernel::reduction::{BLOCK, LANES, dot, fold_blocks, tree32};
use crate::pool::Chunks;

/// x / sqrt(mean of squares + eps) * weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RmsNorm {
    /// `[width]`.
    pub weight: TensorId,
}

/// Rows per piece of forward work.
const PIECE: usize = 32;

multiversion! {
    /// Rows of `x` to rows of `y`; `stats` gets 1 / sqrt(mean of squares + eps) of each.
    fn forward<A>(x: &[f32], weight: &[f32], y: &mut [f32], stats: &mut [f32]) {
        let d = weight.len();
        let inv = 1.0 / d as f32;
        for ((x, y), rs) in x.chunks_exact(d).zip(y.chunks_exact_mut(d)).zip(stats) {
            *rs = 1.0 / (dot::<A>(x, x) * inv + EPSILON).sqrt();
            for ((y, x), w) in y.iter_mut().zip(x).zip(weight) {
                *y = (*x * *rs) * *w;
            }
        }
    }
}

multiversion! {
    /// One block of rows: dx, and the block's share of dw.
    fn backward<A>(x: &[f32], stats: &[f32], weight: &[f32], dy: &[f32], dx: &mut [f32], dw: &mut [f32]) {
        let d = weight.len();
        let inv = 1.0 / d as f32;
        dw.fill(0.0);
        let rows = x.chunks_exact(d).zip(dy.chunks_exact(d)).zip(dx.chunks_exact_mut(d));
        for (((x, dy), dx), &rs) in rows.zip(stats) {
            let mut b = [0.0; LANES];
            let (xs, x_rest) = x.as_chunks::<LANES>();
            let (dys, dy_rest) = dy.as_chunks::<LANES>();
            let (ws, w_rest) = weight.as_chunks::<LANES>();
            for ((x, dy), w) in xs.iter().zip(dys).zip(ws) {
                for l in 0..LANES {
                    b[l] = A::fma(dy[l] * w[l], x[l] * rs, b[l]);
                }
            }
            for l in 0..x_rest.len() {
                b[l] = A::fma(dy_rest[l] * w_rest[l], x_rest[l] * rs, b[l]);
            }
            let b = tree32(b) * inv;
            for j in 0..d {
                let n = x[j] * rs;
                dx[j] = A::fma(-n, b, dy[j] * weight[j]) * rs;
                dw[j] = A::fma(dy[j], n, dw[j]);
            }
        }
    }
}

impl Operator for RmsNorm {
    fn name(&self) -> &'static str {
        "rms_norm"
    }

    fn fields(&self) -> Vec<(&'static str, Json)> {
        vec![("weight", Json::index(self.weight))]
    }

    fn parameters(&self) -> Vec<TensorId> {
        vec![self.weight]
    }

    fn output_width(&self, inputs: &[usize], tensors: &[Tensor]) -> Result<usize, String> {
        let (width, weight) = (one_input(inputs)?, &tensors[self.weight]);
        if weight.shape() != [width] {
            return Err(format!("{} has not {width} elements", weight.name));
        }
        Ok(width)
    }

    fn saved_width(&self) -> usize {
        1
    }

    fn needs(&self) -> Needs {
        Needs { inputs: true, output: false }
    }

    fn forward(&self, env: &mut Env, call: Forward<'_>) -> Result<(), Failed> {
        let weight = &call.weights[operand(call.parameters, 0)?.clone()];
        let [x, y, stats] = cut(call.buffer, [operand(call.inputs, 0)?, &call.output, &call.saved])?;
        let (level, x, chunk) = (env.level, &*x, PIECE * weight.len());
        let pieces = (Chunks::new(y, chunk), Chunks::new(stats, PIECE));
        Ok(env.pool.each(pieces, &mut env.scratch, |i, (y, stats), _| {
            forward(level, &x[i * chunk..], weight, y, stats);
        })?)
    }

    fn backward(&self, env: &mut Env, call: Backward<'_>) -> Result<(), Failed> {
        let weight = &call.weights[operand(call.parameters, 0)?.clone()];
        let d = weight.len();
        let places = [operand(call.inputs, 0)?, &call.saved, &call.d_output, operand(call.d_inputs, 0)?];
        let [x, stats, dy, dx] = cut(call.buffer, places)?;
        let (level, x, stats, dy) = (env.level, &*x, &*stats, &*dy);
        let partial = grown(&mut env.partial, call.rows.count().div_ceil(BLOCK) * d);
        let pieces = (Chunks::new(dx, BLOCK * d), Chunks::new(&mut *partial, d));
        env.pool.each(pieces, &mut env.scratch, |i, (dx, partial), _| {
            let from = i * BLOCK;
            backward(level, &x[from * d..], &stats[from..], weight, &dy[from * d..], dx, partial);
        })?;
        let dw = operand(call.d_parameters, 0)?.clone();
        fold_blocks(level, partial, d, &mut call.gradients[dw]);
        Ok(())
    }
}
