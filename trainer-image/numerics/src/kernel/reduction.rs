//! Reductions in the order of spec 2.2: 32 lanes along a row, 64-row blocks down a column, a binary
//! tree over partial results.

use crate::env::{Env, Failed, grown};
use crate::isa::{Arith, multiversion};
use crate::pool::Chunks;

/// Lanes of a row reduction: element i goes to lane i mod 32.
pub(crate) const LANES: usize = 32;

/// Rows of a block of a column reduction.
pub(crate) const BLOCK: usize = 64;

/// The partial sums of a row reduction, for kernels that form the terms on the fly.
pub(crate) type Lanes = [f32; LANES];

/// Halves the lanes until one is left; never -0.
#[inline(always)]
pub(crate) fn tree32(mut a: Lanes) -> f32 {
    let mut s = LANES / 2;
    while s > 0 {
        for l in 0..s {
            a[l] += a[l + s];
        }
        s /= 2;
    }
    a[0] + 0.0
}

multiversion! {
    /// Sum of a row.
    pub(crate) fn rows_sum<A>(x: &[f32]) -> f32 {
        sum::<A>(x)
    }
}

multiversion! {
    /// Sum of products of two rows of equal length.
    pub(crate) fn rows_dot<A>(x: &[f32], y: &[f32]) -> f32 {
        dot::<A>(x, y)
    }
}

/// [`rows_sum`] for use inside kernels.
#[inline(always)]
pub(crate) fn sum<A: Arith>(x: &[f32]) -> f32 {
    let mut a = [0.0; LANES];
    let (whole, rest) = x.as_chunks::<LANES>();
    for x in whole {
        for l in 0..LANES {
            a[l] += x[l];
        }
    }
    for (a, x) in a.iter_mut().zip(rest) {
        *a += *x;
    }
    tree32(a)
}

/// [`rows_dot`] for use inside kernels.
#[inline(always)]
pub(crate) fn dot<A: Arith>(x: &[f32], y: &[f32]) -> f32 {
    let mut a = [0.0; LANES];
    let (x, x_rest) = x.as_chunks::<LANES>();
    let (y, y_rest) = y.as_chunks::<LANES>();
    for (x, y) in x.iter().zip(y) {
        for l in 0..LANES {
            a[l] = A::fma(x[l], y[l], a[l]);
        }
    }
    for (a, (x, y)) in a.iter_mut().zip(x_rest.iter().zip(y_rest)) {
        *a = A::fma(*x, *y, *a);
    }
    tree32(a)
}

/// The largest element, NaN skipped; -Inf of an empty row. Its order is free: only x - max is used.
#[inline(always)]
pub(crate) fn max_of(x: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut a = [f32::NEG_INFINITY; LANES];
    let (whole, rest) = x.as_chunks::<LANES>();
    for x in whole {
        for l in 0..LANES {
            a[l] = larger(a[l], x[l]);
        }
    }
    let m = rest.iter().fold(f32::NEG_INFINITY, |m, x| larger(m, *x));
    a.into_iter().fold(m, larger)
}

/// Pairwise tree: neighbours are added, an unpaired last element moves up. 0 of nothing.
pub(crate) fn tree(mut v: Vec<f32>) -> f32 {
    while v.len() > 1 {
        v = v.chunks(2).map(|pair| if let [a, b] = pair { a + b } else { pair[0] }).collect();
    }
    v.first().copied().unwrap_or(0.0)
}

multiversion! {
    /// out = sum down the columns of one block of rows of `width` elements.
    pub(crate) fn block_columns<A>(block: &[f32], width: usize, out: &mut [f32]) {
        out.fill(0.0);
        for row in block.chunks_exact(width) {
            for (o, x) in out.iter_mut().zip(row) {
                *o += *x;
            }
        }
    }
}

multiversion! {
    /// out = +0, then the partial sums of the blocks one after the other. `stride` elements lie between
    /// the starts of two partial sums.
    pub(crate) fn fold_blocks<A>(partial: &[f32], stride: usize, out: &mut [f32]) {
        out.fill(0.0);
        for block in partial.chunks(stride) {
            for (o, x) in out.iter_mut().zip(block) {
                *o += *x;
            }
        }
    }
}

/// out = sum down the columns of `x`, a matrix of rows of `width` elements.
pub(crate) fn columns(env: &mut Env, x: &[f32], width: usize, out: &mut [f32]) -> Result<(), Failed> {
    let level = env.level;
    let block = BLOCK * width;
    let partial = grown(&mut env.partial, x.len().div_ceil(block) * width);
    env.pool.each(Chunks::new(partial, width), &mut env.scratch, |i, partial, _| {
        block_columns(level, &x[i * block..x.len().min((i + 1) * block)], width, partial);
    })?;
    fold_blocks(level, partial, width, out);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::{Isa, Level};
    use crate::ops::tests::harness::{SPREADS, assert_same, values};
    use crate::ops::tests::reference;

    #[test]
    fn rows_and_columns_of_any_length() {
        for n in [1, 31, 32, 33, 63, 64, 65, 4095, 4096, 4097] {
            for (seed, spread) in (0..).zip(SPREADS) {
                let (x, y) = (values(seed, n, spread), values(seed + 9, n, spread));
                let want = [reference::rows(&x), reference::dot(&x, &y)];
                for isa in Isa::available() {
                    let level = Level::new(isa).unwrap();
                    let got = [rows_sum(level, &x), rows_dot(level, &x, &y)];
                    assert_same(&got, &want, &format!("{n} {spread:?} {isa}"));
                    for width in [1, 3] {
                        let n = n / width * width;
                        let mut out = vec![f32::NAN; width];
                        let mut env = Env::new(level, 2).unwrap();
                        columns(&mut env, &x[..n], width, &mut out).unwrap();
                        assert_same(&out, &reference::cols(&x[..n], None, width), "columns");
                    }
                }
            }
        }
    }

    #[test]
    fn sums_are_never_minus_zero() {
        for isa in Isa::available() {
            let level = Level::new(isa).unwrap();
            for n in [1, 40] {
                assert_eq!(rows_sum(level, &vec![-0.0; n]).to_bits(), 0);
                let tiny = vec![f32::from_bits((127 - 100) << 23); n];
                let minus: Vec<f32> = tiny.iter().map(|x| -x).collect();
                assert_eq!(rows_dot(level, &tiny, &minus).to_bits(), 0);
            }
        }
    }
}
