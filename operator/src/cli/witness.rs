//! `muster witness`: a tenant's own witness of the hub's log (docs/operations/verify.md). It remembers the last head, sees that each
//! new one continues it, and keeps that head with its cosignature: `muster proof bundle --checkpoint` takes it.
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use muster_proof::Digest;
use muster_proof::dsse::Envelope;
use muster_proof::tlog::checkpoint::SignedCheckpoint;
use muster_proof::tlog::note::{VerifierKey, parse_signatures};
use muster_proof::tlog::tile::Resource;

use super::output::{line, note};
use super::run::block_on;
use super::verify::{LogArgs, incomplete, log_of};
use super::{Failure, Outcome};
use crate::agent::witness::Witness;
use crate::log::client::{ClientError, LogClient};
use crate::runtime::Shutdown;
use crate::runtime::files::{Access, create_private_dir, read_if_there, write_atomic};
use crate::wire::log::{LogEntry, Logged};

/// The log's key, kept since the first start.
const PINNED: &str = "log.vkey";
/// The last head, with our cosignature.
const CHECKPOINT: &str = "checkpoint";

/// Watches the hub's log.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 consistent, 1 the log contradicts itself (evidence is kept), 2 wrong usage, 3 not reached"
)]
pub struct WitnessCommand {
    #[command(flatten)]
    log: LogArgs,
    /// Directory for the witness's key and what it saw last; keep it, another key is another witness
    #[arg(long, value_name = "DIR")]
    state: PathBuf,
    /// Name of the witness in its key, like example.com/team-a
    #[arg(long, value_name = "NAME")]
    name: String,
    /// The log's verifier key, from somebody you believe; needed on the first start only
    #[arg(long, value_name = "KEY")]
    log_key: Option<VerifierKey>,
    /// Look once and end
    #[arg(long)]
    once: bool,
    /// Seconds between two looks
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86400))]
    every: u64,
}

impl WitnessCommand {
    pub fn run(self) -> Outcome {
        create_private_dir(&self.state)?;
        let key = self.pinned()?;
        let witness = Witness::named(&self.state, &self.name, &key.to_string())?;
        note(format_args!("witness {} of log {key}", witness.verifier()));
        let log = Keeping {
            log: log_of(&self.log)?,
            key,
            witness: witness.verifier().clone(),
            dir: self.state.clone(),
        };
        block_on(self.watch(&witness, &log))?
    }

    /// The log's key: given once, kept, and never another.
    fn pinned(&self) -> Result<VerifierKey, Failure> {
        let path = self.state.join(PINNED);
        let kept = read_if_there(&path, 4096)?;
        let kept =
            kept.map(|bytes| String::from_utf8_lossy(&bytes).trim().parse::<VerifierKey>()).transpose()?;
        match (kept, &self.log_key) {
            (Some(kept), Some(given)) if kept != *given => Err(Failure::usage(format!(
                "--log-key {given}: this witness is of log {kept}; take another --state"
            ))),
            (Some(kept), _) => Ok(kept),
            (None, Some(given)) => {
                write_atomic(&path, format!("{given}\n").as_bytes(), Access::Private)?;
                Ok(given.clone())
            }
            (None, None) => Err(Failure::usage(
                "--log-key: needed on the first start; ask somebody you believe, `GET /v1/hub` shows what the hub says",
            )),
        }
    }

    async fn watch(&self, witness: &Witness, log: &Keeping) -> Outcome {
        let stop = Shutdown::on_signals()?;
        loop {
            let seen = self.look(witness, log).await;
            if let Some(alarm) = witness.distrust() {
                return Err(Failure::new(alarm));
            }
            match seen {
                Ok(()) => {
                    if let Some((size, root)) = witness.standing().head {
                        line(format_args!("{size} {root}"))?;
                    }
                }
                Err(failure) if self.once => return Err(incomplete(failure)),
                Err(failure) => note(format_args!("error: {failure}")),
            }
            if self.once {
                return Ok(0);
            }
            tokio::select! {
                () = stop.wait() => return Ok(0),
                () = tokio::time::sleep(Duration::from_secs(self.every)) => {}
            }
        }
    }

    async fn look(&self, witness: &Witness, log: &Keeping) -> Result<(), Failure> {
        let head = log.checkpoint().await?;
        let head = SignedCheckpoint::open(&head, std::slice::from_ref(&log.key))?;
        Ok(witness.follow(log, head.checkpoint().size()).await?)
    }
}

/// A log whose cosignatures stay here: the witness's own file is what its tenant shows.
struct Keeping {
    log: Box<dyn LogClient>,
    key: VerifierKey,
    witness: VerifierKey,
    dir: PathBuf,
}

impl Keeping {
    /// Keeps the head of this size with our cosignature, and those that the log has of it.
    async fn keep(&self, size: u64, lines: &str) -> Result<(), ClientError> {
        let malformed = |problem: String| ClientError::Malformed { what: "the head", problem };
        let keys = std::slice::from_ref(&self.key);
        let mut found = None;
        for note in [self.log.cosigned(1).await?, Some(self.log.checkpoint().await?)].into_iter().flatten() {
            let head = SignedCheckpoint::open(&note, keys).map_err(|error| malformed(error.to_string()))?;
            if head.checkpoint().size() == size {
                found = Some(head);
                break;
            }
        }
        // It has grown meanwhile; the next look finds the next head.
        let Some(mut head) = found else { return Ok(()) };
        let lines = parse_signatures(lines.as_bytes()).map_err(|error| malformed(error.to_string()))?;
        head.merge(&lines, std::slice::from_ref(&self.witness))
            .map_err(|error| malformed(error.to_string()))?;
        write_atomic(&self.dir.join(CHECKPOINT), head.to_string().as_bytes(), Access::Public)
            .map_err(|error| malformed(error.to_string()))
    }
}

impl LogClient for Keeping {
    fn submit<'a>(&'a self, envelope: &'a Envelope) -> BoxFuture<'a, Result<Logged, ClientError>> {
        self.log.submit(envelope)
    }

    fn checkpoint(&self) -> BoxFuture<'_, Result<Vec<u8>, ClientError>> {
        self.log.checkpoint()
    }

    fn cosigned(&self, least: usize) -> BoxFuture<'_, Result<Option<Vec<u8>>, ClientError>> {
        self.log.cosigned(least)
    }

    fn cosign<'a>(&'a self, size: u64, lines: &'a str) -> BoxFuture<'a, Result<(), ClientError>> {
        self.keep(size, lines).boxed()
    }

    fn tile<'a>(&'a self, path: &'a Resource) -> BoxFuture<'a, Result<Vec<u8>, ClientError>> {
        self.log.tile(path)
    }

    fn entry<'a>(&'a self, record: &'a Digest) -> BoxFuture<'a, Result<Option<LogEntry>, ClientError>> {
        self.log.entry(record)
    }
}
