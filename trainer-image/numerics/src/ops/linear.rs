//! linear: y = x W^T (+ b), W `[out, in]` (spec 4.4). Three products, in the graph's arithmetic.

use super::{Backward, Forward, Needs, Operator, cut, one_input, operand};
use crate::env::{Env, Failed};
use crate::graph::{Json, Tensor, TensorId};
use crate::kernel::gemm::{self, Matrix, Size};
use crate::kernel::{columns, exact};
use crate::spec::Arithmetic;

/// A product with a weight matrix; the language-model head is one without bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Linear {
    /// `[out, in]`.
    pub weight: TensorId,
    /// `[out]`: where chains begin, or what is added to a rounded product.
    pub bias: Option<TensorId>,
    /// The graph's: not written with the node.
    pub arithmetic: Arithmetic,
}

impl Linear {
    fn product(
        &self,
        env: &mut Env,
        size: Size,
        a: Matrix<'_>,
        b: Matrix<'_>,
        bias: Option<&[f32]>,
        c: &mut [f32],
    ) -> Result<(), Failed> {
        match self.arithmetic {
            Arithmetic::F32Chain => gemm::product(env, size, a, b, bias, c),
            Arithmetic::I16Exact => exact::product(env, size, a, b, bias, c),
        }
    }
}

impl Operator for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn fields(&self) -> Vec<(&'static str, Json)> {
        let bias = self.bias.map(|id| ("bias", Json::index(id)));
        std::iter::once(("weight", Json::index(self.weight))).chain(bias).collect()
    }

    fn parameters(&self) -> Vec<TensorId> {
        std::iter::once(self.weight).chain(self.bias).collect()
    }

    fn output_width(&self, inputs: &[usize], tensors: &[Tensor]) -> Result<usize, String> {
        let (width, weight) = (one_input(inputs)?, &tensors[self.weight]);
        if weight.cols != Some(width) {
            return Err(format!("{} has not {width} columns", weight.name));
        }
        match self.bias.map(|id| &tensors[id]) {
            Some(bias) if bias.shape() != [weight.rows] => {
                Err(format!("{} has not {} elements", bias.name, weight.rows))
            }
            _ => Ok(weight.rows),
        }
    }

    fn needs(&self) -> Needs {
        Needs { inputs: true, output: false }
    }

    fn forward(&self, env: &mut Env, call: Forward<'_>) -> Result<(), Failed> {
        let m = call.rows.count();
        let [x, y] = cut(call.buffer, [operand(call.inputs, 0)?, &call.output])?;
        let (k, n) = (x.len() / m, y.len() / m);
        let weight = &call.weights[operand(call.parameters, 0)?.clone()];
        let bias = call.parameters.get(1).map(|r| &call.weights[r.clone()]);
        let transposed = Matrix::row_major(weight, k).transposed();
        self.product(env, Size { m, n, k }, Matrix::row_major(x, k), transposed, bias, y)
    }

    /// dx = dy W, dW = dy^T x (one chain over all rows of the shard), db = sum of the rows of dy.
    fn backward(&self, env: &mut Env, call: Backward<'_>) -> Result<(), Failed> {
        let rows = call.rows.count();
        let places = [operand(call.inputs, 0)?, &call.d_output, operand(call.d_inputs, 0)?];
        let [x, dy, dx] = cut(call.buffer, places)?;
        let (input, output) = (x.len() / rows, dy.len() / rows);
        let weight = &call.weights[operand(call.parameters, 0)?.clone()];
        let dy_rows = Matrix::row_major(dy, output);

        let size = Size { m: rows, n: input, k: output };
        self.product(env, size, dy_rows, Matrix::row_major(weight, input), None, dx)?;

        let d_weight = &mut call.gradients[operand(call.d_parameters, 0)?.clone()];
        let size = Size { m: output, n: input, k: rows };
        self.product(env, size, dy_rows.transposed(), Matrix::row_major(x, input), None, d_weight)?;

        if let Some(place) = call.d_parameters.get(1) {
            columns(env, dy, output, &mut call.gradients[place.clone()])?;
        }
        Ok(())
    }
}
