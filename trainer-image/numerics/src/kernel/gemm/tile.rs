//! The micro-kernel: a tile of 6 x 16 results whose chains run side by side, in registers under AVX2; two
//! such tiles at once under AVX-512.

use super::Matrix;
#[cfg(target_arch = "x86_64")]
use crate::isa::Isa;
use crate::isa::{Arith, Emulated, Level};

/// Rows of a tile.
pub(crate) const MR: usize = 6;
/// Columns of a tile.
pub(crate) const NR: usize = 16;

/// What a chain begins with.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Start<'a> {
    /// +0.
    Zero,
    /// The bias of the column.
    Bias(&'a [f32]),
    /// What the result holds: the chain over earlier k.
    Resume,
}

impl<'a> Start<'a> {
    /// The start of the columns `from .. from + len`.
    pub(crate) fn columns(self, from: usize, len: usize) -> Start<'a> {
        match self {
            Start::Bias(bias) => Start::Bias(&bias[from..from + len]),
            other => other,
        }
    }
}

/// Runs `right.len() / NR` steps of the chains of one tile of `rows` x `cols` results, which lie
/// `stride` apart in `c`. `left` has MR rows, whatever `rows` is. Every pass ends with + (+0): in the middle
/// of a chain that is neutral, since a chain of -0 and one of +0 both end as +0 unless a term other than zero
/// comes.
#[allow(clippy::too_many_arguments)]
#[inline]
pub(crate) fn tile(
    level: Level,
    left: Matrix<'_>,
    right: &[f32],
    start: Start<'_>,
    c: &mut [f32],
    stride: usize,
    rows: usize,
    cols: usize,
) {
    let k = right.len() / NR;
    assert!(has_steps(left, k), "k steps of MR rows");
    #[cfg(target_arch = "x86_64")]
    if level.isa() != Isa::Portable && rows == MR && cols == NR {
        assert!(c.len() >= (MR - 1) * stride + NR, "a tile inside the result");
        if let Start::Bias(bias) = start {
            assert!(bias.len() >= NR, "a bias per column");
        }
        // SAFETY: a `Level` of Avx2 or Avx512 means the CPU has avx2 and fma; the asserts above are the
        // lengths that the kernel's contract asks for.
        return unsafe { avx2::tile(k, left, right.as_ptr(), start, c.as_mut_ptr(), stride) };
    }

    let mut acc = [[0.0; NR]; MR];
    for (i, acc) in acc.iter_mut().enumerate().take(rows) {
        match start {
            Start::Zero => {}
            Start::Bias(bias) => acc[..cols].copy_from_slice(&bias[..cols]),
            Start::Resume => acc[..cols].copy_from_slice(&c[i * stride..][..cols]),
        }
    }
    match level.isa() {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 | Isa::Avx512 => {
            let acc = acc.as_flattened_mut();
            // SAFETY: as above; the tile is a whole one in `acc`.
            unsafe { avx2::tile(k, left, right.as_ptr(), Start::Resume, acc.as_mut_ptr(), NR) }
        }
        _ => plain::<Emulated>(left, right, &mut acc),
    }
    for (i, acc) in acc.iter().enumerate().take(rows) {
        c[i * stride..][..cols].copy_from_slice(&acc[..cols]);
    }
}

/// Whether `left` has `k` steps of MR rows.
fn has_steps(left: Matrix<'_>, k: usize) -> bool {
    k == 0 || (MR - 1) * left.row + (k - 1) * left.col < left.data.len()
}

/// Where the rows begin, a distance apart that the compiler does not know: else it walks from one to the next, which takes as long as
/// the sums.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn rows_of(left: Matrix<'_>) -> [*const f32; MR] {
    let data = left.data.as_ptr();
    std::hint::black_box(std::array::from_fn(|i| data.wrapping_add(i * left.row)))
}

/// Two tiles side by side, where the instruction set does them at once: whole tiles only. Whether it did.
#[inline]
pub(crate) fn tile_pair(
    level: Level,
    left: Matrix<'_>,
    right: [&[f32]; 2],
    start: Start<'_>,
    c: &mut [f32],
    stride: usize,
) -> bool {
    #[cfg(target_arch = "x86_64")]
    if level.isa() == Isa::Avx512 {
        let k = right[0].len() / NR;
        assert!(has_steps(left, k) && right[1].len() >= k * NR, "panels of k steps");
        assert!(c.len() >= (MR - 1) * stride + 2 * NR, "two tiles inside the result");
        if let Start::Bias(bias) = start {
            assert!(bias.len() >= 2 * NR, "a bias per column");
        }
        let right = right.map(<[f32]>::as_ptr);
        // SAFETY: a `Level` of Avx512 means the CPU has avx512f; the asserts above are the lengths that
        // the kernel's contract asks for.
        unsafe { avx512::tile_pair(k, left, right, start, c.as_mut_ptr(), stride) };
        return true;
    }
    let _ = (level, left, right, start, c, stride);
    false
}

/// The tile in plain Rust.
fn plain<A: Arith>(left: Matrix<'_>, right: &[f32], acc: &mut [[f32; NR]; MR]) {
    let (right, _) = right.as_chunks::<NR>();
    for (k, right) in right.iter().enumerate() {
        for (i, acc) in acc.iter_mut().enumerate() {
            let a = left.data[i * left.row + k * left.col];
            for (acc, b) in acc.iter_mut().zip(right) {
                *acc = A::fma(a, *b, *acc);
            }
        }
    }
    for x in acc.as_flattened_mut() {
        *x += 0.0;
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::{
        _mm256_add_ps, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_setzero_ps, _mm256_storeu_ps,
    };

    use super::{MR, Matrix, NR, Start, rows_of};

    /// 12 accumulators of 8 lanes, 2 for the right operand, 1 for the left: 15 of 16 registers.
    ///
    /// # Safety
    /// The CPU has avx2 and fma. `left` has k steps of MR rows, `right` k * NR elements, `c` the tile's MR rows of NR
    /// elements `stride` apart, writable and not overlapping the others; a bias has NR elements.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn tile(
        k: usize,
        left: Matrix<'_>,
        mut right: *const f32,
        start: Start<'_>,
        c: *mut f32,
        stride: usize,
    ) {
        let rows = rows_of(left);
        let mut at = 0usize;
        let mut acc = [[_mm256_setzero_ps(); 2]; MR];
        // SAFETY (all accesses below): inside the lengths that the contract states.
        unsafe {
            match start {
                Start::Zero => {}
                Start::Bias(bias) => {
                    let bias = [_mm256_loadu_ps(bias.as_ptr()), _mm256_loadu_ps(bias.as_ptr().add(8))];
                    acc = [bias; MR];
                }
                Start::Resume => {
                    for (i, acc) in acc.iter_mut().enumerate() {
                        let row = c.add(i * stride);
                        *acc = [_mm256_loadu_ps(row), _mm256_loadu_ps(row.add(8))];
                    }
                }
            }
            for _ in 0..k {
                let b = [_mm256_loadu_ps(right), _mm256_loadu_ps(right.add(8))];
                for (i, acc) in acc.iter_mut().enumerate() {
                    let a = _mm256_set1_ps(*rows[i].add(at));
                    acc[0] = _mm256_fmadd_ps(a, b[0], acc[0]);
                    acc[1] = _mm256_fmadd_ps(a, b[1], acc[1]);
                }
                at = at.wrapping_add(left.col);
                right = right.add(NR);
            }
            let zero = _mm256_setzero_ps();
            for (i, acc) in acc.iter().enumerate() {
                let row = c.add(i * stride);
                _mm256_storeu_ps(row, _mm256_add_ps(acc[0], zero));
                _mm256_storeu_ps(row.add(8), _mm256_add_ps(acc[1], zero));
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::{
        _mm512_add_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
    };

    use super::{MR, Matrix, NR, Start, rows_of};

    /// 12 accumulators of 16 lanes: enough chains in flight for two FMA units of four cycles.
    ///
    /// # Safety
    /// The CPU has avx512f. `left` has k steps of MR rows, each of `right` k * NR elements, `c` MR rows of 2 NR
    /// elements `stride` apart, writable and not overlapping the others; a bias has 2 NR elements.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn tile_pair(
        k: usize,
        left: Matrix<'_>,
        right: [*const f32; 2],
        start: Start<'_>,
        c: *mut f32,
        stride: usize,
    ) {
        let [mut right0, mut right1] = right;
        let rows = rows_of(left);
        let mut at = 0usize;
        let mut acc = [[_mm512_setzero_ps(); 2]; MR];
        // SAFETY (all accesses below): inside the lengths that the contract states.
        unsafe {
            match start {
                Start::Zero => {}
                Start::Bias(bias) => {
                    acc = [[_mm512_loadu_ps(bias.as_ptr()), _mm512_loadu_ps(bias.as_ptr().add(NR))]; MR];
                }
                Start::Resume => {
                    for (i, acc) in acc.iter_mut().enumerate() {
                        let row = c.add(i * stride);
                        *acc = [_mm512_loadu_ps(row), _mm512_loadu_ps(row.add(NR))];
                    }
                }
            }
            for _ in 0..k {
                let b = [_mm512_loadu_ps(right0), _mm512_loadu_ps(right1)];
                for (i, acc) in acc.iter_mut().enumerate() {
                    let a = _mm512_set1_ps(*rows[i].add(at));
                    acc[0] = _mm512_fmadd_ps(a, b[0], acc[0]);
                    acc[1] = _mm512_fmadd_ps(a, b[1], acc[1]);
                }
                at = at.wrapping_add(left.col);
                right0 = right0.add(NR);
                right1 = right1.add(NR);
            }
            let zero = _mm512_setzero_ps();
            for (i, acc) in acc.iter().enumerate() {
                let row = c.add(i * stride);
                _mm512_storeu_ps(row, _mm512_add_ps(acc[0], zero));
                _mm512_storeu_ps(row.add(NR), _mm512_add_ps(acc[1], zero));
            }
        }
    }
}
