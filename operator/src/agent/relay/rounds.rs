//! Rounds: how the workers of an attempt find each other, and start from the same state.
//!
//! A round is one start of all workers. Who asks for the next number begins it, for its worker process died; the
//! others lose their peer, ask in turn, and are told. The start checkpoint and the list of peers belong to the round. All of
//! it is durable before it is answered, so an agent that starts again changes nothing for workers that run.
use muster_core::envelope::CheckpointRef;
use muster_proof::key::PublicKey;
use muster_trainer::peers::{FORMAT, PeerList};
use muster_trainer::protocol::Peer;

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
    /// The key is that of another rank, this one.
    Taken(i64),
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
    rounds.peers.clear();
    Ask::Current
}

/// Set when worker processes died too often in a row without a step.
#[must_use]
pub fn crash_loop(rounds: &Rounds) -> Option<String> {
    (rounds.barren >= MAX_BARREN)
        .then(|| format!("worker processes died {} times in a row before a first step", rounds.barren))
}

/// A worker of the current round is `peer`. `Current` once that is recorded.
pub fn join(state: &mut UnitState, wanted: u32, rank: i64, peer: Peer, step: i64) -> Ask {
    match ask(state, wanted, step) {
        Ask::Current => {}
        other => return other,
    }
    let workers = state.payload.as_ref().map_or(0, |payload| payload.workers);
    // Keys are public, and a list with one key twice is of no use to anybody.
    if let Some((other, _)) = state.rounds.peers.iter().find(|(r, p)| **r != rank && p.key == peer.key) {
        return Ask::Taken(*other);
    }
    let known = state.rounds.peers.get(&rank).copied();
    // The others have the old one already: this worker died after all had met.
    if known.is_some_and(|known| known != peer) && is_complete(&state.rounds, workers) {
        return match advance(state, step) {
            Ask::Current => Ask::Other(state.rounds.number),
            other => other,
        };
    }
    state.rounds.peers.insert(rank, peer);
    Ask::Current
}

/// Whether all ranks have joined.
#[must_use]
pub fn is_complete(rounds: &Rounds, workers: i64) -> bool {
    (0..workers).all(|rank| rounds.peers.contains_key(&rank))
}

/// What all workers of the round are told of each other, once all have joined. `unit` is the one that the attempt was made
/// for, which another may continue meanwhile: an attempt has one name from its first round to its last.
#[must_use]
pub fn list(state: &UnitState, unit: &str) -> Option<PeerList> {
    let (payload, rounds) = (state.payload.as_ref()?, &state.rounds);
    is_complete(rounds, payload.workers).then_some(())?;
    Some(PeerList {
        format: FORMAT.to_owned(),
        unit: unit.to_owned(),
        attempt: u32::try_from(rounds.attempt).ok()?,
        round: rounds.number,
        peers: rounds.peers.values().copied().collect(),
    })
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

#[cfg(test)]
mod tests {
    use muster_proof::Digest;

    use super::*;
    use crate::agent::testing::payload;

    fn unit() -> UnitState {
        let mut state = UnitState { uid: "u".to_owned(), payload: Some(payload()), ..UnitState::default() };
        state.memory.attempt = 1;
        state
    }

    /// A process: another port, another key.
    fn peer(port: u16) -> Peer {
        Peer { address: ([10, 0, 0, 1], port).into(), key: Digest::of(&port.to_le_bytes()) }
    }

    #[test]
    fn the_next_round_begins_when_asked_for_and_all_follow() {
        let mut state = unit();
        assert_eq!(ask(&mut state, 1, 0), Ask::Current);
        assert_eq!(join(&mut state, 1, 0, peer(1), 0), Ask::Current);
        assert!(!is_complete(&state.rounds, 2));
        assert_eq!(join(&mut state, 1, 1, peer(2), 0), Ask::Current);
        assert!(is_complete(&state.rounds, 2));
        let first = list(&state, "4f2a9c1b-0-1").unwrap();
        assert_eq!((first.attempt, first.round, &first.peers[..]), (1, 1, &[peer(1), peer(2)][..]));
        // Rank 1's worker died at step 5, then rank 0 follows.
        assert_eq!(ask(&mut state, 2, 5), Ask::Current);
        assert_eq!(ask(&mut state, 2, 5), Ask::Current);
        assert_eq!(join(&mut state, 1, 0, peer(1), 5), Ask::Other(2));
        assert!(state.rounds.peers.is_empty());
        assert_eq!(list(&state, "4f2a9c1b-0-1"), None);
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
        join(&mut state, 1, 0, peer(1), 0);
        assert_eq!(join(&mut state, 1, 0, peer(3), 0), Ask::Current, "not all had met");
        join(&mut state, 1, 1, peer(2), 0);
        assert_eq!(join(&mut state, 1, 1, peer(2), 0), Ask::Current, "the answer was lost");
        assert_eq!(join(&mut state, 1, 1, peer(4), 0), Ask::Other(2));
        // Another process may get the same port; its key is another.
        join(&mut state, 2, 0, peer(3), 0);
        join(&mut state, 2, 1, peer(4), 0);
        assert_eq!(join(&mut state, 2, 1, Peer { key: peer(5).key, ..peer(4) }, 0), Ask::Other(3));
    }

    #[test]
    fn a_key_is_one_ranks() {
        let mut state = unit();
        join(&mut state, 1, 0, peer(1), 0);
        assert_eq!(join(&mut state, 1, 1, Peer { key: peer(1).key, ..peer(2) }, 0), Ask::Taken(0));
        assert_eq!(state.rounds.peers.len(), 1);
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
