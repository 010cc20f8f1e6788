//! What workers of one run tell each other: `docs/spec/protocol.md` section 2.
//!
//! | file | thought |
//! |---|---|
//! | `tls` | keys of processes, and who believes which |
//! | `handshake` | TLS, then both ends say what they train |
//! | `duplex` | one TLS connection for two threads |
//! | `wire` | frames: typed, of known length |
//! | `link` | one connection: a thread that reads, a thread that writes and keeps alive |
//! | `mesh` | a connection to every other worker |
//! | `reduce` | the canonical sum over shards, by slices |
//!
//! Which bits come out does not depend on who sends what: the sum is the tree of `muster_numerics::reduce`.

mod duplex;
mod handshake;
mod link;
mod mesh;
mod reduce;
mod tls;
pub mod wire;

pub use handshake::{HELLO, Identity};
pub use mesh::{Listener, Mesh};
pub use reduce::{Reducer, StepVotes, shards_of};

use std::time::Duration;

use crate::failure::Failure;
use crate::protocol::ExitCode;

/// A peer that says nothing for so long is gone.
pub const SILENCE: Duration = Duration::from_secs(10);
/// How often a link without other traffic says that it lives.
pub const KEEP_ALIVE: Duration = Duration::from_secs(2);
/// How long the workers of a run have to find each other. All have loaded their state and listen before their addresses
/// are given out, so this is long; one that died in between should not hold the others up for longer.
pub const MEETING: Duration = Duration::from_secs(20);

/// Why a worker cannot go on with its peers.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// This worker cannot listen.
    #[error("cannot listen for the other workers on {address}: {source}; choose another --listen")]
    Listen {
        /// Where.
        address: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The connection to a peer broke.
    #[error("lost worker {rank}: {problem}")]
    Lost {
        /// The peer.
        rank: u32,
        /// What happened.
        problem: String,
    },
    /// Some peers did not come in time.
    #[error("workers {0:?} did not come within {MEETING:?}")]
    Absent(Vec<u32>),
    /// A peer proved its key but runs something else.
    #[error("worker {rank} has another {what}; all workers must be started with the same job and state")]
    Differs {
        /// The peer.
        rank: u32,
        /// `training digest`, `number of workers`, `start step`.
        what: &'static str,
    },
    /// The list of peers, this worker's key or the shares of work are wrong.
    #[error("{0}")]
    Setup(String),
    /// The parent asked to stop while the workers were meeting.
    #[error("stopped while waiting for the other workers")]
    Stopped,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let code = match error {
            Error::Setup(_) => ExitCode::BadSpec,
            Error::Stopped => ExitCode::Stopped,
            _ => ExitCode::PeerLost,
        };
        Self::new(code, error.to_string())
    }
}

#[cfg(test)]
mod tests;
