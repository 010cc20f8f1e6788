//! Which of several processes acts: an election over one Lease object (Kubernetes, coordination.k8s.io/v1).
//!
//! No two clocks are compared. Who stands by measures, on a clock of its own that only goes forward, how long the Lease has
//! not changed; who leads measures how long ago it *began* the last renewal that was answered. The leader is silent
//! [`LEASE`] - [`RENEW_WITHIN`] before anybody else may take over: the time that a write of its may still be on its way.
//! Every write of the Lease carries the resourceVersion that was read, so that of several who try one succeeds.
use std::time::Duration;

/// Who has not renewed for so long has lost it; written into the Lease.
pub const LEASE: Duration = Duration::from_secs(15);
/// A leader that could not renew for so long acts no more. As long as Kubernetes' own controllers have: an API server under load answers
/// a write in seconds, and a hub that loses the lead for that reads everything anew, which is more load.
pub const RENEW_WITHIN: Duration = Duration::from_secs(10);
/// From one renewal to the next, if it was answered.
pub const RENEW_EVERY: Duration = Duration::from_secs(2);
/// From one look to the next of who stands by, and after a failed renewal.
pub const RETRY: Duration = Duration::from_secs(1);
/// Whatever a Lease says, no predecessor is waited for longer than this after its last sign.
const LONGEST: Duration = Duration::from_secs(60);

/// A Lease as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Its resourceVersion.
    pub version: String,
    /// Who holds it; empty if it was given back.
    pub holder: String,
    /// Its renewTime as it is written. Only compared with itself.
    pub renewed: String,
    /// For how long it holds, in seconds, as its holder says.
    pub seconds: i32,
    /// How often it changed hands.
    pub transitions: i32,
}

/// What a candidate does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Make the Lease, with itself as holder.
    Create,
    /// Write itself into the Lease, provided that it is still this version.
    Write {
        /// Of the Lease that was read.
        version: String,
        /// To be written.
        transitions: i32,
    },
    /// Somebody else holds it.
    Wait,
}

/// Who wants to lead, and what it has seen.
#[derive(Debug, Clone)]
pub struct Candidate {
    me: String,
    /// What stood there, or that nothing did, and since when it has been so.
    last: Option<(Option<Mark>, Duration)>,
    /// Whether it was not its own when it was looked at last.
    is_another: bool,
}

/// What changes when a holder renews. Labels and the like are nobody's sign of life.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mark {
    holder: String,
    renewed: String,
    transitions: i32,
}

impl Candidate {
    /// Has seen nothing yet. `me` must be of this process alone; a pod's uid is, and the same pod's next process then goes on
    /// at once.
    #[must_use]
    pub fn new(me: impl Into<String>) -> Self {
        Self { me: me.into(), last: None, is_another: false }
    }

    /// Who it is.
    #[must_use]
    pub fn me(&self) -> &str {
        &self.me
    }

    /// What to do about this Lease, which was read at `now` of a clock that only goes forward. `leads`: its own term holds.
    pub fn step(&mut self, now: Duration, lease: Option<&Seen>, leads: bool) -> Step {
        let Some(lease) = lease else {
            // Somebody may have deleted it under a leader, who makes it anew; whoever did not lead gives it the time.
            let waited = self.unchanged(None, now) >= LEASE;
            self.is_another = !leads;
            return if leads || waited { Step::Create } else { Step::Wait };
        };
        let mark = Mark {
            holder: lease.holder.clone(),
            renewed: lease.renewed.clone(),
            transitions: lease.transitions,
        };
        let waited = self.unchanged(Some(mark), now);
        let mine = lease.holder == self.me;
        // Its own: it leads, or did, or its process has just begun. Whoever has seen another one there before its own name sees
        // an older Lease that somebody has put back, under the one who leads.
        let goes_on = mine && (leads || !self.is_another);
        if !(goes_on || lease.holder.is_empty() || waited >= patience(lease.seconds)) {
            self.is_another = true;
            return Step::Wait;
        }
        // If another one is quicker, the next look says so.
        self.is_another = false;
        let transitions = lease.transitions.saturating_add(i32::from(!mine));
        Step::Write { version: lease.version.clone(), transitions }
    }

    /// For how long it has been so.
    fn unchanged(&mut self, mark: Option<Mark>, now: Duration) -> Duration {
        match &self.last {
            Some((last, since)) if *last == mark => now.saturating_sub(*since),
            _ => {
                self.last = Some((mark, now));
                Duration::ZERO
            }
        }
    }
}

/// How long a holder is waited for that says it holds for so many seconds. Never shorter than ours: a Lease that says 0 would
/// have everybody take over from everybody.
fn patience(seconds: i32) -> Duration {
    let said = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    said.clamp(LEASE, LONGEST)
}

/// The time in which a leader may act.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Term {
    renewed: Duration,
}

impl Term {
    /// Since a renewal that *began* at this time and was answered. When it was answered does not count: the Lease may have
    /// been written long before.
    #[must_use]
    pub const fn renewed(began: Duration) -> Self {
        Self { renewed: began }
    }

    /// For how long the leader may still act; zero when it may not.
    #[must_use]
    pub fn left(&self, now: Duration) -> Duration {
        RENEW_WITHIN.saturating_sub(now.saturating_sub(self.renewed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seen(holder: &str, renewed: u64, transitions: i32) -> Seen {
        Seen {
            version: renewed.to_string(),
            holder: holder.into(),
            renewed: renewed.to_string(),
            seconds: 15,
            transitions,
        }
    }

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_lease_that_is_not_there_is_made_by_who_leads_or_has_waited() {
        let mut a = Candidate::new("a");
        assert_eq!(a.step(at(0), None, false), Step::Wait);
        assert_eq!(a.step(at(14), None, false), Step::Wait);
        assert_eq!(a.step(at(15), None, false), Step::Create);
        let held = seen("a", 1, 0);
        assert_eq!(a.step(at(17), Some(&held), true), Step::Write { version: "1".into(), transitions: 0 });
        assert_eq!(a.step(at(19), None, true), Step::Create, "deleted under it");
        // Who stood by saw it, and waits anew.
        let mut b = Candidate::new("b");
        assert_eq!(b.step(at(8), Some(&held), false), Step::Wait);
        assert_eq!(b.step(at(10), None, false), Step::Wait);
        assert_eq!(b.step(at(24), None, false), Step::Wait);
        assert_eq!(b.step(at(25), None, false), Step::Create);
    }

    #[test]
    fn another_one_waits_until_nothing_has_changed_for_a_whole_lease() {
        let mut b = Candidate::new("b");
        for second in 0..20 {
            assert_eq!(b.step(at(second), Some(&seen("a", second, 0)), false), Step::Wait, "a renews");
        }
        // Seen first at 19.
        assert_eq!(b.step(at(33), Some(&seen("a", 19, 0)), false), Step::Wait);
        let taken = Step::Write { version: "19".into(), transitions: 1 };
        assert_eq!(b.step(at(34), Some(&seen("a", 19, 0)), false), taken);
        // Somebody else was quicker: wait for that one, from now.
        assert_eq!(b.step(at(34), Some(&seen("c", 25, 1)), false), Step::Wait);
    }

    #[test]
    fn an_older_lease_that_is_put_back_names_nobody_who_leads() {
        let mut b = Candidate::new("b");
        assert_eq!(b.step(at(0), Some(&seen("a", 1, 7)), false), Step::Wait);
        // A backup of when b led: a does not know yet.
        assert_eq!(b.step(at(1), Some(&seen("b", 0, 3)), false), Step::Wait);
        assert_eq!(b.step(at(15), Some(&seen("b", 0, 3)), false), Step::Wait);
        let again = Step::Write { version: "0".into(), transitions: 3 };
        assert_eq!(b.step(at(16), Some(&seen("b", 0, 3)), false), again, "nobody else has renewed it");
        assert_eq!(
            Candidate::new("b").step(at(0), Some(&seen("b", 0, 3)), false),
            again,
            "a process that begins"
        );
    }

    #[test]
    fn what_is_given_back_is_taken_at_once() {
        let mut b = Candidate::new("b");
        assert_eq!(
            b.step(at(0), Some(&seen("", 3, 4)), false),
            Step::Write { version: "3".into(), transitions: 5 }
        );
    }

    #[test]
    fn absurd_leases_neither_stop_the_world_nor_hand_it_over() {
        for (seconds, waits) in [(i32::MIN, 15), (0, 15), (15, 15), (20, 20), (i32::MAX, 60)] {
            let mut b = Candidate::new("b");
            let lease = Seen { seconds, transitions: i32::MAX, ..seen("a", 1, 0) };
            assert_eq!(b.step(at(100), Some(&lease), false), Step::Wait);
            assert_eq!(b.step(at(100 + waits - 1), Some(&lease), false), Step::Wait, "{seconds}");
            let taken = Step::Write { version: "1".into(), transitions: i32::MAX };
            assert_eq!(b.step(at(100 + waits), Some(&lease), false), taken, "{seconds}");
        }
    }

    proptest! {
        /// One writes at any time before its term ends, each write takes at most the margin, and the other one looks as
        /// often as it likes, from any time on: it takes over only after the last write has landed.
        #[test]
        fn who_takes_over_does_so_after_the_last_write(
            began in 0_u64..100_000,
            answered_after in 0_u64..10_000,
            first_look in 0_u64..50_000,
            looks in prop::collection::vec(1_u64..2_500, 1..40),
        ) {
            let ms = Duration::from_millis;
            // The Lease is written somewhere between the two; at the latest when it is answered, at the earliest at once.
            let term = Term::renewed(ms(began));
            let last_act = (began..).take_while(|now| !term.left(ms(*now)).is_zero()).last().unwrap_or(began);
            prop_assert!(began + answered_after <= last_act + 1, "an answer after the term is none");
            let landed = last_act + u64::try_from((LEASE - RENEW_WITHIN).as_millis()).unwrap();
            let mut other = Candidate::new("b");
            let mut now = began + first_look;
            for step in looks {
                if let Step::Write { .. } = other.step(ms(now), Some(&seen("a", began, 0)), false) {
                    prop_assert!(now > landed, "takes over at {now}, the last write lands at {landed}");
                }
                now += step;
            }
        }
    }
}
