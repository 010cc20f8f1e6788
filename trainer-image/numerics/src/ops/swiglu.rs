//! swiglu: silu(gate) * up, gate and up the halves of one linear's output (spec 4.13; Shazeer, "GLU Variants Improve Transformer",
//! 2020).

use super::{Backward, Forward, Needs, Operator, cut, one_input, operand};
use crate::env::{Env, Failed};
use crate::graph::Tensor;
use crate::isa::multiversion;
use crate::math::exp;
use crate::pool::Chunks;

/// The gated product of a row's halves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SwiGlu;

/// Rows per piece of work.
const PIECE: usize = 16;

multiversion! {
    /// Rows of gate and up, `2 f` wide, to rows of `f`.
    fn forward<A>(x: &[f32], f: usize, h: &mut [f32]) {
        for (x, h) in x.chunks_exact(2 * f).zip(h.chunks_exact_mut(f)) {
            let (gate, up) = x.split_at(f);
            for ((h, g), u) in h.iter_mut().zip(gate).zip(up) {
                *h = (*g / (1.0 + exp::<A>(-*g))) * *u;
            }
        }
    }
}

multiversion! {
    fn backward<A>(x: &[f32], dh: &[f32], f: usize, dx: &mut [f32]) {
        let rows = x.chunks_exact(2 * f).zip(dh.chunks_exact(f)).zip(dx.chunks_exact_mut(2 * f));
        for ((x, dh), dx) in rows {
            let ((gate, up), (d_gate, d_up)) = (x.split_at(f), dx.split_at_mut(f));
            for j in 0..f {
                let (g, dh) = (gate[j], dh[j]);
                let den = 1.0 + exp::<A>(-g);
                let s = 1.0 / den;
                d_up[j] = dh * (g / den);
                d_gate[j] = (dh * up[j]) * A::fma(g * s, 1.0 - s, s);
            }
        }
    }
}

impl Operator for SwiGlu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn output_width(&self, inputs: &[usize], _: &[Tensor]) -> Result<usize, String> {
        let width = one_input(inputs)?;
        if width % 2 != 0 {
            return Err(format!("an input of width {width} has no halves"));
        }
        Ok(width / 2)
    }

    fn needs(&self) -> Needs {
        Needs { inputs: true, output: false }
    }

    fn forward(&self, env: &mut Env, call: Forward<'_>) -> Result<(), Failed> {
        let f = call.output.len() / call.rows.count();
        let [x, h] = cut(call.buffer, [operand(call.inputs, 0)?, &call.output])?;
        let (level, x) = (env.level, &*x);
        Ok(env.pool.each(Chunks::new(h, PIECE * f), &mut env.scratch, |i, h, _| {
            forward(level, &x[i * PIECE * 2 * f..], f, h);
        })?)
    }

    fn backward(&self, env: &mut Env, call: Backward<'_>) -> Result<(), Failed> {
        let f = call.d_output.len() / call.rows.count();
        let places = [operand(call.inputs, 0)?, &call.d_output, operand(call.d_inputs, 0)?];
        let [x, dh, dx] = cut(call.buffer, places)?;
        let (level, x, dh) = (env.level, &*x, &*dh);
        Ok(env.pool.each(Chunks::new(dx, PIECE * 2 * f), &mut env.scratch, |i, dx, _| {
            backward(level, &x[i * PIECE * 2 * f..], &dh[i * PIECE * f..], f, dx);
        })?)
    }
}
