//! What other units ask of a unit, at each of their turns: kept beside its state, so that nobody waits until that is on the disk, and
//! nobody copies it.
use muster_core::envelope::Payload;
use muster_core::quota::{Amounts, add, of_unit};
use muster_proof::Digest;

use super::state::UnitState;

/// The island, or the audit of this assignment.
type About = (Option<Digest>, String, i64);

/// What units hold of what is lent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Held {
    /// Workers.
    pub workers: i64,
    /// What they are counted as.
    pub amounts: Amounts,
}

/// See the module. Made of a state that is saved.
#[derive(Debug, Default)]
pub struct Brief {
    about: Option<About>,
    epoch: i64,
    held: Option<Held>,
    /// The units that this one continues.
    pub earlier: Vec<String>,
    /// The unit that goes on in place of this one.
    pub continued_as: Option<String>,
}

fn about(payload: &Payload) -> About {
    (payload.audit.map(|it| it.assignment), payload.job_uid.clone(), payload.island)
}

impl Brief {
    /// Of a unit.
    #[must_use]
    pub fn of(state: &UnitState) -> Self {
        let holds = state.memory.attempt > 0 && state.memory.outcome.is_none();
        let payload = state.payload.as_ref();
        // A unit that is over may still have pods; its Job's pods are few seconds from gone and the scheduler keeps the peace
        // meanwhile.
        let holder = payload.filter(|_| holds && state.continued_as.is_none());
        Self {
            about: payload.map(about),
            epoch: payload.map_or(0, |payload| payload.epoch),
            held: holder.map(|payload| Held { workers: payload.workers, amounts: of_unit(payload) }),
            earlier: state.earlier.clone(),
            continued_as: state.continued_as.clone(),
        }
    }

    /// Its epoch, if it is about the same as this payload.
    #[must_use]
    pub fn epoch_of(&self, payload: &Payload) -> Option<i64> {
        let (audit, job, island) = self.about.as_ref()?;
        let same = *island == payload.island
            && *job == payload.job_uid
            && *audit == payload.audit.map(|it| it.assignment);
        same.then_some(self.epoch)
    }

    /// Adds what it holds or will hold.
    pub fn add_to(&self, all: &mut Held) {
        if let Some(held) = &self.held {
            all.workers += held.workers;
            add(&mut all.amounts, &held.amounts);
        }
    }
}

#[cfg(test)]
mod tests {
    use muster_core::attempt::Outcome;

    use super::*;
    use crate::agent::testing::{audit, payload};

    fn held(change: impl FnOnce(&mut UnitState)) -> Held {
        let mut state = UnitState { payload: Some(payload()), ..UnitState::default() };
        state.memory.attempt = 1;
        change(&mut state);
        let mut all = Held { workers: 5, amounts: Amounts::from([("pods", 5)]) };
        Brief::of(&state).add_to(&mut all);
        all
    }

    #[test]
    fn a_unit_holds_from_its_first_attempt_to_its_end() {
        let before = Held { workers: 5, amounts: Amounts::from([("pods", 5)]) };
        let holds = held(|_| {});
        let mut want = of_unit(&payload());
        assert_eq!(want["count/jobs.batch"], 1000, "of the unit, not of each worker");
        add(&mut want, &before.amounts);
        assert_eq!(holds, Held { workers: 5 + payload().workers, amounts: want });
        assert_eq!(held(|state| state.memory.attempt = 0), before, "it waits");
        assert_eq!(held(|state| state.memory.outcome = Some(Outcome::Failed)), before, "it is over");
        assert_eq!(
            held(|state| state.continued_as = Some("heir".to_owned())),
            before,
            "its pods are another's"
        );
        assert_eq!(held(|state| state.payload = None), before, "nothing was accepted");
    }

    #[test]
    fn an_epoch_is_of_one_island_or_one_audit() {
        let brief = Brief::of(&UnitState { payload: Some(payload()), ..UnitState::default() });
        assert_eq!(brief.epoch_of(&payload()), Some(payload().epoch));
        assert_eq!(brief.epoch_of(&Payload { island: payload().island + 1, ..payload() }), None);
        assert_eq!(brief.epoch_of(&Payload { job_uid: "other".to_owned(), ..payload() }), None);
        assert_eq!(brief.epoch_of(&audit()), None);
        assert_eq!(Brief::of(&UnitState::default()).epoch_of(&payload()), None);
    }
}
