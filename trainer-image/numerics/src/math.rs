//! Elementary functions from correctly rounded operations only (spec 3): no libm, so the same bits
//! everywhere. The constants are bit patterns; decimals in comments are for readers.

use crate::isa::Arith;

#[inline(always)]
const fn f(bits: u32) -> f32 {
    f32::from_bits(bits)
}

/// e^x, at most 1.02 ulp; clamps x to [-104, 89], so e^89.1 is +Inf and e^-200 the smallest result.
/// NaN goes through.
#[inline(always)]
pub(crate) fn exp<A: Arith>(x: f32) -> f32 {
    const MAGIC: u32 = 0x4b40_0000; // 1.5 * 2^23: adding it leaves the rounded integer in the low bits
    let x = if x < -104.0 { -104.0 } else { x };
    let x = if x > 89.0 { 89.0 } else { x };
    let t = A::fma(x, f(0x3fb8aa3b), f(MAGIC)); // log2 e
    let n = t - f(MAGIC);
    let r = A::fma(n, -f(0x3f318000), x); // ln 2 in two parts
    let r = A::fma(n, f(0x395e8083), r);
    let p = f(0x39506967);
    let p = A::fma(p, r, f(0x3ab743ce));
    let p = A::fma(p, r, f(0x3c088908));
    let p = A::fma(p, r, f(0x3d2aa9c1));
    let p = A::fma(p, r, f(0x3e2aaaaa));
    let p = A::fma(p, r, f(0x3f000000));
    let p = A::fma(p, r * r, r) + 1.0;
    scale(p, (t.to_bits() as i32).wrapping_sub(MAGIC as i32))
}

/// p 2^n for p in [1/2, 2), in two factors: n reaches from -150 to 128, beyond what one exponent field holds. The first product is
/// exact, so what is subnormal is rounded once.
#[inline(always)]
fn scale(p: f32, n: i32) -> f32 {
    let n1 = n >> 1;
    let n2 = n.wrapping_sub(n1);
    let power = |n: i32| f((n.wrapping_add(127) << 23) as u32);
    (p * power(n1)) * power(n2)
}

/// ln x for normal x > 0; x - x (NaN) where the exponent field is 255.
#[inline(always)]
pub(crate) fn log<A: Arith>(x: f32) -> f32 {
    let b = x.to_bits() as i32;
    if b & 0x7f80_0000 == 0x7f80_0000 {
        // The spec's x - x: NaN for infinities and NaN alike.
        return f32::NAN;
    }
    let k = b.wrapping_sub(0x3f35_04f3) >> 23; // so that m + 1 is in [sqrt(1/2), sqrt(2))
    let m = f((b.wrapping_sub(k << 23)) as u32) - 1.0;
    let e = k as f32;
    let z = m * m;
    let y = f(0x3d9021bb);
    let y = A::fma(y, m, f(0xbdebd1b8));
    let y = A::fma(y, m, f(0x3def251a));
    let y = A::fma(y, m, f(0xbdfe5d4f));
    let y = A::fma(y, m, f(0x3e11e9bf));
    let y = A::fma(y, m, f(0xbe2aae50));
    let y = A::fma(y, m, f(0x3e4cceac));
    let y = A::fma(y, m, f(0xbe7ffffc));
    let y = A::fma(y, m, f(0x3eaaaaaa));
    let y = (y * m) * z;
    let y = A::fma(e, -f(0x395e8083), y);
    let y = A::fma(z, -0.5, y);
    A::fma(e, f(0x3f318000), m + y)
}

/// The nearest integer, |y| < 2^51.
fn rint64(y: f64) -> f64 {
    const ROUND: f64 = 6_755_399_441_055_744.0; // 1.5 * 2^52
    (y + ROUND) - ROUND
}

/// (sin x, cos x) for |x| < 2^20, f64, + - * / only. Runs on the host: once per step, and once per table.
pub(crate) fn sincos64(x: f64) -> (f64, f64) {
    let h = f64::from_bits;
    let k = rint64(x * h(0x3fe4_5f30_6dc9_c883)); // 2 / pi
    // pi / 2 in three parts
    let r =
        ((x - k * h(0x3ff9_21fb_5440_0000)) - k * h(0x3dd0_b461_1a60_0000)) - k * h(0x3ba3_198a_2e00_0000);
    let z = r * r;
    let (mut s, mut c) = (1.0, 1.0);
    for j in (1..=9).rev() {
        let j = f64::from(j);
        s = 1.0 - (z * s) / ((2.0 * j) * (2.0 * j + 1.0));
        c = 1.0 - (z * c) / ((2.0 * j - 1.0) * (2.0 * j));
    }
    s *= r;
    match (k as i64).rem_euclid(4) {
        0 => (s, c),
        1 => (c, -s),
        2 => (-s, -c),
        _ => (-c, s),
    }
}

/// e^x for |x| < 700, f64, + - * / only.
pub(crate) fn exp64(x: f64) -> f64 {
    let h = f64::from_bits;
    let n = rint64(x * h(0x3ff7_1547_652b_82fe)); // log2 e
    let r = (x - n * h(LN2[0])) - n * h(LN2[1]);
    let p = (1..=16).rev().fold(1.0, |p, j| 1.0 + (r * p) / f64::from(j));
    p * h(((n as i64 + 1023) << 52) as u64)
}

/// ln x for normal x > 0, f64, + - * / only.
pub(crate) fn ln64(x: f64) -> f64 {
    let h = f64::from_bits;
    let b = x.to_bits() as i64;
    let e = (b - 0x3fe6_a09e_667f_3bcd) >> 52; // so that m is in [sqrt(1/2), sqrt(2))
    let m = h((b - (e << 52)) as u64);
    let s = (m - 1.0) / (m + 1.0);
    let z = s * s;
    let p = (0..=11).rev().fold(1.0 / 25.0, |p, j| 1.0 / f64::from(2 * j + 1) + z * p);
    e as f64 * h(LN2[0]) + ((2.0 * s) * p + e as f64 * h(LN2[1]))
}

/// ln 2 in two parts, the first with zeros at its end.
const LN2: [u64; 2] = [0x3fe6_2e42_fee0_0000, 0x3dea_39ef_3579_3c76];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::{Emulated, Isa, Level, multiversion};

    multiversion! {
        fn exp_all<A>(x: &[f32], y: &mut [f32]) {
            for (x, y) in x.iter().zip(y) {
                *y = exp::<A>(*x);
            }
        }
    }

    multiversion! {
        fn log_all<A>(x: &[f32], y: &mut [f32]) {
            for (x, y) in x.iter().zip(y) {
                *y = log::<A>(*x);
            }
        }
    }

    fn ulps(got: f32, want: f64) -> f64 {
        let next = f64::from(f32::from_bits((want.abs() as f32).to_bits() + 1));
        (f64::from(got) - want).abs() / (next - f64::from(want.abs() as f32))
    }

    /// Every 101st f32 of the range where no result is subnormal, against f64.
    #[test]
    fn exp_and_log_are_accurate() {
        let mut worst = [0.0f64; 2];
        for bits in (0x3800_0000u32..0x42ae_0000).step_by(101) {
            for x in [f32::from_bits(bits), -f32::from_bits(bits)] {
                worst[0] = worst[0].max(ulps(exp::<Emulated>(x), f64::from(x).exp()));
            }
            let x = f32::from_bits(bits);
            if (0.5..131_072.0).contains(&x) && x != 1.0 {
                worst[1] = worst[1].max(ulps(log::<Emulated>(x), f64::from(x).ln()));
            }
        }
        assert!(worst[0] < 1.02 && worst[1] < 0.84, "{worst:?}");
    }

    #[test]
    fn ends_of_the_range() {
        let e = exp::<Emulated>;
        assert_eq!(e(0.0), 1.0);
        assert_eq!(e(f32::INFINITY), f32::INFINITY);
        assert_eq!(e(89.5), f32::INFINITY);
        assert!(e(-104.0) <= f32::from_bits(1) && e(f32::NEG_INFINITY).to_bits() == e(-104.0).to_bits());
        assert!(e(-100.0) > 0.0 && e(-100.0) < f32::MIN_POSITIVE);
        assert!(e(f32::NAN).is_nan());
        let l = log::<Emulated>;
        assert_eq!(l(1.0), 0.0);
        assert!(l(f32::INFINITY).is_nan() && l(f32::NAN).is_nan());
    }

    #[test]
    fn subnormal_results_are_rounded_once() {
        for n in -150..=128 {
            for bits in (0x3f00_0000u32..0x4000_0000).step_by(9973) {
                let p = f32::from_bits(bits);
                let want = (f64::from(p) * 2f64.powi(n)) as f32;
                assert_eq!(scale(p, n).to_bits(), want.to_bits(), "{p:e} * 2^{n}");
            }
        }
    }

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        let x: Vec<f32> = (0..u32::MAX).step_by(10_007).map(f32::from_bits).collect();
        let positive: Vec<f32> = x.iter().map(|x| x.abs().max(f32::MIN_POSITIVE)).collect();
        let run = |level| {
            let (mut e, mut l) = (vec![0.0; x.len()], vec![0.0; x.len()]);
            exp_all(level, &x, &mut e);
            log_all(level, &positive, &mut l);
            [e, l].concat()
        };
        let want = run(Level::PORTABLE);
        for isa in Isa::available() {
            crate::ops::tests::harness::assert_same(&run(Level::new(isa).unwrap()), &want, isa.name());
        }
    }

    #[test]
    fn sincos64_is_accurate() {
        for i in -4000..4000 {
            let x = f64::from(i) * 0.01;
            let (s, c) = sincos64(x);
            assert!((s - x.sin()).abs() < 4e-16 && (c - x.cos()).abs() < 4e-16, "{x}");
        }
        for x in [8191.0, 1e5, -999_999.5] {
            let (s, c) = sincos64(x);
            assert!((s - x.sin()).abs() < 2e-15 && (c - x.cos()).abs() < 2e-15, "{x}");
        }
    }

    #[test]
    fn exp64_and_ln64_are_accurate() {
        for i in -3000..3000 {
            let x = f64::from(i) * 0.01;
            assert!((exp64(x) / x.exp() - 1.0).abs() < 1e-15, "{x}");
        }
        for x in [f64::MIN_POSITIVE, 0.5, 0.7, std::f64::consts::SQRT_2, 1.5, 2.0, 1e4, 5e5, 1e300] {
            assert!((ln64(x) - x.ln()).abs() <= 4e-16 * x.ln().abs(), "{x}");
        }
        assert_eq!(ln64(1.0), 0.0);
    }
}
