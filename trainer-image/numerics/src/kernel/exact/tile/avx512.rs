//! Sixteen sums in a register, with the VNNI extension and without it.

/// Defines `tile` for these CPU features; `$add` is how the products of 16 pairs are added to sums.
macro_rules! tile {
    ($features:literal, $add:expr) => {
        /// For each row one register of sums of even steps, one of odd steps, so that a sum does not wait for the one before, and one
        /// of what is carried: 18, and 3 for the operands, of 32.
        ///
        /// # Safety
        /// The CPU has the features named. `left` has MR lines, `right` NR lines side by side, of `segments` segments of `length`
        /// pairs, a multiple of 8, and both have bounds for all chunks.
        #[target_feature(enable = $features)]
        pub(in super::super) unsafe fn tile(
            segments: usize,
            length: usize,
            left: View<'_>,
            right: View<'_>,
            low: &mut Words,
            high: &mut Words,
        ) {
            let add = $add;
            let (lines, mut b) = (lines_of(left), right.pairs.as_ptr().cast::<i32>());
            let mut at = 0;
            let (mut bound_a, mut bound_b) = (left.bounds.as_ptr(), right.bounds.as_ptr());
            let zero = _mm512_setzero_si512();
            let mut even = [zero; MR];
            let mut carried = [zero; MR];
            // SAFETY (all accesses): inside the lengths that the contract states, none of which needs to be aligned, and inside the
            // tiles, which have MR rows of 16. The last steps may leave the operands behind; nothing is read there.
            unsafe {
                for _ in 0..segments {
                    let mut pairs = length;
                    while pairs > 0 {
                        let chunk = pairs.min(CHUNK);
                        pairs -= chunk;
                        let run = (*bound_a).run(*bound_b, chunk);
                        (bound_a, bound_b) = (bound_a.wrapping_add(1), bound_b.wrapping_add(1));
                        for _ in 0..chunk >> run {
                            let mut odd = [zero; MR];
                            let mut step = |sums: &mut [__m512i; MR]| {
                                let right = _mm512_loadu_si512(b.cast());
                                for (sum, line) in sums.iter_mut().zip(lines) {
                                    let left = _mm512_set1_epi32(line.add(at).read_unaligned());
                                    *sum = add(*sum, left, right);
                                }
                                at += left.step;
                                b = b.wrapping_add(NR);
                            };
                            match run {
                                0 => step(&mut even),
                                _ => {
                                    for _ in 0..1usize << (run - 1) {
                                        step(&mut even);
                                        step(&mut odd);
                                    }
                                }
                            }
                            for i in 0..MR {
                                let sum = _mm512_add_epi32(even[i], odd[i]);
                                carried[i] = _mm512_add_epi32(carried[i], _mm512_srai_epi32::<16>(sum));
                                even[i] = _mm512_and_si512(sum, _mm512_set1_epi32(0xffff));
                            }
                        }
                    }
                    at += left.skip;
                    b = b.wrapping_add(right.skip);
                    bound_a = bound_a.wrapping_add(left.skip_bounds);
                    bound_b = bound_b.wrapping_add(right.skip_bounds);
                }
                for i in 0..MR {
                    _mm512_storeu_si512(low[i].as_mut_ptr().cast(), even[i]);
                    _mm512_storeu_si512(high[i].as_mut_ptr().cast(), carried[i]);
                }
            }
        }
    };
}

/// One instruction for two products of each lane and their sum.
pub(super) mod vnni {
    use std::arch::x86_64::{
        __m512i, _mm512_add_epi32, _mm512_and_si512, _mm512_dpwssd_epi32, _mm512_loadu_si512,
        _mm512_set1_epi32, _mm512_setzero_si512, _mm512_srai_epi32, _mm512_storeu_si512,
    };

    use crate::kernel::exact::operand::{CHUNK, View};
    use crate::kernel::exact::tile::{MR, NR, Words, lines_of};

    tile! {
        "avx512f,avx512bw,avx512vnni",
        |sum, left, right| _mm512_dpwssd_epi32(sum, left, right)
    }
}

/// Two instructions.
pub(super) mod madd {
    use std::arch::x86_64::{
        __m512i, _mm512_add_epi32, _mm512_and_si512, _mm512_loadu_si512, _mm512_madd_epi16,
        _mm512_set1_epi32, _mm512_setzero_si512, _mm512_srai_epi32, _mm512_storeu_si512,
    };

    use crate::kernel::exact::operand::{CHUNK, View};
    use crate::kernel::exact::tile::{MR, NR, Words, lines_of};

    tile! {
        "avx512f,avx512bw",
        |sum, left, right| _mm512_add_epi32(sum, _mm512_madd_epi16(left, right))
    }
}
