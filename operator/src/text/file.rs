//! Tokenizers of a `tokenizer.json`, by Hugging Face's `tokenizers`. The file comes from somewhere, and the library was not made for
//! strangers' files: what it panics at is an error here.
use super::{EncodeError, LoadError};
use muster_trainer::dataset::MAX_VOCABULARY;
use muster_trainer::inference::Decoder;
use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use tokenizers::{ModelWrapper, Tokenizer};

/// See the module.
pub(super) struct File {
    inner: Tokenizer,
    vocabulary: u32,
}

impl File {
    /// Reads the bytes of a `tokenizer.json`.
    pub fn parse(json: &[u8]) -> Result<Self, LoadError> {
        // The library panics at what is no JSON.
        serde_json::from_slice::<serde_json::Value>(json)
            .map_err(|error| LoadError::File(error.to_string()))?;
        let read = guarded(|| Tokenizer::from_bytes(json)).map_err(LoadError::File)?;
        let mut inner = read.map_err(|error| LoadError::File(error.to_string()))?;
        if let ModelWrapper::BPE(bpe) = inner.get_model()
            && bpe.dropout.is_some_and(|rate| rate != 0.0)
        {
            let text = "model.dropout: merges would be left out by chance, each time others; set it to null";
            return Err(LoadError::File(text.into()));
        }
        // All of a document becomes tokens, and nothing but the document.
        inner.with_truncation(None).map_err(|error| LoadError::File(error.to_string()))?;
        inner.with_padding(None);
        // What looks like a token of control in a text is text.
        inner.set_encode_special_tokens(true);
        let vocabulary = vocabulary(&inner)?;
        Ok(Self { inner, vocabulary })
    }

    /// Tokens are below this.
    pub fn vocabulary(&self) -> u32 {
        self.vocabulary
    }

    /// The token that is written so.
    pub fn token(&self, text: &str) -> Option<u32> {
        self.inner.token_to_id(text)
    }

    /// Appends the tokens of a document.
    pub fn encode(&self, text: &str, tokens: &mut Vec<u32>) -> Result<(), EncodeError> {
        let problem = |problem: String| EncodeError { at: 0, problem: format!("tokenizer.json: {problem}") };
        let encoded = guarded(|| self.inner.encode_fast(text, false)).map_err(problem)?;
        let encoded = encoded.map_err(|error| problem(error.to_string()))?;
        // A token that the file itself does not have: its unknown token is not in its vocabulary, say.
        if let Some(stray) = encoded.get_ids().iter().find(|token| **token >= self.vocabulary) {
            return Err(problem(format!("gives token {stray}, but has {} of them", self.vocabulary)));
        }
        tokens.extend(encoded.get_ids());
        Ok(())
    }

    pub fn decoder(&self, before: &[u32]) -> Box<dyn Decoder + '_> {
        let ids = before[before.len().saturating_sub(CONTEXT)..].to_vec();
        let mut decoding = Decoding { file: self, ids, shown: 0, held: 0 };
        decoding.shown = decoding.text().len();
        Box::new(decoding)
    }
}

fn vocabulary(inner: &Tokenizer) -> Result<u32, LoadError> {
    let all = guarded(|| inner.get_vocab(true)).map_err(LoadError::File)?;
    let ids: HashSet<u32> = all.values().copied().collect();
    if ids.len() != all.len() {
        return Err(LoadError::File("model.vocab: two tokens have the same number".into()));
    }
    let size = ids.iter().max().and_then(|max| max.checked_add(1)).unwrap_or(0);
    if !(2..=MAX_VOCABULARY).contains(&size) {
        let text = format!("model.vocab: its numbers go to {size}, a model has 2 to {MAX_VOCABULARY} tokens");
        return Err(LoadError::File(text));
    }
    Ok(size)
}

/// A panic as an error: the value is not used any more after it.
fn guarded<T>(call: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|_| {
        "the tokenizers library has panicked; the file or this text is more than it can take".into()
    })
}

/// So many tokens before a new one say how it is written: whether a space comes before it, for one.
const CONTEXT: usize = 16;
/// So many tokens are held back at most until their bytes are characters.
const HELD: usize = 8;

struct Decoding<'a> {
    file: &'a File,
    ids: Vec<u32>,
    /// Bytes of the text of `ids` that were given out.
    shown: usize,
    held: usize,
}

impl Decoding<'_> {
    fn text(&self) -> String {
        let decoded = guarded(|| self.file.inner.decode(&self.ids, false));
        decoded.ok().and_then(Result::ok).unwrap_or_default()
    }

    fn show(&mut self, whole: &str, until: usize) -> String {
        let new = whole.get(self.shown..until).unwrap_or_default().to_owned();
        (self.shown, self.held) = (until, 0);
        new
    }
}

impl Decoder for Decoding<'_> {
    fn push(&mut self, token: u32) -> String {
        self.ids.push(token);
        self.held += 1;
        let whole = self.text();
        let certain = whole.trim_end_matches(char::REPLACEMENT_CHARACTER).len();
        if certain < whole.len() && self.held < HELD {
            return String::new();
        }
        let new = self.show(&whole, whole.len());
        if self.ids.len() > 4 * CONTEXT {
            self.ids.drain(..self.ids.len() - CONTEXT);
            self.shown = self.text().len();
        }
        new
    }

    fn finish(&mut self) -> String {
        let whole = self.text();
        self.show(&whole, whole.len())
    }
}
