//! Where the integers of an operand lie, and how large they can get.
//!
//! All layouts hold pairs: steps 2t and 2t + 1 of a line, 16 bits each. Steps beyond k, and lines beyond the last, are zeros.

use std::ops::Range;

/// Pairs in one pass of the micro-kernel at most: the upper halves of as many sums fit 32 bits.
pub(super) const PASS: usize = 1 << 15;
/// Lengths of segments, in pairs, are multiples of it.
pub(super) const BLOCK: usize = 8;
/// Pairs that have a bound together. The last of a segment may be fewer.
pub(super) const CHUNK: usize = 32;

/// How the steps of k are cut: `segments` of `length` pairs each. Invisible in the results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    pub segments: usize,
    pub length: usize,
}

impl Cut {
    /// Enough segments to give `threads` something to do, but none that is short.
    pub(super) fn new(k: usize, threads: usize) -> Cut {
        let pairs = k.div_ceil(2).max(1);
        let segments = (pairs / 64).min(2 * threads).max(pairs.div_ceil(PASS)).max(1);
        let length = pairs.div_ceil(segments).next_multiple_of(BLOCK);
        Cut { segments: pairs.div_ceil(length), length }
    }

    /// Chunks of a segment.
    pub(super) fn chunks(self) -> usize {
        self.length.div_ceil(CHUNK)
    }

    /// Pairs of a line.
    pub(super) fn pairs(self) -> usize {
        self.segments * self.length
    }

    /// Pairs from one line to the next, where lines are runs of memory: a cache line more than they have, or the lines of a tile
    /// would meet in the same few places of a cache if k is a power of two.
    pub(super) fn pitch(self) -> usize {
        self.pairs() + 16
    }

    /// Runs of segments that one pass of the micro-kernel may do.
    pub(super) fn passes(self) -> impl Iterator<Item = Range<usize>> {
        let per = (PASS / self.length).max(1);
        (0..self.segments).step_by(per).map(move |first| first..(first + per).min(self.segments))
    }
}

/// How pairs of `W` lines lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Layout {
    /// `[line][pair]`
    #[default]
    Lines,
    /// `[panel][pair][line of the panel]`
    Panels,
    /// `[segment][panel][pair of the segment][line of the panel]`
    Segments,
}

/// An operand of a product: lines of integers, each with the power of two that they are counted in. The micro-kernel takes `T` lines
/// at a time, a divisor of `W`.
#[derive(Debug, Default)]
pub(super) struct Operand<const W: usize, const T: usize> {
    pub layout: Layout,
    pub cut: Cut,
    pub panels: usize,
    /// At least as many as the layout needs; so all below.
    pub pairs: Vec<[i16; 2]>,
    /// 2^e of each line; NaN for a line with a number that is not finite.
    pub scales: Vec<f64>,
    /// Of the lines of a tile together: `[tile][segment][chunk]`, or `[segment][tile][chunk]`, as the pairs lie.
    pub bounds: Vec<Bound>,
    /// Largest magnitudes of lines that lie side by side, by piece of work.
    pub magnitudes: Vec<u32>,
    /// What each line is multiplied with.
    pub factors: Vec<f32>,
}

impl Default for Cut {
    fn default() -> Cut {
        Cut::new(0, 1)
    }
}

/// The lines of a tile in one pass: pair t of line i is `pairs[i * line + t * step]`, the bound of their chunk c `bounds[c]`, but for
/// what is skipped after each segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct View<'a> {
    pub pairs: &'a [[i16; 2]],
    pub line: usize,
    pub step: usize,
    pub skip: usize,
    pub bounds: &'a [Bound],
    pub skip_bounds: usize,
}

impl<const W: usize, const T: usize> Operand<W, T> {
    /// Makes room for `lines` lines.
    pub(super) fn begin(&mut self, lines: usize, cut: Cut) {
        (self.cut, self.panels) = (cut, lines.div_ceil(W));
        let pairs = self.panels * W * cut.pitch();
        self.pairs.resize(self.pairs.len().max(pairs), [0; 2]);
        let bounds = self.panels * W / T * cut.segments * cut.chunks();
        self.bounds.resize(self.bounds.len().max(bounds), Bound::default());
        self.scales.resize(self.panels * W, 1.0);
    }

    /// The lines from `i` on, a multiple of `T`, in the segments of a pass.
    pub(super) fn view(&self, i: usize, segments: &Range<usize>) -> View<'_> {
        let Cut { length, .. } = self.cut;
        let (pairs, chunks, tiles) = (self.cut.pairs(), self.cut.chunks(), self.panels * W / T);
        let (panel, within, first) = (i / W, i % W, segments.start * length);
        let (from, line, step, skip) = match self.layout {
            Layout::Lines => (i * self.cut.pitch() + first, self.cut.pitch(), 1, 0),
            Layout::Panels => ((panel * pairs + first) * W + within, 1, W, 0),
            Layout::Segments => {
                let skip = (self.panels - 1) * length * W;
                ((segments.start * self.panels + panel) * length * W + within, 1, W, skip)
            }
        };
        let (bounds, skip_bounds) = match self.layout {
            Layout::Lines | Layout::Panels => ((i / T * self.cut.segments + segments.start) * chunks, 0),
            Layout::Segments => ((segments.start * tiles + i / T) * chunks, (tiles - 1) * chunks),
        };
        View { pairs: &self.pairs[from..], line, step, skip, bounds: &self.bounds[bounds..], skip_bounds }
    }

    /// What an integer of each of the lines of a tile stands for.
    pub(super) fn scales(&self, i: usize) -> &[f64; T] {
        &self.scales.as_chunks::<T>().0[i / T]
    }
}

/// The largest sums of squares over 2, 4, 8, 16 and 32 consecutive pairs of some line, from pairs that the length divides.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Bound(pub [f32; SIZES]);

/// Lengths of sums that have bounds: 2 pairs up to a chunk.
pub(super) const SIZES: usize = CHUNK.ilog2() as usize;

impl Bound {
    /// The binary logarithm of how many pairs the micro-kernel may add up before it must carry, in a chunk of `pairs`, which it
    /// divides.
    ///
    /// By the inequality of Cauchy and Schwarz a sum of products is at most the root of the product of both sums of squares.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "plain sums are of 64 bits"))]
    #[inline(always)]
    pub(super) fn run(self, other: Bound, pairs: usize) -> u32 {
        /// (2^31 - 2^16)^2, for what may be left of the sum before, less what the roundings of the bounds can amount to.
        const ROOM: f32 = 4.6e18;
        // Up to the first that does not fit: of lengths that the chunk does not have, nothing is known. None of 1 is too long:
        // 2 * 32576^2 + 2^16 < 2^31.
        let mut fit = 0;
        while fit < SIZES && self.0[fit] * other.0[fit] < ROOM {
            fit += 1;
        }
        (fit as u32).min(pairs.trailing_zeros())
    }
}
