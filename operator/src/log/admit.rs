//! What may enter the log is the caller's to say: the log asks just before it gives an entry its index, in the order of the log,
//! and never twice about one record. What it checks itself is the first signature: it becomes part of the leaf.
use muster_proof::dsse::Envelope;
use muster_proof::key::PublicKey;

/// Whose fault a refusal is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The envelope's own: it will never be taken.
    Envelope,
    /// It contradicts what the log says already.
    Conflict,
}

/// Why a record does not enter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {message}")]
pub struct Refusal {
    /// Of the envelope, or of its place in the log.
    pub fault: Fault,
    /// A CamelCase word for programs.
    pub reason: &'static str,
    /// A sentence for people, with the remedy.
    pub message: String,
}

impl Refusal {
    /// The envelope is wrong in itself.
    pub fn envelope(reason: &'static str, message: impl Into<String>) -> Self {
        Self { fault: Fault::Envelope, reason, message: message.into() }
    }

    /// The log says something else already.
    pub fn conflict(reason: &'static str, message: impl Into<String>) -> Self {
        Self { fault: Fault::Conflict, reason, message: message.into() }
    }
}

/// Decides, and keeps what it needs of the log so far. Called by one thread, first with all that is in the log.
pub trait Admit: Send + 'static {
    /// The key that made the envelope's first signature, as far as its id says. `known` are keys for which the submitter's
    /// connection stands; of a record that is in the log already, the key in its leaf.
    fn signer(&self, envelope: &Envelope, known: &[PublicKey]) -> Option<PublicKey> {
        let first = envelope.signatures().first()?;
        known.iter().find(|key| key.key_id() == first.keyid).cloned()
    }

    /// Whether the record may have this index; its first signature verifies with what [`Admit::signer`] named. A record that
    /// was admitted may still be lost with a disk that fails; then the whole log is opened anew.
    ///
    /// # Errors
    /// [`Refusal`]; then nothing has changed.
    fn admit(&mut self, index: u64, envelope: &Envelope) -> Result<(), Refusal>;
}

/// Takes every record whose first signature verifies with a key for which the submitter's connection stands.
#[derive(Debug, Default, Clone, Copy)]
pub struct WellFormed;

impl Admit for WellFormed {
    fn admit(&mut self, _: u64, _: &Envelope) -> Result<(), Refusal> {
        Ok(())
    }
}
