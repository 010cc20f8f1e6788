//! What a provider owes to the audits that are open.

use super::History;
use crate::Digest;
use crate::records::fields::ProviderName;

/// What a provider may log now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Due {
    /// Record ids of its commits whose record root it has to open.
    pub openings: Vec<Digest>,
    /// Record ids of its assignments whose seal it has to open.
    pub answers: Vec<Digest>,
    /// Record ids of its assignments that it has not sealed.
    pub replays: Vec<Digest>,
}

impl History {
    /// What `provider` may log now, in the order of the draws; `hub` is the hub's own auditor.
    pub fn due(&self, provider: &ProviderName) -> Due {
        let _ = provider;
        Due::default()
    }
}
