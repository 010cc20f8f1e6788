//! A wall clock that moves with tokio's paused one: both say the same in every run.
//!
//! Of the thread, as the runtime of a simulation is: a schedule has a thread of its own.

use std::cell::Cell;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

thread_local! {
    static START: Cell<Option<(Timestamp, Instant)>> = const { Cell::new(None) };
}

/// From here on it is `at` and later on this thread. To be called inside of a runtime whose clock is paused.
pub fn start(at: Timestamp) {
    START.set(Some((at, Instant::now())));
}

/// What time it is; `None` on a thread without a simulation.
#[must_use]
pub fn now() -> Option<Timestamp> {
    let (at, start) = START.get()?;
    let passed = SignedDuration::try_from(start.elapsed()).ok()?;
    at.checked_add(passed).ok()
}

/// The same as objects have it: RFC 3339 in whole seconds.
#[must_use]
pub fn text() -> String {
    let now = now().unwrap_or_default();
    Timestamp::from_second(now.as_second()).unwrap_or_default().to_string()
}
