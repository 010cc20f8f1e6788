//! What a command's results look like on stdout, and how they get there: `println!` panics when the reader has gone, as in
//! `muster crd | head`.
use std::io::{ErrorKind, Write, stderr, stdout};

/// For people or for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Output {
    /// Lines for people.
    #[default]
    Text,
    /// JSON, one object a line.
    Json,
}

/// Exit code of a program that SIGPIPE ended, which is what shells expect here.
const PIPE: i32 = 141;

/// Writes a result to stdout as it is. If the reader has gone, the process ends: nobody wants the rest.
///
/// # Errors
/// Any other error, a full disk for example: a result that is cut off must not look like success.
pub fn print(text: &str) -> std::io::Result<()> {
    bytes(text.as_bytes())
}

/// As [`print`], of what need not be text.
///
/// # Errors
/// As [`print`].
pub fn bytes(bytes: &[u8]) -> std::io::Result<()> {
    let mut out = stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(PIPE),
        other => other,
    }
}

/// As [`print`], with the end of the line.
///
/// # Errors
/// As [`print`].
pub fn line(text: impl std::fmt::Display) -> std::io::Result<()> {
    print(&format!("{text}\n"))
}

/// A line on stderr, for people. That nobody listens is no reason to stop.
pub fn note(text: impl std::fmt::Display) {
    let _ = writeln!(stderr(), "{text}");
}
