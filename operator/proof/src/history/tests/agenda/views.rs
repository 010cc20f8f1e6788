//! What others are shown of the audits.

use super::*;

#[test]
fn an_audit_is_shown_with_all_that_came_of_it() {
    let mut play = Play::new("views", gold(12)).owners(&["globex", "initech"]);
    while !play.agenda().iter().any(|todo| matches!(todo, Todo::AwaitOpening { .. })) {
        play.trains_on();
        if play.hub(usize::MAX) == 0 {
            play.actors();
        }
    }
    let audits = play.history().audits(play.world.id).unwrap();
    let audit = audits.iter().find(|audit| audit.assigns.iter().any(|it| it.sealed)).unwrap();
    let path = play.history().path(play.world.id, 0);
    let at = &path[audit.interval as usize];
    assert_eq!(audit.commit, at.record);
    assert_eq!((audit.first_step, audit.last_step, audit.state_root), (at.first, at.last, at.state_root));
    assert_eq!((audit.subject_provider.as_str(), audit.subject_owner.as_str()), ("east", "acme"));
    let start = match audit.interval.checked_sub(1) {
        Some(before) => {
            let before = &path[before as usize];
            (before.last, before.state_root, before.manifest, before.record)
        }
        None => (0, play.world.job.genesis, None, play.history().jobs[&play.world.id].record),
    };
    let shown = &audit.start;
    assert_eq!((shown.step, shown.state_root, shown.manifest, shown.record), start);
    let (first, count) = audit.from;
    assert!((first..first + count).contains(&audit.interval) && audit.counts);
    assert_eq!(audit.verdict, None);
    assert!(audit.second.is_some());
    assert_eq!(audit.order.first(), audit.assigns.first().map(|it| &it.auditor));
    assert_eq!(play.history().audit_of(&audit.assigns[0].id).as_ref(), Some(audit));
    assert_eq!(play.history().audit_of(&audit.draw), None);

    // What is due: the trainer's opening, its auditors' answers, and replays of others.
    assert!(play.history().due(&text("east")).openings.contains(&audit.commit));
    for assign in &audit.assigns {
        assert!(play.history().due(&assign.auditor).answers.contains(&assign.id));
    }
    assert_eq!(play.history().due(&text("east-two")), Default::default());
    let pinned = play.history().pinned(play.world.id).unwrap();
    assert!(audit.start.step == 0 || pinned.contains(&audit.start.step));
    assert!(!pinned.contains(&0));

    let play = play.settles();
    let again = play.history().audits(play.world.id).unwrap();
    let again = again.iter().find(|it| it.draw == audit.draw).unwrap();
    assert_eq!(again.verdict.as_ref().unwrap().kind, VerdictKind::Match);
    assert!(again.assigns.iter().all(|it| it.opened.is_some()) && again.opened.is_some());
    for (name, ..) in PROVIDERS {
        assert_eq!(play.history().due(&text(name)), Default::default());
    }
    let standing = play.history().standing(&text("east")).unwrap();
    assert_eq!((standing.intervals, standing.since_fault), (12, None));
    assert_eq!(play.history().standing(&text("nobody")), None);
    assert_eq!(play.history().lowest_epoch(play.world.id, 0), 2);
    assert_eq!(play.history().lowest_epoch(play.world.id, 7), 1);
    assert_eq!(play.history().path(play.world.id, 7), []);
    assert!(serde_json::to_value(again).unwrap()["subjectProvider"] == "east");
    let nobody = JobId(digest("x"));
    assert!(matches!(play.history().audits(nobody), Err(Refusal::Unknown { .. })));
    let none = play.history().agenda(nobody, &play.field, &|_| None);
    assert!(matches!(none, Err(Refusal::Unknown { .. })));
}

#[test]
fn nothing_is_due_before_all_have_sealed_nor_to_who_was_replaced() {
    let mut play = Play::new("due", gold(12)).owners(&["globex", "initech"]);
    while play.history().assigns.is_empty() {
        play.trains_on();
        play.hub(usize::MAX);
    }
    let (id, asked) = {
        let (id, assign) = play.history().assigns.iter().next().unwrap();
        (*id, assign.auditor.clone())
    };
    assert_eq!(play.history().due(&asked).replays, [id]);
    assert_eq!(play.history().due(&text("east")).openings, []);
    play.field.given_up.insert(id, GivenUp::Declined);
    play.hub(usize::MAX);
    assert_eq!(play.history().due(&asked).replays, []);
    let declined = play.history().audit_of(&id).unwrap();
    assert_eq!(declined.assigns[1].reason, AssignReason::Declined);
    assert!(declined.assigns[0].replaced);
}

#[test]
fn checkpoints_are_pinned_until_nothing_can_lead_back_to_them() {
    let mut play = Play::new("pins", gold(12)).owners(&["acme", "globex"]).trains("east", Trainer::Honest, 0);
    let c = play.world.job.interval_steps.get();
    while play.history().path(play.world.id, 0).len() < 4 {
        play.trains_on();
    }
    assert_eq!(play.history().pinned(play.world.id).unwrap(), BTreeSet::from([c, 2 * c, 3 * c]));
    let tier = play.history().jobs[&play.world.id].job.tier;
    assert_eq!(tier, Tier::Gold);
    play.train = vec!["west"];
    play.grant_end(GrantEndReason::Lost);
    play.run();
    assert_eq!(play.history().pinned(play.world.id).unwrap(), BTreeSet::new());
}
