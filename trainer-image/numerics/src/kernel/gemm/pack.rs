//! Packing operands into panels, padded with +0 that no kept result sees.

use super::Matrix;
use super::tile::{MR, NR};
use crate::isa::multiversion;

multiversion! {
    /// `m` rows and `k` columns of `a` as panels of `MR` rows: `out[panel][k][row]`.
    pub(crate) fn pack_left<A>(a: Matrix<'_>, m: usize, k: usize, out: &mut [f32]) {
        panels::<MR>(a, m, k, out);
    }
}

multiversion! {
    /// `k` rows and `n` columns of `b` as panels of `NR` columns: `out[panel][k][column]`.
    pub(crate) fn pack_right<A>(b: Matrix<'_>, n: usize, k: usize, out: &mut [f32]) {
        panels::<NR>(b.transposed(), n, k, out);
    }
}

#[inline(always)]
fn panels<const W: usize>(source: Matrix<'_>, rows: usize, k: usize, out: &mut [f32]) {
    let mut done = 0;
    if source.row == 1 {
        done = rows / W * W;
        interleave::<W>(source, done / W, k, out);
    }
    while done < rows {
        panel::<W>(source.from(done, 0), W.min(rows - done), k, &mut out[done * k..]);
        done += W;
    }
}

/// Whole panels of a source whose rows lie side by side: all panels advance together, so that memory is
/// read in long runs.
#[inline(always)]
fn interleave<const W: usize>(source: Matrix<'_>, panels: usize, k: usize, out: &mut [f32]) {
    let (out, _) = out.as_chunks_mut::<W>();
    for step in 0..k {
        let line = &source.data[step * source.col..];
        for panel in 0..panels {
            if let Some(line) = line[panel * W..].first_chunk::<W>() {
                out[panel * k + step] = *line;
            }
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
    assert!(k > 0 && data.len() >= (W - 1) * row + k, "W rows of k elements");
    let (rows, depth) = if cfg!(target_arch = "x86_64") { (W / 4 * 4, k / 4 * 4) } else { (0, 0) };
    #[cfg(target_arch = "x86_64")]
    for k in (0..depth).step_by(4) {
        for i in (0..rows).step_by(4) {
            let (from, to) = (data.as_ptr(), out.as_mut_ptr());
            // SAFETY: rows i .. i + 4 <= W have elements k .. k + 4 <= out.len() by the assert, and `out`
            // has as many lines of W >= i + 4 elements.
            unsafe { quad(from.add(i * row + k), row, to.add(k).cast::<f32>().add(i), W) };
        }
    }
    for i in 0..W {
        let line = &data[i * row..][..k];
        let done = if i < rows { depth } else { 0 };
        for k in done..k {
            out[k][i] = line[k];
        }
    }
}

/// Four elements of four lines, `row` apart, to four columns, `stride` apart.
///
/// # Safety
/// `from` may be read and `out` written at four places `row` and `stride` apart, 4 elements each.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn quad(from: *const f32, row: usize, out: *mut f32, stride: usize) {
    use std::arch::x86_64::{_mm_loadu_ps, _mm_movehl_ps, _mm_movelh_ps, _mm_storeu_ps};
    use std::arch::x86_64::{_mm_unpackhi_ps, _mm_unpacklo_ps};
    // SAFETY: inside the places of the contract; SSE is part of x86-64.
    unsafe {
        let (a, b) = (_mm_loadu_ps(from), _mm_loadu_ps(from.add(row)));
        let (c, d) = (_mm_loadu_ps(from.add(2 * row)), _mm_loadu_ps(from.add(3 * row)));
        let (ab, cd) = (_mm_unpacklo_ps(a, b), _mm_unpacklo_ps(c, d));
        _mm_storeu_ps(out, _mm_movelh_ps(ab, cd));
        _mm_storeu_ps(out.add(stride), _mm_movehl_ps(cd, ab));
        let (ab, cd) = (_mm_unpackhi_ps(a, b), _mm_unpackhi_ps(c, d));
        _mm_storeu_ps(out.add(2 * stride), _mm_movelh_ps(ab, cd));
        _mm_storeu_ps(out.add(3 * stride), _mm_movehl_ps(cd, ab));
    }
}
