//! Rounds: how the workers of an attempt find each other, and start from the same state.
//!
//! A round is one start of all workers. Who asks for the next number begins it, for its worker process died; the
//! others lose their peer, ask in turn, and are told. The start checkpoint and the key belong to the round. All of it
//! is durable before it is answered, and the key is derived, so an agent that starts again changes nothing for workers
//! that run.
use std::net::SocketAddr;

use hmac::{Hmac, KeyInit, Mac};
use muster_core::envelope::CheckpointRef;
use muster_proof::key::PublicKey;
use sha2::Sha256;

use crate::agent::state::{Rounds, UnitState};

/// So many rounds in a row without one step end the attempt: the fault is not one of a single process.
const MAX_BARREN: u32 = 5;

/// What a pod that asks for a round is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// It is the current one.
    Current,
    /// Another one is.
    Other(u32),
    /// The attempt is over.
    Over,
}

/// Makes sure that the rounds are those of the current attempt; `step` is the last one reported.
pub fn begin(state: &mut UnitState, step: i64) {
    if state.rounds.attempt != state.memory.attempt {
        let start = state.start();
        state.rounds = Rounds { attempt: state.memory.attempt, number: 1, start, step, ..Rounds::default() };
    }
}

/// A pod asks for round `wanted`; `step` is the last one reported.
pub fn ask(state: &mut UnitState, wanted: u32, step: i64) -> Ask {
    begin(state, step);
    let current = state.rounds.number;
    if wanted == current {
        return if crash_loop(&state.rounds).is_some() { Ask::Over } else { Ask::Current };
    }
    if wanted != current + 1 {
        return Ask::Other(current);
    }
    advance(state, step)
}

fn advance(state: &mut UnitState, step: i64) -> Ask {
    let start = state.start();
    let rounds = &mut state.rounds;
    // The step may be below the round's beginning, which was the end of a round that had got further.
    rounds.barren = if step == rounds.step { rounds.barren + 1 } else { 0 };
    if crash_loop(rounds).is_some() {
        return Ask::Over;
    }
    rounds.number += 1;
    rounds.step = step;
    rounds.start = start;
    rounds.addresses.clear();
    Ask::Current
}

/// Set when worker processes died too often in a row without a step.
#[must_use]
pub fn crash_loop(rounds: &Rounds) -> Option<String> {
    (rounds.barren >= MAX_BARREN)
        .then(|| format!("worker processes died {} times in a row before a first step", rounds.barren))
}

/// A worker of the current round listens at `address`. `Current` once its address is recorded.
pub fn join(state: &mut UnitState, wanted: u32, rank: i64, address: SocketAddr, step: i64) -> Ask {
    match ask(state, wanted, step) {
        Ask::Current => {}
        other => return other,
    }
    let workers = state.payload.as_ref().map_or(0, |payload| payload.workers);
    let known = state.rounds.addresses.get(&rank).copied();
    // The others have the old address already: this worker died after all had met.
    if known.is_some_and(|known| known != address) && is_complete(&state.rounds, workers) {
        return match advance(state, step) {
            Ask::Current => Ask::Other(state.rounds.number),
            other => other,
        };
    }
    state.rounds.addresses.insert(rank, address);
    Ask::Current
}

/// Whether all ranks have joined.
#[must_use]
pub fn is_complete(rounds: &Rounds, workers: i64) -> bool {
    (0..workers).all(|rank| rounds.addresses.contains_key(&rank))
}

/// What became of a wish to bind a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// It is bound from now on.
    New,
    /// It was bound before.
    Same,
    /// Another one is, for as long as the attempt lasts.
    Other,
}

/// Binds a key (SPKI in PEM, one spelling a key) to a rank of the current attempt.
pub fn bind(state: &mut UnitState, rank: i64, key: &str) -> Bound {
    begin(state, 0);
    match state.rounds.keys.get(&rank) {
        None => {
            state.rounds.keys.insert(rank, key.to_owned());
            Bound::New
        }
        Some(known) if known == key => Bound::Same,
        Some(_) => Bound::Other,
    }
}

/// The key bound to a rank of this attempt.
#[must_use]
pub fn bound(rounds: &Rounds, attempt: i64, rank: i64) -> Option<PublicKey> {
    let pem = (rounds.attempt == attempt).then(|| rounds.keys.get(&rank))??;
    PublicKey::from_pem(pem).ok()
}

/// Where the round starts.
#[must_use]
pub fn start(rounds: &Rounds) -> Option<CheckpointRef> {
    rounds.start
}

/// The round's key, 64 hex digits: a function of the agent's secret and of what the round is, so it need not be kept.
#[must_use]
pub fn key(secret: &[u8; 32], state: &UnitState) -> String {
    // A key of any length is good for HMAC.
    let Ok(mut mac) = <Hmac<Sha256> as KeyInit>::new_from_slice(secret) else { return String::new() };
    let parts = [
        "muster.round/1".to_owned(),
        state.uid.clone(),
        state.rounds.attempt.to_string(),
        state.rounds.number.to_string(),
    ];
    for part in parts {
        mac.update(&(part.len() as u64).to_le_bytes());
        mac.update(part.as_bytes());
    }
    muster_proof::Digest::from_bytes(mac.finalize().into_bytes().into()).to_hex()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::testing::payload;

    fn unit() -> UnitState {
        let mut state = UnitState { uid: "u".to_owned(), payload: Some(payload()), ..UnitState::default() };
        state.memory.attempt = 1;
        state
    }

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], port))
    }

    #[test]
    fn the_next_round_begins_when_asked_for_and_all_follow() {
        let mut state = unit();
        assert_eq!(ask(&mut state, 1, 0), Ask::Current);
        assert_eq!(join(&mut state, 1, 0, address(1), 0), Ask::Current);
        assert!(!is_complete(&state.rounds, 2));
        assert_eq!(join(&mut state, 1, 1, address(2), 0), Ask::Current);
        assert!(is_complete(&state.rounds, 2));
        let first = key(&[7; 32], &state);
        // Rank 1's worker died at step 5, then rank 0 follows.
        assert_eq!(ask(&mut state, 2, 5), Ask::Current);
        assert_eq!(ask(&mut state, 2, 5), Ask::Current);
        assert_eq!(join(&mut state, 1, 0, address(1), 5), Ask::Other(2));
        assert!(state.rounds.addresses.is_empty());
        assert_ne!(key(&[7; 32], &state), first);
        assert_ne!(key(&[8; 32], &state), key(&[7; 32], &state));
        assert_eq!(ask(&mut state, 9, 5), Ask::Other(2));
        assert_eq!(ask(&mut state, 1, 5), Ask::Other(2));
    }

    #[test]
    fn a_new_attempt_begins_at_round_one() {
        let mut state = unit();
        ask(&mut state, 1, 0);
        ask(&mut state, 2, 5);
        state.memory.attempt = 2;
        assert_eq!(ask(&mut state, 2, 5), Ask::Current, "a pod that skips ahead begins the second round");
        assert_eq!((state.rounds.attempt, state.rounds.number), (2, 2));
        state.memory.attempt = 3;
        assert_eq!(ask(&mut state, 1, 5), Ask::Current);
        assert_eq!(state.rounds.number, 1);
    }

    #[test]
    fn a_worker_that_died_after_all_had_met_begins_another_round() {
        let mut state = unit();
        join(&mut state, 1, 0, address(1), 0);
        assert_eq!(join(&mut state, 1, 0, address(3), 0), Ask::Current, "not all had met");
        join(&mut state, 1, 1, address(2), 0);
        assert_eq!(join(&mut state, 1, 1, address(2), 0), Ask::Current, "the answer was lost");
        assert_eq!(join(&mut state, 1, 1, address(4), 0), Ask::Other(2));
    }

    #[test]
    fn a_key_is_bound_once_and_for_its_attempt() {
        let pem =
            |seed| muster_proof::key::SigningKey::generate([seed; 32]).unwrap().public().to_pem().unwrap();
        let mut state = unit();
        assert_eq!(bound(&state.rounds, 1, 0), None);
        assert_eq!(bind(&mut state, 0, &pem(7)), Bound::New);
        assert_eq!(bind(&mut state, 0, &pem(7)), Bound::Same);
        assert_eq!(bind(&mut state, 0, &pem(8)), Bound::Other);
        assert_eq!(bind(&mut state, 1, &pem(8)), Bound::New);
        // Rounds come and go within the attempt.
        ask(&mut state, 2, 5);
        assert_eq!(bound(&state.rounds, 1, 0).and_then(|key| key.to_pem().ok()), Some(pem(7)));
        assert_eq!(bound(&state.rounds, 2, 0), None);
        state.memory.attempt = 2;
        assert_eq!(bind(&mut state, 0, &pem(8)), Bound::New, "its pods are others");
    }

    #[test]
    fn a_crash_loop_is_an_end() {
        let mut state = unit();
        let mut rounds = 1;
        while ask(&mut state, rounds, 0) == Ask::Current {
            rounds += 1;
        }
        assert_eq!(rounds, 6);
        assert!(crash_loop(&state.rounds).is_some());
        assert_eq!(ask(&mut state, 5, 0), Ask::Over);
        let mut state = unit();
        for round in 1..50 {
            assert_eq!(
                ask(&mut state, round, i64::from(round)),
                Ask::Current,
                "with steps between it may go on"
            );
        }
    }
}
