//! bf16 and f16 to f32, which is exact, and back to the nearest, ties to even (IEEE 754-2019 sections 3.6 and 4.3.1).

use std::fmt;
use std::str::FromStr;

/// The types that weights may have in files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    /// 32 bits: ours.
    F32,
    /// The upper half of an f32: 8 bits of significand.
    Bf16,
    /// IEEE half precision: 11 bits of significand, at most 65504.
    F16,
}

impl Dtype {
    /// The type that a safetensors header calls so.
    pub(super) fn of_header(name: &str) -> Option<Self> {
        match name {
            "F32" => Some(Self::F32),
            "BF16" => Some(Self::Bf16),
            "F16" => Some(Self::F16),
            _ => None,
        }
    }

    /// Its name in a safetensors header.
    pub(super) const fn in_header(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::Bf16 => "BF16",
            Self::F16 => "F16",
        }
    }

    /// PyTorch's name.
    pub const fn in_torch(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::Bf16 => "bfloat16",
            Self::F16 => "float16",
        }
    }

    /// Bytes of a value.
    pub const fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 | Self::F16 => 2,
        }
    }

    /// Appends the values of these bytes, a whole number of them.
    pub(super) fn decode(self, bytes: &[u8], values: &mut Vec<f32>) {
        let halves = |bytes| <[u8]>::as_chunks::<2>(bytes).0.iter().map(|two| u16::from_le_bytes(*two));
        match self {
            Self::F32 => values.extend(bytes.as_chunks().0.iter().map(|four| f32::from_le_bytes(*four))),
            Self::Bf16 => values.extend(halves(bytes).map(of_bf16)),
            Self::F16 => values.extend(halves(bytes).map(of_f16)),
        }
    }

    /// Appends the bytes of a value; `None` for one that is or would become infinite or NaN.
    pub(super) fn encode(self, value: f32, bytes: &mut Vec<u8>) -> Option<()> {
        match self {
            Self::F32 => bytes.extend(value.is_finite().then(|| value.to_le_bytes())?),
            Self::Bf16 => bytes.extend(to_bf16(value)?.to_le_bytes()),
            Self::F16 => bytes.extend(to_f16(value)?.to_le_bytes()),
        }
        Some(())
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        })
    }
}

impl FromStr for Dtype {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::F32, Self::Bf16, Self::F16]
            .into_iter()
            .find(|one| one.to_string() == text)
            .ok_or("give f32, bf16 or f16")
    }
}

fn of_bf16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

fn to_bf16(value: f32) -> Option<u16> {
    let bits = value.to_bits();
    // Half of the last place, less one where the place is even: the carry rounds, into the exponent too.
    let rounded = bits.checked_add(0x7fff + (bits >> 16 & 1))? >> 16;
    let rounded = u16::try_from(rounded).ok()?;
    (value.is_finite() && of_bf16(rounded).is_finite()).then_some(rounded)
}

fn of_f16(bits: u16) -> f32 {
    let (sign, exponent, fraction) =
        (u32::from(bits & 0x8000) << 16, u32::from(bits >> 10 & 0x1f), u32::from(bits & 0x3ff));
    let magnitude = match exponent {
        // Subnormal: a multiple of 2^-24, below 2^-14. The product is exact.
        0 => (fraction as f32 * f32::from_bits(0x3380_0000)).to_bits(),
        0x1f => 0x7f80_0000 | fraction << 13,
        _ => (exponent + 112) << 23 | fraction << 13,
    };
    f32::from_bits(sign | magnitude)
}

fn to_f16(value: f32) -> Option<u16> {
    let bits = value.to_bits();
    let (sign, magnitude) = ((bits >> 16 & 0x8000) as u16, bits & 0x7fff_ffff);
    let half = if magnitude < 0x3880_0000 {
        // Below 2^-14: added to 0.5, whose last place is 2^-24, it is rounded to a multiple of that.
        (f32::from_bits(magnitude) + 0.5).to_bits() - 0.5f32.to_bits()
    } else {
        (magnitude + 0xfff + (magnitude >> 13 & 1) - (112 << 23)) >> 13
    };
    // 0x7c00 is infinity; what is beyond, a NaN too.
    (half < 0x7c00 && value.is_finite()).then_some(sign | half as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The value of an f16 by its definition, in f64, which holds all of them.
    fn defined(bits: u16) -> f64 {
        let (exponent, fraction) = (i32::from(bits >> 10 & 0x1f), f64::from(bits & 0x3ff));
        let magnitude = match exponent {
            0 => fraction * 2f64.powi(-24),
            0x1f if fraction == 0.0 => f64::INFINITY,
            0x1f => f64::NAN,
            _ => (1024.0 + fraction) * 2f64.powi(exponent - 25),
        };
        if bits & 0x8000 == 0 { magnitude } else { -magnitude }
    }

    #[test]
    fn every_half_is_exact_and_comes_back() {
        for bits in 0..=u16::MAX {
            let (half, brain) = (of_f16(bits), of_bf16(bits));
            assert!(f64::from(half) == defined(bits) || half.is_nan() && defined(bits).is_nan(), "{bits:#x}");
            assert_eq!(half.is_sign_negative(), bits & 0x8000 != 0);
            assert_eq!(to_f16(half), half.is_finite().then_some(bits), "{bits:#x}");
            assert_eq!(brain.to_bits(), u32::from(bits) << 16);
            assert_eq!(to_bf16(brain), brain.is_finite().then_some(bits), "{bits:#x}");
        }
    }

    /// Between each two neighbours: just below the middle, the middle, just above it. All are f32 or f64 without loss.
    #[test]
    fn what_is_between_goes_to_the_nearest_and_ties_to_even() {
        let check = |round: fn(f32) -> Option<u16>, value: fn(u16) -> f32, last: u16| {
            for low in 0..last {
                let (a, b) = (f64::from(value(low)), f64::from(value(low + 1)));
                let middle = ((a + b) / 2.0) as f32;
                if f64::from(middle) != (a + b) / 2.0 {
                    continue; // between subnormals of f32
                }
                let even = if low % 2 == 0 { low } else { low + 1 };
                for (x, want) in [(middle.next_down(), low), (middle, even), (middle.next_up(), low + 1)] {
                    // Neighbours of a middle that are neighbours of the ends too say nothing.
                    if x > a as f32 && x < b as f32 {
                        assert_eq!(round(x), Some(want), "{x:e} between {a:e} and {b:e}");
                        assert_eq!(round(-x), Some(want | 0x8000));
                    }
                }
            }
        };
        check(to_f16, of_f16, 0x7bff);
        check(to_bf16, of_bf16, 0x7f7f);
        assert_eq!((to_f16(65_519.9), to_f16(65_520.0)), (Some(0x7bff), None));
        assert_eq!((to_f16(2f32.powi(-25)), to_f16(2f32.powi(-25).next_up())), (Some(0), Some(1)));
        assert_eq!((to_f16(f32::from_bits(1)), to_f16(-0.0)), (Some(0), Some(0x8000)));
        assert_eq!((to_bf16(f32::MAX), to_bf16(f32::from_bits(0x7f7f_7fff))), (None, Some(0x7f7f)));
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert_eq!((to_f16(bad), to_bf16(bad)), (None, None));
            assert_eq!(Dtype::F32.encode(bad, &mut Vec::new()), None);
        }
    }
}
