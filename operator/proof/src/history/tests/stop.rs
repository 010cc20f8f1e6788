//! Jobs that their stop rule ends before their last step.
use super::*;
use crate::records::{Evidence, GrantEnd, GrantEndReason, JobEnd, Outcome};
use crate::steps::ended_state;

/// A job of 200 steps that may end after every 40th, and its first grant.
fn world() -> World {
    let mut world = World::with_job_of(|job| job.stop_every_steps = Some(Step::new(40).unwrap()));
    world.start(1, "east");
    world
}

/// The next commit, which ends the job.
fn last(world: &World) -> Commit {
    Commit { ends: true, ..world.next_commit(1) }
}

fn refuses(world: &World, commit: &Commit) -> Refusal {
    let mut copy = world.history.clone();
    copy.apply(world.index, &commit.sign(&sidecar(1)).unwrap()).unwrap_err()
}

#[test]
fn a_job_without_rule_or_between_its_steps_ends_nowhere() {
    let mut plain = World::with_grant();
    plain.commit(1);
    assert!(matches!(refuses(&plain, &last(&plain)), Refusal::Differs { field: "ends", .. }));
    let mut world = world();
    assert!(matches!(refuses(&world, &last(&world)), Refusal::Differs { field: "ends", .. }), "step 20");
    world.commit(1);
    let end = last(&world).sign(&sidecar(1)).unwrap();
    world.push(&end).unwrap();
    assert!(matches!(refuses(&world, &world.next_commit(1)), Refusal::Finished(_)));
    // The job's own last step is its end without being said to be one.
    let job = &world.job;
    assert_eq!(
        [0, 20, 40, 160, 200, 240].map(|step| job.may_end_at(step)),
        [false, false, true, true, false, false]
    );
}

#[test]
fn an_end_completes_the_job_and_is_audited() {
    let mut world = world();
    world.commit(1);
    let commit = last(&world);
    let record = world.push(&commit.sign(&sidecar(1)).unwrap()).unwrap().id;
    let path = world.history.path(world.id, 0);
    assert_eq!(path.iter().map(|it| it.completes).collect::<Vec<_>>(), [false, true]);
    let job = world.id;
    world.hub(&GrantEnd { job, island: island(), epoch: epoch(1), reason: GrantEndReason::Completed });
    assert!(matches!(
        world.history.clone().apply(world.index, &world.grant(2, "west").sign(&hub()).unwrap()),
        Err(Refusal::Finished(_))
    ));
    let (last_step, state_root) = (commit.last_step, commit.state_root);
    let end = |outcome| JobEnd { job, last_step, state_root, record, outcome };
    let cancelled = end(Outcome::Cancelled).sign(&hub()).unwrap();
    assert!(world.history.clone().apply(world.index, &cancelled).is_err());
    world.hub(&end(Outcome::Completed));
    let window = world.close(1, CloseReason::GrantEnd);
    world.draw(DrawKind::Window, window);
    let open = world.history.open(job).unwrap();
    assert!(open.contains(&Open::Draw { kind: DrawKind::Last, subject: record }), "{open:?}");
    // Who finds the same end answers with what stands for it.
    let draw = world.draw(DrawKind::Last, record);
    let answer = ended_state(&state_root, 40);
    let view = world.history.audits(job).unwrap().into_iter().find(|it| it.draw == draw).unwrap();
    assert_eq!((view.last_step, view.state_root), (40, answer));
    let all = world.sealed(draw, answer, records_of(1));
    world.open(record);
    for assign in all {
        world.show(assign, answer, records_of(1));
    }
    world.verdict(draw, VerdictKind::Match);
}

/// Both lies differ from a replay in the state, though state and records are right.
#[test]
fn a_false_end_and_a_missed_one_are_faults() {
    for claims in [true, false] {
        let mut world = world();
        world.commit(1);
        let commit = Commit { ends: claims, ..world.next_commit(1) };
        let record = world.push(&commit.sign(&sidecar(1)).unwrap()).unwrap().id;
        let answer = if claims { commit.state_root } else { ended_state(&commit.state_root, 40) };
        let draw = world.draw(DrawKind::Tenant, record);
        let first = world.assign(draw, AssignReason::First);
        world.seal(first, answer, records_of(1));
        let second = world.draw(DrawKind::Second, draw);
        let joins = world.history.draws[&draw].second.unwrap().1;
        let mut all = vec![first];
        if joins {
            let other = world.assign(second, AssignReason::First);
            world.seal(other, answer, records_of(1));
            all.push(other);
        }
        world.open(record);
        let mut shown: Vec<_> = all.iter().map(|assign| world.show(*assign, answer, records_of(1))).collect();
        let matched = world.verdict_of(draw, VerdictKind::Match).sign(&hub()).unwrap();
        assert!(world.history.clone().apply(world.index, &matched).is_err(), "claims {claims}");
        if !joins {
            let other = world.assign(draw, AssignReason::Dispute);
            world.seal(other, answer, records_of(1));
            shown.push(world.show(other, answer, records_of(1)));
        }
        shown.sort_unstable();
        let mut fault = world.verdict_of(draw, VerdictKind::Fault);
        fault.party = Some(text("east"));
        fault.evidence = Some(Evidence { kind: EvidenceKind::Replays, records: shown });
        world.hub(&fault);
    }
}
