use serde::{Deserialize, Serialize};

use super::fields::{Interval, Place, ProviderName};
use super::{Misfit, Payload, fit, names};
use crate::Digest;

/// Who replays the interval of a draw. Signed by the hub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AuditAssign {
    /// Record id of the draw.
    pub draw: Digest,
    /// The drawn interval.
    pub interval: Interval,
    /// Who replays it.
    pub auditor: ProviderName,
    /// Its place in the draw's order of auditors, from 0; the number of the order's entries for the hub's own auditor.
    pub place: Place,
    /// Why this one.
    pub reason: AssignReason,
}

/// Why an auditor is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AssignReason {
    /// The first of the order.
    First,
    /// The one before declined.
    Declined,
    /// The one before did not answer in time.
    Silent,
    /// The openings so far differ, or a party is silent: one more owner replays.
    Dispute,
    /// Nobody is left: the hub's own auditor.
    LastResort,
}

impl Payload for AuditAssign {
    names!("audit-assign");

    fn check(&self) -> Result<(), Misfit> {
        let good = match self.reason {
            AssignReason::First => self.place.get() == 0,
            AssignReason::LastResort => true,
            _ => self.place.get() > 0,
        };
        fit(good, "place", "0 for First, above 0 for the next in order")
    }
}
