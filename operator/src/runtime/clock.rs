//! The wall clock: for what is written into objects and records. Durations that decide are measured with `tokio::time::Instant`.
use jiff::Timestamp;

/// What time it is. In a simulation that is what its virtual clock says.
#[must_use]
pub fn now() -> Timestamp {
    #[cfg(test)]
    if let Some(now) = muster_testkit::clock::now() {
        return now;
    }
    Timestamp::now()
}
