//! What becomes of running units when the hub's database was restored from a backup (docs/spec/gateway.md section 5).
//!
//! The hub has forgotten some of what it did, and its new incarnation voids every envelope that it signed before. Agents
//! still hold the units of the time that was lost: they offer the envelopes, and the hub gives each back as a unit of a new
//! epoch that *continues* the old one, or says Stop. At most one unit of an island is continued.
use std::time::Duration;

use jiff::Timestamp;
use muster_proof::Digest;

use crate::envelope::{CheckpointRef, Payload};

/// So long the hub waits for the agents before it places anything. A hub that waits for one that is gone trains nothing.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// In what a unit differs from the one that it continues.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Anew {
    /// Its name.
    pub name: String,
    /// Above every epoch that was ever used.
    pub epoch: i64,
    /// The hub's.
    pub incarnation: i64,
    /// After this it is void.
    pub not_after: Timestamp,
    /// The newest state that the store has.
    pub start: Option<CheckpointRef>,
    /// Record id of its UnitGrant.
    pub grant: Digest,
    /// Record id of the commit of `start`, for genesis of the job record.
    pub start_record: Digest,
}

impl Payload {
    /// The payload of the unit that continues this one.
    #[must_use]
    pub fn continued(&self, anew: Anew) -> Self {
        Self {
            name: anew.name,
            epoch: anew.epoch,
            incarnation: anew.incarnation,
            not_after: anew.not_after,
            start: anew.start,
            grant: anew.grant,
            start_record: anew.start_record,
            continues: Some(self.name.clone()),
            ..self.clone()
        }
    }

    /// Whether a unit with this payload may go on with the pods of `old`: it says so, it is newer, and all that reaches a
    /// pod is the same.
    #[must_use]
    pub fn takes_over(&self, old: &Payload) -> bool {
        let anew = Anew {
            name: self.name.clone(),
            epoch: self.epoch,
            incarnation: self.incarnation,
            not_after: self.not_after,
            start: self.start,
            grant: self.grant,
            start_record: self.start_record,
        };
        self.epoch > old.epoch && self.incarnation > old.incarnation && *self == old.continued(anew)
    }
}

/// What the restored database and the store say of the job whose units are offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Job {
    /// There is none of this uid, or it is being deleted.
    Gone,
    /// It needs no more training.
    Over,
    /// A person wants it to pause.
    Suspended,
    /// It wants to train.
    Trains {
        /// What identifies its result; `None` if the backup is of before that was known.
        training_digest: Option<Digest>,
        /// A unit of the island that this incarnation made: its name, and what it continues.
        current: Option<(String, Option<String>)>,
    },
}

/// What becomes of an offered unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// A unit is to be made that continues it.
    Continue,
    /// This unit was made for it before.
    Continued(String),
    /// It must stop; why.
    Stop(&'static str),
}

/// Judges all units of one island that are offered and not answered, each for itself in their order. The highest epoch is
/// the one that was current when the database was lost.
#[must_use]
pub fn judge(offers: &[&Payload], job: &Job) -> Vec<Verdict> {
    let newest = offers.iter().enumerate().max_by_key(|(at, offer)| (offer.epoch, std::cmp::Reverse(*at)));
    let newest = newest.map(|(at, _)| at);
    let judge = |(at, offer): (usize, &&Payload)| match job {
        Job::Gone => Verdict::Stop("its job is gone"),
        Job::Over => Verdict::Stop("its job is over"),
        Job::Suspended => Verdict::Stop("its job is suspended"),
        Job::Trains { current: Some((name, continues)), .. } => {
            if continues.as_ref() == Some(&offer.name) {
                Verdict::Continued(name.clone())
            } else {
                Verdict::Stop("its island has another unit by now")
            }
        }
        Job::Trains { training_digest, current: None } => {
            if *training_digest != Some(offer.training_digest) {
                Verdict::Stop("its job has another training digest")
            } else if Some(at) == newest {
                Verdict::Continue
            } else {
                Verdict::Stop("a unit of a higher epoch is offered")
            }
        }
    };
    offers.iter().enumerate().map(judge).collect()
}

/// Whether the hub has waited enough, for `awaited` agents that are there and have not said yet what they hold.
#[must_use]
pub fn is_over(awaited: usize, waited: Duration) -> bool {
    awaited == 0 || waited >= PATIENCE
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::tests::payload;

    fn unit(epoch: i64) -> Payload {
        Payload { name: format!("4f2a9c1b-0-{epoch}"), epoch, ..payload() }
    }

    fn anew() -> Anew {
        Anew {
            name: "4f2a9c1b-0-1001".to_owned(),
            epoch: 1001,
            incarnation: 2,
            not_after: "2027-11-23T19:00:00Z".parse().unwrap(),
            start: Some(CheckpointRef { step: 40, manifest: Digest::of(b"m") }),
            grant: Digest::of(b"grant of 1001"),
            start_record: Digest::of(b"commit of 40"),
        }
    }

    fn trains() -> Job {
        Job::Trains { training_digest: Some(Digest::of(b"training")), current: None }
    }

    #[test]
    fn a_continued_unit_takes_over_that_one_and_no_other() {
        let (old, new) = (unit(1), unit(1).continued(anew()));
        assert!(new.takes_over(&old));
        assert!(!new.takes_over(&unit(2)), "another unit's name");
        assert!(!old.takes_over(&old) && !old.takes_over(&new));
        type Change = fn(&mut Payload);
        let changes: [Change; 11] = [
            |p| p.continues = None,
            |p| p.epoch = 1,
            |p| p.incarnation = 1,
            |p| p.workers = 3,
            |p| p.image = format!("muster-trainer@{}", Digest::of(b"other")),
            |p| p.spec = Digest::of(b"other"),
            |p| p.job_uid.replace_range(..1, "5"),
            |p| p.job = Digest::of(b"other"),
            |p| p.log = "other.example/log".to_owned(),
            |p| p.provider = "west".to_owned(),
            |p| p.resources.cpu = "6".to_owned(),
        ];
        for (index, change) in changes.into_iter().enumerate() {
            let mut other = new.clone();
            change(&mut other);
            assert!(!other.takes_over(&old), "change {index}");
        }
        // And once more, after the next restore.
        let third = Anew { name: "4f2a9c1b-0-2001".to_owned(), epoch: 2001, incarnation: 3, ..anew() };
        let third = new.continued(third);
        assert!(third.takes_over(&new) && !third.takes_over(&old));
    }

    #[test]
    fn of_two_that_claim_an_island_the_newer_goes_on() {
        let (one, two) = (unit(1), unit(2));
        let stop = Verdict::Stop("a unit of a higher epoch is offered");
        assert_eq!(judge(&[&one, &two], &trains()), [stop.clone(), Verdict::Continue]);
        assert_eq!(judge(&[&two, &one], &trains()), [Verdict::Continue, stop.clone()]);
        assert_eq!(judge(&[&one, &one], &trains()), [Verdict::Continue, stop], "never both");
        assert!(judge(&[], &trains()).is_empty());
    }

    #[test]
    fn an_offer_that_comes_late_finds_the_island_taken() {
        let (one, two) = (unit(1), unit(2));
        let current = Some(("4f2a9c1b-0-1001".to_owned(), Some(one.name.clone())));
        let job = Job::Trains { training_digest: Some(one.training_digest), current };
        let want = [
            Verdict::Continued("4f2a9c1b-0-1001".to_owned()),
            Verdict::Stop("its island has another unit by now"),
        ];
        assert_eq!(judge(&[&one, &two], &job), want, "the same answer again, and one unit only");
        let placed = Job::Trains {
            training_digest: Some(one.training_digest),
            current: Some(("4f2a9c1b-0-1001".to_owned(), None)),
        };
        assert!(matches!(judge(&[&one], &placed)[..], [Verdict::Stop(_)]));
    }

    #[test]
    fn what_no_job_wants_stops() {
        let one = unit(1);
        let other = |training_digest| Job::Trains { training_digest, current: None };
        for job in [Job::Gone, Job::Over, Job::Suspended, other(None), other(Some(Digest::of(b"another")))] {
            assert!(matches!(judge(&[&one], &job)[..], [Verdict::Stop(_)]), "{job:?}");
        }
    }

    #[test]
    fn the_hub_waits_for_those_who_are_there_and_not_for_ever() {
        let second = Duration::from_secs(1);
        assert!(is_over(0, Duration::ZERO));
        assert!(!is_over(1, PATIENCE - second));
        assert!(is_over(1, PATIENCE));
    }
}
