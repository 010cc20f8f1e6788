use serde::{Deserialize, Serialize};

use super::fields::{Interval, JobId, ProviderName, ascending};
use super::{Misfit, Payload, fit, names};
use crate::Digest;

/// What an audit came to. Signed by the hub; anybody can check it against the openings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Verdict {
    /// The job.
    pub job: JobId,
    /// Record id of the draw.
    pub draw: Digest,
    /// The drawn interval.
    pub interval: Interval,
    /// What came out.
    pub verdict: VerdictKind,
    /// Who is convicted.
    #[serde(deserialize_with = "Option::deserialize")]
    pub party: Option<ProviderName>,
    /// On what grounds.
    #[serde(deserialize_with = "Option::deserialize")]
    pub evidence: Option<Evidence>,
}

/// What an audit came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum VerdictKind {
    /// All say the same.
    Match,
    /// The trainer's claim is wrong.
    Fault,
    /// An auditor's claim is wrong.
    AuditorFault,
    /// Nobody can tell; the interval is run again.
    Inconclusive,
}

/// Grounds of a conviction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Evidence {
    /// What they are.
    pub kind: EvidenceKind,
    /// Record ids of the audit openings that agree with each other against the party, ascending.
    pub records: Vec<Digest>,
}

/// What grounds a conviction has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum EvidenceKind {
    /// Two owners' replays say the same, and the party something else.
    Replays,
    /// The party did not open its seal, and two owners' replays say the same.
    Silence,
}

impl Payload for Verdict {
    names!("verdict");

    fn check(&self) -> Result<(), Misfit> {
        let convicts = matches!(self.verdict, VerdictKind::Fault | VerdictKind::AuditorFault);
        fit(self.party.is_some() == convicts, "party", "a provider for Fault and AuditorFault, else null")?;
        fit(
            self.evidence.is_some() == convicts,
            "evidence",
            "grounds for Fault and AuditorFault, else null",
        )?;
        let Some(evidence) = &self.evidence else { return Ok(()) };
        let good = (2..=16).contains(&evidence.records.len()) && ascending(&evidence.records);
        fit(good, "evidence.records", "2 to 16 record ids, ascending")
    }
}
