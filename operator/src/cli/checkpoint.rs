//! `muster checkpoint fetch`: a job's checkpoint out of the hub's store, checked to the last bit. For administrators, on the
//! hub's machine, until the gateway serves tenants.
use super::data::split;
use super::output::{line, note};
use super::run::block_on;
use super::{Failure, Outcome};
use crate::hub::store::{Store, Whole};
use crate::runtime::client::{Target, within};
use clap::{Args, Subcommand};
use kube::Api;
use muster_api::v1alpha1::TrainingJob;
use muster_proof::Digest;
use muster_trainer::checkpoint::{self, MANIFEST_FILE, Manifest};
use muster_trainer::files::NewDir;
use std::path::{Path, PathBuf};
use tokio::io::AsyncReadExt;

#[derive(Debug, Args)]
pub struct CheckpointCommand {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Copy a job's checkpoint out of a hub's store and check it whole (on the hub's machine)
    Fetch(Fetch),
}

#[derive(Debug, Args)]
struct Fetch {
    /// The job; its UID is asked of the cluster
    #[arg(value_name = "NAMESPACE/JOB", required_unless_present = "job_uid")]
    job: Option<String>,
    /// The job by its UID, without asking a cluster
    #[arg(long, value_name = "UID", conflicts_with_all = ["job", "kubeconfig", "context"])]
    job_uid: Option<String>,
    /// The hub's store
    #[arg(long, value_name = "DIR")]
    store: PathBuf,
    /// The step [default: the newest]
    #[arg(long, value_name = "N")]
    step: Option<u64>,
    /// Directory to make
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    target: Target,
}

impl CheckpointCommand {
    pub fn run(self) -> Outcome {
        let Verb::Fetch(fetch) = self.verb;
        block_on(fetch.run())?
    }
}

impl Fetch {
    async fn run(self) -> Outcome {
        if !self.store.is_dir() {
            return Err(Failure::new(format!(
                "no store in {}; name the hub's --store",
                self.store.display()
            )));
        }
        let (uid, training_digest) = match (&self.job, self.job_uid) {
            (Some(job), _) => ask(&self.target, job).await?,
            (None, uid) => (uid.unwrap_or_default(), None),
        };
        let store = Store::attach(&self.store).await?;
        let (digest, manifest) = find(&store, &uid, self.step).await?;
        if let Some(want) = training_digest.filter(|want| *want != manifest.training_digest().to_string()) {
            let got = manifest.training_digest();
            return Err(Failure::new(format!(
                "the checkpoint's training digest is {got}, the job's is {want}; the store is another hub's or damaged"
            )));
        }
        copy(&store, &digest, &manifest, &self.out).await?;
        note(format_args!("{}: the state after step {}", self.out.display(), manifest.step()));
        line(format_args!("stateRoot {}", manifest.state_root()))?;
        Ok(0)
    }
}

/// UID and training digest of a TrainingJob.
async fn ask(target: &Target, job: &str) -> Result<(String, Option<String>), Failure> {
    let (namespace, name) = split(job)?;
    let api: Api<TrainingJob> = Api::namespaced(target.client().await?, namespace);
    let found = within(&format!("get trainingjob {namespace}/{name}"), api.get_opt(name)).await?;
    let job = found.ok_or_else(|| {
        Failure::new(format!("there is no TrainingJob {namespace}/{name}; give --job-uid if it was deleted"))
    })?;
    Ok((job.metadata.uid.unwrap_or_default(), job.status.and_then(|s| s.training_digest)))
}

async fn find(store: &Store, uid: &str, step: Option<u64>) -> Result<(Digest, Manifest), Failure> {
    let all = store.checkpoints(uid).await?;
    let found = match step {
        Some(step) => all.get(&step).copied(),
        None => all.values().next_back().copied(),
    };
    let Some(digest) = found else {
        let steps: Vec<_> = all.keys().map(u64::to_string).collect();
        let have = if steps.is_empty() { "none yet".into() } else { steps.join(", ") };
        return Err(Failure::new(format!("job {uid} has no such checkpoint in the store; it has {have}")));
    };
    match store.whole_checkpoint(&digest).await? {
        Whole::Yes(manifest) => Ok((digest, manifest)),
        Whole::Missing(blob) => Err(Failure::new(format!("the store lacks {blob} of checkpoint {digest}"))),
        Whole::Invalid(problem) => Err(Failure::new(problem)),
    }
}

/// Copies every file, hashing what is written; the directory appears only when all of it is right.
async fn copy(store: &Store, digest: &Digest, manifest: &Manifest, out: &Path) -> Result<(), Failure> {
    let dir = NewDir::create(out)?;
    let files =
        manifest.files().iter().map(|f| (f.path.as_str(), f.sha256)).chain([(MANIFEST_FILE, *digest)]);
    for (name, blob) in files {
        let lost = || Failure::new(format!("blob {blob} ({name}) vanished from the store; fetch again"));
        let (mut source, _) = store.blobs().file(&blob).await?.ok_or_else(lost)?;
        let mut file = dir.file(name)?;
        let mut piece = vec![0; 1 << 20];
        loop {
            match source.read(&mut piece).await? {
                0 => break,
                n => file.write(&piece[..n])?,
            }
        }
        let (got, _) = file.finish()?;
        if got != blob {
            return Err(Failure::new(format!(
                "{name} is damaged in the store: its digest is {got}, not {blob}"
            )));
        }
    }
    // The files are what the manifest says; this recomputes the StateRoot from the values themselves.
    let path = dir.path().to_owned();
    tokio::task::spawn_blocking(move || checkpoint::open(&path).map(|_| ())).await??;
    dir.commit()?;
    Ok(())
}
