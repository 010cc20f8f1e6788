//! What a log signs: c2sp.org/tlog-checkpoint. The text of a note with these lines:
//!
//! ```text
//! <origin>
//! <tree size, decimal>
//! <root hash, base64>
//! <extension lines, if any, none of them empty>
//! ```
//!
//! The origin is the log's name and the name of its key: a checkpoint that is signed under another name is
//! not the log's.

use std::fmt;

use super::note::{self, MAX_NAME, Note, NoteKey, VerifierKey};
use super::{MAX_SIZE, decimal, hash_from_base64, hash_to_base64};
use crate::Digest;

/// Most bytes of a checkpoint's text: origin, size, root and extension lines.
pub const MAX_TEXT: usize = 4096;

/// Why a checkpoint is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Not a signed note, or not signed by the log.
    #[error(transparent)]
    Note(#[from] note::Error),
    /// The text is longer than [`MAX_TEXT`].
    #[error("the checkpoint's text has {0} bytes, at most {MAX_TEXT} are read")]
    TooLong(usize),
    /// The first line is empty, too long, or has control characters.
    #[error("the checkpoint's origin (line 1) must have 1 to {MAX_NAME} bytes without control characters")]
    Origin,
    /// The second line is not a number below 2^63 in its one spelling.
    #[error("the checkpoint's size (line 2) must be a decimal number below 2^63 without leading zeros")]
    Size,
    /// The third line is not the base64 of 32 bytes.
    #[error("the checkpoint's root (line 3) must be the base64 of 32 bytes")]
    Root,
    /// A tree without leaves has one root.
    #[error("the checkpoint says size 0, but its root is not SHA-256 of nothing")]
    EmptyRoot,
    /// An extension line is empty or has control characters.
    #[error("an extension line of the checkpoint is empty or has control characters")]
    Extension,
    /// None of the reader's logs has this origin.
    #[error("the checkpoint is of {0:?}, which is not a log that is known here")]
    UnknownOrigin(String),
}

/// The head of a log: how many leaves, under which root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    origin: String,
    size: u64,
    root: Digest,
    extensions: Vec<String>,
}

impl Checkpoint {
    /// A head without extension lines.
    ///
    /// # Errors
    /// [`Error::Origin`], [`Error::Size`], [`Error::EmptyRoot`].
    pub fn new(origin: &str, size: u64, root: Digest) -> Result<Self, Error> {
        if origin.is_empty() || origin.len() > MAX_NAME || !is_line(origin) {
            return Err(Error::Origin);
        }
        if size > MAX_SIZE {
            return Err(Error::Size);
        }
        if size == 0 && root != Digest::of(b"") {
            return Err(Error::EmptyRoot);
        }
        Ok(Self { origin: origin.to_owned(), size, root, extensions: Vec::new() })
    }

    /// The head with one more extension line. Witnesses and verifiers carry it and do not read it.
    ///
    /// # Errors
    /// [`Error::Extension`], [`Error::TooLong`].
    pub fn with_extension(mut self, line: &str) -> Result<Self, Error> {
        if line.is_empty() || !is_line(line) {
            return Err(Error::Extension);
        }
        self.extensions.push(line.to_owned());
        let length = self.to_string().len();
        if length > MAX_TEXT { Err(Error::TooLong(length)) } else { Ok(self) }
    }

    /// Reads the text of a note.
    ///
    /// # Errors
    /// Every line is checked; there is one spelling.
    pub fn parse(text: &str) -> Result<Self, Error> {
        if text.len() > MAX_TEXT {
            return Err(Error::TooLong(text.len()));
        }
        let text = text.strip_suffix('\n').ok_or(note::Error::Shape)?;
        let mut lines = text.split('\n');
        let origin = lines.next().ok_or(Error::Origin)?;
        let size = lines.next().and_then(decimal).ok_or(Error::Size)?;
        let root = lines.next().and_then(hash_from_base64).ok_or(Error::Root)?;
        let mut checkpoint = Self::new(origin, size, root)?;
        for line in lines {
            if line.is_empty() || !is_line(line) {
                return Err(Error::Extension);
            }
            checkpoint.extensions.push(line.to_owned());
        }
        Ok(checkpoint)
    }

    /// The log's name.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// How many leaves the tree has; below 2^63.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The root over these leaves.
    pub fn root(&self) -> &Digest {
        &self.root
    }

    /// The extension lines, without newlines.
    pub fn extensions(&self) -> &[String] {
        &self.extensions
    }
}

/// The text with its last newline, as [`Checkpoint::parse`] reads it.
impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n{}\n{}", self.origin, self.size, hash_to_base64(&self.root))?;
        self.extensions.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

/// A checkpoint whose log's signature was verified or made, with all its signatures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedCheckpoint {
    checkpoint: Checkpoint,
    note: Note,
}

impl SignedCheckpoint {
    /// Signs a head with the key of its log, whose name is the origin.
    ///
    /// # Errors
    /// [`Error::UnknownOrigin`] for another log's key, [`Error::Note`] for a witness's key.
    pub fn sign(checkpoint: Checkpoint, key: &NoteKey) -> Result<Self, Error> {
        if checkpoint.origin != key.public().name().as_str() {
            return Err(Error::UnknownOrigin(checkpoint.origin));
        }
        let note = Note::sign(&checkpoint.to_string(), key)?;
        Ok(Self { checkpoint, note })
    }

    /// Reads a checkpoint that one of `logs` signed. Cosignatures are carried along, not verified.
    ///
    /// # Errors
    /// [`Error::UnknownOrigin`] if no key has its origin as name; [`Error::Note`] if none of those signed,
    /// or if a signature in the name of one does not verify; else what is malformed.
    pub fn open(bytes: &[u8], logs: &[VerifierKey]) -> Result<Self, Error> {
        let note = Note::parse(bytes)?;
        let checkpoint = Checkpoint::parse(note.text())?;
        let mut not_signed = None;
        let mut signed = false;
        for key in logs.iter().filter(|key| key.name().as_str() == checkpoint.origin) {
            match note.verify(key) {
                Ok(()) => signed = true,
                Err(error @ note::Error::NotSigned { .. }) => not_signed = Some(error),
                Err(error) => return Err(error.into()),
            }
        }
        match not_signed {
            _ if signed => Ok(Self { checkpoint, note }),
            Some(error) => Err(error.into()),
            None => Err(Error::UnknownOrigin(checkpoint.origin)),
        }
    }

    /// What is signed.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The note with all its signatures.
    pub fn note(&self) -> &Note {
        &self.note
    }

    /// Replaces the signatures; text and log's signature must be the same.
    pub(super) fn set_note(&mut self, note: Note) {
        self.note = note;
    }
}

/// The note's bytes, as [`SignedCheckpoint::open`] reads them.
impl fmt::Display for SignedCheckpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.note.fmt(f)
    }
}

fn is_line(text: &str) -> bool {
    text.bytes().all(|byte| byte >= 0x20)
}

#[cfg(test)]
mod tests;
