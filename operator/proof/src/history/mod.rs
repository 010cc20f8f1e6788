//! The fold over the log, in its order: what each record needs to count (docs/spec/records.md, "Valid when").
//!
//! [`History::apply`] takes the records one after another and refuses what does not fit those before it; a refusal changes
//! nothing. `muster verify` refuses a log of which one record is refused; whoever appends asks [`History::admit`] first. The
//! order of the log is the only clock: a key counts from its record on, an epoch until the next, and no date is looked at.
//!
//! That an entry is in the log, and that its envelope is the entry's, is checked before ([`crate::merkle`]). What needs a
//! blob (a checkpoint's StateRoot, a replay) or a time (an auditor too slow) is not checked here.

use std::collections::{BTreeMap, BTreeSet};

use crate::dsse::Envelope;
use crate::key::PublicKey;
use crate::records::fields::{Origin, ProviderName, Uid, WitnessKey};
use crate::records::{Job, JobId, KeySet, Record};
use crate::{Digest, hub_keys};

mod agenda;
mod audits;
mod candidates;
mod conclude;
mod due;
mod keys;
mod open;
mod quorum;
mod refusal;
mod signers;
mod state;
mod training;
mod verdicts;
mod view;
mod windows;

pub use agenda::{Field, GivenUp, Todo, Unsigned};
pub use due::Due;
pub use open::Open;
pub use quorum::Quorum;
pub use refusal::Refusal;
pub use view::{AssignView, AuditView, PathInterval, SecondView, StartView, VerdictView};

use state::{
    AssignState, CommitState, DrawState, JobState, KeyState, ProviderState, VerdictState, WindowState,
};

/// The hub's own auditor, asked when nobody else is left. No provider has this name.
pub const HUB_AUDITOR: &str = "hub";
/// So many closed windows of a grant may be without a verdict before it must wait.
pub const WINDOWS_AHEAD: u64 = 2;
/// Most identity keys that a provider ever had.
pub const MAX_PROVIDER_KEYS: usize = 256;
/// Most keys that are bound under one grant.
pub const MAX_BOUND_KEYS: usize = 4096;

/// How much of a log is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    /// All of it.
    Whole,
    /// What concerns one job: how its providers stand elsewhere is not known.
    OneJob,
}

/// What a log says, as far as it was read.
#[derive(Debug, Clone)]
pub struct History {
    scope: Scope,
    origin: Origin,
    next: u64,
    hub: Option<KeySet>,
    providers: BTreeMap<ProviderName, ProviderState>,
    /// Every key of a provider there ever was, by its id.
    keys: BTreeMap<Digest, KeyState>,
    witnesses: BTreeMap<WitnessKey, ProviderName>,
    jobs: BTreeMap<JobId, JobState>,
    uids: BTreeSet<(Digest, Uid)>,
    anchors: BTreeSet<Digest>,
    // By record id.
    commits: BTreeMap<Digest, CommitState>,
    windows: BTreeMap<Digest, WindowState>,
    draws: BTreeMap<Digest, DrawState>,
    assigns: BTreeMap<Digest, AssignState>,
    /// Audit openings, and what they open.
    openings: BTreeMap<Digest, Digest>,
    verdicts: BTreeMap<Digest, VerdictState>,
    /// Draws without a verdict, but for second ones.
    undecided: BTreeSet<Digest>,
}

/// A record that counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// Its index in the log.
    pub index: u64,
    /// Its record id.
    pub id: Digest,
    /// The key that signed it; of a provider's key, the hub's.
    pub signer: Digest,
    /// What it says.
    pub record: Record,
}

impl History {
    /// An empty history of the log `origin`. The log's first set of hub keys is believed if it is `pinned`, or if nothing
    /// is: then the log's own key, which signs its checkpoints, stands for it.
    pub fn new(origin: Origin, pinned: Option<KeySet>) -> Self {
        Self {
            scope: Scope::Whole,
            origin,
            next: 0,
            hub: pinned,
            providers: BTreeMap::new(),
            keys: BTreeMap::new(),
            witnesses: BTreeMap::new(),
            jobs: BTreeMap::new(),
            uids: BTreeSet::new(),
            anchors: BTreeSet::new(),
            commits: BTreeMap::new(),
            windows: BTreeMap::new(),
            draws: BTreeMap::new(),
            assigns: BTreeMap::new(),
            openings: BTreeMap::new(),
            verdicts: BTreeMap::new(),
            undecided: BTreeSet::new(),
        }
    }

    /// As [`History::new`], for the records of one job. How long a window is, and whether an auditor had a fault of late, follows
    /// from all of a provider's jobs. So a window may be shorter than those records make it, which only draws more, and as
    /// long as its tier allows; and an auditor's faults are the hub's word.
    pub fn of_one_job(origin: Origin) -> Self {
        Self { scope: Scope::OneJob, ..Self::new(origin, None) }
    }

    /// Takes the record at `index` of the log. Indices grow; those of entries that are no records are left out.
    ///
    /// # Errors
    /// [`Refusal`]; then the history is what it was.
    pub fn apply(&mut self, index: u64, envelope: &Envelope) -> Result<Accepted, Refusal> {
        let accepted = self.admit(index, envelope)?;
        self.take(&accepted, envelope);
        self.next = index.saturating_add(1);
        Ok(accepted)
    }

    /// What [`History::apply`] would say, without taking the record.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn admit(&self, index: u64, envelope: &Envelope) -> Result<Accepted, Refusal> {
        if index < self.next {
            return Err(Refusal::Index { got: index, want: self.next });
        }
        let record = Record::parse(envelope)?;
        let id = envelope.record_id();
        let signer = match &record {
            Record::HubKeys(set) => self.check_hub_keys(envelope, set),
            Record::ProviderKey(it) => self.check_provider_key(envelope, it),
            Record::KeyRevocation(it) => self.check_key_revocation(envelope, it),
            Record::KeyBinding(it) => self.check_key_binding(envelope, it),
            Record::Job(it) => self.check_job(envelope, it),
            Record::Grant(it) => self.check_grant(envelope, it),
            Record::Commit(it) => self.check_commit(envelope, &it.into()),
            Record::Failure(it) => self.check_commit(envelope, &it.into()),
            Record::GrantEnd(it) => self.check_grant_end(envelope, it),
            Record::JobEnd(it) => self.check_job_end(envelope, it),
            Record::Rollback(it) => self.check_rollback(envelope, it),
            Record::WindowClose(it) => self.check_window_close(envelope, it),
            Record::Draw(it) => self.check_draw(envelope, it),
            Record::AuditAssign(it) => self.check_audit_assign(envelope, it),
            Record::AuditSeal(it) => self.check_audit_seal(envelope, it),
            Record::Opening(it) => self.check_opening(envelope, it),
            Record::AuditOpening(it) => self.check_audit_opening(envelope, it),
            Record::Verdict(it) => self.check_verdict(envelope, it),
        }?;
        Ok(Accepted { index, id, signer, record })
    }

    /// Takes over what [`History::admit`] has accepted; cannot fail.
    fn take(&mut self, accepted: &Accepted, envelope: &Envelope) {
        let (id, index, signer) = (accepted.id, accepted.index, accepted.signer);
        match &accepted.record {
            Record::HubKeys(set) => self.hub = Some(set.clone()),
            Record::ProviderKey(it) => self.take_provider_key(it),
            Record::KeyRevocation(it) => self.take_key_revocation(it),
            Record::KeyBinding(it) => self.take_key_binding(it, signer),
            Record::Job(it) => self.take_job(id, envelope, it),
            Record::Grant(it) => self.take_grant(id, it),
            Record::Commit(it) => self.take_commit((id, index), &it.into()),
            Record::Failure(it) => self.take_commit((id, index), &it.into()),
            Record::GrantEnd(it) => self.take_grant_end(it),
            Record::JobEnd(it) => self.take_job_end(it),
            Record::Rollback(it) => self.take_rollback(it),
            Record::WindowClose(it) => self.take_window_close(id, it),
            Record::Draw(it) => self.take_draw((id, index), it),
            Record::AuditAssign(it) => self.take_audit_assign((id, index), it),
            Record::AuditSeal(it) => self.take_audit_seal(index, it, signer),
            Record::Opening(it) => self.take_opening(index, it),
            Record::AuditOpening(it) => self.take_audit_opening((id, index), it),
            Record::Verdict(it) => self.take_verdict((id, index), it),
        }
    }

    /// The hub's keys at this point of the log.
    pub fn hub_keys(&self) -> &[PublicKey] {
        self.hub.as_ref().map_or(&[], hub_keys::KeySet::keys)
    }

    /// What a job was logged as.
    pub fn job_record(&self, id: JobId) -> Option<&Job> {
        self.jobs.get(&id).map(|job| &job.job)
    }

    /// The index that the next record has at least.
    pub fn next_index(&self) -> u64 {
        self.next
    }
}

#[cfg(test)]
mod tests;
