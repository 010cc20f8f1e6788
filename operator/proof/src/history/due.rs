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
    /// What `provider` may log now; `hub` is the hub's own auditor. Nothing is due to an audit that has its verdict.
    pub fn due(&self, provider: &ProviderName) -> Due {
        let mut due = Due::default();
        for (id, draw) in self.undecided.iter().filter_map(|id| Some((id, self.draws.get(id)?))) {
            let Some(commit) = self.commits.get(&draw.commit).filter(|commit| commit.audit == Some(*id))
            else {
                continue;
            };
            let shown = self.seals_in(draw);
            if shown && commit.opened.is_none() && commit.provider == *provider {
                due.openings.push(draw.commit);
            }
            let own =
                self.all_assigns(draw).filter(|(_, assign)| assign.counts() && assign.auditor == *provider);
            for (assign_id, assign) in own {
                if assign.seal.is_none() {
                    due.replays.push(*assign_id);
                } else if shown && assign.opened.is_none() {
                    due.answers.push(*assign_id);
                }
            }
        }
        due
    }
}
