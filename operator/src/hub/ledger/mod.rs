//! The hub as a client of the log (docs/spec/gateway.md section 11): what it decides about jobs and keys is logged first. The
//! log takes a record once, whoever sends it how often, so everything here may be done again.
//!
//! | file | what |
//! |---|---|
//! | `records` | the records of jobs and grants, pure |
//! | `grants` | the job record, a grant before each unit, their ends |
//! | `keys` | providers' keys: countersigned, revoked |
//! | `follow`, `notes` | the whole log, folded as it grows: what the audits are decided from |
//! | `way` | how the log is reached |
//!
//! Without the log nothing new is accepted or placed; what runs goes on.
pub mod follow;
pub mod grants;
pub mod keys;
pub mod notes;
pub mod records;
#[cfg(test)]
pub mod testing;
#[cfg(test)]
mod tests;
pub mod way;
pub mod witnessed;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use muster_proof::Digest;
use muster_proof::dsse::Envelope;
use muster_proof::records::fields::Origin;
use muster_proof::tlog::note::VerifierKey;
use tokio::sync::Semaphore;

use self::way::Way;
use super::signer::Signer;
use super::state::{State, StateError};
use crate::log::client::{ClientError, LogClient};
use crate::store::Entry;

/// Why something is not in the log.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// Try again later.
    #[error("{0}; the hub tries again, and starts nothing new meanwhile")]
    Unavailable(String),
    /// The log does not take it.
    #[error("the log refuses {what}: {reason}: {message}")]
    Refused {
        /// Which record.
        what: &'static str,
        /// A CamelCase word.
        reason: String,
        /// Why.
        message: String,
    },
    /// The hub's own state.
    #[error(transparent)]
    State(#[from] StateError),
    /// The store.
    #[error("store: {0}")]
    Store(#[from] std::io::Error),
    /// No record could be made.
    #[error("record: {0}")]
    Record(#[from] muster_proof::records::Error),
    /// An object does not have what a record needs.
    #[error("{0}")]
    Incomplete(String),
}

impl LedgerError {
    /// The word with which the log refuses, if it does.
    #[must_use]
    pub fn refusal(&self) -> Option<&str> {
        match self {
            Self::Refused { reason, .. } => Some(reason),
            _ => None,
        }
    }
}

/// Records under way at once: fewer than the gateway lets one caller have.
const AT_ONCE: usize = 32;
/// A log that has too many requests is asked again so often, after so long.
const BUSY_TRIES: u32 = 5;
const BUSY_AGAIN: Duration = Duration::from_secs(1);
const BUSY_LONGEST: Duration = Duration::from_secs(5);

/// A connection that is good as long as the hub's key is the same.
#[derive(Clone)]
struct Connected {
    key: Digest,
    log: Arc<dyn LogClient>,
    /// Signs the log's heads.
    head_key: VerifierKey,
    origin: Origin,
    /// Serial of the newest key set that the log has.
    serial: u64,
}

/// See the module.
pub struct Ledger {
    way: Box<dyn Way>,
    state: Arc<State>,
    signer: Arc<Signer>,
    connected: tokio::sync::Mutex<Option<Connected>>,
    turns: Semaphore,
    keys: Mutex<BTreeMap<String, BTreeSet<Digest>>>,
}

impl Ledger {
    /// Goes to the log by this way, when it is needed.
    #[must_use]
    pub fn new(way: impl Way + 'static, state: Arc<State>, signer: Arc<Signer>) -> Self {
        let turns = Semaphore::new(AT_ONCE);
        Self {
            way: Box::new(way),
            state,
            signer,
            connected: Default::default(),
            turns,
            keys: Mutex::default(),
        }
    }

    /// The log's origin.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`].
    pub async fn origin(&self) -> Result<Origin, LedgerError> {
        Ok(self.connect().await?.origin)
    }

    /// Logs a record; says where it is.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub async fn submit(&self, what: &'static str, envelope: &Envelope) -> Result<Entry, LedgerError> {
        // Never closed.
        let _turn = self.turns.acquire().await.ok();
        let connected = self.connect().await?;
        let mut tries = 0;
        let logged = loop {
            match connected.log.submit(envelope).await {
                Err(ClientError::Refused { status: 429, retry_after, .. }) if tries < BUSY_TRIES => {
                    tries += 1;
                    tokio::time::sleep(retry_after.map_or(BUSY_AGAIN, |wait| wait.min(BUSY_LONGEST))).await;
                }
                logged => break logged,
            }
        };
        match logged {
            Ok(logged) => Ok(Entry { record: logged.record_id, index: logged.index }),
            Err(ClientError::Unreachable(_)) if planted!("lost-is-logged") => {
                Ok(Entry { record: envelope.record_id(), index: 0 })
            }
            Err(error) => {
                self.doubt(&error).await;
                Err(refused(what, error))
            }
        }
    }

    /// A record and its index, if the log has it.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`].
    pub async fn entry(&self, record: &Digest) -> Result<Option<(u64, Envelope)>, LedgerError> {
        let connected = self.connect().await?;
        match connected.log.entry(record).await {
            Ok(found) => Ok(found.map(|found| (found.index, found.envelope))),
            Err(error) => {
                self.doubt(&error).await;
                Err(LedgerError::Unavailable(error.to_string()))
            }
        }
    }

    /// With what records are signed now.
    #[must_use]
    pub fn key(&self) -> muster_proof::key::SigningKey {
        self.signer.identity().key
    }

    /// Whether the log has a key of this provider that is good now, as far as this process has seen.
    #[must_use]
    pub fn knows(&self, provider: &str) -> bool {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.get(provider).is_some_and(|keys| !keys.is_empty())
    }

    fn learn(&self, provider: &str, keys: BTreeSet<Digest>) {
        let mut all = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(provider.to_owned(), keys);
    }

    /// The connection for the key that signs now. The log has the hub's key sets before anything that they sign.
    async fn connect(&self) -> Result<Connected, LedgerError> {
        let key = self.key();
        let keys = self.state.keys()?;
        let mut connected = self.connected.lock().await;
        let serial = keys.set().serial();
        if let Some(good) =
            connected.as_ref().filter(|good| good.key == key.key_id() && good.serial == serial)
        {
            return Ok(good.clone());
        }
        let (log, vkey) = self.way.connect(&key).await.map_err(LedgerError::Unavailable)?;
        let no_key = || LedgerError::Unavailable(format!("{vkey:?} is no key of a log"));
        let head_key = vkey.parse::<VerifierKey>().map_err(|_| no_key())?;
        let origin = vkey.split('+').next().unwrap_or_default().parse::<Origin>().map_err(|_| no_key())?;
        self.state.pin_log(&vkey)?;
        for set in keys.chain() {
            log.submit(set).await.map_err(|error| refused("the hub's key set", error))?;
        }
        let good = Connected { key: key.key_id(), log, head_key, origin, serial };
        tracing::info!(origin = %good.origin, key_set = serial, "the log has the hub's keys");
        *connected = Some(good.clone());
        Ok(good)
    }

    /// After an error the way is looked for again: the gateway may be somewhere else.
    async fn doubt(&self, error: &ClientError) {
        if matches!(error, ClientError::Unreachable(_)) {
            *self.connected.lock().await = None;
        }
    }
}

fn refused(what: &'static str, error: ClientError) -> LedgerError {
    match error {
        // Only what is about the record itself: a gateway that has not heard of our newest key yet will.
        ClientError::Refused { status: 400 | 409, reason, message, .. } => {
            LedgerError::Refused { what, reason, message }
        }
        error => LedgerError::Unavailable(error.to_string()),
    }
}
