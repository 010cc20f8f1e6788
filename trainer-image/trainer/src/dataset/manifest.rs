//! The manifest of a dataset: canonical JSON with a closed set of fields.

use muster_proof::{Digest, jcs};
use serde::{Deserialize, Serialize};

use super::tokenizer::{Dtype, MAX_TOKENIZER, MAX_VOCABULARY, TOKENIZER_FILE, Tokenizer};
use super::{Error, SHARD_BYTES};

/// The largest manifest that is read, in bytes: about 7000 files, 450 GB of tokens.
pub const MAX_MANIFEST: u64 = 1 << 20;

const FORMAT: &str = "muster.dataset/1";

/// One file of a dataset: of the token stream, or its tokenizer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shard {
    /// File name: `tokens-%05d.bin`, numbered from 0; or `tokenizer.json`.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// SHA-256 of the file.
    pub sha256: Digest,
}

/// A checked manifest: it cannot be built but by [`Manifest::parse`] and [`Manifest::new`], so its parts agree
/// with each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Manifest {
    format: String,
    tokenizer: String,
    /// Bytes of `tokenizer.json`, where the tokenizer is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tokenizer_bytes: Option<u64>,
    vocabulary: u32,
    tokens: u64,
    dtype: String,
    root: Digest,
    shards: Vec<Shard>,
}

impl Manifest {
    /// The manifest of a stream of bytes as tokens: its Merkle root and its files in order.
    ///
    /// # Errors
    /// As [`Manifest::of`].
    pub fn new(root: Digest, shards: Vec<Shard>) -> Result<Self, Error> {
        Self::of(&Text::bytes(), root, shards)
    }

    /// The manifest of a stream of tokens: what made them, its Merkle root and its files in order.
    ///
    /// # Errors
    /// [`Error::Manifest`] when the files are not a stream cut as it must be.
    pub fn of(text: &Text, root: Digest, shards: Vec<Shard>) -> Result<Self, Error> {
        let bytes: u64 = shards.iter().map(|shard| shard.size).sum();
        let dtype = Dtype::of(text.vocabulary);
        let manifest = Self {
            format: FORMAT.into(),
            tokenizer: text.tokenizer.to_string(),
            tokenizer_bytes: text.file_bytes,
            vocabulary: text.vocabulary,
            tokens: bytes / dtype.bytes(),
            dtype: dtype.name().into(),
            root,
            shards,
        };
        manifest.check()?;
        Ok(manifest)
    }

    /// Reads the bytes of a `manifest.json`. Only the canonical form is accepted: the digest of a manifest is the
    /// digest of its bytes, and one dataset must not have two names.
    ///
    /// # Errors
    /// [`Error::Manifest`], naming the field.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() as u64 > MAX_MANIFEST {
            return Err(Error::manifest("manifest", format!("longer than {MAX_MANIFEST} bytes")));
        }
        let manifest: Self = jcs::deserialize_canonical(bytes)
            .map_err(|error| Error::manifest("manifest", error.to_string()))?;
        manifest.check()?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), Error> {
        let want = |field: &str, got: &str, want: &str| {
            if got == want {
                Ok(())
            } else {
                Err(Error::manifest(field, format!("is {got:?}, not {want:?}")))
            }
        };
        want("format", &self.format, FORMAT)?;
        let tokenizer: Tokenizer =
            self.tokenizer.parse().map_err(|problem: String| Error::manifest("tokenizer", problem))?;
        if let Some(fixed) = tokenizer.vocabulary()
            && fixed != self.vocabulary
        {
            let problem = format!("is {}, {tokenizer} has {fixed}", self.vocabulary);
            return Err(Error::manifest("vocabulary", problem));
        }
        if !(2..=MAX_VOCABULARY).contains(&self.vocabulary) {
            let problem = format!("is {}, not 2 to {MAX_VOCABULARY}", self.vocabulary);
            return Err(Error::manifest("vocabulary", problem));
        }
        let dtype = Dtype::of(self.vocabulary);
        want("dtype", &self.dtype, dtype.name())?;
        match (tokenizer, self.tokenizer_bytes) {
            (Tokenizer::File(_), Some(1..=MAX_TOKENIZER)) => {}
            (Tokenizer::Bytes | Tokenizer::Gpt2, None) => {}
            (Tokenizer::File(_), _) => {
                let problem = format!("must be there, 1 to {MAX_TOKENIZER}: the size of {TOKENIZER_FILE}");
                return Err(Error::manifest("tokenizerBytes", problem));
            }
            (..) => return Err(Error::manifest("tokenizerBytes", format!("{tokenizer} has no file"))),
        }
        if self.tokens < 2 {
            return Err(Error::manifest("tokens", "fewer than 2: there is no token to predict"));
        }
        let mut left = self
            .tokens
            .checked_mul(dtype.bytes())
            .ok_or_else(|| Error::manifest("tokens", "more than can be counted"))?;
        for (i, shard) in self.shards.iter().enumerate() {
            let (path, size) = (shard_name(i), left.min(SHARD_BYTES));
            // The names are fixed, so a manifest cannot point anywhere else.
            want(&format!("shards[{i}].path"), &shard.path, &path)?;
            if size == 0 || shard.size != size {
                let problem = format!("is {}, but {size} follow from tokens", shard.size);
                return Err(Error::manifest(format!("shards[{i}].size"), problem));
            }
            left -= size;
        }
        if left > 0 {
            return Err(Error::manifest("shards", format!("hold {left} bytes fewer than tokens says")));
        }
        Ok(())
    }

    /// The canonical bytes, as in `manifest.json`.
    ///
    /// # Errors
    /// [`Error::Manifest`] for a dataset of more than 2^53 tokens.
    pub fn to_bytes(&self) -> Result<Vec<u8>, Error> {
        jcs::serialize(self).map_err(|error| Error::manifest("manifest", error.to_string()))
    }

    /// What names the dataset: SHA-256 of its canonical bytes.
    ///
    /// # Errors
    /// As [`Manifest::to_bytes`].
    pub fn digest(&self) -> Result<Digest, Error> {
        Ok(Digest::of(&self.to_bytes()?))
    }

    /// How text became tokens.
    pub fn tokenizer(&self) -> Tokenizer {
        // Checked when the manifest was made.
        self.tokenizer.parse().unwrap_or(Tokenizer::Bytes)
    }

    /// How tokens are written.
    pub fn dtype(&self) -> Dtype {
        Dtype::of(self.vocabulary)
    }

    /// Tokens are below this.
    pub fn vocabulary(&self) -> u32 {
        self.vocabulary
    }

    /// Tokens in the stream.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Merkle root over the stream's 4096-byte chunks.
    pub fn root(&self) -> Digest {
        self.root
    }

    /// The files, in the order of the stream.
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// The tokenizer's file, if it has one. Training does not read it.
    pub fn tokenizer_file(&self) -> Option<Shard> {
        match (self.tokenizer(), self.tokenizer_bytes) {
            (Tokenizer::File(sha256), Some(size)) => {
                Some(Shard { path: TOKENIZER_FILE.into(), size, sha256 })
            }
            _ => None,
        }
    }

    /// All files beside the manifest: what has to be kept and sent, so that the dataset is whole.
    pub fn files(&self) -> Vec<Shard> {
        self.tokenizer_file().into_iter().chain(self.shards.iter().cloned()).collect()
    }
}

/// What a manifest says of the text: the tokenizer and how many tokens it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    tokenizer: Tokenizer,
    vocabulary: u32,
    file_bytes: Option<u64>,
}

impl Text {
    /// Tokens are bytes.
    pub fn bytes() -> Self {
        Self { tokenizer: Tokenizer::Bytes, vocabulary: 256, file_bytes: None }
    }

    /// Tokens are GPT-2's.
    pub fn gpt2() -> Self {
        Self { tokenizer: Tokenizer::Gpt2, vocabulary: 50_257, file_bytes: None }
    }

    /// Tokens are those of a `tokenizer.json` with these bytes. Whether the vocabulary is one is seen when the manifest is made.
    pub fn file(json: &[u8], vocabulary: u32) -> Self {
        let tokenizer = Tokenizer::File(Digest::of(json));
        Self { tokenizer, vocabulary, file_bytes: Some(json.len() as u64) }
    }

    /// What made the tokens.
    pub fn tokenizer(&self) -> Tokenizer {
        self.tokenizer
    }

    /// Tokens are below this.
    pub fn vocabulary(&self) -> u32 {
        self.vocabulary
    }
}

/// The name of token file `index`.
pub(super) fn shard_name(index: usize) -> String {
    format!("tokens-{index:05}.bin")
}
