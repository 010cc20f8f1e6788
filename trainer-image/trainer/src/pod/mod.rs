//! `muster-trainer pod`: process 1 of a trainer's container. It speaks HTTPS to the agent's relay, lines to one worker
//! process of this same binary, and lines to the sidecar; `docs/spec/protocol.md` section 3 is its contract.
//!
//! | file | thought |
//! |---|---|
//! | `fetch` | what the worker needs, on the disk and checked |
//! | `child` | the worker process: its lines, its end |
//! | `handover` | states to the sidecar, which makes checkpoints of them and uploads these |
//! | `progress` | reports, and what the hub wants |
//! | `attend` | one worker from its start to its end |
//! | `rounds` | one round after the other until the pod is done |
//!
//! Training never waits for the relay or the sidecar: hand-overs and reports have threads of their own and try for ever.

mod attend;
mod child;
mod fetch;
mod handover;
mod progress;
mod rounds;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::failure::Failure;
use crate::relay;

/// The environment of a pod, as the agent's template sets it.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// The agent's relay.
    #[command(flatten)]
    pub relay: relay::Options,
    /// This pod's address: where its worker listens for the others.
    #[arg(long, env = "MUSTER_POD_IP", value_name = "IP")]
    pub pod_ip: IpAddr,
    /// Compute threads of the worker.
    #[arg(long, env = "MUSTER_THREADS", value_name = "T", default_value_t = 1)]
    pub threads: u16,
    /// The scratch directory that trainer and sidecar share.
    #[arg(long, env = "MUSTER_WORK", value_name = "DIR", default_value = "/work")]
    pub work: PathBuf,
    /// The worker ends after this step as if it were the job's last: the pod replays an interval.
    #[arg(long, value_name = "N")]
    pub last_step: Option<u64>,
    /// How many seconds the relay may be unreachable when a round begins, and the sidecar when the job is done.
    #[arg(long, env = "MUSTER_PATIENCE_SECONDS", value_name = "N", default_value_t = 120, hide = true)]
    pub patience_seconds: u64,
    /// Where the last words go.
    #[arg(long, env = "MUSTER_TERMINATION_LOG", value_name = "FILE", default_value = "/dev/termination-log")]
    pub termination_log: PathBuf,
}

impl Options {
    fn listen(&self) -> SocketAddr {
        SocketAddr::new(self.pod_ip, 0)
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(self.patience_seconds)
    }
}

/// Longest termination message that Kubernetes keeps, in bytes.
const MAX_LAST_WORDS: usize = 4096;

/// How a pod ends that did not do its work. Its code is that of its worker, which may be one that no trainer means: 137
/// for a process that the system killed for its memory.
#[derive(Debug)]
pub struct Ended {
    /// What process 1 exits with.
    pub code: u8,
    /// What happened and what to do.
    pub message: String,
}

impl From<Failure> for Ended {
    fn from(failure: Failure) -> Self {
        Self { code: failure.code.code(), message: failure.message }
    }
}

/// Runs the pod to its end.
///
/// # Errors
/// With the exit code the pod must end with.
pub fn run(options: &Options) -> Result<(), Ended> {
    let result = rounds::run(options);
    let words = match &result {
        Ok(done) => done.clone(),
        Err(ended) => ended.message.clone(),
    };
    last_words(&options.termination_log, &words);
    result.map(|done| println!("{done}"))
}

/// Best effort: without them the pod's logs still say it.
fn last_words(path: &Path, words: &str) {
    let mut end = words.len().min(MAX_LAST_WORDS);
    while !words.is_char_boundary(end) {
        end -= 1;
    }
    if let Err(error) = std::fs::write(path, &words[..end]) {
        eprintln!("muster-trainer: warning: cannot write {}: {error}", path.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_words_are_cut_between_characters() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        last_words(&path, &"\u{e9}".repeat(3000));
        assert_eq!(std::fs::read_to_string(&path).unwrap().len(), MAX_LAST_WORDS);
        last_words(&path, &format!("a{}", "\u{e9}".repeat(3000)));
        assert_eq!(std::fs::read_to_string(&path).unwrap().len(), MAX_LAST_WORDS - 1);
    }
}
