//! The whole log as it grows, folded by the same rules by which the gateway admits records and `muster verify` reads them.
//!
//! Nothing that the gateway says is believed. The root over all entries that were ever read here must be the one that the
//! log has signed, which also says that the log has only grown; each envelope must be the one that its entry names; the fold
//! must accept it. A log that fails is not audited by: whoever asks hears why.
use std::collections::VecDeque;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use futures::stream::{self, StreamExt as _};
use muster_proof::dsse::Envelope;
use muster_proof::history::History;
use muster_proof::records::fields::{JobId, ProviderName};
use muster_proof::selection::Standing;
use muster_proof::tlog::checkpoint::{Checkpoint, SignedCheckpoint};
use muster_proof::tlog::entry::Entry;
use muster_proof::tlog::frontier::Frontier;
use tokio::time::Instant;

use super::notes::{JobNotes, Notes};
use super::witnessed::{self, Seen, Witnessed, WitnessedError};
use super::{Connected, Ledger, LedgerError};
use crate::bundle::leaves::{LeavesError, entries};
use crate::log::client::LogClient;

/// Envelopes on their way at once.
const AT_ONCE: usize = 16;

/// Why the log is not read to its end.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// Try again.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// It is not what it must be.
    #[error("the log cannot be believed: {0}; nothing is audited by it")]
    Broken(String),
}

/// What was read so far.
#[derive(Debug)]
struct Read {
    history: History,
    notes: Notes,
    frontier: Frontier,
    /// Entries under the newest head that was verified, and not in the fold yet.
    ahead: VecDeque<(u64, Entry)>,
    /// That head.
    head: Option<Checkpoint>,
    witnessed: Witnessed,
}

/// What the log has of a provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// Its intervals, and those since its last fault.
    pub standing: Standing,
    /// How often it was convicted.
    pub faults: u64,
    /// How often it had begun an interval and did not deliver it: silent, failed, or stuck.
    pub lost: u64,
}

impl Record {
    /// Intervals that it has delivered of 1000 that it began; `None` if it began none.
    #[must_use]
    pub fn reliability(&self) -> Option<u32> {
        let begun = self.standing.intervals.checked_add(self.lost).filter(|begun| *begun > 0)?;
        let permille = u128::from(self.standing.intervals) * 1000 / u128::from(begun);
        u32::try_from(permille).ok()
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Follower {
    read: RwLock<Option<Read>>,
    broken: RwLock<Option<String>>,
    /// Held while somebody reads on.
    reading: tokio::sync::Mutex<()>,
}

impl Follower {
    /// Reads on to the newest head; how many entries the fold has then.
    ///
    /// # Errors
    /// [`FollowError`]; what was read before stays.
    pub async fn advance(&self, ledger: &Ledger) -> Result<u64, FollowError> {
        let _one = self.reading.lock().await;
        let result = self.try_advance(ledger).await;
        let problem = match &result {
            Err(FollowError::Broken(problem)) => Some(problem.clone()),
            // Out of reach is not broken, and does not mend what is.
            Err(FollowError::Ledger(_)) => return result,
            Ok(_) => None,
        };
        let mut broken = self.broken.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(problem) = problem.as_ref().filter(|new| broken.as_ref() != Some(*new)) {
            tracing::error!(problem, "the log cannot be believed: nothing is audited until it can");
        }
        *broken = problem;
        result
    }

    /// Why nothing may be decided by what was read, if so.
    #[must_use]
    pub fn broken(&self) -> Option<String> {
        self.broken.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A look at what was read; `None` before the first time.
    pub fn with<T>(&self, look: impl FnOnce(&History) -> T) -> Option<T> {
        let read = self.read.read().unwrap_or_else(PoisonError::into_inner);
        read.as_ref().map(|read| look(&read.history))
    }

    /// What the owners' witnesses say of what was read.
    #[must_use]
    pub fn witnessed(&self) -> Witnessed {
        let read = self.read.read().unwrap_or_else(PoisonError::into_inner);
        read.as_ref().map(|read| read.witnessed).unwrap_or_default()
    }

    /// What was noted of a job that has audits.
    #[must_use]
    pub fn notes(&self, job: &JobId) -> Option<JobNotes> {
        let read = self.read.read().unwrap_or_else(PoisonError::into_inner);
        read.as_ref()?.notes.job(job).cloned()
    }

    /// The shortest time that an interval of the job was seen to take.
    #[must_use]
    pub fn pace(&self, job: &JobId) -> Option<Duration> {
        self.notes(job)?.pace
    }

    /// What the log has of a provider; `None` if it has nothing, or was not read yet.
    #[must_use]
    pub fn record(&self, provider: &str) -> Option<Record> {
        let name: ProviderName = provider.parse().ok()?;
        let read = self.read.read().unwrap_or_else(PoisonError::into_inner);
        let read = read.as_ref()?;
        let (faults, lost) = (read.notes.faults(&name), read.notes.lost(&name));
        Some(Record { standing: read.history.standing(&name)?, faults, lost })
    }

    async fn try_advance(&self, ledger: &Ledger) -> Result<u64, FollowError> {
        let connected = ledger.connect().await?;
        let frontier = {
            let mut read = self.read.write().unwrap_or_else(PoisonError::into_inner);
            let new = || Read {
                history: History::new(connected.origin.clone(), None),
                notes: Notes::default(),
                frontier: Frontier::new(),
                ahead: VecDeque::new(),
                head: None,
                witnessed: Witnessed::default(),
            };
            read.get_or_insert_with(new).frontier.clone()
        };
        if let Some((head, frontier, new)) = verified(ledger, &connected, frontier).await? {
            let mut read = self.read.write().unwrap_or_else(PoisonError::into_inner);
            if let Some(read) = read.as_mut() {
                read.head = Some(head);
                read.frontier = frontier;
                read.ahead.extend(new);
            }
        }
        let size = self.fold(ledger, &connected).await?;
        self.ask_witnesses(ledger, &connected, size).await?;
        Ok(size)
    }

    /// Whether a newer head counts by now.
    async fn ask_witnesses(
        &self,
        ledger: &Ledger,
        connected: &Connected,
        size: u64,
    ) -> Result<(), FollowError> {
        let (known, head, witnesses) = {
            let read = self.read.read().unwrap_or_else(PoisonError::into_inner);
            let Some(read) = read.as_ref() else { return Ok(()) };
            (read.witnessed, read.head.clone(), read.history.witnesses())
        };
        let Some(head) = head.filter(|_| known.counted < size) else { return Ok(()) };
        let seen = Seen { log: connected.log.as_ref(), key: &connected.head_key, head: &head, witnesses };
        let quorum = |head: &SignedCheckpoint| self.with(|history| history.quorum(head));
        let new = match witnessed::look(&seen, known, quorum).await {
            Ok(new) => new,
            Err(WitnessedError::Client(error)) => return Err(away(ledger, error).await),
            Err(error) => return Err(FollowError::Broken(error.to_string())),
        };
        let mut read = self.read.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(read) = read.as_mut() {
            read.witnessed = new;
        }
        Ok(())
    }

    /// Takes the entries that are ahead into the fold.
    async fn fold(&self, ledger: &Ledger, connected: &Connected) -> Result<u64, FollowError> {
        loop {
            let (size, next) = {
                let read = self.read.read().unwrap_or_else(PoisonError::into_inner);
                let Some(read) = read.as_ref() else { return Ok(0) };
                let next: Vec<(u64, Entry)> = read.ahead.iter().take(AT_ONCE).cloned().collect();
                (read.frontier.size(), next)
            };
            if next.is_empty() {
                return Ok(size);
            }
            let log = connected.log.as_ref();
            let fetched = stream::iter(next).map(|(index, entry)| envelope(ledger, log, index, entry));
            let fetched: Vec<_> = fetched.buffered(AT_ONCE).collect().await;
            for found in fetched {
                let (index, envelope) = found?;
                self.take(index, &envelope, size)?;
            }
        }
    }

    fn take(&self, index: u64, envelope: &Envelope, head: u64) -> Result<(), FollowError> {
        let mut read = self.read.write().unwrap_or_else(PoisonError::into_inner);
        let Some(read) = read.as_mut() else { return Ok(()) };
        let accepted = read.history.apply(index, envelope);
        let accepted = accepted
            .map_err(|refusal| FollowError::Broken(format!("entry {index} is refused: {refusal}")))?;
        read.notes.saw(&accepted, envelope.unverified_payload(), head, Instant::now());
        read.ahead.pop_front();
        Ok(())
    }
}

/// The right edge under the newest head and the entries since `frontier`, if there are any.
async fn verified(
    ledger: &Ledger,
    connected: &Connected,
    mut frontier: Frontier,
) -> Result<Option<(Checkpoint, Frontier, Vec<(u64, Entry)>)>, FollowError> {
    let broken = |problem: String| FollowError::Broken(problem);
    let log = connected.log.as_ref();
    let note = match log.checkpoint().await {
        Ok(note) => note,
        Err(error) => return Err(away(ledger, error).await),
    };
    let head = SignedCheckpoint::open(&note, std::slice::from_ref(&connected.head_key));
    let head = head.map_err(|error| broken(format!("its head: {error}")))?;
    let (before, size) = (frontier.size(), head.checkpoint().size());
    if size < before {
        return Err(broken(format!("its head has {size} entries, and had {before} before")));
    }
    let mut new = Vec::new();
    let mut leaves = Vec::new();
    let mut next = before;
    while next < size {
        let bodies = match entries(log, next, size).await {
            Ok(bodies) => bodies,
            Err(LeavesError::Log(error)) => return Err(away(ledger, error).await),
            Err(error) => return Err(broken(error.to_string())),
        };
        // A bundle begins at a multiple of its width, which may be before what is new.
        let first = next - next % u64::from(muster_proof::tlog::tile::WIDTH);
        for (index, body) in (first..).zip(bodies).filter(|(index, _)| *index >= next) {
            let entry = Entry::parse(&body).map_err(|error| broken(format!("entry {index}: {error}")))?;
            leaves.push(entry.leaf());
            new.push((index, entry));
        }
        let read = before + new.len() as u64;
        if read <= next {
            return Err(broken(format!("it does not give entry {next}")));
        }
        next = read;
    }
    frontier.append(&leaves).map_err(|error| broken(error.to_string()))?;
    if frontier.root() != *head.checkpoint().root() {
        let text = format!("the root over its {size} entries is not the one that it has signed");
        return Err(broken(text));
    }
    Ok((size > before).then_some((head.checkpoint().clone(), frontier, new)))
}

/// The envelope that an entry names.
async fn envelope(
    ledger: &Ledger,
    log: &dyn LogClient,
    index: u64,
    entry: Entry,
) -> Result<(u64, Envelope), FollowError> {
    let record = entry.record_id();
    let found = match log.entry(&record).await {
        Ok(found) => found,
        Err(error) => return Err(away(ledger, error).await),
    };
    let broken = |what: &str| FollowError::Broken(format!("entry {index}, record {record}: {what}"));
    let found = found.ok_or_else(|| broken("the gateway does not have its envelope"))?;
    let first = found.envelope.signatures().first();
    let is_its = found.envelope.record_id() == record
        && first.is_some_and(|first| first.keyid == entry.key().key_id() && first.sig == entry.signature());
    if found.index != index || !is_its {
        return Err(broken("its envelope is another one's"));
    }
    Ok((index, found.envelope))
}

async fn away(ledger: &Ledger, error: crate::log::client::ClientError) -> FollowError {
    ledger.doubt(&error).await;
    FollowError::Ledger(LedgerError::Unavailable(error.to_string()))
}
