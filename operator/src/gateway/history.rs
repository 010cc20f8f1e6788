//! What may enter the log: the fold of `muster_proof::history` over all that is in it. The same fold refuses here and at whoever
//! verifies. Who may submit which kind of record is asked before ([`may_submit`]).
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock};

use axum::http::StatusCode;
use muster_proof::Digest;
use muster_proof::dsse::Envelope;
use muster_proof::history::{Due, History, Refusal as Refused};
use muster_proof::key::PublicKey;
use muster_proof::records::fields::{Origin, ProviderName};
use muster_proof::records::{AuditOpening, AuditSeal, Commit, Failure, KeyBinding, Opening, Payload, Record};
use muster_proof::tlog::note::VerifierKey;

use super::access::{Member, Refusal};
use crate::log::admit::{self, Admit, Fault};
use crate::log::cosignatures::Witnesses;

/// The log so far. It decides, and never forgets.
pub struct Fold {
    history: Shown,
    /// Every key that ever signed or may sign, by its id.
    keys: HashMap<Digest, PublicKey>,
    witnesses: Arc<Known>,
}

/// What the log says now, for whoever asks; the fold alone adds to it.
#[derive(Clone)]
pub struct Shown(Arc<RwLock<History>>);

impl Shown {
    /// What a provider may log now for audits that wait for it.
    #[must_use]
    pub fn due(&self, provider: &ProviderName) -> Due {
        self.0.read().unwrap_or_else(PoisonError::into_inner).due(provider)
    }
}

#[cfg(test)]
impl Shown {
    /// A look at all that the log says.
    pub fn look<T>(&self, look: impl FnOnce(&History) -> T) -> T {
        look(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The witness that each provider named last, for the gateway.
#[derive(Debug, Default)]
pub struct Known(RwLock<BTreeMap<String, VerifierKey>>);

impl Fold {
    /// Of an empty log; `witnesses` learns as the log grows.
    #[must_use]
    pub fn new(origin: Origin, witnesses: Arc<Known>) -> Self {
        let history = Shown(Arc::new(RwLock::new(History::new(origin, None))));
        Self { history, keys: HashMap::new(), witnesses }
    }

    /// What the log says, as it grows.
    #[must_use]
    pub fn shown(&self) -> Shown {
        self.history.clone()
    }

    fn learn(&mut self, record: &Record) {
        let mut know = |key: &PublicKey| {
            self.keys.insert(key.key_id(), key.clone());
        };
        match record {
            Record::HubKeys(set) => set.keys().iter().for_each(know),
            Record::KeyBinding(it) => know(&it.key),
            Record::ProviderKey(it) => {
                know(&it.key);
                self.witnesses.learn(it.provider.as_str(), &it.witness.to_string());
            }
            _ => {}
        }
    }
}

impl Admit for Fold {
    fn signer(&self, envelope: &Envelope, known: &[PublicKey]) -> Option<PublicKey> {
        let first = envelope.signatures().first()?.keyid;
        // Of the first key set nothing in the log knows the signer: only the hub itself can bring it.
        self.keys.get(&first).or_else(|| known.iter().find(|key| key.key_id() == first)).cloned()
    }

    fn admit(&mut self, index: u64, envelope: &Envelope) -> Result<(), admit::Refusal> {
        let accepted = {
            let mut history = self.history.0.write().unwrap_or_else(PoisonError::into_inner);
            history.apply(index, envelope).map_err(|refused| refusal(&refused))?
        };
        self.learn(&accepted.record);
        Ok(())
    }
}

impl Known {
    fn learn(&self, provider: &str, witness: &str) {
        match witness.parse() {
            Ok(key) => {
                let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
                all.insert(provider.to_owned(), key);
            }
            // A point that is none: nothing that it signs will ever be kept.
            Err(error) => tracing::warn!(provider, %error, "a provider's witness key is not usable"),
        }
    }
}

impl Witnesses for Known {
    fn witness_keys(&self) -> Vec<(String, VerifierKey)> {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        all.iter().map(|(provider, key)| (provider.clone(), key.clone())).collect()
    }
}

/// In the words of the log: a reason for programs, and whose fault it is.
fn refusal(refused: &Refused) -> admit::Refusal {
    let message = refused.to_string();
    match refused {
        Refused::Record(_) => admit::Refusal { fault: Fault::Envelope, reason: "BadRecord", message },
        Refused::Signature(_) | Refused::Signer { .. } => {
            admit::Refusal { fault: Fault::Envelope, reason: "BadSigner", message }
        }
        Refused::Revoked(_) => admit::Refusal::conflict("Revoked", message),
        Refused::KeyTaken { .. } => admit::Refusal::conflict("KeyTaken", message),
        Refused::Unknown { .. } => admit::Refusal::conflict("Unknown", message),
        Refused::Known { .. } => admit::Refusal::conflict("Known", message),
        Refused::OldEpoch { .. } => admit::Refusal::conflict("OldEpoch", message),
        Refused::GrantEnded(_) => admit::Refusal::conflict("GrantEnded", message),
        Refused::GrantLive(_) => admit::Refusal::conflict("GrantLive", message),
        Refused::JobEnded => admit::Refusal::conflict("JobEnded", message),
        Refused::Differs { .. } => admit::Refusal::conflict("Differs", message),
        // The job's audits come first: the same record is good later.
        Refused::WindowFull(_) => admit::Refusal::conflict("WindowFull", message),
        Refused::Ahead(_) => admit::Refusal::conflict("AwaitsVerdicts", message),
        Refused::TooEarly(_) => admit::Refusal::conflict("TooEarly", message),
        Refused::Decided => admit::Refusal::conflict("Decided", message),
        Refused::Replaced => admit::Refusal::conflict("Replaced", message),
        Refused::DoesNotOpen => admit::Refusal::conflict("DoesNotOpen", message),
        _ => admit::Refusal::conflict("OutOfPlace", message),
    }
}

/// Whether a caller may read a record of this kind. What one auditor has found, the next may have to find by itself: openings are
/// for the hub, and for the job's tenant (docs/spec/gateway.md section 12).
#[must_use]
pub fn may_read(member: &Member, envelope: &Envelope) -> bool {
    let secret = [Opening::PAYLOAD_TYPE, AuditOpening::PAYLOAD_TYPE];
    matches!(member, Member::Hub { .. }) || !secret.contains(&envelope.payload_type())
}

/// Whether a caller may bring a record of this kind here at all.
///
/// # Errors
/// 403 `NotHere`.
pub fn may_submit(member: &Member, envelope: &Envelope) -> Result<(), Refusal> {
    let kind = envelope.payload_type();
    let by_agents = [
        KeyBinding::PAYLOAD_TYPE,
        Opening::PAYLOAD_TYPE,
        AuditSeal::PAYLOAD_TYPE,
        AuditOpening::PAYLOAD_TYPE,
    ];
    // A state counts only after its blobs were read back, whoever brings it.
    let states = [Commit::PAYLOAD_TYPE, Failure::PAYLOAD_TYPE];
    let may = match member {
        Member::Agent { .. } => by_agents.contains(&kind),
        Member::Hub { .. } => !states.contains(&kind),
    };
    if may {
        return Ok(());
    }
    let text = match states.contains(&kind) {
        true => {
            "commits go to /v1/units/{unit}/checkpoints/{step}, failures to /v1/units/{unit}/failures/{step}"
                .to_owned()
        }
        false => format!("a record of type {kind:?} is not for this caller to log"),
    };
    Err(Refusal::new(StatusCode::FORBIDDEN, "NotHere", text))
}
