//! `muster auditor`: the hub's own auditor, provider `hub` of the log, asked when no other owner is left. It follows the log,
//! replays what it is assigned with processes of the trainer, and answers under seal like everybody else
//! (docs/spec/protocol.md, "Audits"). One process beside the hub, with the hub's key and its store.
//!
//! | file | thought |
//! |---|---|
//! | `task` | what it is asked, out of the fold over the log |
//! | `fetch` | what a replay reads, out of the store |
//! | `answers` | what it came to, durable before it is sealed |
//! | `work` | the loop: one pass after another, one replay at a time |
//! | `lease` | the sign that it is up |
//! | `rbac` | its rights |
//!
//! It owns nothing and decides nothing: the hub assigns and judges. All it knows is in the log, the store and `answers`, so
//! that it may be killed at any time.
mod answers;
mod fetch;
pub mod lease;
pub mod rbac;
mod task;
mod work;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures::future::BoxFuture;
use muster_proof::Digest;
use tokio::sync::watch;

pub use fetch::Laid;

use crate::hub::ledger::way::Published;
use crate::hub::state::{Keys, State, StateError};
use crate::runtime::Shutdown;
use crate::runtime::client::Target;
use crate::store::{Location, Store};
use answers::Answers;
use work::Auditor;

/// Folder of the answers in the hub's state directory.
const ANSWERS: &str = "audits";

/// Flags of `muster auditor`, beside which cluster the hub is on.
#[derive(Debug, Clone, clap::Args)]
pub struct AuditorArgs {
    /// Where blobs, datasets and checkpoints are: the hub's store
    #[arg(long, value_name = "DIR|URL")]
    store: Location,
    /// Directory of the hub's keys; what is answered under seal is kept in it, too
    #[arg(long, value_name = "DIR")]
    state: PathBuf,
    /// Where to replay; what is there is removed [default: a directory among the system's temporary files]
    #[arg(long, value_name = "DIR")]
    work: Option<PathBuf>,
}

/// What computing an interval came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Computed {
    /// StateRoot at its end; what stands for it if a step before is not finite.
    pub state_root: Digest,
    /// Root of the tree over its step records.
    pub record_root: Digest,
}

/// Computes an interval. A trait, so that the rest can be tested without a trainer.
pub trait Replay: Send + Sync {
    /// Computes what is laid out; ends early, with an error, once `stop` is triggered.
    fn replay(&self, laid: Laid, stop: Shutdown) -> BoxFuture<'static, Result<Computed, String>>;
}

/// The hub's state, once a hub has made it: the two start at the same time. `None` if a stop was asked for first.
async fn state_of_hub(dir: &Path, shutdown: &Shutdown) -> Result<Option<(State, Keys)>, StateError> {
    let mut said = false;
    loop {
        match State::of_hub(dir) {
            Err(error @ StateError::NoState(_)) => {
                if !said {
                    tracing::warn!(%error, "waits for a hub to make it");
                }
                said = true;
            }
            opened => return opened.map(Some),
        }
        tokio::select! {
            biased;
            () = shutdown.wait() => return Ok(None),
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
    }
}

/// Runs until SIGTERM or SIGINT. While the log cannot be read, or not be believed, it says so and is not up.
///
/// # Errors
/// A directory that cannot be used.
pub async fn run(target: Target, args: AuditorArgs, replay: Arc<dyn Replay>) -> anyhow::Result<()> {
    let shutdown = Shutdown::on_signals().context("cannot handle signals")?;
    let client = target.client().await?;
    let Some((state, keys)) = state_of_hub(&args.state, &shutdown).await? else { return Ok(()) };
    let store = Store::open(args.store.clone()).await.with_context(|| format!("store {}", args.store))?;
    let answers = Answers::open(args.state.join(ANSWERS)).context("--state")?;
    let work = args.work.unwrap_or_else(|| std::env::temp_dir().join("muster-auditor"));
    tracing::info!(keyid = %keys.signer().key_id(), work = %work.display(), "auditor starts");
    let (well, up) = watch::channel(false);
    let lease = tokio::spawn(lease::run(client.clone(), up, shutdown.clone()));
    let state = (Arc::new(state), keys.signer().clone());
    let auditor = Auditor::new(Published::new(client, None), state, Arc::new(store), answers, replay, work);
    auditor.run(&well, shutdown).await;
    let _ = lease.await;
    tracing::info!("auditor stopped");
    Ok(())
}
