//! What a pod's end means.

use super::{Failure, Plan};

/// Why a worker ended, in the words of `status.lastFailure.reason` and of a job's `onReasons`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Exit 64: the trainer refuses the spec.
    BadSpec,
    /// Exit 65: not a number; deterministic.
    NonFinite,
    /// Exit 66: the data is missing or corrupt.
    BadData,
    /// Exit 67: the checkpoint is corrupt or of another job.
    BadCheckpoint,
    /// Exit 74: the disk is full or fails.
    Disk,
    /// The kernel killed it for its memory limit.
    OomKilled,
    /// The node pushed it out.
    Evicted,
    /// A pod of higher priority took its place.
    Preempted,
    /// Its node is gone or was drained.
    NodeLost,
    /// Someone deleted it, or its Job.
    PodLost,
    /// A signal from outside.
    Killed,
    /// Any other exit code: a crash.
    Crashed,
    /// Exit 0 before the last step.
    EndedEarly,
    /// Exit 69: another worker or the relay was gone.
    PeerLost,
}

/// What follows from a reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Another attempt would end the same way.
    Permanent,
    /// The job's own doing, perhaps: another attempt, but not many without progress.
    Own,
    /// Done to the job: another attempt.
    World {
        /// Whether it counts against `maxRestarts`.
        counted: bool,
    },
}

impl Reason {
    /// The spelling in objects.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::BadSpec => "BadSpec",
            Self::NonFinite => "NonFinite",
            Self::BadData => "BadData",
            Self::BadCheckpoint => "BadCheckpoint",
            Self::Disk => "DiskFull",
            Self::OomKilled => "OOMKilled",
            Self::Evicted => "Evicted",
            Self::Preempted => "Preempted",
            Self::NodeLost => "NodeLost",
            Self::PodLost => "PodLost",
            Self::Killed => "Killed",
            Self::Crashed => "Crashed",
            Self::EndedEarly => "EndedEarly",
            Self::PeerLost => "PeerLost",
        }
    }

    /// What follows from it.
    #[must_use]
    pub fn class(self) -> Class {
        match self {
            Self::BadSpec | Self::NonFinite | Self::BadData | Self::BadCheckpoint | Self::Disk => {
                Class::Permanent
            }
            Self::OomKilled | Self::Crashed | Self::EndedEarly | Self::PeerLost => Class::Own,
            Self::Evicted | Self::Preempted | Self::NodeLost => Class::World { counted: false },
            Self::PodLost | Self::Killed => Class::World { counted: true },
        }
    }

    /// Of several ends seen at once the smallest tells most: a lost peer is a symptom of another's end.
    fn rank_of_telling(self) -> u8 {
        match self {
            Self::PeerLost => 4,
            Self::EndedEarly => 3,
            reason => match reason.class() {
                Class::Permanent => 0,
                Class::Own => 1,
                Class::World { .. } => 2,
            },
        }
    }
}

/// How one worker ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// Why.
    pub reason: Reason,
    /// Its exit code, if it had one.
    pub exit_code: Option<i64>,
    /// Its last words or the cluster's, already sanitised and short.
    pub message: String,
}

/// A terminated container, as its status says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Container<'a> {
    /// 128 + signal for a signal.
    pub exit_code: i64,
    /// `OOMKilled`, `Error`, `Completed`, ...
    pub reason: &'a str,
    /// From the termination log.
    pub message: &'a str,
}

/// Names a pod's end from what its status says: `disruption` is the reason of a DisruptionTarget condition,
/// `pod_reason` is `status.reason`. `None` for exit code 0.
#[must_use]
pub fn classify(
    disruption: Option<&str>,
    pod_reason: Option<&str>,
    deleting: bool,
    container: Option<Container<'_>>,
) -> Option<Reason> {
    let code = container.map(|c| c.exit_code);
    if code == Some(0) {
        return None;
    }
    // Said by whoever did it, so more to the point than any exit code: the worker merely got a signal.
    let pushed_out = match disruption {
        Some("PreemptionByScheduler") => Some(Reason::Preempted),
        Some("DeletionByTaintManager" | "DeletionByPodGC") => Some(Reason::NodeLost),
        Some(_) => Some(Reason::Evicted),
        None => match pod_reason {
            Some("Preempting" | "Preempted") => Some(Reason::Preempted),
            Some("NodeLost" | "NodeShutdown" | "Shutdown" | "Terminated") => Some(Reason::NodeLost),
            // The kubelet's refusals (OutOfcpu, UnexpectedAdmissionError, ..) and its evictions.
            Some(_) => Some(Reason::Evicted),
            None => None,
        },
    };
    // An exit code that says what the job did wrong is true even if the pod was being deleted at that time.
    let own = match code {
        Some(64) => Some(Reason::BadSpec),
        Some(65) => Some(Reason::NonFinite),
        Some(66) => Some(Reason::BadData),
        Some(67) => Some(Reason::BadCheckpoint),
        Some(74) => Some(Reason::Disk),
        _ if container.is_some_and(|c| c.reason == "OOMKilled") => Some(Reason::OomKilled),
        _ => None,
    };
    Some(own.or(pushed_out).unwrap_or(match code {
        _ if deleting => Reason::PodLost,
        None => Reason::PodLost,
        Some(137 | 143) => Reason::Killed,
        Some(69) => Reason::PeerLost,
        Some(_) => Reason::Crashed,
    }))
}

/// The most telling of several (rank, end) pairs.
pub(super) fn most_telling<'a>(ends: impl Iterator<Item = (i64, &'a End)>) -> Option<(i64, &'a End)> {
    ends.min_by_key(|(rank, end)| (end.reason.rank_of_telling(), *rank))
}

/// The end in words a tenant can act on.
pub(super) fn describe(plan: &Plan, attempt: i64, rank: Option<i64>, end: &End) -> Failure {
    let who = rank.map_or_else(|| "the attempt".to_owned(), |rank| format!("worker {rank}"));
    let said = if end.message.is_empty() { String::new() } else { format!(": {}", end.message) };
    let message = match end.reason {
        Reason::OomKilled => format!("{who} exceeded {}; raise spec.workers.resources.memory", plan.memory),
        Reason::Evicted => format!("{who} was evicted{said}"),
        Reason::Preempted if rank.is_none() => format!("{who} made room: its Job was suspended{said}"),
        Reason::Preempted => format!("{who} made room for a pod of higher priority{said}"),
        Reason::NodeLost => format!("the node of {who} is gone{said}"),
        Reason::PodLost if rank.is_none() => format!("{who} lost its pods{said}"),
        Reason::PodLost => format!("the pod of {who} was deleted{said}"),
        Reason::Killed => format!("{who} was killed by a signal{said}"),
        Reason::PeerLost => format!("{who} lost its peers or the relay{said}"),
        Reason::EndedEarly => format!("{who} ended before step {}{said}", plan.steps),
        Reason::Crashed if end.message.is_empty() => {
            format!("{who} crashed with exit code {}", end.exit_code.unwrap_or(-1))
        }
        // The trainer's own words name the file, field or step, and the remedy.
        _ if end.message.is_empty() => format!("{who} failed with exit code {}", end.exit_code.unwrap_or(-1)),
        _ => format!("{who}: {}", end.message),
    };
    let reason = end.reason.name().to_owned();
    Failure { attempt, rank, exit_code: end.exit_code, reason, message }
}
