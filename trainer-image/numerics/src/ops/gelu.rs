//! gelu: x * sigmoid(2u), u = sqrt(2/pi) (x + 0.044715 x^3) (spec 4.6): the tanh form of Hendrycks and
//! Gimpel (2016) without a tanh. One expression for u, forward and backward.

use super::{Backward, Forward, Needs, Operator, cut, one_input, operand};
use crate::env::{Env, Failed};
use crate::graph::Tensor;
use crate::isa::{Arith, multiversion};
use crate::kernel::PIECE;
use crate::math::exp;
use crate::pool::Chunks;

/// GELU, element by element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gelu;

const K0: f32 = f32::from_bits(0x3f4c_422a); // sqrt(2 / pi)
const K1: f32 = f32::from_bits(0x3d37_2713); // 0.044715

#[inline(always)]
fn u<A: Arith>(x: f32, x2: f32) -> f32 {
    (K0 * x) * A::fma(K1, x2, 1.0)
}

multiversion! {
    pub(super) fn forward<A>(x: &[f32], y: &mut [f32]) {
        for (x, y) in x.iter().zip(y) {
            *y = *x / (1.0 + exp::<A>(-2.0 * u::<A>(*x, *x * *x)));
        }
    }
}

multiversion! {
    pub(super) fn backward<A>(x: &[f32], dy: &[f32], dx: &mut [f32]) {
        for ((x, dy), dx) in x.iter().zip(dy).zip(dx) {
            let x2 = *x * *x;
            let s = 1.0 / (1.0 + exp::<A>(-2.0 * u::<A>(*x, x2)));
            let du = K0 * A::fma(3.0 * K1, x2, 1.0);
            *dx = *dy * A::fma((*x * s) * (1.0 - s), 2.0 * du, s);
        }
    }
}

impl Operator for Gelu {
    fn name(&self) -> &'static str {
        "gelu"
    }

    fn output_width(&self, inputs: &[usize], _: &[Tensor]) -> Result<usize, String> {
        one_input(inputs)
    }

    fn needs(&self) -> Needs {
        Needs { inputs: true, output: false }
    }

    fn forward(&self, env: &mut Env, call: Forward<'_>) -> Result<(), Failed> {
        let [x, y] = cut(call.buffer, [operand(call.inputs, 0)?, &call.output])?;
        let (level, x) = (env.level, &*x);
        Ok(env.pool.each(Chunks::new(y, PIECE), &mut env.scratch, |i, y, _| {
            forward(level, &x[i * PIECE..], y);
        })?)
    }

    fn backward(&self, env: &mut Env, call: Backward<'_>) -> Result<(), Failed> {
        let places = [operand(call.inputs, 0)?, &call.d_output, operand(call.d_inputs, 0)?];
        let [x, dy, dx] = cut(call.buffer, places)?;
        let (level, x, dy) = (env.level, &*x, &*dy);
        Ok(env.pool.each(Chunks::new(dx, PIECE), &mut env.scratch, |i, dx, _| {
            backward(level, &x[i * PIECE..], &dy[i * PIECE..], dx);
        })?)
    }
}
