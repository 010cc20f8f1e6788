//! Since when this hub hears of members at all. They all reach it through one gateway: while that is away everybody is silent, and the
//! first who is heard again says nothing of the others.
use std::time::Duration;

/// See the module. Times are since some moment.
#[derive(Debug, Default)]
pub(super) struct Hearing {
    /// Since when, and when somebody was heard last.
    known: Option<(Duration, Duration)>,
}

impl Hearing {
    /// An agent has renewed its lease, which lasts for so long: it does so more often than that.
    pub fn heard(&mut self, lease: Duration, now: Duration) {
        let since = match self.known {
            Some((since, last)) if now.saturating_sub(last) < lease => since,
            _ => now,
        };
        self.known = Some((since, now));
    }

    /// How long it has still to listen before a silence is the member's own, whose lease lasts for so long.
    pub fn too_early(&self, lease: Duration, now: Duration) -> Option<Duration> {
        let heard = self.known.map_or(Duration::ZERO, |(since, _)| now.saturating_sub(since));
        lease.checked_sub(heard).filter(|left| !left.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = s(15);

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_silence_is_a_members_own_once_others_have_been_heard_for_long() {
        let mut hearing = Hearing::default();
        assert_eq!(hearing.too_early(LEASE, s(3)), Some(LEASE), "nobody was heard yet");
        for now in (100..=160).step_by(5) {
            hearing.heard(LEASE, s(now));
        }
        assert_eq!(hearing.too_early(LEASE, s(160)), None);
        // The gateway is away for a minute, and the first one is back.
        hearing.heard(LEASE, s(220));
        assert_eq!(hearing.too_early(LEASE, s(222)), Some(s(13)));
        hearing.heard(LEASE, s(225));
        assert_eq!(hearing.too_early(LEASE, s(236)), None);
        // Who renews seldom is heard all the same.
        hearing.heard(s(90), s(265));
        assert_eq!(hearing.too_early(LEASE, s(266)), None);
    }
}
