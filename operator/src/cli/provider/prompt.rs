//! Questions to a person. A program gets no answer, and a command that needs one says how to do without.
use super::Failure;
use crate::cli::output::note;
use std::io::IsTerminal;

/// Asks on stderr and reads one line; `None` if nobody sits there.
pub(super) async fn ask(question: String) -> Result<Option<String>, Failure> {
    if !std::io::stdin().is_terminal() {
        return Ok(None);
    }
    note(question);
    let read = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).map(|_| line)
    });
    Ok(Some(read.await??.trim().to_owned()))
}

/// Only a clear yes is one.
pub(super) fn is_yes(answer: &str) -> bool {
    matches!(answer.to_ascii_lowercase().as_str(), "y" | "yes")
}
