//! This agent as a witness of the hub's log (docs/spec/log.md, c2sp.org/tlog-witness): it cosigns what continues all that it
//! has seen before, and keeps the evidence of what does not. What it saw last is on the disk before a cosignature leaves, so
//! no restart makes it sign two histories.
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use muster_proof::Digest;
use muster_proof::tlog::checkpoint::{self, SignedCheckpoint};
use muster_proof::tlog::cosignature;
use muster_proof::tlog::note::{self, Algorithm, KeyName, NoteKey, VerifierKey};
use muster_proof::tlog::witness::{Decision, Evidence, Request, decide};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::secret;
use super::units::locked;
use crate::log::client::{ClientError, LogClient, ProofError, consistency};
use crate::runtime::Shutdown;
use crate::runtime::files::{self, Access};

const KEY: &str = "witness.key";
const SEEN: &str = "witness.json";
const EVIDENCE: &str = "log-evidence.json";
const MAX_FILE: u64 = 4 << 20;

/// Why a head is not cosigned.
#[derive(Debug, thiserror::Error)]
pub enum WitnessError {
    /// The pinned key is none.
    #[error("the log's key as it was pinned: {0}; join again with a new token")]
    Pinned(note::Error),
    /// The state directory.
    #[error("state directory: {0}")]
    Io(#[from] io::Error),
    /// A file of it holds something else.
    #[error(
        "{path}: {problem}; restore it from a backup, or remove membership.json beside it and join with a new token"
    )]
    Damaged {
        /// The file.
        path: String,
        /// What is wrong.
        problem: String,
    },
    /// The log did not answer as a log.
    #[error(transparent)]
    Log(#[from] ClientError),
    /// It gives no proof; tiles that are not those of its head: try again.
    #[error(transparent)]
    Proof(#[from] ProofError),
    /// Not the pinned log's head.
    #[error("the log's head is not signed by the key that was pinned when this agent joined: {0}")]
    NotTheLog(String),
    /// It signed what does not go together.
    #[error("{0}")]
    Inconsistent(String),
    /// No cosignature was made.
    #[error("cosignature: {0}")]
    Cosignature(#[from] cosignature::Error),
}

/// What two signed heads say against the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Alarm {
    /// Two roots for one size.
    Fork,
    /// A smaller tree than it signed before.
    Rollback,
    /// A larger tree that does not continue the smaller one.
    Rewrite,
}

impl Alarm {
    /// The reason of the condition `LogConsistent=False`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Fork => "Fork",
            Self::Rollback => "Rollback",
            Self::Rewrite => "Rewrite",
        }
    }
}

/// An alarm that was raised here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alarmed {
    /// Of which kind.
    pub kind: Alarm,
    /// What was seen, and where the evidence lies.
    pub text: String,
}

/// The evidence, as it lies in the state directory: two notes that the log has signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Kept {
    alarm: Alarm,
    time: Timestamp,
    /// Cosigned here before.
    kept: String,
    /// Came then.
    got: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Seen {
    checkpoint: String,
}

#[derive(Debug, Default)]
struct State {
    seen: Option<SignedCheckpoint>,
    /// Size of the head whose cosignature was taken, by this process.
    given: Option<u64>,
    alarm: Option<Alarmed>,
    trouble: Option<String>,
}

/// What is known of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Size and root that were cosigned last.
    pub head: Option<(u64, Digest)>,
    /// Why the log is not to be believed.
    pub alarm: Option<Alarmed>,
    /// Why it could not be looked at.
    pub trouble: Option<String>,
}

/// See the module.
#[derive(Debug)]
pub struct Witness {
    dir: PathBuf,
    key: NoteKey,
    log: VerifierKey,
    state: Mutex<State>,
    /// Held while a head is looked at: reading, deciding and keeping are one step.
    looking: tokio::sync::Mutex<()>,
}

impl Witness {
    /// The witness of `state`, for the log with this verifier key.
    ///
    /// # Errors
    /// [`WitnessError`]: a key that is none; what was seen cannot be read, which must not read as "nothing".
    pub fn open(state: &Path, provider: &str, log: &str) -> Result<Self, WitnessError> {
        Self::named(state, &format!("muster-agent/{provider}"), log)
    }

    /// As [`Witness::open`], under a name of its own: not an agent's, a tenant's.
    ///
    /// # Errors
    /// As [`Witness::open`].
    pub fn named(state: &Path, name: &str, log: &str) -> Result<Self, WitnessError> {
        let log: VerifierKey = log.parse().map_err(WitnessError::Pinned)?;
        let name = KeyName::new(name).map_err(WitnessError::Pinned)?;
        let key = NoteKey::new(name, Algorithm::CosignatureV1, secret::open(state, KEY)?);
        let seen = match read_json::<Seen>(&state.join(SEEN))? {
            None => None,
            Some(seen) => {
                let open = SignedCheckpoint::open(seen.checkpoint.as_bytes(), std::slice::from_ref(&log));
                Some(open.map_err(|error| damaged(&state.join(SEEN), &error))?)
            }
        };
        let alarm = alarmed(state);
        if let Some(Alarmed { text, .. }) = &alarm {
            tracing::error!(alarm = text, "the hub's log is not to be believed; no new unit is taken");
        }
        let state_now = State { seen, alarm, ..State::default() };
        let (dir, looking) = (state.to_owned(), tokio::sync::Mutex::default());
        Ok(Self { dir, key, log, state: Mutex::new(state_now), looking })
    }

    /// Forgets what was seen: of another hub's log it says nothing.
    ///
    /// # Errors
    /// Any error of the file system but absence.
    pub fn forget(state: &Path) -> io::Result<()> {
        for name in [SEEN, EVIDENCE] {
            files::if_there(std::fs::remove_file(state.join(name)))?;
        }
        files::sync_dir(state)
    }

    /// Our verifier key, as the log's record of this provider names it.
    #[must_use]
    pub fn verifier(&self) -> &VerifierKey {
        self.key.public()
    }

    /// The log's verifier key.
    #[must_use]
    pub fn log(&self) -> &VerifierKey {
        &self.log
    }

    /// The origin of the log.
    #[must_use]
    pub fn origin(&self) -> &str {
        self.log.name().as_str()
    }

    /// What is known of the log.
    #[must_use]
    pub fn standing(&self) -> Standing {
        let state = locked(&self.state);
        let head = state.seen.as_ref().map(|seen| (seen.checkpoint().size(), *seen.checkpoint().root()));
        Standing { head, alarm: state.alarm.clone(), trouble: state.trouble.clone() }
    }

    /// Why no new unit is taken, if that is so.
    #[must_use]
    pub fn distrust(&self) -> Option<String> {
        locked(&self.state).alarm.as_ref().map(|alarm| alarm.text.clone())
    }

    /// Looks at the log whenever a heartbeat brings its size, until `shutdown`.
    pub async fn run(
        self: Arc<Self>,
        log: impl LogClient,
        mut sizes: watch::Receiver<u64>,
        shutdown: Shutdown,
    ) {
        loop {
            tokio::select! {
                biased;
                () = shutdown.wait() => return,
                changed = sizes.changed() => if changed.is_err() { return },
            }
            let size = *sizes.borrow_and_update();
            // What comes of it is in the log and in the report.
            let _ = self.follow(&log, size).await;
        }
    }

    /// Looks at the log, which is said to have this size, and cosigns its head if that is news.
    ///
    /// # Errors
    /// [`WitnessError`]: nothing was cosigned. It is said in the log, once.
    pub async fn follow(&self, log: &dyn LogClient, size: u64) -> Result<(), WitnessError> {
        let _only_one = self.looking.lock().await;
        let looked = self.look(log, size).await;
        let trouble = looked.as_ref().err().map(ToString::to_string);
        let mut state = locked(&self.state);
        if let Some(trouble) = trouble.as_ref().filter(|trouble| state.trouble.as_ref() != Some(*trouble)) {
            tracing::warn!(trouble, "the hub's log");
        }
        state.trouble = trouble;
        looked
    }

    async fn look(&self, log: &dyn LogClient, size: u64) -> Result<(), WitnessError> {
        let seen = {
            let state = locked(&self.state);
            if state.alarm.is_some() {
                return Ok(());
            }
            state.seen.clone()
        };
        if seen.is_none() && size == 0 {
            return Ok(());
        }
        if let Some(seen) = seen.as_ref().filter(|seen| seen.checkpoint().size() == size) {
            return self.give(log, seen).await;
        }
        let bytes = log.checkpoint().await?;
        let request = self.request(log, seen.as_ref(), &bytes).await?;
        match decide(std::slice::from_ref(&self.log), seen.as_ref(), &request) {
            Decision::Cosign(new) => {
                let kept =
                    serde_json::to_vec(&Seen { checkpoint: new.to_string() }).map_err(io::Error::from)?;
                files::write_atomic(&self.dir.join(SEEN), &kept, Access::Private)?;
                locked(&self.state).seen = Some(new.clone());
                self.give(log, &new).await
            }
            Decision::Fork(evidence) => Err(self.alarm(Alarm::Fork, &evidence)),
            Decision::Rollback { evidence, .. } => Err(self.alarm(Alarm::Rollback, &evidence)),
            // The proof was made of tiles that have the new root, so there is no other.
            Decision::Inconsistent(evidence) => Err(self.alarm(Alarm::Rewrite, &evidence)),
            other => Err(not_the_log(&other)),
        }
    }

    /// What came, with the proof that it continues what was seen.
    async fn request(
        &self,
        log: &dyn LogClient,
        seen: Option<&SignedCheckpoint>,
        bytes: &[u8],
    ) -> Result<Request, WitnessError> {
        let new = SignedCheckpoint::open(bytes, std::slice::from_ref(&self.log))
            .map_err(|error: checkpoint::Error| WitnessError::NotTheLog(error.to_string()))?;
        let (old, size) = (seen.map_or(0, |seen| seen.checkpoint().size()), new.checkpoint().size());
        let proof =
            if old > 0 && old < size { consistency(log, old, new.checkpoint()).await? } else { Vec::new() };
        Ok(Request { old, proof, checkpoint: new.to_string() })
    }

    /// Cosigns what is on the disk, unless the log has that.
    async fn give(&self, log: &dyn LogClient, seen: &SignedCheckpoint) -> Result<(), WitnessError> {
        let size = seen.checkpoint().size();
        if locked(&self.state).given == Some(size) {
            return Ok(());
        }
        let now = u64::try_from(Timestamp::now().as_second()).unwrap_or(0);
        let line = seen.cosign(&self.key, now)?.to_string();
        let given = log.cosign(size, &line).await;
        // A refusal stays one for this head; the next one is cosigned anew.
        if given.as_ref().err().is_none_or(|error| !error.is_transient()) {
            locked(&self.state).given = Some(size);
        }
        Ok(given?)
    }

    /// Keeps the evidence, and takes no new unit from now on.
    fn alarm(&self, alarm: Alarm, evidence: &Evidence) -> WitnessError {
        let path = self.dir.join(EVIDENCE);
        let Evidence { kept, got } = evidence;
        let alarmed = words(alarm, &path);
        let text = alarmed.text.clone();
        tracing::error!(
            kept = %kept, got = %got,
            "{text}. Running units go on, no new one is taken; show both heads to the hub's admin and to the other witnesses"
        );
        let kept = Kept { alarm, time: Timestamp::now(), kept: kept.to_string(), got: got.to_string() };
        let written = serde_json::to_vec_pretty(&kept).map_err(io::Error::from);
        let written = written.and_then(|json| files::write_atomic(&path, &json, Access::Private));
        if let Err(error) = written {
            tracing::error!(%error, "the evidence could not be kept; it is in the line before");
        }
        locked(&self.state).alarm = Some(alarmed);
        WitnessError::Inconsistent(text)
    }
}

/// The alarm that was raised in this state directory, if one was. A damaged file is one, too: what it held is not known.
#[must_use]
pub fn alarmed(state: &Path) -> Option<Alarmed> {
    let path = state.join(EVIDENCE);
    match read_json::<Kept>(&path) {
        Ok(kept) => kept.map(|kept| words(kept.alarm, &path)),
        Err(error) => Some(Alarmed { kind: Alarm::Rewrite, text: error.to_string() }),
    }
}

fn words(kind: Alarm, path: &Path) -> Alarmed {
    let what = match kind {
        Alarm::Fork => "the hub's log has signed two histories of one length",
        Alarm::Rollback => "the hub's log has lost entries that it had signed",
        Alarm::Rewrite => "the hub's log has changed entries that it had signed",
    };
    Alarmed { kind, text: format!("{what}; the evidence is in {}", path.display()) }
}

fn not_the_log(decision: &Decision) -> WitnessError {
    WitnessError::NotTheLog(match decision {
        Decision::UnknownLog(origin) => format!("it is of the log {origin:?}"),
        Decision::BadSignature(error) => error.to_string(),
        Decision::Malformed(error) => error.to_string(),
        other => format!("{other:?}"),
    })
}

fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<Option<T>, WitnessError> {
    let Some(bytes) = files::read_if_there(path, MAX_FILE)? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(|error| damaged(path, &error))
}

fn damaged(path: &Path, problem: &dyn std::fmt::Display) -> WitnessError {
    WitnessError::Damaged { path: path.display().to_string(), problem: problem.to_string() }
}

#[cfg(test)]
mod tests;
