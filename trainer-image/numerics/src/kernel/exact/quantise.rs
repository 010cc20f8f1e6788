//! From f32 to 16-bit integers and a power of two for each line (spec 2.4).

use super::operand::{Bound, CHUNK, Cut, Layout, Operand, SIZES};
use crate::env::{Env, Failed};
use crate::isa::multiversion;
use crate::kernel::gemm::Matrix;
use crate::pool::Chunks;

impl<const W: usize, const T: usize> Operand<W, T> {
    /// The first `lines` rows and `k` columns of `source`. Rows that are runs of memory are laid out as `layout` says, lines or
    /// panels; others as segments.
    pub(super) fn quantise(
        &mut self,
        env: &mut Env,
        source: Matrix<'_>,
        lines: usize,
        k: usize,
        cut: Cut,
        layout: Layout,
    ) -> Result<(), Failed> {
        self.begin(lines, cut);
        if source.col != 1 {
            return self.columns(env, source, lines, k);
        }
        self.layout = layout;
        let (level, pairs, pitch) = (env.level, cut.pairs(), cut.pitch());
        let panel = W * if layout == Layout::Lines { pitch } else { pairs };
        let bounds = W / T * cut.segments * cut.chunks();
        let pieces = (
            Chunks::new(&mut self.pairs[..self.panels * panel], panel),
            Chunks::new(&mut self.scales, W),
            Chunks::new(&mut self.bounds[..self.panels * bounds], bounds),
        );
        Ok(env.pool.each(pieces, &mut env.scratch, |panel, (out, scales, bounds), own| {
            if layout == Layout::Lines {
                quantise_lines::<W, T>(level, source, panel * W, lines, k, cut, out, scales, bounds);
                return;
            }
            own.pairs.resize(W * pitch, [0; 2]);
            quantise_lines::<W, T>(level, source, panel * W, lines, k, cut, &mut own.pairs, scales, bounds);
            let (out, _) = out.as_chunks_mut::<W>();
            for i in 0..W {
                for (out, pair) in out.iter_mut().zip(&own.pairs[i * pitch..][..pairs]) {
                    out[i] = *pair;
                }
            }
        })?)
    }

    /// Lines that lie side by side: step k of all is a run of memory. Read in that order, twice.
    fn columns(&mut self, env: &mut Env, source: Matrix<'_>, lines: usize, k: usize) -> Result<(), Failed> {
        let (level, Cut { segments, length }) = (env.level, self.cut);
        if source.row != 1 && lines > 1 {
            return Err(Failed::Plan);
        }
        self.layout = Layout::Segments;
        let padded = self.panels * W;
        self.magnitudes.resize(segments * lines, 0);
        env.pool.each(
            Chunks::new(&mut self.magnitudes, lines),
            &mut env.scratch,
            |segment, largest, _| {
                let steps = 2 * segment * length..k.min(2 * (segment + 1) * length);
                largest.fill(0);
                for step in steps {
                    magnitudes(level, &source.data[step * source.col..][..lines], largest);
                }
            },
        )?;
        self.factors.clear();
        self.factors.resize(padded, 0.0);
        self.scales.fill(1.0);
        let (largest, others) = self.magnitudes.split_at_mut(lines);
        for other in others.chunks_exact(lines) {
            for (a, b) in largest.iter_mut().zip(other) {
                *a = (*a).max(*b);
            }
        }
        for ((m, factor), scale) in largest.iter().zip(&mut self.factors).zip(&mut self.scales) {
            (*factor, *scale) = factors(*m);
        }

        let (chunks, factors) = (self.cut.chunks(), &self.factors);
        let pieces = (
            Chunks::new(&mut self.pairs[..padded * length * segments], padded * length),
            Chunks::new(&mut self.bounds[..padded / T * chunks * segments], padded / T * chunks),
        );
        Ok(env.pool.each(pieces, &mut env.scratch, |segment, (out, bounds), _| {
            let panels = out.chunks_exact_mut(length * W).zip(bounds.chunks_exact_mut(W / T * chunks));
            for (panel, (out, bounds)) in panels.enumerate() {
                let (i, first) = (panel * W, 2 * segment * length);
                quantise_columns::<W, T>(
                    level,
                    source,
                    i,
                    lines.min(i + W),
                    first,
                    k,
                    &factors[i..],
                    out,
                    bounds,
                );
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

/// 2^-e, and 2^e. The scale of a line that is not finite is NaN, and so is every result of it, whatever its integers.
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

/// 1.5 * 2^23: adding it leaves the integer next to |x| <= 2^22, ties to even, in the low bits.
const MAGIC: f32 = 12_582_912.0;

/// x, |x| <= 32576, as the integer next to it and as the f32 of that. Of a NaN anything.
#[inline(always)]
fn rounded(x: f32) -> (i16, f32) {
    let sum = x + MAGIC;
    (sum.to_bits() as i16, sum - MAGIC)
}

/// Sums of two neighbours each.
#[inline(always)]
fn halved<const N: usize, const H: usize>(x: &[f32; N]) -> [f32; H] {
    let mut sums = [0.0; H];
    for l in 0..H {
        sums[l] = x[2 * l] + x[2 * l + 1];
    }
    sums
}

#[inline(always)]
fn largest_of<const N: usize>(x: &[f32; N]) -> f32 {
    let mut x = *x;
    let mut length = N;
    while length > 1 {
        length /= 2;
        for l in 0..length {
            x[l] = x[l].max(x[length + l]);
        }
    }
    x[0]
}

multiversion! {
    fn magnitudes<A>(x: &[f32], largest: &mut [u32]) {
        for (m, x) in largest.iter_mut().zip(x) {
            *m = (*m).max(magnitude(*x));
        }
    }
}

multiversion! {
    /// `W` lines from line `first` on, each a run of memory; those beyond the last are zeros.
    fn quantise_lines<A, const W: usize, const T: usize>(
        source: Matrix<'_>, first: usize, lines: usize, k: usize, cut: Cut, out: &mut [[i16; 2]], scales: &mut [f64],
        bounds: &mut [Bound],
    ) {
        const STEPS: usize = 2 * CHUNK;
        let (pairs, pitch) = (cut.pairs(), cut.pitch());
        bounds.fill(Bound::default());
        for i in 0..W {
            let out = &mut out[i * pitch..][..pairs];
            if first + i >= lines {
                out.fill([0; 2]);
                scales[i] = 1.0;
                continue;
            }
            let line = &source.data[(first + i) * source.row..][..k];
            let mut largest = [0u32; 32];
            let (whole, rest) = line.as_chunks::<32>();
            for x in whole {
                for l in 0..32 {
                    largest[l] = largest[l].max(magnitude(x[l]));
                }
            }
            let m = rest.iter().map(|x| magnitude(*x)).chain(largest).fold(0, u32::max);
            let (factor, scale) = factors(m);
            scales[i] = scale;
            let tile = cut.segments * cut.chunks();
            let bounds = &mut bounds[i / T * tile..][..tile];
            let mut rest = line;
            for (out, bounds) in out.chunks_exact_mut(cut.length).zip(bounds.chunks_exact_mut(cut.chunks())) {
                for (out, bound) in out.chunks_mut(CHUNK).zip(bounds) {
                    let steps = rest.len().min(2 * out.len());
                    let (now, later) = rest.split_at(steps);
                    rest = later;
                    let mut x = [0.0; STEPS];
                    match now.first_chunk::<STEPS>() {
                        Some(now) => x = *now,
                        None => x[..steps].copy_from_slice(now),
                    }
                    let mut q = [0i16; STEPS];
                    let mut s = [0.0f32; STEPS];
                    for l in 0..STEPS {
                        let (integer, float) = rounded(x[l] * factor);
                        q[l] = integer;
                        s[l] = float * float;
                    }
                    let out = out.as_flattened_mut();
                    match out.first_chunk_mut::<STEPS>() {
                        Some(out) => *out = q,
                        None => out.copy_from_slice(&q[..out.len()]),
                    }
                    let pair: [f32; STEPS / 2] = halved(&s);
                    let two: [f32; STEPS / 4] = halved(&pair);
                    let four: [f32; STEPS / 8] = halved(&two);
                    let eight: [f32; STEPS / 16] = halved(&four);
                    let sixteen: [f32; STEPS / 32] = halved(&eight);
                    let all = sixteen[0] + sixteen[1];
                    let now = [largest_of(&two), largest_of(&four), largest_of(&eight), largest_of(&sixteen), all];
                    for size in 0..SIZES {
                        bound.0[size] = bound.0[size].max(now[size]);
                    }
                }
            }
        }
    }
}

multiversion! {
    /// One panel of lines `i .. to` that lie side by side, steps of k from `first` on.
    fn quantise_columns<A, const W: usize, const T: usize>(
        source: Matrix<'_>, i: usize, to: usize, first: usize, k: usize, factors: &[f32], out: &mut [[i16; 2]],
        bounds: &mut [Bound],
    ) {
        let steps = out.len() / W * 2;
        // Decided here and not at each step: a copy of a length that is known only there is a call.
        if to - i == W && first + steps <= k {
            let read = |step: usize| {
                let mut x = [0.0; W];
                x.copy_from_slice(&source.data[step * source.col + i..][..W]);
                x
            };
            panel::<W, T>(read, first, factors, out, bounds);
        } else {
            let read = |step: usize| {
                let mut x = [0.0; W];
                if step < k {
                    x[..to - i].copy_from_slice(&source.data[step * source.col + i..][..to - i]);
                }
                x
            };
            panel::<W, T>(read, first, factors, out, bounds);
        }
    }
}

/// Quantises what `read` has of each step.
#[inline(always)]
fn panel<const W: usize, const T: usize>(
    read: impl Fn(usize) -> [f32; W],
    first: usize,
    factors: &[f32],
    out: &mut [[i16; 2]],
    bounds: &mut [Bound],
) {
    let mut factor = [0.0f32; W];
    factor.copy_from_slice(&factors[..W]);
    let (out, _) = out.as_chunks_mut::<W>();
    let chunks = bounds.len() / (W / T);
    let mut step = first;
    for (chunk, out) in out.chunks_mut(CHUNK).enumerate() {
        let mut bound = [[0.0f32; W]; SIZES];
        // What is added up over 2, 4, .. pairs, as many as the chunk has.
        let mut sums = [[0.0f32; W]; SIZES];
        for (pair, out) in out.iter_mut().enumerate() {
            let x = [read(step), read(step + 1)];
            step += 2;
            for l in 0..W {
                let (even, odd) = (rounded(x[0][l] * factor[l]), rounded(x[1][l] * factor[l]));
                out[l] = [even.0, odd.0];
                sums[0][l] += even.1 * even.1 + odd.1 * odd.1;
            }
            // The sums that end with this pair, each a part of the next.
            let ending = (pair + 1).trailing_zeros() as usize;
            for size in 0..ending.min(SIZES) {
                let sum = std::mem::replace(&mut sums[size], [0.0; W]);
                for l in 0..W {
                    bound[size][l] = bound[size][l].max(sum[l]);
                }
                if let Some(next) = sums.get_mut(size + 1) {
                    for l in 0..W {
                        next[l] += sum[l];
                    }
                }
            }
        }
        for tile in 0..W / T {
            let mut largest = [0.0f32; SIZES];
            for size in 0..SIZES {
                for l in tile * T..(tile + 1) * T {
                    largest[size] = largest[size].max(bound[size][l]);
                }
            }
            bounds[tile * chunks + chunk] = Bound(largest);
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
            assert_eq!(rounded(x * factor).0, largest, "{x:e}");
            assert_eq!(f64::from(factor) * scale, 1.0, "{x:e}");
        }
        assert_eq!(factors(0), (1.0, 1.0));
        for bits in [0x7f80_0000, 0x7fc0_0000, 0x7f80_0001] {
            assert!(factors(bits).1.is_nan());
        }
    }

    #[test]
    fn ties_go_to_even_on_both_sides() {
        for (x, want) in
            [(0.5, 0), (1.5, 2), (2.5, 2), (-0.5, 0), (-1.5, -2), (32576.0, 32576), (-32575.5, -32576)]
        {
            assert_eq!(rounded(x), (want, f32::from(want)), "{x}");
        }
    }
}
