//! Eight sums in a register.

use std::arch::x86_64::{
    __m256i, _mm256_add_epi32, _mm256_blend_epi16, _mm256_loadu_si256, _mm256_madd_epi16, _mm256_set1_epi32,
    _mm256_setzero_si256, _mm256_srai_epi32, _mm256_storeu_si256,
};
use std::hint::black_box;

use super::{MR, NR, Words, lines_of};
use crate::kernel::exact::operand::{CHUNK, View};

/// 12 sums of 8 lanes, 2 for the right operand, 1 for the left, 1 for a product: all 16 registers. What is carried lies in
/// memory.
///
/// # Safety
/// The CPU has avx2. `left` has MR lines, `right` NR lines side by side, of `segments` segments of `length` pairs, a multiple of
/// 8, and both have bounds for all chunks.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn tile(
    segments: usize,
    length: usize,
    left: View<'_>,
    right: View<'_>,
    low: &mut Words,
    high: &mut Words,
) {
    let (lines, mut b) = (lines_of(left), right.pairs.as_ptr().cast::<i32>());
    let mut at = 0;
    let (mut bound_a, mut bound_b) = (left.bounds.as_ptr(), right.bounds.as_ptr());
    let mut sums = [[_mm256_setzero_si256(); 2]; MR];
    // SAFETY (all accesses): inside the lengths that the contract states, none of which needs to be aligned, and inside the
    // tiles, which have MR rows of 16. The last steps may leave the operands behind; nothing is read there.
    unsafe {
        for i in 0..MR {
            for half in 0..2 {
                _mm256_storeu_si256(high[i].as_mut_ptr().add(8 * half).cast(), sums[i][half]);
            }
        }
        for _ in 0..segments {
            let mut pairs = length;
            while pairs > 0 {
                let chunk = pairs.min(CHUNK);
                pairs -= chunk;
                let run = (*bound_a).run(*bound_b, chunk);
                (bound_a, bound_b) = (bound_a.wrapping_add(1), bound_b.wrapping_add(1));
                for _ in 0..chunk >> run {
                    // Of a length that the compiler does not know: unrolled, the products would be added up in an order that needs
                    // more registers.
                    for _ in 0..1usize << run {
                        let right = [_mm256_loadu_si256(b.cast()), _mm256_loadu_si256(b.add(8).cast())];
                        for i in 0..MR {
                            let left = _mm256_set1_epi32(lines[i].add(at).read_unaligned());
                            for half in 0..2 {
                                let products = _mm256_madd_epi16(left, right[half]);
                                sums[i][half] = _mm256_add_epi32(sums[i][half], products);
                            }
                        }
                        at += left.step;
                        b = b.wrapping_add(NR);
                    }
                    // In memory, whatever the compiler thinks: there are no registers left.
                    let high = black_box(high.as_mut_ptr()).cast::<i32>();
                    for i in 0..MR {
                        for half in 0..2 {
                            let place = high.add(i * NR + 8 * half).cast::<__m256i>();
                            let upper = _mm256_srai_epi32::<16>(sums[i][half]);
                            _mm256_storeu_si256(place, _mm256_add_epi32(_mm256_loadu_si256(place), upper));
                            sums[i][half] = _mm256_blend_epi16::<0xaa>(sums[i][half], _mm256_setzero_si256());
                        }
                    }
                }
            }
            at += left.skip;
            b = b.wrapping_add(right.skip);
            bound_a = bound_a.wrapping_add(left.skip_bounds);
            bound_b = bound_b.wrapping_add(right.skip_bounds);
        }
        for i in 0..MR {
            for half in 0..2 {
                let place = low[i].as_mut_ptr().add(8 * half).cast::<__m256i>();
                _mm256_storeu_si256(place, sums[i][half]);
            }
        }
    }
}
