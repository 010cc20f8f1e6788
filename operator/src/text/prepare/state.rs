//! How far a preparation has come: a small file, replaced whole, that says what is on the disk beside it.
use super::Error;
use crate::text::Tokenizer;
use crate::text::cut::Split;
use muster_proof::{Digest, jcs};
use muster_trainer::dataset::Mark;
use muster_trainer::files::{self, read_at_most};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The file's name.
pub const STATE_FILE: &str = "state.json";
/// It is far smaller.
const MAX_STATE: u64 = 4096;
const FORMAT: &str = "muster.prepare/1";

/// So much of the inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Files that are done.
    pub inputs: usize,
    /// And bytes of the next.
    pub offset: u64,
    /// SHA-256 of their bytes, with u64le of the length after each file that is done.
    pub digest: Digest,
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct State {
    format: String,
    tokenizer: String,
    end_of_text: Option<u32>,
    split: Split,
    inputs: usize,
    offset: u64,
    digest: Digest,
    tokens: u64,
    root: Digest,
}

impl State {
    /// What is durable.
    pub fn new(tokenizer: &Tokenizer, split: Split, place: &Place, mark: &Mark) -> Self {
        Self {
            format: FORMAT.into(),
            tokenizer: tokenizer.text().tokenizer().to_string(),
            end_of_text: tokenizer.end(),
            split,
            inputs: place.inputs,
            offset: place.offset,
            digest: place.digest,
            tokens: mark.tokens,
            root: mark.root,
        }
    }

    /// Reads the file's bytes.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let state: Self = jcs::deserialize_canonical(bytes).map_err(|error| error.to_string())?;
        if state.format != FORMAT {
            return Err(format!("format is {:?}, not {FORMAT:?}", state.format));
        }
        Ok(state)
    }

    /// The file's bytes.
    ///
    /// # Errors
    /// A number that canonical JSON cannot have.
    pub fn to_bytes(&self) -> Result<Vec<u8>, String> {
        jcs::serialize(self).map_err(|error| error.to_string())
    }

    /// That of a directory, if it has one.
    pub fn read(dir: &Path) -> Result<Option<Self>, Error> {
        let path = dir.join(STATE_FILE);
        let bytes = match read_at_most(&path, MAX_STATE) {
            Err(error) if error.is_missing() => return Ok(None),
            other => other?,
        };
        let unusable = |problem| Error::State { path: path.display().to_string(), problem };
        Self::parse(&bytes).map(Some).map_err(unusable)
    }

    /// Replaces that of a directory.
    pub fn write(&self, dir: &Path) -> Result<(), Error> {
        let path = dir.join(STATE_FILE);
        let unusable = |problem| Error::State { path: path.display().to_string(), problem };
        Ok(files::write_atomic(&path, &self.to_bytes().map_err(unusable)?)?)
    }

    /// Refuses to go on with other options: the result would be neither's.
    pub fn check(&self, tokenizer: &Tokenizer, split: Split) -> Result<(), Error> {
        let now = Self::new(tokenizer, split, &self.place(), &self.mark());
        let differ = |what: &'static str| Err(Error::Options { what });
        match () {
            () if now.tokenizer != self.tokenizer => differ("--tokenizer"),
            () if now.end_of_text != self.end_of_text => differ("--end-of-text"),
            () if now.split != self.split => differ("--split"),
            () => Ok(()),
        }
    }

    /// What of the inputs is done.
    pub fn place(&self) -> Place {
        Place { inputs: self.inputs, offset: self.offset, digest: self.digest }
    }

    /// What of the stream is durable.
    pub fn mark(&self) -> Mark {
        Mark { tokens: self.tokens, root: self.root }
    }
}
