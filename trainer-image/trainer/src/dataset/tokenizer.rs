//! Which rule made the tokens of a dataset out of text, as its manifest names it. The rules themselves are in the operator
//! (`muster data prepare`, `muster sample`): training sees numbers only.

use std::fmt;
use std::str::FromStr;

use muster_proof::Digest;

/// Name of a tokenizer's file in a dataset directory.
pub const TOKENIZER_FILE: &str = "tokenizer.json";
/// The largest tokenizer.json that is read, in bytes. Those of large multilingual models have about 35 MB.
pub const MAX_TOKENIZER: u64 = 64 << 20;
/// The largest vocabulary: what a model may have at most (docs/spec/numerics.md).
pub const MAX_VOCABULARY: u32 = 1 << 20;

/// From text to tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tokenizer {
    /// Each byte is a token; vocabulary 256.
    Bytes,
    /// GPT-2's byte pairs; vocabulary 50257, of which 50256 ends a document.
    Gpt2,
    /// What a `tokenizer.json` of this digest says. The file lies in the dataset and is part of it.
    File(Digest),
}

impl Tokenizer {
    /// How many tokens it has; what a file has is for the file to say.
    pub const fn vocabulary(&self) -> Option<u32> {
        match self {
            Self::Bytes => Some(256),
            Self::Gpt2 => Some(50_257),
            Self::File(_) => None,
        }
    }
}

impl fmt::Display for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes => f.write_str("bytes"),
            Self::Gpt2 => f.write_str("gpt2"),
            Self::File(digest) => digest.fmt(f),
        }
    }
}

impl FromStr for Tokenizer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "bytes" => Ok(Self::Bytes),
            "gpt2" => Ok(Self::Gpt2),
            _ => text.parse().map(Self::File).map_err(|_| {
                format!("is {text:?}, which this version does not know: bytes, gpt2, or the digest of a {TOKENIZER_FILE}")
            }),
        }
    }
}

/// How a token is written: little-endian, as narrow as the vocabulary allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    /// For vocabularies of up to 65536.
    U16,
    /// For larger ones.
    U32,
}

impl Dtype {
    /// The one for a vocabulary.
    pub const fn of(vocabulary: u32) -> Self {
        if vocabulary <= 1 << 16 { Self::U16 } else { Self::U32 }
    }

    /// As a manifest has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::U16 => "U16",
            Self::U32 => "U32",
        }
    }

    /// Bytes of a token.
    pub const fn bytes(self) -> u64 {
        match self {
            Self::U16 => 2,
            Self::U32 => 4,
        }
    }

    /// The tokens in bytes of a stream; what is left of a token at the end is dropped.
    pub(super) fn tokens(self, bytes: &[u8]) -> impl Iterator<Item = u32> {
        bytes.chunks_exact(self.bytes() as usize).map(|token| match *token {
            [a, b, c, d] => u32::from_le_bytes([a, b, c, d]),
            [a, b] => u32::from(u16::from_le_bytes([a, b])),
            _ => u32::MAX,
        })
    }

    /// Appends a token's bytes.
    pub(super) fn write(self, token: u32, to: &mut Vec<u8>) {
        match self {
            // Below the vocabulary, as the writer has seen.
            Self::U16 => to.extend((token as u16).to_le_bytes()),
            Self::U32 => to.extend(token.to_le_bytes()),
        }
    }
}
