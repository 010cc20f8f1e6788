//! That an entry is in a log, in one file that is checked offline: c2sp.org/tlog-proof.
//!
//! ```text
//! c2sp.org/tlog-proof@v1
//! extra <base64>                     may be missing; nobody vouches for it
//! index <decimal>
//! <hashes of the inclusion path, a line each, base64, nearest sibling first>
//!
//! <signed checkpoint>
//! ```

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::note::MAX_NOTE;
use super::policy::{self, Accepted, Policy};
use super::{MAX_PROOF, decimal, hash_from_base64, hash_to_base64};
use crate::{Digest, merkle};

/// Most bytes of the extra data, before base64.
pub const MAX_EXTRA: usize = 1 << 16;
/// Most bytes of a proof: a note, extra data and hashes.
pub const MAX_BYTES: usize = MAX_NOTE + 2 * MAX_EXTRA;
/// The first line.
const HEADER: &str = "c2sp.org/tlog-proof@v1";

/// Why a proof is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Longer than [`MAX_BYTES`].
    #[error("the log proof has {0} bytes, at most {MAX_BYTES} are read")]
    TooLong(usize),
    /// Not UTF-8.
    #[error("the log proof is not UTF-8 text")]
    Text,
    /// A line is not what it must be.
    #[error("line {line} of the log proof: want {want}")]
    Line {
        /// Counted from 1.
        line: usize,
        /// What belongs there.
        want: &'static str,
    },
    /// The checkpoint is not one that the policy accepts.
    #[error(transparent)]
    Policy(#[from] policy::Error),
    /// The path does not lead from this entry to the checkpoint's root.
    #[error("the entry is not number {index} of the {size} entries under the checkpoint's root")]
    NotIncluded {
        /// The proof's index.
        index: u64,
        /// The checkpoint's size.
        size: u64,
    },
}

/// A proof as it stands in a file, not verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogProof {
    /// Data that belong to the entry; not authenticated.
    pub extra: Option<Vec<u8>>,
    /// The entry's number, from 0.
    pub index: u64,
    /// The inclusion path, nearest sibling first.
    pub hashes: Vec<Digest>,
    /// The signed checkpoint, as it was fetched.
    pub checkpoint: String,
}

impl LogProof {
    /// Reads a file; nothing is verified.
    ///
    /// # Errors
    /// [`Error::TooLong`], [`Error::Text`], [`Error::Line`].
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() > MAX_BYTES {
            return Err(Error::TooLong(bytes.len()));
        }
        let rest = std::str::from_utf8(bytes).map_err(|_| Error::Text)?;
        let mut lines = Lines { rest, at: 0 };
        let (header, error) = lines.next("`c2sp.org/tlog-proof@v1`")?;
        if header != HEADER {
            return Err(error);
        }
        let (mut line, mut error) = lines.next("`extra` and base64 of at most 65536 bytes, or `index`")?;
        let mut extra = None;
        if let Some(base64) = line.strip_prefix("extra ") {
            extra = Some(read_extra(base64).ok_or(error)?);
            (line, error) = lines.next("`index` and a number in its one spelling")?;
        }
        let index = line.strip_prefix("index ").and_then(decimal).ok_or(error)?;
        let mut hashes = Vec::new();
        loop {
            let (line, error) =
                lines.next("the base64 of a hash, or an empty line after at most 63 of them")?;
            if line.is_empty() {
                break;
            }
            let hash = hash_from_base64(line).filter(|_| hashes.len() < MAX_PROOF);
            hashes.push(hash.ok_or(error)?);
        }
        Ok(Self { extra, index, hashes, checkpoint: lines.rest.to_owned() })
    }

    /// Checks that the policy accepts the checkpoint and that the entry with this leaf hash
    /// ([`merkle::leaf`] of its bytes) is in its tree.
    ///
    /// # Errors
    /// [`Error::Policy`], [`Error::NotIncluded`].
    pub fn verify(&self, leaf: &Digest, policy: &Policy) -> Result<Accepted, Error> {
        let accepted = policy.check(self.checkpoint.as_bytes())?;
        let head = accepted.checkpoint.checkpoint();
        if merkle::verify(head.root(), self.index, head.size(), leaf, &self.hashes) {
            return Ok(accepted);
        }
        Err(Error::NotIncluded { index: self.index, size: head.size() })
    }
}

/// The file, as [`LogProof::parse`] reads it.
impl fmt::Display for LogProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{HEADER}")?;
        if let Some(extra) = &self.extra {
            writeln!(f, "extra {}", STANDARD.encode(extra))?;
        }
        writeln!(f, "index {}", self.index)?;
        self.hashes.iter().try_for_each(|hash| writeln!(f, "{}", hash_to_base64(hash)))?;
        write!(f, "\n{}", self.checkpoint)
    }
}

/// The lines of a file, with what is left after them.
struct Lines<'a> {
    rest: &'a str,
    at: usize,
}

impl<'a> Lines<'a> {
    /// The next line, and the error if it is not the wanted one.
    fn next(&mut self, want: &'static str) -> Result<(&'a str, Error), Error> {
        self.at += 1;
        let error = Error::Line { line: self.at, want };
        let Some((line, rest)) = self.rest.split_once('\n') else { return Err(error) };
        self.rest = rest;
        Ok((line, error))
    }
}

fn read_extra(base64: &str) -> Option<Vec<u8>> {
    // The length first, so that no long text is decoded.
    let short = base64.len() <= MAX_EXTRA.div_ceil(3) * 4;
    let extra = STANDARD.decode(Some(base64).filter(|_| short)?).ok()?;
    (extra.len() <= MAX_EXTRA).then_some(extra)
}

#[cfg(test)]
mod tests;
