//! WorkUnit.status: composed from what was decided and what the workers report, written by one task per unit, only on
//! change. The decisions do not wait for the hub; what it missed it gets when it is back.
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::Api;
use kube::api::{Patch, PatchParams};
use muster_api::v1alpha1::{UnitCheckpoint, UnitFailure, WorkUnit, WorkUnitPhase, WorkUnitStatus};
use muster_core::attempt;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::state::UnitState;
use super::units::{Progress, Unit};
use crate::runtime::{Shutdown, backoff, sanitise};

/// Steps, loss and speed are written at most this often.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);
/// A new checkpoint is written at most this often: short intervals are for tests. Everything else is written at once.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(2);
/// What a unit waits for before it runs is told once it has waited a while: in most cases it runs by then. A new phase does not wait.
const WAITING_INTERVAL: Duration = Duration::from_secs(5);
/// Conditions of a unit that runs change in steps that follow one another: after one of them, the next ones together.
const CONDITIONS_INTERVAL: Duration = Duration::from_secs(1);
/// A unit that is accepted is on its way to something else, in most cases at once: both are one write.
const ACCEPTED_FOR: Duration = Duration::from_millis(300);
/// While the object that is seen is not the one that was decided on, this often.
const OTHER_OBJECT: Duration = Duration::from_secs(1);
/// One write may take this long.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// What the controller wants the hub to see, beside progress and checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    /// UID of the object that it is said of: another one of the same name gets a verdict of its own.
    pub uid: String,
    /// Generation of the spec that was looked at.
    pub generation: Option<i64>,
    /// `status.phase`.
    pub phase: WorkUnitPhase,
    /// By type.
    pub conditions: Vec<(&'static str, attempt::Condition)>,
}

/// The status to write, given what the hub has now. Never goes back in attempt, step or checkpoint.
#[must_use]
pub fn compose(
    before: &WorkUnitStatus,
    wanted: &Wanted,
    state: &UnitState,
    progress: Option<&Progress>,
    now: Timestamp,
) -> WorkUnitStatus {
    let mut status = before.clone();
    let finished = before.phase.is_some_and(WorkUnitPhase::is_finished);
    if !finished || wanted.phase == WorkUnitPhase::Released {
        status.phase = Some(wanted.phase);
    }
    status.observed_generation = wanted.generation.or(before.observed_generation);
    let attempt = i32::try_from(state.memory.attempt).unwrap_or(i32::MAX);
    status.attempt = Some(attempt.max(before.attempt.unwrap_or(0)));
    // An agent that has lost its memory does not take back what it has said.
    let restarted = i32::try_from(state.memory.restarted).unwrap_or(i32::MAX);
    status.restarts = Some(restarted.max(before.restarts.unwrap_or(0)));
    if let Some(progress) = progress.filter(|progress| Some(progress.step) < before.step) {
        // Steps are trained once more after a restart: how far it was stays said, and that it gets on shows in the time.
        status.progress_time = Some(Time(whole(progress.time)));
    } else if let Some(progress) = progress {
        status.step = Some(progress.step);
        // What a replay computes is its auditor's secret until it is opened.
        status.loss = (!state.is_audit()).then(|| progress.loss.clone());
        if !state.is_audit() && progress.eval_loss.is_some() {
            status.eval_loss.clone_from(&progress.eval_loss);
        }
        status.tokens_per_second = Some(progress.tokens_per_second);
        if status.step != before.step || before.progress_time.is_none() {
            status.progress_time = Some(Time(whole(progress.time)));
        }
    }
    if let Some(commit) = state.newest_durable().filter(|_| !state.is_audit())
        && before.checkpoint.as_ref().is_none_or(|known| known.step < commit.step)
    {
        status.checkpoint = Some(UnitCheckpoint {
            step: commit.step,
            manifest: commit.manifest.to_string(),
            state_root: commit.state_root.to_string(),
            record: Some(commit.record.to_string()),
            ends: commit.ends.then_some(true),
        });
    }
    if let Some(failure) = &state.memory.last_failure {
        status.last_failure = Some(UnitFailure {
            attempt: i32::try_from(failure.attempt).ok(),
            rank: failure.rank.and_then(|rank| i32::try_from(rank).ok()),
            exit_code: failure
                .exit_code
                .and_then(|code| i32::try_from(code).ok())
                .filter(|code| (0..256).contains(code)),
            reason: Some(failure.reason.clone()),
            message: Some(sanitise::line(&failure.message, 256)),
        });
    }
    for (kind, condition) in &wanted.conditions {
        set(&mut status.conditions, kind, condition, wanted.generation, now);
    }
    // A condition that is no longer said (Scheduled of a finished unit) would be believed forever.
    status.conditions.retain(|c| wanted.conditions.iter().any(|(kind, _)| *kind == c.type_));
    status
}

fn set(
    conditions: &mut Vec<Condition>,
    kind: &str,
    new: &attempt::Condition,
    generation: Option<i64>,
    now: Timestamp,
) {
    let status = if new.status { "True" } else { "False" };
    let before = conditions.iter().find(|c| c.type_ == kind);
    let since = before.filter(|c| c.status == status).map(|c| c.last_transition_time.clone());
    let condition = Condition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: new.reason.to_owned(),
        message: sanitise::line(&new.message, 512),
        observed_generation: generation,
        last_transition_time: since.unwrap_or_else(|| Time(whole(now))),
    };
    match conditions.iter_mut().find(|c| c.type_ == kind) {
        Some(place) => *place = condition,
        None => conditions.push(condition),
    }
}

/// The API keeps whole seconds; with fractions the same time would look changed.
fn whole(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

/// The top-level fields that differ, as operations of a JSON patch (RFC 6902); none if none does. `before` is `None` where
/// the object has no status yet.
fn difference(before: Option<&WorkUnitStatus>, after: &WorkUnitStatus) -> Vec<Value> {
    let fields = |status: &WorkUnitStatus| match serde_json::to_value(status) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    };
    let (known, mut changed) = (before.map(fields).unwrap_or_default(), fields(after));
    changed.retain(|key, value| known.get(key) != Some(value));
    if changed.is_empty() {
        return Vec::new();
    }
    let add = |path: String, value| json!({"op": "add", "path": path, "value": value});
    match before {
        Some(_) => changed.into_iter().map(|(key, value)| add(format!("/status/{key}"), value)).collect(),
        None => vec![add("/status".to_owned(), Value::Object(changed))],
    }
}

/// The operations, for the object of this UID only: one that has taken its name meanwhile is left alone, which no merge patch
/// can say (the API server ignores metadata in a patch of a custom resource's status).
fn patch_of(uid: &str, mut changes: Vec<Value>) -> Result<Patch<()>, serde_json::Error> {
    changes.insert(0, json!({"op": "test", "path": "/metadata/uid", "value": uid}));
    Ok(Patch::Json(serde_json::from_value(Value::Array(changes))?))
}

/// How long a change may wait after the last write.
fn patience(before: &WorkUnitStatus, after: &WorkUnitStatus) -> Duration {
    let mut same = after.clone();
    same.step = before.step;
    same.loss.clone_from(&before.loss);
    same.eval_loss.clone_from(&before.eval_loss);
    same.tokens_per_second = before.tokens_per_second;
    same.progress_time.clone_from(&before.progress_time);
    if same == *before {
        return PROGRESS_INTERVAL;
    }
    same.checkpoint.clone_from(&before.checkpoint);
    if same == *before {
        return CHECKPOINT_INTERVAL;
    }
    let is_same_phase = same.phase == before.phase && same.observed_generation == before.observed_generation;
    same.conditions.clone_from(&before.conditions);
    match is_same_phase && same == *before {
        false => Duration::ZERO,
        true if before.phase == Some(WorkUnitPhase::Running) => CONDITIONS_INTERVAL,
        true => WAITING_INTERVAL,
    }
}

/// Writes a unit's status until it is forgotten. `read` gives the object as last seen; nothing is written before it is.
pub async fn write(
    unit: Arc<Unit>,
    api: Api<WorkUnit>,
    read: impl Fn() -> Option<WorkUnit> + Send,
    shutdown: Shutdown,
) {
    let mut wanted = unit.wanted.subscribe();
    let mut durable = unit.durable.subscribe();
    // With the object's UID: what was said of an earlier object of the same name was not said of this one.
    let mut written: Option<(String, WorkUnitStatus)> = None;
    let mut last: Option<Instant> = None;
    let mut failures = 0;
    let mut pause = Duration::ZERO;
    let mut accepted: Option<Instant> = None;
    loop {
        tokio::select! {
            biased;
            () = shutdown.wait() => return,
            changed = wanted.changed() => if changed.is_err() { return },
            _ = durable.changed() => {}
            () = tokio::time::sleep(pause) => {}
        }
        pause = PROGRESS_INTERVAL;
        let Some(wish) = wanted.borrow_and_update().clone() else { continue };
        let state = unit.state().await;
        // Another object is there, or another was decided on: the controller is about to look at it.
        let is_it =
            |object: &WorkUnit| [&wish.uid, &state.uid].map(Some) == [object.metadata.uid.as_ref(); 2];
        let Some(object) = read().filter(is_it) else {
            pause = OTHER_OBJECT;
            continue;
        };
        let said = written.as_ref().filter(|(uid, _)| *uid == state.uid).map(|(_, status)| status.clone());
        let before = said.or(object.status);
        let known = before.clone().unwrap_or_default();
        let after = compose(&known, &wish, &state, unit.progress().as_ref(), Timestamp::now());
        let changes = difference(before.as_ref(), &after);
        if changes.is_empty() {
            continue;
        }
        let since_last =
            last.map_or(Duration::ZERO, |at| patience(&known, &after).saturating_sub(at.elapsed()));
        let passing = known.phase.is_none() && after.phase == Some(WorkUnitPhase::Accepted);
        let is_new = passing.then(|| accepted.get_or_insert_with(Instant::now).elapsed());
        let wait = since_last.max(is_new.map_or(Duration::ZERO, |age| ACCEPTED_FOR.saturating_sub(age)));
        if !wait.is_zero() {
            pause = wait;
            continue;
        }
        let request = async {
            let patch = patch_of(&state.uid, changes).map_err(kube::Error::SerdeError)?;
            api.patch_status(unit.name(), &PatchParams::default(), &patch).await
        };
        match tokio::time::timeout(WRITE_TIMEOUT, request).await {
            Ok(Ok(_)) => {
                (failures, accepted) = (0, None);
                last = Some(Instant::now());
                written = Some((state.uid, after));
            }
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => {
                // The controller finds out what that means.
                unit.wake.notify_one();
                pause = Duration::from_secs(5);
            }
            failed => {
                failures += 1;
                let error = match failed {
                    Ok(Err(error)) => error.to_string(),
                    _ => format!("no answer within {} s", WRITE_TIMEOUT.as_secs()),
                };
                tracing::warn!(unit = unit.name(), %error, "status not written yet");
                // What the hub has may not be what was last written here: ask again.
                written = None;
                let jitter = backoff::jitter_of(unit.name());
                pause = backoff::delay(Duration::from_secs(1), Duration::from_secs(15), failures, jitter);
            }
        }
    }
}

#[cfg(test)]
mod tests;
