//! Packing operands into panels, padded with +0 that no kept result sees.

use super::Matrix;
use super::tile::{MR, NR};
use crate::isa::multiversion;

multiversion! {
    /// `m` rows and `k` columns of `a` as panels of `MR` rows: `out[panel][k][row]`.
    pub(crate) fn pack_left<A>(a: Matrix<'_>, m: usize, k: usize, out: &mut [f32]) {
        for (i, out) in (0..m).step_by(MR).zip(out.chunks_exact_mut(MR * k)) {
            panel::<MR>(a.from(i, 0), MR.min(m - i), k, out);
        }
    }
}

multiversion! {
    /// `k` rows and `n` columns of `b` as panels of `NR` columns: `out[panel][k][column]`.
    pub(crate) fn pack_right<A>(b: Matrix<'_>, n: usize, k: usize, out: &mut [f32]) {
        let b = b.transposed();
        for (j, out) in (0..n).step_by(NR).zip(out.chunks_exact_mut(NR * k)) {
            panel::<NR>(b.from(j, 0), NR.min(n - j), k, out);
        }
    }
}

/// One panel: `out[k * W + i]` = source (i, k) for i < `rows`, else +0.
#[inline(always)]
fn panel<const W: usize>(source: Matrix<'_>, rows: usize, k: usize, out: &mut [f32]) {
    let Matrix { data, row, col } = source;
    let (out, _) = out.as_chunks_mut::<W>();
    let out = &mut out[..k];
    if rows < W {
        out.fill([0.0; W]);
    }
    if row == 1 && rows == W {
        for (k, out) in out.iter_mut().enumerate() {
            out.copy_from_slice(&data[k * col..k * col + W]);
        }
    } else if col == 1 {
        transpose::<W>(data, row, rows, out);
    } else {
        for (k, out) in out.iter_mut().enumerate() {
            for (i, out) in out.iter_mut().enumerate().take(rows) {
                *out = data[i * row + k * col];
            }
        }
    }
}

/// Rows of `out.len()` contiguous elements, `row` apart, to columns.
#[inline(always)]
fn transpose<const W: usize>(data: &[f32], row: usize, rows: usize, out: &mut [[f32; W]]) {
    let k = out.len();
    if rows == W {
        let lines: [&[f32]; W] = std::array::from_fn(|i| &data[i * row..][..k]);
        for (k, out) in out.iter_mut().enumerate() {
            for (out, line) in out.iter_mut().zip(&lines) {
                *out = line[k];
            }
        }
    } else {
        for i in 0..rows {
            for (out, x) in out.iter_mut().zip(&data[i * row..][..k]) {
                out[i] = *x;
            }
        }
    }
}
