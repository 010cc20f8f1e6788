//! One tokenizer, whichever it is.
use super::cut::Unit;
use super::file::File;
use super::gpt2::{END_OF_TEXT, Gpt2};
use muster_trainer::dataset::{MAX_TOKENIZER, Text};
use muster_trainer::inference::{self, Decoder, Vocabulary};
use std::path::PathBuf;
use std::str::FromStr;

/// What a person asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// `bytes`
    Bytes,
    /// `gpt2`
    Gpt2,
    /// Any other word: the path of a `tokenizer.json`.
    File(PathBuf),
}

impl FromStr for Choice {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "" => Err("give bytes, gpt2, or the path of a tokenizer.json"),
            "bytes" => Ok(Self::Bytes),
            "gpt2" => Ok(Self::Gpt2),
            path => Ok(Self::File(path.into())),
        }
    }
}

/// Why there is no tokenizer.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("tokenizer {0}; give bytes, gpt2, or the path of a tokenizer.json")]
    Read(#[from] muster_trainer::files::FileError),
    /// The file is no tokenizer that can be used.
    #[error("tokenizer.json: {0}")]
    File(String),
    /// GPT-2's vocabulary in this program.
    #[error("gpt2: {0}; this is a fault of the program, please report it")]
    Gpt2(String),
    /// The token that shall end documents.
    #[error("end of text: {0}")]
    End(String),
}

/// Why a text has no tokens.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("byte {at}: {problem}")]
pub struct EncodeError {
    /// Where, in bytes from the beginning of the text.
    pub at: u64,
    /// What is wrong there and what to do.
    pub problem: String,
}

impl EncodeError {
    /// The same, in a text that begins so many bytes earlier.
    #[must_use]
    pub fn after(self, bytes: u64) -> Self {
        Self { at: self.at.saturating_add(bytes), ..self }
    }
}

enum Kind {
    Bytes,
    Gpt2(Box<Gpt2>),
    File(Box<File>, Vec<u8>),
}

/// A tokenizer that may be used.
pub struct Tokenizer {
    kind: Kind,
    text: Text,
    end: Option<u32>,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("text", &self.text).field("end", &self.end).finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Each byte is a token.
    #[must_use]
    pub fn bytes() -> Self {
        Self { kind: Kind::Bytes, text: Text::bytes(), end: None }
    }

    /// GPT-2's; its `<|endoftext|>` ends each document.
    ///
    /// # Errors
    /// None, if the program is whole.
    pub fn gpt2() -> Result<Self, LoadError> {
        let kind = Kind::Gpt2(Box::new(Gpt2::new().map_err(LoadError::Gpt2)?));
        Ok(Self { kind, text: Text::gpt2(), end: Some(END_OF_TEXT) })
    }

    /// That of a `tokenizer.json`. Nothing ends a document.
    ///
    /// # Errors
    /// [`LoadError::File`].
    pub fn parse(json: Vec<u8>) -> Result<Self, LoadError> {
        let file = File::parse(&json)?;
        let text = Text::file(&json, file.vocabulary());
        Ok(Self { kind: Kind::File(Box::new(file), json), text, end: None })
    }

    /// The one that was asked for.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn load(choice: &Choice) -> Result<Self, LoadError> {
        match choice {
            Choice::Bytes => Ok(Self::bytes()),
            Choice::Gpt2 => Self::gpt2(),
            Choice::File(path) => Self::parse(muster_trainer::files::read_at_most(path, MAX_TOKENIZER)?),
        }
    }

    /// The same, with the token that is written so at the end of each document.
    ///
    /// # Errors
    /// [`LoadError::End`] where that is not for the user to say, or for a token that is none.
    pub fn ending_with(self, token: &str) -> Result<Self, LoadError> {
        let Kind::File(file, _) = &self.kind else {
            let text = format!("{} has its own rule; leave the option out", self.text.tokenizer());
            return Err(LoadError::End(text));
        };
        let end = file.token(token).ok_or_else(|| {
            LoadError::End(format!(
                "tokenizer.json has no token {token:?}; its model.vocab and added_tokens name them"
            ))
        })?;
        Ok(Self { end: Some(end), ..self })
    }

    /// What a manifest says of it.
    #[must_use]
    pub const fn text(&self) -> &Text {
        &self.text
    }

    /// The token that ends a document.
    #[must_use]
    pub const fn end(&self) -> Option<u32> {
        self.end
    }

    /// The bytes of its file, if it has one.
    #[must_use]
    pub fn json(&self) -> Option<&[u8]> {
        match &self.kind {
            Kind::File(_, json) => Some(json),
            _ => None,
        }
    }

    /// What must become tokens in one piece.
    #[must_use]
    pub const fn unit(&self) -> Unit {
        match self.kind {
            Kind::Bytes => Unit::Byte,
            Kind::Gpt2(_) => Unit::Word,
            Kind::File(..) => Unit::Document,
        }
    }

    /// Appends the tokens of a text, which is a whole document or, as far as [`Tokenizer::unit`] allows, a part of one.
    ///
    /// # Errors
    /// [`EncodeError`]; for all but bytes, text is UTF-8.
    pub fn encode(&self, text: &[u8], tokens: &mut Vec<u32>) -> Result<(), EncodeError> {
        let utf8 = || {
            std::str::from_utf8(text).map_err(|error| {
                let problem = "not UTF-8; convert the file (iconv -t UTF-8), or use --tokenizer bytes".into();
                EncodeError { at: error.valid_up_to() as u64, problem }
            })
        };
        match &self.kind {
            Kind::Bytes => tokens.extend(text.iter().map(|byte| u32::from(*byte))),
            Kind::Gpt2(gpt2) => gpt2.encode(utf8()?, tokens)?,
            Kind::File(file, _) => file.encode(utf8()?, tokens)?,
        }
        Ok(())
    }
}

impl Vocabulary for Tokenizer {
    fn name(&self) -> String {
        self.text.tokenizer().to_string()
    }

    fn size(&self) -> usize {
        self.text.vocabulary() as usize
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>, String> {
        let mut tokens = Vec::new();
        Self::encode(self, text.as_bytes(), &mut tokens).map_err(|error| error.to_string())?;
        Ok(tokens)
    }

    fn decoder(&self, before: &[u32]) -> Box<dyn Decoder + '_> {
        match &self.kind {
            Kind::Bytes => Box::new(inference::Utf8::default()),
            Kind::Gpt2(gpt2) => gpt2.decoder(),
            Kind::File(file, _) => file.decoder(before),
        }
    }
}
