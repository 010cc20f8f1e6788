//! The signed list of a round's workers: who listens where, with which key (`docs/spec/protocol.md` section 3).
//!
//! The agent's relay signs it with the key of its CA, which every pod pins, so what a worker believes of its peers does not
//! rest on the connection that brought the list.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use muster_proof::Digest;
use muster_proof::dsse::{self, Envelope};
use muster_proof::key::{PublicKey, SigningKey};
use serde::{Deserialize, Serialize};

use crate::protocol::Peer;

/// DSSE payload type of a list.
pub const PAYLOAD_TYPE: &str = "application/vnd.muster.peers.v1+json";
/// Its `format`.
pub const FORMAT: &str = "muster.peers/1";

/// The payload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerList {
    /// [`FORMAT`].
    pub format: String,
    /// Name of the WorkUnit.
    pub unit: String,
    /// Attempt at the unit.
    pub attempt: u32,
    /// Round of the attempt.
    pub round: u32,
    /// Index = rank.
    pub peers: Vec<Peer>,
}

/// What the list of a pod must say.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    /// Name of the WorkUnit.
    pub unit: &'a str,
    /// Attempt at the unit.
    pub attempt: u32,
    /// Round of the attempt.
    pub round: u32,
    /// How many workers there are.
    pub workers: u32,
    /// Which of them asks.
    pub rank: u32,
    /// Where that one listens.
    pub address: SocketAddr,
    /// The key that it made.
    pub key: Digest,
}

/// Why a list is not believed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Not signed by the relay, or no list.
    #[error("{0}")]
    Envelope(#[from] dsse::Error),
    /// Signed, but not what this pod asked for.
    #[error("{0}")]
    Content(String),
}

/// Signs a list.
///
/// # Errors
/// [`dsse::Error`] for one that is too large.
pub fn sign(list: &PeerList, key: &SigningKey) -> Result<Envelope, dsse::Error> {
    Envelope::sign_json(PAYLOAD_TYPE, list, key)
}

/// The peers of a list that one of `trusted` has signed for exactly this worker's round.
///
/// # Errors
/// [`Error`].
pub fn open(envelope: &Envelope, trusted: &[PublicKey], expected: &Expected<'_>) -> Result<Vec<Peer>, Error> {
    let list: PeerList = envelope.verify(PAYLOAD_TYPE, trusted)?.parse()?;
    let wrong = |field: &str, want: &dyn std::fmt::Display| {
        Err(Error::Content(format!("{field} is not {want}, the list is for another")))
    };
    if list.format != FORMAT {
        return wrong("format", &FORMAT);
    }
    if list.unit != expected.unit {
        return wrong("unit", &expected.unit);
    }
    if list.attempt != expected.attempt {
        return wrong("attempt", &expected.attempt);
    }
    if list.round != expected.round {
        return wrong("round", &expected.round);
    }
    check(&list.peers, expected.workers, expected.rank, expected.key).map_err(Error::Content)?;
    let own = list.peers.get(expected.rank as usize);
    if own.is_none_or(|own| own.address != expected.address) {
        return Err(Error::Content(format!(
            "peers: another address for this worker, rank {}",
            expected.rank
        )));
    }
    Ok(list.peers)
}

/// Whether a list of peers is one that the worker `rank` of the key `own` can be part of; what is wrong with it.
pub(crate) fn check(peers: &[Peer], workers: u32, rank: u32, own: Digest) -> Result<(), String> {
    if peers.len() != workers as usize {
        return Err(format!("{} peers for {workers} workers", peers.len()));
    }
    if peers.get(rank as usize).is_none_or(|peer| peer.key != own) {
        return Err(format!("another key for this worker, rank {rank}"));
    }
    let keys: BTreeSet<_> = peers.iter().map(|peer| peer.key).collect();
    if keys.len() != peers.len() {
        return Err("two workers with one key".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Command, Joined, MAX_BODY, MAX_LINE};

    fn key(seed: u8) -> SigningKey {
        SigningKey::generate([seed; 32]).unwrap()
    }

    fn peer(rank: u16) -> Peer {
        Peer { address: SocketAddr::from(([10, 0, 0, 1], 1000 + rank)), key: Digest::of(&rank.to_le_bytes()) }
    }

    fn list() -> PeerList {
        PeerList {
            format: FORMAT.into(),
            unit: "4f2a9c1b-0-1".into(),
            attempt: 1,
            round: 2,
            peers: vec![peer(0), peer(1)],
        }
    }

    fn opened(list: &PeerList, signer: &SigningKey) -> Result<Vec<Peer>, Error> {
        let Peer { address, key: own } = peer(1);
        let expected =
            Expected { unit: "4f2a9c1b-0-1", attempt: 1, round: 2, workers: 2, rank: 1, address, key: own };
        open(&sign(list, signer).unwrap(), &[key(7).public().clone()], &expected)
    }

    #[test]
    fn a_list_is_believed_by_its_own_round_only() {
        assert_eq!(opened(&list(), &key(7)).unwrap(), [peer(0), peer(1)]);
        assert!(matches!(opened(&list(), &key(8)), Err(Error::Envelope(dsse::Error::UnknownKey(_)))));
        type Change = fn(&mut PeerList);
        let changes: [(&str, Change); 9] = [
            ("format", |list| list.format = "muster.peers/2".into()),
            ("unit", |list| list.unit = "4f2a9c1b-0-2".into()),
            ("attempt", |list| list.attempt = 2),
            ("round", |list| list.round = 1),
            ("3 peers for 2", |list| list.peers.push(peer(2))),
            ("1 peers for 2", |list| list.peers.truncate(1)),
            ("another key", |list| list.peers[1].key = peer(2).key),
            ("another address", |list| list.peers[1].address = peer(2).address),
            ("one key", |list| list.peers[0].key = peer(1).key),
        ];
        for (what, change) in changes {
            let mut list = list();
            change(&mut list);
            let error = opened(&list, &key(7)).unwrap_err().to_string();
            assert!(error.contains(what), "{what}: {error}");
        }
    }

    /// The largest job's list fits everywhere it has to go.
    #[test]
    fn lists_of_256_workers_fit() {
        let address = "[2001:db8:1000:2000:3000:4000:5000:6000]:65535".parse().unwrap();
        let mut list = list();
        list.peers = (0..256).map(|rank| Peer { address, ..peer(rank) }).collect();
        let joined = Joined { peers: sign(&list, &key(7)).unwrap() };
        assert!(serde_json::to_vec(&joined).unwrap().len() < MAX_BODY);
        let line = serde_json::to_string(&Command::Peers { peers: list.peers }).unwrap();
        assert!(line.len() < MAX_LINE);
    }
}
