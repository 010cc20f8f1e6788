//! The fleet of `make bench-scale`: a hub's API server and log are real, and so is the hub; the providers are a model of what an agent
//! does to them. They hold Leases, report what they lend, take WorkUnits and tell of their steps; what trains is nobody. Jobs are made
//! until all are there, and from then on as many as are deleted.
//!
//! It prints a line of JSON when all are there, and one after so many seconds more; between the two others measure the hub.
mod agent;
mod jobs;
mod provider;
mod units;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Parser;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::json;
use tokio::time::Instant;

use jobs::Jobs;
use provider::Fleet;
use units::Units;

/// Providers and jobs by the thousand, to see what a hub makes of them
#[derive(Debug, Parser)]
struct Args {
    /// The hub's cluster, for an administrator
    #[arg(long)]
    kubeconfig: PathBuf,
    /// The hub's store, where agents' keys are left for it
    #[arg(long, value_name = "DIR")]
    store: PathBuf,
    /// A TrainingJob, JSON; {N} in it becomes 0, 1, 2, ... and {TENANT} one of --tenants after the other
    #[arg(long, value_name = "FILE")]
    template: PathBuf,
    /// Namespaces of the jobs
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    tenants: Vec<String>,
    /// Digest of the trainer's image
    #[arg(long, value_name = "sha256:HEX")]
    image: String,
    /// How many providers; each lends one worker
    #[arg(long, default_value_t = 1000)]
    providers: usize,
    /// How many jobs there are at a time
    #[arg(long, default_value_t = 10_000)]
    jobs: usize,
    /// Jobs made a second until all are there
    #[arg(long, default_value_t = 15.0)]
    rate: f64,
    /// Seconds between two renewals of a Lease, which lasts three times as long
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u64).range(4..=20))]
    renew: u64,
    /// Seconds from one progress of a unit to the next
    #[arg(long, default_value_t = 30.0)]
    progress: f64,
    /// Seconds from one job that its owner deletes while it trains, and another one that he makes, to the next
    #[arg(long, default_value_t = 2.0)]
    churn: f64,
    /// How long it is measured
    #[arg(long, default_value_t = 600.0)]
    seconds: f64,
    /// Seconds until the fleet gives up on all being there
    #[arg(long, default_value_t = 3600.0)]
    patience: f64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    if args.tenants.is_empty() {
        bail!("--tenants: at least one namespace is wanted");
    }
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = client(&args.kubeconfig).await?;
    let template = std::fs::read_to_string(&args.template).context("--template")?;
    let seconds = Duration::from_secs_f64;
    let until = Instant::now() + seconds(args.patience);

    let fleet =
        Fleet { client: client.clone(), image: args.image.clone(), renew: Duration::from_secs(args.renew) };
    fleet.join(args.providers, &args.store).await?;
    let units = Arc::new(Units::new(client.clone(), args.image, seconds(args.progress)));
    units.follow();
    let jobs = Arc::new(Jobs::new(client, template, args.tenants, units.clone()));
    jobs.follow();
    let began = Instant::now();
    jobs.make(args.jobs, args.rate).await?;
    let made = began.elapsed();
    let trains = args.providers.min(args.jobs);
    loop {
        let accepted = jobs.accepted();
        if accepted >= args.jobs && units.running() >= trains {
            break;
        }
        if Instant::now() > until {
            bail!(
                "after {} s {accepted} of {} jobs are accepted and {} of {trains} units run",
                args.patience,
                args.jobs,
                units.running()
            );
        }
        eprintln!("{accepted} jobs are accepted, {} units run", units.running());
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
    let there = began.elapsed();
    println!(
        "{}",
        json!({"event": "warm", "madeSeconds": made.as_secs_f64(), "thereSeconds": there.as_secs_f64()})
    );
    let counted = units.writes();
    jobs.churn(seconds(args.churn), seconds(args.seconds)).await?;
    let (accepted, places) = (jobs.times(), units.times());
    println!(
        "{}",
        json!({
            "event": "end", "unitWrites": units.writes() - counted, "running": units.running(),
            "waiting": jobs.accepted().saturating_sub(units.running()), "accepted": accepted, "places": places,
        })
    );
    Ok(())
}

async fn client(kubeconfig: &std::path::Path) -> anyhow::Result<Client> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).context("--kubeconfig")?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}
