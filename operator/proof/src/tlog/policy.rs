//! Whom a verifier believes: c2sp.org/tlog-policy. One line each, in any order but that a name is defined
//! before it is used:
//!
//! ```text
//! log <verifier key> [<url>]
//! witness <name> <verifier key> [<url>]
//! group <name> all|any|<k> <member>...
//! quorum <name>|none
//! ```
//!
//! A checkpoint is accepted if one of the logs signed it and the quorum cosigned it. A witness or group is a
//! member of at most one group, so nobody counts twice. Narrower than C2SP: the file is UTF-8, and has the
//! limits below.

use std::collections::BTreeMap;
use std::fmt;

use super::checkpoint::{self, SignedCheckpoint};
use super::cosignature;
use super::note::{self, VerifierKey};

mod owners;
mod parse;

pub use owners::Owner;

/// Most bytes of a policy.
pub const MAX_POLICY: usize = 1 << 18;
/// Most logs, most witnesses and most groups, each.
pub const MAX_PARTS: usize = 256;
/// The quorum of a policy without witnesses.
const NONE: &str = "none";

/// Why a policy is not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{why}", line.map(|line| format!("line {line} of the policy: ")).unwrap_or_default())]
pub struct PolicyError {
    /// Counted from 1; `None` if the fault is the whole file's.
    pub line: Option<usize>,
    /// What is wrong and what is wanted.
    pub why: String,
}

/// Why a checkpoint is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Not a checkpoint that one of the policy's logs signed.
    #[error(transparent)]
    Checkpoint(#[from] checkpoint::Error),
    /// A line in the name of one of the policy's witnesses does not verify.
    #[error(transparent)]
    Cosignature(#[from] cosignature::Error),
    /// Too few cosigned.
    #[error("the quorum {quorum:?} did not cosign the checkpoint; cosigned by {cosigned:?}")]
    Quorum {
        /// The policy's quorum.
        quorum: String,
        /// The witnesses that did, by their names in the policy.
        cosigned: Vec<String>,
    },
}

/// A log of a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// Its key; the key's name is the log's origin.
    pub key: VerifierKey,
    /// Where it is, if the policy says so.
    pub url: Option<String>,
}

/// A witness of a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Witness {
    /// Its name in the policy.
    pub name: String,
    /// Its key.
    pub key: VerifierKey,
    /// Where it is, if the policy says so.
    pub url: Option<String>,
}

/// A group of a policy: it counts as a witness if enough of its members do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Its name in the policy.
    pub name: String,
    /// How many members are enough, 1 to all.
    pub threshold: usize,
    /// Witnesses and earlier groups, by name.
    pub members: Vec<String>,
}

/// A policy that was read and holds together: names are unique, used after they are defined, and lead to
/// one quorum.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    logs: Vec<Log>,
    witnesses: Vec<Witness>,
    groups: Vec<Group>,
    /// `None` for `quorum none`.
    quorum: Option<String>,
}

/// A checkpoint that a policy accepts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// The checkpoint with all its signatures.
    pub checkpoint: SignedCheckpoint,
    /// The policy's witnesses that cosigned it, by their names in the policy, and when: seconds since 1970.
    pub cosigned: BTreeMap<String, u64>,
}

impl Policy {
    /// Its logs.
    pub fn logs(&self) -> &[Log] {
        &self.logs
    }

    /// Its witnesses.
    pub fn witnesses(&self) -> &[Witness] {
        &self.witnesses
    }

    /// Its groups; members come before the groups that they are in.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// The name of the witness or group that must have cosigned; `None` if nobody must.
    pub fn quorum(&self) -> Option<&str> {
        self.quorum.as_deref()
    }

    /// Reads a signed checkpoint and holds it against the policy.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn check(&self, checkpoint: &[u8]) -> Result<Accepted, Error> {
        let logs: Vec<_> = self.logs.iter().map(|log| log.key.clone()).collect();
        self.check_signed(SignedCheckpoint::open(checkpoint, &logs)?)
    }

    /// Holds cosignatures against the quorum, for a reader who knows the log from elsewhere.
    ///
    /// # Errors
    /// [`Error::Cosignature`], [`Error::Quorum`].
    pub fn check_signed(&self, checkpoint: SignedCheckpoint) -> Result<Accepted, Error> {
        let mut cosigned = BTreeMap::new();
        for witness in &self.witnesses {
            if let Some(time) = checkpoint.cosigned_by(&witness.key)? {
                cosigned.insert(witness.name.clone(), time);
            }
        }
        if self.is_met(|name| cosigned.contains_key(name)) {
            return Ok(Accepted { checkpoint, cosigned });
        }
        let quorum = self.quorum.clone().unwrap_or_default();
        Err(Error::Quorum { quorum, cosigned: cosigned.into_keys().collect() })
    }

    /// Whether the quorum is met if these witnesses cosigned.
    pub fn is_met(&self, cosigned: impl Fn(&str) -> bool) -> bool {
        let Some(quorum) = &self.quorum else { return true };
        let mut met: BTreeMap<&str, bool> =
            self.witnesses.iter().map(|witness| (witness.name.as_str(), cosigned(&witness.name))).collect();
        for group in &self.groups {
            // Members are defined before their group, so each is decided by now.
            let count = group.members.iter().filter(|name| met.get(name.as_str()) == Some(&true)).count();
            met.insert(&group.name, count >= group.threshold);
        }
        met.get(quorum.as_str()) == Some(&true)
    }
}

/// The policy as a file, which reads as the same policy.
impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = |url: &Option<String>| url.as_ref().map(|url| format!(" {url}")).unwrap_or_default();
        for log in &self.logs {
            writeln!(f, "log {}{}", log.key, url(&log.url))?;
        }
        for witness in &self.witnesses {
            writeln!(f, "witness {} {}{}", witness.name, witness.key, url(&witness.url))?;
        }
        for Group { name, threshold, members } in &self.groups {
            writeln!(f, "group {name} {threshold} {}", members.join(" "))?;
        }
        writeln!(f, "quorum {}", self.quorum().unwrap_or(NONE))
    }
}

#[cfg(test)]
mod tests;
