//! Lies of a provider's own agent, for tests of whoever must notice them. Only in builds with the feature `cheats`, which no
//! image has that anybody is asked to run; there `MUSTER_CHEAT` names one. It is handed on to the pods, whose image is
//! `MUSTER_CHEAT_IMAGE` instead of the one that was asked for: a trainer may have lies of its own.
//!
//! | file | what |
//! |---|---|
//! | here | lies of one place in the agent |
//! | `records` | lies about commits, key bindings and seals, told on their way to the log |
//! | `theirs` | what such a lie is made of: records of others, and older ones of our own |
pub mod records;
mod theirs;

#[cfg(test)]
mod tests;

use k8s_openapi::api::core::v1::EnvVar;
use muster_proof::Digest;

/// Names the lie.
const LIE: &str = "MUSTER_CHEAT";
/// What pods run instead of what they were asked to.
const IMAGE: &str = "MUSTER_CHEAT_IMAGE";

/// Which lie is told.
fn told() -> Option<String> {
    std::env::var(LIE).ok()
}

fn tells(lie: &str) -> bool {
    told().is_some_and(|told| told == lie)
}

/// The image of a pod.
pub fn image(asked: String) -> String {
    std::env::var(IMAGE).unwrap_or(asked)
}

/// What pods are told of it.
pub fn environment() -> Option<EnvVar> {
    let value = told()?;
    tracing::warn!(lie = value, "this agent cheats");
    Some(EnvVar { name: LIE.to_owned(), value: Some(value), value_from: None })
}

/// The records that a replay is said to have come to. `hashes-checkpoint`: invented, as if nothing had been computed but the
/// digest of the end checkpoint, which everybody on the job may read.
pub fn records(computed: Digest) -> Digest {
    if tells("hashes-checkpoint") { Digest::of(b"invented") } else { computed }
}

/// Before a replay is sealed. `silent-auditor`: never.
pub async fn before_seal() {
    if tells("silent-auditor") {
        std::future::pending::<()>().await;
    }
}

/// Whether commits are opened when an audit asks. `silence`: no.
pub fn opens_commits() -> bool {
    !tells("silence")
}
