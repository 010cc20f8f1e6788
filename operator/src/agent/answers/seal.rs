//! A replay's seal on its way into the log. With it the unit's work is done: nothing of its checkpoint is uploaded, and nothing
//! is committed.
use super::{AnswerError, Answers};
use crate::agent::hub_blobs::{HubBlobs, HubError};
use crate::agent::state::UnitState;
use crate::agent::units::Unit;

/// Why the log does not have it.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The log, or the way to it.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// There is no seal.
    #[error(transparent)]
    Answer(#[from] AnswerError),
    /// The unit is none that seals.
    #[error("the unit has no assignment")]
    NoAudit,
}

/// Reasons of the log that no other try changes: the audit goes on, or has ended, without this answer.
const OVER: &[&str] = &["Replaced", "Decided", "Known", "Revoked"];

impl SealError {
    /// Why the seal will never be taken, if that is so.
    #[must_use]
    pub fn is_over(&self) -> Option<String> {
        match self {
            Self::Hub(error) if error.reason().is_some_and(|reason| OVER.contains(&reason)) => {
                Some(error.to_string())
            }
            _ => None,
        }
    }
}

/// Has the log take the seal of what the unit has found; its index there.
///
/// # Errors
/// [`SealError`].
pub async fn submit(unit: &Unit, answers: &Answers, hub: &dyn HubBlobs) -> Result<u64, SealError> {
    let UnitState { payload, .. } = unit.state().await;
    let audit = payload.and_then(|payload| payload.audit).ok_or(SealError::NoAudit)?;
    #[cfg(feature = "cheats")]
    crate::agent::cheat::before_seal().await;
    let logged = hub.submit(&answers.seal(&audit.assignment)?).await?;
    tracing::info!(
        unit = unit.name(),
        assignment = %audit.assignment,
        index = logged.index,
        "the log has the seal of the replay"
    );
    Ok(logged.index)
}
