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
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::state::UnitState;
use super::units::{Progress, Unit};
use crate::runtime::{Shutdown, backoff, sanitise};

/// Steps, loss and speed are written at most this often.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);
/// A new checkpoint is written at most this often: short intervals are for tests. Everything else is written at once.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(2);
/// One write may take this long.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// What the controller wants the hub to see, beside progress and checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
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
    if let Some(progress) = progress
        && progress.step >= before.step.unwrap_or(0)
    {
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

/// The top-level fields that differ, as a merge patch of the object; `None` if none does.
fn difference(before: &WorkUnitStatus, after: &WorkUnitStatus) -> Option<Value> {
    let (Ok(Value::Object(before)), Ok(Value::Object(after))) =
        (serde_json::to_value(before), serde_json::to_value(after))
    else {
        return None;
    };
    let changed: Map<String, Value> =
        after.into_iter().filter(|(key, value)| before.get(key) != Some(value)).collect();
    (!changed.is_empty()).then(|| serde_json::json!({ "status": changed }))
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
    if same == *before { CHECKPOINT_INTERVAL } else { Duration::ZERO }
}

/// Writes a unit's status until it is forgotten. `read` gives the object as last seen.
pub async fn write(
    unit: Arc<Unit>,
    api: Api<WorkUnit>,
    read: impl Fn() -> Option<WorkUnitStatus> + Send,
    shutdown: Shutdown,
) {
    let mut wanted = unit.wanted.subscribe();
    let mut durable = unit.durable.subscribe();
    // With the object's UID: what was said of an earlier object of the same name was not said of this one.
    let mut written: Option<(String, WorkUnitStatus)> = None;
    let mut last: Option<Instant> = None;
    let mut failures = 0;
    let mut pause = Duration::ZERO;
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
        let said = written.as_ref().filter(|(uid, _)| *uid == state.uid).map(|(_, status)| status.clone());
        let before = said.or_else(&read).unwrap_or_default();
        let after = compose(&before, &wish, &state, unit.progress().as_ref(), Timestamp::now());
        let Some(patch) = difference(&before, &after) else { continue };
        let wait = last.map_or(Duration::ZERO, |at| patience(&before, &after).saturating_sub(at.elapsed()));
        if !wait.is_zero() {
            pause = wait;
            continue;
        }
        let request =
            async { api.patch_status(unit.name(), &PatchParams::default(), &Patch::Merge(&patch)).await };
        match tokio::time::timeout(WRITE_TIMEOUT, request).await {
            Ok(Ok(_)) => {
                failures = 0;
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
mod tests {
    use muster_core::attempt::{Failure, Memory};
    use muster_proof::Digest;

    use super::*;
    use crate::agent::state::Commit;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn wanted(phase: WorkUnitPhase, ready: bool) -> Wanted {
        let condition =
            attempt::Condition { status: ready, reason: "Training", message: "2/2 workers".to_owned() };
        Wanted { generation: Some(1), phase, conditions: vec![("Ready", condition)] }
    }

    fn progress(step: i64) -> Progress {
        let (loss, eval_loss) = ("2.5".to_owned(), (step >= 20).then(|| "2.25".to_owned()));
        Progress { attempt: 1, step, loss, eval_loss, tokens_per_second: 9, time: at(100) }
    }

    #[test]
    fn nothing_goes_back_and_nothing_is_written_twice() {
        let digest = Digest::of(b"m");
        let commit = |step| Commit {
            step,
            manifest: digest,
            state_root: digest,
            record: digest,
            attempt: 1,
            durable: true,
        };
        let mut state = UnitState {
            memory: Memory { attempt: 2, ..Memory::default() },
            checkpoints: vec![commit(20)],
            ..UnitState::default()
        };
        let running = wanted(WorkUnitPhase::Running, true);
        let first = compose(&WorkUnitStatus::default(), &running, &state, Some(&progress(25)), at(100));
        assert_eq!((first.step, first.attempt), (Some(25), Some(2)));
        assert_eq!(first.eval_loss.as_deref(), Some("2.25"));
        // A pod that has not evaluated yet.
        let next = Progress { eval_loss: None, ..progress(26) };
        let next = compose(&first, &running, &state, Some(&next), at(100));
        assert_eq!((next.step, next.eval_loss), (Some(26), first.eval_loss.clone()));
        assert_eq!(first.checkpoint.as_ref().unwrap().step, 20);
        let again = compose(&first, &running, &state, Some(&progress(25)), at(200));
        assert_eq!(difference(&first, &again), None);
        // A lost state directory, a new round from an older checkpoint.
        state.memory.attempt = 0;
        state.checkpoints.clear();
        let later = compose(&first, &running, &state, Some(&progress(21)), at(300));
        assert_eq!(difference(&first, &later), None);
    }

    /// What it has found is sealed, and so is the way there.
    #[test]
    fn of_a_replay_only_its_progress_is_told() {
        let digest = Digest::of(b"m");
        let found = Commit {
            step: 40,
            manifest: digest,
            state_root: digest,
            record: digest,
            attempt: 1,
            durable: true,
        };
        let payload = Some(crate::agent::testing::audit());
        let state = UnitState { payload, checkpoints: vec![found], ..UnitState::default() };
        let running = wanted(WorkUnitPhase::Running, true);
        let said = compose(&WorkUnitStatus::default(), &running, &state, Some(&progress(25)), at(100));
        assert_eq!((said.step, said.loss, said.checkpoint), (Some(25), None, None));
        assert_eq!(said.eval_loss, None);
    }

    #[test]
    fn a_patch_has_only_what_changed_and_times_of_transitions() {
        let state = UnitState::default();
        let starting = wanted(WorkUnitPhase::Starting, false);
        let first = compose(&WorkUnitStatus::default(), &starting, &state, None, at(100));
        let stepping = compose(&first, &starting, &state, Some(&progress(1)), at(100));
        assert_eq!(patience(&first, &stepping), PROGRESS_INTERVAL);
        let second = compose(&first, &wanted(WorkUnitPhase::Running, true), &state, None, at(150));
        assert_eq!(patience(&first, &second), Duration::ZERO);
        let patch = difference(&first, &second).unwrap();
        let keys: Vec<_> = patch["status"].as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, ["conditions", "phase"]);
        assert_eq!(second.conditions[0].last_transition_time, Time(at(150)));
        let third = compose(&second, &wanted(WorkUnitPhase::Running, true), &state, None, at(200));
        assert_eq!(third.conditions[0].last_transition_time, Time(at(150)));
    }

    #[test]
    fn finished_phases_only_become_released_and_failures_are_sanitised() {
        let failure = Failure {
            attempt: 1,
            rank: Some(1),
            exit_code: Some(65),
            reason: "NonFinite".to_owned(),
            message: "\u{1b}[31m".to_owned() + &"x".repeat(400),
        };
        let memory = Memory { last_failure: Some(failure), ..Memory::default() };
        let state = UnitState { memory, ..UnitState::default() };
        let failed =
            compose(&WorkUnitStatus::default(), &wanted(WorkUnitPhase::Failed, false), &state, None, at(1));
        let message = failed.last_failure.as_ref().unwrap().message.as_deref().unwrap();
        assert!(message.len() == 256 && message.starts_with("[31mx"));
        let still = compose(&failed, &wanted(WorkUnitPhase::Running, true), &state, None, at(2));
        assert_eq!(still.phase, Some(WorkUnitPhase::Failed));
        let released = compose(&failed, &wanted(WorkUnitPhase::Released, false), &state, None, at(2));
        assert_eq!(released.phase, Some(WorkUnitPhase::Released));
    }
}
