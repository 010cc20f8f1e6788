//! Whom a verifier believes, from the command line.
use std::path::PathBuf;

use clap::Args;
use muster_proof::Digest;
use muster_proof::bundle::Trust;
use muster_proof::tlog::policy::{MAX_POLICY, Policy};

use crate::cli::Failure;
use crate::runtime::files::read_capped;

/// A policy of one's own, or none.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub struct TrustArgs {
    /// Logs, witnesses and quorum to believe, as C2SP tlog-policy
    #[arg(long, value_name = "FILE", conflicts_with = "trust_bundle")]
    policy: Option<PathBuf>,
    /// Fingerprint of a key of the hub's first set; without, the log's key stands for it
    #[arg(long, value_name = "sha256:HEX", requires = "policy")]
    hub_key: Vec<Digest>,
    /// Believe the keys that the bundle itself names: shows that it fits together, not that it is true
    #[arg(long)]
    trust_bundle: bool,
}

impl TrustArgs {
    /// Reads the policy.
    pub fn read(&self) -> Result<Trust, Failure> {
        match &self.policy {
            Some(path) => Ok(Trust::Policy { policy: policy(path)?, hub: self.hub_key.clone() }),
            None => Ok(Trust::Bundle),
        }
    }
}

/// Reads a policy's file.
pub fn policy(path: &std::path::Path) -> Result<Policy, Failure> {
    let usage =
        |error: &dyn std::fmt::Display| Failure::usage(format!("--policy {}: {error}", path.display()));
    let bytes = read_capped(path, MAX_POLICY as u64).map_err(|error| usage(&error))?;
    let text = String::from_utf8(bytes).map_err(|_| usage(&"it is not text"))?;
    text.parse().map_err(|error| usage(&error))
}
