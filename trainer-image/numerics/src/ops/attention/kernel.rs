//! Row kernels of attention. Row i of a block sees the first `first + i + 1` keys.

use crate::isa::multiversion;
use crate::kernel::reduction::{max_of, sum};
use crate::math::exp;

multiversion! {
    /// `rows` rows of `n` raw scores to probabilities, zeros beyond the diagonal; `stats` gets each
    /// row's (maximum, 1 / sum).
    pub(super) fn softmax<A>(
        z: &mut [f32], n: usize, first: usize, rows: usize, scale: f32, stats: &mut [f32],
    ) {
        let rows = z.chunks_exact_mut(n).take(rows).zip(stats.as_chunks_mut::<2>().0);
        for (i, (row, stats)) in rows.enumerate() {
            let (live, masked) = row.split_at_mut(first + i + 1);
            for z in live.iter_mut() {
                *z *= scale;
            }
            let m = max_of(live);
            for z in live.iter_mut() {
                *z = exp::<A>(*z - m);
            }
            let inv = 1.0 / sum::<A>(live);
            for z in live.iter_mut() {
                *z *= inv;
            }
            masked.fill(0.0);
            *stats = [m, inv];
        }
    }
}

multiversion! {
    /// The probabilities of [`softmax`] again, from its statistics.
    pub(super) fn probabilities<A>(
        z: &mut [f32], n: usize, first: usize, rows: usize, scale: f32, stats: &[f32],
    ) {
        let rows = z.chunks_exact_mut(n).take(rows).zip(stats.as_chunks::<2>().0);
        for (i, (row, &[m, inv])) in rows.enumerate() {
            let (live, masked) = row.split_at_mut(first + i + 1);
            for z in live {
                *z = exp::<A>(*z * scale - m) * inv;
            }
            masked.fill(0.0);
        }
    }
}

multiversion! {
    /// ds = (p * (dp - dot)) * scale, in place of dp.
    pub(super) fn score_gradient<A>(p: &[f32], dot: f32, scale: f32, ds: &mut [f32]) {
        for (ds, p) in ds.iter_mut().zip(p) {
            *ds = (*p * (*ds - dot)) * scale;
        }
    }
}
