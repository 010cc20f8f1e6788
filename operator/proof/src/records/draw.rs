use serde::{Deserialize, Serialize};

use super::eligible::{Eligible, in_order};
use super::fields::{ChainIndex, JobId};
use super::{MAX_LIST_PAYLOAD, Misfit, Payload, fit, names};
use crate::Digest;

/// The next preimage of the job's chain, and what it decides about. Signed by the hub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Draw {
    /// The job.
    pub job: JobId,
    /// Why there is a draw.
    pub kind: DrawKind,
    /// Record id of the window-close (Window), of the draw that is seconded (Second), else of the commit or failure.
    pub subject: Digest,
    /// Which draw of the job this is, from 0.
    pub index: ChainIndex,
    /// `h_(length - 1 - index)`.
    pub preimage: Digest,
    /// Who may audit, in ascending order. `null` for Window, whose list stands in its window-close, and for Second, which
    /// has that of the draw it seconds.
    #[serde(deserialize_with = "Option::deserialize")]
    pub eligible: Option<Vec<Eligible>>,
}

/// Why there is a draw.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum DrawKind {
    /// A window closed: which of its intervals is audited, and by whom.
    Window,
    /// The first interval of a grant.
    First,
    /// The job's last interval.
    Last,
    /// An interval that ended in a failure.
    Failed,
    /// An interval that is run again after a rollback.
    Rerun,
    /// Whether a second auditor joins an audit.
    Second,
    /// The tenant asks for it.
    Tenant,
}

impl DrawKind {
    /// Whether the draw is about one interval and brings its own list of auditors.
    pub const fn has_eligible(self) -> bool {
        !matches!(self, Self::Window | Self::Second)
    }
}

impl Payload for Draw {
    names!("draw");
    const MAX: usize = MAX_LIST_PAYLOAD;

    fn check(&self) -> Result<(), Misfit> {
        let given = self.eligible.is_some() == self.kind.has_eligible();
        fit(given, "eligible", "null for Window and Second, else a list")?;
        let good = self.eligible.as_deref().is_none_or(in_order);
        fit(good, "eligible", "owners and their providers ascending, none twice or empty")
    }
}
