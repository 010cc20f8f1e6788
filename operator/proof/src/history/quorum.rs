//! Which heads count: those that enough owners have seen continue what they saw before (docs/spec/log.md, section 3).

use std::collections::BTreeSet;

use super::History;
use super::state::ProviderState;
use crate::records::fields::{OwnerName, ProviderName};
use crate::tlog::checkpoint::SignedCheckpoint;
use crate::tlog::note::VerifierKey;

/// Who has cosigned a head, out of whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quorum {
    /// Owners of a provider with a key that is not revoked.
    pub owners: usize,
    /// Those of them of whom a provider has cosigned.
    pub cosigned: usize,
}

impl Quorum {
    /// Two thirds of the owners, rounded up: so many that another head beside this one needs a third of them to lie.
    pub const fn needed(&self) -> usize {
        self.owners - self.owners / 3
    }

    /// Whether the head counts.
    pub const fn counts(&self) -> bool {
        self.cosigned >= self.needed()
    }
}

impl History {
    /// Who has cosigned a head that the log has signed. A cosignature that does not verify is none.
    pub fn quorum(&self, head: &SignedCheckpoint) -> Quorum {
        let mut cosigned: BTreeSet<&OwnerName> = BTreeSet::new();
        for (witness, provider) in &self.witnesses {
            let Some(owner) = self.there(provider).map(|state| &state.owner) else { continue };
            let key = witness.to_string().parse::<VerifierKey>();
            if !cosigned.contains(owner) && key.is_ok_and(|key| matches!(head.cosigned_by(&key), Ok(Some(_))))
            {
                cosigned.insert(owner);
            }
        }
        Quorum { owners: self.owners(), cosigned: cosigned.len() }
    }

    /// Owners of a provider with a key that is not revoked.
    pub fn owners(&self) -> usize {
        let there = self.providers.keys().filter_map(|provider| self.there(provider));
        there.map(|state| &state.owner).collect::<BTreeSet<_>>().len()
    }

    /// How many witnesses there are, whoever owns them.
    pub fn witnesses(&self) -> usize {
        self.witnesses.values().filter(|provider| self.there(provider).is_some()).count()
    }

    /// A provider, unless all of its keys are revoked.
    fn there(&self, provider: &ProviderName) -> Option<&ProviderState> {
        self.providers.get(provider).filter(|it| it.keys.iter().any(|key| self.is_live(key)))
    }
}
