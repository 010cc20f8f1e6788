//! Exact products against their definition in big integers, on every instruction set.

use proptest::prelude::*;

use super::*;
use crate::isa::{Isa, Level};
use crate::ops::tests::harness::{SPREADS, assert_same, values};
use crate::ops::tests::reference;

fn check(size: Size, a: &[f32], b: &[f32], bias: Option<&[f32]>, threads: usize, flip: (bool, bool)) {
    let Size { m, n, k } = size;
    let view = |data, rows, cols, flip| match flip {
        false => Matrix::row_major(data, cols),
        true => Matrix::row_major(data, rows).transposed(),
    };
    let (a, b) = (view(a, m, k, flip.0), view(b, k, n, flip.1));
    let at = |x: Matrix<'_>, i: usize, k: usize| x.data[i * x.row + k * x.col];
    let want = reference::exact_mm((m, n, k), |i, k| at(a, i, k), |k, j| at(b, k, j), bias);
    for isa in Isa::available() {
        let mut env = Env::new(Level::new(isa).unwrap(), threads).unwrap();
        let mut c = vec![f32::NAN; m * n];
        product(&mut env, size, a, b, bias, &mut c).unwrap();
        assert_same(&c, &want, &format!("{size:?} {isa} {threads} threads"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn padding_pieces_and_threads_do_not_show(
        m in 1usize..60, n in 1usize..50, k in 1usize..90, seed in 0u32..1000, spread in 0usize..3,
        threads in 1usize..4, bias: bool, left: bool, right: bool,
    ) {
        let draw = |i: u32, len: usize| values(seed + i, len, SPREADS[spread]);
        let bias = bias.then(|| draw(2, n));
        check(Size { m, n, k }, &draw(0, m * k), &draw(1, k * n), bias.as_deref(), threads, (left, right));
    }
}

/// The largest integers there are, all of one sign and alternating, as long as two passes: nothing overflows.
#[test]
fn sums_of_extremes_are_exact() {
    let k = 2 * operand::PASS + 35;
    let largest = f32::from_bits(0x3f7e_8000);
    let ones = vec![largest; k];
    let turns: Vec<f32> = (0..k).map(|i| if i % 2 == 0 { largest } else { -largest }).collect();
    for (a, b) in [(&ones, &ones), (&ones, &turns), (&turns, &turns)] {
        check(Size { m: 1, n: 1, k }, a, b, None, 1, (false, false));
        // Side by side, which is the other way of packing.
        let (a, b) = (a.repeat(4), b.repeat(17));
        check(
            Size { m: 4, n: 17, k: k / 64 },
            &a[..4 * (k / 64)],
            &b[..17 * (k / 64)],
            None,
            1,
            (true, true),
        );
    }
}

#[test]
fn a_line_that_is_not_finite_makes_nan_of_its_results() {
    for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let (m, n, k) = (5, 7, 20);
        let (mut a, mut b) = (values(1, m * k, SPREADS[0]), values(2, k * n, SPREADS[0]));
        a[2 * k + 3] = odd;
        b[4 * n + 6] = odd;
        let mut env = Env::new(Level::detect(), 1).unwrap();
        let mut c = vec![0.0; m * n];
        let size = Size { m, n, k };
        product(&mut env, size, Matrix::row_major(&a, k), Matrix::row_major(&b, n), None, &mut c).unwrap();
        for (at, c) in c.iter().enumerate() {
            assert_eq!(c.is_nan(), at / n == 2 || at % n == 6, "{at}");
        }
    }
}

/// Lines of all sizes, of one sign: the sums between two carries come as close to what fits as the bounds allow, and single pairs
/// go beyond them.
#[test]
fn sums_are_carried_in_time() {
    let k = 4 * 96;
    for level in (0..=64).map(|i| i as f32 / 64.0) {
        // One full element makes the scale; all others of the line are `level` of it.
        let line: Vec<f32> =
            (0..k).map(|i| if i == 5 { 32576.0 } else { (32576.0 * level).round() }).collect();
        let both = line.repeat(20);
        check(Size { m: 7, n: 20, k }, &both[..7 * k], &both, None, 1, (false, true));
        // Side by side, which is the other way of laying out.
        let both: Vec<f32> = line.iter().flat_map(|x| [*x; 20]).collect();
        let few: Vec<f32> = line.iter().flat_map(|x| [*x; 7]).collect();
        check(Size { m: 7, n: 20, k }, &few, &both, None, 2, (true, false));
    }
}

/// Every layout of both operands, with segments and without, gives the same.
#[test]
fn cuts_and_layouts_do_not_show() {
    let (m, n) = (31, 37);
    for k in [1, 2, 15, 16, 17, 130, 300, 1100] {
        let (a, b) = (values(7, m * k, SPREADS[1]), values(8, k * n, SPREADS[1]));
        for (threads, left, right) in [(1, false, false), (3, true, false), (2, false, true), (4, true, true)]
        {
            check(Size { m, n, k }, &a, &b, None, threads, (left, right));
        }
    }
}
