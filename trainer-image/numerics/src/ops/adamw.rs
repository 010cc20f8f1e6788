//! adamw: moments with bias correction, decoupled weight decay (spec 6.4).

use std::sync::atomic::{AtomicBool, Ordering};

use crate::env::{Env, Failed};
use crate::graph::Graph;
use crate::isa::{Level, multiversion};
use crate::pool::Chunks;
use crate::spec::HyperParameters;

pub(crate) const NAME: &str = "adamw";

/// Elements per piece of work.
const PIECE: usize = 1 << 14;

/// The exponent bits of 2^64. A number is calm below; infinities and NaN are beyond it like all that is near them.
const WILD: u32 = (127 + 64) << 23;
/// Calm numbers are below this.
const CALM: f64 = (1u128 << 64) as f64;
/// Far enough below the largest f32 for every rounding on the way.
const SAFE: f64 = 1e37;

/// The numbers of one update, rounded as the spec says: products in f64, the rest in f32.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moments {
    b1: f32,
    b2: f32,
    /// f32(1 - b1), f32(1 - b2)
    a1: f32,
    a2: f32,
    /// f32(1 / (1 - b1^t)), f32(1 / (1 - b2^t))
    c1: f32,
    c2: f32,
    epsilon: f32,
    weight_decay: f32,
    factor: f32,
    lr: f32,
}

impl Moments {
    /// `b1p`, `b2p`: the power products after this step's multiplication.
    pub(crate) fn new(hyper: &HyperParameters, b1p: f64, b2p: f64, factor: f32, lr: f32) -> Moments {
        Moments {
            b1: hyper.beta1 as f32,
            b2: hyper.beta2 as f32,
            a1: (1.0 - hyper.beta1) as f32,
            a2: (1.0 - hyper.beta2) as f32,
            c1: (1.0 / (1.0 - b1p)) as f32,
            c2: (1.0 / (1.0 - b2p)) as f32,
            epsilon: hyper.epsilon,
            weight_decay: hyper.weight_decay,
            factor,
            lr,
        }
    }

    /// Whether the update of a calm state that was updated before cannot but be finite, by the bounds of its formula alone.
    /// `norm` is the gradient's. (Moments of squares that came out of an update are not negative, so no root is NaN.)
    pub(crate) fn is_harmless(&self, norm: f32) -> bool {
        let [a1, c1, c2] = [self.a1, self.c1, self.c2].map(|x| f64::from(x).abs());
        // No element is larger than the norm, but for its rounding, and for squares that are too small to show in it.
        let g = (f64::from(norm) * 1.01 + 1e-18) * f64::from(self.factor).abs();
        let m = CALM + a1 * g;
        let v = CALM + f64::from(self.a2).abs() * g * g;
        let up = m * c1 / f64::from(self.epsilon);
        let w = CALM + f64::from(self.lr).abs() * (f64::from(self.weight_decay).abs() * CALM + up);
        // Comparisons with NaN are false.
        [g, m, v, m * c1, v * c2, up, w].iter().all(|bound| *bound < SAFE)
    }
}

multiversion! {
    /// Updates a run of elements of one tensor; whether all results are calm.
    fn update_run<A>(w: &mut [f32], m: &mut [f32], v: &mut [f32], gradient: &[f32], k: &Moments, decay: f32) -> bool {
        let n = w.len();
        let (m, v, gradient) = (&mut m[..n], &mut v[..n], &gradient[..n]);
        let k = *k;
        let mut wild = 0u32;
        for i in 0..n {
            let g = gradient[i] * k.factor;
            let mi = A::fma(k.b1, m[i], k.a1 * g);
            let vi = A::fma(k.b2, v[i], (k.a2 * g) * g);
            let up = (mi * k.c1) / ((vi * k.c2).sqrt() + k.epsilon);
            let wi = w[i] - k.lr * A::fma(decay, w[i], up);
            m[i] = mi;
            v[i] = vi;
            w[i] = wi;
            let is_wild = |x: f32| u32::from(x.to_bits() & 0x7f80_0000 >= WILD);
            wild |= is_wild(mi) | is_wild(vi) | is_wild(wi);
        }
        wild == 0
    }
}

/// A run of the state: parameters and both moments from one element on, all of one length.
#[derive(Debug)]
pub struct Part<'a> {
    /// Index of the first element in the flat state.
    pub first: usize,
    /// Parameters.
    pub w: &'a mut [f32],
    /// First moments.
    pub m: &'a mut [f32],
    /// Second moments.
    pub v: &'a mut [f32],
}

impl Part<'_> {
    /// Cut into pieces of [`PIECE`].
    fn pieces(&mut self) -> (Chunks<'_, f32>, Chunks<'_, f32>, Chunks<'_, f32>) {
        (Chunks::new(self.w, PIECE), Chunks::new(self.m, PIECE), Chunks::new(self.v, PIECE))
    }
}

/// Updates a part by its gradient; whether all of it is calm afterwards, which what is not finite never is.
pub(crate) fn update(
    env: &mut Env,
    graph: &Graph,
    moments: &Moments,
    mut part: Part<'_>,
    gradient: &[f32],
) -> Result<bool, Failed> {
    let calm = AtomicBool::new(true);
    let (level, first) = (env.level, part.first);
    env.pool.each(part.pieces(), &mut env.scratch, |piece, (w, m, v), _| {
        let from = piece * PIECE;
        let gradient = &gradient[from..from + w.len()];
        if !update_piece(level, graph, moments, Part { first: first + from, w, m, v }, gradient) {
            calm.store(false, Ordering::Relaxed);
        }
    })?;
    Ok(calm.into_inner())
}

/// Whether [`update`] would leave only finite numbers. The part stays as it is: the state's root is asked for if not.
pub(crate) fn would_be_finite(
    env: &mut Env,
    graph: &Graph,
    moments: &Moments,
    part: &mut Part<'_>,
    gradient: &[f32],
) -> Result<bool, Failed> {
    let finite = AtomicBool::new(true);
    let (level, first) = (env.level, part.first);
    env.pool.each(part.pieces(), &mut env.scratch, |piece, (w, m, v), _| {
        let from = piece * PIECE;
        let gradient = &gradient[from..from + w.len()];
        let (mut w, mut m, mut v) = (w.to_vec(), m.to_vec(), v.to_vec());
        let part = Part { first: first + from, w: &mut w, m: &mut m, v: &mut v };
        let calm = update_piece(level, graph, moments, part, gradient);
        if !calm && [w, m, v].iter().flatten().any(|x| !x.is_finite()) {
            finite.store(false, Ordering::Relaxed);
        }
    })?;
    Ok(finite.into_inner())
}

/// Updates a part; whether all of it is calm.
fn update_piece(level: Level, graph: &Graph, moments: &Moments, part: Part<'_>, gradient: &[f32]) -> bool {
    let Part { first, w, m, v } = part;
    let end = first + w.len();
    let mut calm = true;
    // Pieces are cut blindly; tensors differ in whether they decay.
    for tensor in graph.tensors() {
        let range = tensor.range();
        let (from, to) = (range.start.max(first), range.end.min(end));
        if from >= to {
            continue;
        }
        let decay = if tensor.decays() { moments.weight_decay } else { 0.0 };
        let own = from - first..to - first;
        let (w, m, v) = (&mut w[own.clone()], &mut m[own.clone()], &mut v[own.clone()]);
        calm &= update_run(level, w, m, v, &gradient[own], moments, decay);
    }
    calm
}
