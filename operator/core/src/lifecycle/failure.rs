//! What the end of a unit means for its job: try again, or stop and say what to do.
use std::fmt;

/// Why an attempt (or a whole unit) ended, as the agent or the hub reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Worker that ended first.
    pub rank: Option<u32>,
    /// Its exit code (protocol.md section 1).
    pub exit_code: Option<i32>,
    /// CamelCase: OOMKilled, Evicted, ImagePullFailed, ScheduleTimeout, BadSignature, ...
    pub reason: String,
    /// For people.
    pub message: String,
}

impl fmt::Display for Failure {
    /// The agent's message names the worker and the remedy; reason and exit code follow for those who search for them.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.message.is_empty() { "no message" } else { &self.message };
        match self.exit_code {
            Some(code) => write!(out, "{what} ({}, exit code {code})", self.reason),
            None => write!(out, "{what} ({})", self.reason),
        }
    }
}

/// What a rule of `spec.failurePolicy.rules` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// A new epoch, counted.
    Restart,
    /// A new epoch, not counted.
    RestartFree,
    /// A new epoch elsewhere if there is an elsewhere, counted.
    Move,
    /// The job fails.
    FailJob,
}

/// One rule; the first that matches decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Its name, for the message.
    pub name: String,
    /// Matches by reason.
    pub on_reasons: Vec<String>,
    /// Matches by exit code.
    pub on_exit_codes: Vec<i32>,
    /// What then.
    pub action: Action,
}

impl Rule {
    /// Whether it wants something of a unit that its agent would try again on the spot.
    pub(super) fn interferes(&self) -> bool {
        matches!(self.action, Action::FailJob | Action::Move)
    }

    pub(super) fn matches(&self, failure: &Failure) -> bool {
        self.on_reasons.contains(&failure.reason)
            || failure.exit_code.is_some_and(|code| self.on_exit_codes.contains(&code))
    }
}

/// Ends a unit although nothing has failed: the provider takes back what it lends, lends it to others, or only for a while.
pub(super) fn is_taken_back(failure: &Failure) -> bool {
    const REASONS: [&str; 6] = [
        "ProviderStopped",
        "MaxRuntime",
        "Expired",
        "ImageNotAllowed",
        "TenantNotAllowed",
        "AuditsNotOffered",
    ];
    REASONS.contains(&failure.reason.as_str())
}

/// What follows from a failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The same spec would fail the same way.
    Permanent {
        /// Reason of the job's Failed condition.
        reason: String,
        /// What happened and what to do.
        message: String,
    },
    /// Try again, count it.
    Again,
    /// Try again, do not count it.
    AgainFree,
}

/// Judges a failure: the tenant's rules first, then what the trainer's exit code means, then "try again".
///
/// Determinism decides what is permanent: a NaN or a refused spec comes back with the same bits on any machine.
#[must_use]
pub fn judge(failure: &Failure, rules: &[Rule]) -> Verdict {
    if let Some(rule) = rules.iter().find(|rule| rule.matches(failure)) {
        return match rule.action {
            Action::FailJob => {
                permanent("FailJobRule", failure, &format!("failurePolicy rule {} says FailJob", rule.name))
            }
            Action::RestartFree => Verdict::AgainFree,
            Action::Restart | Action::Move => Verdict::Again,
        };
    }
    match failure.exit_code {
        Some(64) => {
            permanent("Rejected", failure, "the trainer refuses this spec; correct it in a new TrainingJob")
        }
        Some(65) => permanent(
            "NonFinite",
            failure,
            "training is deterministic, so it would fail at the same step again; lower \
             training.optimizer.learningRate, lengthen training.schedule.warmupSteps or set clipNorm in a new TrainingJob",
        ),
        Some(66) => permanent(
            "DataCorrupt",
            failure,
            "the dataset is missing or does not match its manifest; push it again with `muster data push` and \
             create a new TrainingJob",
        ),
        Some(67) => permanent(
            "CheckpointCorrupt",
            failure,
            "the start checkpoint does not match its manifest or belongs to another job; create the job anew",
        ),
        // The agent gives a unit up for this only when it came back without a step in between.
        _ if failure.reason == "OOMKilled" => permanent(
            "OOMKilled",
            failure,
            "it needs the same memory anywhere; raise spec.workers.resources.memory or workers.count in a new TrainingJob",
        ),
        _ if is_taken_back(failure) => Verdict::AgainFree,
        _ => Verdict::Again,
    }
}

fn permanent(reason: &str, failure: &Failure, remedy: &str) -> Verdict {
    Verdict::Permanent { reason: reason.into(), message: format!("{failure}; {remedy}") }
}

/// Seconds to wait before epoch `n + 1` after the n-th counted restart: at once, then 5 s doubling to 5 min, so a
/// unit that is refused or dies at once does not spin.
#[must_use]
pub fn restart_delay_seconds(restarts: u32) -> u64 {
    match restarts {
        0 | 1 => 0,
        n => (5u64 << (n - 2).min(6)).min(300),
    }
}
