//! How often something may be done: so many times at once, and then at a steady pace.
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

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

/// A bucket for each address that is remembered.
#[derive(Debug)]
pub struct ByAddress {
    rate: Rate,
    most: usize,
    start: Instant,
    buckets: Mutex<HashMap<IpAddr, Bucket>>,
}

impl ByAddress {
    /// Remembers at most so many addresses. Beyond it new ones are turned away until an idle one is forgotten.
    #[must_use]
    pub fn new(rate: Rate, most: usize) -> Self {
        Self { rate, most, start: Instant::now(), buckets: Mutex::default() }
    }

    /// Now, on the clock of these buckets.
    pub fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// Takes one of this address at `now`.
    ///
    /// # Errors
    /// There is none: how long until there is.
    pub fn take(&self, address: IpAddr, now: Duration) -> Result<(), Duration> {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let network = network(address);
        if buckets.len() >= self.most && !buckets.contains_key(&network) {
            buckets.retain(|_, bucket| !bucket.is_full(now));
            if buckets.len() >= self.most {
                return Err(self.rate.every);
            }
        }
        buckets.entry(network).or_default().take(self.rate, now)
    }
}

/// An address stands for its network where one caller has many: a /64 of IPv6.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => v4.into(),
            None => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_addresses_fill_no_memory() {
        let all = ByAddress::new(Rate::per_second(5, 20), 8192);
        let address = |i: u32| IpAddr::from(i.to_be_bytes());
        for i in 0..8192 {
            all.take(address(i), Duration::ZERO).unwrap();
        }
        assert!(all.take(address(1 << 20), Duration::ZERO).is_err());
        all.take(address(0), Duration::ZERO).unwrap();
        all.take(address(1 << 20), Duration::from_secs(1)).unwrap();
        assert!(all.buckets.lock().unwrap().len() < 10, "idle ones are forgotten");
    }

    #[test]
    fn a_whole_ipv6_network_is_one_caller() {
        let same = |a: &str, b: &str| network(a.parse().unwrap()) == network(b.parse().unwrap());
        assert!(same("2001:db8:1:2::1", "2001:db8:1:2:ffff::"));
        assert!(!same("2001:db8:1:2::1", "2001:db8:1:3::1"));
        assert!(same("::ffff:10.0.0.1", "10.0.0.1"));
    }
}
