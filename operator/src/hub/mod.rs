//! `muster hub`: provider and job controllers, placement, and the registrar. One process, under two identities:
//! ServiceAccount muster-system/muster-hub, and muster-system/muster-registrar for what hands out rights.
//!
//! | folder or file | what |
//! |---|---|
//! | `provider` | ComputeProviders: their joins, heartbeats, status |
//! | `registrar` | namespace, identity and rights of a provider's agent |
//! | `job` | TrainingJobs: acceptance, placement, status, events |
//! | `queue` | which job trains where, over all jobs; `site`: providers and units as it sees them |
//! | `units` | the end of WorkUnits |
//! | `audit` | windows, draws, auditors, verdicts; Audit objects |
//! | `collector` | garbage collection of the store, which outlives objects |
//! | `log` | the way to the log that the gateway keeps |
//! | `state`, `signer`, `publish` | keys and numbers that outlive the database; who signs; the public half |
//! | `restore` | notices that the database went back |
//! | `recovery` | what agents still hold after that: continued, or stopped |
//! | `ledger`, `log` | what is logged before it counts; the way to the log |
//! | `apply`, `events`, `context`, `error`, `names`, `patience`, `rbac` | what the controllers share |
//!
//! Decisions live in `muster-core` and are pure. Nothing here trains, listens, or holds a member's credentials.
pub(crate) mod apply;
pub mod audit;
pub(crate) mod collector;
pub(crate) mod context;
mod error;
pub(crate) mod events;
pub(crate) mod job;
pub mod ledger;
pub mod log;
pub mod names;
pub(crate) mod patience;
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

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::runtime::Shutdown;
use crate::runtime::client::Target;
use crate::store::{Location, Store};
use context::Context;
use ledger::Ledger;
use restore::Restore;
use signer::Signer;
use state::State;

/// After a stop was asked for, what is under way may go on for so long.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// Flags of `muster hub`, beside which cluster it is. (clap finds out whether they are there at all, as they are not with
/// a verb, only if none of them is flattened.)
#[derive(Debug, Clone, clap::Args)]
pub struct HubArgs {
    /// Kubeconfig of the registrar, ServiceAccount muster-system/muster-registrar: only it hands out rights
    #[arg(long, value_name = "FILE")]
    registrar_kubeconfig: PathBuf,
    /// Context within it [default: its current one]
    #[arg(long, value_name = "NAME")]
    registrar_context: Option<String>,
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
}

/// How one run of the hub ended.
enum Ended {
    /// By SIGTERM or SIGINT.
    Asked,
    /// The database went back: all that is cached is of the lost time.
    Restored,
}

/// Runs until SIGTERM or SIGINT; a restored database is met with a new start inside the process.
pub async fn run(target: Target, args: HubArgs) -> anyhow::Result<()> {
    let asked = Shutdown::on_signals().context("cannot handle signals")?;
    loop {
        match serve(&target, &args, &asked).await? {
            Ended::Asked => {
                tracing::info!("hub stopped");
                return Ok(());
            }
            Ended::Restored => tracing::warn!("starting anew on the restored database"),
        }
    }
}

async fn serve(target: &Target, args: &HubArgs, asked: &Shutdown) -> anyhow::Result<Ended> {
    let shutdown = asked.child();
    let client = target.client().await?;
    let registrar = Target {
        kubeconfig: Some(args.registrar_kubeconfig.clone()),
        context: args.registrar_context.clone(),
    };
    let registrar = registrar.client().await.context("--registrar-kubeconfig")?;
    let (state, keys) = State::open(&args.state)?;
    let store = Store::open(args.store.clone()).await;
    let store = Arc::new(store.with_context(|| format!("store {}", args.store))?);
    let state = Arc::new(state);
    let signer = Arc::new(Signer::new(keys.signer().clone(), state.clone()));
    let way = ledger::way::Published(client.clone());
    let ledger = Ledger::new(way, state.clone(), signer.clone());
    let ctx = Arc::new(Context::new(client, store, (signer, state), ledger, args.trainer_image.clone()));
    let schedule = collector::Schedule {
        every: Duration::from_secs(args.gc_interval_seconds),
        grace: Duration::from_secs(args.gc_grace_seconds),
    };
    let patience = Duration::from_secs(args.audit_patience);
    tracing::info!(keyid = %keys.signer().key_id(), key_set = keys.set().serial(), "hub starts");

    // The registrar on a task of its own: that a provider is cut off must not wait for anything else.
    let mut registrar = tokio::spawn(registrar::run(registrar, shutdown.clone()));
    let mut controllers = tokio::spawn(everything(ctx, schedule, patience, shutdown.clone()));
    let first = tokio::select! {
        biased;
        ended = &mut registrar => ended.context("registrar").map(|()| false),
        ended = &mut controllers => ended.context("controllers"),
    };
    let by_us = shutdown.is_triggered();
    // Whatever ended first, the other one finishes what it has begun.
    shutdown.trigger();
    let restored = match (registrar.is_finished(), first?) {
        (_, true) => {
            let _ = tokio::time::timeout(STOP_WITHIN, registrar).await;
            true
        }
        // The registrar may be the first to hear of it.
        (true, false) => matches!(tokio::time::timeout(STOP_WITHIN, controllers).await, Ok(Ok(true))),
        (false, false) => {
            let _ = tokio::time::timeout(STOP_WITHIN, registrar).await;
            false
        }
    };
    match (asked.is_triggered(), restored) {
        (true, _) => Ok(Ended::Asked),
        (false, true) => Ok(Ended::Restored),
        (false, false) if by_us => Ok(Ended::Asked),
        (false, false) => bail!("a part of the hub ended by itself; see the log above"),
    }
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
            collector::run(ctx.clone(), schedule, stop()),
            recovery::follow(&ctx, stop()),
        );
    };
    let (went_back, ..) = tokio::join!(
        restore.run(stop()),
        publish::run(client, state, signer, stop()),
        provider::run(ctx.clone(), stop()),
        ledger::keys::run(&ctx, stop()),
        jobs,
    );
    went_back
}
