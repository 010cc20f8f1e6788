//! What a job carries from step to step.

use crate::graph::{Graph, Init};
use crate::philox::{normal, normal_scale};

/// The state after `step` steps; step 0 is genesis. Parameters and moments are flat, in the graph's
/// canonical order (tensor i lies at `graph.tensors()[i].range()`).
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// Steps done.
    pub step: u64,
    /// beta1^step by repeated f64 multiplication, 1.0 at genesis.
    pub b1p: f64,
    /// beta2^step likewise.
    pub b2p: f64,
    /// Parameters.
    pub w: Vec<f32>,
    /// First moments.
    pub m: Vec<f32>,
    /// Second moments.
    pub v: Vec<f32>,
}

impl State {
    /// State 0: parameters from Philox under `seed` by each tensor's rule, moments +0.
    pub fn genesis(graph: &Graph, seed: u64) -> State {
        crate::float::normalize();
        let n = graph.parameters();
        let mut w = vec![0.0; n];
        for (index, tensor) in graph.tensors().iter().enumerate() {
            let values = &mut w[tensor.range()];
            match tensor.init {
                Init::Zeros => {}
                Init::Ones => values.fill(1.0),
                Init::Normal { divisor } => {
                    let scale = normal_scale(0.02 / (divisor as f64).sqrt());
                    for (i, x) in (0u64..).zip(values) {
                        *x = normal(seed, index as u32, i, scale);
                    }
                }
            }
        }
        State { step: 0, b1p: 1.0, b2p: 1.0, w, m: vec![0.0; n], v: vec![0.0; n] }
    }
}
