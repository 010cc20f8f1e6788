//! Whether others are heard of while a member is silent. They all reach this hub through one gateway: while that is away everybody is
//! silent, and the first who is heard again says nothing of the others.
use std::time::Duration;

/// When others were heard after this member's lease ran out: first and last, since some moment.
#[derive(Debug, Default)]
pub(super) struct Hearing(Option<(Duration, Duration)>);

impl Hearing {
    /// Another member has renewed its lease.
    pub fn heard(&mut self, now: Duration) {
        let first = self.0.map_or(now, |(first, _)| first);
        self.0 = Some((first, now));
    }

    /// How long others have still to be heard before the silence is the member's own: half of what its lease lasts for. It renews more
    /// often than that, and tries again more often.
    pub fn too_early(&self, lease: Duration) -> Option<Duration> {
        let heard = self.0.map_or(Duration::ZERO, |(first, last)| last.saturating_sub(first));
        (lease / 2).checked_sub(heard).filter(|left| !left.is_zero())
    }
}
