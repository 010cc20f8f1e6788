use serde::{Deserialize, Serialize};

use super::eligible::{Eligible, in_order};
use super::fields::{Epoch, Interval, Island, JobId, Window};
use super::{MAX_LIST_PAYLOAD, Misfit, Payload, fit, names};
use crate::Digest;

/// These intervals of a grant are committed and may be drawn from; these are who may audit them. Signed by the hub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WindowClose {
    /// The job.
    pub job: JobId,
    /// The island.
    pub island: Island,
    /// The grant's epoch.
    pub epoch: Epoch,
    /// The window, counted from 0 within the grant.
    pub window: Window,
    /// Its first interval.
    pub first: Interval,
    /// Its last interval.
    pub last: Interval,
    /// Record ids of the commits `first..=last`; the last may be a failure's.
    pub commits: Vec<Digest>,
    /// Why it closes.
    pub reason: CloseReason,
    /// Who may audit, in ascending order.
    pub eligible: Vec<Eligible>,
}

/// Why a window closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CloseReason {
    /// It has as many intervals as a window may have.
    Full,
    /// The grant ended.
    GrantEnd,
    /// The job's training ended.
    JobEnd,
    /// The island was rolled back after a fault.
    Fault,
}

impl Payload for WindowClose {
    names!("window-close");
    const MAX: usize = MAX_LIST_PAYLOAD;

    fn check(&self) -> Result<(), Misfit> {
        let count = self.last.get().checked_sub(self.first.get()).map(|more| more + 1);
        fit(count.is_some(), "last", "at least `first`")?;
        fit(count == Some(self.commits.len() as u64), "commits", "one record id for each of `first..=last`")?;
        fit(in_order(&self.eligible), "eligible", "owners and their providers ascending, none twice or empty")
    }
}
