//! Ops against the reference, on every instruction set, with one to three threads.

pub(crate) mod harness;
pub(crate) mod reference;
mod vectors;

use harness::{Operands, SPREADS, Spread, assert_same, ids, values};
use reference::Heads;

use super::*;
use crate::spec::Arithmetic;

const CHAIN: Arithmetic = Arithmetic::F32Chain;
const EXACT: Arithmetic = Arithmetic::I16Exact;

#[test]
fn layer_norm() {
    for (n, d) in [(1, 1), (3, 31), (5, 33), (64, 16), (65, 63), (130, 65), (2, 4097)] {
        for (seed, spread) in (0..).zip(SPREADS) {
            let mut case = Operands::new(Op::LayerNorm(LayerNorm { weight: 0, bias: 1 }), 1, n);
            let (w, b) = (values(seed, d, spread), values(seed + 10, d, spread));
            let (x, dy) = (values(seed + 20, n * d, spread), values(seed + 30, n * d, spread));
            let [y, dx, dw, db] = reference::layer_norm(&x, &w, &b, &dy);
            case.parameters = vec![(d, None, w), (d, None, b)];
            case.inputs = vec![x];
            case.d_output = dy;
            let got = case.run_everywhere();
            let what = format!("n {n} d {d} {spread:?}");
            assert_same(&got.output, &y, &what);
            assert_same(&got.d_inputs[0], &dx, &what);
            assert_same(&got.d_parameters[0], &dw, &what);
            assert_same(&got.d_parameters[1], &db, &what);
        }
    }
}

#[test]
fn rms_norm() {
    for (n, d) in [(1, 1), (3, 31), (5, 33), (64, 16), (65, 63), (130, 65), (2, 4097)] {
        for (seed, spread) in (0..).zip(SPREADS) {
            let mut case = Operands::new(Op::RmsNorm(RmsNorm { weight: 0 }), 1, n);
            let w = values(seed, d, spread);
            let (x, dy) = (values(seed + 20, n * d, spread), values(seed + 30, n * d, spread));
            let [y, dx, dw] = reference::rms_norm(&x, &w, &dy);
            case.parameters = vec![(d, None, w)];
            case.inputs = vec![x];
            case.d_output = dy;
            let got = case.run_everywhere();
            let what = format!("n {n} d {d} {spread:?}");
            assert_same(&got.output, &y, &what);
            assert_same(&got.d_inputs[0], &dx, &what);
            assert_same(&got.d_parameters[0], &dw, &what);
        }
    }
}

#[test]
fn rotary() {
    for (sequences, length, heads, kv_heads, head, base) in
        [(1, 1, 1, 1, 2, 10_000), (2, 33, 2, 2, 16, 10_000), (1, 65, 6, 2, 24, 500_000), (3, 70, 2, 1, 66, 2)]
    {
        for (seed, spread) in (0..).zip(SPREADS) {
            let mut case = Operands::new(Op::Rotary(Rotary { heads, kv_heads, base }), sequences, length);
            let elements = sequences * length * (heads + 2 * kv_heads) * head;
            let (x, dy) = (values(seed, elements, spread), values(seed + 1, elements, spread));
            let [y, dx] =
                reference::rotary(Heads { sequences, length, heads, kv_heads, head }, base, &x, &dy);
            case.inputs = vec![x];
            case.d_output = dy;
            let got = case.run_everywhere();
            assert_same(&got.output, &y, &format!("{heads} {kv_heads} {head} {spread:?}"));
            assert_same(&got.d_inputs[0], &dx, &format!("{heads} {kv_heads} {head} {spread:?}"));
        }
    }
}

#[test]
fn swiglu() {
    for (n, f) in [(1, 1), (3, 31), (17, 33), (40, 104), (2, 4097)] {
        for (seed, spread) in (0..).zip(SPREADS) {
            let mut case = Operands::new(Op::SwiGlu(SwiGlu), 1, n);
            let mut x = values(seed, n * 2 * f, spread);
            let odd = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e20, -1e20, -0.0, 1e-40, -90.0, 88.0];
            x.iter_mut().skip(7).zip(odd).for_each(|(x, odd)| *x = odd);
            let dy = values(seed + 1, n * f, spread);
            let [h, dx] = reference::swiglu(f, &x, &dy);
            case.inputs = vec![x];
            case.d_output = dy;
            let got = case.run_everywhere();
            assert_same(&got.output, &h, &format!("{n} {f} {spread:?}"));
            assert_same(&got.d_inputs[0], &dx, &format!("{n} {f} {spread:?}"));
        }
    }
}

#[test]
fn linear() {
    for (n, input, output) in
        [(1, 1, 1), (7, 31, 33), (65, 16, 17), (70, 63, 48), (33, 65, 100), (3, 4097, 7), (130, 8, 1030)]
    {
        for (seed, spread) in (0..).zip(SPREADS) {
            for (bias, arithmetic) in [(false, CHAIN), (true, CHAIN), (false, EXACT), (true, EXACT)] {
                let op = Linear { weight: 0, bias: bias.then_some(1), arithmetic };
                let mut case = Operands::new(Op::Linear(op), 1, n);
                let (w, b) = (values(seed, output * input, spread), values(seed + 10, output, spread));
                let (x, dy) = (values(seed + 20, n * input, spread), values(seed + 30, n * output, spread));
                let (x_at, w_at) = (|i, k| x[i * input + k], |o, k| w[o * input + k]);
                let dy_at = |i, k| dy[i * output + k];
                let mm = |size, a: &dyn Fn(usize, usize) -> f32, b: &dyn Fn(usize, usize) -> f32, bias| {
                    match arithmetic {
                        CHAIN => reference::mm(size, a, b, bias),
                        EXACT => reference::exact_mm(size, a, b, bias),
                    }
                };
                let y = mm((n, output, input), &x_at, &|k, j| w_at(j, k), bias.then_some(&b[..]));
                let dx = mm((n, input, output), &dy_at, &w_at, None);
                let dw = mm((output, input, n), &|o, r| dy_at(r, o), &x_at, None);
                let db = reference::cols(&dy, None, output);
                case.parameters = vec![(output, Some(input), w.clone())];
                if bias {
                    case.parameters.push((output, None, b));
                }
                case.inputs = vec![x.clone()];
                case.d_output = dy.clone();
                let got = case.run_everywhere();
                let what = format!("{n} x {input} -> {output} {spread:?} {arithmetic:?}");
                assert_same(&got.output, &y, &what);
                assert_same(&got.d_inputs[0], &dx, &what);
                assert_same(&got.d_parameters[0], &dw, &what);
                if bias {
                    assert_same(&got.d_parameters[1], &db, &what);
                }
            }
        }
    }
}

fn check_attention(shape: Heads, seed: u32, spread: Spread) {
    let Heads { sequences, length, heads, kv_heads, head } = shape;
    let mut case = Operands::new(Op::Attention(Attention { heads, kv_heads }), sequences, length);
    let n = sequences * length;
    let qkv = values(seed, n * (heads + 2 * kv_heads) * head, spread);
    let d_o = values(seed + 1, n * heads * head, spread);
    let [o, d_qkv] = reference::attention(shape, &qkv, &d_o);
    case.inputs = vec![qkv];
    case.d_output = d_o;
    let got = case.run_everywhere();
    assert_same(&got.output, &o, &format!("{shape:?} {spread:?}"));
    assert_same(&got.d_inputs[0], &d_qkv, &format!("{shape:?} {spread:?}"));
}

#[test]
fn attention() {
    for (sequences, length, heads, kv_heads, head) in [
        (1, 1, 1, 1, 1),
        (2, 31, 2, 2, 16),
        (1, 33, 3, 3, 5),
        (2, 63, 1, 1, 33),
        (1, 65, 2, 2, 32),
        (1, 130, 2, 1, 24),
        (1, 20, 6, 2, 8),
    ] {
        for (seed, spread) in (0..).zip(SPREADS) {
            check_attention(Heads { sequences, length, heads, kv_heads, head }, seed, spread);
        }
    }
}

#[test]
fn gelu() {
    for n in [1, 31, 33, 4095, 4097, 20_000] {
        for (seed, spread) in (0..).zip(SPREADS) {
            let mut case = Operands::new(Op::Gelu(Gelu), 1, n);
            let mut x = values(seed, n, spread);
            let odd = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e20, -1e20, -0.0, 1e-40, -12.5, 88.0];
            x.iter_mut().skip(7).zip(odd).for_each(|(x, odd)| *x = odd);
            let dy = values(seed + 1, n, spread);
            let [y, dx] = reference::gelu(&x, &dy);
            case.inputs = vec![x];
            case.d_output = dy;
            let got = case.run_everywhere();
            assert_same(&got.output, &y, &format!("{n} {spread:?}"));
            assert_same(&got.d_inputs[0], &dx, &format!("{n} {spread:?}"));
        }
    }
}

fn check_cross_entropy(logits: Vec<f32>, targets: Vec<u32>) -> harness::Written {
    let mut case = Operands::new(Op::CrossEntropy(CrossEntropy), 1, targets.len());
    let [losses, dx] = reference::cross_entropy(&logits, &targets);
    case.inputs = vec![logits];
    case.targets = targets;
    let got = case.run_everywhere();
    assert_same(&got.output, &losses, "token losses");
    assert_same(&got.d_inputs[0], &dx, "logit gradients");
    got
}

#[test]
fn cross_entropy() {
    for (n, v) in [(1, 1), (5, 31), (17, 33), (33, 100), (3, 4097)] {
        for (seed, spread) in (0..).zip(SPREADS) {
            check_cross_entropy(values(seed, n * v, spread), ids(seed, n, v as u32));
        }
    }
}

/// The max may skip a NaN; the sum may not.
#[test]
fn a_nan_or_infinite_logit_gives_a_nan_loss() {
    for odd in [f32::NAN, f32::INFINITY] {
        let mut logits = values(1, 4 * 40, Spread::Ordinary);
        logits[2 * 40 + 35] = odd;
        let got = check_cross_entropy(logits, vec![0, 1, 2, 3]);
        assert!(got.output[2].is_nan());
        assert!(got.output[1].is_finite() && got.output[3].is_finite());
        assert!(got.d_inputs[0][2 * 40..3 * 40].iter().all(|x| x.is_nan()));
    }
}

#[test]
fn embedding() {
    for (sequences, length, vocabulary, width) in [(1, 1, 2, 16), (3, 33, 7, 31), (2, 65, 300, 33)] {
        for (seed, spread) in (0..).zip(SPREADS) {
            let op = Op::Embedding(Embedding { tokens: 0, positions: Some(1) });
            let mut case = Operands::new(op, sequences, length);
            let n = sequences * length;
            let context = length + 3; // a table may be longer than the sequences
            let (wte, wpe) =
                (values(seed, vocabulary * width, spread), values(seed + 1, context * width, spread));
            let dy = values(seed + 2, n * width, spread);
            case.tokens = ids(seed, n, vocabulary as u32);
            let (mut x, mut dt, mut dp) = (vec![], vec![0.0; vocabulary * width], vec![0.0; context * width]);
            for r in 0..n {
                for j in 0..width {
                    let (t, p) = (case.tokens[r] as usize * width + j, r % length * width + j);
                    x.push(wte[t] + wpe[p]);
                    dt[t] += dy[r * width + j];
                    dp[p] += dy[r * width + j];
                }
            }
            case.parameters = vec![(vocabulary, Some(width), wte), (context, Some(width), wpe)];
            case.d_output = dy;
            let got = case.run_everywhere();
            assert_same(&got.output, &x, "x");
            assert_same(&got.d_parameters[0], &dt, "tokens");
            assert_same(&got.d_parameters[1], &dp, "positions");
        }
    }
}

#[test]
fn embedding_without_positions() {
    let (n, vocabulary, width) = (70, 9, 33);
    let mut case = Operands::new(Op::Embedding(Embedding { tokens: 0, positions: None }), 2, n / 2);
    let table = values(1, vocabulary * width, Spread::Wide);
    let dy = values(2, n * width, Spread::Wide);
    case.tokens = ids(3, n, vocabulary as u32);
    let mut dt = vec![0.0; vocabulary * width];
    let mut x = vec![];
    for (r, token) in case.tokens.iter().enumerate() {
        let row = *token as usize * width..(*token as usize + 1) * width;
        x.extend_from_slice(&table[row.clone()]);
        dt[row].iter_mut().zip(&dy[r * width..]).for_each(|(d, dy)| *d += dy);
    }
    case.parameters = vec![(vocabulary, Some(width), table)];
    case.d_output = dy;
    let got = case.run_everywhere();
    assert_same(&got.output, &x, "x");
    assert_same(&got.d_parameters[0], &dt, "tokens");
}

#[test]
fn add() {
    let n = 40_000;
    let mut case = Operands::new(Op::Add(Add), 1, n);
    let (x, y, dy) = (values(1, n, Spread::Wide), values(2, n, Spread::Tiny), values(3, n, Spread::Wide));
    let sum: Vec<f32> = x.iter().zip(&y).map(|(x, y)| x + y).collect();
    case.inputs = vec![x, y];
    case.d_output = dy.clone();
    let got = case.run_everywhere();
    assert_same(&got.output, &sum, "sum");
    assert_same(&got.d_inputs[0], &dy, "dx");
    assert_same(&got.d_inputs[1], &dy, "dy");
}

/// Spec 9: a chain that underflows ends as +0, not -0, whatever is padded to it.
#[test]
fn underflowing_chains_end_as_plus_zero() {
    let tiny = f32::from_bits((127 - 100) << 23);
    for n in [1, 2, 33, 300] {
        let mut case = Operands::new(Op::Linear(Linear { weight: 0, bias: None, arithmetic: CHAIN }), 1, n);
        case.parameters = vec![(3, Some(n), vec![tiny; 3 * n])];
        case.inputs = vec![vec![-tiny; n * n]];
        case.d_output = vec![-tiny; n * 3];
        let got = case.run_everywhere();
        assert!(got.flat().iter().all(|x| x.to_bits() == 0), "{n}: {:?}", &got.flat()[..1]);
    }
    let bias = -0.0f32;
    let mut case = Operands::new(Op::Linear(Linear { weight: 0, bias: Some(1), arithmetic: CHAIN }), 1, 1);
    case.parameters = vec![(1, Some(1), vec![tiny]), (1, None, vec![bias])];
    case.inputs = vec![vec![-tiny]];
    case.d_output = vec![-0.0];
    let got = case.run_everywhere();
    assert_eq!(got.output[0].to_bits(), 0);
    assert_eq!(got.d_parameters[1][0].to_bits(), 0, "column sums start from +0");
}

#[test]
fn nan_and_infinite_operands_stay_in_their_rows() {
    for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let (n, input, output) = (9, 20, 18);
        let mut case = Operands::new(Op::Linear(Linear { weight: 0, bias: None, arithmetic: CHAIN }), 1, n);
        let mut x = values(1, n * input, Spread::Ordinary);
        x[4 * input + 3] = odd;
        case.parameters = vec![(output, Some(input), values(2, output * input, Spread::Ordinary))];
        case.inputs = vec![x];
        case.d_output = values(3, n * output, Spread::Ordinary);
        let got = case.run_everywhere();
        for (i, y) in got.output.chunks(output).enumerate() {
            assert!(y.iter().all(|y| y.is_finite() == (i != 4)), "row {i}");
        }
        assert!(got.d_inputs[0].iter().all(|x| x.is_finite()));
    }
}
