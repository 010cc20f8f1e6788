//! The command line of `muster-trainer`.

use std::process;

use clap::{Parser, Subcommand};
use muster_numerics::isa::Isa;

use crate::hf;
use crate::inference;
use crate::pod;
use crate::protocol::ExitCode;
use crate::resolve;
use crate::worker;

/// Trains one model of a Muster job, the same bits on every machine.
#[derive(Debug, Parser)]
#[command(name = "muster-trainer", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// One worker process of a run; its parent speaks to it over stdin and stdout.
    #[command(args_override_self = true)]
    Worker(Box<worker::Options>),
    /// Process 1 of a trainer's pod: speaks to the agent's relay and runs the worker.
    Pod(Box<pod::Options>),
    /// Text from a trained model.
    Sample(inference::SampleOptions),
    /// A trained model's logits for one sequence.
    Logits(inference::LogitOptions),
    /// Loss and gradient of one batch, for comparison with other implementations.
    Gradients(inference::GradientOptions),
    /// How well a trained model predicts a dataset.
    Eval(inference::EvalOptions),
    /// A trained model for other people's tools.
    Export(hf::ExportArguments),
    /// Checks a checkpoint in full: files, digests, StateRoot.
    VerifyCheckpoint(inference::Source),
    /// A job from a text and its parameters, without Kubernetes objects.
    Resolve(resolve::ResolveOptions),
    /// The instruction sets that kernels exist for, and which of them this CPU has.
    Isa,
}

/// Runs the command line; the result is the process's exit code.
pub fn main() -> process::ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            drop(error.print());
            // clap's own code for a wrong command line is 2; ours is sysexits' 64.
            return if error.use_stderr() { code(ExitCode::BadSpec) } else { code(ExitCode::Done) };
        }
    };
    match run(arguments.command) {
        Ok(()) => code(ExitCode::Done),
        Err(pod::Ended { code, message }) => {
            eprintln!("muster-trainer: {message}");
            code.into()
        }
    }
}

fn code(code: ExitCode) -> process::ExitCode {
    code.code().into()
}

fn run(command: Command) -> Result<(), pod::Ended> {
    match command {
        Command::Worker(options) => Ok(worker::run(&options)?),
        Command::Pod(options) => pod::run(&options),
        Command::Sample(options) => Ok(inference::sample_bytes(&options)?),
        Command::Logits(options) => Ok(inference::logits(&options)?),
        Command::Gradients(options) => Ok(inference::gradients(&options)?),
        Command::Eval(options) => {
            let done = inference::evaluate(&options, &mut |_, _| {})?;
            println!("loss {}", done.loss);
            Ok(())
        }
        Command::Export(arguments) => {
            let done = hf::run_export(&arguments, &mut |_, _| {})?;
            println!("stateRoot {}", done.state_root);
            Ok(())
        }
        Command::VerifyCheckpoint(source) => Ok(inference::verify(&source)?),
        Command::Resolve(options) => Ok(resolve::resolve(&options)?),
        Command::Isa => {
            for isa in Isa::ALL {
                println!("{isa} {}", if isa.is_available() { "available" } else { "missing" });
            }
            Ok(())
        }
    }
}
