//! tests/vectors/ops.txt: inputs and output bits of each op, for implementations in other languages.

use std::fmt::Write;

use super::harness::{Operands, Spread, ids, values};
use super::*;
use crate::isa::{Emulated, Level};
use crate::kernel::{rows_dot, rows_sum};
use crate::math;
use crate::spec::Arithmetic;

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/ops.txt");

const HEADER: &str = "\
# Inputs and outputs of the ops of muster.ops/1 (docs/spec/numerics.md); linear in the arithmetic that is named.
# `case OP MEMBERS` begins a case; then one operand a line: NAME COUNT and that many words, f32 bits in
# hex (any NaN as 7fc00000) or, for tokens and targets, decimal ids. Matrices are row-major.
# `y` is the output, `dy` its gradient, `dNAME` the gradient of input or parameter NAME.
";

fn line(out: &mut String, name: &str, x: &[f32]) {
    write!(out, "{name} {}", x.len()).unwrap();
    for x in x {
        let bits = if x.is_nan() { 0x7fc0_0000 } else { x.to_bits() };
        write!(out, " {bits:08x}").unwrap();
    }
    out.push('\n');
}

fn id_line(out: &mut String, name: &str, ids: &[u32]) {
    let words: Vec<String> = ids.iter().map(u32::to_string).collect();
    writeln!(out, "{name} {} {}", ids.len(), words.join(" ")).unwrap();
}

/// A case with its operands' names: inputs, then parameters.
fn case(out: &mut String, members: &str, operands: &Operands, inputs: &[&str], parameters: &[&str]) {
    let Rows { sequences, length } = operands.rows;
    let op = operands.op.name();
    writeln!(out, "case {op} sequences {sequences} length {length} {members}").unwrap();
    if !operands.tokens.is_empty() {
        id_line(out, "tokens", &operands.tokens);
    }
    if !operands.targets.is_empty() {
        id_line(out, "targets", &operands.targets);
    }
    for (name, x) in inputs.iter().zip(&operands.inputs) {
        line(out, name, x);
    }
    for (name, (_, _, x)) in parameters.iter().zip(&operands.parameters) {
        line(out, name, x);
    }
    if !operands.d_output.is_empty() {
        line(out, "dy", &operands.d_output);
    }
    let got = operands.run_everywhere();
    line(out, "y", &got.output);
    for (name, x) in inputs.iter().zip(&got.d_inputs) {
        line(out, &format!("d{name}"), x);
    }
    for (name, x) in parameters.iter().zip(&got.d_parameters) {
        line(out, &format!("d{name}"), x);
    }
}

fn functions(out: &mut String) {
    let mut x = values(50, 60, Spread::Wide);
    x.extend([0.0, -0.0, 1.0, -1.0, 88.9, 89.0, 90.0, -87.5, -103.9, -104.0, -200.0, 1e-40]);
    x.extend([f32::INFINITY, f32::NEG_INFINITY, f32::NAN]);
    let exp = |out: &mut String, x: &[f32]| {
        out.push_str("case exp\n");
        line(out, "x", x);
        line(out, "y", &x.iter().map(|x| math::exp::<Emulated>(*x)).collect::<Vec<_>>());
    };
    exp(out, &x);
    // Subnormal results: those before the last are others if they are rounded twice.
    let twice =
        [0xc2b1_b84f, 0xc2b1_c231, 0xc2b1_f9c4, 0xc2b2_0984, 0xc2b2_ef01, 0xc2b4_9d42].map(f32::from_bits);
    exp(out, &[&twice[..], &[-95.0]].concat());
    let x: Vec<f32> = x.into_iter().map(f32::abs).filter(|x| x.is_nan() || *x >= f32::MIN_POSITIVE).collect();
    out.push_str("case log\n");
    line(out, "x", &x);
    line(out, "y", &x.iter().map(|x| math::log::<Emulated>(*x)).collect::<Vec<_>>());
    for n in [1, 31, 33, 63, 65] {
        for spread in [Spread::Wide, Spread::Tiny] {
            let (x, z) = (values(51, n, spread), values(52, n, spread));
            out.push_str("case rows_and_dot\n");
            line(out, "x", &x);
            line(out, "z", &z);
            line(out, "rows", &[rows_sum(Level::PORTABLE, &x)]);
            line(out, "dot", &[rows_dot(Level::PORTABLE, &x, &z)]);
        }
    }
    for n in [1, 2, 3, 5, 6, 7] {
        let x = values(53, n, Spread::Wide);
        out.push_str("case tree\n");
        line(out, "x", &x);
        line(out, "y", &[crate::kernel::tree(x.clone())]);
    }
}

fn ops(out: &mut String) {
    for (seed, spread) in [(60, Spread::Ordinary), (70, Spread::Tiny)] {
        let draw = |i: u32, n: usize| values(seed + i, n, spread);

        let mut c = Operands::new(Op::Embedding(Embedding { tokens: 0, positions: Some(1) }), 2, 3);
        c.parameters = vec![(5, Some(4), draw(0, 20)), (3, Some(4), draw(1, 12))];
        c.tokens = ids(seed, 6, 5);
        c.d_output = draw(2, 24);
        case(out, "vocabulary 5 width 4", &c, &[], &["table", "positions"]);

        let mut c = Operands::new(Op::Add(Add), 1, 2);
        c.inputs = vec![draw(0, 8), draw(1, 8)];
        c.d_output = draw(2, 8);
        case(out, "width 4", &c, &["a", "b"], &[]);

        let mut c = Operands::new(Op::LayerNorm(LayerNorm { weight: 0, bias: 1 }), 1, 3);
        c.parameters = vec![(37, None, draw(0, 37)), (37, None, draw(1, 37))];
        c.inputs = vec![draw(2, 3 * 37)];
        c.d_output = draw(3, 3 * 37);
        case(out, "width 37", &c, &["x"], &["weight", "bias"]);

        for arithmetic in [Arithmetic::F32Chain, Arithmetic::I16Exact] {
            let linear = Linear { weight: 0, bias: Some(1), arithmetic };
            let mut c = Operands::new(Op::Linear(linear), 1, 5);
            c.parameters = vec![(7, Some(19), draw(0, 7 * 19)), (7, None, draw(1, 7))];
            c.inputs = vec![draw(2, 5 * 19)];
            c.d_output = draw(3, 5 * 7);
            case(out, &format!("in 19 out 7 {}", arithmetic.name()), &c, &["x"], &["weight", "bias"]);
        }

        let mut c = Operands::new(Op::RmsNorm(RmsNorm { weight: 0 }), 1, 3);
        c.parameters = vec![(37, None, draw(0, 37))];
        c.inputs = vec![draw(2, 3 * 37)];
        c.d_output = draw(3, 3 * 37);
        case(out, "width 37", &c, &["x"], &["weight"]);

        let mut c = Operands::new(Op::Rotary(Rotary { heads: 4, kv_heads: 2, base: 10_000 }), 2, 5);
        c.inputs = vec![draw(0, 10 * 8 * 6)];
        c.d_output = draw(1, 10 * 8 * 6);
        case(out, "heads 4 kv_heads 2 head 6 base 10000", &c, &["x"], &[]);

        let mut c = Operands::new(Op::SwiGlu(SwiGlu), 1, 2);
        c.inputs = vec![values(seed, 2 * 2 * 19, Spread::Wide)];
        c.d_output = draw(1, 2 * 19);
        case(out, "width 19", &c, &["x"], &[]);

        let mut c = Operands::new(Op::Embedding(Embedding { tokens: 0, positions: None }), 2, 3);
        c.parameters = vec![(5, Some(4), draw(0, 20))];
        c.tokens = ids(seed, 6, 5);
        c.d_output = draw(2, 24);
        case(out, "vocabulary 5 width 4", &c, &[], &["table"]);

        let mut c = Operands::new(Op::Attention(Attention { heads: 4, kv_heads: 2 }), 1, 35);
        c.inputs = vec![draw(0, 35 * 8 * 3)];
        c.d_output = draw(1, 35 * 4 * 3);
        case(out, "heads 4 kv_heads 2 head 3", &c, &["x"], &[]);

        let mut c = Operands::new(Op::Gelu(Gelu), 1, 40);
        c.inputs = vec![values(seed, 40, Spread::Wide)];
        c.d_output = draw(1, 40);
        case(out, "width 1", &c, &["x"], &[]);

        let mut c = Operands::new(Op::CrossEntropy(CrossEntropy), 1, 4);
        let mut logits = draw(0, 4 * 37);
        logits[2 * 37 + 5] = f32::NAN;
        c.inputs = vec![logits];
        c.targets = ids(seed, 4, 37);
        case(out, "width 37", &c, &["x"], &[]);
    }
    // A chain that underflows: +0, not -0.
    let tiny = f32::from_bits((127 - 100) << 23);
    let mut c =
        Operands::new(Op::Linear(Linear { weight: 0, bias: None, arithmetic: Arithmetic::F32Chain }), 1, 1);
    c.parameters = vec![(1, Some(1), vec![tiny])];
    c.inputs = vec![vec![-tiny]];
    c.d_output = vec![tiny];
    case(out, "in 1 out 1 f32-chain", &c, &["x"], &["weight"]);
    // Lines whose largest elements are at the borders of the exponent's steps, and a line that is not finite.
    for bits in
        [0x3f7e_8000u32, 0x3f7e_8001, (127 - 113) << 23, (127 - 115) << 23, 1, 0x7f7f_ffff, 0x7f80_0000]
    {
        let x = f32::from_bits(bits);
        let mut c = Operands::new(
            Op::Linear(Linear { weight: 0, bias: None, arithmetic: Arithmetic::I16Exact }),
            1,
            2,
        );
        c.parameters = vec![(2, Some(3), values(90, 6, Spread::Ordinary))];
        c.inputs = vec![vec![x, -x / 3.0, x / 1000.0, 0.5, -0.25, 0.0]];
        c.d_output = vec![1.0, -0.0, 0.0, -0.75];
        case(out, "in 3 out 2 i16-exact", &c, &["x"], &["weight"]);
    }
}

/// Set MUSTER_BLESS=1 to write the file; a change of published bits is a new version of the op set.
#[test]
fn published_op_vectors() {
    let mut text = HEADER.to_owned();
    functions(&mut text);
    ops(&mut text);
    if std::env::var_os("MUSTER_BLESS").is_some() {
        std::fs::write(PATH, &text).unwrap();
    }
    let published = std::fs::read_to_string(PATH).unwrap();
    for (i, (got, want)) in text.lines().zip(published.lines()).enumerate() {
        assert_eq!(got, want, "line {}", i + 1);
    }
    assert_eq!(text.len(), published.len());
}
