//! What the hub says in the log about jobs and grants. Pure.
use muster_api::v1alpha1::{self as api, JobCheckpoint, Resolved, TrainingJob};
use muster_core::envelope::tenant;
use muster_core::lifecycle::{Member, Tenure, Unit};
use muster_proof::Digest;
use muster_proof::records::fields::{
    ChainLength, Epoch, IntervalSteps, Island, Islands, JobId, Origin, Seconds, Step, Unfit,
};
use muster_proof::records::{
    Beacon, Grant, GrantEndReason, Job, Start, Tier, UnitKind, Visibility, unit_name,
};
use muster_proof::selection;

use super::LedgerError;

/// Most draws that a chain is good for.
const MAX_CHAIN: u64 = 65_536;

/// The record of a job. `seed` is the secret of its draws.
///
/// # Errors
/// [`LedgerError::Incomplete`], naming the field that no record can have.
pub fn job(
    job: &TrainingJob,
    resolved: &Resolved,
    training_digest: &str,
    origin: &Origin,
    seed: &Digest,
) -> Result<Job, LedgerError> {
    let spec = &job.spec;
    let meta = &job.metadata;
    let steps: Step = number("spec.training.steps", spec.training.steps, Step::new)?;
    let interval_steps =
        number("spec.training.intervalSteps", spec.training.interval_steps, IntervalSteps::new)?;
    let intervals = steps.get().div_ceil(interval_steps.get());
    let length = chain_length(intervals);
    let rule = spec.training.eval.as_ref().filter(|eval| eval.stop_at.is_some());
    Ok(Job {
        hub: origin.clone(),
        tenant: tenant(meta.namespace.as_deref().ok_or_else(|| missing("metadata.namespace"))?),
        job_uid: text("metadata.uid", meta.uid.as_deref().unwrap_or_default())?,
        training_digest: digest("status.trainingDigest", training_digest)?,
        spec: digest("status.resolved.spec", &resolved.spec)?,
        dataset: digest("status.resolved.dataset", &resolved.dataset)?,
        genesis: digest("status.resolved.genesis", &resolved.genesis)?,
        steps,
        interval_steps,
        stop_every_steps: match rule {
            Some(eval) => Some(number("spec.training.eval.everySteps", eval.every_steps, Step::new)?),
            None => None,
        },
        islands: unfit("islands", Islands::new(1))?,
        images: vec![digest("status.resolved.image", &resolved.image)?],
        tier: tier(spec.assurance.tier),
        deadline_seconds: match spec.active_deadline_seconds {
            Some(seconds) => Some(number("spec.activeDeadlineSeconds", seconds, Seconds::new)?),
            None => None,
        },
        // There are no accounts yet.
        price_micro_credits: None,
        beacon: Beacon {
            anchor: selection::links(seed, length),
            length: unfit("beacon.length", ChainLength::new(length))?,
        },
        visibility: Visibility::Private,
    })
}

/// Of the strictest tier each interval has a draw and a second one, and may be run again; and some for the rest: two for the
/// first interval of each grant, for the last, for what is nobody's fault and is drawn anew.
fn chain_length(intervals: u64) -> u64 {
    intervals.saturating_mul(4).saturating_add(256).min(MAX_CHAIN)
}

/// The state that a grant starts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StartState {
    /// After this step.
    pub step: i64,
    /// Its StateRoot.
    pub state_root: Digest,
    /// Record id of its commit, for state 0 of the job record.
    pub record: Digest,
}

impl StartState {
    /// A checkpoint whose commit is this record.
    ///
    /// # Errors
    /// [`LedgerError::Incomplete`] for a checkpoint that no hub has written.
    pub fn checkpoint(checkpoint: &JobCheckpoint, record: Digest) -> Result<Self, LedgerError> {
        let state_root = digest("checkpoint.stateRoot", &checkpoint.state_root)?;
        Ok(Self { step: checkpoint.step, state_root, record })
    }
}

/// Who shall compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Who<'a> {
    /// Name of the ComputeProvider.
    pub provider: &'a str,
    /// Who stands behind it.
    pub owner: &'a str,
}

/// The grant of an epoch of an island.
///
/// # Errors
/// [`LedgerError::Incomplete`], naming the field that no record can have.
pub fn grant(
    job: JobId,
    job_uid: &str,
    (island, epoch): (i64, i64),
    who: Who<'_>,
    from: &StartState,
) -> Result<Grant, LedgerError> {
    let (island, epoch) = (number("island", island, Island::new)?, number("epoch", epoch, Epoch::new)?);
    Ok(Grant {
        job,
        island,
        epoch,
        provider: text("provider", who.provider)?,
        owner: text("owner", who.owner)?,
        unit: text("unit", &unit_name(&text("jobUID", job_uid)?, island, epoch))?,
        kind: UnitKind::Train,
        start: Start {
            step: number("start.step", from.step, Step::new)?,
            state_root: from.state_root,
            record: from.record,
        },
        price_micro_credits: None,
        deadline_seconds: None,
    })
}

/// Why the grant of a unit ends whose job goes on, as the log has it.
#[must_use]
pub fn why_over(unit: Option<&Unit>) -> GrantEndReason {
    use muster_core::lifecycle::UnitPhase::{Failed, Refused};
    match unit {
        Some(unit) if unit.tenure == Tenure::Revoked => GrantEndReason::Revoked,
        Some(unit) if unit.member != Member::Connected => GrantEndReason::Lost,
        Some(unit) if unit.stall.is_some() || matches!(unit.phase, Failed | Refused) => GrantEndReason::Lost,
        _ => GrantEndReason::Released,
    }
}

fn tier(tier: api::AssuranceTier) -> Tier {
    match tier {
        api::AssuranceTier::None => Tier::None,
        api::AssuranceTier::Bronze => Tier::Bronze,
        api::AssuranceTier::Silver => Tier::Silver,
        api::AssuranceTier::Gold => Tier::Gold,
        api::AssuranceTier::Platinum => Tier::Platinum,
    }
}

pub(super) fn number<T>(
    field: &str,
    value: i64,
    make: impl FnOnce(u64) -> Result<T, Unfit>,
) -> Result<T, LedgerError> {
    let made = u64::try_from(value).map_err(|_| Unfit("a number from 0")).and_then(make);
    unfit(field, made)
}

fn unfit<T>(field: &str, made: Result<T, Unfit>) -> Result<T, LedgerError> {
    made.map_err(|error| LedgerError::Incomplete(format!("{field}: {error}")))
}

fn text<T: std::str::FromStr<Err = Unfit>>(field: &str, value: &str) -> Result<T, LedgerError> {
    unfit(field, value.parse())
}

fn digest(field: &str, text: &str) -> Result<Digest, LedgerError> {
    text.parse().map_err(|_| missing(field))
}

fn missing(field: &str) -> LedgerError {
    LedgerError::Incomplete(format!("{field} is missing"))
}
