//! The manifest of a dataset: canonical JSON with a closed set of fields.

use muster_proof::{Digest, jcs};
use serde::{Deserialize, Serialize};

use super::{Error, SHARD_BYTES};

/// The largest manifest that is read, in bytes: about 7000 files, 450 GB of tokens.
pub const MAX_MANIFEST: u64 = 1 << 20;
/// The tokenizer whose tokens are the bytes of the text; vocabulary 256.
pub const TOKENIZER_BYTES: &str = "bytes";

const FORMAT: &str = "muster.dataset/1";
const DTYPE: &str = "U16";
/// Bytes of a token.
pub(super) const TOKEN_BYTES: u64 = 2;

/// One file of the token stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shard {
    /// File name: `tokens-%05d.bin`, numbered from 0.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// SHA-256 of the file.
    pub sha256: Digest,
}

/// A checked manifest: it cannot be built but by [`Manifest::parse`] and [`Manifest::new`], so its parts agree
/// with each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    format: String,
    tokenizer: String,
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
    /// [`Error::Manifest`] when the files are not a stream cut as it must be.
    pub fn new(root: Digest, shards: Vec<Shard>) -> Result<Self, Error> {
        let bytes: u64 = shards.iter().map(|shard| shard.size).sum();
        let manifest = Self {
            format: FORMAT.into(),
            tokenizer: TOKENIZER_BYTES.into(),
            vocabulary: 256,
            tokens: bytes / TOKEN_BYTES,
            dtype: DTYPE.into(),
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
        want("tokenizer", &self.tokenizer, TOKENIZER_BYTES)?;
        want("dtype", &self.dtype, DTYPE)?;
        if self.vocabulary != 256 {
            return Err(Error::manifest("vocabulary", format!("is {}, bytes have 256", self.vocabulary)));
        }
        if self.tokens < 2 {
            return Err(Error::manifest("tokens", "fewer than 2: there is no token to predict"));
        }
        let mut left = self
            .tokens
            .checked_mul(TOKEN_BYTES)
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
    pub fn tokenizer(&self) -> &str {
        &self.tokenizer
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
}

/// The name of token file `index`.
pub(super) fn shard_name(index: usize) -> String {
    format!("tokens-{index:05}.bin")
}
