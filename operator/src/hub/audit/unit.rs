//! The WorkUnit in which an auditor replays an interval. Pure.
use jiff::Timestamp;
use muster_api::names::labels;
use muster_api::v1alpha1::{JobCheckpoint, TrainingJob, WorkUnit};
use muster_core::envelope::{Audit, Kind};
use muster_proof::history::{AssignView, AuditView};

use crate::hub::context::Image;
use crate::hub::error::Error;
use crate::hub::job::unit::{self, Logged, Particulars};
use crate::hub::signer::Identity;

/// Value of the component label, by which these units are found.
pub const COMPONENT: &str = "audit";

/// Its name: an assignment is replayed in one unit, and by a hub that lost its database in another.
#[must_use]
pub fn name(job_uid: &str, assign: &AssignView, epoch: i64) -> String {
    format!("{}-a{}-{epoch}", job_uid.get(..8).unwrap_or(job_uid), assign.index)
}

/// What the hub adds to an assignment.
#[derive(Debug, Clone, Copy)]
pub struct Terms<'a> {
    /// The unit's own fencing number.
    pub epoch: i64,
    /// Pods.
    pub workers: u32,
    /// Origin of the log.
    pub log: &'a str,
    /// The trainer's image.
    pub image: &'a Image,
    /// Who signs.
    pub identity: &'a Identity,
    /// Now.
    pub now: Timestamp,
}

/// The unit for an assignment of an audit, ready to be created.
///
/// # Errors
/// [`Error::Incomplete`] for a job that is not resolved or an interval that no payload can have, [`Error::Seal`].
pub fn render(
    job: &TrainingJob,
    audit: &AuditView,
    assign: &AssignView,
    terms: Terms<'_>,
) -> Result<WorkUnit, Error> {
    let job_uid = job.metadata.uid.clone().ok_or(Error::Incomplete("TrainingJob", "uid"))?;
    let status = job.status.clone().unwrap_or_default();
    let number = |value: u64, what| i64::try_from(value).map_err(|_| Error::Incomplete("audit", what));
    let start = match &audit.start.manifest {
        Some(manifest) => Some(JobCheckpoint {
            step: number(audit.start.step, "start that fits")?,
            state_root: audit.start.state_root.to_string(),
            manifest: manifest.to_string(),
            log_index: None,
        }),
        None => None,
    };
    let logged = Logged {
        job: audit.job.0,
        log: terms.log.to_owned(),
        grant: assign.id,
        start_record: audit.start.record,
    };
    let provider = assign.auditor.as_str();
    let particulars = Particulars {
        provider,
        workers: terms.workers,
        epoch: terms.epoch,
        start: start.as_ref(),
        restarts: 0,
        logged,
    };
    let mut payload =
        unit::payload(job, &job_uid, &status, &particulars, terms.image, terms.identity, terms.now)?;
    payload.kind = Kind::Audit;
    payload.name = name(&job_uid, assign, terms.epoch);
    payload.island = number(audit.island, "island that fits")?;
    // Whoever cannot do it at once leaves it to the next in order.
    payload.max_restarts = 0;
    payload.audit = Some(Audit {
        assignment: assign.id,
        epoch: number(audit.epoch, "epoch that fits")?,
        interval: number(audit.interval, "interval that fits")?,
        last_step: number(audit.last_step, "last step that fits")?,
    });
    let mut unit = unit::object(&payload, 0, &terms.identity.key)?;
    unit.metadata.labels.get_or_insert_default().insert(labels::COMPONENT.into(), COMPONENT.into());
    Ok(unit)
}
