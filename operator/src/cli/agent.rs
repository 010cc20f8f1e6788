//! `muster agent`: the agent of a member cluster, and what its owner does about it.
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::run::{Log, block_on, serve};
use super::{Failure, Outcome, output};
use crate::agent;
use crate::agent::doctor::{self, DoctorArgs, Verdict};
use crate::agent::identity::Identity;
use crate::agent::membership::Membership;
use crate::agent::switch;
use crate::runtime::files;

#[derive(Debug, Args)]
pub struct AgentCommand {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Take signed WorkUnits from the hub and run them on this cluster
    Run(Box<AgentRun>),
    /// Cosign the hub's log for an owner who lends nothing: no cluster is needed
    Witness(Box<AgentWitness>),
    /// Print the fingerprint of the agent's key, to tell it to the hub's admin
    Fingerprint(State),
    /// End everything lent and offer nothing, now and after every restart, until `muster agent resume`
    Stop(State),
    /// Lend again after `muster agent stop`
    Resume(State),
    /// Check everything that the agent depends on, and say what to do
    Doctor(Box<DoctorArgs>),
}

#[derive(Debug, Args)]
struct AgentRun {
    #[command(flatten)]
    log: Log,
    #[command(flatten)]
    args: agent::AgentArgs,
}

#[derive(Debug, Args)]
struct AgentWitness {
    #[command(flatten)]
    log: Log,
    #[command(flatten)]
    args: agent::onlooker::WitnessArgs,
}

#[derive(Debug, Args)]
struct State {
    /// State directory of the agent
    #[arg(long, value_name = "DIR")]
    state: PathBuf,
}

impl AgentCommand {
    pub fn run(self) -> Outcome {
        match self.verb {
            Verb::Run(command) => serve(&command.log, agent::run(command.args)),
            Verb::Witness(command) => serve(&command.log, agent::onlooker::run(command.args)),
            Verb::Fingerprint(at) => {
                files::create_private_dir(&at.state)?;
                // A key is made only for who has not joined yet: another key would be a stranger to the hub.
                let identity = match Membership::load(&at.state)? {
                    Some(_) => Identity::existing(&at.state)?,
                    None => Identity::open(&at.state)?,
                };
                output::line(identity.fingerprint())?;
                Ok(0)
            }
            Verb::Stop(at) => {
                switch::stop(&at.state)?;
                output::note(
                    "stopped: a running agent ends all lent pods within seconds; `muster agent resume` lends again",
                );
                Ok(0)
            }
            Verb::Resume(at) => {
                let was = switch::resume(&at.state)?;
                output::note(if was { "the agent lends again" } else { "it was not stopped" });
                Ok(0)
            }
            Verb::Doctor(args) => examine(&args),
        }
    }
}

fn examine(args: &DoctorArgs) -> Outcome {
    let checks = block_on(doctor::examine(args))?;
    for check in &checks {
        output::line(check)?;
    }
    let failed = checks.iter().filter(|check| check.verdict == Verdict::Failed).count();
    if failed == 0 { Ok(0) } else { Err(Failure::new(format!("{failed} of {} checks failed", checks.len()))) }
}
