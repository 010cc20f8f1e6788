//! From f32 to 16-bit integers and a power of two for each line (spec 2.4).

use super::WIDTH;
use crate::env::{Env, Failed};
use crate::isa::multiversion;
use crate::kernel::gemm::Matrix;
use crate::pool::Chunks;

/// Lines per piece of work.
const LINES: usize = 16;

/// The rows of a matrix as integers, each line padded with zeros.
#[derive(Debug, Default)]
pub(crate) struct Operand {
    integers: Vec<i16>,
    /// 2^e of each line; NaN for a line with a number that is not finite.
    scales: Vec<f64>,
    stride: usize,
}

impl Operand {
    /// Line i.
    pub(crate) fn line(&self, i: usize) -> &[i16] {
        &self.integers[i * self.stride..][..self.stride]
    }

    /// What an integer of line i stands for.
    pub(crate) fn scale(&self, i: usize) -> f64 {
        self.scales[i]
    }

    /// The first `rows` rows and `k` columns of `source`.
    pub(crate) fn quantise(
        &mut self,
        env: &mut Env,
        source: Matrix<'_>,
        rows: usize,
        k: usize,
    ) -> Result<(), Failed> {
        let (level, stride) = (env.level, k.next_multiple_of(WIDTH));
        self.stride = stride;
        self.integers.resize(rows * stride, 0);
        self.scales.resize(rows, 0.0);
        let pieces = (Chunks::new(&mut self.integers, LINES * stride), Chunks::new(&mut self.scales, LINES));
        Ok(env.pool.each(pieces, &mut env.scratch, |i, (integers, scales), _| {
            lines(level, source.from(i * LINES, 0), k, stride, integers, scales);
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

/// x as an integer, ties to even; |x| <= 32576.
#[inline(always)]
fn rounded(x: f32) -> i16 {
    const MAGIC: f32 = 12_582_912.0; // 1.5 * 2^23: adding it leaves the rounded integer in the low bits
    ((x + MAGIC).to_bits().wrapping_sub(MAGIC.to_bits())) as i16
}

/// 2^-e, and 2^e.
#[inline(always)]
fn factors(magnitude: u32) -> (f32, f64) {
    match exponent(magnitude) {
        Some(e) => (f32::from_bits(((127 - e) as u32) << 23), f64::from_bits(((1023 + e) as u64) << 52)),
        None => (0.0, f64::NAN),
    }
}

multiversion! {
    fn lines<A>(source: Matrix<'_>, k: usize, stride: usize, integers: &mut [i16], scales: &mut [f64]) {
        let Matrix { data, row, col } = source;
        let n = scales.len();
        let mut magnitudes = [0u32; LINES];
        let mut factor = [0.0f32; LINES];
        if col == 1 {
            for i in 0..n {
                let line = &data[i * row..][..k];
                magnitudes[i] = line.iter().fold(0, |m, x| m.max(x.to_bits() & 0x7fff_ffff));
            }
        } else {
            for step in 0..k {
                for i in 0..n {
                    magnitudes[i] = magnitudes[i].max(data[i * row + step * col].to_bits() & 0x7fff_ffff);
                }
            }
        }
        for i in 0..n {
            (factor[i], scales[i]) = factors(magnitudes[i]);
        }
        for i in 0..n {
            let out = &mut integers[i * stride..][..stride];
            if scales[i].is_nan() {
                out.fill(0);
                continue;
            }
            if col == 1 {
                for (q, x) in out.iter_mut().zip(&data[i * row..][..k]) {
                    *q = rounded(*x * factor[i]);
                }
            } else {
                for step in 0..k {
                    out[step] = rounded(data[i * row + step * col] * factor[i]);
                }
            }
            out[k..].fill(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Spec 9.4: where the exponent steps, and the smallest and largest lines.
    #[test]
    fn exponents_at_every_border() {
        let e = |x: f32| exponent(x.to_bits()).unwrap();
        for (x, largest) in [
            (f32::from_bits(0x3f7e_8000), 32576.0), // 0x7e8000: just fits
            (f32::from_bits(0x3f7e_8001), 16288.0), // 0x7e8001: one more
            (1.0, 16384.0),
            (f32::MAX, 16384.0),
            (2f32.powi(-113), 16384.0),
            (2f32.powi(-115), 4096.0), // the maximum with 14 holds from here on
            (f32::from_bits(1), 0.0),
        ] {
            let (factor, scale) = factors(x.to_bits());
            assert_eq!(f32::from(rounded(x * factor)), largest, "{x:e}, e {}", e(x));
            assert_eq!(f64::from(factor) * scale, 1.0, "{x:e}");
        }
        assert_eq!(factors(0), (1.0, 1.0));
        for bits in [0x7f80_0000, 0x7fc0_0000, 0x7f80_0001] {
            assert!(factors(bits).1.is_nan());
        }
    }

    #[test]
    fn ties_go_to_even() {
        for (x, want) in
            [(0.5, 0), (1.5, 2), (2.5, 2), (-0.5, 0), (-1.5, -2), (32576.0, 32576), (-32575.5, -32576)]
        {
            assert_eq!(rounded(x), want, "{x}");
        }
    }
}
