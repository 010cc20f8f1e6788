use super::conditions::*;
use super::*;

mod audits;

fn unit(phase: UnitPhase) -> Unit {
    Unit {
        name: "4f2a9c1b-0-1".into(),
        provider: "east".into(),
        epoch: 1,
        desired: Desired::Run,
        phase,
        attempt: 1,
        free: 0,
        workers: 2,
        step: 120,
        delivered: true,
        failure: None,
        waiting: None,
        member: Member::Connected,
        tenure: Tenure::Keeps,
        stall: None,
        restarts_before: 0,
    }
}

fn facts(unit: Option<Unit>) -> Facts {
    Facts {
        wish: Wish::Run,
        size: Size::fixed(2),
        leave: None,
        steps: 200,
        stopped_at: None,
        durable_step: Some(100),
        deadline: Deadline::Ahead,
        max_restarts: 3,
        rules: vec![],
        restarts: 0,
        unit,
        audits: Audits::None,
        failed: None,
        rollback: None,
    }
}

fn died(exit_code: i32, reason: &str) -> Option<Failure> {
    Some(Failure { rank: Some(1), exit_code: Some(exit_code), reason: reason.into(), message: "m".into() })
}

fn failed(exit_code: i32, reason: &str) -> Unit {
    Unit { failure: died(exit_code, reason), ..unit(UnitPhase::Failed) }
}

fn reason_of(decision: &Decision) -> String {
    match &decision.next {
        Next::Finish(Outcome::Failed { reason, .. }) => reason.clone(),
        other => format!("{other:?}"),
    }
}

#[test]
fn a_job_without_a_unit_is_placed_unless_paused() {
    let placed = decide(&facts(None));
    assert_eq!(placed, Decision { desired: None, next: Next::Place { restarts: 0, after: None } });
    let paused = decide(&Facts { wish: Wish::Suspend, ..facts(None) });
    assert_eq!(paused, Decision { desired: None, next: Next::Rest });
}

#[test]
fn a_living_unit_is_left_alone() {
    use UnitPhase::*;
    for phase in [Unseen, Accepted, Queued, Starting, Running, Draining] {
        let decision = decide(&facts(Some(unit(phase))));
        assert_eq!(decision, Decision { desired: Some(Desired::Run), next: Next::Wait }, "{phase:?}");
    }
}

#[test]
fn a_unit_of_a_silent_member_goes_elsewhere_if_it_may() {
    let away = Unit { member: Member::Away, ..unit(UnitPhase::Running) };
    let decision = decide(&facts(Some(away.clone())));
    assert_eq!(
        decision.desired,
        Some(Desired::Run),
        "it is not asked to stop before somebody else has the job"
    );
    let Next::Move { restarts: 1, after } = &decision.next else { panic!("{decision:?}") };
    assert_eq!(after.reason, "MemberLost");
    let rule = |action| Rule {
        name: "lost".into(),
        on_reasons: vec!["MemberLost".into()],
        on_exit_codes: vec![],
        action,
    };
    let next = |facts: Facts| decide(&facts).next;
    let free = Facts { rules: vec![rule(Action::RestartFree)], ..facts(Some(away.clone())) };
    assert!(matches!(next(free), Next::Move { restarts: 0, .. }));
    // What the policy forbids once the member is given up is not done before; it may come back.
    let fails = Facts { rules: vec![rule(Action::FailJob)], ..facts(Some(away.clone())) };
    assert_eq!(next(fails), Next::Wait);
    assert_eq!(next(Facts { max_restarts: 0, ..facts(Some(away.clone())) }), Next::Wait);
    assert_eq!(next(Facts { wish: Wish::Suspend, ..facts(Some(away.clone())) }), Next::Wait);
    // Who was about to leave need not be waited for either, and its loss is none.
    let leaving = Unit { desired: Desired::Drain, ..away.clone() };
    assert!(matches!(next(facts(Some(leaving.clone()))), Next::Move { restarts: 0, .. }));
    let given_up = Unit { member: Member::Gone, ..leaving };
    assert_eq!(next(facts(Some(given_up))), Next::Place { restarts: 0, after: None });
    assert_eq!(next(facts(Some(Unit { desired: Desired::Stop, ..away }))), Next::Wait);
}

#[test]
fn what_is_asked_of_a_living_unit() {
    let cases = [
        (Wish::Run, Tenure::Keeps, Desired::Run, Desired::Run),
        (Wish::Suspend, Tenure::Keeps, Desired::Run, Desired::Drain),
        (Wish::Run, Tenure::Leaves, Desired::Run, Desired::Drain),
        (Wish::Run, Tenure::Ends, Desired::Run, Desired::Stop),
        (Wish::Run, Tenure::Keeps, Desired::Drain, Desired::Drain),
        (Wish::Suspend, Tenure::Keeps, Desired::Stop, Desired::Stop),
    ];
    for (wish, tenure, before, after) in cases {
        let unit = Unit { tenure, desired: before, ..unit(UnitPhase::Running) };
        let decision = decide(&Facts { wish, ..facts(Some(unit)) });
        assert_eq!(decision.desired, Some(after), "{wish:?} {tenure:?} {before:?}");
        assert_eq!(decision.next, Next::Wait);
    }
}

#[test]
fn all_steps_durable_is_success_whatever_else() {
    for phase in [UnitPhase::Running, UnitPhase::Succeeded, UnitPhase::Failed, UnitPhase::Released] {
        let facts = Facts {
            durable_step: Some(200),
            wish: Wish::Suspend,
            deadline: Deadline::Passed,
            ..facts(Some(unit(phase)))
        };
        // Workers at their last step end by themselves; what is over cleans up.
        let desired = (phase != UnitPhase::Running).then_some(Desired::Stop);
        let expected = Decision { desired, next: Next::Finish(Outcome::Succeeded) };
        assert_eq!(decide(&facts), expected, "{phase:?}");
    }
}

/// Without the log's word the unit's end is a failure like another.
#[test]
fn where_the_stop_rule_has_ended_it_a_job_is_done() {
    let at = |stopped_at, durable| {
        let (unit, durable_step) = (Some(unit(UnitPhase::Succeeded)), Some(durable));
        decide(&Facts { stopped_at, durable_step, ..facts(unit) }).next
    };
    assert_eq!(at(Some(100), 100), Next::Finish(Outcome::Succeeded));
    assert!(matches!(at(None, 100), Next::Place { after: Some(_), .. }));
    assert!(
        matches!(at(Some(100), 80), Next::Place { after: Some(_), .. }),
        "its checkpoint is not there yet"
    );
    let done = View { outcome: Some(&Outcome::Succeeded), stopped_at: Some(100), ..view(None) };
    let (phase, text) = story(&done);
    assert_eq!(phase, Phase::Succeeded);
    assert!(text.contains("after step 100 of 200") && text.contains("training.eval.stopAt"), "{text}");
}

#[test]
fn a_unit_that_claims_success_without_its_checkpoint_is_tried_again() {
    let decision = decide(&facts(Some(unit(UnitPhase::Succeeded))));
    let Next::Place { restarts: 1, after: Some(failure) } = decision.next else { panic!("{decision:?}") };
    assert_eq!(failure.reason, "CheckpointIncomplete");
}

#[test]
fn out_of_time_ends_the_job() {
    let late = Facts { deadline: Deadline::Passed, ..facts(Some(unit(UnitPhase::Running))) };
    let decision = decide(&late);
    assert_eq!(decision.desired, Some(Desired::Stop));
    assert_eq!(reason_of(&decision), "DeadlineExceeded");
}

#[test]
fn a_drained_unit_rests_or_goes_on_without_counting() {
    for phase in [UnitPhase::Succeeded, UnitPhase::Failed, UnitPhase::Released] {
        let drained = Unit { desired: Desired::Drain, attempt: 2, restarts_before: 1, ..unit(phase) };
        let resting = Facts { wish: Wish::Suspend, ..facts(Some(drained.clone())) };
        assert_eq!(decide(&resting).next, Next::Rest);
        assert_eq!(decide(&facts(Some(drained))).next, Next::Place { restarts: 2, after: None });
    }
}

#[test]
fn exit_codes_that_determinism_makes_permanent() {
    for (code, reason) in
        [(64, "Rejected"), (65, "NonFinite"), (66, "DataCorrupt"), (67, "CheckpointCorrupt")]
    {
        assert_eq!(reason_of(&decide(&facts(Some(failed(code, "Error"))))), reason);
    }
    assert_eq!(reason_of(&decide(&facts(Some(failed(137, "OOMKilled"))))), "OOMKilled");
    for (code, reason) in [(137, "Killed"), (69, "PodLost"), (74, "Error"), (143, "Evicted")] {
        let decision = decide(&facts(Some(failed(code, reason))));
        assert!(matches!(decision.next, Next::Place { restarts: 1, .. }), "{code} {decision:?}");
    }
}

#[test]
fn rules_of_the_tenant_come_first() {
    let rule = |name: &str, reasons: &[&str], codes: &[i32], action| Rule {
        name: name.into(),
        on_reasons: reasons.iter().map(ToString::to_string).collect(),
        on_exit_codes: codes.to_vec(),
        action,
    };
    let rules = vec![
        rule("oom", &["OOMKilled"], &[], Action::FailJob),
        rule("preempted", &["Evicted"], &[], Action::RestartFree),
        rule("nan", &[], &[65], Action::Restart),
    ];
    let next = |unit| decide(&Facts { rules: rules.clone(), ..facts(Some(unit)) });
    assert_eq!(reason_of(&next(failed(137, "OOMKilled"))), "FailJobRule");
    assert!(matches!(next(failed(143, "Evicted")).next, Next::Place { restarts: 0, .. }));
    assert!(matches!(next(failed(65, "Error")).next, Next::Place { restarts: 1, .. }));
}

#[test]
fn a_rule_counts_for_a_unit_whose_agent_tries_again() {
    let rule = |reason: &str, action| Rule {
        name: "mine".into(),
        on_reasons: vec![reason.into()],
        on_exit_codes: vec![],
        action,
    };
    let evicted = Unit { failure: died(143, "Evicted"), attempt: 2, free: 1, ..unit(UnitPhase::Starting) };
    let decided = |action, unit: &Unit| {
        let rules = vec![rule("OOMKilled", Action::FailJob), rule("Evicted", action)];
        decide(&Facts { rules, ..facts(Some(unit.clone())) })
    };
    assert_eq!(reason_of(&decided(Action::FailJob, &evicted)), "FailJobRule");
    let moved = decided(Action::Move, &evicted);
    assert_eq!(moved.desired, Some(Desired::Stop));
    assert!(matches!(moved.next, Next::Place { restarts: 1, after: Some(_) }));
    for action in [Action::Restart, Action::RestartFree] {
        assert_eq!(decided(action, &evicted).next, Next::Wait, "that is what its agent does");
    }
    // It is the same once its unit has ended and nobody had room before.
    let ended = Unit { desired: Desired::Stop, phase: UnitPhase::Released, ..evicted.clone() };
    assert_eq!(decided(Action::Move, &ended).next, moved.next);
    let trains = Unit { phase: UnitPhase::Running, ..evicted.clone() };
    assert_eq!(decided(Action::FailJob, &trains).next, Next::Wait, "that is long over");
    let pulls = Unit { waiting: died(0, "Evicted"), failure: None, ..evicted.clone() };
    assert_eq!(reason_of(&decided(Action::FailJob, &pulls)), "FailJobRule", "as ImagePullFailed is said");
    let away = Unit { member: Member::Away, ..evicted };
    assert!(matches!(decided(Action::Move, &away).next, Next::Move { .. }), "it is looked after first");
}

#[test]
fn what_was_counted_when_a_unit_was_told_to_stop_stays_counted() {
    let stalled = Unit { stall: Some(Stall::NoStep), ..unit(UnitPhase::Running) };
    let told = decide(&facts(Some(stalled.clone()))).next;
    assert!(matches!(told, Next::Place { restarts: 1, .. }));
    let ended = Unit { stall: None, desired: Desired::Stop, phase: UnitPhase::Released, ..stalled };
    let later = decide(&Facts { restarts: 1, ..facts(Some(ended)) }).next;
    assert_eq!(later, Next::Place { restarts: 1, after: None }, "nobody had room then");
}

#[test]
fn what_a_provider_takes_back_is_nobodys_failure() {
    let unit_of = |reason: &str, attempt| Unit {
        failure: died(0, reason),
        attempt,
        delivered: false,
        ..unit(UnitPhase::Failed)
    };
    for reason in ["ProviderStopped", "MaxRuntime", "Expired", "ImageNotAllowed"] {
        let ended = Unit { failure: died(143, reason), attempt: 2, ..failed(69, reason) };
        let next = decide(&facts(Some(ended.clone()))).next;
        assert!(matches!(next, Next::Place { restarts: 1, after: Some(_) }), "{reason}: {next:?}");
        // But nobody begins for ever what is always ended before anything has come of it.
        let next = decide(&facts(Some(Unit { delivered: false, ..ended }))).next;
        assert!(matches!(next, Next::Place { restarts: 2, after: Some(_) }), "{reason}: {next:?}");
        let refused = Unit { phase: UnitPhase::Refused, ..unit_of(reason, 0) };
        assert!(matches!(decide(&facts(Some(refused))).next, Next::Place { restarts: 1, .. }), "{reason}");
        let next = decide(&facts(Some(unit_of(reason, 0)))).next;
        assert!(matches!(next, Next::Place { restarts: 0, .. }), "{reason}: it waited for its turn");
    }
}

#[test]
fn restarts_inside_and_across_units_share_one_limit() {
    let third = Unit { attempt: 2, restarts_before: 1, ..failed(69, "PodLost") };
    assert!(matches!(decide(&facts(Some(third.clone()))).next, Next::Place { restarts: 3, .. }));
    let fourth = Unit { attempt: 3, ..third };
    let evicted = Unit { attempt: 30, free: 28, ..fourth.clone() };
    assert!(
        matches!(decide(&facts(Some(evicted))).next, Next::Place { restarts: 3, .. }),
        "it made room 28 times"
    );
    let decision = decide(&facts(Some(fourth)));
    assert_eq!(reason_of(&decision), "MaxRestarts");
    let never = Facts { max_restarts: 0, ..facts(Some(failed(69, "PodLost"))) };
    assert_eq!(reason_of(&decide(&never)), "MaxRestarts");
}

#[test]
fn a_member_gone_past_its_grace_is_replaced() {
    let gone = Unit { member: Member::Gone, ..unit(UnitPhase::Running) };
    let decision = decide(&facts(Some(gone)));
    assert_eq!(decision.desired, Some(Desired::Stop), "what it finds when it comes back");
    let Next::Place { after: Some(failure), .. } = decision.next else { panic!("{decision:?}") };
    assert_eq!(failure.reason, "MemberLost");
}

#[test]
fn a_revoked_provider_is_not_waited_for() {
    use UnitPhase::*;
    for (phase, member) in [
        (Running, Member::Connected),
        (Unseen, Member::Connected),
        (Draining, Member::Away),
        (Starting, Member::Gone),
    ] {
        let out = Unit { tenure: Tenure::Revoked, member, attempt: 3, restarts_before: 2, ..unit(phase) };
        let decision = decide(&Facts { max_restarts: 0, ..facts(Some(out.clone())) });
        let Next::Place { restarts: 4, after: Some(failure) } = decision.next else { panic!("{decision:?}") };
        assert_eq!((failure.reason.as_str(), decision.desired), ("ProviderRevoked", Some(Desired::Stop)));
        let paused = Facts { wish: Wish::Suspend, ..facts(Some(out)) };
        assert_eq!(decide(&paused).next, Next::Rest);
    }
    // What it said of the unit's end while it was trusted still counts.
    let done = Unit { tenure: Tenure::Revoked, ..failed(65, "Error") };
    assert_eq!(reason_of(&decide(&facts(Some(done)))), "NonFinite");
}

#[test]
fn epochs_only_grow() {
    assert_eq!([next_epoch(0, 1), next_epoch(3, 1), next_epoch(3, 9), next_epoch(0, 0)], [1, 4, 9, 1]);
}

#[test]
fn restarts_slow_down_and_the_delay_is_capped() {
    let delays: Vec<u64> = (0..10).map(failure::restart_delay_seconds).collect();
    assert_eq!(delays, [0, 0, 5, 10, 20, 40, 80, 160, 300, 300]);
    assert_eq!(failure::restart_delay_seconds(u32::MAX), 300);
}

fn view(unit: Option<&Unit>) -> View<'_> {
    View {
        accepted: Acceptance::Resolved("sha256:11".into()),
        pause: Pause::Never,
        unit,
        leave: None,
        unplaced: None,
        after: None,
        before: Before::Trained,
        steps: 200,
        stopped_at: None,
        durable_step: 100,
        stage: Stage::Training,
        audits: Audits::None,
        outcome: None,
    }
}

/// Phase, then Ready's reason and message.
fn story(view: &View<'_>) -> (Phase, String) {
    let all = conditions(view);
    assert_eq!(all[0].kind, Kind::Ready);
    (phase(&all), format!("{}: {}", all[0].reason, all[0].message))
}

#[test]
fn a_refused_spec_is_pending_with_its_own_reason() {
    let no = Acceptance::No("UnknownDataset".into(), "no dataset kjv".into());
    let refused = View { accepted: no, ..view(None) };
    assert_eq!(story(&refused), (Phase::Pending, "UnknownDataset: no dataset kjv".into()));
    assert_eq!(conditions(&refused).len(), 2, "nothing else can be said");
}

#[test]
fn placing_explains_itself() {
    let unplaced = Unplaced { reason: "NoCapacity".into(), message: "0/1 providers: 1 lacks".into() };
    let waiting = View { unplaced: Some(unplaced), before: Before::Still, ..view(None) };
    assert_eq!(story(&waiting), (Phase::Placing, "NoCapacity: 0/1 providers: 1 lacks".into()));

    let starting = unit(UnitPhase::Starting);
    let starts = View { before: Before::Still, ..view(Some(&starting)) };
    assert_eq!(story(&starts), (Phase::Placing, "Placing: 2 workers start on east".into()));

    let why = Failure {
        rank: None,
        exit_code: None,
        reason: "ImagePullFailed".into(),
        message: "image x is not on node n".into(),
    };
    let pulling = Unit { waiting: Some(why), ..starting };
    let pulls = View { before: Before::Still, ..view(Some(&pulling)) };
    assert_eq!(story(&pulls), (Phase::Placing, "ImagePullFailed: image x is not on node n".into()));
}

#[test]
fn running_and_recovering() {
    let running = unit(UnitPhase::Running);
    let expected = "Training: 2 workers on east, step 120 of 200".to_string();
    assert_eq!(story(&view(Some(&running))), (Phase::Running, expected));

    let again = Unit { attempt: 2, failure: died(137, "OOMKilled"), ..unit(UnitPhase::Starting) };
    let expected = "Recovering: m (OOMKilled, exit code 137); training goes on from step 100".to_string();
    assert_eq!(story(&view(Some(&again))), (Phase::Recovering, expected));

    let away = Unit { member: Member::Away, ..running };
    let all = conditions(&view(Some(&away)));
    assert_eq!(phase(&all), Phase::Recovering);
    assert!(all.iter().any(|c| c.reason == "DisconnectedWithinGrace"));
}

#[test]
fn a_unit_that_takes_over_says_from_what() {
    let new = unit(UnitPhase::Unseen);
    let after = died(69, "PeerLost");
    let recovers = View { after: after.clone(), ..view(Some(&new)) };
    let expected = "Recovering: m (PeerLost, exit code 69); training goes on from step 100".to_string();
    assert_eq!(story(&recovers), (Phase::Recovering, expected));
    let refused = View { after, before: Before::Still, ..view(Some(&new)) };
    let expected = "Restarting: m (PeerLost, exit code 69); training goes on from step 100".to_string();
    assert_eq!(story(&refused), (Phase::Placing, expected));
}

#[test]
fn paused_resumed_and_over() {
    let resting = View { pause: Pause::Resting(Hold::User), ..view(None) };
    assert_eq!(story(&resting).0, Phase::Suspended);
    let running = unit(UnitPhase::Running);
    let draining = View { pause: Pause::Draining(Hold::User), ..view(Some(&running)) };
    assert_eq!(story(&draining).0, Phase::Running);
    let done = View { outcome: Some(&Outcome::Succeeded), ..view(None) };
    assert_eq!(story(&done).0, Phase::Succeeded);
    let outcome = Outcome::Failed { reason: "NonFinite".into(), message: "NaN at step 7".into() };
    let over = View { outcome: Some(&outcome), ..view(None) };
    assert_eq!(story(&over), (Phase::Failed, "Failed: NonFinite: NaN at step 7".into()));
}

#[test]
fn a_unit_that_does_not_get_on_is_replaced_and_counts() {
    let stalled = |stall| Unit { stall: Some(stall), ..unit(UnitPhase::Running) };
    let decision = decide(&facts(Some(stalled(Stall::NoStep))));
    assert_eq!(decision.desired, Some(Desired::Stop));
    let Next::Place { restarts: 1, after: Some(after) } = decision.next else { panic!("{decision:?}") };
    assert_eq!(after.reason, "NoProgress");
    assert_eq!(after.message, "east has done no step after 120 within failurePolicy.progressDeadlineSeconds");
    // As long as nobody else has it, whatever it was asked already.
    let asked = Unit { desired: Desired::Stop, ..stalled(Stall::NoStep) };
    assert!(matches!(decide(&facts(Some(asked))).next, Next::Place { restarts: 1, after: Some(_) }));
    let late = decide(&facts(Some(Unit { phase: UnitPhase::Starting, ..stalled(Stall::NotStarted) })));
    let Next::Place { after: Some(after), .. } = late.next else { panic!("{late:?}") };
    assert_eq!(after.reason, "ScheduleTimeout");
    let last = Unit { restarts_before: 3, ..stalled(Stall::NoStep) };
    assert_eq!(reason_of(&decide(&facts(Some(last)))), "MaxRestarts");
    let rule = Rule {
        name: "gray".into(),
        on_reasons: vec!["NoProgress".into()],
        on_exit_codes: vec![],
        action: Action::RestartFree,
    };
    let free = Facts { rules: vec![rule], ..facts(Some(stalled(Stall::NoStep))) };
    assert!(matches!(decide(&free).next, Next::Place { restarts: 0, .. }));
    // A pause needs nobody else, but the end of an interval will not come.
    let paused = Facts { wish: Wish::Suspend, ..facts(Some(stalled(Stall::NoStep))) };
    assert_eq!(decide(&paused), Decision { desired: Some(Desired::Stop), next: Next::Wait });
}

#[test]
fn other_jobs_and_another_size_end_it_with_its_interval() {
    let running = || Some(unit(UnitPhase::Running));
    let drain = Decision { desired: Some(Desired::Drain), next: Next::Wait };
    let preempted = Leave::Preempted { message: "another tenant has less than its share of cpu".into() };
    assert_eq!(decide(&Facts { leave: Some(preempted), ..facts(running()) }), drain);
    assert_eq!(decide(&Facts { leave: Some(Leave::Resized { workers: 4 }), ..facts(running()) }), drain);
    assert_eq!(decide(&Facts { size: Size::fixed(3), ..facts(running()) }), drain);
    let elastic = Size { min: 1, count: 3, max: 4, shards: 4 };
    let kept = Decision { desired: Some(Desired::Run), next: Next::Wait };
    assert_eq!(decide(&Facts { size: elastic, ..facts(running()) }), kept);
    // And it goes on from there without counting a restart.
    let drained = Unit { desired: Desired::Drain, ..unit(UnitPhase::Released) };
    let again = Next::Place { restarts: 0, after: None };
    assert_eq!(decide(&Facts { size: Size::fixed(3), ..facts(Some(drained)) }).next, again);
}
