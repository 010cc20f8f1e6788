//! The handshake: who is there, and does it hold the run's key?
//!
//! ```text
//! hello = "muster.peer/1" || u32 rank || u32 workers || u64 start step || 32 training digest || 32 nonce
//! proof = HMAC-SHA-256(key, "proof" || hello of the prover || hello of the verifier)
//! session key = HMAC-SHA-256(key, "session" || hello of the higher rank || hello of the lower rank)
//! ```
//!
//! Integers are little-endian. Both ends send hello, then proof. The verifier's nonce is fresh, so a proof cannot
//! be replayed; the ranks are in it and differ, so it cannot be sent back. Only after the proof are the fields of
//! the hello believed and compared.

use std::io::{self, Read, Write};

use hmac::{Hmac, KeyInit as _, Mac as _};
use muster_proof::Digest;
use sha2::Sha256;

use super::Error;

const MAGIC: &[u8; 13] = b"muster.peer/1";
const HELLO: usize = 13 + 4 + 4 + 8 + 32 + 32;

/// The 32-byte key of a run, known to its workers and their parents.
#[derive(Clone)]
pub struct Key([u8; 32]);

impl Key {
    /// The key with these bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The key of 64 hex digits; `None` for anything else.
    pub fn from_hex(hex: &str) -> Option<Self> {
        // A digest is the other 32-byte thing with one spelling.
        Digest::from_hex(hex).ok().map(|digest| Self(*digest.as_bytes()))
    }

    pub(super) fn mac(&self, parts: &[&[u8]]) -> Hmac<Sha256> {
        // RFC 2104: a key shorter than SHA-256's block is padded with zeros.
        let mut block = [0; 64];
        block[..32].copy_from_slice(&self.0);
        let mut mac = Hmac::<Sha256>::new(&block.into());
        for part in parts {
            mac.update(part);
        }
        mac
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(..)")
    }
}

/// What all workers of a run must agree on, and which of them this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// This worker.
    pub rank: u32,
    /// How many there are.
    pub workers: u32,
    /// The state the run starts from.
    pub step: u64,
    /// What is trained.
    pub training_digest: Digest,
}

/// Why a stranger is not a peer.
#[derive(Debug)]
pub(super) enum Refused {
    /// Not even a stranger: nothing came, or the connection broke.
    Io(io::Error),
    /// No worker of this run.
    NotProven(&'static str),
    /// A worker of this run that runs something else: a defect of the parent that the person must see.
    Differs(Error),
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// A proven peer.
#[derive(Debug)]
pub(super) struct Peer {
    pub rank: u32,
    pub session: Key,
}

/// Shakes hands over a fresh connection. `expect` is the rank that must be on the other side, when we called it.
/// The caller has set timeouts on the stream.
pub(super) fn shake<S: Read + Write>(
    stream: &mut S,
    key: &Key,
    me: &Identity,
    expect: Option<u32>,
) -> Result<Peer, Refused> {
    let mut nonce = [0; 32];
    getrandom::fill(&mut nonce).map_err(|error| io::Error::other(error.to_string()))?;
    let mine = hello(me, &nonce);
    stream.write_all(&mine)?;
    stream.flush()?;
    let mut theirs = [0; HELLO];
    stream.read_exact(&mut theirs)?;
    if !theirs.starts_with(MAGIC) {
        return Err(Refused::NotProven("it does not speak this protocol"));
    }
    let (rank, workers, step) = (u32_at(&theirs, 13), u32_at(&theirs, 17), u64_at(&theirs, 21));
    // Before the proof: an echo of our own hello must not get our proof for itself.
    if rank == me.rank {
        return Err(Refused::NotProven("it claims to be this worker"));
    }
    stream.write_all(&key.mac(&[b"proof", &mine, &theirs]).finalize().into_bytes())?;
    stream.flush()?;
    let mut proof = [0; 32];
    stream.read_exact(&mut proof)?;
    if key.mac(&[b"proof", &theirs, &mine]).verify_slice(&proof).is_err() {
        return Err(Refused::NotProven("it does not hold this run's key"));
    }

    let differs = |what| Err(Refused::Differs(Error::Differs { rank, what }));
    if workers != me.workers {
        return differs("number of workers");
    }
    if theirs[29..61] != me.training_digest.as_bytes()[..] {
        return differs("training digest");
    }
    if step != me.step {
        return differs("start step");
    }
    if rank >= me.workers
        || expect.is_some_and(|expect| expect != rank)
        || (expect.is_none() && rank < me.rank)
    {
        return Err(Refused::NotProven("it has the rank of another worker"));
    }
    let (high, low) = if rank > me.rank { (&theirs, &mine) } else { (&mine, &theirs) };
    let session = Key(key.mac(&[b"session", high, low]).finalize().into_bytes().into());
    Ok(Peer { rank, session })
}

fn hello(me: &Identity, nonce: &[u8; 32]) -> [u8; HELLO] {
    let mut bytes = [0; HELLO];
    bytes[..13].copy_from_slice(MAGIC);
    bytes[13..17].copy_from_slice(&me.rank.to_le_bytes());
    bytes[17..21].copy_from_slice(&me.workers.to_le_bytes());
    bytes[21..29].copy_from_slice(&me.step.to_le_bytes());
    bytes[29..61].copy_from_slice(me.training_digest.as_bytes());
    bytes[61..].copy_from_slice(nonce);
    bytes
}

fn u32_at(bytes: &[u8; HELLO], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8; HELLO], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
