//! Failures: a step that is not finite stands where its interval's commit would, and ends the job. There is no state to read back:
//! whether it is so only a replay can say, so the log takes what fits, and an audit is drawn of each.
use axum::http::StatusCode;
use muster_core::envelope::Payload;
use muster_proof::dsse::Envelope;
use muster_proof::records::{self, Payload as _};

use super::Units;
use super::commit::wrong_step;
use super::work::{Found, Work};
use crate::gateway::access::{Agent, Refusal};
use crate::gateway::log;
use crate::log::Submission;
use crate::store::Entry;

impl<W: Work> Units<W> {
    /// Logs that a step of the unit is not finite; says where the log has it. Once more is the same answer. Its signature, and
    /// what was before it, the log looks at.
    pub(super) async fn fail(
        &self,
        agent: &Agent,
        unit: &Found,
        step: u64,
        envelope: Envelope,
    ) -> Result<Entry, Refusal> {
        self.fence(agent, unit).await?;
        check(&unit.payload, step, &envelope)?;
        let record = envelope.record_id();
        let submission = Submission { envelope, known: Vec::new() };
        let index = self.log.append(submission).await.map_err(|error| log::refused(&error))?;
        tracing::warn!(
            provider = agent.provider,
            unit = unit.payload.name,
            step,
            index,
            "a step is not finite: logged"
        );
        Ok(Entry { record, index })
    }
}

/// What of a failure can be compared with its unit and its path.
fn check(payload: &Payload, step: u64, envelope: &Envelope) -> Result<(), Refusal> {
    let bad = |text: String| Refusal::new(StatusCode::BAD_REQUEST, "BadFailure", text);
    if envelope.payload_type() != records::Failure::PAYLOAD_TYPE {
        return Err(bad(format!("failure: payloadType is {:?}, not a failure's", envelope.payload_type())));
    }
    let failure = records::Failure::from_payload(envelope.unverified_payload());
    let failure = failure.map_err(|error| bad(format!("failure: {error}")))?;
    let number = |value: i64| u64::try_from(value).unwrap_or(u64::MAX);
    for (field, is_same) in [
        ("job", failure.job.0 == payload.job),
        ("island", failure.island.get() == number(payload.island)),
        ("epoch", failure.epoch.get() == number(payload.epoch)),
    ] {
        if !is_same {
            return Err(bad(format!("failure: {field} is not that of unit {}", payload.name)));
        }
    }
    let (start, steps) = (payload.start.map_or(0, |start| number(start.step)), number(payload.steps));
    if step <= start || step > steps {
        let text = format!(
            "step {step} is not one of this unit: it starts after step {start} and ends with {steps}"
        );
        return Err(wrong_step(text));
    }
    let size = number(payload.interval_steps).max(1);
    let interval = step.saturating_sub(1) / size;
    let of = (failure.failed_step.get(), failure.interval.get(), failure.first_step.get());
    if of != (step, interval, interval.saturating_mul(size).saturating_add(1)) {
        let (got, at, first) = of;
        let text = format!(
            "the failure is of step {got}, interval {at} from step {first}; the path says step {step}, interval {interval}"
        );
        return Err(wrong_step(text));
    }
    Ok(())
}
