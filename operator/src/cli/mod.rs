//! Commands of a person, one file each. Each parses its arguments, calls the room that does the work and prints.
use std::process::ExitCode;

/// Parses the command line and runs the chosen command.
#[must_use]
pub fn main() -> ExitCode {
    ExitCode::SUCCESS
}
