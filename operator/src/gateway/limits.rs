//! How much one caller may ask (section 8): a bucket and a number of requests at once for each provider, each user and the hub,
//! a smaller bucket for each address that is none of these. Nobody's flood empties another's bucket.
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::access::Refusal;
use crate::runtime::bucket::{Bucket, ByAddress, Rate};

/// Requests that one caller may have open; answers that stream count until they end.
pub const AT_ONCE: usize = 64;
/// Token reviews that one provider may have under way: a flood of wrong tokens waits for itself.
const REVIEWS_AT_ONCE: usize = 4;
/// Callers that are remembered. Beyond it new ones are turned away until an idle one is forgotten.
const MAX_KNOWN: usize = 8192;

/// Of a provider or a user.
pub const KNOWN: Rate = Rate::per_second(50, 200);
/// Of the hub, whose records of many jobs come one by one.
pub const HUB: Rate = Rate::per_second(200, 400);
/// Of an address.
pub const STRANGER: Rate = Rate::per_second(5, 20);

/// What one caller has taken.
#[derive(Debug)]
pub struct Meter {
    rate: Rate,
    bucket: Mutex<Bucket>,
    at_once: Arc<Semaphore>,
    /// For token reviews on behalf of it.
    pub reviews: Semaphore,
}

impl Meter {
    fn new(rate: Rate) -> Self {
        Self {
            rate,
            bucket: Mutex::default(),
            at_once: Arc::new(Semaphore::new(AT_ONCE)),
            reviews: Semaphore::new(REVIEWS_AT_ONCE),
        }
    }

    /// One more request; the permit is held until its answer has ended.
    ///
    /// # Errors
    /// 429.
    pub fn enter(&self, now: Duration) -> Result<OwnedSemaphorePermit, Refusal> {
        let permit = self.at_once.clone().try_acquire_owned().map_err(|_| Refusal::too_many(1))?;
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        bucket.take(self.rate, now).map_err(refused)?;
        Ok(permit)
    }

    fn is_idle(&self, now: Duration) -> bool {
        let bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        bucket.is_full(now) && self.at_once.available_permits() == AT_ONCE
    }
}

/// All callers of one gateway.
#[derive(Debug)]
pub struct Limits {
    strangers: ByAddress,
    meters: Mutex<HashMap<Caller, Arc<Meter>>>,
}

/// Whose meter.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Caller {
    /// A provider's, by name.
    Provider(String),
    /// A user's, by name.
    User(String),
    /// The hub's.
    Hub,
}

impl Caller {
    fn rate(&self) -> Rate {
        match self {
            Self::Provider(_) | Self::User(_) => KNOWN,
            Self::Hub => HUB,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { strangers: ByAddress::new(STRANGER, MAX_KNOWN), meters: Mutex::default() }
    }
}

impl Limits {
    /// Now, on the clock of this gateway.
    pub fn now(&self) -> Duration {
        self.strangers.now()
    }

    /// One more request of an address that is nobody yet.
    ///
    /// # Errors
    /// 429.
    pub fn stranger(&self, address: IpAddr, now: Duration) -> Result<(), Refusal> {
        self.strangers.take(address, now).map_err(refused)
    }

    /// The meter of a caller.
    ///
    /// # Errors
    /// 429: there are too many at once.
    pub fn meter(&self, caller: Caller, now: Duration) -> Result<Arc<Meter>, Refusal> {
        let mut meters = self.meters.lock().unwrap_or_else(PoisonError::into_inner);
        if meters.len() >= MAX_KNOWN && !meters.contains_key(&caller) {
            meters.retain(|_, meter| !meter.is_idle(now));
            if meters.len() >= MAX_KNOWN {
                return Err(Refusal::too_many(1));
            }
        }
        let rate = caller.rate();
        Ok(meters.entry(caller).or_insert_with(|| Arc::new(Meter::new(rate))).clone())
    }
}

fn refused(wait: Duration) -> Refusal {
    // Whole seconds, and never "at once".
    Refusal::too_many(wait.as_secs() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn a_burst_and_then_so_many_a_second() {
        let (mut bucket, start) = (Bucket::default(), ms(7_000));
        let taken = (0..1000).take_while(|_| bucket.take(STRANGER, start).is_ok()).count();
        assert_eq!(taken, 20);
        assert_eq!(bucket.take(STRANGER, start), Err(ms(200)), "it says how long to wait");
        assert_eq!(bucket.take(STRANGER, start + ms(199)), Err(ms(1)));
        assert_eq!(bucket.take(STRANGER, start + ms(200)), Ok(()));
        assert!(bucket.take(STRANGER, start + ms(200)).is_err(), "refusals cost nothing, and give nothing");
        let later = start + ms(60_000);
        let taken = (0..1000).take_while(|_| bucket.take(STRANGER, later).is_ok()).count();
        assert_eq!(taken, 20, "no more than a burst is saved up");
        let taken = (0..100).filter(|i| bucket.take(STRANGER, later + ms(i * 100)).is_ok()).count();
        assert_eq!(taken, 49, "5 a second in 9.9 s");
    }

    #[test]
    fn one_providers_flood_leaves_another_its_own() {
        let limits = Limits::default();
        let meter = |name: &str| limits.meter(Caller::Provider(name.into()), ms(0)).unwrap();
        let flood = (0..1000).filter(|_| meter("east").enter(ms(0)).is_ok()).count();
        assert_eq!(flood, 200);
        assert_eq!(meter("east").enter(ms(0)).unwrap_err().retry_after, Some(1));
        drop(meter("west").enter(ms(0)).unwrap());
        let hub = || limits.meter(Caller::Hub, ms(0)).unwrap();
        assert_eq!((0..1000).filter(|_| hub().enter(ms(0)).is_ok()).count(), 400);
        assert_eq!((0..1000).filter(|_| hub().enter(ms(1000)).is_ok()).count(), 200, "200 a second");
    }

    #[test]
    fn open_answers_count_until_they_end() {
        let meter = Meter::new(KNOWN);
        let mut open: Vec<_> = (0..AT_ONCE).map(|_| meter.enter(ms(0)).unwrap()).collect();
        assert_eq!(meter.enter(ms(0)).unwrap_err().status, 429);
        open.pop();
        assert!(meter.enter(ms(0)).is_ok());
    }
}
