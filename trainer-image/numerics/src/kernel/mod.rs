//! Kernels that ops share: reductions in their fixed order, element-wise sums, matrix products.

pub(crate) mod exact;
pub(crate) mod gemm;
pub(crate) mod reduction;

pub(crate) use reduction::{columns, rows_dot, rows_sum, tree};

use crate::env::{Env, Failed};
use crate::isa::multiversion;
use crate::pool::Chunks;

/// Elements per piece of element-wise work.
pub(crate) const PIECE: usize = 1 << 14;

multiversion! {
    fn add_run<A>(sum: &mut [f32], other: &[f32]) {
        for (s, x) in sum.iter_mut().zip(other) {
            *s += *x;
        }
    }
}

multiversion! {
    fn scale_run<A>(x: &mut [f32], factor: f32) {
        for x in x {
            *x *= factor;
        }
    }
}

/// x = x * factor, element by element.
pub(crate) fn scale(env: &mut Env, x: &mut [f32], factor: f32) -> Result<(), Failed> {
    let level = env.level;
    Ok(env.pool.each(Chunks::new(x, PIECE), &mut env.scratch, |_, x, _| scale_run(level, x, factor))?)
}

/// sum = sum + other, element by element.
pub(crate) fn add_assign(env: &mut Env, sum: &mut [f32], other: &[f32]) -> Result<(), Failed> {
    let level = env.level;
    Ok(env.pool.each(Chunks::new(sum, PIECE), &mut env.scratch, |i, sum, _| {
        add_run(level, sum, &other[i * PIECE..]);
    })?)
}
