//! How fast the loop is, and when it will be done.

use std::collections::VecDeque;
use std::time::Instant;

/// Steps over which the speed is averaged.
const SPEED_STEPS: usize = 10;

/// Tokens per second over the last few steps.
pub(super) struct Speed {
    tokens_per_step: u64,
    ends: VecDeque<Instant>,
}

impl Speed {
    /// `tokens_per_step` are those of all workers.
    pub fn new(tokens_per_step: u64) -> Self {
        Self { tokens_per_step, ends: VecDeque::from([Instant::now()]) }
    }

    /// Tokens per second, and seconds until `left` more steps are done.
    pub fn after_step(&mut self, left: u64) -> (u64, u64) {
        self.ends.push_back(Instant::now());
        if self.ends.len() > SPEED_STEPS + 1 {
            self.ends.pop_front();
        }
        let (Some(first), Some(last)) = (self.ends.front(), self.ends.back()) else { return (0, 0) };
        let per_step = last.duration_since(*first).as_secs_f64().max(1e-9) / (self.ends.len() - 1) as f64;
        ((self.tokens_per_step as f64 / per_step) as u64, (left as f64 * per_step).ceil() as u64)
    }
}
