//! How many workers a job can do with.

/// From `min` to `max`, and `count` as its tenant would have it. All workers share the job's logical shards, so not every number is of
/// use: of 8 shards 5 workers do no more at once than 4 do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size {
    /// It does not train with fewer.
    pub min: u32,
    /// What it asks for.
    pub count: u32,
    /// It takes so many if they are idle.
    pub max: u32,
    /// Logical shards of its batch.
    pub shards: u32,
}

impl Size {
    /// Exactly so many.
    #[must_use]
    pub const fn fixed(count: u32) -> Self {
        Self { min: count, count, max: count, shards: count }
    }

    /// Whether a unit of so many workers may stay as it is.
    #[must_use]
    pub const fn allows(self, workers: u32) -> bool {
        self.min <= workers && workers <= self.max
    }

    /// Shards that a worker has at most, one after the other: what a step takes.
    const fn rounds(self, workers: u32) -> u32 {
        let workers = if workers == 0 { 1 } else { workers };
        self.shards.div_ceil(workers)
    }

    /// The fewest workers that are as fast as `free` of them, if that is not below the least; `None` if even that is too many.
    #[must_use]
    pub fn within(self, free: u32) -> Option<u32> {
        let most = free.min(self.max);
        if most < self.min {
            return None;
        }
        if most == self.count {
            return Some(most);
        }
        Some(self.shards.div_ceil(self.rounds(most).max(1)).clamp(self.min, most))
    }

    /// Whether a step takes less with `more` workers than with `few`.
    #[must_use]
    pub const fn gains(self, few: u32, more: u32) -> bool {
        self.rounds(more) < self.rounds(few)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_that_would_do_nothing_are_left_to_others() {
        let size = Size { min: 1, count: 4, max: 8, shards: 8 };
        let got: Vec<Option<u32>> = (0..10).map(|free| size.within(free)).collect();
        let want = [0, 1, 2, 3, 4, 4, 4, 4, 8, 8].map(|n| (n > 0).then_some(n));
        assert_eq!(got, want);
        assert!(size.gains(4, 8) && !size.gains(4, 7) && size.gains(2, 3) && !size.gains(8, 9));
    }

    #[test]
    fn what_a_tenant_wrote_is_taken_by_its_word() {
        let odd = Size { min: 5, count: 5, max: 5, shards: 8 };
        assert_eq!((odd.within(4), odd.within(5), odd.within(64)), (None, Some(5), Some(5)));
        let least = Size { min: 5, count: 7, max: 8, shards: 8 };
        assert_eq!((least.within(6), least.within(7), least.within(8)), (Some(5), Some(7), Some(8)));
        assert!(least.allows(6) && !least.allows(4) && !least.allows(9));
        assert_eq!(Size::fixed(3).within(9), Some(3));
    }
}
