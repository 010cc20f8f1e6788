//! Products of integers, exact until one rounding at the end (spec 2.4): arithmetic `i16-exact`.
//!
//! Rows of the left operand and columns of the right one are scaled by powers of two to 16-bit integers; their dot product is an
//! integer, so neither order nor blocks nor threads can show in it. Both are packed into panels that the micro-kernel reads front
//! to back, two steps of k in each word.

mod quantise;
mod tile;

#[cfg(test)]
mod tests;

use crate::env::{Env, Failed};
use crate::kernel::gemm::{Matrix, Size};
use crate::pool::Chunks;
use quantise::Operand;
use tile::{MR, NR, PASS, Sums, tile};

/// Both operands of a product, kept between calls.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    left: Operand<MR>,
    right: Operand<NR>,
}

/// Most rows of the result per piece of work: their left panels stay in the second-level cache for widths up to 1024.
const MC: usize = 96;

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
    // Out of the environment while it lends its threads.
    let mut scratch = std::mem::take(&mut env.exact);
    let done = (|| {
        scratch.left.quantise(env, a, m, k)?;
        scratch.right.quantise(env, b.transposed(), n, k)?;
        let (left, right) = (&scratch.left, &scratch.right);
        let mc = m.div_ceil(2 * env.pool.threads()).next_multiple_of(MR).min(MC);
        env.pool.each(Chunks::new(c, mc * n), &mut env.scratch, |piece, c, _| {
            for j in (0..n).step_by(NR) {
                for (i, c) in (0..).step_by(MR).zip(c.chunks_mut(MR * n)) {
                    let i = piece * mc + i;
                    let (a, b) = (left.panel(i), right.panel(j));
                    let mut sums = Sums::default();
                    for (a, b) in a.chunks(PASS * MR).zip(b.chunks(PASS * NR)) {
                        tile(level, a, b, &mut sums);
                    }
                    let cols = NR.min(n - j);
                    let bias = bias.map(|bias| &bias[j..j + cols]);
                    for (row, c) in c.chunks_exact_mut(n).enumerate() {
                        tile::finish(
                            level,
                            &sums,
                            row,
                            left.scale(i + row),
                            right.scales(j),
                            bias,
                            &mut c[j..j + cols],
                        );
                    }
                }
            }
        })?;
        Ok(())
    })();
    env.exact = scratch;
    done
}
