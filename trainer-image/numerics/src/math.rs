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
    // 2^n in two factors: n reaches from -150 to 128, beyond what one exponent field holds.
    let n = (t.to_bits() as i32).wrapping_sub(MAGIC as i32);
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

/// cos x for |x| < 2^20, f64, + - * / only. Runs once per step, on the host.
pub(crate) fn cos64(x: f64) -> f64 {
    let rint = |y: f64| {
        const ROUND: f64 = 6_755_399_441_055_744.0; // 1.5 * 2^52
        (y + ROUND) - ROUND
    };
    let h = f64::from_bits;
    let k = rint(x * h(0x3fe4_5f30_6dc9_c883)); // 2 / pi
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
        0 => c,
        1 => -s,
        2 => -c,
        _ => s,
    }
}
