//! Randomness that a seed decides, for the thread that asked for it.
//!
//! What is random in a process comes from `getrandom(2)` by way of the C library: the order of `HashMap`s, keys, nonces, tokio's
//! and futures' own choices. A symbol of this name in the program is found before the C library's, so this one answers for all of
//! them; threads without a seed get the kernel's.

use std::cell::Cell;
use std::ffi::{c_uint, c_void};

thread_local! {
    static STATE: Cell<Option<u64>> = const { Cell::new(None) };
}

/// From here on all that is random on this thread follows from `seed`. To be called before anything else on a new thread: what
/// has drawn its randomness already keeps it.
pub fn seed(seed: u64) {
    // No state of the generator is a fixed point but 0.
    STATE.set(Some(mixed(seed) | 1));
    // It draws from the clock and the thread's number.
    fastrand::seed(seed);
}

/// SplitMix64's finaliser (Steele, Lea, Flood 2014): neighbouring seeds become unlike each other.
#[must_use]
pub fn mixed(seed: u64) -> u64 {
    let mut x = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// Marsaglia's xorshift64.
fn next(x: &mut u64) -> u64 {
    *x ^= *x << 13;
    *x ^= *x >> 7;
    *x ^= *x << 17;
    *x
}

/// As `getrandom(2)`.
///
/// # Safety
/// `buffer` is valid for `length` bytes that nobody else uses.
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(buffer: *mut c_void, length: usize, flags: c_uint) -> isize {
    if buffer.is_null() || length == 0 {
        return 0;
    }
    // SAFETY: the caller's promise. Whatever was there, initialised or not, is written before it is read.
    let bytes = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<std::mem::MaybeUninit<u8>>(), length) };
    let seeded = STATE.try_with(|state| {
        let mut x = state.get()?;
        for byte in bytes.iter_mut() {
            byte.write(next(&mut x).to_be_bytes()[0]);
        }
        state.set(Some(x));
        Some(length)
    });
    match seeded.ok().flatten() {
        Some(length) => length.cast_signed(),
        None => match rustix::rand::getrandom(bytes, rustix::rand::GetRandomFlags::from_bits_retain(flags)) {
            Ok((filled, _)) => filled.len().cast_signed(),
            // The C library reports by errno, which this cannot set; whoever asks sees that he got nothing, and asks elsewhere.
            Err(_) => -1,
        },
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    /// What a thread draws after this seed.
    fn drawn(seed: Option<u64>) -> (u64, Vec<u32>) {
        std::thread::spawn(move || {
            if let Some(seed) = seed {
                super::seed(seed);
            }
            let map: HashMap<u32, ()> = (0..100).map(|i| (i, ())).collect();
            let mut bytes = [0; 8];
            getrandom::fill(&mut bytes).unwrap();
            (u64::from_le_bytes(bytes), map.into_keys().collect())
        })
        .join()
        .unwrap()
    }

    #[test]
    fn a_seed_decides_what_its_thread_draws() {
        assert_eq!(drawn(Some(7)), drawn(Some(7)));
        let (a, b) = (drawn(Some(7)), drawn(Some(8)));
        assert!(a.0 != b.0 && a.1 != b.1, "{a:?} {b:?}");
        assert_ne!(drawn(None), drawn(None), "the kernel's");
    }
}
