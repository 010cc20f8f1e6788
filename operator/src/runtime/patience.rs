//! How long broken watches wait, and how much is done at once.
//!
//! kube waits up to 30 s, which is kind to a server with a thousand clients; here it would keep one hub blind long after an outage that is over. All
//! watches of a controller share one wait and fail one after the other, so the time to see again is this cap times their number (7 at most),
//! not the cap.
use std::time::Duration;

use kube::runtime::controller::Config;
use kube::runtime::utils::Backoff;

/// Objects that one controller looks at at once. What waits waits here: an API server serves one client's requests one after the
/// other when there are many, and the renewal of the Lease would stand behind them all.
const AT_ONCE: u16 = 16;

const FIRST: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(1);

/// 0.25 s, doubled up to 1 s, back to 0.25 s after a success.
#[derive(Debug)]
pub struct Patience(Duration);

/// How many looks a controller takes at once.
pub fn at_once() -> Config {
    Config::default().concurrency(AT_ONCE)
}

impl Default for Patience {
    fn default() -> Self {
        Self(FIRST)
    }
}

impl Iterator for Patience {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let now = self.0;
        self.0 = (now * 2).min(LONGEST);
        Some(now)
    }
}

impl Backoff for Patience {
    fn reset(&mut self) {
        self.0 = FIRST;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_to_the_cap_and_starts_over() {
        let mut patience = Patience::default();
        let waits: Vec<u128> = patience.by_ref().take(6).map(|wait| wait.as_millis()).collect();
        assert_eq!(waits, [250, 500, 1000, 1000, 1000, 1000]);
        patience.reset();
        assert_eq!(patience.next(), Some(FIRST));
    }
}
