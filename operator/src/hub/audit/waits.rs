//! What is waited for, and since when. Pure. The moments are this process' own: a hub that starts anew waits anew, which costs
//! time and convicts nobody.
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use muster_proof::Digest;
use muster_proof::history::Todo;
use tokio::time::Instant;

/// Of the longest time that an interval may take to be replayed, in times that it took to be trained.
const TIMES_TRAINING: u32 = 4;

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    /// An auditor's seal.
    Seal,
    /// The trainer's opening, or an auditor's.
    Opening,
}

/// Of one job.
#[derive(Debug, Default)]
pub struct Waits {
    since: BTreeMap<(What, Digest), Instant>,
}

impl Waits {
    /// Notes what an agenda waits for. What was waited for once stays: it may have been given up, and then no agenda names it.
    pub fn note(&mut self, agenda: &[Todo], now: Instant) {
        for todo in agenda {
            let key = match todo {
                Todo::AwaitSeal { audit, .. } => (What::Seal, *audit),
                Todo::AwaitOpening { commit, .. } => (What::Opening, *commit),
                Todo::AwaitAnswer { audit, .. } => (What::Opening, *audit),
                _ => continue,
            };
            self.since.entry(key).or_insert(now);
        }
    }

    /// Assignments whose seal was waited for too long.
    pub fn unsealed(&self, patience: Duration, now: Instant) -> BTreeSet<Digest> {
        self.over(What::Seal, patience, now)
    }

    /// Commits and assignments whose opening was waited for too long.
    pub fn unopened(&self, patience: Duration, now: Instant) -> BTreeSet<Digest> {
        self.over(What::Opening, patience, now)
    }

    fn over(&self, what: What, patience: Duration, now: Instant) -> BTreeSet<Digest> {
        let over = self
            .since
            .iter()
            .filter(|((kind, _), since)| *kind == what && now.saturating_duration_since(**since) >= patience);
        over.map(|((_, id), _)| *id).collect()
    }
}

/// How long an answer is waited for: at least `least`, and longer for a job whose intervals take long.
#[must_use]
pub fn patience(least: Duration, training: Option<Duration>) -> Duration {
    least.max(training.unwrap_or_default().saturating_mul(TIMES_TRAINING))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_counted_from_the_first_time_that_something_is_waited_for() {
        let (audit, commit) = (Digest::of(b"audit"), Digest::of(b"commit"));
        let auditor = "west".parse().unwrap();
        let seal = Todo::AwaitSeal { audit, auditor };
        let opening = Todo::AwaitOpening { commit, provider: "east".parse().unwrap() };
        let (start, minute) = (Instant::now(), Duration::from_secs(60));
        let mut waits = Waits::default();
        waits.note(std::slice::from_ref(&seal), start);
        waits.note(&[seal, opening, Todo::ChainUsedUp], start + minute);
        let at = start + 2 * minute;
        assert!(waits.unsealed(3 * minute, at).is_empty());
        assert_eq!(waits.unsealed(2 * minute, at), [audit].into());
        assert!(waits.unopened(2 * minute, at).is_empty());
        assert_eq!(waits.unopened(minute, at), [commit].into());
        // Given up once, it is in no agenda any more, and stays given up.
        waits.note(&[], at);
        assert_eq!(waits.unopened(minute, at), [commit].into());
        // That the auditor then has to open its seal is another wait.
        let answer = Todo::AwaitAnswer { audit, auditor: "west".parse().unwrap() };
        waits.note(&[answer], at);
        assert_eq!(waits.unopened(minute, at), [commit].into());
        assert_eq!(waits.unopened(minute, at + minute), [audit, commit].into());
    }

    #[test]
    fn a_job_of_long_intervals_is_waited_for_longer() {
        let hour = Duration::from_secs(3600);
        assert_eq!(patience(6 * hour, None), 6 * hour);
        assert_eq!(patience(6 * hour, Some(hour)), 6 * hour);
        assert_eq!(patience(6 * hour, Some(2 * hour)), 8 * hour);
        assert_eq!(patience(Duration::ZERO, Some(hour)), 4 * hour);
    }
}
