//! Which samples a step trains on: a keyed permutation per epoch, computed, never stored (spec 7.3).

use crate::philox::{DOMAIN_ORDER, key, philox4x32};

/// The order of a dataset of `samples` samples under a seed. Sample k of a token stream with context
/// length T has inputs `stream[kT .. kT+T]` and targets one later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataOrder {
    key: [u32; 2],
    samples: u64,
    batch: u64,
    half_bits: u32,
}

/// `DataOrder` was asked for an empty dataset, an empty batch, or more samples than it can permute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "data order of {samples} samples in batches of {batch}: both must be at least 1 and samples at most 2^53"
)]
pub struct OrderError {
    /// N, the number of whole samples of the dataset.
    pub samples: u64,
    /// G, sequences per step.
    pub batch: u64,
}

impl DataOrder {
    /// `samples` = N >= 1, `batch` = G >= 1 sequences per step.
    pub fn new(seed: u64, samples: u64, batch: u64) -> Result<DataOrder, OrderError> {
        if samples == 0 || batch == 0 || samples > 1 << 53 {
            return Err(OrderError { samples, batch });
        }
        let bits = 64 - (samples - 1).leading_zeros(); // ceil(log2 N), 0 for N = 1
        Ok(DataOrder { key: key(seed), samples, batch, half_bits: bits.div_ceil(2).max(1) })
    }

    /// N samples in a stream of `tokens` tokens: the last target needs one token more.
    pub fn samples_of(tokens: u64, context: u64) -> u64 {
        tokens.saturating_sub(1).checked_div(context).unwrap_or(0)
    }

    /// The sample (0 .. N) at position `n` of the endless sequence of epochs.
    pub fn sample(&self, n: u64) -> u64 {
        let epoch = (n / self.samples) as u32;
        let mut i = n % self.samples;
        // A Feistel network permutes 0 .. 4^h; walking the cycle until it re-enters 0 .. N makes a
        // permutation of those. 4^h < 4 N (N > 1), so a few rounds on average.
        loop {
            i = self.feistel(i, epoch);
            if i < self.samples {
                return i;
            }
        }
    }

    fn feistel(&self, i: u64, epoch: u32) -> u64 {
        let h = self.half_bits;
        let mask = (1u64 << h) - 1;
        let (mut left, mut right) = (i >> h, i & mask);
        for round in 0..4 {
            let f = u64::from(philox4x32([right as u32, round, epoch, DOMAIN_ORDER], self.key)[0]);
            (left, right) = (right, left ^ (f & mask));
        }
        left << h | right
    }

    /// The samples of all G sequences of a step (counted from 1), in order.
    pub fn step_samples(&self, step: u64) -> Vec<u64> {
        let first = step.saturating_sub(1) * self.batch;
        (first..first + self.batch).map(|n| self.sample(n)).collect()
    }

    /// The samples of shard `shard` of `shards`: sequences [sG/S, (s+1)G/S) of the step.
    pub fn shard_samples(&self, step: u64, shard: u64, shards: u64) -> Vec<u64> {
        let first = step.saturating_sub(1) * self.batch;
        let of = |s: u64| first + s * self.batch / shards.max(1);
        (of(shard)..of(shard + 1)).map(|n| self.sample(n)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: u64 = 0x0123_4567_89ab_cdef;

    #[test]
    fn published_orders() {
        let small = DataOrder::new(SEED, 5, 1).unwrap();
        let got: Vec<u64> = (0..12).map(|n| small.sample(n)).collect();
        assert_eq!(got, [2, 3, 0, 4, 1, 3, 1, 2, 0, 4, 2, 4]);
        let larger = DataOrder::new(SEED, 200, 4).unwrap();
        let got: Vec<u64> = (198..204).map(|n| larger.sample(n)).collect();
        assert_eq!(got, [137, 157, 60, 186, 2, 31]);
        assert_eq!(larger.step_samples(1), [161, 97, 32, 30]);
        assert_eq!(larger.shard_samples(2, 1, 2), [94, 67]);
    }

    #[test]
    fn every_epoch_is_a_permutation() {
        for samples in [1u64, 2, 3, 4, 5, 16, 17, 63, 64, 65, 1000] {
            let order = DataOrder::new(7, samples, 3).unwrap();
            for epoch in 0..3 {
                let mut seen: Vec<u64> =
                    (epoch * samples..(epoch + 1) * samples).map(|n| order.sample(n)).collect();
                seen.sort_unstable();
                assert_eq!(seen, (0..samples).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn refuses_nothing_to_order() {
        assert!(DataOrder::new(0, 0, 1).is_err());
        assert!(DataOrder::new(0, 1, 0).is_err());
        assert_eq!(DataOrder::samples_of(64, 64), 0);
        assert_eq!(DataOrder::samples_of(65, 64), 1);
    }
}
