//! Makes the log and the bundle of what `muster local` computed: `cargo run --release --example bench_bundle -- DIR STEPS
//! INTERVAL_STEPS`, where `DIR` has `out` and `data`. Afterwards it has `log`, `bundle` and `policy` as well, which
//! `muster verify bundle` and `muster replay` take. Prints one line of JSON. `bench/proof.py` runs it.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "shared with tests; there is nobody to report to but a person"
)]

#[path = "../tests/support/proved.rs"]
mod proved;

use std::path::PathBuf;

use anyhow::Context as _;
use proved::{Trained, prove};

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().context("want DIR STEPS INTERVAL_STEPS");
    let (dir, steps, interval_steps) = (PathBuf::from(next()?), next()?.parse()?, next()?.parse()?);
    let trained = Trained { dir: &dir, steps, interval_steps };
    let proved = tokio::runtime::Runtime::new()?.block_on(prove(&trained));
    let (mut files, mut bytes) = (0, 0);
    for entry in std::fs::read_dir(&proved.bundle)? {
        files += 1;
        bytes += entry?.metadata()?.len();
    }
    let made = serde_json::json!({
        "job": proved.job.0,
        "logKey": proved.log_key,
        "bundle": proved.bundle,
        "policy": proved.policy,
        "files": files,
        "bytes": bytes,
    });
    println!("{made}");
    Ok(())
}
