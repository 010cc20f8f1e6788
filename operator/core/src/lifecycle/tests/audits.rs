//! A job that is audited: when it is over, and what a fault undoes.
use super::*;
use crate::audits::JobAudits;
use crate::lifecycle::audits::{Store, Tally};

fn tally(drawn: u32, matched: u32, faults: u32) -> Tally {
    Tally { drawn, matched, faults, open: drawn - matched - faults, ..Tally::default() }
}

fn fault() -> Failure {
    let message = "east was convicted by the verdict at log index 57".to_owned();
    Failure { rank: None, exit_code: None, reason: FAULT_FOUND.into(), message }
}

fn rollback(store: Store) -> Option<Rollback> {
    Some(Rollback { epoch: 2, store, why: fault() })
}

#[test]
fn a_job_is_over_when_its_audits_are() {
    let done = |audits, phase| {
        decide(&Facts { durable_step: Some(200), audits, wish: Wish::Suspend, ..facts(Some(unit(phase))) })
    };
    for audits in [Audits::Unknown, Audits::Open(tally(3, 1, 0))] {
        let waits = done(audits.clone(), UnitPhase::Running);
        assert_eq!(waits, Decision { desired: None, next: Next::Settle }, "its workers end by themselves");
        let cleans = done(audits, UnitPhase::Succeeded);
        assert_eq!(cleans, Decision { desired: Some(Desired::Stop), next: Next::Settle });
    }
    let over = done(Audits::Settled(tally(3, 3, 0)), UnitPhase::Succeeded);
    assert_eq!(over.next, Next::Finish(Outcome::Succeeded));
    // What is settled is not yet done.
    let early = Facts { audits: Audits::Settled(tally(1, 1, 0)), ..facts(Some(unit(UnitPhase::Running))) };
    assert_eq!(decide(&early).next, Next::Wait);
}

#[test]
fn a_failed_job_does_not_wait_for_its_audits() {
    let late = Facts {
        deadline: Deadline::Passed,
        audits: Audits::Open(tally(1, 0, 0)),
        ..facts(Some(unit(UnitPhase::Running)))
    };
    assert_eq!(reason_of(&decide(&late)), "DeadlineExceeded");
}

#[test]
fn what_a_verdict_undid_is_undone_before_anything_else() {
    let behind = |unit| Facts { rollback: rollback(Store::Behind), ..facts(unit) };
    let stop = Decision { desired: Some(Desired::Stop), next: Next::RollBack };
    assert_eq!(decide(&behind(Some(unit(UnitPhase::Running)))), stop);
    let late = Facts { deadline: Deadline::Passed, ..behind(Some(unit(UnitPhase::Running))) };
    assert_eq!(decide(&late), stop);
    let done = Facts { durable_step: Some(200), ..behind(Some(unit(UnitPhase::Succeeded))) };
    assert_eq!(decide(&done), stop, "also what looks complete");
    assert_eq!(decide(&behind(None)), Decision { desired: None, next: Next::RollBack });
    let newer = Unit { epoch: 2, ..unit(UnitPhase::Running) };
    assert_eq!(decide(&behind(Some(newer))).desired, Some(Desired::Run), "it is not of the void");
}

#[test]
fn after_a_rollback_the_job_goes_on_at_once_and_nothing_is_counted() {
    use UnitPhase::*;
    for phase in [Unseen, Running, Draining, Succeeded, Failed, Refused] {
        for member in [Member::Connected, Member::Away, Member::Gone] {
            let void =
                Unit { member, attempt: 3, restarts_before: 1, failure: died(65, "Error"), ..unit(phase) };
            let facts = Facts { rollback: rollback(Store::Settled), max_restarts: 0, ..facts(Some(void)) };
            let decision = decide(&facts);
            assert_eq!(decision.desired, Some(Desired::Stop), "{phase:?} {member:?}");
            assert_eq!(decision.next, Next::Place { restarts: 3, after: Some(fault()) });
            let paused = decide(&Facts { wish: Wish::Suspend, ..facts });
            assert_eq!(paused.next, Next::Rest);
        }
    }
    let gone = Facts { rollback: rollback(Store::Settled), restarts: 1, ..facts(None) };
    assert_eq!(decide(&gone).next, Next::Place { restarts: 1, after: Some(fault()) });
    // The unit that took over is as any other.
    let heir = Unit { epoch: 2, ..unit(Running) };
    let on = Facts { rollback: rollback(Store::Settled), ..facts(Some(heir)) };
    assert_eq!(decide(&on), Decision { desired: Some(Desired::Run), next: Next::Wait });
}

#[test]
fn the_book_says_how_far_the_audits_are() {
    assert_eq!(Audits::of(None), Audits::Unknown);
    let book = JobAudits { drawn: 3, matched: 1, faults: 1, open: 1, ..JobAudits::default() };
    assert_eq!(Audits::of(Some(&book)), Audits::Open(tally(3, 1, 1)));
    let settled = Audits::of(Some(&JobAudits { settled: true, ..book }));
    assert_eq!(settled, Audits::Settled(tally(3, 1, 1)));
    assert_eq!(settled.tally().unwrap().drawn, 3);
    assert_eq!((Audits::None.tally(), Audits::Unknown.tally()), (None, None));
}

fn verified(audits: Audits) -> (Status, String) {
    let all = conditions(&View { audits, ..view(None) });
    let found = all.into_iter().find(|c| c.kind == Kind::Verified).unwrap();
    (found.status, format!("{}: {}", found.reason, found.message))
}

#[test]
fn verified_says_what_was_found() {
    let none = conditions(&view(None));
    assert!(none.iter().all(|c| c.kind != Kind::Verified), "tier None promises nothing");
    let unseen = Tally { unwitnessed: Some("1 of 3 owners".into()), ..tally(1, 1, 0) };
    let condition = Audits::Open(unseen).condition().unwrap();
    assert_eq!((condition.status, condition.reason.as_str()), (Status::False, "WitnessesUnavailable"));
    assert_eq!(condition.message, "1 of 3 owners; the drawn interval matches its replay");
    let no_one = Tally { no_auditor: Some("0 eligible auditors".into()), ..tally(1, 0, 0) };
    for (audits, status, text) in [
        (Audits::Unknown, Status::Unknown, "AuditsOpen: the hub has not read the log yet"),
        (Audits::Open(tally(0, 0, 0)), Status::Unknown, "AuditsOpen: no interval is drawn yet"),
        (
            Audits::Open(tally(2, 1, 0)),
            Status::Unknown,
            "AuditsOpen: 1 of 2 drawn intervals match their replays, 1 waits for its verdict",
        ),
        (
            Audits::Open(tally(5, 1, 2)),
            Status::False,
            "FaultFound: 1 of 5 drawn intervals match their replays, 2 wait for their verdicts; 2 faults were found, and \
             what followed them is trained again",
        ),
        (
            Audits::Open(no_one),
            Status::False,
            "AuditorUnavailable: 0 eligible auditors; 0 of 1 drawn intervals match their replays, 1 waits for its verdict",
        ),
        (
            Audits::Settled(tally(1, 1, 0)),
            Status::True,
            "AllDrawnMatched: the drawn interval matches its replay",
        ),
        (
            Audits::Settled(tally(4, 3, 1)),
            Status::True,
            "AllDrawnMatched: 3 of 4 drawn intervals match their replays; 1 fault was found, and what followed it is \
             trained again",
        ),
    ] {
        assert_eq!(verified(audits), (status, text.to_owned()));
    }
}

#[test]
fn settling_and_back() {
    let audits = Audits::Open(tally(2, 1, 0));
    let settles = View { stage: Stage::Settling, audits: audits.clone(), durable_step: 200, ..view(None) };
    let text = "Settling: all 200 steps are done and the result is durable; 1 of 2 drawn intervals match their replays, 1 \
                waits for its verdict";
    assert_eq!(story(&settles), (Phase::Settling, text.to_owned()));
    let recovers = View { after: Some(fault()), audits, durable_step: 40, ..view(None) };
    let (phase, text) = story(&recovers);
    assert_eq!(phase, Phase::Recovering);
    assert!(text.contains("log index 57") && text.contains("goes on from step 40"), "{text}");
    let reason = |view| conditions(&view).into_iter().find(|c| c.kind == Kind::Progressing).unwrap().reason;
    assert_eq!(reason(recovers.clone()), FAULT_FOUND);
    let unclear = Failure { reason: RECOVERING.into(), ..fault() };
    assert_eq!(reason(View { after: Some(unclear), ..recovers }), RECOVERING);
    let outcome = Outcome::Succeeded;
    let over = View { outcome: Some(&outcome), audits: Audits::Settled(tally(2, 2, 0)), ..view(None) };
    assert_eq!(story(&over).0, Phase::Succeeded);
}

#[test]
fn a_job_that_nobody_can_audit_is_pending() {
    let unplaced =
        Unplaced { reason: NO_AUDITORS.into(), message: "0 eligible auditors of 1 providers".into() };
    let waits = View { unplaced: Some(unplaced), before: Before::Still, ..view(None) };
    let text = "NoAuditors: 0 eligible auditors of 1 providers".to_owned();
    assert_eq!(story(&waits), (Phase::Pending, text));
    let recovers = View { before: Before::Trained, ..waits };
    assert_eq!(story(&recovers).0, Phase::Recovering);
}

/// A provider's word that a step is not finite ends an audited job only when its replay has found the same.
#[test]
fn a_step_that_is_not_finite_waits_for_its_audit() {
    let said = |audits: Audits, failed, phase| Facts {
        audits,
        failed,
        deadline: Deadline::Passed,
        ..facts(Some(Unit { phase, ..failed_unit() }))
    };
    let step = |matched| Some(FailedStep { step: 7, matched });
    for audits in [Audits::Unknown, Audits::Open(tally(1, 0, 0)), Audits::Settled(tally(1, 1, 0))] {
        let waits = decide(&said(audits.clone(), step(false), UnitPhase::Failed));
        assert_eq!(waits, Decision { desired: Some(Desired::Stop), next: Next::Settle });
        let early = decide(&said(audits.clone(), step(false), UnitPhase::Running));
        assert_eq!(early, Decision { desired: None, next: Next::Settle }, "its workers end by themselves");
        assert_eq!(reason_of(&decide(&said(audits, step(true), UnitPhase::Failed))), "NonFinite");
    }
    // Nobody is asked: the provider is believed, as is one whose unit is gone by now.
    assert_eq!(reason_of(&decide(&said(Audits::None, step(false), UnitPhase::Failed))), "NonFinite");
    let gone = Facts { failed: step(false), ..facts(None) };
    assert_eq!(reason_of(&decide(&gone)), "NonFinite");
    // Whatever the tenant would rather try again: the log takes nothing after it.
    let rules = vec![Rule {
        name: "nan".into(),
        on_reasons: vec![],
        on_exit_codes: vec![65],
        action: Action::Restart,
    }];
    let ruled = Facts { rules, ..said(Audits::None, step(false), UnitPhase::Failed) };
    assert_eq!(reason_of(&decide(&ruled)), "NonFinite");
    // A verdict has undone it: on from there, and nothing counted.
    let undone = Facts {
        rollback: rollback(Store::Settled),
        max_restarts: 0,
        audits: Audits::Open(tally(1, 0, 1)),
        ..facts(Some(failed_unit()))
    };
    assert!(matches!(decide(&undone).next, Next::Place { restarts: 0, after: Some(_) }));
}

fn failed_unit() -> Unit {
    failed(65, "NonFinite")
}

/// Of an older image, or of a pod that was lost in between: nobody can check it, so it ends nothing.
#[test]
fn a_provider_that_has_logged_no_failure_is_a_lost_worker() {
    let open = || Audits::Open(tally(1, 0, 0));
    let unlogged = Facts { audits: open(), ..facts(Some(failed_unit())) };
    let Next::Place { restarts: 1, after: Some(why) } = decide(&unlogged).next else { panic!() };
    assert!(why.message.contains("no record of that step"), "{why}");
    let spent = Facts { max_restarts: 0, ..unlogged.clone() };
    assert_eq!(reason_of(&decide(&spent)), "MaxRestarts", "and it ends some day");
    assert_eq!(reason_of(&decide(&Facts { audits: Audits::None, ..unlogged.clone() })), "NonFinite");
    let rule =
        Rule { name: "nan".into(), on_reasons: vec![], on_exit_codes: vec![65], action: Action::FailJob };
    let ruled = Facts { rules: vec![rule], ..unlogged };
    assert_eq!(reason_of(&decide(&ruled)), "FailJobRule", "as the tenant says");
}

#[test]
fn a_job_whose_failure_is_audited_settles() {
    let view = View { stage: Stage::Failing(7), audits: Audits::Open(tally(1, 0, 0)), ..view(None) };
    let (phase, text) = story(&view);
    assert_eq!(phase, Phase::Settling);
    assert!(text.contains("step 7 is not finite") && text.contains("1 waits for its verdict"), "{text}");
}
