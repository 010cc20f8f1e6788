//! `muster hub`: provider and job controllers, placement, blob service. One process, under ServiceAccount
//! muster-system/muster-hub.
//!
//! | folder or file | what |
//! |---|---|
//! | `provider` | ComputeProviders: namespace, identity, Lease, report, status |
//! | `job` | TrainingJobs: acceptance, placement, status, events |
//! | `units` | the end of WorkUnits |
//! | `store`, `blobs`, `collector` | what outlives objects; its HTTPS service; its garbage collection |
//! | `state`, `publish` | key, CA, incarnation; the public half of them |
//! | `apply`, `events`, `context`, `error`, `names`, `patience`, `rbac` | what the controllers share |
//!
//! Decisions live in `muster-core` and are pure. Nothing here trains, and no member's credentials are held.
mod apply;
pub mod blobs;
mod collector;
mod context;
mod error;
mod events;
mod job;
pub mod names;
mod patience;
mod provider;
mod publish;
pub mod rbac;
mod state;
pub mod store;
mod units;

pub use context::Image;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use axum::http::Uri;

use crate::runtime::Shutdown;
use crate::runtime::client::Target;
use crate::runtime::join::HubPublic;
use blobs::auth::{Authenticator, KubeReviewer};
use context::Context;
use store::Store;

/// After a stop was asked for, what is under way may go on for so long.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// Flags of `muster hub`.
#[derive(Debug, Clone, clap::Args)]
pub struct HubArgs {
    #[command(flatten)]
    target: Target,
    /// Directory of blobs, datasets and checkpoints
    #[arg(long, value_name = "DIR")]
    store: PathBuf,
    /// Directory of the hub's keys; made on first start, mode 0700. Losing it means new join files for everyone
    #[arg(long, value_name = "DIR")]
    state: PathBuf,
    /// Where the blob service listens
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "0.0.0.0:7443")]
    listen: SocketAddr,
    /// URL at which agents reach the blob service; its host goes into the certificate
    #[arg(long, alias = "url", value_name = "https://HOST:PORT")]
    public_url: Uri,
    /// The trainer's image; a digest, so that it cannot change under a job
    #[arg(long, value_name = "NAME@sha256:HEX")]
    trainer_image: Image,
    /// Seconds between two garbage collections of the store
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..))]
    gc_interval_seconds: u64,
    /// Blobs younger than this are never collected
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    gc_grace_seconds: u64,
}

/// Runs until SIGTERM or SIGINT.
pub async fn run(args: HubArgs) -> anyhow::Result<()> {
    let shutdown = Shutdown::on_signals().context("cannot handle signals")?;
    let (url, host) = public_url(&args.public_url)?;
    let client = args.target.client().await?;
    let (identity, authority) = state::open(&args.state)?;
    let store = Store::open(&args.store).await;
    let store = Arc::new(store.with_context(|| format!("store {}", args.store.display()))?);
    let public = HubPublic {
        blob_url: url,
        blob_ca: authority.pem().to_owned(),
        keyid: identity.key.key_id().to_hex(),
        public_key: identity.key.public().to_pem()?,
    };
    let tls = authority.server(&server_names(host, args.listen))?;
    let ctx = Arc::new(Context::new(client.clone(), store.clone(), identity, args.trainer_image));
    let schedule = collector::Schedule {
        every: Duration::from_secs(args.gc_interval_seconds),
        grace: Duration::from_secs(args.gc_grace_seconds),
    };
    let (jobs, cache) = job::controller(&ctx);
    tracing::info!(listen = %args.listen, public_url = public.blob_url, "hub starts");

    let auth = Authenticator::new(KubeReviewer::new(client.clone()));
    let mut service = tokio::spawn(blobs::serve(args.listen, tls, store, auth, shutdown.clone()));
    let mut controllers =
        tokio::spawn(everything(ctx, jobs, cache, client, public, schedule, shutdown.clone()));
    let (first, asked) = tokio::select! {
        biased;
        ended = &mut service => (served(ended, args.listen), shutdown.is_triggered()),
        ended = &mut controllers => (ended.context("controllers"), shutdown.is_triggered()),
    };
    // Whatever ended first, the other one finishes what it has begun.
    shutdown.trigger();
    let _ = tokio::time::timeout(STOP_WITHIN, async {
        let _ = tokio::join!(
            async {
                if !service.is_finished() {
                    let _ = service.await;
                }
            },
            async {
                if !controllers.is_finished() {
                    let _ = controllers.await;
                }
            },
        );
    })
    .await;
    first?;
    if !asked {
        bail!("a part of the hub ended by itself; see the log above");
    }
    tracing::info!("hub stopped");
    Ok(())
}

fn served(
    ended: Result<std::io::Result<()>, tokio::task::JoinError>,
    listen: SocketAddr,
) -> anyhow::Result<()> {
    ended.context("blob service")?.with_context(|| format!("cannot listen on {listen}"))
}

async fn everything(
    ctx: Arc<Context>,
    jobs: job::Unstarted,
    cache: job::Jobs,
    client: kube::Client,
    public: HubPublic,
    schedule: collector::Schedule,
    shutdown: Shutdown,
) {
    let stop = || shutdown.clone();
    tokio::join!(
        publish::run(client, public, stop()),
        provider::run(ctx.clone(), stop()),
        job::run(jobs, ctx.clone(), stop()),
        units::run(ctx.clone(), cache, stop()),
        collector::run(ctx, schedule, stop()),
    );
}

/// The URL without a trailing slash, and its host.
fn public_url(uri: &Uri) -> anyhow::Result<(String, String)> {
    match (uri.scheme_str(), uri.host()) {
        (Some("https"), Some(host)) => {
            let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
            Ok((uri.to_string().trim_end_matches('/').to_owned(), host))
        }
        _ => bail!("--public-url {uri}: must be https://HOST:PORT"),
    }
}

fn server_names(host: String, listen: SocketAddr) -> Vec<String> {
    let mut names = vec![host];
    if !listen.ip().is_unspecified() {
        names.push(listen.ip().to_string());
    }
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_public_url_is_https_with_a_host() {
        let parse = |text: &str| public_url(&text.parse().unwrap());
        assert_eq!(
            parse("https://10.0.0.1:7443/").unwrap(),
            ("https://10.0.0.1:7443".into(), "10.0.0.1".into())
        );
        assert_eq!(parse("https://[::1]:7443").unwrap().1, "::1");
        assert!(parse("http://10.0.0.1").is_err());
        assert!(parse("10.0.0.1:7443").is_err());
    }
}
