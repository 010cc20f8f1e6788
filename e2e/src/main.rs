//! `muster-e2e`: the promises of Muster, shown on real clusters.
//!
//! Scenarios run one after the other on clusters and a stack that are already up (`make clusters`,
//! `scripts/stack.sh up`). Objects are read as plain JSON and not through our own types: a field that changes its
//! name must fail here, because it would fail for a tenant too.
mod appearances;
mod cluster;
mod diagnose;
mod gateway;
mod harness;
mod hostile;
mod job;
mod leftovers;
mod pods;
mod process;
mod proof;
mod quiet;
mod scenarios;
mod south;
mod world;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::harness::{Suite, run_all, select};
use crate::world::World;

#[derive(Parser)]
#[command(about = "Shows Muster's promises on real clusters")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the scenarios of a suite and prints one summary line.
    Run(RunArgs),
}

#[derive(Args)]
pub struct RunArgs {
    /// `short` takes minutes and is part of `make test`; `full` runs everything.
    #[arg(long, value_enum, default_value_t = Suite::Short)]
    suite: Suite,
    /// Only scenarios whose name contains this; may be given more than once.
    #[arg(long)]
    filter: Vec<String>,
    /// Prints the names and stories and runs nothing.
    #[arg(long)]
    list: bool,
    /// The checkout, for scripts and examples.
    #[arg(long, default_value = ".")]
    root: PathBuf,
    /// Where the stack keeps its state and where logs go.
    #[arg(long, env = "MUSTER_RUN", default_value = ".run")]
    run: PathBuf,
    /// The directory that holds `muster` and `muster-trainer`.
    #[arg(long, env = "MUSTER_BIN")]
    bin: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    // Nothing else picks one: kube is built without a default provider.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let Command::Run(args) = Cli::parse().command;
    let chosen = select(args.suite, &args.filter);
    if args.list {
        for scenario in &chosen {
            println!("{:28} {}", scenario.name, scenario.story);
        }
        return ExitCode::SUCCESS;
    }
    match World::open(&args).await {
        Ok(world) => run_all(&world, &chosen).await,
        Err(error) => {
            eprintln!("cannot start: {error:#}");
            ExitCode::from(2)
        }
    }
}
