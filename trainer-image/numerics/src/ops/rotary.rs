//! rotary: queries and keys turned by their position, in pairs (j, j + hd/2) (spec 4.12; Su et al., "RoFormer", 2021). Values pass.

use super::{Backward, Forward, Needs, Operator, cut, one_input, operand};
use crate::env::{Env, Failed};
use crate::graph::{Json, Tensor};
use crate::isa::{Level, multiversion};
use crate::math::{exp64, ln64, sincos64};
use crate::pool::Chunks;

/// Positions as angles, on the input of an attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotary {
    /// H: query heads.
    pub heads: usize,
    /// KV: key/value heads.
    pub kv_heads: usize,
    /// The longest wavelength is about 2 pi times this.
    pub base: u64,
}

/// Rows per piece of work.
const PIECE: usize = 32;

/// Cosines, then sines, of each position: rows of `2 half`. Computed in f64 on the host, once for an executor.
#[derive(Debug, Default)]
pub(crate) struct Table {
    key: Option<(u64, usize, usize)>,
    values: Vec<f32>,
}

impl Table {
    fn of(&mut self, base: u64, half: usize, length: usize) -> &[f32] {
        if self.key != Some((base, half, length)) {
            self.key = Some((base, half, length));
            let ln = ln64(base as f64);
            let frequencies: Vec<f64> =
                (0..half).map(|j| exp64(-(((2 * j) as f64 / (2 * half) as f64) * ln))).collect();
            self.values.clear();
            for position in 0..length {
                let turned = frequencies.iter().map(|w| sincos64(position as f64 * w));
                let (sines, cosines): (Vec<f32>, Vec<f32>) =
                    turned.map(|(s, c)| (s as f32, c as f32)).unzip();
                self.values.extend(cosines);
                self.values.extend(sines);
            }
        }
        &self.values
    }
}

multiversion! {
    /// One row: its first `turned` elements, heads of `2 half`, are turned; the others are copied.
    fn forward<A>(x: &[f32], table: &[f32], half: usize, turned: usize, y: &mut [f32]) {
        let (cosines, sines) = table.split_at(half);
        for (x, y) in x[..turned].chunks_exact(2 * half).zip(y.chunks_exact_mut(2 * half)) {
            let ((a, b), (ya, yb)) = (x.split_at(half), y.split_at_mut(half));
            for j in 0..half {
                let (c, s) = (cosines[j], sines[j]);
                ya[j] = A::fma(a[j], c, -(b[j] * s));
                yb[j] = A::fma(b[j], c, a[j] * s);
            }
        }
        y[turned..].copy_from_slice(&x[turned..]);
    }
}

multiversion! {
    /// The other way round.
    fn backward<A>(dy: &[f32], table: &[f32], half: usize, turned: usize, dx: &mut [f32]) {
        let (cosines, sines) = table.split_at(half);
        for (dy, dx) in dy[..turned].chunks_exact(2 * half).zip(dx.chunks_exact_mut(2 * half)) {
            let ((a, b), (da, db)) = (dy.split_at(half), dx.split_at_mut(half));
            for j in 0..half {
                let (c, s) = (cosines[j], sines[j]);
                da[j] = A::fma(a[j], c, b[j] * s);
                db[j] = A::fma(b[j], c, -(a[j] * s));
            }
        }
        dx[turned..].copy_from_slice(&dy[turned..]);
    }
}

impl Rotary {
    /// Every row of `from` to `to` by `kernel`.
    fn turn(
        &self,
        env: &mut Env,
        (length, from, to): (usize, &[f32], &mut [f32]),
        width: usize,
        kernel: impl Fn(Level, &[f32], &[f32], usize, usize, &mut [f32]) + Sync,
    ) -> Result<(), Failed> {
        let half = width / (self.heads + 2 * self.kv_heads) / 2;
        let turned = (self.heads + self.kv_heads) * 2 * half;
        let (level, table) = (env.level, env.rotary.of(self.base, half, length));
        Ok(env.pool.each(Chunks::new(to, PIECE * width), &mut env.scratch, |i, to, _| {
            let rows = from[i * PIECE * width..].chunks_exact(width).zip(to.chunks_exact_mut(width));
            for (r, (from, to)) in (i * PIECE..).zip(rows) {
                let table = &table[r % length * 2 * half..][..2 * half];
                kernel(level, from, table, half, turned, to);
            }
        })?)
    }
}

impl Operator for Rotary {
    fn name(&self) -> &'static str {
        "rotary"
    }

    fn fields(&self) -> Vec<(&'static str, Json)> {
        let heads = [("heads", Json::index(self.heads)), ("kv_heads", Json::index(self.kv_heads))];
        heads.into_iter().chain([("base", Json::Integer(self.base))]).collect()
    }

    fn output_width(&self, inputs: &[usize], _: &[Tensor]) -> Result<usize, String> {
        let (width, parts) = (one_input(inputs)?, self.heads + 2 * self.kv_heads);
        if parts == 0 || !width.is_multiple_of(2 * parts) {
            return Err(format!("an input of width {width} has not {parts} heads of even width"));
        }
        Ok(width)
    }

    fn needs(&self) -> Needs {
        Needs::default()
    }

    fn forward(&self, env: &mut Env, call: Forward<'_>) -> Result<(), Failed> {
        let width = call.output.len() / call.rows.count();
        let [x, y] = cut(call.buffer, [operand(call.inputs, 0)?, &call.output])?;
        self.turn(env, (call.rows.length, x, y), width, forward)
    }

    fn backward(&self, env: &mut Env, call: Backward<'_>) -> Result<(), Failed> {
        let width = call.d_output.len() / call.rows.count();
        let [dy, dx] = cut(call.buffer, [&call.d_output, operand(call.d_inputs, 0)?])?;
        self.turn(env, (call.rows.length, dy, dx), width, backward)
    }
}
