//! A unit that goes on in place of another one, after the hub's database was restored from a backup.
use std::io;
use std::sync::Arc;

use muster_core::envelope::Payload;
use muster_proof::dsse::Envelope;

use super::{Unit, Units, locked};
use crate::agent::brief::Brief;
use crate::agent::state::UnitState;

/// So many restores in a row a pod's name is known through.
const MAX_EARLIER: usize = 8;

/// What became of a wish to go on in place of another unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handed {
    /// Its pods are the new unit's.
    Over,
    /// Its Job is just being made: ask again.
    NotNow,
    /// It has ended, or is another than the envelope says.
    Never,
}

impl Units {
    /// The unit that goes on in place of the one of this name, if one does.
    #[must_use]
    pub fn heir(&self, name: &str) -> Option<Arc<Unit>> {
        let units = locked(&self.units);
        let continues = |unit: &Unit| {
            let brief = locked(&unit.brief);
            let does = brief.earlier.iter().any(|earlier| earlier == name);
            does.then(|| brief.continued_as.clone())
        };
        let (next, unit) = units.values().find_map(|unit| Some((continues(unit)?, unit)))?;
        // Of several restores the last counts: what continues the heir continues this one, too.
        next.and_then(|next| units.get(&next)).or(Some(unit)).cloned()
    }

    /// Whose Jobs and pods they are that bear this unit's name.
    pub async fn serving(&self, name: &str) -> Option<Arc<Unit>> {
        let unit = self.heir(name).or_else(|| self.get(name))?;
        // One that is being handed over at this moment is locked until that is done, and another's then.
        let next = unit.state.lock().await.continued_as.clone();
        next.and_then(|next| self.get(&next)).or(Some(unit))
    }

    /// Lets `heir` go on where `unit` is: attempts, rounds, checkpoints and pods are its own from now on. Both
    /// states change together: at no moment do two units, or none, look after the pods.
    ///
    /// # Errors
    /// A state could not be saved; in memory nothing has changed. The heir's is saved first, and whoever reads that after a
    /// crash knows whose the pods are.
    pub async fn hand_over(
        &self,
        unit: &Unit,
        heir: &Unit,
        payload: &Payload,
        envelope: &Envelope,
    ) -> io::Result<Handed> {
        let mut old = unit.state.lock().await;
        let mut new = heir.state.lock().await;
        let fits = old.payload.as_ref().is_some_and(|before| payload.takes_over(before));
        if !fits || !old.is_living() {
            return Ok(Handed::Never);
        }
        // A Job that is being made would be seen by nobody, and made twice.
        if old.memory.attempt > 0 && !old.memory.created && !old.memory.over {
            return Ok(Handed::NotNow);
        }
        let next = succeed(unit.name(), &old, &new, payload, envelope);
        let shell = UnitState { continued_as: Some(heir.name.clone()), ..old.clone() };
        let (dir, saves) =
            (self.dir.clone(), [(heir.name.clone(), next.clone()), (unit.name.clone(), shell.clone())]);
        let saved = move || saves.iter().try_for_each(|(name, state)| dir.save(name, state));
        tokio::task::spawn_blocking(saved).await.map_err(io::Error::other)??;
        heir.durable.send_replace(next.newest_durable().map_or(0, |commit| commit.step));
        // Theirs first that goes on: at no moment is it nobody's.
        *locked(&heir.brief) = Brief::of(&next);
        *locked(&unit.brief) = Brief::of(&shell);
        (*new, *old) = (next, shell);
        if let Some(progress) = unit.progress() {
            heir.report(progress);
        }
        Ok(Handed::Over)
    }
}

fn succeed(
    name: &str,
    old: &UnitState,
    new: &UnitState,
    payload: &Payload,
    envelope: &Envelope,
) -> UnitState {
    let mut checkpoints = old.checkpoints.clone();
    let start = payload.start.map_or(0, |start| start.step);
    if let Some(start) = payload.start {
        // Another state of that step is one that nobody will ever take.
        checkpoints.retain(|commit| commit.step != start.step || commit.manifest == start.manifest);
    }
    // A commit names its epoch: what the log does not have of the old one, it will never take. Up to the start it has it,
    // though the answer may not have arrived.
    checkpoints.retain(|commit| commit.durable || commit.step <= start);
    for commit in &mut checkpoints {
        commit.durable = true;
        if commit.step == start {
            commit.record = payload.start_record;
        }
    }
    let mut earlier = old.earlier.clone();
    earlier.push(name.to_owned());
    earlier.drain(..earlier.len().saturating_sub(MAX_EARLIER));
    UnitState {
        uid: new.uid.clone(),
        payload: Some(payload.clone()),
        envelope: Some(envelope.clone()),
        desired: new.desired,
        gone: new.gone,
        memory: old.memory.clone(),
        rounds: old.rounds.clone(),
        checkpoints,
        started: old.started,
        earlier,
        ..UnitState::default()
    }
}
