//! The floating-point environment: round to nearest even, subnormals kept (spec 1.1).
//!
//! A shared library linked with `-ffast-math` sets flush-to-zero in the thread that loads it, and
//! threads inherit the setting. So every entry point and every job of a pool thread repairs it.

/// MXCSR with all exceptions masked, nearest even, FTZ and DAZ off: the state Rust assumes.
#[cfg(target_arch = "x86_64")]
const MXCSR_DEFAULT: u32 = 0x1f80;

/// Brings this thread's floating-point control state to the one the spec and Rust assume.
/// Costs a few nanoseconds; writes the register only if it differs.
#[cfg(target_arch = "x86_64")]
pub(crate) fn normalize() {
    // Bits 0-5 are sticky exception flags: no arithmetic depends on them.
    const FLAGS: u32 = 0x3f;
    if read_mxcsr() & !FLAGS != MXCSR_DEFAULT {
        let value = MXCSR_DEFAULT;
        // SAFETY: ldmxcsr reads four bytes of `value` and restores the control state that Rust
        // assumes every thread to have; reserved bits are zero, so it cannot fault.
        unsafe { std::arch::asm!("ldmxcsr [{}]", in(reg) &raw const value, options(nostack, readonly)) }
    }
}

/// Other architectures start threads in the required state.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn normalize() {}

#[cfg(target_arch = "x86_64")]
pub(crate) fn read_mxcsr() -> u32 {
    let mut value = 0u32;
    // SAFETY: stmxcsr writes four bytes to `value` and changes nothing else.
    unsafe { std::arch::asm!("stmxcsr [{}]", in(reg) &raw mut value, options(nostack)) }
    value
}

#[cfg(all(test, target_arch = "x86_64"))]
pub(crate) fn pollute() {
    let value = MXCSR_DEFAULT | 0x8040; // FTZ and DAZ
    // SAFETY: what a -ffast-math library does to its host; the tests repair it at once.
    unsafe { std::arch::asm!("ldmxcsr [{}]", in(reg) &raw const value, options(nostack, readonly)) }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;
    use std::hint::black_box;

    #[test]
    fn polluted_ftz_and_daz_are_repaired() {
        let product = || black_box(f32::MIN_POSITIVE) * black_box(0.5f32);
        pollute();
        let flushed = product();
        normalize();
        assert_eq!(flushed, 0.0, "the pollution must be real for the test to mean anything");
        assert_eq!(read_mxcsr() & !0x3f, MXCSR_DEFAULT);
        assert_eq!(product().to_bits(), 0x0040_0000);
    }
}
