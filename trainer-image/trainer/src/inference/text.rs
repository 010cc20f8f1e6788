//! Tokens and the text that a person reads and writes.

/// The tokens of a tokenizer.
pub trait Vocabulary {
    /// What a person calls it.
    fn name(&self) -> String;
    /// Tokens are below this.
    fn size(&self) -> usize;
    /// The tokens of a text.
    ///
    /// # Errors
    /// What is wrong with the text, and what to do.
    fn encode(&self, text: &str) -> Result<Vec<u32>, String>;
    /// Turns the tokens that follow `before` into text.
    fn decoder(&self, before: &[u32]) -> Box<dyn Decoder + '_>;
}

/// Tokens to text as they come.
pub trait Decoder {
    /// Takes a token, gives the text that is certain now.
    fn push(&mut self, token: u32) -> String;
    /// What is left at the end.
    fn finish(&mut self) -> String;
}

/// Each byte is a token.
#[derive(Debug, Clone, Copy)]
pub struct Bytes;

impl Vocabulary for Bytes {
    fn name(&self) -> String {
        "bytes".into()
    }

    fn size(&self) -> usize {
        256
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>, String> {
        Ok(text.bytes().map(u32::from).collect())
    }

    fn decoder(&self, _before: &[u32]) -> Box<dyn Decoder + '_> {
        Box::new(Utf8::default())
    }
}

impl Decoder for Utf8 {
    fn push(&mut self, token: u32) -> String {
        // Nothing else is below the size.
        Utf8::push(self, &[token as u8])
    }

    fn finish(&mut self) -> String {
        Utf8::finish(self)
    }
}

/// Bytes to text as they come: a character is shown once it is whole, what is none as U+FFFD.
#[derive(Debug, Default)]
pub struct Utf8 {
    pending: Vec<u8>,
}

impl Utf8 {
    /// Takes bytes, gives the text that is certain now.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.pending.extend(bytes);
        let mut text = String::new();
        loop {
            match std::str::from_utf8(&self.pending) {
                Ok(whole) => {
                    text += whole;
                    self.pending.clear();
                    return text;
                }
                Err(error) => {
                    let valid = error.valid_up_to();
                    text += &String::from_utf8_lossy(&self.pending[..valid]);
                    self.pending.drain(..valid);
                    let Some(bad) = error.error_len() else { return text };
                    text.push(char::REPLACEMENT_CHARACTER);
                    self.pending.drain(..bad);
                }
            }
        }
    }

    /// What is left at the end.
    pub fn finish(&self) -> String {
        String::from_utf8_lossy(&self.pending).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_come_whole() {
        let mut utf8 = Utf8::default();
        assert_eq!(Utf8::push(&mut utf8, b"a\xc3"), "a");
        assert_eq!(Utf8::push(&mut utf8, b"\xa9\xff"), "\u{e9}\u{fffd}");
        assert_eq!(Utf8::push(&mut utf8, b"\xe2\x82"), "");
        assert_eq!(Utf8::finish(&utf8), "\u{fffd}");
    }
}
