//! `muster proof`: takes a job's proof home (docs/spec/bundle.md).
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use futures::FutureExt as _;
use futures::future::LocalBoxFuture;
use muster_proof::Digest;
use muster_proof::bundle::FileRef;
use muster_proof::tlog::note::MAX_NOTE;
use muster_trainer::files::create_dirs;
use reqwest::{Method, StatusCode};

use super::data::{label, split};
use super::download::{self, File};
use super::output::{line, note};
use super::remote::{Gateway, Remote, Trouble, again, piece, send};
use super::run::block_on;
use super::transfer::Transfer;
use super::{Failure, Outcome};
use crate::bundle::make::{JobSource, Made, MakeError, States, Wants, make};
use crate::gateway::users::is_object_name;
use crate::runtime::files::read_capped;
use crate::wire::log::{JobRecords, LogEntry};

/// Takes proofs home.
#[derive(Debug, Args)]
pub struct ProofCommand {
    #[command(subcommand)]
    verb: ProofVerb,
}

#[derive(Debug, Subcommand)]
enum ProofVerb {
    /// Make a directory with all that a stranger needs to check a job's result offline
    Bundle(BundleArgs),
}

#[derive(Debug, Args)]
struct BundleArgs {
    #[command(flatten)]
    job: JobArgs,
    /// Directory to make; the same command goes on in one that it left unfinished
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Of which job, and with what.
#[derive(Debug, Args)]
pub(super) struct JobArgs {
    /// The job
    #[arg(value_name = "NAMESPACE/JOB")]
    job: String,
    /// Take along the states that the hub still has, so that intervals can be replayed from them
    #[arg(long)]
    with_checkpoints: bool,
    /// Take the newest head of the log that has so many cosignatures, if there is one
    #[arg(long, value_name = "N", default_value_t = 1)]
    cosignatures: usize,
    /// How long to wait for such a head that has all records of the job
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    wait: u64,
    /// Take this head of the log instead: the file `checkpoint` that `muster witness` keeps
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,
    #[command(flatten)]
    remote: Remote,
}

impl ProofCommand {
    pub fn run(self) -> Outcome {
        let ProofVerb::Bundle(args) = self.verb;
        block_on(async move {
            args.job.make(&args.out).await?;
            line(args.out.display())?;
            Ok(0)
        })?
    }
}

impl JobArgs {
    /// The records alone, under the newest head.
    pub(super) const fn records_of(job: String, remote: Remote) -> Self {
        Self { job, with_checkpoints: false, cosignatures: 1, wait: 0, checkpoint: None, remote }
    }

    /// Makes the bundle in `out`.
    pub(super) async fn make(&self, out: &Path) -> Result<Made, Failure> {
        let (namespace, job) = split(&self.job)?;
        let namespace = label(namespace)?;
        if !is_object_name(job) {
            return Err(Failure::usage(format!("{job:?} is not the name of a TrainingJob")));
        }
        let head = self.checkpoint.as_ref().map(|path| read_capped(path, MAX_NOTE as u64)).transpose()?;
        let gateway = self.remote.connect().await?;
        create_dirs(out)?;
        let states = if self.with_checkpoints { States::Taken } else { States::Left };
        let patience = Duration::from_secs(self.wait);
        let wants = Wants { states, cosignatures: self.cosignatures, patience, head };
        let source = Tenant { gateway: &gateway, base: format!("/v1/namespaces/{namespace}/jobs/{job}") };
        let made = make(&gateway.log(), &source, out, &wants).await;
        let made = made.map_err(|error| Failure::new(error.to_string()))?;
        note(format_args!(
            "{}: the proof of {} under {} entries of the log; {} witnesses of providers cosigned them",
            out.display(),
            self.job,
            made.size,
            made.witnesses
        ));
        if made.left_out > 0 {
            note(format_args!(
                "{} newer records of the job are not under that head; make it again when more witnesses have seen them",
                made.left_out
            ));
        }
        Ok(made)
    }
}

/// A job at a gateway, as its tenant.
struct Tenant<'a> {
    gateway: &'a Gateway,
    base: String,
}

impl Tenant<'_> {
    /// Bytes of at most `max`; `None` for 404.
    async fn bytes(&self, path: &str, max: u64) -> Result<Option<Vec<u8>>, MakeError> {
        bytes(self.gateway, path, max).await.map_err(failed)
    }
}

/// What the gateway has there, at most `max` bytes; `None` for 404.
pub(super) async fn bytes(gateway: &Gateway, path: &str, max: u64) -> Result<Option<Vec<u8>>, Failure> {
    let got = again(|| async move {
        let mut answer = match send(gateway.request(Method::GET, path).await?).await {
            Err(Trouble::Refused(StatusCode::NOT_FOUND, _)) => return Ok(None),
            other => other?,
        };
        let mut bytes = Vec::new();
        while let Some(part) = piece(&mut answer).await? {
            if (bytes.len() + part.len()) as u64 > max {
                return Err(Failure::new(format!("{path}: the gateway sends more than {max} bytes")).into());
            }
            bytes.extend_from_slice(&part);
        }
        Ok(Some(bytes))
    });
    Ok(got.await?)
}

fn failed(failure: Failure) -> MakeError {
    MakeError::Job(failure.to_string())
}

impl JobSource for Tenant<'_> {
    fn records(&self) -> LocalBoxFuture<'_, Result<JobRecords, MakeError>> {
        async { self.gateway.get(&format!("{}/records", self.base)).await.map_err(failed) }.boxed_local()
    }

    fn record<'a>(&'a self, id: &'a Digest) -> LocalBoxFuture<'a, Result<LogEntry, MakeError>> {
        async move { self.gateway.get(&format!("{}/records/{}", self.base, id.to_hex())).await.map_err(failed) }
            .boxed_local()
    }

    fn input<'a>(&'a self, digest: &'a Digest, max: u64) -> LocalBoxFuture<'a, Result<Vec<u8>, MakeError>> {
        async move {
            let path = format!("{}/inputs/sha256/{}", self.base, digest.to_hex());
            let found = self.bytes(&path, max).await?;
            found.ok_or_else(|| {
                MakeError::Job(format!("the hub does not have {digest}, which the job's record names"))
            })
        }
        .boxed_local()
    }

    fn manifest<'a>(
        &'a self,
        digest: &'a Digest,
        max: u64,
    ) -> LocalBoxFuture<'a, Result<Option<Vec<u8>>, MakeError>> {
        async move { self.bytes(&format!("{}/blobs/sha256/{}", self.base, digest.to_hex()), max).await }
            .boxed_local()
    }

    fn state<'a>(&'a self, file: &'a FileRef, to: &'a Path) -> LocalBoxFuture<'a, Result<(), MakeError>> {
        async move {
            let bar = Transfer::start("fetching", file.size);
            let source = download::Source::new(self.gateway, &self.base);
            let dir = to.parent().unwrap_or(Path::new("."));
            let wanted = File { name: file.name(), digest: file.sha256, size: Some(file.size) };
            let part = download::whole(&source, dir, &wanted, file.size, &bar).await;
            bar.end();
            std::fs::rename(part.map_err(failed)?, to)?;
            Ok(())
        }
        .boxed_local()
    }
}
