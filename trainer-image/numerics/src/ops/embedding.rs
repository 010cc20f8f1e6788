//! embedding: row r of x = tokens at token r, + positions at position r where there is such a table (spec 4.1).

use super::{Backward, Forward, Needs, Operator, cut, operand};
use crate::env::{Env, Failed, grown};
use crate::graph::{Json, Tensor, TensorId};
use crate::pool::Chunks;

/// The first activations, from a token table `[vocabulary, width]` and, if positions are learnt, a position
/// table `[context, width]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Embedding {
    /// The token table.
    pub tokens: TensorId,
    /// The position table, if there is one.
    pub positions: Option<TensorId>,
}

/// Rows per piece of forward work.
const PIECE: usize = 64;

impl Operator for Embedding {
    fn name(&self) -> &'static str {
        "embedding"
    }

    fn fields(&self) -> Vec<(&'static str, Json)> {
        let positions = self.positions.map(|id| ("positions", Json::index(id)));
        std::iter::once(("tokens", Json::index(self.tokens))).chain(positions).collect()
    }

    fn parameters(&self) -> Vec<TensorId> {
        std::iter::once(self.tokens).chain(self.positions).collect()
    }

    fn output_width(&self, inputs: &[usize], tensors: &[Tensor]) -> Result<usize, String> {
        let width = tensors[self.tokens].cols;
        match (inputs, width, self.positions.map(|id| tensors[id].cols)) {
            ([], Some(width), None) => Ok(width),
            ([], Some(width), Some(Some(other))) if width == other => Ok(width),
            _ => Err("takes tables of equal width and no input".into()),
        }
    }

    fn needs(&self) -> Needs {
        Needs::default()
    }

    fn forward(&self, env: &mut Env, call: Forward<'_>) -> Result<(), Failed> {
        let tokens = &call.weights[operand(call.parameters, 0)?.clone()];
        let positions = call.parameters.get(1).map(|range| &call.weights[range.clone()]);
        let width = call.output.len() / call.rows.count();
        let [x] = cut(call.buffer, [&call.output])?;
        Ok(env.pool.each(Chunks::new(x, PIECE * width), &mut env.scratch, |piece, x, _| {
            for (r, x) in (piece * PIECE..).zip(x.chunks_exact_mut(width)) {
                let token = &tokens[call.tokens[r] as usize * width..][..width];
                let Some(positions) = positions else {
                    x.copy_from_slice(token);
                    continue;
                };
                let position = &positions[r % call.rows.length * width..][..width];
                for ((x, t), p) in x.iter_mut().zip(token).zip(position) {
                    *x = t + p;
                }
            }
        })?)
    }

    fn adds(&self, parameter: usize) -> bool {
        parameter == 0
    }

    /// Each table row is the sum, from +0, of the gradients of the rows that used it, ascending. Threads own table rows.
    fn backward(&self, env: &mut Env, call: Backward<'_>) -> Result<(), Failed> {
        let width = call.d_output.len() / call.rows.count();
        let dx = &call.buffer[call.d_output.clone()];
        let held = call.held.first().is_some_and(|held| *held);
        // Rows by token; those of a token keep their order.
        let mut users: Vec<(u32, usize)> = call.tokens.iter().copied().zip(0..).collect();
        users.sort_unstable();
        let [d_tokens] = cut(call.gradients, [operand(call.d_parameters, 0)?])?;
        let share = d_tokens.len().div_euclid(width).div_ceil(2 * env.pool.threads());
        env.pool.each(Chunks::new(d_tokens, share * width), &mut env.scratch, |piece, table, own| {
            if !held {
                table.fill(0.0);
            }
            let sum = grown(&mut own.a, width);
            let first = piece * share;
            let from = users.partition_point(|(token, _)| (*token as usize) < first);
            for users in users[from..].chunk_by(|a, b| a.0 == b.0) {
                let row = users[0].0 as usize - first;
                // What no row used gets +0, which changes nothing: no gradient of a product is -0 (spec 2.1).
                let Some(g) = table.chunks_exact_mut(width).nth(row) else { return };
                sum.fill(0.0);
                for (_, r) in users {
                    add(sum, &dx[r * width..][..width]);
                }
                if held {
                    add(g, sum);
                } else {
                    g.copy_from_slice(sum);
                }
            }
        })?;
        let Some(d_positions) = call.d_parameters.get(1) else { return Ok(()) };
        let [d_positions] = cut(call.gradients, [d_positions])?;
        let share = d_positions.len().div_euclid(width).div_ceil(2 * env.pool.threads());
        let length = call.rows.length;
        env.pool.each(Chunks::new(d_positions, share * width), &mut env.scratch, |piece, table, _| {
            table.fill(0.0);
            for (position, g) in (piece * share..length).zip(table.chunks_exact_mut(width)) {
                for dx in dx.chunks_exact(width).skip(position).step_by(length) {
                    add(g, dx);
                }
            }
        })?;
        Ok(())
    }
}

fn add(g: &mut [f32], dx: &[f32]) {
    for (g, dx) in g.iter_mut().zip(dx) {
        *g += *dx;
    }
}
