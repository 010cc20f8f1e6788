//! `muster-sidecar`: see the library for what it does.

use std::process::ExitCode;

use clap::Parser as _;
use muster_sidecar::Options;

fn main() -> ExitCode {
    // The library of TLS takes one provider of cryptography for the process; two would be a panic at first use.
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        eprintln!("muster-sidecar: a provider of cryptography was installed before main");
    }
    let options = match Options::try_parse() {
        Ok(options) => options,
        Err(error) => {
            drop(error.print());
            // clap's own code for a wrong command line is 2; ours is sysexits' 64.
            return if error.use_stderr() { 64.into() } else { ExitCode::SUCCESS };
        }
    };
    match muster_sidecar::run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("muster-sidecar: {failure}");
            failure.code.code().into()
        }
    }
}
