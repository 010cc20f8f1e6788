//! `muster hub`: provider and job controllers, and placement, under ServiceAccount muster-system/muster-hub. Several may run; one
//! leads. `muster registrar`, which hands out rights, is a process of its own, under muster-system/muster-registrar.
//!
//! | folder or file | what |
//! |---|---|
//! | `provider` | ComputeProviders: their joins, heartbeats, status |
//! | `leader` | which of several hubs acts |
//! | `registrar` | namespace, identity and rights of a provider's agent: `muster registrar` |
//! | `job` | TrainingJobs: acceptance, placement, status, events |
//! | `queue` | which job trains where, over all jobs; `site`: providers and units as it sees them |
//! | `units` | the end of WorkUnits |
//! | `audit` | windows, draws, auditors, verdicts; Audit objects |
//! | `collector` | garbage collection of the store, which outlives objects |
//! | `log` | the way to the log that the gateway keeps |
//! | `state`, `signer`, `publish` | keys and numbers that outlive the database; who signs; the public half |
//! | `restore` | notices that the database went back; `incarnation`: how other processes hear of it |
//! | `recovery` | what agents still hold after that: continued, or stopped |
//! | `ledger`, `log` | what is logged before it counts; the way to the log |
//! | `apply`, `events`, `context`, `error`, `names`, `rbac` | what the controllers share |
//! | `metrics` | what it measures of itself |
//!
//! Decisions live in `muster-core` and are pure. Nothing here trains, listens, or holds a member's credentials.
pub(crate) mod apply;
pub mod audit;
pub(crate) mod collector;
pub(crate) mod context;
mod error;
pub(crate) mod events;
pub(crate) mod incarnation;
pub(crate) mod job;
mod kueue;
mod leader;
pub mod ledger;
pub mod log;
mod metrics;
pub mod names;
mod provider;
mod publish;
mod queue;
pub mod rbac;
mod recovery;
pub mod registrar;
mod restore;
pub(crate) mod signer;
mod site;
pub mod state;
mod units;

pub use context::Image;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use kube::Config;

use crate::runtime::Shutdown;
use crate::runtime::client::{Target, client_of, fenced_client_of};
use crate::runtime::fence::Fence;
use crate::store::{Location, Store};
use context::Context;
use leader::{Elector, Standing};
use ledger::Ledger;
use metrics::Metrics;
use restore::Restore;
use signer::Signer;
use state::State;

/// After a stop was asked for, what is under way may go on for so long.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// Flags of `muster hub`, beside which cluster it is. (clap finds out whether they are there at all, as they are not with
/// a verb, only if none of them is flattened.)
#[derive(Debug, Clone, clap::Args)]
pub struct HubArgs {
    /// Where blobs, datasets and checkpoints are: a directory, or s3://BUCKET/PREFIX, gs:// or az://; the gateway's store
    #[arg(long, value_name = "DIR|URL")]
    store: Location,
    /// Directory of the hub's keys; made on first start, mode 0700. Losing it means that everyone joins anew
    #[arg(long, value_name = "DIR")]
    state: PathBuf,
    /// The trainer's image; a digest, so that it cannot change under a job
    #[arg(long, value_name = "NAME@sha256:HEX")]
    trainer_image: Image,
    /// Seconds between two garbage collections of the store
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..))]
    gc_interval_seconds: u64,
    /// Blobs younger than this are never collected
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    gc_grace_seconds: u64,
    /// Seconds that an auditor's result, or anybody's opening, is waited for at least; longer if the job's intervals take long
    #[arg(long, value_name = "SECONDS", default_value_t = 21_600, value_parser = clap::value_parser!(u64).range(1..))]
    audit_patience: u64,
    /// Who this is among several hubs, of which one leads: a pod's uid, so that its next process goes on at once [default: drawn
    /// at every start]
    #[arg(long, value_name = "NAME", value_parser = leader::identity)]
    identity: Option<String>,
    /// Where /metrics, /healthz and /readyz are, in plain HTTP [default: nowhere]
    #[arg(long, value_name = "ADDRESS:PORT")]
    metrics_listen: Option<SocketAddr>,
}

/// How one run of the hub ended.
enum Ended {
    /// By SIGTERM or SIGINT.
    Asked,
    /// So, but something had to be cut off: its last request may still be on its way.
    CutOff,
    /// The database went back: all that is cached is of the lost time.
    Restored,
}

/// Runs until SIGTERM or SIGINT, while it leads. A restored database, and the loss of the lead, are met with a new start inside the
/// process.
pub async fn run(target: Target, args: HubArgs) -> anyhow::Result<()> {
    let asked = Shutdown::on_signals().context("cannot handle signals")?;
    let config = target.config().await?;
    let standing = Standing::default();
    let metrics = Metrics::default();
    metrics::serve(args.metrics_listen, standing.clone(), metrics.clone())?;
    let me = match &args.identity {
        Some(identity) => identity.clone(),
        None => leader::nobody_elses().context("no randomness")?,
    };
    let mut elector = Elector::new(client_of(config.clone())?, me, standing);
    while let Some(fence) = elector.win(&asked).await {
        // On a task of its own, for a renewal waits for nothing; and until everything that writes has ended.
        let done = Shutdown::manual();
        let stop = done.clone();
        let mut keeps = tokio::spawn(async move { (elector.keep(&stop).await, elector) });
        let ended = tokio::select! {
            biased;
            kept = &mut keeps => {
                elector = kept.context("the election")?.1;
                tracing::warn!(
                    "another hub leads, or the Lease could not be renewed in time: stands by, and forgets what it knew"
                );
                continue;
            }
            ended = lead(&config, &args, (&fence, &metrics), &asked) => ended,
        };
        done.trigger();
        let (lost, elector) = keeps.await.context("the election")?;
        if !lost && matches!(ended, Ok(true)) {
            elector.give_back().await;
        }
        return ended.map(drop);
    }
    tracing::info!("hub stopped; it did not lead");
    Ok(())
}

/// One run after another, until a stop is asked for. Whether all that it had begun has ended.
async fn lead(
    config: &Config,
    args: &HubArgs,
    term: (&Fence, &Metrics),
    asked: &Shutdown,
) -> anyhow::Result<bool> {
    loop {
        match serve(config, args, term, asked).await? {
            ended @ (Ended::Asked | Ended::CutOff) => {
                tracing::info!("hub stopped");
                return Ok(matches!(ended, Ended::Asked));
            }
            Ended::Restored => tracing::warn!("starting anew on the restored database"),
        }
    }
}

async fn serve(
    config: &Config,
    args: &HubArgs,
    (fence, metrics): (&Fence, &Metrics),
    asked: &Shutdown,
) -> anyhow::Result<Ended> {
    let shutdown = asked.child();
    let client = fenced_client_of(config.clone(), fence)?;
    let (state, keys) = State::open(&args.state)?;
    let store = Store::open(args.store.clone()).await;
    let store = Arc::new(store.with_context(|| format!("store {}", args.store))?);
    let state = Arc::new(state);
    let signer = Arc::new(Signer::new(keys.signer().clone(), state.clone()));
    let way = ledger::way::Published::new(client.clone(), Some(fence.clone()));
    let ledger = Ledger::new(way, state.clone(), signer.clone());
    let mut ctx = Context::new(client, store, (signer, state), ledger, args.trainer_image.clone());
    ctx.metrics = metrics.clone();
    let ctx = Arc::new(ctx);
    let schedule = collector::Schedule {
        every: Duration::from_secs(args.gc_interval_seconds),
        grace: Duration::from_secs(args.gc_grace_seconds),
    };
    let patience = Duration::from_secs(args.audit_patience);
    tracing::info!(keyid = %keys.signer().key_id(), key_set = keys.set().serial(), "hub starts");
    let ended = tokio::select! {
        biased;
        restored = everything(ctx, schedule, patience, shutdown.clone()) => Some(restored),
        // What does not end by itself is cut off.
        () = long_after(&shutdown) => None,
    };
    match (asked.is_triggered(), ended) {
        (true, Some(_)) => Ok(Ended::Asked),
        (true, None) => Ok(Ended::CutOff),
        // Nothing but a restore asks for a stop beside who runs us.
        (false, Some(true) | None) => Ok(Ended::Restored),
        (false, Some(false)) => bail!("a part of the hub ended by itself; see the log above"),
    }
}

async fn long_after(shutdown: &Shutdown) {
    shutdown.wait().await;
    tokio::time::sleep(STOP_WITHIN).await;
}

/// All controllers, until shutdown. True if it ended because the database went back.
pub(crate) async fn everything(
    ctx: Arc<Context>,
    schedule: collector::Schedule,
    patience: Duration,
    shutdown: Shutdown,
) -> bool {
    let stop = || shutdown.clone();
    let (client, state, signer) = (ctx.client.clone(), ctx.state.clone(), ctx.signer.clone());
    let restore = Restore::new(client.clone(), state.clone());
    // Nothing is signed, and no epoch used, before it is known whether the database went back.
    if restore.settle(&shutdown).await.is_none() {
        return false;
    }
    // Nor is anything decided about jobs, or removed, before the agents have said what they hold.
    let jobs = async {
        if recovery::settle(&ctx, &shutdown).await.is_none() {
            return;
        }
        let (jobs, cache) = job::controller(&ctx);
        tokio::join!(
            job::run(jobs, ctx.clone(), stop()),
            audit::run(ctx.clone(), cache.clone(), patience, stop()),
            units::run(ctx.clone(), cache, stop()),
            queue::run(&ctx, stop()),
            kueue::run(&ctx, stop()),
            collector::run(ctx.clone(), schedule, stop()),
            recovery::follow(&ctx, stop()),
        );
    };
    // All others may have something to tell until they have ended.
    let all_ended = Shutdown::manual();
    let all = async {
        let (went_back, ..) = tokio::join!(
            restore.run(stop()),
            ctx.mirrors.follow(&shutdown),
            publish::run(client, state, signer, stop()),
            provider::run(ctx.clone(), stop()),
            ledger::keys::run(&ctx, stop()),
            jobs,
        );
        all_ended.trigger();
        went_back
    };
    tokio::join!(all, ctx.recorder.run(&all_ended)).0
}
