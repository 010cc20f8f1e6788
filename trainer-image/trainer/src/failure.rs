//! How a command ends badly: an exit code for machines and a sentence for people.
//!
//! Each module has its own error enum whose variants say what happened; this is what remains of them at the edge
//! of the process, where only the code and the sentence matter.

use crate::protocol::ExitCode;

/// The end of a process that did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What the process exits with.
    pub code: ExitCode,
    /// What happened, to which file or field, and what to do about it.
    pub message: String,
}

impl Failure {
    /// A failure with this code and sentence.
    pub fn new(code: ExitCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// A wrong spec or command line ([`ExitCode::BadSpec`]).
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(ExitCode::BadSpec, message)
    }
}
