//! What must survive a loss of the hub's database: the incarnation, the floor under all epochs, and how far the database
//! had come when the hub last looked (docs/spec/gateway.md section 5).
//!
//! A database that is further back than it was has been restored from a backup. What happened after the backup is forgotten
//! there but not in the world: agents hold units, and the gateway knows epochs, that the hub does not. So the incarnation
//! grows, which voids every envelope signed before, and no epoch is used that may have been used in the lost time.
use serde::{Deserialize, Serialize};

/// So many epochs of one job may lie in the time that a restored backup has lost. A job gets one epoch for each move,
/// resumption or failure of a unit; the floor is set this far above the highest that is known.
pub const LOST_AT_MOST: i64 = 1000;

/// As it is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Epochs {
    /// Envelopes of a lower one are void.
    pub incarnation: i64,
    /// No unit gets a lower epoch, whatever its job or provider says.
    pub floor: i64,
    /// Highest resourceVersion seen; 0 before the first look.
    pub resource_version: u64,
    /// Restored, and not settled yet with the agents what they hold ([`crate::recovery`]): nothing is placed meanwhile.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub recovering: bool,
}

/// What a look at the database says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// It went on from where it was.
    Onward,
    /// It is further back than it was.
    Restored,
}

impl Default for Epochs {
    fn default() -> Self {
        Self { incarnation: 1, floor: 1, resource_version: 0, recovering: false }
    }
}

impl Epochs {
    /// Whether these numbers can be.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.incarnation >= 1 && self.floor >= 1
    }

    /// Judges a resourceVersion that the API server gave for a request that began after these numbers were known.
    #[must_use]
    pub fn judge(&self, resource_version: u64) -> Seen {
        if resource_version < self.resource_version { Seen::Restored } else { Seen::Onward }
    }

    /// After [`Seen::Onward`], or a write of the hub's own.
    #[must_use]
    pub fn onward(&self, resource_version: u64) -> Self {
        Self { resource_version: self.resource_version.max(resource_version), ..*self }
    }

    /// After [`Seen::Restored`]: `highest` is the highest epoch of anything that is still known.
    #[must_use]
    pub fn restored(&self, resource_version: u64, highest: i64) -> Self {
        Self {
            incarnation: self.incarnation.saturating_add(1),
            floor: self.floor.max(highest).saturating_add(LOST_AT_MOST),
            resource_version,
            recovering: true,
        }
    }

    /// What the agents hold is known; the hub goes on.
    #[must_use]
    pub fn settled(&self) -> Self {
        Self { recovering: false, ..*self }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_a_database_that_went_back_is_restored() {
        let first = Epochs::default();
        assert_eq!(first.judge(0), Seen::Onward);
        let known = first.onward(500);
        assert_eq!(
            [known.judge(499), known.judge(500), known.judge(501)],
            [Seen::Restored, Seen::Onward, Seen::Onward]
        );
        assert_eq!(known.onward(400), known, "an older answer that came late changes nothing");
    }

    #[test]
    fn a_restored_hub_uses_no_epoch_that_the_lost_time_may_have_used() {
        let known = Epochs::default().onward(500);
        // The backup knows epoch 7; up to 1006 may have been used since.
        let restored = known.restored(300, 7);
        let want = Epochs { incarnation: 2, floor: 1007, resource_version: 300, recovering: true };
        assert_eq!(restored, want);
        assert_eq!(
            restored.onward(301).settled(),
            Epochs { resource_version: 301, recovering: false, ..want }
        );
        assert_eq!(restored.judge(300), Seen::Onward, "said once");
        let again = restored.restored(200, 7);
        assert_eq!((again.incarnation, again.floor), (3, 2007), "also when nothing was placed in between");
    }

    proptest! {
        #[test]
        fn nothing_but_the_mark_ever_goes_down(looks in prop::collection::vec((any::<u64>(), 0..1i64 << 53), 0..20)) {
            let mut epochs = Epochs::default();
            for (version, highest) in looks {
                let next = match epochs.judge(version) {
                    Seen::Onward => epochs.onward(version),
                    Seen::Restored => epochs.restored(version, highest),
                };
                prop_assert!(next.is_sound() && next.incarnation >= epochs.incarnation && next.floor >= epochs.floor);
                let restored = next.incarnation > epochs.incarnation;
                prop_assert_eq!(restored, next.resource_version < epochs.resource_version);
                prop_assert!(!restored || next.floor > highest);
                epochs = next;
            }
        }
    }
}
