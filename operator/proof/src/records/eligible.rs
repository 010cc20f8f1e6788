use serde::{Deserialize, Serialize};

use super::fields::{OwnerName, ProviderName, ascending};

/// An owner who may audit, with those of his providers that may.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Eligible {
    /// The owner.
    pub owner: OwnerName,
    /// His providers, ascending, at least one.
    pub providers: Vec<ProviderName>,
}

/// Owners ascending and none twice, each with providers ascending and none twice, none with none.
pub(super) fn in_order(eligible: &[Eligible]) -> bool {
    ascending(eligible.iter().map(|one| &one.owner))
        && eligible.iter().all(|one| !one.providers.is_empty() && ascending(&one.providers))
}
