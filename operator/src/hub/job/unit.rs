//! A WorkUnit: the signed payload and the object around it. Pure.
use jiff::{SignedDuration, Timestamp};
use kube::api::ObjectMeta;
use muster_api::names::{finalizers, labels};
use muster_api::v1alpha1::{
    self as api, Desired, Envelope, JobCheckpoint, OptimizerState, Recompute, TrainingJob, TrainingJobStatus,
    WorkUnit, WorkUnitKind, WorkUnitSpec,
};
use muster_core::envelope::{CheckpointRef, FORMAT, Kind, Payload, Resources, SealError, seal, tenant};
use muster_proof::Digest;
use muster_proof::key::SigningKey;

use crate::hub::context::Image;
use crate::hub::error::Error;
use crate::hub::names::{MANAGER, RESTARTS_BEFORE, provider_namespace, unit};
use crate::hub::signer::Identity;

/// How long an envelope is good. A unit that outlives it gets a new epoch; long enough that few do.
const VALIDITY: SignedDuration = SignedDuration::from_hours(30 * 24);

/// What is particular about this unit of a job.
pub struct Particulars<'a> {
    /// Where it goes.
    pub provider: &'a str,
    /// Its workers.
    pub workers: u32,
    /// Its epoch.
    pub epoch: i64,
    /// What it starts from; `None` is genesis.
    pub start: Option<&'a JobCheckpoint>,
    /// Restarts of the job counted so far.
    pub restarts: u32,
    /// What the log has of it.
    pub logged: Logged,
}

/// What the log has of a unit, before the unit is made.
#[derive(Debug, Clone)]
pub struct Logged {
    /// The job's id.
    pub job: Digest,
    /// Origin of the log.
    pub log: String,
    /// Record id of its UnitGrant.
    pub grant: Digest,
    /// Record id of the commit of its start, for genesis of the job record.
    pub start_record: Digest,
}

/// The unit, ready to be created.
///
/// # Errors
/// [`Error::Incomplete`] for a job that is not resolved, [`Error::Seal`].
pub fn render(
    job: &TrainingJob,
    status: &TrainingJobStatus,
    particulars: &Particulars<'_>,
    image: &Image,
    identity: &Identity,
    now: Timestamp,
) -> Result<WorkUnit, Error> {
    let job_uid = job.metadata.uid.clone().ok_or(Error::Incomplete("TrainingJob", "uid"))?;
    let payload = payload(job, &job_uid, status, particulars, image, identity, now)?;
    object(&payload, particulars.restarts, &identity.key)
}

/// Until when an envelope is good that is signed now.
#[must_use]
pub fn good_until(now: Timestamp) -> Timestamp {
    now.checked_add(VALIDITY).unwrap_or(Timestamp::MAX)
}

/// The WorkUnit around a payload; `restarts` of the job were counted before it.
///
/// # Errors
/// [`Error::Seal`].
pub fn object(payload: &Payload, restarts: u32, key: &SigningKey) -> Result<WorkUnit, Error> {
    let sealed = seal(payload, key)?;
    let envelope: Envelope = serde_json::from_slice(&sealed.to_json().map_err(SealError::from)?)?;
    let text = |pairs: &[(&str, String)]| {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect()
    };
    Ok(WorkUnit {
        metadata: ObjectMeta {
            name: Some(payload.name.clone()),
            namespace: Some(provider_namespace(&payload.provider)),
            labels: Some(text(&[
                (labels::JOB_UID, payload.job_uid.clone()),
                (labels::ISLAND, payload.island.to_string()),
                (labels::EPOCH, payload.epoch.to_string()),
                (labels::MANAGED_BY, MANAGER.to_owned()),
            ])),
            annotations: Some(text(&[(RESTARTS_BEFORE, restarts.to_string())])),
            finalizers: (!planted!("no-unit-finalizer")).then(|| vec![finalizers::UNIT.into()]),
            ..Default::default()
        },
        spec: WorkUnitSpec {
            kind: match payload.kind {
                Kind::Train => WorkUnitKind::Train,
                Kind::Audit => WorkUnitKind::Audit,
            },
            job_uid: payload.job_uid.clone(),
            island: i32::try_from(payload.island).unwrap_or(i32::MAX),
            epoch: payload.epoch,
            workers: i32::try_from(payload.workers).unwrap_or(i32::MAX),
            envelope,
            desired: Desired::Run,
        },
        status: None,
    })
}

/// The job's own spelling (`1.5`, `2G`) in the payload's.
fn resources(asked: &api::WorkerResources) -> Result<Resources, Error> {
    Ok(Resources::of(&asked.cpu.0, &asked.memory.0).map_err(SealError::Bounds)?)
}

/// What is signed of a unit that trains the job.
///
/// # Errors
/// [`Error::Incomplete`].
pub fn payload(
    job: &TrainingJob,
    job_uid: &str,
    status: &TrainingJobStatus,
    particulars: &Particulars<'_>,
    image: &Image,
    identity: &Identity,
    now: Timestamp,
) -> Result<Payload, Error> {
    let missing = |what| Error::Incomplete("TrainingJob status", what);
    let resolved = status.resolved.as_ref().ok_or(missing("resolved"))?;
    let digest = |text: &str, what| text.parse().map_err(|_| missing(what));
    let spec = &job.spec;
    let start = particulars.start.map(|checkpoint| {
        Ok::<_, Error>(CheckpointRef {
            step: checkpoint.step,
            manifest: digest(&checkpoint.manifest, "checkpoint.manifest")?,
        })
    });
    let max_restarts = i64::from(spec.failure_policy.max_restarts) - i64::from(particulars.restarts);
    Ok(Payload {
        format: FORMAT.into(),
        kind: Kind::Train,
        name: unit(job_uid, 0, particulars.epoch),
        provider: particulars.provider.into(),
        job_uid: job_uid.into(),
        job: particulars.logged.job,
        log: particulars.logged.log.clone(),
        grant: particulars.logged.grant,
        start_record: particulars.logged.start_record,
        tenant: tenant(
            job.metadata.namespace.as_deref().ok_or(Error::Incomplete("TrainingJob", "namespace"))?,
        ),
        island: 0,
        epoch: particulars.epoch,
        workers: i64::from(particulars.workers),
        device_class: spec.workers.device_class.clone(),
        resources: resources(&spec.workers.resources)?,
        image: image.reference.clone(),
        spec: digest(&resolved.spec, "resolved.spec")?,
        training_digest: digest(status.training_digest.as_deref().unwrap_or_default(), "trainingDigest")?,
        dataset: digest(&resolved.dataset, "resolved.dataset")?,
        arithmetic: spec.training.arithmetic.as_str().into(),
        steps: spec.training.steps,
        interval_steps: spec.training.interval_steps,
        keep_last: i64::from(spec.checkpoints.keep_last),
        start: start.transpose()?,
        max_restarts: max_restarts.max(0),
        schedule_timeout_seconds: i64::from(spec.failure_policy.schedule_timeout_seconds),
        disconnect_grace_seconds: i64::from(spec.placement.disconnect_grace_seconds),
        incarnation: identity.incarnation,
        not_after: good_until(now),
        continues: None,
        recompute: match spec.workers.recompute {
            Recompute::Never => None,
            Recompute::Layers => Some(muster_core::envelope::Recompute::Layers),
        },
        optimizer_state: match spec.workers.optimizer_state {
            OptimizerState::Replicated => None,
            OptimizerState::Sharded => Some(muster_core::envelope::OptimizerState::Sharded),
        },
        audit: None,
    })
}
