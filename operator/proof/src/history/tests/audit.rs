//! Windows, draws, audits, verdicts and the way back.

use super::*;

/// Elsewhere its provider may have had a fault, which makes windows short. Who has one job's records only takes a short window; never
/// one that is longer than the tier has them, or that does not say that it is full.
#[test]
fn of_one_job_a_window_may_be_short() {
    let mut world = World::with_grant();
    world.history = History { scope: Scope::OneJob, ..world.history.clone() };
    world.commit(1);
    let short = world.window(1, CloseReason::Full).sign(&hub()).unwrap();
    let early = world.window(1, CloseReason::GrantEnd).sign(&hub()).unwrap();
    refused!(world, early, Refusal::WindowOpen { got: 1, size: 5 });
    world.push(&short).unwrap();
    world.commits(1, 5);
    refused!(world, world.next_commit(1).sign(&sidecar(1)).unwrap(), Refusal::WindowFull(5));
}

#[test]
fn a_window_holds_the_grants_open_intervals() {
    let mut world = World::with_grant();
    world.commit(1);
    let early = world.window(1, CloseReason::GrantEnd);
    refused!(world, early.sign(&hub()).unwrap(), Refusal::WindowOpen { got: 1, size: 5 });
    world.commits(1, 4);
    refused!(world, world.next_commit(1).sign(&sidecar(1)).unwrap(), Refusal::WindowFull(5));
    let good = world.window(1, CloseReason::Full);
    let changed = |change: &dyn Fn(&mut WindowClose)| {
        let mut window = good.clone();
        change(&mut window);
        window.sign(&hub()).unwrap()
    };
    refused!(world, good.sign(&identity("east")).unwrap(), Refusal::Signer { .. });
    refused!(
        world,
        changed(&|it| it.window = Window::new(1).unwrap()),
        Refusal::Differs { field: "window", .. }
    );
    refused!(world, changed(&|it| it.reason = CloseReason::JobEnd), Refusal::Differs { field: "reason", .. });
    refused!(world, changed(&|it| it.commits.swap(0, 1)), Refusal::Differs { field: "commits", .. });
    let shorter = |it: &mut WindowClose| {
        it.commits.pop();
        it.last = Interval::new(3).unwrap();
    };
    refused!(world, changed(&shorter), Refusal::Differs { field: "last", .. });
    let later = |it: &mut WindowClose| {
        it.commits.remove(0);
        it.first = Interval::new(1).unwrap();
    };
    refused!(world, changed(&later), Refusal::Differs { field: "first", .. });
    let lists: [&[(&str, &[&str])]; 4] = [
        &[("acme", &["east-two"])],
        &[("globex", &["north"])],
        &[("globex", &["nobody"])],
        &[("initech", &["north"]), ("umbrella", &["south", "west"])],
    ];
    for list in lists {
        refused!(world, changed(&|it| it.eligible = eligible(list)), Refusal::Ineligible { .. });
    }
    world.hub(&good);
    refused!(world, good.sign(&hub()).unwrap(), Refusal::Differs { field: "window", .. });
    let mut empty = good.clone();
    empty.window = Window::new(1).unwrap();
    refused!(world, empty.sign(&hub()).unwrap(), Refusal::TooEarly(_));
    let revoked =
        KeyRevocation { hub: world.job.hub.clone(), provider: text("west"), key: identity("west").key_id() };
    world.hub(&revoked);
    world.commits(1, 5);
    refused!(world, world.window(1, CloseReason::Full).sign(&hub()).unwrap(), Refusal::Ineligible { .. });
}

#[test]
fn nobody_runs_far_ahead_of_the_verdicts() {
    let mut world = World::with_job_of(|job| job.steps = Step::new(400).unwrap());
    world.start(1, "east");
    let mut windows = Vec::new();
    for _ in 0..2 {
        world.commits(1, 5);
        windows.push(world.close(1, CloseReason::Full));
    }
    refused!(world, world.next_commit(1).sign(&sidecar(1)).unwrap(), Refusal::Ahead(2));
    let draw = world.draw(DrawKind::Window, windows[0]);
    world.audit(draw);
    world.commit(1);
}

#[test]
fn without_a_tier_nothing_is_drawn() {
    let mut world = World::with_job_of(|job| job.tier = Tier::None);
    world.start(1, "east");
    let first = world.commit(1);
    world.commits(1, 9);
    let mut window = world.window(1, CloseReason::Full);
    refused!(world, window.sign(&hub()).unwrap(), Refusal::NoAudits);
    window.eligible.clear();
    refused!(world, world.next_draw(DrawKind::First, first).sign(&hub()).unwrap(), Refusal::NoAudits);
    world.draw(DrawKind::Tenant, first);
    assert_eq!(world.history.open(world.id).unwrap()[0], Open::Training);
}

#[test]
fn draws_show_one_preimage_after_the_other() {
    let (mut world, window) = World::with_window();
    let good = world.next_draw(DrawKind::Window, window);
    let changed = |change: &dyn Fn(&mut Draw)| {
        let mut draw = good.clone();
        change(&mut draw);
        draw.sign(&hub()).unwrap()
    };
    use crate::selection::ChainError;
    refused!(world, good.sign(&key(9)).unwrap(), Refusal::Signer { .. });
    refused!(
        world,
        changed(&|it| it.index = ChainIndex::new(1).unwrap()),
        Refusal::Chain(ChainError::Index { .. })
    );
    refused!(world, changed(&|it| it.preimage = digest("x")), Refusal::Chain(ChainError::Preimage));
    let skipped = links(&digest("seed"), CHAIN - 2);
    refused!(world, changed(&|it| it.preimage = skipped), Refusal::Chain(ChainError::Preimage));
    refused!(world, changed(&|it| it.subject = digest("x")), Refusal::Subject { .. });
    refused!(world, changed(&|it| it.job = JobId(digest("x"))), Refusal::Unknown { field: "job", .. });
    let second = world.history.windows[&window].commits[1];
    for kind in [DrawKind::First, DrawKind::Last, DrawKind::Failed, DrawKind::Rerun] {
        refused!(world, world.next_draw(kind, second).sign(&hub()).unwrap(), Refusal::Subject { .. });
    }
    refused!(world, world.next_draw(DrawKind::First, window).sign(&hub()).unwrap(), Refusal::Subject { .. });
    let first = world.history.windows[&window].commits[0];
    let mut own = world.next_draw(DrawKind::First, first);
    own.eligible = Some(eligible(&[("acme", &["east-two"])]));
    refused!(world, own.sign(&hub()).unwrap(), Refusal::Ineligible { .. });
    let draw = world.draw(DrawKind::Window, window);
    refused!(world, good.sign(&hub()).unwrap(), Refusal::Known { .. });
    refused!(world, world.next_draw(DrawKind::Second, draw).sign(&hub()).unwrap(), Refusal::TooEarly(_));
    refused!(world, world.next_draw(DrawKind::Second, window).sign(&hub()).unwrap(), Refusal::Subject { .. });
}

#[test]
fn auditors_are_asked_in_order() {
    let (mut world, window) = World::with_window();
    let draw = world.draw(DrawKind::Window, window);
    let good = world.next_assign(draw, AssignReason::First);
    let order: Vec<_> =
        world.history.draws[&draw].order.iter().map(|(_, provider)| provider.clone()).collect();
    let changed = |change: &dyn Fn(&mut AuditAssign)| {
        let mut assign = good.clone();
        change(&mut assign);
        assign.sign(&hub()).unwrap()
    };
    refused!(world, good.sign(&key(9)).unwrap(), Refusal::Signer { .. });
    refused!(world, changed(&|it| it.draw = digest("x")), Refusal::Unknown { field: "draw", .. });
    let elsewhere = Interval::new((good.interval.get() + 1) % 5).unwrap();
    refused!(world, changed(&|it| it.interval = elsewhere), Refusal::Differs { field: "interval", .. });
    refused!(world, changed(&|it| it.auditor = order[1].clone()), Refusal::Differs { field: "auditor", .. });
    refused!(
        world,
        changed(&|it| it.reason = AssignReason::LastResort),
        Refusal::Differs { field: "reason", .. }
    );
    let next = |it: &mut AuditAssign, reason| {
        (it.auditor, it.place, it.reason) = (order[1].clone(), Place::new(1).unwrap(), reason);
    };
    refused!(world, changed(&|it| next(it, AssignReason::Declined)), Refusal::TooEarly(_));
    world.hub(&good);
    refused!(world, good.sign(&hub()).unwrap(), Refusal::TooEarly(_));
    refused!(world, changed(&|it| next(it, AssignReason::Dispute)), Refusal::TooEarly(_));
    let late = Digest::of(b"late");
    let first = good.record_id().unwrap();
    world.assign(draw, AssignReason::Declined);
    let seal = world.next_seal(first, late, late).sign(&identity(order[0].as_str())).unwrap();
    refused!(world, seal, Refusal::Replaced);
    world.assign(draw, AssignReason::Silent);
    // Nobody is left but the hub, and it is asked once.
    let mut nobody = world.next_assign(draw, AssignReason::Silent);
    refused!(world, nobody.sign(&hub()).unwrap(), Refusal::Differs { field: "reason", .. });
    nobody.reason = AssignReason::LastResort;
    nobody.auditor = order[0].clone();
    refused!(world, nobody.sign(&hub()).unwrap(), Refusal::Differs { field: "auditor", .. });
    let hubs = world.assign(draw, AssignReason::LastResort);
    assert_eq!(world.auditor(hubs), HUB_AUDITOR);
    let again = world.next_assign(draw, AssignReason::LastResort);
    refused!(world, again.sign(&hub()).unwrap(), Refusal::Known { .. });
    let k = good.interval.get();
    world.seal(hubs, state_after(k), records_of(k));
    // Nobody joins the hub, whatever the chain says, or the audit could never end.
    world.draw(DrawKind::Second, draw);
    assert!(!world.history.draws[&draw].second.unwrap().1);
    let commit = world.history.draws[&draw].commit;
    world.open(commit);
    world.show(hubs, state_after(k), records_of(k));
    world.verdict(draw, VerdictKind::Match);
}

#[test]
fn nothing_is_shown_before_all_is_sealed() {
    let (mut world, window) = World::with_window();
    let draw = world.draw(DrawKind::Window, window);
    let commit = world.history.draws[&draw].commit;
    let k = world.history.commits[&commit].claim.interval;
    let opening = world.opening(commit).sign(&identity("east")).unwrap();
    refused!(world, opening.clone(), Refusal::TooEarly(_));
    refused!(world, world.verdict_of(draw, VerdictKind::Match).sign(&hub()).unwrap(), Refusal::TooEarly(_));
    let audit = world.assign(draw, AssignReason::First);
    let auditor = world.auditor(audit);
    let (state_root, record_root) = (state_after(k), records_of(k));
    let shown = AuditOpening { audit, state_root, record_root, nonce: salt(7) };
    refused!(world, shown.sign(&identity(&auditor)).unwrap(), Refusal::TooEarly(_));
    let seal = world.next_seal(audit, state_root, record_root);
    refused!(world, seal.sign(&identity("east")).unwrap(), Refusal::Signer { .. });
    refused!(world, seal.sign(&hub()).unwrap(), Refusal::Signer { .. });
    let nowhere = AuditSeal { audit: digest("x"), ..seal.clone() };
    refused!(world, nowhere.sign(&identity(&auditor)).unwrap(), Refusal::Unknown { field: "audit", .. });
    world.seal(audit, state_root, record_root);
    refused!(world, seal.sign(&identity(&auditor)).unwrap(), Refusal::Known { .. });
    // The second draw is not made yet.
    refused!(world, opening.clone(), Refusal::TooEarly(_));
    refused!(world, shown.sign(&identity(&auditor)).unwrap(), Refusal::TooEarly(_));
    let second = world.draw(DrawKind::Second, draw);
    if world.history.draws[&draw].second.unwrap().1 {
        refused!(world, opening.clone(), Refusal::TooEarly(_));
        let other = world.assign(second, AssignReason::First);
        assert_ne!(world.auditor(other), auditor);
        world.seal(other, state_root, record_root);
    } else {
        let mut other = world.next_assign(draw, AssignReason::First);
        (other.draw, other.place) = (second, Place::new(0).unwrap());
        refused!(world, other.sign(&hub()).unwrap(), Refusal::TooEarly(_));
    }
    let wrong = Opening { record_root: digest("x"), ..world.opening(commit) };
    refused!(world, wrong.sign(&identity("east")).unwrap(), Refusal::DoesNotOpen);
    refused!(world, world.opening(commit).sign(&identity(&auditor)).unwrap(), Refusal::Signer { .. });
    let nowhere = Opening { commit: digest("x"), ..world.opening(commit) };
    refused!(world, nowhere.sign(&identity("east")).unwrap(), Refusal::Unknown { field: "commit", .. });
    // Any key of the provider, its sidecar's too.
    world.clone().push(&world.opening(commit).sign(&sidecar(1)).unwrap()).unwrap();
    world.push(&opening).unwrap();
    refused!(world, opening, Refusal::Known { .. });
    let other = AuditOpening { state_root: digest("x"), ..shown.clone() };
    refused!(world, other.sign(&identity(&auditor)).unwrap(), Refusal::DoesNotOpen);
    refused!(world, world.verdict_of(draw, VerdictKind::Match).sign(&hub()).unwrap(), Refusal::Unfounded(_));
    world.push(&shown.sign(&identity(&auditor)).unwrap()).unwrap();
    refused!(world, shown.sign(&identity(&auditor)).unwrap(), Refusal::Known { .. });
}

/// An audit whose draw has no second auditor; the auditor comes to `state`, and shows it.
fn audited(tenant_draws: u64, state: Digest) -> (World, Digest, Digest) {
    let (mut world, window) = World::with_window();
    // Which preimage says that nobody joins is chance: draws of the tenant's move the chain on.
    let commits = world.history.windows[&window].commits.clone();
    for at in 0..tenant_draws {
        world.draw(DrawKind::Tenant, commits[at as usize]);
    }
    let draw = world.draw(DrawKind::First, commits[0]);
    let all = world.sealed(draw, state, records_of(0));
    world.open(commits[0]);
    for assign in &all {
        world.show(*assign, state, records_of(0));
    }
    (world, draw, all[0])
}

/// With one auditor, whatever the chain says.
fn with_one_auditor(state: Digest) -> (World, Digest, Digest) {
    (0..5)
        .map(|n| audited(n, state))
        .find(|(world, draw, _)| !world.history.draws[draw].second.unwrap().1)
        .unwrap()
}

fn evidence(kind: EvidenceKind, records: &[Digest]) -> Option<Evidence> {
    let mut records = records.to_vec();
    records.sort_unstable();
    Some(Evidence { kind, records })
}

fn opening_of(world: &World, assign: Digest) -> Digest {
    *world.history.openings.iter().find(|(_, of)| **of == assign).unwrap().0
}

#[test]
fn a_match_is_a_match() {
    let (mut world, draw, _) = with_one_auditor(state_after(0));
    let convict = Verdict {
        party: Some(text("east")),
        evidence: evidence(EvidenceKind::Replays, &[digest("a"), digest("b")]),
        ..world.verdict_of(draw, VerdictKind::Fault)
    };
    refused!(world, convict.sign(&hub()).unwrap(), Refusal::Unknown { field: "evidence.records", .. });
    refused!(
        world,
        world.verdict_of(draw, VerdictKind::Inconclusive).sign(&hub()).unwrap(),
        Refusal::Unfounded(_)
    );
    let good = world.verdict_of(draw, VerdictKind::Match);
    refused!(world, good.sign(&identity("west")).unwrap(), Refusal::Signer { .. });
    let other = Verdict { job: JobId(digest("x")), ..good.clone() };
    refused!(world, other.sign(&hub()).unwrap(), Refusal::Differs { field: "job", .. });
    let other = Verdict { interval: Interval::new(3).unwrap(), ..good.clone() };
    refused!(world, other.sign(&hub()).unwrap(), Refusal::Differs { field: "interval", .. });
    let second = Verdict { draw: world.history.draws[&draw].second.unwrap().0, ..good.clone() };
    refused!(world, second.sign(&hub()).unwrap(), Refusal::Unfounded(_));
    let dispute = world.next_assign(draw, AssignReason::Dispute);
    refused!(world, dispute.sign(&hub()).unwrap(), Refusal::TooEarly(_));
    let verdict = world.hub(&good);
    refused!(world, good.sign(&hub()).unwrap(), Refusal::Decided);
    let back =
        Rollback { job: world.id, island: island(), to_interval: good.interval, epoch: epoch(2), verdict };
    refused!(world, back.sign(&hub()).unwrap(), Refusal::NoRollback(_));
    // Another draw of the same commit shares it.
    let subject = world.history.draws[&draw].subject;
    if !world.history.jobs[&world.id].drawn.contains_key(&(DrawKind::Tenant, subject)) {
        let shared = world.draw(DrawKind::Tenant, subject);
        let assign = world.next_assign(shared, AssignReason::First);
        refused!(world, assign.sign(&hub()).unwrap(), Refusal::Audited(_));
        refused!(
            world,
            world.verdict_of(shared, VerdictKind::Inconclusive).sign(&hub()).unwrap(),
            Refusal::Unfounded(_)
        );
        world.verdict(shared, VerdictKind::Match);
    }
}

#[test]
fn a_fault_needs_two_owners_and_leads_back() {
    let bad = digest("what the trainer did not commit");
    let (mut world, draw, first) = with_one_auditor(bad);
    refused!(world, world.verdict_of(draw, VerdictKind::Match).sign(&hub()).unwrap(), Refusal::Unfounded(_));
    let third = world.assign(draw, AssignReason::Dispute);
    world.seal(third, bad, records_of(0));
    world.show(third, bad, records_of(0));
    let two = [opening_of(&world, first), opening_of(&world, third)];
    let good = Verdict {
        party: Some(text("east")),
        evidence: evidence(EvidenceKind::Replays, &two),
        ..world.verdict_of(draw, VerdictKind::Fault)
    };
    let wrong = Verdict { party: Some(text("west")), ..good.clone() };
    refused!(world, wrong.sign(&hub()).unwrap(), Refusal::Differs { field: "party", .. });
    let silent = Verdict { evidence: evidence(EvidenceKind::Silence, &two), ..good.clone() };
    refused!(world, silent.sign(&hub()).unwrap(), Refusal::Unfounded(_));
    let verdict = world.hub(&good);
    let open = |world: &World| world.history.open(world.id).unwrap();
    assert!(open(&world).contains(&Open::Rollback { verdict, island: 0 }));

    let good = Rollback {
        job: world.id,
        island: island(),
        to_interval: Interval::new(0).unwrap(),
        epoch: epoch(5),
        verdict,
    };
    let changed = |change: &dyn Fn(&mut Rollback)| {
        let mut rollback = good.clone();
        change(&mut rollback);
        rollback.sign(&hub()).unwrap()
    };
    refused!(world, good.sign(&key(9)).unwrap(), Refusal::Signer { .. });
    refused!(world, changed(&|it| it.epoch = epoch(1)), Refusal::OldEpoch { epoch: 1, lowest: 2 });
    refused!(world, changed(&|it| it.verdict = digest("x")), Refusal::Unknown { field: "verdict", .. });
    refused!(
        world,
        changed(&|it| it.to_interval = Interval::new(1).unwrap()),
        Refusal::Differs { field: "toInterval", .. }
    );
    world.hub(&good);
    refused!(world, good.sign(&hub()).unwrap(), Refusal::Known { .. });
    assert!(!open(&world).contains(&Open::Rollback { verdict, island: 0 }));
    assert_eq!(world.tip().step.get(), 0);
    refused!(world, world.next_commit(1).sign(&sidecar(1)).unwrap(), Refusal::GrantEnded(1));
    refused!(world, world.grant(4, "west").sign(&hub()).unwrap(), Refusal::OldEpoch { epoch: 4, lowest: 5 });
    world.start(5, "west");
    // Run again: by another owner, who has no window of its own size changed; audited by owners that had no part in it.
    let again = world.commit(5);
    refused!(
        world,
        world.next_draw(DrawKind::Rerun, again).sign(&hub()).unwrap(),
        Refusal::Ineligible { .. }
    );
    let mut rerun = world.next_draw(DrawKind::Rerun, again);
    rerun.eligible = Some(eligible(&[("initech", &["north"]), ("umbrella", &["south"])]));
    world.hub(&rerun);
    // Who had a fault audits nobody, and trains in small windows.
    assert!(world.history.providers[&text::<ProviderName>("east")].standing().recent_fault());
}

#[test]
fn a_silent_trainer_is_cleared_by_two_replays_or_convicted_by_them() {
    for (state, guilty) in [(state_after(0), false), (digest("other"), true)] {
        let (mut world, window) = World::with_window();
        let first = world.history.windows[&window].commits[0];
        let draw = world.draw(DrawKind::First, first);
        let mut all = world.sealed(draw, state, records_of(0));
        for assign in &all {
            world.show(*assign, state, records_of(0));
        }
        if all.len() < 2 {
            refused!(
                world,
                world.verdict_of(draw, VerdictKind::Match).sign(&hub()).unwrap(),
                Refusal::Unfounded(_)
            );
            let third = world.assign(draw, AssignReason::Dispute);
            world.seal(third, state, records_of(0));
            world.show(third, state, records_of(0));
            all.push(third);
        }
        let two: Vec<_> = all.iter().map(|assign| opening_of(&world, *assign)).collect();
        let fault = Verdict {
            party: Some(text("east")),
            evidence: evidence(EvidenceKind::Silence, &two),
            ..world.verdict_of(draw, VerdictKind::Fault)
        };
        if guilty {
            world.hub(&fault);
        } else {
            refused!(world, fault.sign(&hub()).unwrap(), Refusal::Unfounded(_));
            world.verdict(draw, VerdictKind::Match);
        }
    }
}

#[test]
fn a_wrong_auditor_is_convicted_and_the_draw_stays_open() {
    let (mut world, draw, wrong) = with_one_auditor(digest("a guess"));
    let mut right = Vec::new();
    for _ in 0..2 {
        let next = world.assign(draw, AssignReason::Dispute);
        world.seal(next, state_after(0), records_of(0));
        world.show(next, state_after(0), records_of(0));
        right.push(opening_of(&world, next));
    }
    let party: ProviderName = text(&world.auditor(wrong));
    let good = Verdict {
        party: Some(party.clone()),
        evidence: evidence(EvidenceKind::Replays, &right),
        ..world.verdict_of(draw, VerdictKind::AuditorFault)
    };
    let own = Verdict {
        evidence: evidence(EvidenceKind::Replays, &[right[0], opening_of(&world, wrong)]),
        ..good.clone()
    };
    refused!(world, own.sign(&hub()).unwrap(), Refusal::Unfounded(_));
    let nobody = Verdict { party: Some(text("east")), ..good.clone() };
    refused!(world, nobody.sign(&hub()).unwrap(), Refusal::Unfounded(_));
    let trainer = Verdict { party: Some(text("east")), verdict: VerdictKind::Fault, ..good.clone() };
    refused!(world, trainer.sign(&hub()).unwrap(), Refusal::Unfounded(_));
    refused!(world, world.verdict_of(draw, VerdictKind::Match).sign(&hub()).unwrap(), Refusal::Unfounded(_));
    world.hub(&good);
    refused!(world, good.sign(&hub()).unwrap(), Refusal::Unfounded(_));
    world.verdict(draw, VerdictKind::Match);
    assert!(world.history.providers[&party].standing().recent_fault());
}

#[test]
fn an_inconclusive_interval_is_run_again_and_the_window_drawn_again() {
    let (mut world, window) = World::with_window();
    let draw = world.draw(DrawKind::Window, window);
    world.sealed(draw, digest("differs"), records_of(0));
    let verdict = world.verdict(draw, VerdictKind::Inconclusive);
    let k = world.history.commits[&world.history.draws[&draw].commit].claim.interval;
    let to_interval = Interval::new(k).unwrap();
    world.hub(&Rollback { job: world.id, island: island(), to_interval, epoch: epoch(2), verdict });
    let again = world.draw(DrawKind::Window, window);
    world.assign(again, AssignReason::First);
}
