//! Brings committed checkpoints to the hub, the oldest first, for each commit names the one before it, and keeps the cache
//! small. A checkpoint is durable when the log has its commit and the gateway has recorded it as the job's: that its bytes are
//! there is not enough, for a superseded unit may have put them. After the last of them goes the failure, if there is one. Of a
//! replay only the seal goes there.
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use muster_proof::Digest;
use muster_trainer::checkpoint;

use super::answers::Answers;
use super::answers::seal::{self, SealError};
use super::commits::Committed;
use super::hub_blobs::{HubBlobs, HubError};
use super::relay::bindings;
use super::relay::blobs::{checkpoint_files, dataset_shards, input_files, inputs, leads_to};
use super::relay::checkpoints::prune;
use super::state::{Commit, Failed, UnitState};
use super::units::{Unit, Units};
use crate::runtime::blobdir::BlobDir;
use crate::runtime::{Shutdown, backoff};
use crate::wire::gateway::{CheckpointCommit, UnitFailure};

/// A blob that no unit leads to may be part of a checkpoint that is still being sent, or a dataset that the next unit
/// of its job asks for; after this it is litter.
const LITTER_AGE: Duration = Duration::from_secs(4 * 3600);

/// The longest pause after a refusal that will hardly change.
const STUBBORN: Duration = Duration::from_secs(120);

/// The pause while the job's audits are waited for.
const PATIENT: Duration = Duration::from_secs(3);

/// Why a checkpoint is not at the hub yet.
#[derive(Debug, thiserror::Error)]
enum UploadError {
    #[error(transparent)]
    Hub(#[from] HubError),
    #[error("cache: {0}")]
    Cache(#[from] std::io::Error),
    #[error("blob {0} is not in the cache any more")]
    Lost(Digest),
    #[error("manifest {0} is damaged")]
    Manifest(Digest),
    #[error("the commit of step {0} is not in the state directory any more; restore it from a backup")]
    NoCommit(i64),
    #[error("the failure of step {0} is not in the state directory any more; restore it from a backup")]
    NoFailure(i64),
    #[error("the binding of the key of attempt {0} is not in the state directory any more")]
    NoBinding(i64),
    #[error("the log has taken record {got} for step {step}, not {want}")]
    OtherRecord { step: i64, got: Digest, want: Digest },
    #[error("the seal of the replay: {0}")]
    Seal(#[from] SealError),
}

/// What it takes.
#[derive(Debug, Clone)]
pub struct Site {
    /// All units: blobs that others lead to stay.
    pub units: Arc<Units>,
    /// The cache.
    pub blobs: Arc<BlobDir>,
    /// What replays have found.
    pub answers: Arc<Answers>,
    /// Where it goes.
    pub hub: Arc<dyn HubBlobs>,
}

/// What the log does not have yet.
#[derive(Debug, Clone)]
enum Owed {
    Commit(Commit),
    Failure(Failed),
}

impl Owed {
    /// The oldest; a failure is the last of its unit.
    fn oldest(state: &UnitState) -> Option<Self> {
        let failure = || state.failure.clone().filter(|failed| !failed.durable).map(Self::Failure);
        state.oldest_waiting().cloned().map(Self::Commit).or_else(failure)
    }

    fn step(&self) -> i64 {
        match self {
            Self::Commit(commit) => commit.step,
            Self::Failure(failed) => failed.step,
        }
    }
}

/// Uploads a unit's checkpoints, or seals its replay, until it is forgotten.
pub async fn run(unit: Arc<Unit>, site: Site, shutdown: Shutdown) {
    let Site { units, blobs, answers, hub } = site;
    let mut failures = 0;
    let mut waits = false;
    // The gateway has read back something else than was put: then the bytes go once more.
    let mut again = Again::No;
    loop {
        let state = unit.state().await;
        // Nothing of a superseded unit is taken, nor of one that a restored hub does not count: it need not be tried.
        let is_taken = state.superseded.is_none() && state.orphaned.is_none() && state.continued_as.is_none();
        let is_audit = state.is_audit();
        let due = Owed::oldest(&state).filter(|_| is_taken);
        let pause = match &due {
            None => Duration::from_secs(3600),
            Some(owed) => {
                let step = owed.step();
                match deliver(&unit, owed, again, is_audit.then_some(&*answers), &blobs, &*hub).await {
                    Ok(index) => {
                        tracing::info!(unit = unit.name(), step, index, "durable at the hub, and in the log");
                        (failures, again, waits) = (0, Again::No, false);
                        match owed {
                            Owed::Commit(commit) => settle(&unit, &units, &blobs, commit).await,
                            Owed::Failure(_) => settle_failure(&unit).await,
                        }
                    }
                    Err(error) if let Some(why) = error.is_over() => {
                        tracing::warn!(unit = unit.name(), step, why, "superseded; nothing more is uploaded");
                        end(&unit, why).await
                    }
                    Err(error) if error.is_early() => {
                        if !std::mem::replace(&mut waits, true) {
                            tracing::info!(unit = unit.name(), step, %error, "the job waits for its audits");
                        }
                        PATIENT
                    }
                    Err(error) => {
                        failures += 1;
                        again = if error.reason() == Some("WrongStateRoot") { Again::Yes } else { Again::No };
                        tracing::warn!(unit = unit.name(), step, %error, "checkpoint or failure not uploaded yet");
                        let jitter = backoff::jitter_of(unit.name());
                        let cap = if error.is_stubborn() { STUBBORN } else { Duration::from_secs(15) };
                        backoff::delay(Duration::from_secs(1), cap, failures, jitter)
                    }
                }
            }
        };
        tokio::select! {
            biased;
            () = shutdown.wait() => return,
            () = unit.committed.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Whether bytes are sent that the hub has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Again {
    No,
    Yes,
}

impl UploadError {
    fn reason(&self) -> Option<&str> {
        match self {
            Self::Hub(error) | Self::Seal(SealError::Hub(error)) => error.reason(),
            _ => None,
        }
    }

    /// Why nothing of the unit will ever be taken, if that is so: a newer epoch is there, or its grant has ended, which also a
    /// rollback does to it; or its audit goes on without it.
    fn is_over(&self) -> Option<String> {
        match self {
            Self::Hub(HubError::Superseded(why)) => Some(why.clone()),
            Self::Hub(error) if error.reason() == Some("GrantEnded") => Some(error.to_string()),
            Self::Seal(error) => error.is_over(),
            _ => None,
        }
    }

    /// The job's audits come first: what is committed must not get too far ahead of its verdicts.
    fn is_early(&self) -> bool {
        self.reason().is_some_and(|reason| ["AwaitsVerdicts", "WindowFull"].contains(&reason))
    }

    /// Another try will hardly be answered otherwise: the hub has other bits for the step, or refuses them for what they are, or
    /// has no room. Bytes are not sent again and again for that.
    fn is_stubborn(&self) -> bool {
        let hopeless = [
            "WrongStep",
            "WrongJob",
            "StepTaken",
            "WrongStateRoot",
            "BadManifest",
            "DigestMismatch",
            "TooLarge",
            "OverQuota",
            "StoreFull",
            "BadUnit",
        ];
        self.reason().is_some_and(|reason| hopeless.contains(&reason))
    }
}

/// The controller ends the unit; until then its workers train for nothing.
async fn end(unit: &Unit, why: String) -> Duration {
    match unit.update(|state| state.superseded = Some(why)).await {
        Ok(()) => {
            unit.wake.notify_one();
            Duration::ZERO
        }
        Err(error) => {
            tracing::error!(unit = unit.name(), %error, "cannot save the unit's state");
            Duration::from_secs(5)
        }
    }
}

/// What the unit owes: the checkpoint, the failure, or the seal of a replay.
async fn deliver(
    unit: &Unit,
    owed: &Owed,
    again: Again,
    sealed: Option<&Answers>,
    blobs: &BlobDir,
    hub: &dyn HubBlobs,
) -> Result<u64, UploadError> {
    match (sealed, owed) {
        (Some(answers), _) => Ok(seal::submit(unit, answers, hub).await?),
        (None, Owed::Commit(commit)) => push(unit, commit, again, blobs, hub).await,
        (None, Owed::Failure(failed)) => push_failure(unit, failed, hub).await,
    }
}

/// The binding of the key that signed it, unless the log has it, then the failure; its index in the log.
async fn push_failure(unit: &Unit, failed: &Failed, hub: &dyn HubBlobs) -> Result<u64, UploadError> {
    try_bind(unit, failed.attempt, hub).await?;
    let ended = unit.failure_at(failed.step).await?;
    let ended = ended.filter(|ended| ended.failure.record_id() == failed.record);
    let ended = ended.ok_or(UploadError::NoFailure(failed.step))?;
    let logged = hub.fail(unit.name(), failed.step, &UnitFailure { failure: ended.failure }).await?;
    if logged.record_id != failed.record {
        let (step, got, want) = (failed.step, logged.record_id, failed.record);
        return Err(UploadError::OtherRecord { step, got, want });
    }
    Ok(logged.index)
}

/// Files first, then the manifest: whoever finds the manifest finds the rest. Then the binding of the key that signed the
/// commit, unless the log has it, then the commit; its index in the log.
async fn push(
    unit: &Unit,
    commit: &Commit,
    again: Again,
    blobs: &BlobDir,
    hub: &dyn HubBlobs,
) -> Result<u64, UploadError> {
    let name = unit.name();
    let bytes = blobs.read(&commit.manifest, checkpoint::MAX_MANIFEST).await?;
    let bytes = bytes.ok_or(UploadError::Lost(commit.manifest))?;
    let manifest = checkpoint::Manifest::parse(&bytes).map_err(|_| UploadError::Manifest(commit.manifest))?;
    for digest in manifest.files().iter().map(|file| file.sha256).chain([commit.manifest]) {
        if again == Again::No && hub.has(name, digest).await? {
            continue;
        }
        let (file, size) = blobs.file(&digest).await?.ok_or(UploadError::Lost(digest))?;
        hub.put(name, digest, file, size).await?;
    }
    try_bind(unit, commit.attempt, hub).await?;
    let committed = unit.committed_at(commit.step).await?;
    let committed = committed.filter(|committed| committed.commit.record_id() == commit.record);
    let Committed { commit: record, model, key, records: _ } =
        committed.ok_or(UploadError::NoCommit(commit.step))?;
    let request = CheckpointCommit { manifest: commit.manifest, commit: record, model, key };
    let logged = hub.commit(name, commit.step, &request).await?;
    if logged.record_id != commit.record {
        let (step, got, want) = (commit.step, logged.record_id, commit.record);
        return Err(UploadError::OtherRecord { step, got, want });
    }
    Ok(logged.index)
}

/// As [`bind`]. Whether a newer epoch is there, which is what mostly is behind a refusal, the answer to the commit says.
async fn try_bind(unit: &Unit, attempt: i64, hub: &dyn HubBlobs) -> Result<(), UploadError> {
    match bind(unit, attempt, hub).await {
        Err(UploadError::Hub(HubError::Log(error))) if !error.is_transient() => {
            tracing::warn!(unit = unit.name(), attempt, %error, "the log refuses the binding of the key");
            Ok(())
        }
        bound => bound,
    }
}

/// Has the log take the binding of rank 0's key of an attempt.
async fn bind(unit: &Unit, attempt: i64, hub: &dyn HubBlobs) -> Result<(), UploadError> {
    let binding = unit.state().await.bindings.remove(&attempt).ok_or(UploadError::NoBinding(attempt))?;
    if binding.logged {
        return Ok(());
    }
    let logged = hub.submit(&binding.record).await?;
    tracing::info!(
        unit = unit.name(),
        attempt,
        index = logged.index,
        "the log has the binding of the sidecar's key"
    );
    let logged = |state: &mut UnitState| {
        if let Some(known) = state.bindings.get_mut(&attempt).filter(|known| known.record == binding.record) {
            known.logged = true;
        }
    };
    Ok(unit.update(logged).await?)
}

/// Records that the hub has it, and lets go of what keepLast no longer covers.
async fn settle(unit: &Unit, units: &Units, blobs: &BlobDir, commit: &Commit) -> Duration {
    let settled = unit
        .update(|state| {
            for known in state.checkpoints.iter_mut().filter(|known| known.record == commit.record) {
                known.durable = true;
            }
            if state.is_audit() {
                return state.checkpoints.clone();
            }
            bindings::forget_old(state);
            let keep = state.payload.as_ref().map_or(1, |payload| payload.keep_last);
            prune(state, keep)
        })
        .await;
    match settled {
        Ok(old) => {
            unit.durable.send_replace(commit.step);
            let old: Vec<Digest> = old.into_iter().map(|commit| commit.manifest).collect();
            remove_checkpoints(units, blobs, &old).await;
            Duration::ZERO
        }
        Err(error) => {
            tracing::error!(unit = unit.name(), %error, "cannot save the unit's state");
            Duration::from_secs(5)
        }
    }
}

/// Records that the log has the failure: the unit is over, which its controller says.
async fn settle_failure(unit: &Unit) -> Duration {
    let settled = unit.update(|state| {
        if let Some(failed) = &mut state.failure {
            failed.durable = true;
        }
    });
    match settled.await {
        Ok(()) => {
            unit.wake.notify_one();
            Duration::ZERO
        }
        Err(error) => {
            tracing::error!(unit = unit.name(), %error, "cannot save the unit's state");
            Duration::from_secs(5)
        }
    }
}

/// Removes the blobs of the checkpoints with these manifests that nothing else leads to.
pub async fn remove_checkpoints(units: &Units, blobs: &BlobDir, old: &[Digest]) {
    if old.is_empty() {
        return;
    }
    let live = live(units, blobs).await;
    for manifest in old {
        for digest in leads_to(blobs, manifest, checkpoint_files).await {
            if !live.contains(&digest)
                && let Err(error) = blobs.remove(&digest).await
            {
                tracing::warn!(%digest, %error, "cannot remove a blob");
            }
        }
    }
}

/// Removes litter: blobs that no unit leads to and that have been there for a day.
pub async fn sweep(units: &Units, blobs: &BlobDir) {
    let live = live(units, blobs).await;
    let old = match blobs.older_than(LITTER_AGE).await {
        Ok(old) => old,
        Err(error) => return tracing::warn!(%error, "cannot list the blob cache"),
    };
    for digest in old.into_iter().filter(|digest| !live.contains(digest)) {
        if let Err(error) = blobs.remove(&digest).await {
            tracing::warn!(%digest, %error, "cannot remove a blob");
        }
    }
}

/// Everything that some unit leads to, as far as the cache knows.
pub(super) async fn live(units: &Units, blobs: &BlobDir) -> BTreeSet<Digest> {
    let mut live = BTreeSet::new();
    for unit in units.all() {
        let state = unit.state().await;
        // What a replay has made is of no use once it is sealed.
        let is_used = |commit: &&Commit| !(commit.durable && state.is_audit());
        let made = state.checkpoints.iter().filter(is_used);
        let mut starts: Vec<Digest> = made.map(|commit| commit.manifest).collect();
        starts.extend(state.rounds.start.map(|start| start.manifest));
        if let Some(payload) = &state.payload {
            starts.extend(payload.start.map(|start| start.manifest));
            live.extend(leads_to(blobs, &payload.dataset, dataset_shards).await);
            for named in leads_to(blobs, &payload.spec, inputs).await {
                live.extend(leads_to(blobs, &named, input_files).await);
            }
        }
        for start in starts {
            live.extend(leads_to(blobs, &start, checkpoint_files).await);
        }
    }
    live
}
