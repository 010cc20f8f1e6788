//! Which instructions the kernels use: chosen at run time, invisible in the bits (spec 1.2).
//!
//! A kernel is written once as a generic function over `Arith` and compiled once per instruction
//! set by the `multiversion!` macro. The only thing that differs is how `fma` is spelled: the FMA
//! unit where there is one, an exact emulation in f64 where there is none.

use std::fmt;

/// An instruction set that kernels exist for. All of them give the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Isa {
    /// Plain Rust, no CPU feature assumed but what every CPU of the architecture has: on aarch64 that is an FMA unit
    /// of four lanes. Without one every `fma` is emulated in f64: exact, independent of any libm, and about a hundred
    /// times slower than [`Isa::Avx2`].
    Portable,
    /// x86-64 with AVX2 and FMA (Haswell, Zen and later).
    Avx2,
    /// x86-64 with the AVX-512 of servers: F, VL, DQ, BW (Skylake-SP, Zen 4 and later).
    Avx512,
}

impl Isa {
    /// Every instruction set this crate has kernels for, slowest first.
    pub const ALL: [Isa; 3] = [Isa::Portable, Isa::Avx2, Isa::Avx512];

    /// The fastest instruction set of this CPU.
    pub fn detect() -> Isa {
        Isa::ALL.into_iter().rfind(|isa| isa.is_available()).unwrap_or(Isa::Portable)
    }

    /// The instruction sets of this CPU, slowest first.
    pub fn available() -> Vec<Isa> {
        Isa::ALL.into_iter().filter(|isa| isa.is_available()).collect()
    }

    /// Names of the instruction sets this CPU lacks, for the skip counts of tests.
    pub fn missing() -> Vec<&'static str> {
        Isa::ALL.into_iter().filter(|isa| !isa.is_available()).map(Isa::name).collect()
    }

    /// `portable`, `avx2` or `avx512`.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
        }
    }

    /// Whether this CPU (and the operating system's register saving) supports the set.
    pub fn is_available(self) -> bool {
        match self {
            Isa::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => {
                Isa::Avx2.is_available()
                    && std::is_x86_feature_detected!("avx512f")
                    && std::is_x86_feature_detected!("avx512vl")
                    && std::is_x86_feature_detected!("avx512dq")
                    && std::is_x86_feature_detected!("avx512bw")
            }
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx2 | Isa::Avx512 => false,
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The caller asked for an instruction set that this CPU does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this CPU has no {0}: choose one of Isa::available()")]
pub struct IsaUnavailable(pub Isa);

/// An instruction set that was checked against this CPU. Kernels take this, not [`Isa`]: the check is
/// what makes calling an AVX2 function sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Level(Isa);

impl Level {
    #[cfg(test)]
    pub(crate) const PORTABLE: Level = Level(Isa::Portable);

    pub(crate) fn new(isa: Isa) -> Result<Level, IsaUnavailable> {
        if isa.is_available() { Ok(Level(isa)) } else { Err(IsaUnavailable(isa)) }
    }

    pub(crate) fn detect() -> Level {
        Level(Isa::detect())
    }

    #[inline(always)]
    pub(crate) fn isa(self) -> Isa {
        self.0
    }
}

/// How a kernel computes a fused multiply-add; everything else of a kernel is common.
pub(crate) trait Arith {
    /// `a * b + c` with one rounding to nearest even.
    fn fma(a: f32, b: f32, c: f32) -> f32;
}

/// For code compiled with the `fma` target feature: one instruction.
#[cfg(target_arch = "x86_64")]
pub(crate) struct Fused;

#[cfg(target_arch = "x86_64")]
impl Arith for Fused {
    #[inline(always)]
    fn fma(a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }
}

/// For code that may not assume an FMA unit, unless the architecture has one in every CPU, as aarch64 does.
pub(crate) struct Emulated;

impl Arith for Emulated {
    #[inline(always)]
    fn fma(a: f32, b: f32, c: f32) -> f32 {
        if cfg!(any(target_feature = "fma", target_arch = "aarch64")) {
            a.mul_add(b, c)
        } else {
            fma_by_f64(a, b, c)
        }
    }
}

/// Exact f32 `fma` without an FMA unit and without libm.
///
/// The product of two f32 is exact in f64 (48 bits). Their sum with `c` is rounded to odd in f64, and
/// rounding an odd-rounded value of 53 bits to f32, subnormals included, is the single rounding
/// asked for (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums", 2008). libm's
/// `fmaf` is not used: musl's rounds twice for some subnormal results.
#[inline(always)]
fn fma_by_f64(a: f32, b: f32, c: f32) -> f32 {
    let p = f64::from(a) * f64::from(b);
    let c = f64::from(c);
    // Knuth's TwoSum: s + err == p + c exactly; with an infinity or NaN, err is NaN.
    let s = p + c;
    let bb = s - p;
    let err = (p - (s - bb)) + (c - bb);
    let bits = s.to_bits() as i64;
    // Inexact and even: one step away from zero if err has the sign of s, else one towards it. (s == 0
    // is always exact.) Masks, so that the compiler can do several at once.
    let inexact = -i64::from((err > 0.0) | (err < 0.0));
    let even = (bits & 1) - 1;
    let step = ((err.to_bits() as i64 ^ bits) >> 63) | 1;
    f64::from_bits(bits.wrapping_add(step & inexact & even) as u64) as f32
}

/// Defines `fn name(level, args..)` that runs a body, generic over `A: Arith`, compiled for the
/// instruction set of `level`. The body must call only `#[inline(always)]` code with `A::fma` in it:
/// what is not inlined would be compiled without the feature.
macro_rules! multiversion {
    ($(#[$meta:meta])* $vis:vis fn $name:ident<$a:ident $(, const $c:ident: $ct:ty)*>($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        $vis fn $name<$(const $c: $ct),*>(level: $crate::isa::Level, $($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            #[allow(clippy::too_many_arguments)]
            fn body<$a: $crate::isa::Arith $(, const $c: $ct)*>($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            #[allow(clippy::too_many_arguments)]
            fn avx2<$(const $c: $ct),*>($($arg: $ty),*) $(-> $ret)? {
                body::<$crate::isa::Fused $(, $c)*>($($arg),*)
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,avx512f,avx512vl,avx512dq,avx512bw")]
            #[allow(clippy::too_many_arguments)]
            fn avx512<$(const $c: $ct),*>($($arg: $ty),*) $(-> $ret)? {
                body::<$crate::isa::Fused $(, $c)*>($($arg),*)
            }

            match level.isa() {
                // SAFETY: a `Level` of `Isa::Avx2` exists only where the CPU reported avx2 and fma.
                #[cfg(target_arch = "x86_64")]
                $crate::isa::Isa::Avx2 => unsafe { avx2::<$($c),*>($($arg),*) },
                // SAFETY: likewise for `Isa::Avx512` and the features named above.
                #[cfg(target_arch = "x86_64")]
                $crate::isa::Isa::Avx512 => unsafe { avx512::<$($c),*>($($arg),*) },
                _ => body::<$crate::isa::Emulated $(, $c)*>($($arg),*),
            }
        }
    };
}
pub(crate) use multiversion;

#[cfg(test)]
mod tests {
    use super::*;

    multiversion! {
        fn fma_many<A>(a: &[f32], b: &[f32], c: &[f32], out: &mut [f32]) {
            for i in 0..out.len() {
                out[i] = A::fma(a[i], b[i], c[i]);
            }
        }
    }

    #[test]
    fn detected_isa_is_available_and_missing_is_the_complement() {
        assert!(Isa::available().contains(&Isa::detect()));
        assert!(Isa::available().contains(&Isa::Portable));
        assert_eq!(Isa::available().len() + Isa::missing().len(), Isa::ALL.len());
    }

    /// Bit patterns at and around every border of the format, then random ones.
    fn samples() -> Vec<f32> {
        let mut v: Vec<f32> = Vec::new();
        for exponent in [0u32, 1, 2, 23, 24, 25, 63, 64, 103, 126, 127, 128, 150, 191, 253, 254, 255] {
            for mantissa in [0u32, 1, 2, 3, 0x3fffff, 0x400000, 0x400001, 0x7ffffe, 0x7fffff] {
                for sign in [0u32, 1] {
                    v.push(f32::from_bits(sign << 31 | exponent << 23 | mantissa));
                }
            }
        }
        v
    }

    fn same(a: f32, b: f32) -> bool {
        a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan())
    }

    #[test]
    fn emulated_fma_is_exact_on_borders() {
        let s = samples();
        for &a in &s {
            for &b in s.iter().step_by(3) {
                for &c in s.iter().step_by(2) {
                    // glibc's fmaf is exact; under musl only the hardware path is a fair reference.
                    let want = reference(a, b, c);
                    let got = fma_by_f64(a, b, c);
                    assert!(same(got, want), "fma({a:e}, {b:e}, {c:e}) = {got:e}, want {want:e}");
                }
            }
        }
    }

    #[test]
    fn emulated_fma_equals_hardware_on_random_bits() {
        let Ok(level) = Level::new(Isa::Avx2) else { return };
        let n = 1 << 16;
        let word = |i: u32, w: u32| crate::philox::philox4x32([i, w, 0, 77], [1, 2])[0];
        for round in 0..16u32 {
            let draw =
                |w: u32| -> Vec<f32> { (0..n).map(|i| f32::from_bits(word(i, 3 * round + w))).collect() };
            let (a, b, mut c) = (draw(0), draw(1), draw(2));
            if round % 2 == 1 {
                // Make the addend nearly cancel the product, where rounding is hardest.
                for i in 0..n as usize {
                    c[i] = -(a[i] * b[i]) * (1.0 + f32::from_bits(0x3400_0000 | (i as u32 & 3)));
                }
            }
            let (mut x, mut y) = (vec![0.0; n as usize], vec![0.0; n as usize]);
            fma_many(level, &a, &b, &c, &mut x);
            fma_many(Level::PORTABLE, &a, &b, &c, &mut y);
            for i in 0..n as usize {
                assert!(same(x[i], y[i]), "{:e} {:e} {:e}: {:e} {:e}", a[i], b[i], c[i], x[i], y[i]);
            }
        }
    }

    fn reference(a: f32, b: f32, c: f32) -> f32 {
        match Level::new(Isa::Avx2) {
            Ok(level) => {
                let mut out = [0.0];
                fma_many(level, &[a], &[b], &[c], &mut out);
                out[0]
            }
            Err(_) => a.mul_add(b, c),
        }
    }
}
