//! Offers the units of earlier incarnations to the hub, with each heartbeat until all are answered (docs/spec/gateway.md
//! section 5). What a running unit is worth is the hub's to say; until it has, the unit goes on within its grace.
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use muster_proof::dsse::Envelope;

use super::gateway::GatewayError;
use super::heartbeat::BeatError;
use super::session::Session;
use super::state::Answered;
use super::units::{Unit, Units};
use crate::wire::gateway::{MAX_OFFERS, RecoverAnswer, RecoverRequest, Recovered};

/// Up to which incarnation the hub was told of everything here.
#[derive(Debug, Default)]
pub struct Reported(AtomicI64);

/// Offers what there is to offer to the hub of this incarnation.
///
/// # Errors
/// [`GatewayError`]; what was not answered is offered again.
pub async fn recover(
    session: &Session,
    units: &Units,
    reported: &Reported,
    incarnation: i64,
) -> Result<(), BeatError> {
    // Before the first restore there is nothing to recover.
    if incarnation <= 1 {
        return Ok(());
    }
    let orphans = orphans(units, incarnation).await;
    if orphans.is_empty() && reported.0.load(Ordering::SeqCst) >= incarnation {
        return Ok(());
    }
    let mut rest = &orphans[..];
    loop {
        let (part, later) = rest.split_at(rest.len().min(MAX_OFFERS));
        let envelopes = part.iter().map(|(_, envelope)| envelope.clone()).collect();
        let request = RecoverRequest { incarnation, units: envelopes, complete: later.is_empty() };
        let RecoverAnswer { answers } = session.recover(&request).await?;
        if answers.len() != part.len() {
            let problem = format!("{} answers to {} units", answers.len(), part.len());
            return Err(GatewayError::Malformed { what: "POST /v1/recover", problem }.into());
        }
        for ((unit, _), answer) in part.iter().zip(answers) {
            note(unit, incarnation, answer).await?;
        }
        if later.is_empty() {
            break;
        }
        rest = later;
    }
    reported.0.store(incarnation, Ordering::SeqCst);
    Ok(())
}

/// The units that the hub of this incarnation does not count and has not answered for, with what was signed.
async fn orphans(units: &Units, incarnation: i64) -> Vec<(Arc<Unit>, Envelope)> {
    let mut orphans = Vec::new();
    for unit in units.all() {
        let state = unit.state().await;
        // A replay is not continued: it is asked for anew.
        let is_older =
            state.payload.as_ref().is_some_and(|it| it.incarnation < incarnation && !it.is_audit());
        let is_answered = state.recovered.as_ref().is_some_and(|said| said.incarnation >= incarnation);
        if state.is_living()
            && is_older
            && !is_answered
            && let Some(envelope) = state.envelope
        {
            orphans.push((unit, envelope));
        }
    }
    orphans
}

/// A final word is kept, durable before anybody acts on it.
async fn note(unit: &Unit, incarnation: i64, answer: Recovered) -> Result<(), BeatError> {
    if answer == Recovered::Wait {
        return Ok(());
    }
    tracing::info!(unit = unit.name(), ?answer, incarnation, "the restored hub has answered for the unit");
    unit.update(|state| state.recovered = Some(Answered { incarnation, answer })).await?;
    unit.wake.notify_one();
    Ok(())
}
