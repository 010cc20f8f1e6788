//! What audits mean for the life of a job: it is not over before they are, and a fault leads back.
use std::fmt;

use super::Failure;
use super::conditions::{Condition, FAULT_FOUND, Kind, Status, condition};
use crate::audits::JobAudits;

/// How far the audits of a job are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Audits {
    /// Its tier is None: nothing is drawn, nothing is waited for.
    None,
    /// It has a tier, and the log has not been read yet. Nothing is decided that the log could forbid.
    Unknown,
    /// Windows are open, intervals not drawn, or verdicts missing; while the job trains, always.
    Open(Tally),
    /// It has ended in the log, and everything drawn has its verdict.
    Settled(Tally),
}

/// The draws of a job, counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Intervals drawn.
    pub drawn: u32,
    /// Replayed, with the same result.
    pub matched: u32,
    /// Convicted.
    pub faults: u32,
    /// Without a verdict.
    pub open: u32,
    /// Why an audit waits for somebody who could do it.
    pub no_auditor: Option<String>,
    /// Which witnesses verdicts wait for.
    pub unwitnessed: Option<String>,
}

impl Audits {
    /// Of a job with a tier; `None` if its log has not been read.
    #[must_use]
    pub fn of(book: Option<&JobAudits>) -> Self {
        let Some(book) = book else { return Self::Unknown };
        let JobAudits { drawn, matched, faults, open, .. } = *book;
        let (no_auditor, unwitnessed) = (book.no_auditor.clone(), book.unwitnessed.clone());
        let tally = Tally { drawn, matched, faults, open, no_auditor, unwitnessed };
        if book.settled { Self::Settled(tally) } else { Self::Open(tally) }
    }

    /// The counts, if the job has any.
    #[must_use]
    pub fn tally(&self) -> Option<&Tally> {
        match self {
            Self::Open(tally) | Self::Settled(tally) => Some(tally),
            Self::None | Self::Unknown => None,
        }
    }

    /// Condition `Verified`; nothing is said of a job that is not audited.
    #[must_use]
    pub fn condition(&self) -> Option<Condition> {
        let say = |status, reason, message| Some(condition(Kind::Verified, status, reason, message));
        match self {
            Self::None => None,
            Self::Unknown => {
                say(Status::Unknown, "AuditsOpen", "the hub has not read the log yet".to_owned())
            }
            Self::Settled(tally) => say(Status::True, "AllDrawnMatched", tally.to_string()),
            Self::Open(tally) => match (&tally.no_auditor, &tally.unwitnessed) {
                (Some(why), _) => say(Status::False, "AuditorUnavailable", format!("{why}; {tally}")),
                (None, Some(why)) => say(Status::False, "WitnessesUnavailable", format!("{why}; {tally}")),
                _ if tally.faults > 0 => say(Status::False, FAULT_FOUND, tally.to_string()),
                _ => say(Status::Unknown, "AuditsOpen", tally.to_string()),
            },
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { drawn, matched, faults, open, .. } = self;
        match (matched, drawn) {
            (_, 0) => return out.write_str("no interval is drawn yet"),
            (1, 1) => out.write_str("the drawn interval matches its replay")?,
            _ => write!(out, "{matched} of {drawn} drawn intervals match their replays")?,
        }
        match open {
            0 => {}
            1 => out.write_str(", 1 waits for its verdict")?,
            _ => write!(out, ", {open} wait for their verdicts")?,
        }
        match faults {
            0 => Ok(()),
            1 => out.write_str("; 1 fault was found, and what followed it is trained again"),
            _ => write!(out, "; {faults} faults were found, and what followed them is trained again"),
        }
    }
}

/// A step that is not finite, as the log has it from whoever trained: it ends the job, unless a verdict undoes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedStep {
    /// Which.
    pub step: u64,
    /// Whether its audit has found the same.
    pub matched: bool,
}

/// What a verdict has undone, as long as no unit goes on from there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rollback {
    /// Nothing of an epoch below counts any more.
    pub epoch: u64,
    /// Whether the store knows.
    pub store: Store,
    /// Who was convicted of what.
    pub why: Failure,
}

/// What the store has of a rollback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Store {
    /// Its checkpoints may still be those that do not count.
    Behind,
    /// It has forgotten them, and takes nothing more under an old epoch.
    Settled,
}
