//! Heartbeats: the moments at which this process saw agents' leases change, on its own monotonic clock.
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use muster_core::provider::{LeaseWatch, Pulse};
use tokio::time::Instant;

use super::hearing::Hearing;

/// See the module.
pub struct LeaseBook {
    start: Instant,
    seen: Mutex<HashMap<String, Seen>>,
}

/// What is known of one lease.
struct Seen {
    watch: LeaseWatch,
    pace: Pace,
    /// The last verdict.
    said: Pulse,
    /// Since it is no more than "expired".
    others: Hearing,
}

/// At which pace the agent renews: it goes by the lease as it was at its last renewal. A shorter one that its provider was given
/// since cannot be known to it yet.
struct Pace {
    /// What the lease said at the last look.
    shown: Duration,
    /// What it can have said when the agent renewed it last.
    renewed_under: Duration,
    /// The longest that the provider was ever given: the agent may write its lease, but not lengthen it so.
    longest: Duration,
}

impl Pace {
    fn new(shown: Duration) -> Self {
        Self { shown, renewed_under: shown, longest: Duration::ZERO }
    }

    /// Whether silence counts sooner from now on.
    fn saw(&mut self, shown: Duration, is_renewed: bool) -> bool {
        let before = self.renewed_under;
        if is_renewed {
            // Two changes may come as one: a renewal, and the shorter duration after it.
            self.renewed_under = self.shown.max(shown);
        }
        self.shown = shown;
        self.renewed_under < before
    }

    /// By what a silence is judged, if the provider is given `wanted` now.
    fn lasts(&mut self, wanted: Duration) -> Duration {
        self.longest = self.longest.max(wanted);
        wanted.max(self.renewed_under.min(self.longest))
    }
}

impl Default for LeaseBook {
    fn default() -> Self {
        Self { start: Instant::now(), seen: Mutex::default() }
    }
}

impl LeaseBook {
    /// Notes a look at a provider's lease. True if the provider's status may have to change: its last verdict was not
    /// "fresh", or holds for a shorter time now.
    pub fn saw(&self, provider: &str, lease: &Lease) -> bool {
        let spec = lease.spec.as_ref();
        // The text only: whether it moved is all that counts, the agent's clock is its own.
        let mark = spec.and_then(|spec| spec.renew_time.as_ref()).map(|time| format!("{:?}", time.0));
        let shown = seconds(spec.and_then(|spec| spec.lease_duration_seconds).unwrap_or(0));
        let now = self.start.elapsed();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match seen.get_mut(provider) {
            Some(Seen { watch, pace, said, others }) => {
                let is_renewed = watch.saw(mark, now);
                let matters = pace.saw(shown, is_renewed) || *said != Pulse::Fresh;
                if is_renewed {
                    *others = Hearing::default();
                    let silent =
                        seen.iter_mut().filter(|(name, it)| *name != provider && it.said == Pulse::Expired);
                    silent.for_each(|(_, it)| it.others.heard(now));
                }
                matters
            }
            None => {
                let watch = LeaseWatch::new(mark, now);
                seen.insert(
                    provider.to_owned(),
                    Seen { watch, pace: Pace::new(shown), said: Pulse::TooEarly, others: Hearing::default() },
                );
                true
            }
        }
    }

    /// How alive the provider looks, and how long that holds without news. Before the first look at its lease nothing can
    /// be said.
    pub fn pulse(&self, provider: &str, lease_seconds: i32) -> (Pulse, Option<Duration>) {
        let wanted = seconds(lease_seconds);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Seen { watch, pace, said, .. }) = seen.get_mut(provider) else {
            return (Pulse::TooEarly, Some(wanted));
        };
        let (pulse, holds) = watch.pulse(pace.lasts(wanted), self.start.elapsed());
        *said = pulse;
        (pulse, holds)
    }

    /// How long others have still to be heard before a provider's silence is its own, if its lease lasts for so many seconds.
    pub fn too_early(&self, provider: &str, lease_seconds: i32) -> Option<Duration> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.get(provider)?.others.too_early(seconds(lease_seconds))
    }

    /// The API server did not answer: nobody's silence up to now counts.
    pub fn blind(&self) {
        let now = self.start.elapsed();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        for Seen { watch, said, others, .. } in seen.values_mut() {
            watch.blind_until(now);
            (*said, *others) = (Pulse::TooEarly, Hearing::default());
        }
    }

    /// The provider is gone.
    pub fn forget(&self, provider: &str) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).remove(provider);
    }
}

fn seconds(number: i32) -> Duration {
    Duration::from_secs(u64::try_from(number).unwrap_or(0))
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

    fn lasting(second: i64, lasts: i32) -> Lease {
        let mut lease = lease(Some(second));
        lease.spec.as_mut().unwrap().lease_duration_seconds = Some(lasts);
        lease
    }

    /// 45 s were made 15 s: all its units moved, for the agent still renewed every 15 s.
    #[tokio::test(start_paused = true)]
    async fn a_shorter_lease_counts_from_the_first_renewal_under_it() {
        let book = LeaseBook::default();
        let pulse = |lasts| book.pulse("east", lasts).0;
        book.saw("east", &lasting(100, 45));
        book.saw("east", &lasting(115, 45));
        assert_eq!(pulse(45), Pulse::Fresh);
        // The provider's spec first, then its lease by the registrar, which renews nothing.
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(pulse(15), Pulse::Fresh);
        book.saw("east", &lasting(115, 15));
        tokio::time::advance(Duration::from_secs(15)).await;
        assert_eq!(pulse(15), Pulse::Fresh, "the agent is not late by what it knows");
        assert!(book.saw("east", &lasting(135, 15)), "silence counts sooner");
        tokio::time::advance(Duration::from_secs(14)).await;
        assert_eq!(pulse(15), Pulse::Fresh);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(pulse(15), Pulse::Expired, "it knows by now");
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_and_a_shorter_lease_may_be_seen_as_one_change() {
        let book = LeaseBook::default();
        book.saw("east", &lasting(100, 45));
        book.pulse("east", 45);
        book.saw("east", &lasting(115, 15));
        tokio::time::advance(Duration::from_secs(20)).await;
        assert_eq!(book.pulse("east", 15).0, Pulse::Fresh);
        book.saw("east", &lasting(135, 15));
        tokio::time::advance(Duration::from_secs(15)).await;
        assert_eq!(book.pulse("east", 15).0, Pulse::Expired);
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_cannot_lengthen_its_own_lease() {
        let book = LeaseBook::default();
        book.saw("east", &lasting(100, 600));
        book.saw("east", &lasting(105, 600));
        assert_eq!(book.pulse("east", 15).0, Pulse::Fresh);
        tokio::time::advance(Duration::from_secs(15)).await;
        assert_eq!(book.pulse("east", 15).0, Pulse::Expired);
    }
}
