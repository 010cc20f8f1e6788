//! adamw: moments with bias correction, decoupled weight decay (spec 6.4).

use std::sync::atomic::{AtomicBool, Ordering};

use crate::env::{Env, Failed};
use crate::graph::Graph;
use crate::isa::multiversion;
use crate::pool::Chunks;
use crate::spec::HyperParameters;
use crate::state::State;

pub(crate) const NAME: &str = "adamw";

/// Elements per piece of work.
const PIECE: usize = 1 << 14;

/// The numbers of one update, rounded as the spec says: products in f64, the rest in f32.
#[derive(Clone, Copy)]
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
}

multiversion! {
    /// Updates a run of elements of one tensor; whether all results are finite.
    fn update_run<A>(w: &mut [f32], m: &mut [f32], v: &mut [f32], gradient: &[f32], k: &Moments, decay: f32) -> bool {
        let n = w.len();
        let (m, v, gradient) = (&mut m[..n], &mut v[..n], &gradient[..n]);
        let k = *k;
        let mut bad = 0u32;
        for i in 0..n {
            let g = gradient[i] * k.factor;
            let mi = A::fma(k.b1, m[i], k.a1 * g);
            let vi = A::fma(k.b2, v[i], (k.a2 * g) * g);
            let up = (mi * k.c1) / ((vi * k.c2).sqrt() + k.epsilon);
            let wi = w[i] - k.lr * A::fma(decay, w[i], up);
            m[i] = mi;
            v[i] = vi;
            w[i] = wi;
            let not_finite = |x: f32| u32::from(x.to_bits() & 0x7f80_0000 == 0x7f80_0000);
            bad |= not_finite(mi) | not_finite(vi) | not_finite(wi);
        }
        bad == 0
    }
}

/// Updates parameters and moments; whether all of them are finite afterwards.
pub(crate) fn update(
    env: &mut Env,
    graph: &Graph,
    moments: &Moments,
    state: &mut State,
    gradient: &[f32],
) -> Result<bool, Failed> {
    let finite = AtomicBool::new(true);
    let level = env.level;
    let pieces = (
        Chunks::new(&mut state.w, PIECE),
        Chunks::new(&mut state.m, PIECE),
        Chunks::new(&mut state.v, PIECE),
    );
    env.pool.each(pieces, &mut env.scratch, |piece, (w, m, v), _| {
        let (first, end) = (piece * PIECE, piece * PIECE + w.len());
        // Pieces are cut blindly; tensors differ in whether they decay.
        for tensor in graph.tensors() {
            let range = tensor.range();
            let (from, to) = (range.start.max(first), range.end.min(end));
            if from >= to {
                continue;
            }
            let decay = if tensor.decays() { moments.weight_decay } else { 0.0 };
            let own = from - first..to - first;
            let (w, m, v) = (&mut w[own.clone()], &mut m[own.clone()], &mut v[own]);
            if !update_run(level, w, m, v, &gradient[from..to], moments, decay) {
                finite.store(false, Ordering::Relaxed);
            }
        }
    })?;
    Ok(finite.into_inner())
}
