//! `muster hub`, `muster registrar`, `muster gateway`, and what the long-running processes share.
use super::rotate_key::RotateKey;
use super::{Failure, Outcome};
use crate::runtime::client::Target;
use crate::runtime::telemetry::{self, LogFormat};
use crate::{gateway, hub};
use clap::{Args, Subcommand};
use std::future::Future;

/// Everything quiet but ourselves; RUST_LOG overrides. kube's client logs each failed request as an error of its own, without
/// saying which; whoever made the request says it better.
const FILTER: &str = "info,kube=warn,kube_client=off,kube_runtime=warn,hyper=warn,rustls=warn,h2=warn";

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct HubCommand {
    #[command(subcommand)]
    verb: Option<HubVerb>,
    #[command(flatten)]
    log: Log,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    args: Option<hub::HubArgs>,
}

#[derive(Debug, Subcommand)]
enum HubVerb {
    /// The same as `muster hub` without a verb; it reads like `muster agent run`
    #[command(hide = true)]
    Run(Box<HubRun>),
    /// Sign with a new key from now on, or let agents believe none but the newest
    RotateKey(RotateKey),
}

#[derive(Debug, Args)]
struct HubRun {
    #[command(flatten)]
    log: Log,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    args: hub::HubArgs,
}

#[derive(Debug, Args)]
pub struct RegistrarCommand {
    /// As for `muster hub`.
    #[arg(hide = true, value_parser = ["run"])]
    verb: Option<String>,
    #[command(flatten)]
    log: Log,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    args: hub::registrar::RegistrarArgs,
}

#[derive(Debug, Args)]
pub struct GatewayCommand {
    /// As for `muster hub`.
    #[arg(hide = true, value_parser = ["run"])]
    verb: Option<String>,
    #[command(flatten)]
    log: Log,
    #[command(flatten)]
    args: gateway::GatewayArgs,
}

#[derive(Debug, Args)]
pub struct Log {
    /// How log lines look; RUST_LOG says which there are
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    log_format: LogFormat,
}

impl HubCommand {
    pub fn run(self) -> Outcome {
        match (self.verb, self.args) {
            (Some(HubVerb::RotateKey(command)), _) => command.run(),
            (Some(HubVerb::Run(run)), _) => serve(&run.log, hub::run(run.target, run.args)),
            (None, Some(args)) => serve(&self.log, hub::run(self.target, args)),
            (None, None) => Err(Failure::usage("muster hub needs its flags; see muster hub --help")),
        }
    }
}

impl RegistrarCommand {
    pub fn run(self) -> Outcome {
        serve(&self.log, hub::registrar::process(self.target, self.args))
    }
}

impl GatewayCommand {
    pub fn run(self) -> Outcome {
        serve(&self.log, gateway::run(self.args))
    }
}

/// Starts logging and runs a process to its end.
pub fn serve(log: &Log, process: impl Future<Output = anyhow::Result<()>>) -> Outcome {
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

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        hub: HubCommand,
    }

    fn parse(line: &str) -> Result<HubCommand, clap::Error> {
        Line::try_parse_from(line.split(' ')).map(|line| line.hub)
    }

    #[test]
    fn a_hub_runs_with_and_without_the_verb_and_rotates_its_key() {
        let image = format!("muster-trainer@sha256:{}", "a".repeat(64));
        let flags = format!("--store s --state d --trainer-image {image}");
        let plain = parse(&format!("hub --context hub {flags} --log-format json")).unwrap();
        assert_eq!(plain.target.context.as_deref(), Some("hub"));
        assert!(plain.verb.is_none() && plain.args.is_some() && plain.log.log_format == LogFormat::Json);
        let run = parse(&format!("hub run {flags}")).unwrap();
        assert!(matches!(run.verb, Some(HubVerb::Run(_))));
        let rotate = parse("hub rotate-key --state d --retire").unwrap();
        assert!(matches!(rotate.verb, Some(HubVerb::RotateKey(_))) && rotate.args.is_none());
        for (line, word) in [
            ("hub --store s".to_owned(), "--trainer-image"),
            (format!("hub {flags} --identity a\u{a0}b"), "printable"),
            ("hub run --store s".to_owned(), "--state"),
            ("hub rotate-key".to_owned(), "--state"),
            (format!("hub {flags} rotate-key --state d"), "rotate-key"),
        ] {
            let text = parse(&line).unwrap_err().to_string();
            assert!(text.contains(word), "{line}: {text}");
        }
    }
}
