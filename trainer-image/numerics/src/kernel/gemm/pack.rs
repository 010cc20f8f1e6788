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
///
/// Indexed loops on purpose: inside a target-feature function LLVM does not inline iterator adaptors
/// that pass pairs around, and here they would run once per step of k.
#[inline(always)]
fn panel<const W: usize>(source: Matrix<'_>, rows: usize, k: usize, out: &mut [f32]) {
    let Matrix { data, row, col } = source;
    let (out, _) = out.as_chunks_mut::<W>();
    let out = &mut out[..k];
    if rows < W {
        out.fill([0.0; W]);
        for k in 0..k {
            for i in 0..rows {
                out[k][i] = data[i * row + k * col];
            }
        }
    } else if row == 1 {
        for k in 0..k {
            if let Some(line) = data[k * col..].first_chunk::<W>() {
                out[k] = *line;
            }
        }
    } else if col == 1 {
        transpose::<W>(data, row, out);
    } else {
        for k in 0..k {
            for i in 0..W {
                out[k][i] = data[i * row + k * col];
            }
        }
    }
}

/// W rows of `out.len()` contiguous elements, `row` apart, to columns.
#[inline(always)]
fn transpose<const W: usize>(data: &[f32], row: usize, out: &mut [[f32; W]]) {
    let k = out.len();
    let quads = if cfg!(target_arch = "x86_64") { (W / 4 * 4, k / 4 * 4) } else { (0, 0) };
    #[cfg(target_arch = "x86_64")]
    for i in (0..quads.0).step_by(4) {
        let line = &data[i * row..];
        let lines = [&line[..k], &line[row..][..k], &line[2 * row..][..k], &line[3 * row..][..k]];
        for k in (0..quads.1).step_by(4) {
            // SAFETY: k + 4 <= out.len() = the length of every line, and i + 4 <= W.
            unsafe { quad(lines, k, out.as_mut_ptr().add(k).cast::<f32>().add(i), W) };
        }
    }
    for i in 0..W {
        let line = &data[i * row..][..k];
        let done = if i < quads.0 { quads.1 } else { 0 };
        for k in done..k {
            out[k][i] = line[k];
        }
    }
}

/// Four elements of four rows to four columns, `stride` apart.
///
/// # Safety
/// Every line has k + 4 elements; `out` may be written at four places `stride` apart, 4 elements each.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn quad(lines: [&[f32]; 4], k: usize, out: *mut f32, stride: usize) {
    use std::arch::x86_64::{_mm_loadu_ps, _mm_movehl_ps, _mm_movelh_ps, _mm_storeu_ps};
    use std::arch::x86_64::{_mm_unpackhi_ps, _mm_unpacklo_ps};
    // SAFETY: inside the lengths of the contract; SSE is part of x86-64.
    unsafe {
        let a = _mm_loadu_ps(lines[0].as_ptr().add(k));
        let b = _mm_loadu_ps(lines[1].as_ptr().add(k));
        let c = _mm_loadu_ps(lines[2].as_ptr().add(k));
        let d = _mm_loadu_ps(lines[3].as_ptr().add(k));
        let (ab, cd) = (_mm_unpacklo_ps(a, b), _mm_unpacklo_ps(c, d));
        _mm_storeu_ps(out, _mm_movelh_ps(ab, cd));
        _mm_storeu_ps(out.add(stride), _mm_movehl_ps(cd, ab));
        let (ab, cd) = (_mm_unpackhi_ps(a, b), _mm_unpackhi_ps(c, d));
        _mm_storeu_ps(out.add(2 * stride), _mm_movelh_ps(ab, cd));
        _mm_storeu_ps(out.add(3 * stride), _mm_movehl_ps(cd, ab));
    }
}
