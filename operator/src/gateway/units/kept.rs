//! The end of the log of a worker whose attempt failed. It is taken from a unit that has ended or was superseded as well: that
//! is when logs are wanted, and it changes nothing of the job.
use super::*;
use crate::gateway::body::whole;
use crate::wire::streams::MAX_KEPT;

/// Attempts beyond any that there can be.
const MAX_ATTEMPT: u64 = 1_000_000;

pub(super) async fn keep<W: Work>(
    State(units): State<Arc<Units<W>>>,
    Extension(agent): Extension<Agent>,
    Path((unit, attempt, rank)): Path<(String, String, String)>,
    body: Body,
) -> Result<StatusCode, Refusal> {
    let (attempt, rank) = (number(&attempt, "attempt")?, number(&rank, "rank")?);
    let unit = units.unit(&agent, &unit).await?;
    let payload = &unit.payload;
    if payload.is_audit() {
        return Err(not_for_audits(payload));
    }
    if payload.epoch < agent.min_epoch {
        let text = format!("epoch {} of unit {} is void", payload.epoch, payload.name);
        return Err(Refusal::new(StatusCode::CONFLICT, "OldEpoch", text));
    }
    let worker = u32::try_from(rank).ok().filter(|&rank| i64::from(rank) < payload.workers);
    let Some(worker) = worker.filter(|_| (1..=MAX_ATTEMPT).contains(&attempt)) else {
        let text = format!(
            "attempts are 1 to {MAX_ATTEMPT}, workers of unit {} 0 to {}",
            payload.name,
            payload.workers - 1
        );
        return Err(Refusal::bad_request(text));
    };
    let bytes = whole(body, MAX_KEPT).await?;
    let kept = units.store.keep_log(unit.key(), attempt, worker, &bytes).await;
    kept.map_err(|error| store_refusal(&error))?;
    tracing::debug!(provider = agent.provider, unit = payload.name, attempt, worker, "log kept");
    Ok(StatusCode::CREATED)
}

/// In the one spelling that numbers have here.
fn number(text: &str, what: &str) -> Result<u64, Refusal> {
    let number = text.parse::<u64>().ok().filter(|number| number.to_string() == text);
    number.ok_or_else(|| Refusal::bad_request(format!("the path's {what} is a number")))
}
