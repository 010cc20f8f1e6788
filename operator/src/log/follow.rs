//! A log elsewhere, folded as it grows: each head is checked against all entries before it, and each record against all
//! records before it. Nothing is believed but the log's key.
use std::collections::{BTreeMap, VecDeque};

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use muster_proof::dsse::Envelope;
use muster_proof::history::{History, Refusal};
use muster_proof::records::fields::Origin;
use muster_proof::records::{Job, JobId, Record, job_id};
use muster_proof::tlog::checkpoint::{self, SignedCheckpoint};
use muster_proof::tlog::entry::{self, Entry};
use muster_proof::tlog::frontier::{Frontier, Full};
use muster_proof::tlog::note::VerifierKey;
use muster_proof::Digest;

use super::client::{ClientError, LogClient};
use crate::bundle::leaves::{LeavesError, entries};

/// Envelopes on their way at once.
const AT_ONCE: usize = 8;
/// Records that are fetched before those before them are folded.
const BATCH: usize = 256;

/// Why the log is not followed any further.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// It did not answer.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Its entries could not be read.
    #[error(transparent)]
    Leaves(#[from] LeavesError),
    /// Its head is none.
    #[error("the log's head: {0}")]
    Head(#[from] checkpoint::Error),
    /// Its key has no name that an origin can have.
    #[error("the log's key has the name {0:?}, which no log has")]
    Origin(String),
    /// It has fewer entries than it had.
    #[error("the log had {known} entries and has {got} now: it was rolled back")]
    Smaller {
        /// Before.
        known: u64,
        /// Now.
        got: u64,
    },
    /// Its entries are not those of its head.
    #[error("the log's entries are not those under its head of {0} entries: it was rewritten")]
    Root(u64),
    /// It has too many.
    #[error(transparent)]
    Full(#[from] Full),
    /// An entry is none.
    #[error("entry {index} of the log: {source}")]
    Entry {
        /// Which.
        index: u64,
        /// Why.
        source: entry::Error,
    },
    /// An entry's record is not to be had.
    #[error("entry {0} of the log has no record that can be read")]
    Withheld(u64),
    /// A record does not count.
    #[error("entry {index} of the log must not be there: {source}")]
    Refused {
        /// Which.
        index: u64,
        /// Why.
        source: Box<Refusal>,
    },
}

impl FollowError {
    /// Whether trying again may help. If not, the log itself is wrong.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Client(_) | Self::Withheld(_) | Self::Leaves(LeavesError::Log(_)))
    }
}

/// See the module.
#[derive(Debug)]
pub struct Follow {
    key: VerifierKey,
    frontier: Frontier,
    /// Entries under the last head that are not folded yet.
    waiting: VecDeque<(u64, Digest)>,
    history: History,
    jobs: BTreeMap<JobId, Job>,
}

impl Follow {
    /// Nothing is read yet of the log with this key.
    ///
    /// # Errors
    /// [`FollowError::Origin`].
    pub fn new(key: VerifierKey) -> Result<Self, FollowError> {
        let name = key.name().as_str().to_owned();
        let origin: Origin = name.parse().map_err(|_| FollowError::Origin(name))?;
        Ok(Self {
            key,
            frontier: Frontier::new(),
            waiting: VecDeque::new(),
            history: History::new(origin, None),
            jobs: BTreeMap::new(),
        })
    }

    /// Reads what is new, up to the log's newest head; says how many records that were.
    ///
    /// # Errors
    /// [`FollowError`]; what was read before stays, and the same call goes on.
    pub async fn catch_up(&mut self, log: &dyn LogClient) -> Result<usize, FollowError> {
        self.head(log).await?;
        let mut taken = 0;
        while !self.waiting.is_empty() {
            let batch: Vec<(u64, Digest)> = self.waiting.iter().take(BATCH).copied().collect();
            let fetched = batch.into_iter().map(|(index, record)| async move {
                let entry = log.entry(&record).await?.ok_or(FollowError::Withheld(index))?;
                Ok::<_, FollowError>((index, entry.envelope))
            });
            let fetched: Vec<(u64, Envelope)> = stream::iter(fetched).buffered(AT_ONCE).try_collect().await?;
            for (index, envelope) in fetched {
                let accepted = self.history.apply(index, &envelope);
                let accepted = accepted
                    .map_err(|source| FollowError::Refused { index, source: Box::new(source) })?;
                if let Record::Job(job) = accepted.record {
                    self.jobs.insert(job_id(envelope.unverified_payload()), job);
                }
                self.waiting.pop_front();
                taken += 1;
            }
        }
        Ok(taken)
    }

    /// Takes over the newest head, once the entries under it are those that it signs.
    async fn head(&mut self, log: &dyn LogClient) -> Result<(), FollowError> {
        let signed = SignedCheckpoint::open(&log.checkpoint().await?, std::slice::from_ref(&self.key))?;
        let (size, known) = (signed.checkpoint().size(), self.frontier.size());
        if size < known {
            return Err(FollowError::Smaller { known, got: size });
        }
        let (mut frontier, mut new) = (self.frontier.clone(), Vec::new());
        let mut at = known;
        while at < size {
            let bodies = entries(log, at, size).await?;
            // Of a bundle that was begun before, the rest.
            let first = at - at % u64::from(muster_proof::tlog::tile::WIDTH);
            let skip = usize::try_from(at - first).unwrap_or(usize::MAX);
            let mut leaves = Vec::new();
            for body in bodies.iter().skip(skip) {
                let entry = Entry::parse(body).map_err(|source| FollowError::Entry { index: at, source })?;
                leaves.push(entry.leaf());
                new.push((at, entry.record_id()));
                at += 1;
            }
            if leaves.is_empty() {
                return Err(FollowError::Root(size));
            }
            frontier.append(&leaves)?;
        }
        if frontier.root() != *signed.checkpoint().root() {
            return Err(FollowError::Root(size));
        }
        self.frontier = frontier;
        self.waiting.extend(new);
        Ok(())
    }

    /// The fold, as far as it was read.
    #[must_use]
    pub fn history(&self) -> &History {
        &self.history
    }

    /// The records of all jobs.
    #[must_use]
    pub fn jobs(&self) -> &BTreeMap<JobId, Job> {
        &self.jobs
    }

    /// How many entries were read.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.frontier.size() - self.waiting.len() as u64
    }
}

#[cfg(test)]
mod tests;
