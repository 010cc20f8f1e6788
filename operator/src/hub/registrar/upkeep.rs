//! Counts changes of what was made for a provider, so that it is put right only after something happened to it.
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// See the module.
#[derive(Debug, Default)]
pub struct Upkeep {
    seen: Mutex<HashMap<String, Tended>>,
}

#[derive(Debug, Default)]
struct Tended {
    /// Changes seen.
    changes: u64,
    /// Uid and generation of the provider and number of changes when all was last applied.
    applied: Option<(String, i64, u64)>,
    /// When what is not watched was seen to be there.
    whole: Option<Instant>,
}

/// A provider's spec at one time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version<'a> {
    /// Name of the provider.
    pub provider: &'a str,
    /// Another one of the same name has another uid.
    pub uid: &'a str,
    /// Grows with the spec.
    pub generation: i64,
}

impl Upkeep {
    /// Something of the provider's changed, or is missing.
    pub fn changed(&self, provider: &str) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.entry(provider.to_owned()).or_default().changes += 1;
    }

    /// The ticket to hand to `done` afterwards; `None` if nothing happened since the last time.
    pub fn due(&self, version: &Version<'_>) -> Option<u64> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let tended = seen.entry(version.provider.to_owned()).or_default();
        let current = (version.uid.to_owned(), version.generation, tended.changes);
        (tended.applied.as_ref() != Some(&current)).then_some(tended.changes)
    }

    /// All was applied as it should be when the ticket was drawn.
    pub fn done(&self, version: &Version<'_>, ticket: u64) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let applied = Some((version.uid.to_owned(), version.generation, ticket));
        seen.entry(version.provider.to_owned()).or_default().applied = applied;
    }

    /// What is not watched is there.
    pub fn is_whole(&self, provider: &str) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.entry(provider.to_owned()).or_default().whole = Some(Instant::now());
    }

    /// How long ago that was seen.
    pub fn whole_since(&self, provider: &str) -> Option<Duration> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        Some(seen.get(provider)?.whole?.elapsed())
    }

    /// The provider is gone.
    pub fn forget(&self, provider: &str) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).remove(provider);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_during_the_work_is_not_lost() {
        let upkeep = Upkeep::default();
        let version = Version { provider: "east", uid: "1", generation: 1 };
        let ticket = upkeep.due(&version).unwrap();
        upkeep.changed("east");
        upkeep.done(&version, ticket);
        let again = upkeep.due(&version).unwrap();
        upkeep.done(&version, again);
        assert_eq!(upkeep.due(&version), None);
        assert!(upkeep.due(&Version { generation: 2, ..version.clone() }).is_some());
        assert!(upkeep.due(&Version { uid: "2", ..version }).is_some(), "the next one of that name");
    }
}
