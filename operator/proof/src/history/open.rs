//! What is still missing before a job's result is verified: each item blocks the pay of its window and the job's Succeeded.

use std::collections::BTreeSet;

use super::state::{CommitState, DrawState, GrantState, JobState};
use super::{History, Refusal};
use crate::Digest;
use crate::records::{DrawKind, JobId, Tier, VerdictKind};

/// Something that a job still lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Open {
    /// The job's training has not ended.
    Training,
    /// Intervals of a grant are in no closed window.
    Window {
        /// The island.
        island: u64,
        /// The grant's epoch.
        epoch: u64,
    },
    /// Something must be drawn and is not.
    Draw {
        /// Why it must be drawn.
        kind: DrawKind,
        /// Record id of the window-close, commit or failure.
        subject: Digest,
    },
    /// A draw has no verdict.
    Verdict {
        /// Record id of the draw.
        draw: Digest,
    },
    /// A fault was found and the job has not gone back.
    Rollback {
        /// Record id of the verdict.
        verdict: Digest,
        /// The island.
        island: u64,
    },
}

impl History {
    /// What the job still lacks, in ascending order. Empty: it has ended, all that had to be drawn was drawn, and every draw
    /// has a verdict after which nothing is left to do.
    ///
    /// # Errors
    /// [`Refusal::Unknown`] for a job that the log does not have.
    pub fn open(&self, id: JobId) -> Result<Vec<Open>, Refusal> {
        let job = self.job(id)?;
        let mut open = Vec::new();
        let verdicts = || job.verdicts.iter().filter_map(|id| Some((id, self.verdicts.get(id)?)));
        let undecided = verdicts().filter(|(_, verdict)| verdict.kind == VerdictKind::Inconclusive);
        let inconclusive: BTreeSet<_> = undecided.map(|(_, verdict)| verdict.commit).collect();
        if !job.ended {
            open.push(Open::Training);
        }
        for (number, island) in (0u64..).zip(&job.islands) {
            for (epoch, grant) in island.grants.iter().filter(|_| job.job.tier != Tier::None) {
                if grant.closed < grant.commits.len() {
                    open.push(Open::Window { island: number, epoch: *epoch });
                }
                self.missing_draws(job, grant, &inconclusive, &mut open);
            }
            let back = verdicts().filter(|(verdict, state)| {
                state.kind == VerdictKind::Fault && !island.rollbacks.contains(*verdict)
            });
            // A fault of a commit that was rolled back for another reason needs nothing more.
            let back = back.filter(|(verdict, state)| {
                let begun = job.islands.iter().any(|island| island.rollbacks.contains(*verdict));
                let commit = self.commits.get(&state.commit);
                begun || commit.is_some_and(|commit| counts(job, commit, &state.commit))
            });
            open.extend(back.map(|(verdict, _)| Open::Rollback { verdict: *verdict, island: number }));
        }
        let missing = job.windows.iter().filter(|id| !job.drawn.contains_key(&(DrawKind::Window, **id)));
        let missing = missing.filter(|id| !self.is_vain(job, id, &inconclusive));
        open.extend(missing.map(|id| Open::Draw { kind: DrawKind::Window, subject: *id }));
        let lacks = |draw: &DrawState| draw.kind != DrawKind::Second && draw.verdict.is_none();
        let undecided = job.drawn.values().filter(|draw| self.draws.get(draw).is_some_and(lacks));
        open.extend(undecided.map(|draw| Open::Verdict { draw: *draw }));
        open.sort_unstable();
        Ok(open)
    }

    /// Nobody could tell about one of a window's intervals, and all of them were run again: nobody is asked twice. Else a
    /// window of one interval, about which nobody can ever tell, would be drawn from for good.
    fn is_vain(&self, job: &JobState, window: &Digest, inconclusive: &BTreeSet<Digest>) -> bool {
        let Some(window) = self.windows.get(window) else { return false };
        let void = |id: &Digest| self.commits.get(id).is_some_and(|commit| !counts(job, commit, id));
        window.commits.iter().any(|id| inconclusive.contains(id)) && window.commits.iter().all(void)
    }

    fn missing_draws(
        &self,
        job: &JobState,
        grant: &GrantState,
        inconclusive: &BTreeSet<Digest>,
        open: &mut Vec<Open>,
    ) {
        for (at, id) in grant.commits.iter().enumerate() {
            let Some(commit) = self.commits.get(id) else { continue };
            // Nobody could tell, and it was run again: nobody is asked twice.
            if inconclusive.contains(id) && !counts(job, commit, id) {
                continue;
            }
            let last = commit.claim.completes(&job.job);
            let needs = [
                (DrawKind::First, at == 0),
                (DrawKind::Last, last),
                (DrawKind::Failed, commit.claim.failed),
                (DrawKind::Rerun, commit.rerun),
            ];
            for (kind, _) in needs.into_iter().filter(|(_, needed)| *needed) {
                if !job.drawn.contains_key(&(kind, *id)) {
                    open.push(Open::Draw { kind, subject: *id });
                }
            }
        }
    }
}

/// Whether a commit is on its island's path, and was not rolled back.
pub(super) fn counts(job: &JobState, commit: &CommitState, id: &Digest) -> bool {
    let at = |n: u64| usize::try_from(n).ok();
    let island = at(commit.claim.island.get()).and_then(|at| job.islands.get(at));
    island.zip(at(commit.claim.interval)).is_some_and(|(island, at)| island.path.get(at) == Some(id))
}
