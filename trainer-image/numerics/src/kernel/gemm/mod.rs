//! Matrix products as fused multiply-add chains (spec 2.1): every element of the result is one chain
//! over k ascending, from its bias or +0, plus +0 at the end.
//!
//! Blocking over k stores the chain in the result and resumes it, so block sizes, instruction set and
//! threads cannot show in the bits. The layout is the usual one (Goto and van de Geijn, "Anatomy of
//! high-performance matrix multiplication", 2008): operands are packed into panels that the
//! micro-kernel reads front to back. But a left operand whose rows lie in memory as they are read, each front
//! to back, is read where it is: six such streams are as fast as one.

mod pack;
mod tile;

pub(crate) use pack::{pack_left, pack_right};
pub(crate) use tile::{MR, NR, Start};

use crate::env::{Env, Failed, grown};
use crate::isa::Level;
use crate::pool::Chunks;
use tile::{tile, tile_pair};

/// Steps of k per pass of the micro-kernel: a right panel of 16 KiB stays in the first-level cache.
const KC: usize = 256;
/// Columns and steps of k of the packed right operand: at most 8 MiB.
const NC: usize = 1024;
const KO: usize = 2048;
/// Rows of the packed left operand: 72 KiB at most, for the second-level cache.
const MC: usize = 72;

/// Columns of the right operand that one thread packs at a time.
const PACK: usize = 8 * NR;

/// A read-only matrix inside a slice: element (i, k) is `data[i * row + k * col]`.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    pub data: &'a [f32],
    pub row: usize,
    pub col: usize,
}

impl<'a> Matrix<'a> {
    /// Rows one after the other.
    pub(crate) fn row_major(data: &'a [f32], width: usize) -> Matrix<'a> {
        Matrix { data, row: width, col: 1 }
    }

    /// Rows and columns swapped, nothing moved.
    pub(crate) fn transposed(self) -> Matrix<'a> {
        Matrix { data: self.data, row: self.col, col: self.row }
    }

    /// The part from row `i` and column `k` on.
    pub(crate) fn from(self, i: usize, k: usize) -> Matrix<'a> {
        Matrix { data: &self.data[i * self.row + k * self.col..], ..self }
    }
}

/// A right operand packed by [`pack_right`]: panels of `NR` columns, `depth` steps of k each.
#[derive(Clone, Copy)]
pub(crate) struct Packed<'a> {
    pub data: &'a [f32],
    pub depth: usize,
}

/// Rows, columns and chain length of a product.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub m: usize,
    pub n: usize,
    pub k: usize,
}

/// `c[i * stride + j]` = chain over k of `a[i, k] * b[k, j]` on the calling thread. `k` may be less
/// than the packed depth: the first `k` steps are used. `scratch` holds what is packed of the left operand.
#[allow(clippy::too_many_arguments)]
pub(crate) fn block(
    level: Level,
    size: Size,
    a: Matrix<'_>,
    b: Packed<'_>,
    start: Start<'_>,
    c: &mut [f32],
    stride: usize,
    scratch: &mut Vec<f32>,
) {
    let Size { m, n, k } = size;
    // Rows that are read where they are.
    let direct = if a.col == 1 { m / MR * MR } else { 0 };
    for k0 in (0..k).step_by(KC) {
        let kc = KC.min(k - k0);
        let packed = grown(scratch, (m - direct).next_multiple_of(MR) * kc);
        if direct < m {
            pack_left(level, a.from(direct, k0), m - direct, kc, packed);
        }
        let lines = |i: usize| match i.checked_sub(direct) {
            Some(i) => Matrix { data: &packed[i * kc..], row: 1, col: MR },
            None => a.from(i, k0),
        };
        let start = if k0 == 0 { start } else { Start::Resume };
        let panel = |j: usize| &b.data[(j / NR * b.depth + k0) * NR..][..kc * NR];
        let mut j = 0;
        while j < n {
            let wide = j + 2 * NR <= n;
            let cols = if wide { 2 * NR } else { NR.min(n - j) };
            let start = start.columns(j, cols);
            for i in (0..m).step_by(MR) {
                let left = lines(i);
                let (c, rows) = (&mut c[i * stride + j..], MR.min(m - i));
                if !wide {
                    tile(level, left, panel(j), start, c, stride, rows, cols);
                    continue;
                }
                let right = [panel(j), panel(j + NR)];
                if rows < MR || !tile_pair(level, left, right, start, c, stride) {
                    tile(level, left, right[0], start.columns(0, NR), c, stride, rows, NR);
                    tile(level, left, right[1], start.columns(NR, NR), &mut c[NR..], stride, rows, NR);
                }
            }
            j += cols;
        }
    }
}

/// `c` (m x n, row-major, overwritten) = `a` (m x k) times `b` (k x n), each chain from `bias[j]` or +0,
/// on all threads.
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
    let mc = m.div_ceil(2 * env.pool.threads()).next_multiple_of(MR).min(MC);
    for j0 in (0..n).step_by(NC) {
        let nc = NC.min(n - j0);
        for k0 in (0..k).step_by(KO) {
            let kc = KO.min(k - k0);
            let right = grown(&mut env.shared, nc.div_ceil(NR) * NR * kc);
            env.pool.each(Chunks::new(right, PACK * kc), &mut env.scratch, |i, out, _| {
                let j = i * PACK;
                pack_right(level, b.from(k0, j0 + j), PACK.min(nc - j), kc, out);
            })?;
            let right = Packed { data: right, depth: kc };
            let start = match bias {
                _ if k0 > 0 => Start::Resume,
                Some(bias) => Start::Bias(&bias[j0..j0 + nc]),
                None => Start::Zero,
            };
            env.pool.each(Chunks::new(&mut *c, mc * n), &mut env.scratch, |i, c, own| {
                let size = Size { m: c.len() / n, n: nc, k: kc };
                block(level, size, a.from(i * mc, k0), right, start, &mut c[j0..], n, &mut own.a);
            })?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
