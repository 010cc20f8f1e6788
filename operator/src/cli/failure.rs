//! How a command ends badly: one sentence with a remedy, and an exit code.
use std::fmt;

/// Exit code of wrong usage, clap's own.
pub const USAGE: u8 = 2;

/// What a command ends with: an exit code, or a sentence to print before one.
pub type Outcome = Result<u8, Failure>;

/// A command that did not do what it was asked.
#[derive(Debug)]
pub struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    /// A failure with exit code 1.
    pub fn new(message: impl Into<String>) -> Self {
        Self::with_code(1, message)
    }

    /// Wrong usage: exit code 2.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::with_code(USAGE, message)
    }

    /// A failure with a code of its own.
    pub fn with_code(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// The same with the name of what it is about before it.
    #[must_use]
    pub fn before(self, what: &str) -> Self {
        Self { message: format!("{what}{}", self.message), ..self }
    }

    /// The process's exit code.
    #[must_use]
    pub const fn code(&self) -> u8 {
        self.code
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Error enums of the rooms carry their causes in their text already. (`Failure` itself must not be an `Error`: this
/// conversion would then overlap with the standard library's.)
impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::new(error.to_string())
    }
}
