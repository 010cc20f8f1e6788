//! Products of any size, blocked in any way, against one loop per element.

use proptest::prelude::*;

use super::*;
use crate::isa::Isa;
use crate::ops::tests::harness::{SPREADS, assert_same, values};
use crate::ops::tests::reference;

fn check(size: Size, seed: u32, spread: usize, threads: usize, bias: bool, flip: (bool, bool)) {
    let Size { m, n, k } = size;
    let (a, b) = (values(seed, m * k, SPREADS[spread]), values(seed + 1, k * n, SPREADS[spread]));
    let bias = bias.then(|| values(seed + 2, n, SPREADS[spread]));
    let view = |data, rows, cols, flip| match flip {
        false => Matrix::row_major(data, cols),
        true => Matrix::row_major(data, rows).transposed(),
    };
    let (a, b) = (view(&a, m, k, flip.0), view(&b, k, n, flip.1));
    let at = |x: Matrix<'_>, i: usize, k: usize| x.data[i * x.row + k * x.col];
    let want = reference::mm((m, n, k), |i, k| at(a, i, k), |k, j| at(b, k, j), bias.as_deref());
    for isa in Isa::available() {
        let mut env = Env::new(Level::new(isa).unwrap(), threads).unwrap();
        let mut c = vec![f32::NAN; m * n];
        product(&mut env, size, a, b, bias.as_deref(), &mut c).unwrap();
        assert_same(&c, &want, &format!("{size:?} {isa} {threads} threads"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn padding_blocks_and_threads_do_not_show(
        m in 1usize..80, n in 1usize..50, k in 1usize..90, seed in 0u32..1000, spread in 0usize..3,
        threads in 1usize..5, bias: bool, left: bool, right: bool,
    ) {
        check(Size { m, n, k }, seed, spread, threads, bias, (left, right));
    }
}

/// Around every block size: KC, KO and NC.
#[test]
fn chains_are_resumed_across_blocks() {
    for (m, n, k) in [(7, 17, 255), (7, 17, 256), (6, 16, 257), (5, 3, 2047), (2, 5, 2049), (1, 2, 4097)] {
        check(Size { m, n, k }, 1, 2, 2, true, (false, true));
        check(Size { m, n, k }, 2, 1, 1, false, (true, false));
    }
    for n in [1023, 1024, 1025, 2050] {
        check(Size { m: 3, n, k: 5 }, 3, 0, 2, true, (false, false));
    }
}

/// Of a packed operand a prefix of k may be used, and a tile may lie inside a wider result.
#[test]
fn a_block_writes_only_its_own_columns() {
    let (m, n, k, depth, stride) = (8, 20, 5, 9, 23);
    let (a, b) = (values(1, m * k, SPREADS[0]), values(2, depth * n, SPREADS[0]));
    let (a, b) = (Matrix::row_major(&a, k), Matrix::row_major(&b, n));
    let want = reference::mm((m, n, k), |i, x| a.data[i * k + x], |x, j| b.data[x * n + j], None);
    for isa in Isa::available() {
        let level = Level::new(isa).unwrap();
        let mut packed = vec![0.0; n.div_ceil(NR) * NR * depth];
        pack_right(level, b, n, depth, &mut packed);
        let mut c = vec![7.0; m * stride];
        let b = Packed { data: &packed, depth };
        block(level, Size { m, n, k }, a, b, Start::Zero, &mut c, stride, &mut vec![]);
        for (c, want) in c.chunks(stride).zip(want.chunks(n)) {
            assert_same(&c[..n], want, "inside");
            assert!(c[n..].iter().all(|x| *x == 7.0), "outside");
        }
    }
}
