//! What every scenario stands on: two clusters, the stack, a tenant namespace with a small dataset.
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::RunArgs;
use crate::cluster::{self, Cluster, PROVIDER, TRAINING_JOB};
use crate::process::{self, Output};
use crate::quiet;

/// The tenant's namespace on the hub; the stack makes it and imports its datasets.
pub const TENANT: &str = "e2e";
/// The provider that `scripts/stack.sh` lends.
pub const EAST: &str = "east";
/// Its namespace on the hub.
pub const EAST_NAMESPACE: &str = "muster-p-east";
/// The second one, of another owner.
pub const WEST: &str = "west";
/// Where pods run on a member.
pub const LENT: &str = "muster-lent";

pub struct World {
    /// The checkout.
    pub root: PathBuf,
    /// State of the stack: kubeconfigs, pid files, logs, the hub's store.
    pub run: PathBuf,
    /// Scratch space of this run.
    pub scratch: PathBuf,
    pub kubeconfig: PathBuf,
    /// `muster`, which finds `muster-trainer` beside itself.
    pub muster: PathBuf,
    /// A small prepared dataset, imported as `e2e/tiny`.
    pub dataset: PathBuf,
    pub hub: Cluster,
    /// East, where the jobs of most scenarios run.
    pub member: Cluster,
    pub west: Cluster,
    pub quiet: quiet::Known,
}

impl World {
    /// Connects, brings the stack up, and prepares the tenant.
    pub async fn open(args: &RunArgs) -> Result<Self> {
        let root = args.root.canonicalize().context("--root")?;
        let below = |path: &Path| if path.is_absolute() { path.to_path_buf() } else { root.join(path) };
        let run = below(&args.run);
        // Written by the clusters' scripts, with the contexts `hub` and `east`.
        let kubeconfig = run.join("kubeconfig");
        let bin = match &args.bin {
            Some(bin) => below(bin),
            // This program was built beside them.
            None => std::env::current_exe()?.parent().context("no folder of this program")?.to_path_buf(),
        };
        let muster = bin.join("muster");
        if !muster.is_file() || !bin.join("muster-trainer").is_file() {
            bail!("{} lacks muster or muster-trainer: `cargo build --workspace` first", bin.display());
        }
        let scratch = run.join("e2e");
        // Checkpoints of an earlier run would be resumed from.
        let _ = std::fs::remove_dir_all(&scratch);
        std::fs::create_dir_all(&scratch)?;
        let world = Self {
            hub: Cluster::connect(&kubeconfig, "hub").await?,
            member: Cluster::connect(&kubeconfig, EAST).await?,
            west: Cluster::connect(&kubeconfig, WEST).await?,
            dataset: scratch.join("tiny"),
            root,
            run,
            scratch,
            kubeconfig,
            muster,
            quiet: quiet::Known::default(),
        };
        world.stack(&["up"]).await?;
        world.prepare_tenant().await?;
        world.tidy().await?;
        Ok(world)
    }

    /// Runs `scripts/stack.sh`.
    pub async fn stack(&self, arguments: &[&str]) -> Result<Output> {
        self.stack_with(arguments, &[]).await
    }

    /// Runs `scripts/stack.sh` with more environment, for the scenarios that start it differently.
    pub async fn stack_with(&self, arguments: &[&str], more: &[(&str, &str)]) -> Result<Output> {
        let run = self.run.to_string_lossy();
        let bin = self.muster.parent().unwrap_or(&self.root).to_string_lossy();
        let mut env = vec![("MUSTER_RUN", &*run), ("MUSTER_BIN", &*bin)];
        env.extend_from_slice(more);
        process::succeed(&self.root, &self.root.join("scripts/stack.sh"), arguments, &env).await
    }

    /// Runs `muster`; the caller judges the exit code.
    pub async fn muster(&self, arguments: &[&str]) -> Result<Output> {
        process::capture(&self.root, &self.muster, arguments, &[]).await
    }

    /// The member cluster of a provider.
    pub fn member_of(&self, provider: &str) -> Result<&Cluster> {
        match provider {
            EAST => Ok(&self.member),
            WEST => Ok(&self.west),
            other => bail!("no member cluster is called {other:?}"),
        }
    }

    /// Runs `e2e/localcluster/ctl.sh`.
    pub async fn ctl(&self, arguments: &[&str]) -> Result<Output> {
        process::succeed(&self.root, &self.root.join("e2e/localcluster/ctl.sh"), arguments, &[]).await
    }

    /// The tenant's own credentials.
    pub fn tenant_kubeconfig(&self) -> PathBuf {
        self.run.join(format!("tenant-{TENANT}.kubeconfig"))
    }

    /// Namespace, identity, and a dataset that goes the way of every tenant's data.
    async fn prepare_tenant(&self) -> Result<()> {
        self.stack(&["tenant", TENANT]).await?;
        let text = self.scratch.join("tiny.txt");
        std::fs::write(&text, small_text())?;
        let _ = std::fs::remove_dir_all(&self.dataset);
        let (text, dataset) = (text.to_string_lossy(), self.dataset.to_string_lossy());
        self.muster_succeeds(&["data", "prepare", &text, "--out", &dataset]).await?;
        self.push("tiny", &self.dataset).await
    }

    /// Puts a dataset into the tenant's catalogue, as the tenant.
    pub async fn push(&self, name: &str, dataset: &Path) -> Result<()> {
        let (name, dataset) = (format!("{TENANT}/{name}"), dataset.to_string_lossy());
        let kubeconfig = self.tenant_kubeconfig();
        let arguments =
            ["data", "push", &name, &dataset, "--replace", "--kubeconfig", &kubeconfig.to_string_lossy()];
        self.muster_succeeds(&arguments).await.map(|_| ())
    }

    /// Runs `muster`; an exit code other than 0 is an error.
    pub async fn muster_succeeds(&self, arguments: &[&str]) -> Result<Output> {
        process::succeed(&self.root, &self.muster, arguments, &[]).await
    }

    /// Brings the stack back to its usual state and removes the tenant's jobs with all that they made.
    pub async fn tidy(&self) -> Result<()> {
        self.stack(&["up"]).await?;
        for job in self.hub.list(TRAINING_JOB, Some(TENANT), "").await? {
            self.hub.delete(TRAINING_JOB, Some(TENANT), cluster::name(&job), None).await?;
        }
        let gone =
            || async { Ok(self.hub.list(TRAINING_JOB, Some(TENANT), "").await?.is_empty().then_some(())) };
        eventually("the tenant's TrainingJobs to be gone", Duration::from_secs(90), gone).await
    }

    /// Waits until the hub says that a provider is ready, or that it is not.
    pub async fn provider_ready(&self, provider: &str, wanted: bool, limit: Duration) -> Result<()> {
        let ready = || async {
            let object = self.hub.get(PROVIDER, None, provider).await?;
            let ready = object.as_ref().and_then(|p| cluster::condition(p, "Ready").map(|c| c.0 == "True"));
            Ok((ready == Some(wanted)).then_some(()))
        };
        let what = if wanted { "be Ready" } else { "be not Ready" };
        eventually(&format!("ComputeProvider {provider} to {what}"), limit, ready).await
    }
}

/// Asks again and again until there is an answer. Errors of a server that is down for the moment are not the end;
/// the last one is told if time runs out.
pub async fn eventually<T, F, Fut>(what: &str, limit: Duration, mut ask: F) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<Option<T>>>,
{
    let begin = Instant::now();
    loop {
        let last = match ask().await {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => None,
            Err(error) => Some(error),
        };
        if begin.elapsed() > limit {
            let why = last.map(|error| format!(" (last error: {error:#})")).unwrap_or_default();
            bail!("waited {} s for {what}{why}", limit.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// 96 KiB of words from a fixed generator: the same bytes on every machine, and something to learn.
fn small_text() -> String {
    const WORDS: [&str; 16] = [
        "and", "the", "light", "was", "upon", "water", "earth", "good", "day", "night", "made", "saw",
        "called", "between", "under", "over",
    ];
    let mut state = 1_u32;
    let mut text = String::new();
    while text.len() < 96 * 1024 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        text.push_str(WORDS[(state >> 28) as usize]);
        text.push(if state & 0x0f00 == 0 { '\n' } else { ' ' });
    }
    text
}
