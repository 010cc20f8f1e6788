//! `muster hub` and `muster agent run`: the long-running processes.
use super::{Failure, Outcome};
use crate::runtime::telemetry::{self, LogFormat};
use crate::{agent, hub};
use clap::{Args, Subcommand};
use std::future::Future;

/// Everything quiet but ourselves; RUST_LOG overrides.
const FILTER: &str = "info,kube=warn,hyper=warn,rustls=warn,h2=warn";

#[derive(Debug, Args)]
pub struct HubCommand {
    /// `muster hub run` reads like `muster agent run`; both spellings are fine.
    #[arg(hide = true, value_parser = ["run"])]
    verb: Option<String>,
    #[command(flatten)]
    log: Log,
    #[command(flatten)]
    args: hub::HubArgs,
}

#[derive(Debug, Args)]
pub struct AgentCommand {
    #[command(subcommand)]
    verb: AgentVerb,
}

#[derive(Debug, Subcommand)]
enum AgentVerb {
    /// Take signed WorkUnits from the hub and run them on this cluster
    Run(Box<AgentRun>),
}

#[derive(Debug, Args)]
struct AgentRun {
    #[command(flatten)]
    log: Log,
    #[command(flatten)]
    args: agent::AgentArgs,
}

#[derive(Debug, Args)]
struct Log {
    /// How log lines look; RUST_LOG says which there are
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    log_format: LogFormat,
}

impl HubCommand {
    pub fn run(self) -> Outcome {
        serve(&self.log, hub::run(self.args))
    }
}

impl AgentCommand {
    pub fn run(self) -> Outcome {
        let AgentVerb::Run(command) = self.verb;
        serve(&command.log, agent::run(command.args))
    }
}

fn serve(log: &Log, process: impl Future<Output = anyhow::Result<()>>) -> Outcome {
    telemetry::init(log.log_format, FILTER);
    block_on(process)?.map_err(|error| Failure::new(format!("{error:#}")))?;
    Ok(0)
}

/// Runs a future on a new runtime with threads.
pub fn block_on<T>(future: impl Future<Output = T>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let value = runtime.block_on(future);
    // A blocking read of stdin or a file must not hold the exit.
    runtime.shutdown_background();
    Ok(value)
}
