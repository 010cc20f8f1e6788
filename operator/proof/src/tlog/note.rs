//! Signed notes: c2sp.org/signed-note. A text, an empty line, and one line for each signature:
//!
//! ```text
//! — <key name> <base64 of key id (4 bytes) || signature>
//! key id = SHA-256(key name || "\n" || algorithm || public key), its first 4 bytes
//! ```
//!
//! A key is known by its name and id together. Signatures of unknown keys are carried along and believed
//! nothing; a signature in the name of a known key that does not verify condemns the whole note. There is
//! one spelling of each note, so what was read prints as the same bytes.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

mod key;

pub use key::{Algorithm, KeyId, KeyName, NoteKey, VerifierKey};

/// Most bytes of a note with its signatures.
pub const MAX_NOTE: usize = 1 << 20;
/// Most signatures on a note.
pub const MAX_SIGNATURES: usize = 64;
/// Most bytes of a key's name.
pub const MAX_NAME: usize = 255;

/// What a signature line starts with: an em dash and a space.
const DASH: &str = "\u{2014} ";

/// Why a note or a key is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Longer than [`MAX_NOTE`].
    #[error("the note has {0} bytes, at most {MAX_NOTE} are read")]
    TooLong(usize),
    /// Not UTF-8, or a control character that is no newline.
    #[error("the note is not UTF-8 text without control characters; it must be fetched and kept as bytes")]
    Text,
    /// Not text, empty line, signature lines.
    #[error("not a signed note: want a text, an empty line and signature lines that end in newlines")]
    Shape,
    /// A line after the empty line that is no signature.
    #[error("signature line {line} of the note: {why}")]
    Line {
        /// Counted from 1, after the empty line.
        line: usize,
        /// What is wrong.
        why: &'static str,
    },
    /// More than [`MAX_SIGNATURES`].
    #[error("the note has more than {MAX_SIGNATURES} signatures")]
    TooManySignatures,
    /// A key's name is empty, too long, or has a space, a plus or a control character.
    #[error("a key name has 1 to {MAX_NAME} bytes without spaces, `+` and control characters")]
    Name,
    /// Not `<name>+<key id>+<base64>` of a key that can be used here.
    #[error("not a verifier key: {0}; want `<name>+<8 hex digits>+<base64>`")]
    VerifierKey(&'static str),
    /// Not `PRIVATE+KEY+<name>+<key id>+<base64>` of a key that can be used here.
    #[error("not a private note key: {0}; want `PRIVATE+KEY+<name>+<8 hex digits>+<base64>`")]
    PrivateKey(&'static str),
    /// A log's key where a witness's belongs, or the other way round.
    #[error("{name} is {got}, want {want}")]
    Algorithm {
        /// The key's name.
        name: KeyName,
        /// Its algorithm.
        got: Algorithm,
        /// What the signature needs.
        want: Algorithm,
    },
    /// No signature has the key's name and id.
    #[error("the note is not signed by {name} (key id {id})")]
    NotSigned {
        /// The key's name.
        name: KeyName,
        /// Its id.
        id: KeyId,
    },
    /// A signature in the key's name is not its own.
    #[error("the signature of {name} (key id {id}) does not verify")]
    BadSignature {
        /// The key's name.
        name: KeyName,
        /// Its id.
        id: KeyId,
    },
}

/// One signature line, not verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    name: KeyName,
    id: KeyId,
    /// What follows the key id; at least one byte.
    bytes: Vec<u8>,
}

impl Signature {
    /// A signature of a key; `bytes` is what its algorithm gives.
    pub(super) fn new(name: KeyName, id: KeyId, bytes: Vec<u8>) -> Self {
        Self { name, id, bytes }
    }

    /// The name of the key that is said to have signed.
    pub fn name(&self) -> &KeyName {
        &self.name
    }

    /// The id of that key.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// The signature without the key id.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether it is in the name of `key`.
    pub fn is_by(&self, key: &VerifierKey) -> bool {
        self.name == *key.name() && self.id == key.id()
    }

    /// Reads one line without its newline.
    fn parse(line: &str) -> Result<Self, &'static str> {
        let rest = line.strip_prefix(DASH).ok_or("want an em dash and a space first")?;
        let (name, base64) = rest.split_once(' ').ok_or("want a key name, a space and base64")?;
        let name = KeyName::new(name).map_err(|_| "the key name is malformed")?;
        let blob = STANDARD.decode(base64).map_err(|_| "the signature is not base64 with padding")?;
        match blob.split_first_chunk::<4>() {
            Some((id, bytes)) if !bytes.is_empty() => {
                Ok(Self { name, id: KeyId::from_bytes(*id), bytes: bytes.to_vec() })
            }
            _ => Err("the signature has no more than a key id"),
        }
    }
}

/// The line with its newline, as it stands in a note.
impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let blob = [self.id.as_bytes(), self.bytes.as_slice()].concat();
        writeln!(f, "{DASH}{} {}", self.name, STANDARD.encode(blob))
    }
}

/// Reads signature lines alone, each ended by a newline: the answer of a witness.
///
/// # Errors
/// [`Error::TooLong`], [`Error::Text`], [`Error::Shape`], [`Error::Line`], [`Error::TooManySignatures`].
pub fn parse_signatures(bytes: &[u8]) -> Result<Vec<Signature>, Error> {
    lines(text(bytes)?)
}

/// A text and who is said to have signed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    text: String,
    signatures: Vec<Signature>,
}

impl Note {
    /// Signs `text`, which ends in a newline, with a log's key.
    ///
    /// # Errors
    /// [`Error::Text`], [`Error::Shape`] and [`Error::TooLong`] for a text that no note may have,
    /// [`Error::Algorithm`] for a witness's key.
    pub fn sign(text: &str, key: &NoteKey) -> Result<Self, Error> {
        key.public().must_be(Algorithm::Ed25519)?;
        self::text(text.as_bytes())?;
        if !text.ends_with('\n') {
            return Err(Error::Shape);
        }
        let signature = key.signature(key.sign(text.as_bytes()).to_vec());
        let mut note = Self { text: text.to_owned(), signatures: Vec::new() };
        note.push(signature)?;
        Ok(note)
    }

    /// Reads a note; nothing is verified.
    ///
    /// # Errors
    /// [`Error::TooLong`], [`Error::Text`], [`Error::Shape`], [`Error::Line`], [`Error::TooManySignatures`].
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        // The text may have empty lines itself: the last one separates.
        let (body, signatures) = text(bytes)?.rsplit_once("\n\n").ok_or(Error::Shape)?;
        Ok(Self { text: format!("{body}\n"), signatures: lines(signatures)? })
    }

    /// The text with its last newline: what is signed.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// All signatures, known and unknown, in their order.
    pub fn signatures(&self) -> &[Signature] {
        &self.signatures
    }

    /// Whether a log's `key` signed the text. Every signature in its name must verify.
    ///
    /// # Errors
    /// [`Error::Algorithm`], [`Error::NotSigned`], [`Error::BadSignature`].
    pub fn verify(&self, key: &VerifierKey) -> Result<(), Error> {
        key.must_be(Algorithm::Ed25519)?;
        let mut signed = false;
        for signature in self.signatures.iter().filter(|signature| signature.is_by(key)) {
            if !key.verify(self.text.as_bytes(), &signature.bytes) {
                return Err(key.bad_signature());
            }
            signed = true;
        }
        if signed { Ok(()) } else { Err(Error::NotSigned { name: key.name().clone(), id: key.id() }) }
    }

    /// Adds a signature line, verified or not.
    ///
    /// # Errors
    /// [`Error::TooManySignatures`] and [`Error::TooLong`]; the note is then as it was.
    pub(super) fn push(&mut self, signature: Signature) -> Result<(), Error> {
        if self.signatures.len() >= MAX_SIGNATURES {
            return Err(Error::TooManySignatures);
        }
        self.signatures.push(signature);
        let length = self.to_string().len();
        if length > MAX_NOTE {
            self.signatures.pop();
            return Err(Error::TooLong(length));
        }
        Ok(())
    }

    /// Removes the signatures in the name of `key`.
    pub(super) fn remove(&mut self, key: &VerifierKey) {
        self.signatures.retain(|signature| !signature.is_by(key));
    }
}

/// The note's bytes, as [`Note::parse`] reads them.
impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.text)?;
        self.signatures.iter().try_for_each(|signature| signature.fmt(f))
    }
}

/// Bytes as the text that a note may have.
fn text(bytes: &[u8]) -> Result<&str, Error> {
    if bytes.len() > MAX_NOTE {
        return Err(Error::TooLong(bytes.len()));
    }
    if bytes.iter().any(|byte| *byte < 0x20 && *byte != b'\n') {
        return Err(Error::Text);
    }
    std::str::from_utf8(bytes).map_err(|_| Error::Text)
}

/// Reads one or more signature lines.
fn lines(text: &str) -> Result<Vec<Signature>, Error> {
    let text = text.strip_suffix('\n').ok_or(Error::Shape)?;
    let mut signatures = Vec::new();
    for (at, line) in text.split('\n').enumerate() {
        if at >= MAX_SIGNATURES {
            return Err(Error::TooManySignatures);
        }
        signatures.push(Signature::parse(line).map_err(|why| Error::Line { line: at + 1, why })?);
    }
    Ok(signatures)
}

#[cfg(test)]
mod tests;
