//! From f32 to 16-bit integers and a power of two for each line (spec 2.4), packed into panels of `W` lines.

use crate::env::{Env, Failed};
use crate::isa::multiversion;
use crate::kernel::gemm::Matrix;
use crate::pool::Chunks;

/// Panels per piece of work.
const PANELS: usize = 4;

/// The rows of a matrix as integers: `words[panel][k / 2][line]`, the even step of k in the lower half of a word. Missing lines and
/// a missing last step are zeros.
#[derive(Debug, Default)]
pub(super) struct Operand<const W: usize> {
    words: Vec<i32>,
    /// 2^e of each line, a panel at a time; NaN for a line with a number that is not finite.
    scales: Vec<[f64; W]>,
    /// Words of a line.
    depth: usize,
}

impl<const W: usize> Operand<W> {
    /// The panel that begins with line i.
    pub(super) fn panel(&self, i: usize) -> &[i32] {
        &self.words[i * self.depth..][..W * self.depth]
    }

    /// What an integer of each line of the panel that begins with line i stands for.
    pub(super) fn scales(&self, i: usize) -> &[f64; W] {
        &self.scales[i / W]
    }

    /// The same of one line.
    pub(super) fn scale(&self, i: usize) -> f64 {
        self.scales[i / W][i % W]
    }

    /// The first `rows` rows and `k` columns of `source`.
    pub(super) fn quantise(
        &mut self,
        env: &mut Env,
        source: Matrix<'_>,
        rows: usize,
        k: usize,
    ) -> Result<(), Failed> {
        let (level, depth, panels) = (env.level, k.div_ceil(2), rows.div_ceil(W));
        self.depth = depth;
        self.words.resize(panels * W * depth, 0);
        self.scales.resize(panels, [0.0; W]);
        let pieces = (
            Chunks::new(&mut self.words[..panels * W * depth], PANELS * W * depth),
            Chunks::new(&mut self.scales[..panels], PANELS),
        );
        Ok(env.pool.each(pieces, &mut env.scratch, |piece, (words, scales), _| {
            let panels = words.chunks_exact_mut(W * depth).zip(scales);
            for (i, (words, scales)) in (piece * PANELS * W..).step_by(W).zip(panels) {
                let lines = W.min(rows - i);
                let source = source.from(i, 0);
                if source.col == 1 {
                    along(level, source, lines, k, words, scales);
                } else {
                    across(level, source, lines, k, words, scales);
                }
            }
        })?)
    }
}

/// The line's exponent: its largest magnitude times 2^-e is at most 32576. `None` if it has a number that is not finite.
#[inline(always)]
fn exponent(magnitude: u32) -> Option<i32> {
    match magnitude {
        0 => Some(0),
        0x7f80_0000.. => None,
        // The maximum keeps 2^-e an f32.
        m => Some((m >> 23).max(14) as i32 - 141 + i32::from(m & 0x007f_ffff > 0x007e_8000)),
    }
}

/// 2^-e, and 2^e. A line that is not finite becomes zeros whose scale is NaN, and so is every sum of them.
#[inline(always)]
fn factors(magnitude: u32) -> (f32, f64) {
    match exponent(magnitude) {
        Some(e) => (f32::from_bits(((127 - e) as u32) << 23), f64::from_bits(((1023 + e) as u64) << 52)),
        None => (0.0, f64::NAN),
    }
}

#[inline(always)]
fn magnitude(x: f32) -> u32 {
    x.to_bits() & 0x7fff_ffff
}

/// x as an integer, ties to even, |x| <= 32576; 0 of a NaN.
#[inline(always)]
fn rounded(x: f32) -> i32 {
    const MAGIC: f32 = 12_582_912.0; // 1.5 * 2^23: adding it leaves the rounded integer in the low bits
    let x = if x.abs() <= 32576.0 { x } else { 0.0 };
    (x + MAGIC).to_bits().wrapping_sub(MAGIC.to_bits()) as i32
}

/// Two steps of a line.
#[inline(always)]
fn word(even: f32, odd: f32, factor: f32) -> i32 {
    (rounded(even * factor) & 0xffff) | (rounded(odd * factor) << 16)
}

multiversion! {
    /// One panel of lines that lie one after the other.
    fn along<A, const W: usize>(
        source: Matrix<'_>, lines: usize, k: usize, words: &mut [i32], scales: &mut [f64; W],
    ) {
        let (words, _) = words.as_chunks_mut::<W>();
        for i in 0..W {
            if i >= lines {
                scales[i] = 1.0;
                words.iter_mut().for_each(|words| words[i] = 0);
                continue;
            }
            let line = &source.data[i * source.row..][..k];
            let (factor, scale) = factors(line.iter().fold(0, |m, x| m.max(magnitude(*x))));
            scales[i] = scale;
            let (pairs, rest) = line.as_chunks::<2>();
            for (words, pair) in words.iter_mut().zip(pairs) {
                words[i] = word(pair[0], pair[1], factor);
            }
            if let ([last], Some(words)) = (rest, words.last_mut()) {
                words[i] = word(*last, 0.0, factor);
            }
        }
    }
}

multiversion! {
    /// One panel of lines that lie side by side: step k of all is one run of memory.
    fn across<A, const W: usize>(
        source: Matrix<'_>, lines: usize, k: usize, words: &mut [i32], scales: &mut [f64; W],
    ) {
        let Matrix { data, row, col } = source;
        let step = |k: usize| {
            let mut x = [0.0f32; W];
            if row == 1 && lines == W {
                x.copy_from_slice(&data[k * col..][..W]);
            } else {
                for i in 0..lines {
                    x[i] = data[i * row + k * col];
                }
            }
            x
        };
        let mut magnitudes = [0u32; W];
        for k in 0..k {
            let x = step(k);
            for i in 0..W {
                magnitudes[i] = magnitudes[i].max(magnitude(x[i]));
            }
        }
        let mut factor = [0.0f32; W];
        for i in 0..W {
            (factor[i], scales[i]) = factors(magnitudes[i]);
        }
        let (words, _) = words.as_chunks_mut::<W>();
        for (pair, words) in words.iter_mut().enumerate() {
            let even = step(2 * pair);
            let odd = if 2 * pair + 1 < k { step(2 * pair + 1) } else { [0.0; W] };
            for i in 0..W {
                words[i] = word(even[i], odd[i], factor[i]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Spec 9.4: where the exponent steps, and the smallest and largest lines.
    #[test]
    fn exponents_at_every_border() {
        for (x, largest) in [
            (f32::from_bits(0x3f7e_8000), 32576), // 0x7e8000: just fits
            (f32::from_bits(0x3f7e_8001), 16288), // 0x7e8001: one more
            (1.0, 16384),
            (f32::MAX, 16384),
            (f32::from_bits((127 - 113) << 23), 16384),
            (f32::from_bits((127 - 115) << 23), 4096), // the maximum with 14 holds from here on
            (f32::from_bits(1), 0),
        ] {
            let (factor, scale) = factors(magnitude(x));
            assert_eq!(rounded(x * factor), largest, "{x:e}");
            assert_eq!(f64::from(factor) * scale, 1.0, "{x:e}");
        }
        assert_eq!(factors(0), (1.0, 1.0));
        for bits in [0x7f80_0000, 0x7fc0_0000, 0x7f80_0001] {
            assert!(factors(bits).1.is_nan());
        }
    }

    #[test]
    fn ties_go_to_even_and_words_hold_both_signs() {
        for (x, want) in
            [(0.5, 0), (1.5, 2), (2.5, 2), (-0.5, 0), (-1.5, -2), (32576.0, 32576), (-32575.5, -32576)]
        {
            assert_eq!(rounded(x), want, "{x}");
            let word = word(x, -x, 1.0);
            assert_eq!((i32::from(word as i16), word >> 16), (want, -want));
        }
    }
}
