//! Exponential backoff, one counter per object: kube's controller has none, and one failing object must not slow others.
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// The delay before attempt number `failures` + 1: `base` doubled per failure, capped, then spread by `jitter` (0..=1000,
/// in thousandths) over its upper half, so that a thousand objects that failed together do not return together.
#[must_use]
pub fn delay(base: Duration, cap: Duration, failures: u32, jitter: u16) -> Duration {
    let doublings = failures.saturating_sub(1).min(31);
    let full = base.saturating_mul(1 << doublings).min(cap);
    let half = full / 2;
    half + half * u32::from(jitter.min(1000)) / 1000
}

/// Failure counters by key.
#[derive(Debug)]
pub struct Backoff<K> {
    base: Duration,
    cap: Duration,
    failures: Mutex<HashMap<K, u32>>,
}

impl<K: Eq + Hash + Clone> Backoff<K> {
    /// Starts at `base`, never waits longer than `cap`.
    #[must_use]
    pub fn new(base: Duration, cap: Duration) -> Self {
        Self { base, cap, failures: Mutex::new(HashMap::new()) }
    }

    /// Counts one more failure of `key` and says how long to wait. `jitter` in thousandths comes from the caller
    /// ([`jitter_of`] where any even spread will do), so that tests decide it.
    pub fn failed(&self, key: &K, jitter: u16) -> Duration {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let count = failures.entry(key.clone()).or_insert(0);
        *count = count.saturating_add(1);
        delay(self.base, self.cap, *count, jitter)
    }

    /// Forgets `key`: it succeeded or is gone.
    pub fn succeeded(&self, key: &K) {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

/// A jitter from a name: the same name always gets the same, different names get an even spread (FNV-1a).
#[must_use]
pub fn jitter_of(name: &str) -> u16 {
    let hash = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3));
    // The remainder is below 1001, which fits.
    (hash % 1001) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_then_stays_at_the_cap() {
        let backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(10));
        let waits: Vec<_> = (0..6).map(|_| backoff.failed(&"a", 1000).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 10, 10]);
        assert_eq!(backoff.failed(&"b", 1000).as_secs(), 1, "another object starts at the base");
        backoff.succeeded(&"a");
        assert_eq!(backoff.failed(&"a", 1000).as_secs(), 1);
    }

    #[test]
    fn jitter_stays_in_the_upper_half() {
        let second = Duration::from_secs(1);
        assert_eq!(delay(second, second, 1, 0), second / 2);
        assert_eq!(delay(second, second, 1, u16::MAX), second);
        assert_eq!(delay(second, Duration::MAX, u32::MAX, 1000), Duration::from_secs(1 << 31));
        assert!(jitter_of("team-a/kjv") <= 1000 && jitter_of("team-a/kjv") != jitter_of("team-a/kjw"));
    }
}
