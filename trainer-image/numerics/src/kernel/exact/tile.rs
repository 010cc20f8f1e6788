//! The micro-kernel: 3 x 16 sums of products of 16-bit integers, two steps of k a word.
//!
//! Two products of at most 32576^2 fit an i32. Their sums do not: `low` has them modulo 2^32, and `high` the sum of their upper halves,
//! from which the whole follows as long as the lower halves alone stay below 2^32. So 32 products cost four AVX2 instructions, as
//! many as 32 fused multiply-adds of f32.

use crate::isa::{Isa, Level, multiversion};

/// Rows of a tile.
pub(super) const MR: usize = 3;
/// Columns of a tile.
pub(super) const NR: usize = 16;
/// Words of a line in one pass: upper and lower halves of so many pairs fit 32 bits.
pub(super) const PASS: usize = 1 << 15;

type Words = [[i32; NR]; MR];

/// The exact sums of a tile. Below 2^53, so an f64 holds them.
#[derive(Debug, Default)]
pub(super) struct Sums([[f64; NR]; MR]);

/// Adds one pass over panels of as many words.
pub(super) fn tile(level: Level, left: &[i32], right: &[i32], sums: &mut Sums) {
    let words = right.len() / NR;
    assert!(words <= PASS && left.len() == words * MR && right.len() == words * NR, "panels of one pass");
    let (mut low, mut high) = (Words::default(), Words::default());
    match level.isa() {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 | Isa::Avx512 => {
            // SAFETY: a `Level` of Avx2 or Avx512 means the CPU has avx2; the assert above is what the kernel's contract asks for.
            unsafe { avx2::tile(words, left.as_ptr(), right.as_ptr(), &mut low, &mut high) }
        }
        _ => plain(left, right, &mut low, &mut high),
    }
    join(level, &low, &high, sums);
}

fn plain(left: &[i32], right: &[i32], low: &mut Words, high: &mut Words) {
    let pair = |word: i32| (word as i16 as i32, word >> 16);
    for (left, right) in left.as_chunks::<MR>().0.iter().zip(right.as_chunks::<NR>().0) {
        for (i, a) in left.iter().enumerate() {
            for (j, b) in right.iter().enumerate() {
                let ((a0, a1), (b0, b1)) = (pair(*a), pair(*b));
                let p = a0 * b0 + a1 * b1;
                low[i][j] = low[i][j].wrapping_add(p);
                high[i][j] += p >> 16;
            }
        }
    }
}

multiversion! {
    fn join<A>(low: &Words, high: &Words, sums: &mut Sums) {
        for i in 0..MR {
            for j in 0..NR {
                let (low, high) = (low[i][j], high[i][j]);
                let lower = low.wrapping_sub(high << 16) as u32;
                sums.0[i][j] += f64::from(high) * 65536.0 + f64::from(lower);
            }
        }
    }
}

multiversion! {
    /// One row of a tile: scaled, rounded once, and the bias added.
    pub(super) fn finish<A>(
        sums: &Sums, row: usize, scale: f64, scales: &[f64; NR], bias: Option<&[f32]>, c: &mut [f32],
    ) {
        let mut v = [0.0f32; NR];
        for j in 0..NR {
            v[j] = (sums.0[row][j] * (scale * scales[j])) as f32 + 0.0;
        }
        match bias {
            Some(bias) => c.iter_mut().zip(v).zip(bias).for_each(|((c, v), b)| *c = b + v),
            None => c.copy_from_slice(&v[..c.len()]),
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::{
        __m256i, _mm256_add_epi32, _mm256_loadu_si256, _mm256_madd_epi16, _mm256_set1_epi32,
        _mm256_setzero_si256, _mm256_srai_epi32, _mm256_storeu_si256,
    };

    use super::{MR, NR, Words};

    /// 12 accumulators of 8 lanes, 2 for the right operand, 2 for what is multiplied: all 16 registers.
    ///
    /// # Safety
    /// The CPU has avx2. `left` has words * MR elements, `right` words * NR.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn tile(
        words: usize,
        mut left: *const i32,
        mut right: *const i32,
        low: &mut Words,
        high: &mut Words,
    ) {
        let mut lows = [[_mm256_setzero_si256(); 2]; MR];
        let mut highs = lows;
        // SAFETY (all accesses): inside the lengths that the contract states, and inside the tiles, which have MR rows of 16.
        unsafe {
            for _ in 0..words {
                let b = [_mm256_loadu_si256(right.cast()), _mm256_loadu_si256(right.add(8).cast())];
                for i in 0..MR {
                    let a = _mm256_set1_epi32(*left.add(i));
                    for half in 0..2 {
                        let p = _mm256_madd_epi16(a, b[half]);
                        lows[i][half] = _mm256_add_epi32(lows[i][half], p);
                        highs[i][half] = _mm256_add_epi32(highs[i][half], _mm256_srai_epi32::<16>(p));
                    }
                }
                left = left.add(MR);
                right = right.add(NR);
            }
            for i in 0..MR {
                for half in 0..2 {
                    let place = |tile: &mut Words| tile[i].as_mut_ptr().add(8 * half).cast::<__m256i>();
                    _mm256_storeu_si256(place(low), lows[i][half]);
                    _mm256_storeu_si256(place(high), highs[i][half]);
                }
            }
        }
    }
}
