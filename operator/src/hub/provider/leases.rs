//! Heartbeats: the moments at which this process saw agents' leases change, on its own monotonic clock.
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use muster_core::provider::{LeaseWatch, Pulse};
use tokio::time::Instant;

use super::hearing::Hearing;

/// Whatever an agent writes into its lease, it is heard of more often than this.
const LONGEST: Duration = Duration::from_secs(60);

/// See the module.
pub struct LeaseBook {
    start: Instant,
    seen: Mutex<HashMap<String, (LeaseWatch, Pulse)>>,
    hearing: Mutex<Hearing>,
}

impl Default for LeaseBook {
    fn default() -> Self {
        Self { start: Instant::now(), seen: Mutex::default(), hearing: Mutex::default() }
    }
}

impl LeaseBook {
    /// Notes a look at a provider's lease. True if the provider's status may have to change: its last verdict was not
    /// "fresh".
    pub fn saw(&self, provider: &str, lease: &Lease) -> bool {
        let spec = lease.spec.as_ref();
        // The text only: whether it moved is all that counts, the agent's clock is its own.
        let mark = spec.and_then(|spec| spec.renew_time.as_ref()).map(|time| format!("{:?}", time.0));
        let lasts = seconds(spec.and_then(|spec| spec.lease_duration_seconds).unwrap_or(0));
        let now = self.start.elapsed();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match seen.get_mut(provider) {
            Some((watch, pulse)) => {
                if watch.saw(mark, now) {
                    self.hearing().heard(lasts.min(LONGEST), now);
                }
                *pulse != Pulse::Fresh
            }
            None => {
                seen.insert(provider.to_owned(), (LeaseWatch::new(mark, now), Pulse::TooEarly));
                true
            }
        }
    }

    /// How alive the provider looks, and how long that holds without news. Before the first look at its lease nothing can
    /// be said.
    pub fn pulse(&self, provider: &str, lease_seconds: i32) -> (Pulse, Option<Duration>) {
        let duration = seconds(lease_seconds);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((watch, last)) = seen.get_mut(provider) else {
            return (Pulse::TooEarly, Some(duration));
        };
        let (pulse, holds) = watch.pulse(duration, self.start.elapsed());
        *last = pulse;
        (pulse, holds)
    }

    /// How long this hub has still to hear from others before a provider's silence is its own, if its lease lasts for so many seconds.
    pub fn too_early(&self, lease_seconds: i32) -> Option<Duration> {
        self.hearing().too_early(seconds(lease_seconds), self.start.elapsed())
    }

    fn hearing(&self) -> MutexGuard<'_, Hearing> {
        self.hearing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The API server did not answer: nobody's silence up to now counts.
    pub fn blind(&self) {
        let now = self.start.elapsed();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        for (watch, pulse) in seen.values_mut() {
            watch.blind_until(now);
            *pulse = Pulse::TooEarly;
        }
    }

    /// The provider is gone.
    pub fn forget(&self, provider: &str) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).remove(provider);
    }
}

fn seconds(seconds: i32) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or(15))
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::coordination::v1::LeaseSpec;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

    fn lease(second: Option<i64>) -> Lease {
        let renew_time = second.map(|s| MicroTime(jiff::Timestamp::from_second(s).unwrap()));
        Lease { spec: Some(LeaseSpec { renew_time, ..Default::default() }), ..Default::default() }
    }

    #[test]
    fn a_beating_heart_wakes_nobody() {
        let book = LeaseBook::default();
        assert_eq!(book.pulse("east", 15).0, Pulse::TooEarly);
        assert!(book.saw("east", &lease(None)), "first look");
        assert_eq!(book.pulse("east", 15).0, Pulse::NeverSeen);
        assert!(book.saw("east", &lease(Some(100))), "it came alive");
        assert_eq!(book.pulse("east", 15).0, Pulse::Fresh);
        assert!(!book.saw("east", &lease(Some(105))));
        assert_eq!(book.pulse("east", 0).0, Pulse::Expired);
        assert!(book.saw("east", &lease(Some(110))), "it came back");
    }
}
