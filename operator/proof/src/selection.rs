//! Which interval is audited, and by whom (docs/spec/records.md, "Selection"): functions of a revealed preimage and of what
//! was logged before it.
//!
//! The hub makes a chain `h_0 = seed, h_(n+1) = H("muster.beacon/1"; h_n)` and fixes its end `h_length` in the job record.
//! Draw i reveals `h_(length-1-i)`. Whoever holds the value before checks the next with one hash; who does not know the
//! seed cannot tell the next from random bits.

use crate::Digest;
use crate::hash::{self, h};
use crate::records::fields::{OwnerName, ProviderName};
use crate::records::{Beacon, Eligible, Tier};

/// Most intervals that a draw may choose from. The number comes from 64 bits, `x mod n`: with n at most 2^13 no interval's
/// chance is off by more than a factor of 1 + n / 2^64 < 1 + 2^-50.
pub const MAX_INTERVALS: u64 = 1 << 13;
/// In so many of a provider's first intervals a window has at most [`NEW_WINDOW`].
pub const NEW_INTERVALS: u64 = 200;
/// See [`NEW_INTERVALS`].
pub const NEW_WINDOW: u64 = 10;
/// For so many intervals after a fault windows have a quarter of their size, and the provider audits nobody.
pub const FAULT_INTERVALS: u64 = 500;
/// One audit in so many has a second auditor.
pub const SECOND_IN: u64 = 5;

/// One link of the chain: `H("muster.beacon/1"; value)`.
pub fn link(value: &Digest) -> Digest {
    h(hash::BEACON, &[value.as_bytes()])
}

/// `value` after `count` links. A hub makes its anchor, and each preimage, from the seed; `count` is at most the length of
/// a chain.
pub fn links(value: &Digest, count: u64) -> Digest {
    (0..count).fold(*value, |value, _| link(&value))
}

/// A chain as its verifier knows it: what was revealed last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chain {
    last: Digest,
    drawn: u64,
    length: u64,
}

/// A preimage is not the next of its chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChainError {
    /// Another place than the next.
    #[error("index: {got} is not the next draw of this job, want {want}")]
    Index {
        /// The draw's index.
        got: u64,
        /// The next.
        want: u64,
    },
    /// All were drawn.
    #[error("index: the chain has {0} values and all are drawn")]
    UsedUp(u64),
    /// It does not lead to the value before.
    #[error("preimage: it does not hash to the value that was revealed before, or to the job's anchor")]
    Preimage,
}

impl Chain {
    /// A chain of which nothing is revealed but its anchor.
    pub const fn new(beacon: &Beacon) -> Self {
        Self { last: beacon.anchor, drawn: 0, length: beacon.length.get() }
    }

    /// How many were drawn.
    pub const fn drawn(&self) -> u64 {
        self.drawn
    }

    /// Takes the preimage of draw `index`.
    ///
    /// # Errors
    /// [`ChainError`]; the chain stays as it was.
    pub fn reveal(&mut self, index: u64, preimage: &Digest) -> Result<(), ChainError> {
        if self.drawn >= self.length {
            return Err(ChainError::UsedUp(self.length));
        }
        if index != self.drawn {
            return Err(ChainError::Index { got: index, want: self.drawn });
        }
        if link(preimage) != self.last {
            return Err(ChainError::Preimage);
        }
        (self.last, self.drawn) = (*preimage, self.drawn + 1);
        Ok(())
    }
}

/// What is known of a provider when a window begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// How many of its intervals were accepted, in the whole log.
    pub intervals: u64,
    /// How many of them since its last fault; `None` without one.
    pub since_fault: Option<u64>,
}

impl Standing {
    /// Whether its last fault is too near to be trusted with an audit.
    pub fn recent_fault(self) -> bool {
        self.since_fault.is_some_and(|since| since < FAULT_INTERVALS)
    }
}

/// How many intervals a window may have at most, whoever the provider; `None` if the job has no windows.
pub fn largest_window(tier: Tier) -> Option<u64> {
    match tier {
        Tier::None => None,
        Tier::Bronze => Some(50),
        Tier::Silver => Some(20),
        Tier::Gold => Some(5),
        Tier::Platinum => Some(1),
    }
}

/// How many intervals a window of such a provider may have; `None` if the job has no windows.
pub fn window_size(tier: Tier, standing: Standing) -> Option<u64> {
    let full = largest_window(tier)?;
    let size = if standing.recent_fault() { (full / 4).max(1) } else { full };
    Some(if standing.intervals < NEW_INTERVALS { size.min(NEW_WINDOW) } else { size })
}

/// Which of the `count` intervals of window `window` (its record id) is audited, from 0. `None` for a count that no window
/// has: 0, or above [`MAX_INTERVALS`].
pub fn drawn_interval(preimage: &Digest, window: &Digest, count: u64) -> Option<u64> {
    let number = first_u64(&h(hash::DRAW, &[preimage.as_bytes(), window.as_bytes(), b"I"]));
    (1..=MAX_INTERVALS).contains(&count).then(|| number % count)
}

/// Whether a second auditor joins the audit of draw `draw` (its record id): one in [`SECOND_IN`].
pub fn second_joins(preimage: &Digest, draw: &Digest) -> bool {
    first_u64(&h(hash::DRAW, &[preimage.as_bytes(), draw.as_bytes(), b"S"])).is_multiple_of(SECOND_IN)
}

/// The auditors in the order in which they are asked: owners by `H("muster.draw/1"; preimage, subject, "O", owner)`, then an
/// owner's providers by the same with "P" and the provider. An owner with many names is one owner, and so no more likely.
pub fn order<'a>(
    preimage: &Digest,
    subject: &Digest,
    eligible: &'a [Eligible],
) -> Vec<(&'a OwnerName, &'a ProviderName)> {
    let rank = |what: &[u8], name: &str| {
        h(hash::DRAW, &[preimage.as_bytes(), subject.as_bytes(), what, name.as_bytes()])
    };
    let mut owners: Vec<_> = eligible.iter().map(|one| (rank(b"O", one.owner.as_str()), one)).collect();
    owners.sort_unstable();
    let mut out = Vec::new();
    for (_, one) in owners {
        let mut providers: Vec<_> = one.providers.iter().map(|p| (rank(b"P", p.as_str()), p)).collect();
        providers.sort_unstable();
        out.extend(providers.into_iter().map(|(_, provider)| (&one.owner, provider)));
    }
    out
}

/// The first 8 bytes, little-endian.
fn first_u64(digest: &Digest) -> u64 {
    let bytes = digest.as_bytes().first_chunk::<8>().copied().unwrap_or_default();
    u64::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests;
