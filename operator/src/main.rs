//! `muster`: hub, agent and command line in one binary. See `cli` for the commands.
use std::process::ExitCode;

fn main() -> ExitCode {
    muster::cli::main()
}
