//! Text and tokens: the tokenizers, how text is cut for them, and from files to a dataset (`prepare`). What a dataset is, is in the
//! trainer's library; training never sees text, so nothing here is in its image.
//!
//! The tokens are a function of the bytes of the text and of what the user asked for, and of nothing else: docs/spec/dataset.md says
//! which function.
pub mod cut;
mod file;
mod gpt2;
pub mod prepare;
mod tokenizer;

pub use gpt2::MAX_WORD;
pub use tokenizer::{Choice, EncodeError, LoadError, Tokenizer};

#[cfg(test)]
mod tests;
