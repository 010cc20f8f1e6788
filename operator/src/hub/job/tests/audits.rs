//! An audited job, as a person sees it.
use muster_core::lifecycle::Failure;
use muster_core::lifecycle::audits::{Store, Tally};
use muster_core::lifecycle::conditions::FAULT_FOUND;

use super::*;

fn open(drawn: u32, matched: u32, faults: u32) -> Audits {
    Audits::Open(Tally { drawn, matched, faults, open: drawn - matched - faults, ..Tally::default() })
}

fn settled(drawn: u32, matched: u32) -> Audits {
    Audits::Settled(Tally { drawn, matched, faults: drawn - matched, ..Tally::default() })
}

fn fault() -> Rollback {
    let message = "provider east was convicted: its interval 2 is wrong, says the verdict at log index 57";
    let why = Failure { rank: None, exit_code: None, reason: FAULT_FOUND.into(), message: message.into() };
    Rollback { epoch: 2, store: Store::Settled, why }
}

fn reason(status: &TrainingJobStatus, kind: &str) -> Option<String> {
    status.conditions.iter().find(|c| c.type_ == kind).map(|c| format!("{}: {}", c.status, c.reason))
}

#[test]
fn from_running_over_settling_to_success() {
    let made = unit(&job(&resolved()), 1, None, 0);
    let running = json!({"phase": "Running", "attempt": 1, "step": 187, "loss": "2.5"});
    let at = with_status(made.clone(), running);
    let (runs, _) = look_at(&job(&resolved()), Some(at), Some(180), (open(2, 1, 0), None));
    assert_eq!(runs.phase, Some(TrainingJobPhase::Running));
    let audits = runs.audits.clone().unwrap();
    assert_eq!((audits.text.as_deref(), audits.drawn, audits.open), (Some("1/2"), Some(2), Some(1)));
    assert_eq!(reason(&runs, "Verified").unwrap(), "Unknown: AuditsOpen");
    assert_eq!(runs.result, None);

    let done = with_status(made, json!({"phase": "Succeeded", "attempt": 1, "step": 200, "loss": "2.25"}));
    let (settles, next) = look_at(&job(&runs), Some(done.clone()), Some(200), (open(3, 1, 0), None));
    assert_eq!((settles.phase, next), (Some(TrainingJobPhase::Settling), Next::Settle));
    assert_eq!(settles.result.clone().unwrap().step, 200, "the result is there, and not yet verified");
    assert_eq!((settles.completion_time.clone(), settles.active_seconds), (None, Some(90)));
    assert_eq!(settles.progress.clone().unwrap().text.as_deref(), Some("200/200"));
    assert_eq!(settles.providers.as_deref(), Some("east"));
    assert_eq!(reasons(&runs, &settles), ["CheckpointSaved", "Settling"]);
    // More draws are no news, and may wait.
    let (more, _) = look_at(&job(&settles), Some(done.clone()), Some(200), (open(4, 2, 0), None));
    assert!(status::differs_in_progress_only(&settles, &more) && settles != more);
    assert!(reasons(&settles, &more).is_empty());

    let (over, _) = look_at(&job(&more), Some(done), Some(200), (settled(4, 4), None));
    assert_eq!(over.phase, Some(TrainingJobPhase::Succeeded));
    assert_eq!(reason(&over, "Verified").unwrap(), "True: AllDrawnMatched");
    assert_eq!(over.audits.clone().unwrap().text.as_deref(), Some("4/4"));
    assert!(over.completion_time.is_some() && over.result == settles.result);
    assert_eq!(reasons(&more, &over), ["Verified", "Succeeded"]);
}

#[test]
fn a_fault_takes_a_settling_job_back() {
    let made = unit(&job(&resolved()), 1, None, 0);
    let done = with_status(made, json!({"phase": "Succeeded", "attempt": 1, "step": 200, "loss": "2.25"}));
    let (settles, _) = look_at(&job(&resolved()), Some(done.clone()), Some(200), (open(3, 1, 0), None));
    let found = (open(3, 2, 1), Some(fault()));
    let (back, next) = look_at(&job(&settles), Some(done), Some(40), found.clone());
    assert!(matches!(next, Next::Place { restarts: 0, .. }));
    assert_eq!((back.phase, back.restarts), (Some(TrainingJobPhase::Recovering), None));
    assert_eq!((back.result.clone(), back.checkpoint.clone().unwrap().step), (None, 40));
    assert_eq!(reason(&back, "Progressing").unwrap(), "False: FaultFound");
    assert_eq!(reason(&back, "Verified").unwrap(), "False: FaultFound");
    assert_eq!(
        back.progress.clone().unwrap(),
        serde_json::from_value(json!({"step": 40, "text": "40/200"})).unwrap()
    );
    assert!(!status::differs_in_progress_only(&settles, &back), "said at once");
    let told = news::between(&settles, &back);
    assert_eq!(told[0].reason, "RolledBack");
    assert_eq!(
        told[0].message,
        "provider east was convicted: its interval 2 is wrong, says the verdict at log index 57 (FaultFound); training goes \
         on from step 40"
    );
    let others: Vec<_> = told[1..].iter().map(|item| item.reason.as_str()).collect();
    assert_eq!(others, ["Placed", "FaultFound"]);

    // The next unit runs, and nothing is said twice.
    let heir = with_status(unit(&job(&resolved()), 2, Some(40), 0), json!({"phase": "Running", "step": 41}));
    let (again, _) = look_at(&job(&back), Some(heir), Some(40), (open(3, 2, 1), None));
    assert_eq!(again.phase, Some(TrainingJobPhase::Running));
    assert_eq!(reasons(&back, &again), ["Recovered"]);
    assert_eq!(again.progress.unwrap().text.as_deref(), Some("41/200"));
}

#[test]
fn a_fault_found_while_it_rests_is_told_too() {
    let paused = |status: &TrainingJobStatus| {
        let mut job = job(status);
        job.spec.suspend = true;
        job
    };
    let (rests, next) = look_at(&paused(&resolved()), None, Some(60), (open(1, 0, 0), None));
    assert_eq!(next, Next::Rest);
    let (back, next) = look_at(&paused(&rests), None, None, (open(1, 0, 1), Some(fault())));
    assert_eq!((next, back.phase), (Next::Rest, Some(TrainingJobPhase::Suspended)));
    let told = news::between(&rests, &back);
    assert_eq!(told[0].reason, "RolledBack");
    assert_eq!(told[0].message, "a verdict has undone what was trained after step 0");
}

#[test]
fn the_audits_of_a_failed_job_are_still_told() {
    let failed = json!({
        "phase": "Failed", "attempt": 1, "step": 7,
        "lastFailure": {"attempt": 1, "rank": 0, "exitCode": 66, "reason": "BadData", "message": "corrupt"},
    });
    let made = with_status(unit(&job(&resolved()), 1, None, 0), failed);
    let (over, _) = look_at(&job(&resolved()), Some(made), Some(20), (open(1, 0, 0), None));
    assert_eq!(over.phase, Some(TrainingJobPhase::Failed));
    assert_eq!(reason(&over, "Verified").unwrap(), "Unknown: AuditsOpen");
    let later = status::of_failed(&job(&over), &settled(2, 2), at(200));
    assert_eq!((later.phase, later.completion_time.clone()), (over.phase, over.completion_time.clone()));
    assert_eq!(reason(&later, "Verified").unwrap(), "True: AllDrawnMatched");
    assert_eq!(
        (reason(&later, "Failed"), later.conditions.len()),
        (reason(&over, "Failed"), over.conditions.len())
    );
    assert_eq!(later.audits.clone().unwrap().text.as_deref(), Some("2/2"));
    assert_eq!(status::of_failed(&job(&later), &Audits::Unknown, at(300)), later, "what was known stays");
    assert_eq!(status::of_failed(&job(&later), &settled(2, 2), at(300)), later);
    assert_eq!(status::of_failed(&job(&over), &Audits::None, at(300)), over);
}
