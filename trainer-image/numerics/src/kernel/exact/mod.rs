//! Products of integers, exact until one rounding at the end (spec 2.4): arithmetic `i16-exact`.
//!
//! Rows of the left operand and columns of the right one are scaled by powers of two to 16-bit integers; their dot product is an
//! integer, so neither order nor blocks nor threads can show in it. Sums are kept in two i32 (see [`dots`]): products of 16-bit
//! pairs are what AVX2 multiplies at the rate of f32.

mod quantise;

#[cfg(test)]
mod tests;

use crate::env::{Env, Failed};
use crate::isa::multiversion;
use crate::kernel::gemm::{Matrix, Size};
use crate::pool::Chunks;
pub(crate) use quantise::Operand;

/// Both operands of a product, kept between calls.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    left: Operand,
    right: Operand,
}

/// Integers of a vector register: lines are padded with zeros to a multiple.
const WIDTH: usize = 16;
/// Steps of k whose sums fit the two i32 of a lane: 2^16 pairs of 8 lanes each, and room.
const DEPTH: usize = 1 << 16;
/// Columns whose sums run side by side.
const SIDE: usize = 4;
/// Rows of the result per piece of work.
const ROWS: usize = 24;

/// `c` (m x n, row-major, overwritten) = `a` (m x k) times `b` (k x n), each element rounded once, then `bias[j]` added to it. A row of
/// `a` or a column of `b` with a number that is not finite makes NaN of its results.
pub(crate) fn product(
    env: &mut Env,
    size: Size,
    a: Matrix<'_>,
    b: Matrix<'_>,
    bias: Option<&[f32]>,
    c: &mut [f32],
) -> Result<(), Failed> {
    let Size { m, n, k } = size;
    let level = env.level;
    let mut scratch = std::mem::take(&mut env.exact);
    scratch.left.quantise(env, a, m, k)?;
    scratch.right.quantise(env, b.transposed(), n, k)?;
    let (left, right) = (&scratch.left, &scratch.right);
    env.pool.each(Chunks::new(c, ROWS * n), &mut env.scratch, |piece, c, _| {
        for (i, c) in (piece * ROWS..).zip(c.chunks_exact_mut(n)) {
            for (side, c) in c.chunks_mut(SIDE).enumerate() {
                let j = side * SIDE;
                let lines = std::array::from_fn(|l| right.line((j + l).min(n - 1)));
                let sums = dots(level, left.line(i), lines);
                for (l, c) in c.iter_mut().enumerate() {
                    // The sum is below 2^53 and the scale a power of two: one rounding.
                    let v = (sums[l] as f64 * (left.scale(i) * right.scale(j + l))) as f32 + 0.0;
                    *c = bias.map_or(v, |bias| bias[j + l] + v);
                }
            }
        }
    })?;
    env.exact = scratch;
    Ok(())
}

multiversion! {
    /// Dot products of one line with `SIDE` others, all of one length, a multiple of `WIDTH`.
    ///
    /// Two products of 16-bit integers of at most 32576 fit an i32. Their sums do not: `low` has them modulo 2^32 and `high` the sum of
    /// their upper halves, from which the whole follows as long as the lower halves alone stay below 2^32.
    fn dots<A>(a: &[i16], b: [&[i16]; SIDE]) -> [i64; SIDE] {
        let mut sums = [0; SIDE];
        for from in (0..a.len()).step_by(DEPTH) {
            let to = a.len().min(from + DEPTH);
            let (a, _) = a[from..to].as_chunks::<WIDTH>();
            for (sum, b) in sums.iter_mut().zip(b) {
                let (b, _) = b[from..to].as_chunks::<WIDTH>();
                let (mut low, mut high) = ([0i32; WIDTH / 2], [0i32; WIDTH / 2]);
                for (a, b) in a.iter().zip(b) {
                    for l in 0..WIDTH / 2 {
                        let pair = i32::from(a[2 * l]) * i32::from(b[2 * l])
                            + i32::from(a[2 * l + 1]) * i32::from(b[2 * l + 1]);
                        low[l] = low[l].wrapping_add(pair);
                        high[l] += pair >> 16;
                    }
                }
                for l in 0..WIDTH / 2 {
                    let lower = low[l].wrapping_sub(high[l] << 16) as u32;
                    *sum += (i64::from(high[l]) << 16) + i64::from(lower);
                }
            }
        }
        sums
    }
}
