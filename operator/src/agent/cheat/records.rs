//! Lies about records, told where they leave for the log: whatever the rest of the agent does, honestly, passes through here.
//! A lie does not keep the honest record back for good, so the same job shows that the lie came to nothing and that the
//! honest one lost nothing.
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use futures::future::BoxFuture;
use muster_proof::Digest;
use muster_proof::dsse::Envelope;
use muster_proof::key::SigningKey;
use muster_proof::model_signing;
use muster_proof::records::fields::{Attempt, Unfit};
use muster_proof::records::{self, AuditSeal, Commit, KeyBinding, Payload as _};
use tokio::fs::File;

use super::theirs::Theirs;
use crate::agent::hub_blobs::{Blob, HubBlobs, HubError};
use crate::agent::units::locked;
use crate::bundle::leaves::LeavesError;
use crate::log::client::{ClientError, LogClient};
use crate::wire::gateway::{CheckpointCommit, UnitFailure};
use crate::wire::log::Logged;

/// An attempt that no pod has is that many behind a real one.
const MADE_UP: u64 = 1000;

/// What is lied about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    /// `copied-commit`: another provider's commit is ours.
    CopiedCommit,
    /// `commits-twice`: after the commit of an interval comes another one.
    CommitsTwice,
    /// `forged-binding`: a binding that is signed by nobody, one of another provider's key, one under another's grant.
    ForgedBinding,
    /// `late-binding`: a commit goes up before the binding of the key that signed it.
    LateBinding,
    /// `replayed-commit`: a commit of ours of another job or epoch is that of this one.
    ReplayedCommit,
    /// `copies-seal`: another auditor's seal is ours.
    CopiesSeal,
}

impl Lie {
    /// As `MUSTER_CHEAT` names it.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "copied-commit" => Self::CopiedCommit,
            "commits-twice" => Self::CommitsTwice,
            "forged-binding" => Self::ForgedBinding,
            "late-binding" => Self::LateBinding,
            "replayed-commit" => Self::ReplayedCommit,
            "copies-seal" => Self::CopiesSeal,
            _ => return None,
        })
    }
}

/// Why a lie could not be told.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("the log cannot be read: {0}")]
    Leaves(#[from] LeavesError),
    #[error(transparent)]
    Hub(#[from] HubError),
    #[error(transparent)]
    Record(#[from] records::Error),
    #[error(transparent)]
    Unfit(#[from] Unfit),
    #[error("a key cannot be made")]
    Key,
    #[error("the log has no {0} to lie with")]
    Nothing(&'static str),
}

/// What a lie was answered: the index that it got, or the reason why it got none.
pub type Told = (&'static str, Result<u64, String>);

/// The way to the hub of an agent that lies.
pub struct Liar {
    lie: Lie,
    hub: Arc<dyn HubBlobs>,
    log: Arc<dyn LogClient>,
    identity: SigningKey,
    theirs: tokio::sync::Mutex<Theirs>,
    /// Bindings that were kept back, and those that are not any more.
    kept_back: Mutex<(BTreeSet<Digest>, BTreeSet<Digest>)>,
    told: Mutex<Vec<Told>>,
}

impl std::fmt::Debug for Liar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Liar").field("lie", &self.lie).finish_non_exhaustive()
    }
}

/// The way to the hub, with the lie on it that `MUSTER_CHEAT` names, if it is one of these.
pub fn on_the_way(
    hub: Arc<dyn HubBlobs>,
    log: impl LogClient + 'static,
    identity: &SigningKey,
) -> Arc<dyn HubBlobs> {
    match super::told().as_deref().and_then(Lie::named) {
        Some(lie) => Arc::new(Liar::new(lie, hub, Arc::new(log), identity.clone())),
        None => hub,
    }
}

impl Liar {
    /// Tells `lie` on the way to `hub`, with what `log` has.
    pub fn new(lie: Lie, hub: Arc<dyn HubBlobs>, log: Arc<dyn LogClient>, identity: SigningKey) -> Self {
        let (theirs, kept_back, told) = (Default::default(), Mutex::default(), Mutex::default());
        Self { lie, hub, log, identity, theirs, kept_back, told }
    }

    /// What was told so far.
    #[cfg(test)]
    pub fn told(&self) -> Vec<Told> {
        locked(&self.told).clone()
    }

    fn own(&self) -> Digest {
        self.identity.key_id()
    }

    fn note(&self, what: &'static str, answer: Result<&Logged, &HubError>) {
        let lie = self.lie;
        let answer = match answer {
            Ok(logged) => {
                tracing::warn!(?lie, what, index = logged.index, "a lie was taken");
                Ok(logged.index)
            }
            Err(error) => {
                let reason = match error {
                    HubError::Superseded(_) => "OldEpoch",
                    error => error.reason().unwrap_or_default(),
                };
                tracing::warn!(?lie, what, reason, %error, "a lie was refused");
                Err(reason.to_owned())
            }
        };
        locked(&self.told).push((what, answer));
    }

    fn tried(&self, result: Result<(), Trouble>) {
        if let Err(error) = result {
            tracing::warn!(lie = ?self.lie, %error, "a lie was not told");
        }
    }

    async fn say(&self, what: &'static str, record: &Envelope) {
        let answer = self.hub.submit(record).await;
        self.note(what, answer.as_ref());
    }

    async fn claim(&self, what: &'static str, (unit, step): (&str, i64), commit: CheckpointCommit) {
        let answer = self.hub.commit(unit, step, &commit).await;
        self.note(what, answer.as_ref());
    }

    /// A key that no sidecar has, bound as if one had it: what a provider can do that signs without its pods.
    async fn bound(&self, theirs: &Theirs, of: &Commit) -> Result<SigningKey, Trouble> {
        let seed = Digest::of(format!("{} {} {}", self.own(), of.job, of.epoch).as_bytes());
        let key = SigningKey::generate(*seed.as_bytes()).map_err(|_| Trouble::Key)?;
        let real = theirs.bindings(self.own(), true).find(|real| {
            (real.job, real.island, real.epoch) == (of.job, of.island, of.epoch)
                && real.attempt.get() < MADE_UP
        });
        let real = real.ok_or(Trouble::Nothing("binding of ours"))?;
        let attempt = Attempt::new(real.attempt.get() + MADE_UP)?;
        let binding = KeyBinding { attempt, key: key.public().clone(), ..real };
        self.hub.submit(&binding.sign(&self.identity)?).await?;
        Ok(key)
    }

    async fn copied(&self, at: (&str, i64), honest: &CheckpointCommit) -> Result<(), Trouble> {
        let mut theirs = self.theirs.lock().await;
        theirs.advance(&*self.log).await?;
        let ours = Commit::from_payload(honest.commit.unverified_payload())?;
        let found = theirs.commits(self.own(), false).next();
        let (envelope, commit) = found.ok_or(Trouble::Nothing("commit of another provider"))?;
        let as_it_is = theirs.said(envelope, &commit, honest).ok_or(Trouble::Nothing("key of theirs"))?;
        self.claim("another provider's commit, as it is", at, as_it_is).await;
        let key = self.bound(&theirs, &ours).await?;
        let Commit { state_root, record_seal, manifest, .. } = commit;
        let copy = Commit { state_root, record_seal, manifest, ..ours };
        self.claim("another provider's state and seal, signed by us", at, ours_of(honest, &copy, &key)?)
            .await;
        Ok(())
    }

    async fn twice(&self, at: (&str, i64), honest: &CheckpointCommit) -> Result<(), Trouble> {
        let mut theirs = self.theirs.lock().await;
        theirs.advance(&*self.log).await?;
        let ours = Commit::from_payload(honest.commit.unverified_payload())?;
        let key = self.bound(&theirs, &ours).await?;
        let other = Commit { record_seal: Digest::of(b"other records"), ..ours.clone() };
        self.claim("a second commit, of other records", at, ours_of(honest, &other, &key)?).await;
        let (state_root, manifest) = (Digest::of(b"another state"), Digest::of(b"another manifest"));
        let other = Commit { state_root, manifest, ..ours };
        self.claim("a second commit, of another state", at, ours_of(honest, &other, &key)?).await;
        Ok(())
    }

    async fn replayed(&self, at: (&str, i64), honest: &CheckpointCommit) -> Result<(), Trouble> {
        let mut theirs = self.theirs.lock().await;
        theirs.advance(&*self.log).await?;
        let ours = Commit::from_payload(honest.commit.unverified_payload())?;
        let older = |other_job: bool| {
            let fits = move |it: &Commit| {
                if other_job { it.job != ours.job } else { it.job == ours.job && it.epoch != ours.epoch }
            };
            theirs.commits(self.own(), true).find(move |(_, it)| fits(it))
        };
        let (job, epoch) = (older(true), older(false));
        if job.is_none() && epoch.is_none() {
            return Err(Trouble::Nothing("commit of ours of another job or epoch"));
        }
        if let Some(said) = job.and_then(|(envelope, commit)| theirs.said(envelope, &commit, honest)) {
            self.claim("a commit of another job", at, said).await;
        }
        if let Some(said) = epoch.and_then(|(envelope, commit)| theirs.said(envelope, &commit, honest)) {
            self.claim("a commit of another epoch", at, said).await;
        }
        Ok(())
    }

    async fn forged(&self, honest: &Envelope) -> Result<(), Trouble> {
        let mut theirs = self.theirs.lock().await;
        theirs.advance(&*self.log).await?;
        let ours = KeyBinding::from_payload(honest.unverified_payload())?;
        let seed = *Digest::of(format!("nobody's {}", ours.unit).as_bytes()).as_bytes();
        let nobody = SigningKey::generate(seed).map_err(|_| Trouble::Key)?;
        self.say("a binding that nobody has signed", &ours.sign(&nobody)?).await;
        if let Some(key) = theirs.identity(self.own()) {
            let forged = KeyBinding { key, ..ours.clone() };
            self.say("a binding of another provider's own key", &forged.sign(&self.identity)?).await;
        }
        if let Some(of_theirs) = theirs.bindings(self.own(), false).next() {
            let forged = KeyBinding { key: of_theirs.key.clone(), ..ours.clone() };
            self.say("a binding of another provider's sidecar", &forged.sign(&self.identity)?).await;
            let attempt = Attempt::new(of_theirs.attempt.get() + MADE_UP)?;
            let forged = KeyBinding { attempt, key: nobody.public().clone(), ..of_theirs };
            self.say("a binding under another provider's grant", &forged.sign(&self.identity)?).await;
        }
        Ok(())
    }

    /// Seals with what another one has sealed; `None` if there is nothing to copy.
    async fn copied_seal(&self, honest: &Envelope) -> Result<Option<Result<Logged, HubError>>, Trouble> {
        let mut theirs = self.theirs.lock().await;
        theirs.advance(&*self.log).await?;
        let ours = AuditSeal::from_payload(honest.unverified_payload())?;
        let Some((envelope, copied)) = theirs.seal(self.own()) else { return Ok(None) };
        self.say("another auditor's seal, as it is", envelope).await;
        let copy = AuditSeal { seal: copied.seal, ..ours }.sign(&self.identity)?;
        let answer = self.hub.submit(&copy).await;
        self.note("another auditor's seal, signed by us", answer.as_ref());
        Ok(Some(answer))
    }

    /// Whether a binding is to wait until its commit was tried.
    fn keeps_back(&self, binding: &Envelope) -> bool {
        let (kept, released) = &mut *locked(&self.kept_back);
        let record = binding.record_id();
        let waits = !released.contains(&record);
        if waits {
            kept.insert(record);
        }
        waits
    }

    fn release(&self, answer: Result<&Logged, &HubError>) {
        let (kept, released) = &mut *locked(&self.kept_back);
        if !kept.is_empty() {
            released.append(kept);
            self.note("a commit whose key is not bound yet", answer);
        }
    }
}

/// A commit by a key of ours, with the honest statement about files under the same key.
fn ours_of(
    honest: &CheckpointCommit,
    commit: &Commit,
    key: &SigningKey,
) -> Result<CheckpointCommit, Trouble> {
    let model = Envelope::sign(model_signing::PAYLOAD_TYPE, honest.model.unverified_payload(), key)
        .map_err(records::Error::from)?;
    let (manifest, commit) = (commit.manifest, commit.sign(key)?);
    Ok(CheckpointCommit { manifest, commit, model, key: key.public().clone() })
}

impl HubBlobs for Liar {
    fn get<'a>(&'a self, unit: &'a str, digest: Digest) -> BoxFuture<'a, Result<Option<Blob>, HubError>> {
        self.hub.get(unit, digest)
    }

    fn has<'a>(&'a self, unit: &'a str, digest: Digest) -> BoxFuture<'a, Result<bool, HubError>> {
        self.hub.has(unit, digest)
    }

    fn put<'a>(
        &'a self,
        unit: &'a str,
        digest: Digest,
        file: File,
        size: u64,
    ) -> BoxFuture<'a, Result<(), HubError>> {
        self.hub.put(unit, digest, file, size)
    }

    fn commit<'a>(
        &'a self,
        unit: &'a str,
        step: i64,
        commit: &'a CheckpointCommit,
    ) -> BoxFuture<'a, Result<Logged, HubError>> {
        Box::pin(async move {
            let at = (unit, step);
            match self.lie {
                Lie::CopiedCommit => self.tried(self.copied(at, commit).await),
                Lie::ReplayedCommit => self.tried(self.replayed(at, commit).await),
                _ => {}
            }
            let answer = self.hub.commit(unit, step, commit).await;
            match self.lie {
                Lie::CommitsTwice if answer.is_ok() => self.tried(self.twice(at, commit).await),
                Lie::LateBinding => self.release(answer.as_ref()),
                _ => {}
            }
            answer
        })
    }

    fn fail<'a>(
        &'a self,
        unit: &'a str,
        step: i64,
        failure: &'a UnitFailure,
    ) -> BoxFuture<'a, Result<Logged, HubError>> {
        self.hub.fail(unit, step, failure)
    }

    fn submit<'a>(&'a self, record: &'a Envelope) -> BoxFuture<'a, Result<Logged, HubError>> {
        Box::pin(async move {
            match (self.lie, record.payload_type()) {
                (Lie::ForgedBinding, KeyBinding::PAYLOAD_TYPE) => self.tried(self.forged(record).await),
                (Lie::LateBinding, KeyBinding::PAYLOAD_TYPE) if self.keeps_back(record) => {
                    let (reason, message) = ("KeptBack".to_owned(), "by this agent itself".to_owned());
                    let refused = ClientError::Refused { status: 409, reason, message, retry_after: None };
                    return Err(refused.into());
                }
                (Lie::CopiesSeal, AuditSeal::PAYLOAD_TYPE) => match self.copied_seal(record).await {
                    Ok(Some(answer)) => return answer,
                    Ok(None) => self.tried(Err(Trouble::Nothing("seal of another auditor"))),
                    Err(error) => self.tried(Err(error)),
                },
                _ => {}
            }
            self.hub.submit(record).await
        })
    }
}
