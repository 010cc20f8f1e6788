//! What was checked, and what came out. Programs read the fields, people the words.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::Digest;
use crate::history::AuditView;
use crate::records::fields::JobId;
use crate::steps;

/// How a check came out; the worst of all is the report's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// It is as it should be.
    Holds,
    /// Nothing was found wrong, but not all that is needed was there.
    Incomplete,
    /// Something is wrong.
    Refuted,
}

impl Outcome {
    /// The exit code of `muster verify`: 0 holds, 1 refuted, 3 incomplete.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Holds => 0,
            Self::Refuted => 1,
            Self::Incomplete => 3,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Holds => "holds",
            Self::Incomplete => "incomplete",
            Self::Refuted => "refuted",
        })
    }
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Check {
    /// Its name, one of docs/spec/bundle.md, "Checks".
    pub name: &'static str,
    /// How it came out.
    pub outcome: Outcome,
    /// What was seen, in words. It may quote what the bundle says.
    pub what: String,
    /// The file that is to blame, if one is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
}

/// The head of the log that all is checked against.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Head {
    /// The log.
    pub origin: String,
    /// Entries under it.
    pub size: u64,
    /// Its root.
    pub root: Digest,
    /// The policy's witnesses that cosigned it, and when in seconds since 1970.
    pub cosigned: BTreeMap<String, u64>,
}

/// A state that a commit which counts has named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// The island.
    pub island: u64,
    /// The interval that ends with it.
    pub interval: u64,
    /// The first step of that interval.
    pub first_step: u64,
    /// The step that it comes after.
    pub step: u64,
    /// The epoch of the grant.
    pub epoch: u64,
    /// StateRoot.
    pub state_root: Digest,
    /// The checkpoint's manifest; none of a failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manifest: Option<Digest>,
    /// Record id of the commit.
    pub commit: Digest,
    /// Seal of the step records.
    pub record_seal: Digest,
    /// Whether the stop rule ends the job with it.
    pub ends: bool,
    /// Whether an auditor's replay was logged and its verdict is Match.
    pub audited: bool,
}

impl State {
    /// What a replay of the interval answers that finds the same.
    pub fn answer(&self) -> Digest {
        steps::answer(&self.state_root, self.step, self.ends)
    }
}

/// How much of the job was looked at by anybody but its trainer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    /// Intervals that the job has, over all islands.
    pub intervals: u64,
    /// Of which a commit counts.
    pub committed: u64,
    /// That were drawn for an audit.
    pub drawn: u64,
    /// That an auditor replayed with the same result.
    pub replayed: u64,
    /// Draws whose verdict is Match.
    pub matched: u64,
    /// Parties that were convicted, once for each commit.
    pub faults: u64,
    /// Draws without a verdict.
    pub undecided: u64,
    /// Of which the bundle has the whole state.
    pub states: u64,
    /// Entries of the log that the bundle does not show.
    pub hidden: u64,
    /// Of these, signed by a key of the hub.
    pub hidden_by_hub: u64,
}

/// What came out of all checks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The worst outcome.
    pub outcome: Outcome,
    /// Whether the bundle's own hints were believed.
    pub weak: bool,
    /// The job, once its record was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job: Option<JobId>,
    /// The head, once it was accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head: Option<Head>,
    /// The checks, in the order in which they were made.
    pub checks: Vec<Check>,
    /// How much of the job was looked at.
    pub counts: Counts,
    /// The states that counts, by island and interval.
    pub states: Vec<State>,
    /// The audits, in the order of the log.
    pub audits: Vec<AuditView>,
    /// What all this means, in sentences.
    pub words: Vec<String>,
}

impl Report {
    /// Nothing was checked yet.
    pub fn new(weak: bool) -> Self {
        Self {
            outcome: Outcome::Holds,
            weak,
            job: None,
            head: None,
            checks: Vec::new(),
            counts: Counts::default(),
            states: Vec::new(),
            audits: Vec::new(),
            words: Vec::new(),
        }
    }

    /// Adds a check.
    pub fn add(&mut self, name: &'static str, outcome: Outcome, what: impl Into<String>, file: Option<&str>) {
        self.outcome = self.outcome.max(outcome);
        self.checks.push(Check { name, outcome, what: what.into(), file: file.map(str::to_owned) });
    }

    pub(super) fn holds(&mut self, name: &'static str, what: impl Into<String>) {
        self.add(name, Outcome::Holds, what, None);
    }

    pub(super) fn refute(&mut self, name: &'static str, what: impl Into<String>, file: Option<&str>) {
        self.add(name, Outcome::Refuted, what, file);
    }

    pub(super) fn lacks(&mut self, name: &'static str, what: impl Into<String>, file: Option<&str>) {
        self.add(name, Outcome::Incomplete, what, file);
    }

    /// Whether nothing of this name was refuted.
    pub fn is_good(&self, name: &str) -> bool {
        !self.checks.iter().any(|check| check.name == name && check.outcome == Outcome::Refuted)
    }
}

/// For people: the words, then each check. Text of others may be in it.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.weak {
            writeln!(
                f,
                "WEAK: the keys were taken from the bundle itself, so this shows that it fits together, not that it is true"
            )?;
        }
        for check in &self.checks {
            write!(f, "{:<10}  {}: {}", check.outcome.to_string(), check.name, check.what)?;
            match &check.file {
                Some(file) => writeln!(f, " ({file})")?,
                None => writeln!(f)?,
            }
        }
        self.words.iter().try_for_each(|words| writeln!(f, "{words}"))?;
        writeln!(f, "result: {}", self.outcome)
    }
}
