//! Which head of the log counts: the newest that enough owners have cosigned, and that the log which is read here continues.
use muster_proof::history::Quorum;
use muster_proof::merkle::verify_consistency;
use muster_proof::tlog::checkpoint::{self, Checkpoint, SignedCheckpoint};
use muster_proof::tlog::note::VerifierKey;

use crate::log::client::{ClientError, LogClient, ProofError, consistency};

/// What the owners' witnesses say of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Witnessed {
    /// Entries under the newest head that counts.
    pub counted: u64,
    /// Owners that there are, and those of them that have cosigned the newest head that anybody has.
    pub newest: Option<Quorum>,
}

/// Why it cannot be said.
#[derive(Debug, thiserror::Error)]
pub enum WitnessedError {
    /// Try again.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// What is cosigned is not a head of the log.
    #[error("a cosigned head: {0}")]
    Head(#[from] checkpoint::Error),
    /// No way leads from it to what is read.
    #[error("a cosigned head of {size} entries: {problem}")]
    Fork {
        /// Its size.
        size: u64,
        /// What is wrong.
        problem: String,
    },
}

/// The log as it was read.
pub struct Seen<'a> {
    /// Answers.
    pub log: &'a dyn LogClient,
    /// Signs its heads.
    pub key: &'a VerifierKey,
    /// The newest head that was read.
    pub head: &'a Checkpoint,
    /// How many witnesses there are.
    pub witnesses: usize,
}

/// Looks for a newer head that counts. Of heads with more cosignatures there are only older ones, so the first that counts is the
/// newest. `quorum` says who has cosigned.
///
/// # Errors
/// [`WitnessedError`].
pub async fn look(
    seen: &Seen<'_>,
    known: Witnessed,
    quorum: impl Fn(&SignedCheckpoint) -> Option<Quorum>,
) -> Result<Witnessed, WitnessedError> {
    let mut new = Witnessed { newest: None, ..known };
    if seen.witnesses == 0 {
        // Nobody is left who could.
        new.counted = seen.head.size();
    }
    for least in 1..=seen.witnesses {
        let Some(note) = seen.log.cosigned(least).await? else { break };
        let head = SignedCheckpoint::open(&note, std::slice::from_ref(seen.key))?;
        let Some(quorum) = quorum(&head) else { break };
        new.newest = new.newest.or(Some(quorum));
        if head.checkpoint().size() <= known.counted {
            break;
        }
        if quorum.counts() {
            continues(seen, head.checkpoint()).await?;
            new.counted = head.checkpoint().size();
            break;
        }
    }
    Ok(new)
}

/// Whether what is read continues a cosigned head. One that is ahead of it will be looked at when it is read.
async fn continues(seen: &Seen<'_>, old: &Checkpoint) -> Result<(), WitnessedError> {
    let fork = |problem: String| WitnessedError::Fork { size: old.size(), problem };
    let (size, head) = (old.size(), seen.head);
    let good = if size >= head.size() {
        size > head.size() || old.root() == head.root()
    } else {
        let path = match consistency(seen.log, size, head).await {
            Ok(path) => path,
            Err(ProofError::Client(error)) => return Err(error.into()),
            Err(error) => return Err(fork(error.to_string())),
        };
        verify_consistency(size, old.root(), head.size(), head.root(), &path)
    };
    if good { Ok(()) } else { Err(fork(format!("the log's {} entries do not continue it", head.size()))) }
}
