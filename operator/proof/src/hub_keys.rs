//! The keys that sign a hub's envelopes, and how they change (docs/spec/gateway.md section 5): a chain of signed sets, each
//! handed on by a key of the one before. Whoever has accepted one set can accept every later one, whoever brings it.

use serde::{Deserialize, Serialize};

use crate::dsse::{self, Envelope};
use crate::jcs;
use crate::key::{PublicKey, SigningKey};

/// DSSE payload type.
pub const PAYLOAD_TYPE: &str = "application/vnd.muster.hubkeys.v1+json";
/// The value of `format`.
pub const FORMAT: &str = "muster.hubkeys/1";
/// Most keys of a set.
pub const MAX_KEYS: usize = 4;
/// Most sets of a chain: older ones are dropped from its beginning.
pub const MAX_SETS: usize = 16;

/// A set that was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeySet {
    serial: u64,
    keys: Vec<PublicKey>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Payload {
    format: String,
    serial: u64,
    keys: Vec<String>,
}

/// Why a chain is not believed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No or too many sets.
    #[error("a chain of the hub's keys has 1 to {MAX_SETS} sets, this has {0}")]
    Length(usize),
    /// An envelope is not one, or nobody who is trusted signed it.
    #[error("set {index} of the hub's keys: {source}")]
    Envelope {
        /// Which, from 0.
        index: usize,
        /// Why.
        source: dsse::Error,
    },
    /// Signed, but not a set.
    #[error("set {index} of the hub's keys: {what}")]
    Content {
        /// Which, from 0.
        index: usize,
        /// Why.
        what: String,
    },
    /// The chain begins after the set that is known here.
    #[error(
        "the hub's keys were changed too often since this agent last heard of them (it knows set {known}, the chain begins \
         with {first}); join again with a new token"
    )]
    Gap {
        /// Serial of the set that is known.
        known: u64,
        /// Serial of the chain's first.
        first: u64,
    },
    /// The chain ends before the set that is known, or has another set in its place.
    #[error(
        "the hub's keys went back from set {known} to {last}; the hub was restored from an old backup of its keys"
    )]
    Rollback {
        /// Serial of the set that is known.
        known: u64,
        /// Serial of the chain's last.
        last: u64,
    },
}

impl KeySet {
    /// A set that was accepted before and kept where nobody else writes; believed as it comes.
    ///
    /// # Errors
    /// [`Error::Content`] if no chain could have had it.
    pub fn kept(serial: u64, keys: Vec<PublicKey>) -> Result<Self, Error> {
        if serial == 0 || serial >= 1 << 53 || keys.is_empty() || keys.len() > MAX_KEYS {
            let what = format!("serial {serial} with {} keys is no set", keys.len());
            return Err(Error::Content { index: 0, what });
        }
        Ok(Self { serial, keys })
    }

    /// Serial number, from 1.
    #[must_use]
    pub fn serial(&self) -> u64 {
        self.serial
    }

    /// Keys whose envelopes are believed.
    #[must_use]
    pub fn keys(&self) -> &[PublicKey] {
        &self.keys
    }
}

/// Signs the set `serial` of `keys` with `signer`: a key of the set itself if it is the first, else one of the set before.
///
/// # Errors
/// [`Error::Content`] for no or too many keys.
pub fn sign(serial: u64, keys: &[&PublicKey], signer: &SigningKey) -> Result<Envelope, Error> {
    let content = |what: String| Error::Content { index: 0, what };
    let texts: Result<Vec<_>, _> = keys.iter().map(|key| key.to_pem()).collect();
    let keys = texts.map_err(|error| content(error.to_string()))?;
    if keys.is_empty() || keys.len() > MAX_KEYS {
        return Err(content(format!("a set has 1 to {MAX_KEYS} keys, not {}", keys.len())));
    }
    let payload = Payload { format: FORMAT.to_owned(), serial, keys };
    let bytes = jcs::serialize(&payload).map_err(|error| content(error.to_string()))?;
    Envelope::sign(PAYLOAD_TYPE, &bytes, signer).map_err(|source| Error::Envelope { index: 0, source })
}

/// Checks a whole chain, whose first set is believed as it comes: signed by a key of its own. For a hub's own file, and for
/// an agent that joins through a connection it trusts.
///
/// # Errors
/// [`Error`].
pub fn trust_first(chain: &[Envelope]) -> Result<KeySet, Error> {
    let first = chain.first().filter(|_| chain.len() <= MAX_SETS).ok_or(Error::Length(chain.len()))?;
    let claimed = parse(0, first.unverified_payload())?;
    let set = verify(0, first, &claimed.keys)?;
    follow(1, &chain[1..], set)
}

/// The newest set of a chain, for somebody who has accepted `known` before.
///
/// # Errors
/// [`Error`]; then `known` stays.
pub fn advance(known: &KeySet, chain: &[Envelope]) -> Result<KeySet, Error> {
    if chain.is_empty() || chain.len() > MAX_SETS {
        return Err(Error::Length(chain.len()));
    }
    let sets: Result<Vec<_>, _> = chain
        .iter()
        .enumerate()
        .map(|(index, envelope)| parse(index, envelope.unverified_payload()))
        .collect();
    let sets = sets?;
    let (first, last) = (sets[0].serial, sets[sets.len() - 1].serial);
    // The set we know must be there, or its successor be the first: nothing between is taken on trust.
    match sets.iter().position(|set| set.serial == known.serial) {
        Some(at) if sets[at] == *known => follow(at + 1, &chain[at + 1..], known.clone()),
        None if first == known.serial.saturating_add(1) => follow(0, chain, known.clone()),
        None if first > known.serial => Err(Error::Gap { known: known.serial, first }),
        _ => Err(Error::Rollback { known: known.serial, last }),
    }
}

/// Reads one set whose signature is **not verified**: which keys it names, for somebody who knows of another place to check
/// the chain, such as a fold over the log.
///
/// # Errors
/// [`Error::Content`].
pub fn read(payload: &[u8]) -> Result<KeySet, Error> {
    parse(0, payload)
}

fn follow(offset: usize, chain: &[Envelope], mut set: KeySet) -> Result<KeySet, Error> {
    for (index, envelope) in chain.iter().enumerate() {
        let index = index + offset;
        let next = verify(index, envelope, &set.keys)?;
        if next.serial != set.serial + 1 {
            let what = format!("serial {} follows {}", next.serial, set.serial);
            return Err(Error::Content { index, what });
        }
        set = next;
    }
    Ok(set)
}

fn verify(index: usize, envelope: &Envelope, trusted: &[PublicKey]) -> Result<KeySet, Error> {
    let verified =
        envelope.verify(PAYLOAD_TYPE, trusted).map_err(|source| Error::Envelope { index, source })?;
    parse(index, verified.payload())
}

fn parse(index: usize, payload: &[u8]) -> Result<KeySet, Error> {
    let content = |what: String| Error::Content { index, what };
    let payload: Payload = jcs::deserialize_canonical(payload).map_err(|error| content(error.to_string()))?;
    if payload.format != FORMAT {
        return Err(content(format!("format is {:?}, this version knows {FORMAT:?}", payload.format)));
    }
    if payload.serial == 0 || payload.serial >= 1 << 53 {
        return Err(content("serial is out of range".to_owned()));
    }
    if payload.keys.is_empty() || payload.keys.len() > MAX_KEYS {
        return Err(content(format!("a set has 1 to {MAX_KEYS} keys, not {}", payload.keys.len())));
    }
    let keys: Result<Vec<_>, _> = payload.keys.iter().map(|pem| PublicKey::from_pem(pem)).collect();
    Ok(KeySet { serial: payload.serial, keys: keys.map_err(|error| content(error.to_string()))? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seed: u8) -> SigningKey {
        SigningKey::generate([seed; 32]).unwrap()
    }

    fn chain() -> (Vec<SigningKey>, Vec<Envelope>) {
        let keys: Vec<_> = (1..=3).map(key).collect();
        let public = |at: &[usize]| at.iter().map(|&i| keys[i].public()).collect::<Vec<_>>();
        let sets = vec![
            sign(1, &public(&[0]), &keys[0]).unwrap(),
            sign(2, &public(&[0, 1]), &keys[0]).unwrap(),
            sign(3, &public(&[1]), &keys[1]).unwrap(),
        ];
        (keys, sets)
    }

    #[test]
    fn an_agent_that_slept_through_a_rotation_follows() {
        let (keys, sets) = chain();
        let known = trust_first(&sets[..1]).unwrap();
        let newest = advance(&known, &sets).unwrap();
        assert_eq!((newest.serial(), newest.keys()), (3, &[keys[1].public().clone()][..]));
        assert_eq!(advance(&known, &sets[1..]).unwrap(), newest, "the chain was cut behind us");
        assert_eq!(advance(&newest, &sets).unwrap(), newest);
        assert_eq!(trust_first(&sets).unwrap(), newest);
    }

    #[test]
    fn nobody_else_hands_on_a_key() {
        let (keys, sets) = chain();
        let known = trust_first(&sets[..1]).unwrap();
        let stranger = key(9);
        let forged = sign(2, &[stranger.public()], &stranger).unwrap();
        assert!(matches!(
            advance(&known, &[sets[0].clone(), forged.clone()]),
            Err(Error::Envelope { index: 1, .. })
        ));
        // Not even the first set, once one is known.
        let own = sign(1, &[stranger.public()], &stranger).unwrap();
        assert!(matches!(advance(&known, &[own]), Err(Error::Rollback { .. })));
        // A retired key signs nothing more.
        let newest = advance(&known, &sets).unwrap();
        let late = sign(4, &[keys[0].public()], &keys[0]).unwrap();
        assert!(advance(&newest, &[late]).is_err());
    }

    #[test]
    fn gaps_rollbacks_and_empty_chains_are_told_apart() {
        let (keys, sets) = chain();
        let known = trust_first(&sets[..1]).unwrap();
        assert!(matches!(advance(&known, &sets[2..]), Err(Error::Gap { known: 1, first: 3 })));
        let newest = advance(&known, &sets).unwrap();
        assert!(matches!(advance(&newest, &sets[..2]), Err(Error::Rollback { known: 3, last: 2 })));
        assert!(matches!(advance(&known, &[]), Err(Error::Length(0))));
        assert!(matches!(trust_first(&[]), Err(Error::Length(0))));
        let many: Vec<_> = std::iter::repeat_n(sets[0].clone(), MAX_SETS + 1).collect();
        assert!(matches!(trust_first(&many), Err(Error::Length(17))));
        let skipped = [sets[0].clone(), sign(3, &[keys[0].public()], &keys[0]).unwrap()];
        assert!(matches!(advance(&known, &skipped), Err(Error::Content { index: 1, .. })));
    }
}
