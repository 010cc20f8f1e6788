//! How often something may be done: so many times at once, and then at a steady pace.
use std::time::Duration;

/// How many requests come in, and how many at once.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    every: Duration,
    burst: u32,
}

impl Rate {
    /// Without a moment of rest `number` a second, after `burst` at once.
    #[must_use]
    pub const fn per_second(number: u32, burst: u32) -> Self {
        Self { every: Duration::from_nanos(1_000_000_000 / number as u64), burst }
    }
}

/// A bucket of requests, kept as the moment at which it will be full again (GCRA).
#[derive(Debug, Default)]
pub struct Bucket {
    full_at: Duration,
}

impl Bucket {
    /// Takes one at `now`, a time on any clock that does not go back.
    ///
    /// # Errors
    /// It is empty: how long until it is not.
    pub fn take(&mut self, rate: Rate, now: Duration) -> Result<(), Duration> {
        let full_at = self.full_at.max(now) + rate.every;
        match (full_at - now).checked_sub(rate.every * rate.burst) {
            Some(wait) if !wait.is_zero() => Err(wait),
            _ => {
                self.full_at = full_at;
                Ok(())
            }
        }
    }

    /// Whether nothing was taken for a while.
    #[must_use]
    pub fn is_full(&self, now: Duration) -> bool {
        self.full_at <= now
    }
}
