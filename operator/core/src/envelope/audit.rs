//! Which interval a unit of kind Audit replays (docs/spec/protocol.md section 6).
//!
//! The rest of such a payload says how: `start` is the checkpoint before the interval, `startRecord` the commit of that state (for
//! genesis the job record), `grant` the assignment. Nothing in it tells what the trainer found.

use muster_proof::Digest;
use serde::{Deserialize, Serialize};

use super::checks::{check, range};
use super::{Kind, Payload};

/// One interval of one commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Audit {
    /// Record id of the audit-assign in the log: what the seal names.
    pub assignment: Digest,
    /// Epoch of the audited commit; the unit's own fencing number is another.
    pub epoch: i64,
    /// The interval, from 0.
    pub interval: i64,
    /// The interval's last step: where the replay ends.
    pub last_step: i64,
}

impl Payload {
    /// Whether it replays what another has committed.
    #[must_use]
    pub fn is_audit(&self) -> bool {
        self.kind == Kind::Audit
    }

    /// The step after which the unit has nothing to do.
    #[must_use]
    pub fn last_step(&self) -> i64 {
        self.audit.map_or(self.steps, |audit| audit.last_step)
    }

    /// The fields of an audit fit each other, and no other unit has any.
    pub(super) fn check_audit(&self) -> Result<(), String> {
        let Some(audit) = &self.audit else {
            return check("audit", self.kind != Kind::Audit, "there in a unit of kind Audit");
        };
        check("audit", self.kind == Kind::Audit, "absent in a unit of another kind than Audit")?;
        range("audit.epoch", audit.epoch, 1, i64::from(i32::MAX))?;
        // The bounds of `steps` and `intervalSteps` hold before: nothing below overflows.
        range("audit.interval", audit.interval, 0, (self.steps - 1) / self.interval_steps)?;
        let first = audit.interval * self.interval_steps;
        let last = (first + self.interval_steps).min(self.steps);
        check("audit.lastStep", audit.last_step == last, &format!("{last}, the end of the interval"))?;
        let start = self.start.map_or(0, |start| start.step);
        check("start.step", start == first, &format!("{first}, the state before the interval"))?;
        check("grant", self.grant == audit.assignment, "the assignment, as in audit")?;
        check("continues", self.continues.is_none(), "absent in an audit: it is done anew")?;
        check("name", self.is_audit_name(), "<job uid, 8>-a<log index of the assignment>-<epoch>")
    }

    fn is_audit_name(&self) -> bool {
        let uid: String = self.job_uid.chars().take(8).collect();
        let index = self
            .name
            .strip_prefix(&uid)
            .and_then(|rest| rest.strip_prefix("-a"))
            .and_then(|rest| rest.strip_suffix(&format!("-{}", self.epoch)));
        index.is_some_and(|index| index.parse::<u64>().is_ok_and(|number| number.to_string() == index))
    }
}

#[cfg(test)]
mod tests;
