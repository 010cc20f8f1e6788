//! `model.sig`: the files of a checkpoint, signed so that OpenSSF Model Signing v1.0 verifies them
//! (docs/spec/checkpoint.md, "model.sig"). An in-toto statement v1 in a DSSE envelope in a Sigstore bundle.
//!
//! ```text
//! resources       each file with its SHA-256, sorted by the parts of the path
//! subject digest  SHA-256 of the resources' digests (32 bytes each), in this order
//! ignore_paths    the files beside: IGNORED, and no others
//! ```
//!
//! Of the format's choices one is made: method `files`, SHA-256, no symbolic links. The statement is canonical
//! JSON and closed; names are such that no file system reads them as something else.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::dsse::{self, Envelope};
use crate::key::{PublicKey, SigningKey};
use crate::sigstore::{self, Bundle};
use crate::{Digest, jcs};

mod statement;

/// The payload type of an in-toto statement.
pub const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";
/// The file that holds the bundle, in the directory that it speaks of.
pub const FILE: &str = "model.sig";
/// What lies beside the signed files and is not signed: the bundle itself, the log's proof of it, and the log's
/// proof of the commit that the checkpoint belongs to. Verifiers skip exact names and no patterns, so the list is
/// fixed before any of them exists; what may be added after the signature has a name here.
pub const IGNORED: [&str; 3] = ["commit.tlog-proof", "model.sig", "model.tlog-proof"];
/// Most files of a statement.
pub const MAX_FILES: usize = 4096;
/// Most bytes of a file's name with its directories.
pub const MAX_NAME: usize = 255;

/// Why files are not signed, or not what was signed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The bundle is malformed or not signed by a trusted key.
    #[error("{FILE}: {0}")]
    Bundle(#[from] sigstore::Error),
    /// The envelope could not be made.
    #[error("{FILE}: {0}")]
    Envelope(#[from] dsse::Error),
    /// Signed, but not a statement of this profile.
    #[error("{FILE}: the statement is signed but malformed: {0}")]
    Statement(#[from] jcs::Error),
    /// No files, or more than [`MAX_FILES`].
    #[error("{FILE}: {0} files, want 1 to {MAX_FILES}")]
    Count(usize),
    /// A name that could mean another file.
    #[error(
        "file {0:?}: want at most {MAX_NAME} bytes of parts split by `/`, each of letters, digits, `.`, `_`, `-`, \
         none beginning with `.` or `-`; rename it"
    )]
    Name(String),
    /// The name of the model is not one part of a path.
    #[error("model name {0:?}: want letters, digits, `.`, `_`, `-`, not beginning with `.` or `-`")]
    ModelName(String),
    /// One of [`IGNORED`] among the signed files.
    #[error("file {0:?} lies beside the signed files and cannot be one of them; leave it out")]
    Ignored(String),
    /// A file is named twice.
    #[error("file {0:?} is named twice")]
    Twice(String),
    /// The statement's resources are not in their order.
    #[error("{FILE}: file {0:?} is not in its place; resources are sorted by the parts of their paths")]
    Order(String),
    /// `ignore_paths` is not [`IGNORED`].
    #[error("{FILE}: serialization.ignore_paths is {0:?}, want {IGNORED:?}")]
    IgnorePaths(Vec<String>),
    /// Not one subject.
    #[error("{FILE}: the statement has {0} subjects, want 1")]
    Subjects(usize),
    /// The subject's digest is not that of the resources.
    #[error("{FILE}: subject.digest is {got}, but the resources hash to {want}")]
    Subject {
        /// What the statement says.
        got: Digest,
        /// What follows from its resources.
        want: Digest,
    },
    /// A signed file is not there.
    #[error("file {0:?} is signed but missing; fetch the checkpoint again")]
    Missing(String),
    /// A file is there that was not signed.
    #[error("file {0:?} is not signed; remove it")]
    Extra(String),
    /// A file has other bytes than those signed.
    #[error("file {name:?} has {got}, but {want} is signed; fetch the checkpoint again")]
    Changed {
        /// The file.
        name: String,
        /// Its digest now.
        got: Digest,
        /// The digest that was signed.
        want: Digest,
    },
}

/// Which files make up a model, as the statement says it. Not empty, sorted, each safe name once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    model: String,
    files: Vec<(String, Digest)>,
}

impl Files {
    /// The files with these names (relative, `/` between parts) and SHA-256 digests, in any order. `model` is the
    /// name of the directory; it only informs.
    ///
    /// # Errors
    /// [`Error::Count`], [`Error::Name`], [`Error::ModelName`], [`Error::Ignored`], [`Error::Twice`].
    pub fn new(model: &str, files: &[(&str, Digest)]) -> Result<Self, Error> {
        let mut files: Vec<_> = files.iter().map(|(name, digest)| ((*name).to_owned(), *digest)).collect();
        files.sort_by(|(a, _), (b, _)| order(a, b));
        Self::sorted(model.to_owned(), files)
    }

    /// Checks all but the order, of which only equal neighbours are looked at.
    fn sorted(model: String, files: Vec<(String, Digest)>) -> Result<Self, Error> {
        if files.is_empty() || files.len() > MAX_FILES {
            return Err(Error::Count(files.len()));
        }
        if model.len() > MAX_NAME || !is_safe_part(&model) {
            return Err(Error::ModelName(model));
        }
        let mut before: Option<&str> = None;
        for (name, _) in &files {
            if name.len() > MAX_NAME || !name.split('/').all(is_safe_part) {
                return Err(Error::Name(name.clone()));
            }
            // An ignored name as a directory would hide all that is in it.
            if name.split('/').next().is_some_and(|first| IGNORED.contains(&first)) {
                return Err(Error::Ignored(name.clone()));
            }
            match before.map(|before| order(before, name)) {
                Some(std::cmp::Ordering::Equal) => return Err(Error::Twice(name.clone())),
                Some(std::cmp::Ordering::Greater) => return Err(Error::Order(name.clone())),
                _ => before = Some(name),
            }
        }
        Ok(Self { model, files })
    }

    /// The name of the model.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// Names and digests, sorted.
    pub fn as_slice(&self) -> &[(String, Digest)] {
        &self.files
    }

    /// SHA-256 over the files' digests: the subject of the statement.
    pub fn digest(&self) -> Digest {
        let digests: Vec<u8> = self.files.iter().flat_map(|(_, digest)| *digest.as_bytes()).collect();
        Digest::of(&digests)
    }

    /// Whether exactly these files are there: each once, none else, and with these digests. What is in
    /// [`IGNORED`] is not to be among `found`; a caller that lists a directory skips regular files of those names,
    /// and nothing else.
    ///
    /// # Errors
    /// [`Error::Twice`], [`Error::Extra`], [`Error::Missing`], [`Error::Changed`] name the first file that is
    /// wrong.
    pub fn check(&self, found: &[(&str, Digest)]) -> Result<(), Error> {
        let mut rest = BTreeMap::new();
        for (name, digest) in found {
            if rest.insert(*name, *digest).is_some() {
                return Err(Error::Twice((*name).to_owned()));
            }
        }
        for (name, want) in &self.files {
            let got = rest.remove(name.as_str()).ok_or_else(|| Error::Missing(name.clone()))?;
            if got != *want {
                return Err(Error::Changed { name: name.clone(), got, want: *want });
            }
        }
        match rest.into_keys().next() {
            Some(name) => Err(Error::Extra(name.to_owned())),
            None => Ok(()),
        }
    }
}

/// Signs files: the bundle to write to [`FILE`], without a log entry yet.
///
/// # Errors
/// As [`Files::new`]; [`Error::Envelope`] if the statement is longer than an envelope carries.
pub fn sign(files: &[(&str, Digest)], model: &str, key: &SigningKey) -> Result<Bundle, Error> {
    let payload = Files::new(model, files)?.to_statement()?;
    let envelope = Envelope::sign(PAYLOAD_TYPE, &payload, key)?;
    Ok(Bundle::new(envelope, key.public())?)
}

/// Files that a trusted key signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    files: Files,
    key: PublicKey,
    bundle: Bundle,
}

impl Signed {
    /// What is signed.
    pub fn files(&self) -> &Files {
        &self.files
    }

    /// Who signed.
    pub fn key(&self) -> &PublicKey {
        &self.key
    }

    /// The bundle, for its log entry: [`Bundle::verify_logged`].
    pub fn bundle(&self) -> &Bundle {
        &self.bundle
    }
}

/// Checks that one of `trusted` signed exactly the files that are there. Says nothing about the log, which
/// [`Bundle::verify_logged`] does.
///
/// # Errors
/// See [`Error`]; a wrong file is named.
pub fn verify(bundle: &[u8], files: &[(&str, Digest)], trusted: &[PublicKey]) -> Result<Signed, Error> {
    let signed = open(bundle, trusted)?;
    signed.files.check(files)?;
    Ok(signed)
}

/// Which files one of `trusted` signed; the files themselves are not looked at.
///
/// # Errors
/// See [`Error`].
pub fn open(bundle: &[u8], trusted: &[PublicKey]) -> Result<Signed, Error> {
    let bundle = Bundle::parse(bundle)?;
    let (payload, key) = bundle.verify(PAYLOAD_TYPE, trusted)?;
    let files = Files::parse_statement(payload.payload())?;
    let key = key.clone();
    Ok(Signed { files, key, bundle })
}

/// The order of resources: part by part, so that a directory's files stand together.
fn order(a: &str, b: &str) -> std::cmp::Ordering {
    a.split('/').cmp(b.split('/'))
}

/// A name that every file system and shell takes for itself. What begins with a dot is also what Model Signing's own
/// verifier skips (`.git`) and others hide.
fn is_safe_part(part: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    part.bytes().all(plain) && !part.is_empty() && !part.starts_with(['.', '-'])
}

#[cfg(test)]
mod tests;
