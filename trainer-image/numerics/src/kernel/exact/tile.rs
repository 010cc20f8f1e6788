//! The micro-kernel: 6 x 16 sums of products of 16-bit integers, two steps of k at once.
//!
//! Two products of at most 32576^2 fit an i32. Sums of more mostly do too, and [`Bound`] says when. So a sum runs in an i32 over 2
//! to 64 steps of k; then its upper half is carried into a second one, and its lower half, below 2^16, stays. That makes two AVX2
//! instructions for each 16 products, as many as fused multiply-adds of f32 take, but half of them additions, which run on twice as
//! many units; and three for each carry. AVX-512 has registers of twice the size and enough of them for what is carried; with its
//! VNNI extension one instruction multiplies and adds up.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

#[cfg(doc)]
use super::operand::Bound;
use super::operand::{BLOCK, Cut, View};
#[cfg(target_arch = "x86_64")]
use crate::isa::Isa;
use crate::isa::{Level, multiversion};

/// Rows of a tile.
pub(super) const MR: usize = 6;
/// Columns of a tile.
pub(super) const NR: usize = 16;

type Words = [[i32; NR]; MR];

/// The exact sums of a tile.
#[derive(Debug, Default)]
pub(super) struct Sums {
    /// What is not yet carried.
    low: Words,
    /// In units of 2^16.
    high: Words,
    /// Of earlier passes; below 2^53, so an f64 holds them.
    before: Option<[[f64; NR]; MR]>,
}

/// The sums of one pass of `segments` segments.
pub(super) fn tile(
    level: Level,
    cut: Cut,
    segments: usize,
    left: View<'_>,
    right: View<'_>,
    sums: &mut Sums,
) {
    let within = |view: View<'_>, lines: usize| {
        let last = (cut.length - 1) * view.step + (lines - 1) * view.line;
        (segments - 1) * (cut.length * view.step + view.skip) + last < view.pairs.len()
            && segments * (cut.chunks() + view.skip_bounds) <= view.bounds.len() + view.skip_bounds
    };
    assert!(segments > 0 && cut.length.is_multiple_of(BLOCK), "whole blocks");
    assert!(right.line == 1 && right.step == NR, "a panel");
    assert!(within(left, MR) && within(right, NR), "lines of one pass");
    match level.isa() {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => {
            // SAFETY: a `Level` of Avx2 means the CPU has avx2; the asserts above are what the kernel's contract asks for.
            unsafe { avx2::tile(segments, cut.length, left, right, &mut sums.low, &mut sums.high) }
        }
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 if std::is_x86_feature_detected!("avx512vnni") => {
            // SAFETY: a `Level` of Avx512 means the CPU has avx512f and avx512bw; avx512vnni and the rest as above.
            unsafe { avx512::vnni::tile(segments, cut.length, left, right, &mut sums.low, &mut sums.high) }
        }
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => {
            // SAFETY: as above, without avx512vnni.
            unsafe { avx512::madd::tile(segments, cut.length, left, right, &mut sums.low, &mut sums.high) }
        }
        _ => plain(cut, segments, left, right, sums),
    }
}

/// Where the lines begin, in words of a pair; a distance apart that the compiler does not know: else it walks from one to the next,
/// and the walk takes as long as the sums.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn lines_of(left: View<'_>) -> [*const i32; MR] {
    let pairs = left.pairs.as_ptr().cast::<i32>();
    std::hint::black_box(std::array::from_fn(|i| pairs.wrapping_add(i * left.line)))
}

fn plain(cut: Cut, segments: usize, left: View<'_>, right: View<'_>, sums: &mut Sums) {
    for i in 0..MR {
        let mut row = [0i64; NR];
        for pair in 0..segments * cut.length {
            let at = |view: View<'_>, i: usize| {
                let [even, odd] =
                    view.pairs[i * view.line + pair * view.step + pair / cut.length * view.skip];
                (i64::from(even), i64::from(odd))
            };
            let a = at(left, i);
            for (j, sum) in row.iter_mut().enumerate() {
                let b = at(right, j);
                *sum += a.0 * b.0 + a.1 * b.1;
            }
        }
        for (j, sum) in row.into_iter().enumerate() {
            (sums.high[i][j], sums.low[i][j]) = ((sum >> 16) as i32, (sum & 0xffff) as i32);
        }
    }
}

impl Sums {
    /// Before the first pass of another tile.
    pub(super) fn begin(&mut self) {
        self.before = None;
    }

    /// Keeps the sums of a pass while the next one is added.
    pub(super) fn next_pass(&mut self) {
        let before = self.before.get_or_insert_default();
        for (before, (low, high)) in before.iter_mut().zip(self.low.iter().zip(&self.high)) {
            for (before, (low, high)) in before.iter_mut().zip(low.iter().zip(high)) {
                *before += f64::from(*high) * 65536.0 + f64::from(*low);
            }
        }
    }

    /// The rows of `c`, `stride` apart: sums scaled, rounded once, and the bias added.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn finish(
        &self,
        level: Level,
        rows: &[f64; MR],
        columns: &[f64; NR],
        bias: Option<&[f32]>,
        c: &mut [f32],
        stride: usize,
        cols: usize,
    ) {
        // Whole rows are the usual ones: their loops have a fixed length.
        let mut padded = [0.0; NR];
        let bias = bias.map(|bias| match bias.first_chunk::<NR>() {
            Some(bias) => bias,
            None => {
                padded[..cols].copy_from_slice(bias);
                &padded
            }
        });
        finish(level, self, rows, columns, bias, c, stride, cols);
    }
}

multiversion! {
    fn finish<A>(
        sums: &Sums, rows: &[f64; MR], columns: &[f64; NR], bias: Option<&[f32; NR]>, c: &mut [f32], stride: usize, cols: usize,
    ) {
        // Decided here and not in each row: the two would become one copy of a length that is known only there, which is a call.
        if cols == NR {
            for (i, c) in (0..MR).zip(c.chunks_mut(stride)) {
                c[..NR].copy_from_slice(&row(sums, i, rows, columns, bias));
            }
        } else {
            for (i, c) in (0..MR).zip(c.chunks_mut(stride)) {
                c[..cols].copy_from_slice(&row(sums, i, rows, columns, bias)[..cols]);
            }
        }
    }
}

#[inline(always)]
fn row(sums: &Sums, i: usize, rows: &[f64; MR], columns: &[f64; NR], bias: Option<&[f32; NR]>) -> [f32; NR] {
    let mut sum = [0.0; NR];
    for j in 0..NR {
        sum[j] = f64::from(sums.high[i][j]) * 65536.0 + f64::from(sums.low[i][j]);
    }
    if let Some(before) = &sums.before {
        for j in 0..NR {
            sum[j] += before[i][j];
        }
    }
    let mut v = [0.0f32; NR];
    for j in 0..NR {
        v[j] = (sum[j] * (rows[i] * columns[j])) as f32 + 0.0;
    }
    if let Some(bias) = bias {
        for j in 0..NR {
            v[j] += bias[j];
        }
    }
    v
}
