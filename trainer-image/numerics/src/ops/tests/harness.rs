//! Runs one op forward and back on given operands, with garbage wherever it must write.

use std::ops::Range;

use crate::env::Env;
use crate::graph::{Init, Tensor};
use crate::isa::{Isa, Level};
use crate::ops::{Backward, Forward, Op, Rows};
use crate::philox::philox4x32;

/// Operands of an op.
pub(crate) struct Operands {
    pub op: Op,
    pub rows: Rows,
    pub tokens: Vec<u32>,
    pub targets: Vec<u32>,
    /// (rows, cols, values) of each parameter.
    pub parameters: Vec<(usize, Option<usize>, Vec<f32>)>,
    pub inputs: Vec<Vec<f32>>,
    /// Empty for the loss.
    pub d_output: Vec<f32>,
}

/// What it wrote.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    pub output: Vec<f32>,
    pub d_inputs: Vec<Vec<f32>>,
    pub d_parameters: Vec<Vec<f32>>,
}

impl Written {
    /// All results, one after the other.
    pub(crate) fn flat(&self) -> Vec<f32> {
        let rest = self.d_inputs.iter().chain(&self.d_parameters);
        std::iter::once(&self.output).chain(rest).flatten().copied().collect()
    }
}

impl Operands {
    pub(crate) fn new(op: Op, sequences: usize, length: usize) -> Operands {
        Operands {
            op,
            rows: Rows { sequences, length },
            tokens: vec![],
            targets: vec![],
            parameters: vec![],
            inputs: vec![],
            d_output: vec![],
        }
    }

    pub(crate) fn run(&self, level: Level, threads: usize) -> Written {
        let mut env = Env::new(level, threads).unwrap();
        let n = self.rows.count();
        let tensors: Vec<Tensor> = self
            .parameters
            .iter()
            .map(|(rows, cols, _)| Tensor {
                name: "p".into(),
                rows: *rows,
                cols: *cols,
                init: Init::Zeros,
                offset: 0,
            })
            .collect();
        let widths: Vec<usize> = self.inputs.iter().map(|x| x.len() / n).collect();
        let width = self.op.output_width(&widths, &tensors).unwrap();

        let mut buffer = vec![];
        let mut place = |values: &[f32]| {
            let from = buffer.len();
            buffer.extend_from_slice(values);
            from..buffer.len()
        };
        let garbage = |len: usize| vec![f32::NAN; len];
        let inputs: Vec<Range<usize>> = self.inputs.iter().map(|x| place(x)).collect();
        let output = place(&garbage(n * width));
        let saved = place(&garbage(n * self.op.saved_width()));
        let d_output = place(&self.d_output);
        let d_inputs: Vec<Range<usize>> = self.inputs.iter().map(|x| place(&garbage(x.len()))).collect();
        let mut weights = vec![];
        let parameters: Vec<Range<usize>> = self
            .parameters
            .iter()
            .map(|(_, _, values)| {
                weights.extend_from_slice(values);
                weights.len() - values.len()..weights.len()
            })
            .collect();

        let forward = Forward {
            rows: self.rows,
            tokens: &self.tokens,
            targets: &self.targets,
            weights: &weights,
            parameters: &parameters,
            buffer: &mut buffer,
            inputs: &inputs,
            output: output.clone(),
            saved: saved.clone(),
        };
        self.op.forward(&mut env, forward).unwrap();
        let mut gradients = garbage(weights.len());
        let backward = Backward {
            rows: self.rows,
            tokens: &self.tokens,
            targets: &self.targets,
            weights: &weights,
            parameters: &parameters,
            buffer: &mut buffer,
            inputs: &inputs,
            output: output.clone(),
            saved,
            d_output,
            d_inputs: &d_inputs,
            gradients: &mut gradients,
            d_parameters: &parameters,
            held: &[],
        };
        self.op.backward(&mut env, backward).unwrap();
        Written {
            output: buffer[output].to_vec(),
            d_inputs: d_inputs.into_iter().map(|r| buffer[r].to_vec()).collect(),
            d_parameters: parameters.into_iter().map(|r| gradients[r].to_vec()).collect(),
        }
    }

    /// The results, which must be the same on every instruction set and number of threads.
    pub(crate) fn run_everywhere(&self) -> Written {
        let first = self.run(Level::PORTABLE, 1);
        for isa in Isa::available() {
            for threads in [1, 2, 3] {
                let again = self.run(Level::new(isa).unwrap(), threads);
                assert_same(&again.flat(), &first.flat(), &format!("{:?} {isa} {threads}", self.op));
            }
        }
        first
    }
}

/// How test values are spread.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Spread {
    /// Around 1, both signs.
    Ordinary,
    /// Products underflow and cancel; zeros of both signs among them.
    Tiny,
    /// Magnitudes from 2^-30 to 2^30.
    Wide,
}

pub(crate) const SPREADS: [Spread; 3] = [Spread::Ordinary, Spread::Tiny, Spread::Wide];

/// `n` values; equal arguments give equal values.
pub(crate) fn values(seed: u32, n: usize, spread: Spread) -> Vec<f32> {
    (0..n as u32)
        .map(|i| {
            let [a, b, c, _] = philox4x32([i, seed, 0, 3], [0, 0]);
            let x = (a >> 8) as f32 / 8_388_608.0 - 1.0;
            match spread {
                Spread::Ordinary => x,
                Spread::Tiny if b % 5 == 0 => 0.0f32.copysign(x),
                Spread::Tiny => x * f32::from_bits((127 - 60 - b % 66) << 23),
                Spread::Wide => x * f32::from_bits((127 - 30 + c % 61) << 23),
            }
        })
        .collect()
}

pub(crate) fn ids(seed: u32, n: usize, vocabulary: u32) -> Vec<u32> {
    (0..n as u32).map(|i| philox4x32([i, seed, 1, 3], [0, 0])[0] % vocabulary).collect()
}

/// Equal bits, NaN equal to NaN.
pub(crate) fn assert_same(got: &[f32], want: &[f32], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let same = g.to_bits() == w.to_bits() || (g.is_nan() && w.is_nan());
        assert!(same, "{what}: element {i} is {g:e} ({:08x}), not {w:e} ({:08x})", g.to_bits(), w.to_bits());
    }
}
