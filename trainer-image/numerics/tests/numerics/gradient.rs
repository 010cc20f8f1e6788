//! The gradient against central differences of an independent f64 forward pass.

use super::cases::stream;
use muster_numerics::exec::Executor;
use muster_numerics::graph::{Graph, StepShape};
use muster_numerics::isa::Isa;
use muster_numerics::philox::{normal, normal_scale};
use muster_numerics::spec::{Architecture, Arithmetic, ModelSpec, TiedEmbeddings};

const LAYERS: usize = 2;
const WIDTH: usize = 16;
const HEADS: usize = 2;
const CONTEXT: usize = 10;
const VOCABULARY: usize = 23;
const SEQUENCES: usize = 2;

/// A flat parameter vector read front to back in canonical order.
struct Reader<'a>(&'a [f64]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> &'a [f64] {
        let (head, tail) = self.0.split_at(n);
        self.0 = tail;
        head
    }
}

fn layer_norm(x: &[f64], w: &[f64], b: &[f64]) -> Vec<f64> {
    let d = w.len();
    x.chunks(d)
        .flat_map(|x| {
            let mean = x.iter().sum::<f64>() / d as f64;
            let var = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / d as f64;
            let rs = 1.0 / (var + 1e-5).sqrt();
            (0..d).map(|j| (x[j] - mean) * rs * w[j] + b[j]).collect::<Vec<_>>()
        })
        .collect()
}

fn linear(x: &[f64], w: &[f64], b: Option<&[f64]>, inputs: usize) -> Vec<f64> {
    let mut y = vec![];
    for x in x.chunks(inputs) {
        for (o, w) in w.chunks(inputs).enumerate() {
            let bias = b.map_or(0.0, |b| b[o]);
            y.push(bias + x.iter().zip(w).map(|(x, w)| x * w).sum::<f64>());
        }
    }
    y
}

fn attention(qkv: &[f64]) -> Vec<f64> {
    let hd = WIDTH / HEADS;
    let rows = qkv.len() / (3 * WIDTH);
    let mut o = vec![0.0; rows * WIDTH];
    for r in 0..rows {
        let first = r / CONTEXT * CONTEXT;
        for h in 0..HEADS {
            let part = |row: usize, which: usize| &qkv[row * 3 * WIDTH + which * WIDTH + h * hd..][..hd];
            let score = |j: usize| -> f64 {
                part(r, 0).iter().zip(part(j, 1)).map(|(q, k)| q * k).sum::<f64>() / (hd as f64).sqrt()
            };
            let e: Vec<f64> = (first..=r).map(|j| score(j).exp()).collect();
            let s: f64 = e.iter().sum();
            for (j, e) in (first..=r).zip(e) {
                for c in 0..hd {
                    o[r * WIDTH + h * hd + c] += e / s * part(j, 2)[c];
                }
            }
        }
    }
    o
}

fn add(x: &mut [f64], y: &[f64]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

fn loss(w: &[f64], tokens: &[u32], targets: &[u32]) -> f64 {
    let (d, mut w) = (WIDTH, Reader(w));
    let (wte, wpe) = (w.take(VOCABULARY * d), w.take(CONTEXT * d));
    let mut x = vec![];
    for (r, token) in tokens.iter().enumerate() {
        x.extend((0..d).map(|j| wte[*token as usize * d + j] + wpe[r % CONTEXT * d + j]));
    }
    for _ in 0..LAYERS {
        let y = layer_norm(&x, w.take(d), w.take(d));
        let y = linear(&y, w.take(3 * d * d), Some(w.take(3 * d)), d);
        let y = linear(&attention(&y), w.take(d * d), Some(w.take(d)), d);
        add(&mut x, &y);
        let y = layer_norm(&x, w.take(d), w.take(d));
        let mut y = linear(&y, w.take(4 * d * d), Some(w.take(4 * d)), d);
        for y in &mut y {
            let u = (2.0 / std::f64::consts::PI).sqrt() * (*y + 0.044715 * y.powi(3));
            *y = 0.5 * *y * (1.0 + u.tanh());
        }
        let y = linear(&y, w.take(4 * d * d), Some(w.take(d)), 4 * d);
        add(&mut x, &y);
    }
    let x = layer_norm(&x, w.take(d), w.take(d));
    assert!(w.0.is_empty(), "canonical order covers everything");
    let logits = linear(&x, wte, None, d);
    let losses = logits
        .chunks(VOCABULARY)
        .zip(targets)
        .map(|(x, t)| x.iter().map(|x| x.exp()).sum::<f64>().ln() - x[*t as usize]);
    losses.sum::<f64>() / targets.len() as f64
}

#[test]
fn gradient_is_that_of_the_loss() {
    let model = ModelSpec {
        architecture: Architecture::Gpt2,
        layers: LAYERS as u64,
        width: WIDTH as u64,
        heads: HEADS as u64,
        context: CONTEXT as u64,
        vocabulary: VOCABULARY as u64,
        tied_embeddings: TiedEmbeddings::Tied,
        llama: None,
    };
    let shape = StepShape { batch: SEQUENCES as u64, shards: 1 };
    let graph = Graph::build(&model, shape, Arithmetic::F32Chain).unwrap();
    // Large weights everywhere, so that no part of the gradient is negligible.
    let mut w = vec![];
    for (t, tensor) in graph.tensors().iter().enumerate() {
        let base = if tensor.name.ends_with("weight") && tensor.cols.is_none() { 1.0 } else { 0.0 };
        let scale = normal_scale(0.25);
        w.extend((0..tensor.elements()).map(|i| base + normal(9, t as u32, i as u64, scale)));
    }
    let n = SEQUENCES * CONTEXT;
    let ids = stream(CONTEXT as u64, VOCABULARY as u64);
    let (tokens, targets) = (&ids[3..3 + n], &ids[4..4 + n]);
    let mut executor = Executor::new(&graph, SEQUENCES, Isa::detect(), 2).unwrap();
    let mut gradient = vec![0.0; graph.parameters()];
    let got = executor.shard_gradient(&w, tokens, targets, &mut gradient).unwrap();

    let mut w64: Vec<f64> = w.iter().map(|w| f64::from(*w)).collect();
    let want = loss(&w64, tokens, targets);
    assert!((f64::from(got) - want).abs() < 1e-6 * want, "loss {got}, in f64 {want}");

    let (mut error, mut size) = (0.0, 0.0);
    for (t, tensor) in graph.tensors().iter().enumerate() {
        let (mut tensor_error, mut tensor_size) = (0.0, 0.0);
        for i in tensor.range().step_by(1 + tensor.elements() / 40) {
            let (own, h) = (w64[i], 1e-5);
            w64[i] = own + h;
            let up = loss(&w64, tokens, targets);
            w64[i] = own - h;
            let down = loss(&w64, tokens, targets);
            w64[i] = own;
            let slope = (up - down) / (2.0 * h);
            tensor_error += (f64::from(gradient[i]) - slope).powi(2);
            tensor_size += slope.powi(2);
        }
        assert!(tensor_error.sqrt() <= 1e-5 * tensor_size.sqrt() + 1e-8, "{t} {}", tensor.name);
        error += tensor_error;
        size += tensor_size;
    }
    let relative = (error / size).sqrt();
    assert!(relative < 3e-6, "relative error {relative:e}");
}
