//! The signing key and the chain of key sets, and how they change together.
//!
//! What must always hold: `signing.key` is a key of the newest set in `keys.json`. No two files change at once, so a
//! rotation is three writes in this order, each durable before the next:
//!
//! 1. the new private key, as `next.key`; the chain does not know it yet;
//! 2. the chain, with a set that has the old and the new key; `signing.key` is still the old one, which is of this set too;
//! 3. `next.key` becomes `signing.key`, by rename; the new one is of this set as well.
//!
//! Whoever opens the directory after a crash finishes what the chain has announced (after 2) or drops what it has not
//! (after 1). Retiring the old keys is one write: `signing.key` is of both sets.
//!
//! Each set is signed by a key that is both in it and in the set before. So any set may become the first of the chain when
//! it grows too long, and an agent that knows none can check it alone.
use std::path::Path;

use muster_core::hub_keys::{self, KeySet, MAX_KEYS, MAX_SETS};
use muster_proof::Digest;
use muster_proof::dsse::Envelope;
use muster_proof::key::{PublicKey, SigningKey};

use super::StateError;
use crate::runtime::files::{Access, read_if_there, sync_dir, write_atomic};

const SIGNING: &str = "signing.key";
const NEXT: &str = "next.key";
const CHAIN: &str = "keys.json";
/// 16 sets of 4 keys have below 40 KB.
const MAX_CHAIN_BYTES: u64 = 1 << 18;

/// Keys that belong together: the signer is of the newest set.
#[derive(Debug, Clone)]
pub struct Keys {
    signer: SigningKey,
    chain: Vec<Envelope>,
    set: KeySet,
}

/// By what they are, not by who can sign: the private key follows from the public one.
impl PartialEq for Keys {
    fn eq(&self, other: &Self) -> bool {
        self.signer.key_id() == other.signer.key_id() && self.chain == other.chain
    }
}

/// What a rotation does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// A new key, with which the hub signs from then on; the old ones are still believed.
    Add,
    /// No key but the one that signs now is believed any more.
    Retire,
}

impl Keys {
    /// Signs WorkUnits.
    #[must_use]
    pub fn signer(&self) -> &SigningKey {
        &self.signer
    }

    /// All sets, oldest first.
    #[must_use]
    pub fn chain(&self) -> &[Envelope] {
        &self.chain
    }

    /// The newest set.
    #[must_use]
    pub fn set(&self) -> &KeySet {
        &self.set
    }

    fn new(signer: SigningKey, chain: Vec<Envelope>) -> Result<Self, StateError> {
        let set = hub_keys::trust_first(&chain)?;
        if set.keys().contains(signer.public()) {
            return Ok(Self { signer, chain, set });
        }
        let problem = format!("has key {}, which is not of set {} in {CHAIN}", signer.key_id(), set.serial());
        Err(StateError::Damaged { file: SIGNING, problem })
    }

    /// The chain with one set more, and without the oldest if it grows too long.
    fn followed_by(&self, keys: &[&PublicKey]) -> Result<Vec<Envelope>, StateError> {
        let next = hub_keys::sign(self.set.serial() + 1, keys, &self.signer)?;
        let mut chain = self.chain.clone();
        chain.push(next);
        let surplus = chain.len().saturating_sub(MAX_SETS);
        Ok(chain.split_off(surplus))
    }
}

/// Whether a hub has its key there.
pub(super) fn exist(dir: &Path) -> bool {
    dir.join(SIGNING).exists()
}

/// Whether a hub of this version has run there.
pub(super) fn chain_exists(dir: &Path) -> bool {
    dir.join(CHAIN).exists()
}

/// Reads the keys; makes them on the first start; ends what a crash cut short.
pub(super) fn open(dir: &Path) -> Result<Keys, StateError> {
    let chain = read_chain(dir)?;
    let signer = read_key(dir, SIGNING)?;
    let (signer, chain) = match (signer, chain) {
        (Some(signer), Some(chain)) => (signer, chain),
        (signer, None) => {
            // The key first: a chain without its key would be the end of this hub.
            let signer = match signer {
                Some(signer) => signer,
                None => {
                    let signer = draw()?;
                    write_key(dir, SIGNING, &signer)?;
                    signer
                }
            };
            let chain = vec![hub_keys::sign(1, &[signer.public()], &signer)?];
            Write::Chain(&chain).perform(dir)?;
            (signer, chain)
        }
        (None, Some(_)) => {
            return Err(StateError::Damaged { file: SIGNING, problem: "is missing".to_owned() });
        }
    };
    let keys = Keys::new(signer, chain)?;
    match read_key(dir, NEXT)? {
        None => Ok(keys),
        Some(next) if keys.set.keys().contains(next.public()) => {
            Write::Promote.perform(dir)?;
            Keys::new(next, keys.chain)
        }
        Some(_) => {
            std::fs::remove_file(dir.join(NEXT))?;
            Ok(keys)
        }
    }
}

/// Keys as they were read last, and of which bytes.
#[derive(Debug)]
pub(super) struct Known {
    of: [Digest; 2],
    keys: Keys,
}

/// As [`open`]. What is the same as last time is not looked at again: the hub asks for its keys with every record, and signatures
/// take longer than files.
pub(super) fn reopen(dir: &Path, known: &mut Option<Known>) -> Result<Keys, StateError> {
    if let (Some(known), Some(of)) = (known.as_ref(), files(dir)?)
        && known.of == of
    {
        return Ok(known.keys.clone());
    }
    let keys = open(dir)?;
    *known = files(dir)?.map(|of| Known { of, keys: keys.clone() });
    Ok(keys)
}

/// Digests of key and chain; `None` if one is missing, or a rotation has begun.
fn files(dir: &Path) -> Result<Option<[Digest; 2]>, StateError> {
    let (key, chain) =
        (read_if_there(&dir.join(SIGNING), 4096)?, read_if_there(&dir.join(CHAIN), MAX_CHAIN_BYTES)?);
    Ok(match (key, chain, dir.join(NEXT).exists()) {
        (Some(key), Some(chain), false) => Some([Digest::of(&key), Digest::of(&chain)]),
        _ => None,
    })
}

/// See [`Change`].
pub(super) fn rotate(dir: &Path, change: Change) -> Result<Keys, StateError> {
    let keys = open(dir)?;
    let next = match change {
        Change::Add => draw()?,
        Change::Retire => keys.signer.clone(),
    };
    let chain = chain_after(&keys, change, &next)?;
    for write in plan(change, &next, &chain) {
        write.perform(dir)?;
    }
    open(dir)
}

fn chain_after(keys: &Keys, change: Change, next: &SigningKey) -> Result<Vec<Envelope>, StateError> {
    match change {
        Change::Add if keys.set.keys().len() >= MAX_KEYS => Err(StateError::TooManyKeys),
        Change::Add => {
            let all: Vec<&PublicKey> = keys.set.keys().iter().chain([next.public()]).collect();
            keys.followed_by(&all)
        }
        // Nothing to drop is no new set: doing it twice is doing it once.
        Change::Retire if keys.set.keys().len() == 1 => Ok(keys.chain.clone()),
        Change::Retire => keys.followed_by(&[keys.signer.public()]),
    }
}

/// One write of a rotation; each leaves a directory that [`open`] takes.
enum Write<'a> {
    Next(&'a SigningKey),
    Chain(&'a [Envelope]),
    Promote,
}

fn plan<'a>(change: Change, next: &'a SigningKey, chain: &'a [Envelope]) -> Vec<Write<'a>> {
    match change {
        Change::Add => vec![Write::Next(next), Write::Chain(chain), Write::Promote],
        Change::Retire => vec![Write::Chain(chain)],
    }
}

impl Write<'_> {
    fn perform(&self, dir: &Path) -> Result<(), StateError> {
        match self {
            Self::Next(key) => write_key(dir, NEXT, key),
            Self::Chain(chain) => {
                let text = serde_json::to_vec(chain).map_err(std::io::Error::other)?;
                Ok(write_atomic(&dir.join(CHAIN), &text, Access::Private)?)
            }
            Self::Promote => {
                std::fs::rename(dir.join(NEXT), dir.join(SIGNING))?;
                Ok(sync_dir(dir)?)
            }
        }
    }
}

fn draw() -> Result<SigningKey, StateError> {
    let mut random = [0; 32];
    getrandom::fill(&mut random).map_err(|error| StateError::Random(error.to_string()))?;
    SigningKey::generate(random).map_err(|source| StateError::Key { file: SIGNING, source })
}

fn write_key(dir: &Path, file: &'static str, key: &SigningKey) -> Result<(), StateError> {
    let pem = key.to_pem().map_err(|source| StateError::Key { file, source })?;
    Ok(write_atomic(&dir.join(file), pem.as_bytes(), Access::Private)?)
}

fn read_key(dir: &Path, file: &'static str) -> Result<Option<SigningKey>, StateError> {
    let Some(bytes) = read_if_there(&dir.join(file), 4096)? else { return Ok(None) };
    let key = SigningKey::from_pem(&String::from_utf8_lossy(&bytes));
    key.map(Some).map_err(|source| StateError::Key { file, source })
}

fn read_chain(dir: &Path) -> Result<Option<Vec<Envelope>>, StateError> {
    let Some(bytes) = read_if_there(&dir.join(CHAIN), MAX_CHAIN_BYTES)? else { return Ok(None) };
    let damaged = |error| StateError::Damaged { file: CHAIN, problem: format!("is damaged ({error})") };
    serde_json::from_slice(&bytes).map(Some).map_err(damaged)
}

#[cfg(test)]
mod tests;
