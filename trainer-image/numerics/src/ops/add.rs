//! add: the residual sum, an op of its own (spec 4.2). Folding it into the chain of the product before
//! it would round differently.

use super::{Backward, Forward, Needs, Operator, cut, operand};
use crate::env::{Env, Failed};
use crate::graph::Tensor;
use crate::kernel::PIECE;
use crate::pool::Chunks;

/// x + y for two values of equal width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Add;

impl Operator for Add {
    fn name(&self) -> &'static str {
        "add"
    }

    fn output_width(&self, inputs: &[usize], _: &[Tensor]) -> Result<usize, String> {
        match inputs {
            [x, y] if x == y => Ok(*x),
            _ => Err("takes two inputs of equal width".into()),
        }
    }

    fn needs(&self) -> Needs {
        Needs::default()
    }

    fn forward(&self, env: &mut Env, call: Forward<'_>) -> Result<(), Failed> {
        let inputs = [operand(call.inputs, 0)?, operand(call.inputs, 1)?];
        let [x, y, sum] = cut(call.buffer, [inputs[0], inputs[1], &call.output])?;
        let (x, y) = (&*x, &*y);
        Ok(env.pool.each(Chunks::new(sum, PIECE), &mut env.scratch, |i, sum, _| {
            let from = i * PIECE;
            for ((sum, x), y) in sum.iter_mut().zip(&x[from..]).zip(&y[from..]) {
                *sum = x + y;
            }
        })?)
    }

    /// Both inputs get the gradient of the sum.
    fn backward(&self, _: &mut Env, call: Backward<'_>) -> Result<(), Failed> {
        for k in 0..2 {
            call.buffer.copy_within(call.d_output.clone(), operand(call.d_inputs, k)?.start);
        }
        Ok(())
    }
}
