//! The newest records of the log, as any agent may read them there. Nothing of it is verified: a liar takes what looks right.
use std::collections::{BTreeMap, BTreeSet};

use muster_proof::Digest;
use muster_proof::dsse::Envelope;
use muster_proof::key::PublicKey;
use muster_proof::records::{AuditSeal, Commit, KeyBinding, Payload, ProviderKey};
use muster_proof::tlog::entry::Entry;

use crate::bundle::leaves::{LeavesError, entries};
use crate::log::client::LogClient;
use crate::wire::gateway::CheckpointCommit;

/// So many of the newest are looked at the first time: fewer than the requests that a gateway takes from one agent at once.
const NEWEST: u64 = 128;

/// What was read so far, by index.
#[derive(Debug, Default)]
pub struct Theirs {
    next: Option<u64>,
    records: BTreeMap<u64, Envelope>,
}

impl Theirs {
    /// Reads on to the newest head.
    ///
    /// # Errors
    /// [`LeavesError`]; what was read until then stays.
    pub async fn advance(&mut self, log: &dyn LogClient) -> Result<(), LeavesError> {
        let head = log.checkpoint().await?;
        let size = String::from_utf8_lossy(&head).lines().nth(1).and_then(|line| line.parse().ok());
        let size: u64 = size.unwrap_or(0);
        let mut next = self.next.unwrap_or(size.saturating_sub(NEWEST));
        while next < size {
            let first = next - next % u64::from(muster_proof::tlog::tile::WIDTH);
            let bodies = entries(log, next, size).await?;
            let end = first + bodies.len() as u64;
            for (index, body) in (first..).zip(bodies).filter(|(index, _)| *index >= next) {
                if self.records.contains_key(&index) {
                    continue;
                }
                let Ok(entry) = Entry::parse(&body) else { continue };
                // Openings are not shown to agents.
                if let Some(found) = log.entry(&entry.record_id()).await? {
                    self.records.insert(index, found.envelope);
                }
            }
            if end <= next {
                break;
            }
            next = end;
        }
        self.next = Some(next);
        Ok(())
    }

    /// All of a kind, the newest first.
    fn all<P: Payload>(&self) -> impl Iterator<Item = (&Envelope, P)> {
        let all = self.records.values().rev().filter(|record| record.payload_type() == P::PAYLOAD_TYPE);
        all.filter_map(|record| Some((record, P::from_payload(record.unverified_payload()).ok()?)))
    }

    /// Bindings that the identity key with this id has signed, or those of others.
    pub fn bindings(&self, identity: Digest, own: bool) -> impl Iterator<Item = KeyBinding> {
        let is_own = move |record: &Envelope| signer(record) == Some(identity);
        self.all().filter(move |(record, _)| is_own(record) == own).map(|(_, binding)| binding)
    }

    /// Commits of sidecars that the identity key with this id has bound, or of those that others have.
    pub fn commits(&self, identity: Digest, own: bool) -> impl Iterator<Item = (&Envelope, Commit)> {
        let bound: BTreeSet<_> = self.bindings(identity, own).map(|binding| binding.key.key_id()).collect();
        self.all().filter(move |(record, _)| signer(record).is_some_and(|signer| bound.contains(&signer)))
    }

    /// A commit that is in the log, as who has not made it can hand it in: its statement about files is not in the log.
    pub fn said(
        &self,
        envelope: &Envelope,
        commit: &Commit,
        honest: &CheckpointCommit,
    ) -> Option<CheckpointCommit> {
        let by = signer(envelope)?;
        let mut bindings = self.all().map(|(_, binding): (_, KeyBinding)| binding.key);
        let key = bindings.find(|key| key.key_id() == by)?;
        let (manifest, commit) = (commit.manifest, envelope.clone());
        Some(CheckpointCommit { manifest, commit, model: honest.model.clone(), key })
    }

    /// A seal that another identity key has signed.
    pub fn seal(&self, identity: Digest) -> Option<(&Envelope, AuditSeal)> {
        self.all().find(|(record, _)| signer(record) != Some(identity))
    }

    /// The identity key of another provider.
    pub fn identity(&self, own: Digest) -> Option<PublicKey> {
        self.all().map(|(_, record): (_, ProviderKey)| record.key).find(|key| key.key_id() != own)
    }
}

fn signer(record: &Envelope) -> Option<Digest> {
    record.signatures().first().map(|first| first.keyid)
}
