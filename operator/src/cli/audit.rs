//! `muster audit explain`: every draw and verdict of a job, recomputed from the log. Exit codes as `muster verify`: 0 holds,
//! 1 refuted, 2 wrong usage, 3 incomplete.
use std::path::PathBuf;

use clap::{Args, Subcommand};
use muster_proof::bundle::{Counts, Options, Outcome as Came, Report};
use muster_proof::history::{AssignView, AuditView, SecondView, VerdictView};
use muster_proof::records::fields::{JobId, ProviderName};
use muster_proof::records::{AssignReason, DrawKind, EvidenceKind, VerdictKind};
use muster_proof::selection::SECOND_IN;
use serde::Serialize;

use super::output::{Output, line};
use super::proof::JobArgs;
use super::remote::Remote;
use super::run::block_on;
use super::verify::{TrustArgs, check, incomplete};
use super::{Failure, Outcome};
use crate::bundle::states::Scratch;

/// Shows audits.
#[derive(Debug, Args)]
pub struct AuditCommand {
    #[command(subcommand)]
    verb: AuditVerb,
}

#[derive(Debug, Subcommand)]
enum AuditVerb {
    /// Say of every draw of a job why this interval, why this auditor, and what came out
    Explain(Box<Explain>),
}

#[derive(Debug, Args)]
#[command(after_help = "Exit codes: 0 holds, 1 refuted, 2 wrong usage, 3 incomplete")]
struct Explain {
    /// The job, whose records are asked of the hub
    #[arg(value_name = "NAMESPACE/JOB", required_unless_present = "bundle")]
    job: Option<String>,
    /// Directory of a bundle that `muster proof bundle` made; nothing is asked of the hub
    #[arg(long, value_name = "DIR", conflicts_with = "job")]
    bundle: Option<PathBuf>,
    #[command(flatten)]
    remote: Remote,
    #[command(flatten)]
    trust: TrustArgs,
    /// `text` for people, `json` for one object as docs/spec/bundle.md has it
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Output,
}

/// What is printed for programs.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Explained<'a> {
    outcome: Came,
    job: Option<JobId>,
    counts: Counts,
    /// What the job still lacks.
    open: Vec<&'a str>,
    /// Checks that did not hold.
    wrong: Vec<&'a str>,
    audits: &'a [AuditView],
}

impl AuditCommand {
    pub fn run(self) -> Outcome {
        let AuditVerb::Explain(args) = self.verb;
        args.run().map_err(incomplete)
    }
}

impl Explain {
    fn run(self) -> Outcome {
        let trust = self.trust.read()?;
        let scratch = Scratch::new()?;
        let dir = match (self.bundle, self.job) {
            (Some(dir), _) => dir,
            (None, Some(job)) => {
                let dir = scratch.path().join("bundle");
                let job = JobArgs::records_of(job, self.remote);
                block_on(async { job.make(&dir).await })??;
                dir
            }
            (None, None) => return Err(Failure::usage("name a job, or a bundle with --bundle")),
        };
        let report = check(&dir, &trust, Options::default());
        match self.output {
            Output::Json => line(serde_json::to_string(&explained(&report))?)?,
            Output::Text => {
                for text in report.audits.iter().flat_map(explain).chain(rest(&report)) {
                    line(text)?;
                }
            }
        }
        Ok(report.outcome.exit_code())
    }
}

fn explained(report: &Report) -> Explained<'_> {
    let bad = || report.checks.iter().filter(|check| check.outcome != Came::Holds);
    Explained {
        outcome: report.outcome,
        job: report.job,
        counts: report.counts,
        open: bad().filter(|check| check.name == "end").map(|check| check.what.as_str()).collect(),
        wrong: bad().filter(|check| check.name != "end").map(|check| check.what.as_str()).collect(),
        audits: &report.audits,
    }
}

/// What holds for all audits together.
fn rest(report: &Report) -> Vec<String> {
    let explained = explained(report);
    let counts = &explained.counts;
    let mut lines = vec![format!(
        "{} draws: {} matched, {} undecided; {} convictions; {} of {} intervals are committed",
        explained.audits.len(),
        counts.matched,
        counts.undecided,
        counts.faults,
        counts.committed,
        counts.intervals
    )];
    let clean = |text: &&str| crate::runtime::sanitise::line(text, 1000);
    lines.extend(explained.wrong.iter().map(|what| format!("wrong: {}", clean(what))));
    lines.extend(explained.open.iter().map(|what| format!("open: {}", clean(what))));
    if explained.open.is_empty() && report.outcome == Came::Holds {
        lines.push("settled: nothing that had to follow is missing".to_owned());
    }
    lines.push(format!("result: {}", report.outcome));
    lines
}

/// One line for each record of an audit, by its place in the log.
fn explain(audit: &AuditView) -> Vec<String> {
    let mut lines = vec![(audit.index, drawn(audit))];
    if let Some(shared) = audit.shared {
        lines[0]
            .1
            .push_str(&format!("; the interval is in the audit of draw {shared}, whose verdict it shares"));
    }
    lines.extend(audit.second.iter().map(|second| (second.index, seconded(second))));
    lines.extend(audit.assigns.iter().map(|assign| (assign.index, asked(audit, assign))));
    let verdicts = audit.convictions.iter().chain(&audit.verdict);
    lines.extend(verdicts.map(|verdict| (verdict.index, decided(audit, verdict))));
    lines.sort_by_key(|(index, _)| *index);
    let mut lines: Vec<_> = lines.into_iter().map(|(index, text)| format!("#{index:<6} {text}")).collect();
    if audit.verdict.is_none() {
        lines.push(format!("        no verdict yet: {}", awaited(audit)));
    }
    lines
}

fn drawn(audit: &AuditView) -> String {
    let (first, count) = audit.from;
    let why = match audit.kind {
        DrawKind::Window => format!(
            "the number of preimage and window-close mod {count} is {}, of intervals {first} to {}",
            audit.interval.saturating_sub(first),
            first + count - 1
        ),
        DrawKind::First => "the first of its grant is always drawn".to_owned(),
        DrawKind::Last => "the job's last is always drawn".to_owned(),
        DrawKind::Failed => "a failure is always drawn".to_owned(),
        DrawKind::Rerun => "what is run again after a rollback is always drawn".to_owned(),
        DrawKind::Tenant => "the tenant asked".to_owned(),
        DrawKind::Second => "a second draw".to_owned(),
    };
    let void = if audit.counts { "" } else { ", since rolled back" };
    format!(
        "{:?}: interval {} (steps {} to {}) of island {}, {why}; committed by {} of {} under epoch {} at #{}{void}",
        audit.kind,
        audit.interval,
        audit.first_step,
        audit.last_step,
        audit.island,
        audit.subject_provider,
        audit.subject_owner,
        audit.epoch,
        audit.commit_index
    )
}

fn seconded(second: &SecondView) -> String {
    if second.joins {
        format!("  second: one joins, the number of preimage and draw mod {SECOND_IN} is 0")
    } else {
        format!(
            "  second: nobody joins, the number of preimage and draw mod {SECOND_IN} is not 0 or the hub's auditor has answered"
        )
    }
}

fn asked(audit: &AuditView, assign: &AssignView) -> String {
    let order = match &audit.second {
        Some(second) if assign.second => &second.order,
        _ => &audit.order,
    };
    let why = match assign.reason {
        AssignReason::First => "the first of the order",
        AssignReason::Declined => "the one before declined",
        AssignReason::Silent => "the one before was silent",
        AssignReason::Dispute => "the openings differ or somebody is silent",
        AssignReason::LastResort => "nobody of the order is left",
    };
    let order: Vec<_> = order.iter().map(ProviderName::as_str).collect();
    let order = if order.is_empty() { "of nobody".to_owned() } else { order.join(" ") };
    let came = match assign.opened {
        _ if assign.replaced => "was replaced".to_owned(),
        Some(own) if own.0 != audit.state_root => format!("came to another state, {}", own.0),
        Some(own) if audit.opened.is_some_and(|root| root != own.1) => {
            "came to other step records".to_owned()
        }
        Some(_) => "came to the committed state".to_owned(),
        None if assign.sealed => "has sealed and not opened".to_owned(),
        None => "has not sealed".to_owned(),
    };
    let owner = assign.owner.as_ref().map_or("the hub's own auditor", |owner| owner.as_str());
    format!(
        "  asked {} ({owner}), place {} in the order {order}: {why}; it {came}",
        assign.auditor, assign.place
    )
}

fn decided(audit: &AuditView, verdict: &VerdictView) -> String {
    let party = verdict.party.as_ref().map_or("nobody", |party| party.as_str());
    let ground = match verdict.evidence {
        Some(EvidenceKind::Silence) => "it did not open, and two owners or more have replayed",
        _ => "two owners or more have replayed and agree on something else",
    };
    let answers = audit.assigns.iter().filter(|assign| assign.opened.is_some() && !assign.convicted).count();
    match verdict.kind {
        VerdictKind::Match if audit.opened.is_none() && audit.shared.is_none() => {
            format!("  Match: {answers} replays have the committed state; the trainer did not open")
        }
        VerdictKind::Match => "  Match: all replays have the committed state and step records".to_owned(),
        VerdictKind::Fault => format!("  Fault of the trainer {party}: {ground}"),
        VerdictKind::AuditorFault => format!("  Fault of the auditor {party}: {ground}"),
        VerdictKind::Inconclusive => {
            "  Inconclusive: nobody is left to ask, and no two owners agree".to_owned()
        }
    }
}

fn awaited(audit: &AuditView) -> String {
    let live = || audit.assigns.iter().filter(|assign| !assign.replaced && !assign.convicted);
    let names = |list: Vec<&AssignView>| {
        list.iter().map(|assign| assign.auditor.as_str()).collect::<Vec<_>>().join(", ")
    };
    let unsealed: Vec<_> = live().filter(|assign| !assign.sealed).collect();
    let unopened: Vec<_> = live().filter(|assign| assign.opened.is_none()).collect();
    if audit.shared.is_some() {
        "that of the shared audit".to_owned()
    } else if audit.assigns.is_empty() {
        "nobody was asked".to_owned()
    } else if !unsealed.is_empty() {
        format!("{} must seal", names(unsealed))
    } else if audit.second.is_none() {
        "whether a second auditor joins is not drawn".to_owned()
    } else if !unopened.is_empty() {
        format!("{} must open", names(unopened))
    } else if audit.opened.is_none() {
        format!("the trainer {} must open", audit.subject_provider)
    } else {
        "the hub must say what came out".to_owned()
    }
}

#[cfg(test)]
mod tests;
