//! `muster verify log`: everything that a log says, from its first entry to its head.
use std::path::PathBuf;

use clap::Args;
use muster_proof::bundle::{Head, Outcome as Came, Report};
use muster_proof::tlog::checkpoint::SignedCheckpoint;
use muster_proof::tlog::entry::Entry;
use muster_proof::tlog::note::{MAX_NOTE, VerifierKey};
use muster_proof::tlog::policy::{self, Policy};
use muster_proof::tlog::tile::Resource;

use super::{incomplete, show, trust};
use crate::bundle::leaves::{Leaves, LeavesError};
use crate::bundle::logdir::LogDir;
use crate::cli::output::Output;
use crate::cli::run::block_on;
use crate::cli::{Failure, Outcome};
use crate::log::client::{ClientError, HttpLog, LogClient, Plain};
use crate::runtime::files::{Access, read_capped, write_atomic};
use crate::runtime::tls::pinned_client;

/// Most bytes of entries that are read: a few million records.
const MAX_ENTRIES: u64 = 2 << 30;

/// Which log.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub struct LogArgs {
    /// URL of the hub's gateway; what anyone may read needs no token
    #[arg(long, value_name = "URL", requires = "gateway_ca", conflicts_with = "dir")]
    gateway: Option<String>,
    /// The gateway's CA certificate, PEM
    #[arg(long, value_name = "FILE", requires = "gateway")]
    gateway_ca: Option<PathBuf>,
    /// A directory with the log's files instead: `checkpoint` and `tile/`
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// The log that these arguments name.
pub fn log_of(args: &LogArgs) -> Result<Box<dyn LogClient>, Failure> {
    match (&args.dir, &args.gateway, &args.gateway_ca) {
        (Some(dir), ..) => Ok(Box::new(LogDir::new(dir))),
        (None, Some(url), Some(ca)) => {
            if !url.starts_with("https://") {
                return Err(Failure::usage(format!("--gateway {url}: must be https://HOST:PORT")));
            }
            let ca = String::from_utf8(read_capped(ca, 1 << 20)?)
                .map_err(|_| Failure::usage("--gateway-ca: not PEM"))?;
            Ok(Box::new(HttpLog::new(Plain::new(pinned_client(&ca)?, url))))
        }
        _ => Err(Failure::usage("give --gateway URL and --gateway-ca FILE, or --dir DIR")),
    }
}

/// Checks a log.
#[derive(Debug, Args)]
pub struct LogVerify {
    #[command(flatten)]
    log: LogArgs,
    /// Logs, witnesses and quorum to believe, as C2SP tlog-policy
    #[arg(long, value_name = "FILE")]
    policy: PathBuf,
    /// The head that you kept the last time: the log must continue it
    #[arg(long, value_name = "FILE")]
    since: Option<PathBuf>,
    /// Keep the head here if all holds; may be the file of --since
    #[arg(long, value_name = "FILE")]
    keep: Option<PathBuf>,
    /// Take the newest head with so many cosignatures; 0 for the newest of all
    #[arg(long, value_name = "N", default_value_t = 0)]
    cosignatures: usize,
    /// `text` for people, `json` for the report as docs/spec/bundle.md has it
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Output,
}

impl LogVerify {
    pub fn run(self) -> Outcome {
        let policy = trust::policy(&self.policy)?;
        let log = log_of(&self.log)?;
        let since = self.since.as_ref().map(|path| read_capped(path, MAX_NOTE as u64)).transpose()?;
        let (report, head) = block_on(async {
            let head = match self.cosignatures {
                0 => None,
                least => log.cosigned(least).await?,
            };
            let head = match head {
                Some(head) => head,
                None => log.checkpoint().await?,
            };
            Ok::<_, Failure>((verify(log.as_ref(), &policy, &head, since.as_deref()).await?, head))
        })?
        .map_err(incomplete)?;
        if let Some(keep) = self.keep.filter(|_| report.outcome == Came::Holds) {
            write_atomic(&keep, &head, Access::Public)?;
        }
        show(&report, self.output)
    }
}

/// All checks of a log under this head.
pub(crate) async fn verify(
    log: &dyn LogClient,
    policy: &Policy,
    head: &[u8],
    since: Option<&[u8]>,
) -> Result<Report, ClientError> {
    let mut report = Report::new(false);
    let logs: Vec<VerifierKey> = policy.logs().iter().map(|log| log.key.clone()).collect();
    let signed = match policy.check(head) {
        Ok(accepted) => {
            let what = format!("{} witnesses of the policy cosigned it", accepted.cosigned.len());
            report.add("checkpoint", Came::Holds, what, None);
            report.head = Some(head_of(&accepted.checkpoint, accepted.cosigned));
            accepted.checkpoint
        }
        Err(error @ policy::Error::Quorum { .. }) => {
            report.add("checkpoint", Came::Incomplete, error.to_string(), None);
            let Ok(signed) = SignedCheckpoint::open(head, &logs) else { return Ok(report) };
            report.head = Some(head_of(&signed, std::collections::BTreeMap::new()));
            signed
        }
        Err(error) => {
            report.add("checkpoint", Came::Refuted, error.to_string(), Some("checkpoint"));
            return Ok(report);
        }
    };
    let (size, root) = (signed.checkpoint().size(), *signed.checkpoint().root());
    let leaves = match Leaves::fetch(log, size, MAX_ENTRIES).await {
        Ok(Some(leaves)) => leaves,
        Ok(None) => {
            report.add("log", Came::Incomplete, format!("more than {MAX_ENTRIES} bytes of entries"), None);
            return Ok(report);
        }
        Err(LeavesError::Log(error)) => {
            report.add("log", Came::Incomplete, format!("entries cannot be read: {error}"), None);
            return Ok(report);
        }
        Err(error @ LeavesError::Tiles(_)) => {
            report.add("log", Came::Refuted, error.to_string(), None);
            return Ok(report);
        }
        Err(LeavesError::Wrong { file, problem }) => {
            report.add("log", Came::Refuted, problem, Some(&file));
            return Ok(report);
        }
    };
    if *leaves.root() == root {
        report.add("log", Came::Holds, format!("the {size} entries have the root that was signed"), None);
    } else {
        let what = format!("the {size} entries have root {}, {root} was signed", leaves.root());
        report.add("log", Came::Refuted, what, Some("checkpoint"));
    }
    entries(&mut report, &leaves);
    tiles(&mut report, log, &leaves).await?;
    if let Some(since) = since {
        continues(&mut report, &logs, since, &signed, &leaves);
    }
    report.words.push(format!(
        "{} has {size} entries. Who signed them may be whoever: what they say about a job, `muster verify job` checks.",
        signed.checkpoint().origin()
    ));
    Ok(report)
}

fn head_of(signed: &SignedCheckpoint, cosigned: std::collections::BTreeMap<String, u64>) -> Head {
    let head = signed.checkpoint();
    Head { origin: head.origin().to_owned(), size: head.size(), root: *head.root(), cosigned }
}

fn entries(report: &mut Report, leaves: &Leaves) {
    let mut wrong = 0;
    for (index, body) in leaves.bodies().iter().enumerate() {
        if let Err(error) = Entry::parse(body) {
            wrong += 1;
            report.add("entries", Came::Refuted, format!("entry {index}: {error}"), None);
        }
    }
    if wrong == 0 {
        report.add("entries", Came::Holds, "each is signed by the key that it names", None);
    }
}

/// Every tile that the log serves is that of its entries.
async fn tiles(report: &mut Report, log: &dyn LogClient, leaves: &Leaves) -> Result<(), ClientError> {
    let mut wrong = 0;
    for (tile, want) in leaves.tiles() {
        let path = Resource::Tile(*tile);
        match log.tile(&path).await {
            Ok(got) if got == *want => {}
            Ok(_) => {
                wrong += 1;
                report.add(
                    "tiles",
                    Came::Refuted,
                    "it is not the tile of the entries",
                    Some(&path.to_string()),
                );
            }
            // A partial tile that has been filled since.
            Err(ClientError::Refused { status: 404, .. }) if !tile.is_full() => {}
            Err(ClientError::Refused { status: 404, .. }) => {
                wrong += 1;
                report.add("tiles", Came::Incomplete, "it is not there", Some(&path.to_string()));
            }
            Err(error) => return Err(error),
        }
    }
    if wrong == 0 {
        report.add(
            "tiles",
            Came::Holds,
            format!("{} tiles are those of the entries", leaves.tiles().len()),
            None,
        );
    }
    Ok(())
}

/// The log continues what was kept.
fn continues(
    report: &mut Report,
    logs: &[VerifierKey],
    since: &[u8],
    now: &SignedCheckpoint,
    leaves: &Leaves,
) {
    let old = match SignedCheckpoint::open(since, logs) {
        Ok(old) => old,
        Err(error) => {
            report.add(
                "since",
                Came::Incomplete,
                format!("the kept head is none of this log: {error}"),
                None,
            );
            return;
        }
    };
    let (before, after) = (old.checkpoint(), now.checkpoint());
    if before.size() > after.size() {
        let what = format!("the log had {} entries and now shows {}", before.size(), after.size());
        report.add("since", Came::Refuted, what, None);
    } else if leaves.root_of(before.size()) == Some(*before.root()) {
        report.add(
            "since",
            Came::Holds,
            format!("the first {} entries are those of the kept head", before.size()),
            None,
        );
    } else {
        let what = "the log was rewritten: both heads are signed, keep both as evidence";
        report.add("since", Came::Refuted, what, None);
    }
}
