//! `muster replay`: computes one interval of a bundle again on this machine and compares the bits (docs/operations/verify.md).
//! Exit codes: 0 the same bits, 1 others, 2 wrong usage, 3 not enough is there; the trainer's own if it fails.
use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use muster_proof::Digest;
use muster_proof::bundle::{Bundle, Files, MAX_FILE, Options, Outcome as Came, Report, State, verify_bundle};
use muster_proof::jcs;
use muster_proof::steps::Records;
use muster_trainer::checkpoint::{self, Store};
use muster_trainer::resolved::{MAX_SPEC, read_spec};
use serde::Serialize;

use super::interval::{Computed, Interval};
use super::local::progress::Progress;
use super::output::{Output, line, note};
use super::run::block_on;
use super::verify::{TrustArgs, incomplete, list};
use super::{Failure, Outcome, trainer};
use crate::bundle::dir::Dir;
use crate::bundle::states::{Scratch, lay_out};
use crate::runtime::Shutdown;
use crate::runtime::files::{Access, write_atomic};

/// Computes an interval again.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 the same bits, 1 other bits or a bundle that does not hold, 2 wrong usage, 3 incomplete"
)]
pub struct ReplayCommand {
    /// The bundle's directory
    #[arg(value_name = "BUNDLE")]
    bundle: PathBuf,
    /// The interval, from 0
    #[arg(long, value_name = "K")]
    interval: u64,
    /// The island, from 0
    #[arg(long, value_name = "N", default_value_t = 0)]
    island: u64,
    /// Directory of the job's dataset
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Directory of the dataset that the job is evaluated on, if it is
    #[arg(long, value_name = "DIR")]
    eval_data: Option<PathBuf>,
    /// Directory of the model whose weights the job begins with, if it does, for its first interval
    #[arg(long, value_name = "DIR")]
    init: Option<PathBuf>,
    /// Worker processes; the result does not depend on it
    #[arg(long, value_name = "W", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    workers: u32,
    /// Compute threads of each worker
    #[arg(long, value_name = "T", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: u16,
    /// Instruction set: auto, portable, avx2, ..; the result does not depend on it
    #[arg(long, value_name = "ISA", default_value = "auto")]
    isa: String,
    /// Where to compute; what is there afterwards is the state that came out [default: a temporary directory]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    trust: TrustArgs,
    /// `text` for people, `json` for one object with what came out
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Output,
}

/// What came out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Replayed {
    /// `Match` or `Differs`.
    result: &'static str,
    job: Digest,
    island: u64,
    interval: u64,
    first_step: u64,
    last_step: u64,
    /// What the commit says.
    committed: Digest,
    /// What was computed here.
    computed: Digest,
    /// Whether the step records are those of the opening in the bundle; null without one.
    records: Option<bool>,
}

impl ReplayCommand {
    pub fn run(self) -> Outcome {
        let trust = self.trust.read()?;
        let dir = Dir::new(&self.bundle);
        // The tensors of other states than the one to start from are no part of the interval.
        let report = verify_bundle(&dir, &trust, Options::default());
        if report.outcome == Came::Refuted {
            let wrong = report.checks.iter().find(|check| check.outcome == Came::Refuted);
            let what = wrong.map(|check| format!("{}: {}", check.name, check.what)).unwrap_or_default();
            return Err(refuted(what));
        }
        let bundle =
            list(&dir).ok_or_else(|| incomplete(Failure::new("the bundle's list cannot be read")))?;
        let state = self.wanted(&report)?;
        let scratch = Scratch::new().map_err(|error| incomplete(error.into()))?;
        let out = self.out.clone().unwrap_or_else(|| scratch.path().join("replay"));
        let interval = self.prepare(&report, &dir, &bundle, &state, &out)?;
        note(format_args!("replaying steps {} to {} of job {}", state.first_step, state.step, bundle.job));
        let train = async {
            let stop = Shutdown::on_signals()?;
            // The trainer's events would stand among ours.
            interval.compute(&stop, &mut Progress::new(Output::Text, state.step)).await
        };
        let came = block_on(train)??;
        if let Some(step) = came.failed {
            note(format_args!("step {step} is not finite here"));
        }
        let replayed = Replayed {
            result: "",
            job: bundle.job.0,
            island: state.island,
            interval: state.interval,
            first_step: state.first_step,
            last_step: state.step,
            committed: state.answer(),
            computed: came.state_root,
            records: opened(&dir, &bundle, &state, &came),
        };
        self.say(replayed)
    }

    fn wanted(&self, report: &Report) -> Result<State, Failure> {
        let found = report.states.iter().find(|s| (s.island, s.interval) == (self.island, self.interval));
        found.cloned().ok_or_else(|| {
            let text = format!(
                "no commit that counts is of island {}, interval {}; the job has {} intervals, {} are committed",
                self.island, self.interval, report.counts.intervals, report.counts.committed
            );
            Failure::usage(text)
        })
    }

    /// Spec and start state in `out`.
    fn prepare(
        &self,
        report: &Report,
        dir: &Dir,
        bundle: &Bundle,
        state: &State,
        out: &Path,
    ) -> Result<Interval, Failure> {
        let lacking = |text: String| incomplete(Failure::new(text));
        let spec = dir.read(&bundle.spec.name(), MAX_SPEC).map_err(lacking)?;
        let spec = spec.ok_or_else(|| lacking("the bundle has no spec".into()))?;
        let (parsed, _) = read_spec(&spec).map_err(|error| lacking(error.to_string()))?;
        if u64::from(self.workers) > parsed.training.shards {
            return Err(Failure::usage(format!(
                "--workers: at most {}, the job's shards",
                parsed.training.shards
            )));
        }
        match (&parsed.training.eval, &self.eval_data) {
            (Some(eval), None) => {
                return Err(Failure::usage(format!(
                    "--eval-data: the job is evaluated on dataset {}; give its directory",
                    eval.data.manifest
                )));
            }
            (None, Some(_)) => {
                return Err(Failure::usage("--eval-data: the job is not evaluated; leave it out"));
            }
            _ => {}
        }
        match (&parsed.init, &self.init) {
            (Some(init), None) if state.first_step == 1 => {
                return Err(Failure::usage(format!(
                    "--init: the job begins with the weights of model {}; give their directory",
                    init.manifest
                )));
            }
            (None, Some(_)) => {
                return Err(Failure::usage(
                    "--init: the job begins with weights that its seed makes; leave it out",
                ));
            }
            _ => {}
        }
        if fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(Failure::usage(format!("--out {}: is not empty", out.display())));
        }
        fs::create_dir_all(out)?;
        write_atomic(&out.join("spec.json"), &spec, Access::Public)?;
        let start = state.first_step.saturating_sub(1);
        if start > 0 {
            let before = report.states.iter().find(|s| (s.island, s.step) == (state.island, start));
            let before =
                before.ok_or_else(|| lacking(format!("the state after step {start} is not committed")))?;
            let into = Store::new(out).path(start);
            if let Some(parent) = into.parent() {
                fs::create_dir_all(parent)?;
            }
            lay_out(dir, before, &into)?.ok_or_else(|| {
                lacking(format!(
                    "the bundle has not the whole state after step {start}, where the interval begins; make it with \
                     --with-checkpoints while the hub keeps that state"
                ))
            })?;
            let root = checkpoint::root_of(&into).map_err(|error| refuted(error.to_string()))?;
            if root != before.state_root {
                return Err(refuted(format!("step {start}: the tensors have root {root}")));
            }
        }
        let interval = Interval {
            program: trainer::find().map_err(incomplete)?,
            spec: out.join("spec.json"),
            data: self.data.clone(),
            eval_data: self.eval_data.clone(),
            init: self.init.clone(),
            out: out.to_owned(),
            start,
            last: state.step,
            workers: self.workers,
            threads: self.threads,
            isa: self.isa.clone(),
        };
        Ok(interval)
    }

    fn say(&self, mut replayed: Replayed) -> Outcome {
        let same = replayed.committed == replayed.computed && replayed.records != Some(false);
        replayed.result = if same { "Match" } else { "Differs" };
        match self.output {
            Output::Json => {
                let bytes = jcs::serialize(&replayed)?;
                line(String::from_utf8_lossy(&bytes))?;
            }
            Output::Text => {
                line(format_args!("committed {}", replayed.committed))?;
                line(format_args!("computed  {}", replayed.computed))?;
                if let Some(records) = replayed.records {
                    line(format_args!("step records {}", if records { "are the same" } else { "differ" }))?;
                }
                line(replayed.result)?;
            }
        }
        Ok(if same { 0 } else { 1 })
    }
}

fn refuted(what: impl std::fmt::Display) -> Failure {
    Failure::new(format!("the bundle does not hold, so there is nothing to replay: {what}"))
}

/// Whether the step records that were computed are those that the bundle opens.
fn opened(dir: &Dir, bundle: &Bundle, state: &State, came: &Computed) -> Option<bool> {
    let opening = bundle.openings.iter().find(|opening| opening.commit == state.commit)?;
    let bytes = dir.read(&opening.records.name(), MAX_FILE).ok().flatten()?;
    let theirs = Records::parse(state.first_step, &bytes).ok()?;
    Some(came.records.root() == theirs.root())
}
