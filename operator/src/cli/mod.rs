//! Commands of a person, one file each. Each parses its arguments, calls the room that does the work and prints.
//!
//! What people read goes to stderr, what programs read (digests, YAML, JSON lines) to stdout. Exit codes: 0 done, 1 failed,
//! 2 wrong usage; `muster verify`, `muster audit`, `muster replay` and `muster witness` also 3: incomplete; `muster local`, `muster sample`,
//! `muster eval` and `muster export` end with the trainer's own code.
mod agent;
mod audit;
mod auditor;
mod crd;
mod data;
mod download;
mod eval;
mod export;
mod failure;
mod interval;
mod job_file;
mod local;
mod log;
mod logs;
mod model;
mod output;
mod proof;
mod provider;
mod push;
mod rbac;
mod remote;
mod replay;
mod rotate_key;
mod run;
mod sample;
mod trainer;
mod transfer;
mod verify;
mod version;
mod witness;

pub use failure::{Failure, Outcome};

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Trains one model, bit for bit reproducibly, on capacity lent by many Kubernetes clusters.
#[derive(Debug, Parser)]
#[command(
    name = "muster",
    version,
    max_term_width = 110,
    after_help = "A first run without Kubernetes:\n  \
        muster data prepare book.txt --out data\n  \
        muster local job.yaml --data book=data --out run\n  \
        muster sample run --prompt 'In the beginning'"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the hub: job and provider controllers, placement
    Hub(run::HubCommand),
    /// Run the registrar, which gives providers' agents their namespaces, identities and rights
    Registrar(run::RegistrarCommand),
    /// Run the gateway: the one endpoint of a hub, for agents and users
    Gateway(Box<run::GatewayCommand>),
    /// Run the hub's own auditor, which is asked when no other owner is left
    Auditor(Box<auditor::AuditorCommand>),
    /// Run the agent of a member cluster, stop it, find out what it lacks
    Agent(agent::AgentCommand),
    /// Train a TrainingJob on this machine, without Kubernetes, to the same bits
    Local(local::LocalCommand),
    /// Make, push, import and list datasets
    Data(data::DataCommand),
    /// Push and list weights that jobs begin with
    Model(model::ModelCommand),
    /// Get a checkpoint of a job that clusters trained, checked to the last bit
    Download(Box<download::DownloadCommand>),
    /// Show what a worker of a job writes, or wrote before its attempt failed
    Logs(Box<logs::LogsCommand>),
    /// Check or repair the log that a gateway keeps
    Log(log::LogCommand),
    /// Take a job's proof home
    Proof(Box<proof::ProofCommand>),
    /// Check a job's result, a checkpoint, a bundle or the whole log, without believing the hub
    Verify(Box<verify::VerifyCommand>),
    /// Show what was drawn of a job, who replayed it, and what came out
    Audit(Box<audit::AuditCommand>),
    /// Compute an interval of a bundle again and compare the bits
    Replay(Box<replay::ReplayCommand>),
    /// Watch the hub's log, so that it cannot be rewritten unseen
    Witness(witness::WitnessCommand),
    /// Let member clusters join, and cut them off
    Provider(provider::ProviderCommand),
    /// Write text with a trained model
    Sample(sample::SampleCommand),
    /// Measure how well a trained model predicts a dataset
    Eval(eval::EvalCommand),
    /// Write a trained model in the form that other tools load
    Export(export::ExportCommand),
    /// Print the CustomResourceDefinitions
    Crd(crd::CrdCommand),
    /// Print the rights of hub, registrar, gateway, agent or member
    Rbac(rbac::RbacCommand),
    /// Print versions of the program and of what it speaks
    Version(version::VersionCommand),
}

/// Parses the command line and runs the chosen command.
#[must_use]
pub fn main() -> ExitCode {
    crate::runtime::client::install_crypto();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are errors to clap, too; it knows where each goes.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(failure::USAGE) } else { ExitCode::SUCCESS };
        }
    };
    match cli.command.run() {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            output::note(format_args!("error: {failure}"));
            ExitCode::from(failure.code())
        }
    }
}

impl Command {
    fn run(self) -> Outcome {
        match self {
            Self::Hub(command) => command.run(),
            Self::Registrar(command) => command.run(),
            Self::Gateway(command) => command.run(),
            Self::Auditor(command) => command.run(),
            Self::Agent(command) => command.run(),
            Self::Local(command) => command.run(),
            Self::Data(command) => command.run(),
            Self::Model(command) => command.run(),
            Self::Download(command) => command.run(),
            Self::Log(command) => command.run(),
            Self::Logs(command) => command.run(),
            Self::Proof(command) => command.run(),
            Self::Verify(command) => command.run(),
            Self::Audit(command) => command.run(),
            Self::Replay(command) => command.run(),
            Self::Witness(command) => command.run(),
            Self::Provider(command) => command.run(),
            Self::Sample(command) => command.run(),
            Self::Eval(command) => command.run(),
            Self::Export(command) => command.run(),
            Self::Crd(command) => command.run(),
            Self::Rbac(command) => command.run(),
            Self::Version(command) => command.run(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    /// The command lines that the manifests give the processes.
    #[test]
    fn the_manifests_are_understood() {
        let mut containers = 0;
        for path in ["member/muster-agent.yaml", "processes/processes.yaml"] {
            let path = format!("{}/../manifests/{path}", env!("CARGO_MANIFEST_DIR"));
            let documents: Vec<serde_json::Value> =
                serde_saphyr::from_multiple(&std::fs::read_to_string(path).unwrap()).unwrap();
            for deployment in documents.iter().filter(|document| document["kind"] == "Deployment") {
                let container = &deployment["spec"]["template"]["spec"]["containers"][0];
                let arguments = container["args"].as_array().unwrap().iter();
                // The kubelet puts the pod's own name there.
                let arguments =
                    arguments.map(|argument| argument.as_str().unwrap().replace("$(POD_UID)", "uid"));
                if let Err(error) = Cli::try_parse_from(["muster".to_owned()].into_iter().chain(arguments)) {
                    panic!("{}: {error}", deployment["metadata"]["name"]);
                }
                containers += 1;
            }
        }
        assert_eq!(containers, 5, "agent, hub, registrar, gateway, auditor");
    }

    #[test]
    fn every_command_and_flag_says_what_it_is() {
        fn check(command: &clap::Command, path: &str) {
            assert!(command.get_about().is_some(), "{path} has no description");
            for argument in command.get_arguments().filter(|a| !a.is_hide_set()) {
                let name = argument.get_id();
                assert!(argument.get_help().is_some(), "{path}: {name} has no description");
            }
            for inner in command.get_subcommands() {
                check(inner, &format!("{path} {}", inner.get_name()));
            }
        }
        check(&Cli::command(), "muster");
    }
}
