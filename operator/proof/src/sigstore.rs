//! Sigstore's bundle v0.3: an envelope, whose key made it, and the log's proof, in one file that other tools verify
//! (docs/spec/checkpoint.md, "Bundles").
//!
//! Narrower than Sigstore's: a key and no certificate, one DSSE envelope with one signature, none or one log entry, no
//! timestamps, strings in one spelling, no unknown fields. The log's time is not trusted, so `integratedTime` is left
//! out.
//!
//! What is checked, and against what:
//!
//! ```text
//! envelope             a trusted key's signature over the PAE
//! hint                 the hex SHA-256 of that key's PEM, as Model Signing wants it
//! canonicalizedBody    this envelope's record id, this signature, this key
//! inclusionProof       the body's leaf is number logIndex of treeSize under rootHash
//! checkpoint           signed by the log that the verifier brings; origin, size and root as in the proof
//! logId                SHA-256 of the log's name, newline, algorithm and key: all 32 bytes of its key id
//! ```

use sha2::{Digest as _, Sha256};

use crate::dsse::{self, Envelope, Verified};
use crate::key::{self, PublicKey};
use crate::tlog::MAX_PROOF;
use crate::tlog::checkpoint::{self, SignedCheckpoint};
use crate::tlog::entry::{self, Entry};
use crate::tlog::note::VerifierKey;
use crate::{Digest, jcs, merkle};

mod json;

/// Most bytes of a bundle.
pub const MAX_BUNDLE: usize = 2 << 20;

/// Why a bundle is not accepted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Longer than [`MAX_BUNDLE`].
    #[error("bundle has {0} bytes, at most {MAX_BUNDLE} are accepted")]
    TooLong(usize),
    /// Not the JSON of a bundle v0.3 with a key and an envelope.
    #[error("not a Sigstore bundle v0.3 of this profile: {0}")]
    Malformed(#[from] jcs::Error),
    /// Not one signature: tools look at the first and no other.
    #[error("dsseEnvelope has {0} signatures, want 1")]
    Signatures(usize),
    /// More than one log entry.
    #[error("verificationMaterial.tlogEntries has {0} entries, want none or 1")]
    Entries(usize),
    /// Longer than any tree is high.
    #[error("inclusionProof.hashes has {0} hashes, want at most {MAX_PROOF}")]
    Path(usize),
    /// Not signed by a trusted key, or of another type.
    #[error("dsseEnvelope: {0}")]
    Envelope(#[from] dsse::Error),
    /// The key has no standard encoding. Does not happen with valid keys.
    #[error("publicKey: {0}")]
    Key(#[from] key::Error),
    /// The envelope is by another key than the caller says.
    #[error("dsseEnvelope is signed by key {got}, not by {want}")]
    Signer {
        /// The key that the signature names.
        got: Digest,
        /// The caller's key.
        want: Digest,
    },
    /// The hint is of another key than the one that signed.
    #[error("publicKey.hint is {got:?}, but the key that signed has {want:?}")]
    Hint {
        /// What the bundle says.
        got: String,
        /// The hint of the key that signed.
        want: String,
    },
    /// There is no log entry.
    #[error("the bundle has no log entry; log its envelope and add the proof")]
    NotLogged,
    /// The body is not an entry.
    #[error("canonicalizedBody: {0}")]
    Entry(#[from] entry::Error),
    /// The entry is of something else.
    #[error("canonicalizedBody has another {0} than the envelope")]
    OtherEntry(&'static str),
    /// The checkpoint is malformed or not signed by the log.
    #[error("inclusionProof.checkpoint: {0}")]
    Checkpoint(#[from] checkpoint::Error),
    /// A field of the entry says something else than the checkpoint and the log's key.
    #[error("tlogEntries: {field} is {got}, but {by} says {want}")]
    Differs {
        /// The field.
        field: &'static str,
        /// What it says.
        got: String,
        /// Who says otherwise.
        by: &'static str,
        /// What that is.
        want: String,
    },
    /// The hashes do not lead from the entry to the root.
    #[error("inclusionProof: the hashes do not show entry {index} in the tree of {size} under {root}")]
    NotIncluded {
        /// The index.
        index: u64,
        /// The size of the tree.
        size: u64,
        /// Its root.
        root: Digest,
    },
}

/// The hint of a key: the hex SHA-256 of its SPKI in PEM, with newlines and one at the end. Model Signing's verifier
/// refuses every other.
///
/// # Errors
/// [`Error::Key`].
pub fn hint(key: &PublicKey) -> Result<String, Error> {
    Ok(Digest::of(key.to_pem()?.as_bytes()).to_hex())
}

/// The id of a log in a bundle: SHA-256 of its name, a newline, the algorithm and the key. The four bytes of a key id in
/// a note are its beginning.
pub fn log_id(log: &VerifierKey) -> Digest {
    let mut sha = Sha256::new();
    sha.update(log.name().as_str().as_bytes());
    sha.update([b'\n', log.algorithm() as u8]);
    sha.update(log.public());
    Digest::from_bytes(sha.finalize().into())
}

/// A log entry with its proof, as it stands in a bundle: what [`Bundle::verify_logged`] checks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    log: Digest,
    index: u64,
    size: u64,
    root: Digest,
    path: Vec<Digest>,
    checkpoint: String,
    body: Vec<u8>,
}

impl LogEntry {
    /// The entry with this index and the path of its leaf to the root of `checkpoint`, which `log` signed.
    ///
    /// # Errors
    /// [`Error::NotIncluded`], [`Error::Checkpoint`].
    pub fn new(
        entry: &Entry,
        index: u64,
        path: Vec<Digest>,
        checkpoint: &SignedCheckpoint,
        log: &VerifierKey,
    ) -> Result<Self, Error> {
        let head = checkpoint.checkpoint();
        let this = Self {
            log: log_id(log),
            index,
            size: head.size(),
            root: *head.root(),
            path,
            checkpoint: checkpoint.to_string(),
            body: entry.body().to_vec(),
        };
        this.verify(log)?;
        Ok(this)
    }

    /// Checks everything but whose entry it is.
    fn verify(&self, log: &VerifierKey) -> Result<(Entry, SignedCheckpoint), Error> {
        let want = log_id(log);
        differs("logId.keyId", self.log, "the log's key", want)?;
        let checkpoint = SignedCheckpoint::open(self.checkpoint.as_bytes(), std::slice::from_ref(log))?;
        let head = checkpoint.checkpoint();
        differs("inclusionProof.treeSize", self.size, "the checkpoint", head.size())?;
        differs("inclusionProof.rootHash", self.root, "the checkpoint", *head.root())?;
        let Self { index, size, root, .. } = *self;
        let entry = Entry::parse(&self.body)?;
        if !merkle::verify(&root, index, size, &entry.leaf(), &self.path) {
            return Err(Error::NotIncluded { index, size, root });
        }
        Ok((entry, checkpoint))
    }
}

fn differs<T: PartialEq + ToString>(
    field: &'static str,
    got: T,
    by: &'static str,
    want: T,
) -> Result<(), Error> {
    if got == want {
        return Ok(());
    }
    Err(Error::Differs { field, got: got.to_string(), by, want: want.to_string() })
}

/// What the log says of an envelope, verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logged {
    /// Its place in the log, from 0.
    pub index: u64,
    /// The entry.
    pub entry: Entry,
    /// The log's head, with cosignatures for the reader's policy.
    pub checkpoint: SignedCheckpoint,
}

/// A bundle. What it says is not verified until [`Bundle::verify`] and [`Bundle::verify_logged`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    hint: String,
    envelope: Envelope,
    entry: Option<LogEntry>,
}

impl Bundle {
    /// A bundle of this envelope, which `key` signed and no other.
    ///
    /// # Errors
    /// [`Error::Signatures`], [`Error::Signer`], [`Error::Key`].
    pub fn new(envelope: Envelope, key: &PublicKey) -> Result<Self, Error> {
        let (got, want) = (only_signature(&envelope)?.keyid, key.key_id());
        if got != want {
            return Err(Error::Signer { got, want });
        }
        Ok(Self { hint: hint(key)?, envelope, entry: None })
    }

    /// The bundle with this log entry instead of the one it has, if any.
    #[must_use]
    pub fn with_entry(self, entry: LogEntry) -> Self {
        Self { entry: Some(entry), ..self }
    }

    /// The envelope, not verified.
    pub fn envelope(&self) -> &Envelope {
        &self.envelope
    }

    /// Whether the bundle claims to be logged.
    pub fn has_entry(&self) -> bool {
        self.entry.is_some()
    }

    /// Checks that the envelope is of this type and signed by one of `trusted`, and that the hint is that key's. Gives
    /// the payload and the key.
    ///
    /// # Errors
    /// [`Error::Envelope`], [`Error::Hint`].
    pub fn verify<'a>(
        &'a self,
        payload_type: &str,
        trusted: &'a [PublicKey],
    ) -> Result<(Verified<'a>, &'a PublicKey), Error> {
        let verified = self.envelope.verify(payload_type, trusted)?;
        let key = trusted.iter().find(|key| key.key_id() == verified.key_id());
        let key = key.ok_or_else(|| dsse::Error::UnknownKey(vec![verified.key_id()]))?;
        let want = hint(key)?;
        if self.hint != want {
            return Err(Error::Hint { got: self.hint.clone(), want });
        }
        Ok((verified, key))
    }

    /// Checks that `log` has the signature that `key` made on this envelope. The entry's signature is checked with it, so
    /// this shows also that `key` signed; of what type the payload has to be, [`Bundle::verify`] is asked.
    ///
    /// # Errors
    /// [`Error::NotLogged`], [`Error::Entry`], [`Error::OtherEntry`], [`Error::Checkpoint`], [`Error::Differs`],
    /// [`Error::NotIncluded`].
    pub fn verify_logged(&self, key: &PublicKey, log: &VerifierKey) -> Result<Logged, Error> {
        let logged = self.entry.as_ref().ok_or(Error::NotLogged)?;
        let (entry, checkpoint) = logged.verify(log)?;
        let signature = only_signature(&self.envelope)?;
        if entry.record_id() != self.envelope.record_id() {
            return Err(Error::OtherEntry("digest"));
        }
        if entry.signature() != signature.sig {
            return Err(Error::OtherEntry("signature"));
        }
        if entry.key() != key {
            return Err(Error::OtherEntry("key"));
        }
        Ok(Logged { index: logged.index, entry, checkpoint })
    }
}

fn only_signature(envelope: &Envelope) -> Result<&dsse::Signature, Error> {
    match envelope.signatures() {
        [one] => Ok(one),
        other => Err(Error::Signatures(other.len())),
    }
}

#[cfg(test)]
mod tests;
