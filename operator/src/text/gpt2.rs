//! GPT-2's byte pairs, by `tiktoken-rs`, whose vocabulary is in the program; and where a text may be cut without a change of its
//! tokens.
//!
//! A text is matched from left to right by
//!
//! ```text
//! '(?:[sdmt]|ll|ve|re) | ?\p{L}++ | ?\p{N}++ | ?[^\s\p{L}\p{N}]++ | \s++$ | \s+(?!\S) | \s
//! ```
//!
//! and every match becomes tokens by itself. Let a cut be at p, between the characters x and y, x no white space. The tokens of both
//! parts are those of the whole if a match ends at p, since:
//!
//! - nothing looks behind, so what is matched from p on depends only on what follows;
//! - only the last three look ahead, at what follows a run of white space, and each such run before p is followed by a character
//!   before p, be it x;
//! - the others match left of p what they matched: they end at p at the latest, and an end of text stops them as y does.
//!
//! And a match does end at p if y is white space, which follows another character in no match; or if x is a letter or digit and
//! y is punctuation, which follows a letter or digit in no match. The second is looked for in ASCII only. (For later vocabularies
//! this is wrong: theirs take a newline into the match of the punctuation before it.)
use super::EncodeError;
use muster_trainer::inference::{Decoder, Utf8};
use tiktoken_rs::CoreBPE;

/// The most bytes without a place to cut. The regular expressions' stack has room for a million characters of white space, beyond
/// which they give up; and nobody writes such a word.
pub const MAX_WORD: usize = 512 << 10;
/// Ends a document.
pub const END_OF_TEXT: u32 = 50_256;

/// See the module.
pub(super) struct Gpt2(CoreBPE);

impl Gpt2 {
    pub fn new() -> Result<Self, String> {
        tiktoken_rs::r50k_base().map(Self).map_err(|error| error.to_string())
    }

    /// Appends the tokens of a text. `<|endoftext|>` in it is text like any other.
    pub fn encode(&self, text: &str, tokens: &mut Vec<u32>) -> Result<(), EncodeError> {
        check_words(text)?;
        tokens.extend(self.0.encode_ordinary(text));
        Ok(())
    }

    pub fn decoder(&self) -> Box<dyn Decoder + '_> {
        Box::new(Decoding { bpe: &self.0, text: Utf8::default() })
    }
}

struct Decoding<'a> {
    bpe: &'a CoreBPE,
    text: Utf8,
}

impl Decoder for Decoding<'_> {
    fn push(&mut self, token: u32) -> String {
        // Every number below the vocabulary is a token.
        let bytes = self.bpe.decode_bytes(&[token]).unwrap_or_default();
        self.text.push(&bytes)
    }

    fn finish(&mut self) -> String {
        self.text.finish()
    }
}

/// The last place where a text may be cut, if there is one.
pub(super) fn last_cut(text: &[u8]) -> Option<usize> {
    (1..text.len()).rev().find(|&at| may_cut(text, at))
}

/// Refuses a text with too many bytes between two places where it may be cut.
fn check_words(text: &str) -> Result<(), EncodeError> {
    if text.len() <= MAX_WORD {
        return Ok(());
    }
    let bytes = text.as_bytes();
    let mut start = 0;
    for at in 1..=bytes.len() {
        if at == bytes.len() || may_cut(bytes, at) {
            if at - start > MAX_WORD {
                return Err(too_long(start));
            }
            start = at;
        }
    }
    Ok(())
}

/// What is said of a word that is none.
fn too_long(at: usize) -> EncodeError {
    let problem =
        format!("more than {MAX_WORD} bytes without a space; break them into lines, this is no text");
    EncodeError { at: at as u64, problem }
}

/// `at` is not 0 and below the length.
fn may_cut(text: &[u8], at: usize) -> bool {
    let (before, after) = (text[at - 1], text[at]);
    if is_space(after) {
        if before.is_ascii() { !is_space(before) } else { ends_in_no_space(&text[..at]) }
    } else {
        before.is_ascii_alphanumeric() && after.is_ascii_punctuation()
    }
}

fn is_space(byte: u8) -> bool {
    byte.is_ascii() && char::from(byte).is_whitespace()
}

/// Whether the text ends in a whole character that is no white space.
fn ends_in_no_space(text: &[u8]) -> bool {
    let back = text.iter().rev().take_while(|byte| (0x80..0xc0).contains(*byte)).count() + 1;
    let last = text.len().checked_sub(back).and_then(|start| std::str::from_utf8(&text[start..]).ok());
    last.is_some_and(|last| !last.chars().all(char::is_whitespace))
}
