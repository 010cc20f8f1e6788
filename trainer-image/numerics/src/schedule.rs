//! The learning rate over time (spec 6.1): f64 arithmetic, rounded to f32 at the end.

use crate::math::sincos64;
use crate::spec::{HyperParameters, ScheduleName};

/// The f64 nearest to pi.
const PI: f64 = f64::from_bits(0x4009_21fb_5444_2d18);

/// A learning-rate schedule.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    name: ScheduleName,
    steps: f64,
    warmup: f64,
    peak: f64,
    floor: f64,
}

impl Schedule {
    /// The schedule of a job.
    pub fn new(hyper: &HyperParameters) -> Schedule {
        Schedule {
            name: hyper.schedule,
            steps: hyper.steps as f64,
            warmup: hyper.warmup_steps as f64,
            peak: hyper.peak,
            floor: hyper.floor,
        }
    }

    /// The rate of step `step`, counted from 1 to the number of steps.
    pub fn rate(&self, step: u64) -> f32 {
        let (t, hi, lo) = (step as f64, self.peak, self.floor);
        if t <= self.warmup {
            return ((hi * t) / self.warmup) as f32;
        }
        let x = (t - self.warmup) / (self.steps - self.warmup);
        let rate = match self.name {
            ScheduleName::Cosine => lo + (0.5 * (hi - lo)) * (1.0 + sincos64(PI * x).1),
            ScheduleName::Linear => lo + (hi - lo) * (1.0 - x),
            ScheduleName::Constant => hi,
        };
        rate as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(name: ScheduleName, warmup: f64) -> Schedule {
        Schedule { name, steps: 20.0, warmup, peak: 1e-3, floor: 1e-4 }
    }

    #[test]
    fn published_rates() {
        let cosine = schedule(ScheduleName::Cosine, 4.0);
        let want =
            [0x3983126f, 0x3a03126f, 0x3a449ba6, 0x3a83126f, 0x3a81f04d, 0x3a7d2a1a, 0x3a72436b, 0x3a6397c9];
        for (t, bits) in (1..).zip(want) {
            assert_eq!(cosine.rate(t).to_bits(), bits, "t = {t}");
        }
        assert_eq!(cosine.rate(20).to_bits(), 0x38d1b717);
        let linear = schedule(ScheduleName::Linear, 4.0);
        for (t, bits) in [(5, 0x3a7765fe), (6, 0x3a68a71e), (20, 0x38d1b717)] {
            assert_eq!(linear.rate(t).to_bits(), bits, "t = {t}");
        }
    }

    #[test]
    fn warm_up_may_be_empty_or_everything() {
        let constant = schedule(ScheduleName::Constant, 0.0);
        assert_eq!(constant.rate(1), 1e-3);
        assert_eq!(constant.rate(20), 1e-3);
        let all = schedule(ScheduleName::Cosine, 20.0);
        assert_eq!(all.rate(20), 1e-3);
        assert_eq!(all.rate(10), 5e-4);
    }
}
