//! `muster-trainer`: see the library for what it does.

use std::process::ExitCode;

fn main() -> ExitCode {
    // The library of TLS takes one provider of cryptography for the process; two would be a panic at first use.
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        eprintln!("muster-trainer: a provider of cryptography was installed before main");
    }
    muster_trainer::cli::main()
}
