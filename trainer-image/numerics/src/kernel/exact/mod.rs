//! Products of integers, exact until one rounding at the end (spec 2.4): arithmetic `i16-exact`.
//!
//! Rows of the left operand and columns of the right one are scaled by powers of two to 16-bit integers; their dot product is an
//! integer, so neither order nor blocks nor threads can show in it. Both are laid out such that the micro-kernel reads two steps of
//! k, a pair, in each 32-bit word.

mod operand;
// Indexed loops on purpose: inside a target-feature function LLVM does not inline iterator adaptors that pass pairs around.
#[allow(clippy::needless_range_loop)]
mod quantise;
#[allow(clippy::needless_range_loop)]
mod tile;

#[cfg(test)]
mod tests;

use crate::env::{Env, Failed};
use crate::kernel::gemm::{Matrix, Size};
use crate::pool::Chunks;
use operand::{Cut, Layout, Operand};
use tile::{MR, NR, Sums, tile};

/// Both operands of a product, kept between calls.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    left: Operand<LEFT, MR>,
    right: Operand<NR, NR>,
}

/// Lines of a left panel whose lines lie side by side: four tiles.
const LEFT: usize = 4 * MR;

/// Most rows of the result per piece of work: their left lines stay in the second-level cache for widths up to 3072.
const MC: usize = 96;

/// `c` (m x n, row-major, overwritten) = `a` (m x k) times `b` (k x n), each element rounded once, then `bias[j]` added to it. A row of
/// `a` or a column of `b` with a number that is not finite makes NaN of its results. Of `a` and of `b`, either rows or columns are
/// runs of memory.
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
    let cut = Cut::new(k, env.pool.threads());
    // Out of the environment while it lends its threads.
    let mut scratch = std::mem::take(&mut env.exact);
    let done = (|| {
        scratch.left.quantise(env, a, m, k, cut, Layout::Lines)?;
        scratch.right.quantise(env, b.transposed(), n, k, cut, Layout::Panels)?;
        let (left, right) = (&scratch.left, &scratch.right);
        let mc = m.div_ceil(2 * env.pool.threads()).next_multiple_of(MR).min(MC);
        env.pool.each(Chunks::new(c, mc * n), &mut env.scratch, |piece, c, _| {
            let mut sums = Sums::default();
            for j in (0..n).step_by(NR) {
                let cols = NR.min(n - j);
                let bias = bias.map(|bias| &bias[j..j + cols]);
                for (i, c) in (0..).step_by(MR).zip(c.chunks_mut(MR * n)) {
                    let i = piece * mc + i;
                    sums.begin();
                    for segments in cut.passes() {
                        if segments.start > 0 {
                            sums.next_pass();
                        }
                        let (a, b) = (left.view(i, &segments), right.view(j, &segments));
                        tile(level, cut, segments.len(), a, b, &mut sums);
                    }
                    sums.finish(level, left.scales(i), right.scales(j), bias, &mut c[j..], n, cols);
                }
            }
        })?;
        Ok(())
    })();
    env.exact = scratch;
    done
}
