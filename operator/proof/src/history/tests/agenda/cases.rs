//! Worlds that are told, each to its end.

use super::*;

const THREE: [&str; 3] = ["acme", "globex", "initech"];
const CHEATS: [Trainer; 5] =
    [Trainer::WrongState, Trainer::WrongRecords, Trainer::Silent, Trainer::SilentWrong, Trainer::Misopens];
const LIARS: [Auditor; 6] = [
    Auditor::Guesses,
    Auditor::HashesCheckpoint,
    Auditor::CopiesSeal,
    Auditor::SealsOnly,
    Auditor::NeverSeals,
    Auditor::Declines,
];

/// The states that an honest job of so many intervals goes through.
fn right_path(play: &Play, intervals: u64) -> Vec<Digest> {
    let step = |start: &mut Digest, k| {
        *start = truth(*start, k).0;
        Some(*start)
    };
    (0..intervals).scan(play.world.job.genesis, step).collect()
}

fn path(play: &Play) -> Vec<Digest> {
    play.history().path(play.world.id, 0).into_iter().map(|it| it.state_root).collect()
}

#[test]
fn an_honest_job_is_settled_whoever_may_audit() {
    for owners in [&["globex", "initech", "umbrella"][..], &["acme", "globex"], &["acme"], &[]] {
        let play = Play::new("honest", gold(12)).owners(owners).settles();
        assert_eq!(path(&play), right_path(&play, 12));
        assert_eq!(play.faults(), []);
        // Three windows, the grant's first interval and the job's last.
        assert_eq!(play.verdicts(), [VerdictKind::Match; 5]);
        let reasons =
            play.history().assigns.values().map(|it| (it.reason, it.auditor.as_str() == HUB_AUDITOR));
        assert!(reasons.into_iter().all(|(reason, hub)| hub == (reason == AssignReason::LastResort)));
    }
}

#[test]
fn every_cheating_trainer_is_convicted_where_two_owners_can_say_so() {
    for cheat in CHEATS {
        for owners in [&THREE[..], &["acme", "globex"]] {
            for lies in [1, 3] {
                let play = Play::new("cheat", gold(12)).owners(owners).trains("east", cheat, lies);
                let mut play = play;
                play.train = vec!["east", "west"];
                let play = play.settles();
                assert_eq!(path(&play).len(), 12);
                // East's first interval is always drawn.
                let wrong = !matches!(cheat, Trainer::Silent | Trainer::Misopens);
                let want = if wrong { vec![(VerdictKind::Fault, "east".to_owned())] } else { Vec::new() };
                let mut faults = play.faults();
                faults.dedup();
                assert_eq!(faults, want, "{cheat:?}");
                if wrong {
                    assert_eq!(path(&play), right_path(&play, 12));
                    assert!(play.history().lowest_epoch(play.world.id, 0) > 2);
                }
            }
        }
    }
}

#[test]
fn what_one_owner_can_say_convicts_nobody_and_leads_back() {
    for cheat in CHEATS {
        let play = Play::new("alone", gold(7)).owners(&["acme"]).trains("east", cheat, 2).settles();
        assert_eq!(play.faults(), []);
        assert!(play.verdicts().contains(&VerdictKind::Inconclusive));
        assert_eq!(path(&play), right_path(&play, 7));
    }
}

#[test]
fn a_lying_auditor_does_no_honest_trainer_harm() {
    for liar in LIARS {
        for (owners, few) in [(&["globex", "initech", "umbrella"][..], false), (&["globex"], true)] {
            let play = Play::new("liar", gold(12)).owners(owners).audits("west", liar).settles();
            assert_eq!(path(&play), right_path(&play, 12), "{liar:?}");
            assert!(play.faults().iter().all(|(kind, party)| {
                (*kind, party.as_str()) == (VerdictKind::AuditorFault, "west") && !few
            }));
            let answers = !matches!(liar, Auditor::NeverSeals | Auditor::Declines);
            assert_eq!(play.faults().is_empty(), few || !answers, "{liar:?}");
            assert_eq!(play.verdicts().contains(&VerdictKind::Inconclusive), few && answers);
        }
    }
}

#[test]
fn an_owner_of_an_audit_that_came_to_nothing_is_not_asked_again() {
    let play = Play::new("nothing", gold(12)).owners(&["globex"]).audits("west", Auditor::Guesses).settles();
    let audits = play.history().audits(play.world.id).unwrap();
    let nothing = |audit: &&AuditView| audit.verdict.as_ref().unwrap().kind == VerdictKind::Inconclusive;
    let first = audits.iter().find(nothing).unwrap().verdict.as_ref().unwrap().index;
    let later = audits.iter().filter(|audit| audit.index > first && audit.kind != DrawKind::Window);
    assert!(later.clone().count() > 0);
    assert!(later.into_iter().all(|audit| audit.order.is_empty()));
}

#[test]
fn a_colluding_second_is_convicted_with_its_trainer() {
    let found = (0..200).find_map(|n| {
        let play =
            Play::new(&format!("collusion {n}"), gold(7)).owners(&["acme", "globex", "initech", "umbrella"]);
        let mut play = play.trains("east", Trainer::WrongState, 1).audits("west", Auditor::Colludes);
        play.train = vec!["east", "south"];
        let play = play.settles();
        let faults = play.faults();
        let first = play.history().audits(play.world.id).unwrap().into_iter().next().unwrap();
        let second = first.assigns.iter().find(|it| it.second)?;
        (second.auditor.as_str() == "west").then_some(faults)
    });
    let want = [(VerdictKind::AuditorFault, "west"), (VerdictKind::Fault, "east")];
    let faults = found.unwrap();
    let faults: Vec<_> = faults.iter().map(|(kind, party)| (*kind, party.as_str())).take(2).collect();
    assert_eq!(faults, want);
}

#[test]
fn two_against_two_is_no_majority() {
    // West and north say what the trainer says, and it lies; south and the hub differ. Nobody is convicted on that ground.
    let play = Play::new("even", gold(5)).trains("east", Trainer::WrongState, 1);
    let mut play = play.audits("west", Auditor::Colludes).audits("north", Auditor::Colludes);
    play.train = vec!["east", "south"];
    play.run();
    play.is_settled();
    for audit in play.history().audits(play.world.id).unwrap() {
        let opened: Vec<_> = audit.assigns.iter().filter_map(|it| it.opened).collect();
        let sides: BTreeSet<_> = opened.iter().collect();
        if opened.len() == 4 && sides.len() == 2 {
            assert_eq!(audit.verdict.unwrap().kind, VerdictKind::Inconclusive);
        }
    }
}

#[test]
fn a_job_or_grant_that_ends_in_mid_window_is_audited_to_its_end() {
    let mut play = Play::new("cancelled", gold(40)).owners(&THREE);
    while path(&play).len() < 7 {
        play.trains_on();
        if play.hub(usize::MAX) == 0 {
            play.actors();
        }
    }
    assert_eq!(play.history().windows.len(), 1);
    play.cancelled = true;
    let play = play.settles();
    assert_eq!((play.history().windows.len(), path(&play).len()), (2, 7));

    let mut play = Play::new("lost", gold(12)).owners(&THREE);
    for _ in 0..3 {
        play.trains_on();
    }
    play.grant_end(GrantEndReason::Lost);
    play.train = vec!["west"];
    let play = play.settles();
    assert_eq!(path(&play), right_path(&play, 12));
    let first = play.history().audits(play.world.id).unwrap();
    assert_eq!(first.iter().filter(|audit| audit.kind == DrawKind::First).count(), 2);
}

#[test]
fn all_that_is_run_again_is_audited_by_owners_that_had_no_part_in_it() {
    let play = Play::new("rerun", gold(12)).owners(&["acme", "globex", "initech", "umbrella"]);
    let mut play = play.trains("east", Trainer::WrongState, 1);
    play.train = vec!["east", "west"];
    let play = play.settles();
    let audits = play.history().audits(play.world.id).unwrap();
    let rerun: Vec<_> = audits.iter().filter(|audit| audit.kind == DrawKind::Rerun).collect();
    assert!(!rerun.is_empty());
    for audit in rerun {
        assert_eq!(audit.subject_owner.as_str(), "globex");
        assert!(audit.order.iter().all(|name| ["north", "south"].contains(&name.as_str())));
    }
    // The faulty commit was drawn as the grant's first, and maybe by its window: one audit, one verdict for all.
    let faults: Vec<_> = audits.iter().filter(|it| !it.counts && it.interval == 0).collect();
    assert_eq!(faults.iter().filter(|it| !it.assigns.is_empty()).count(), 1);
}

#[test]
fn draws_of_one_commit_share_one_audit() {
    let play = Play::new("platinum", |job| (job.tier, job.steps) = (Tier::Platinum, Step::new(60).unwrap()));
    let play = play.owners(&THREE).settles();
    let audits = play.history().audits(play.world.id).unwrap();
    // Three windows of one interval, the first and the last.
    assert_eq!((audits.len(), play.verdicts()), (5, vec![VerdictKind::Match; 5]));
    assert_eq!(audits.iter().filter(|audit| audit.shared.is_some()).count(), 2);
    assert!(audits.iter().all(|audit| audit.shared.is_some() == audit.assigns.is_empty()));
}

#[test]
fn a_paused_hub_begins_nothing_and_ends_what_is_begun() {
    let mut play = Play::new("paused", gold(12)).owners(&THREE);
    while play.history().draws.is_empty() {
        play.trains_on();
        play.hub(usize::MAX);
    }
    play.field.draws = false;
    play.run();
    let base = play.history().draws.values().filter(|draw| draw.kind != DrawKind::Second).count();
    assert_eq!((base, play.verdicts()), (1, vec![VerdictKind::Match]));
    play.field.draws = true;
    play.settles();
}

#[test]
fn without_anybody_to_ask_nothing_is_fixed() {
    let mut play = Play::new("nobody", gold(12)).owners(&["acme"]);
    play.field.hub_auditor = false;
    play.run();
    let commits = &play.history().jobs[&play.world.id].islands[0].path;
    let first = commits[0];
    assert_eq!(commits.len(), 5);
    // The window's close and the draw of the grant's first interval.
    assert_eq!(play.agenda(), [Todo::NoAuditor { draw: first }, Todo::NoAuditor { draw: first }]);
    // Somebody comes: it is asked.
    play.field.candidates = eligible(&[("globex", &["west"])]);
    play.hub(usize::MAX);
    let lists = play.history().windows.values().map(|window| &window.eligible);
    assert!(lists.into_iter().all(|list| *list == play.field.candidates));
    play.field.hub_auditor = true;
    play.settles();
}

#[test]
fn an_audit_waits_for_the_hubs_auditor_if_nobody_else_is_left() {
    let mut play = Play::new("hub", gold(12)).owners(&["globex"]).audits("west", Auditor::Declines);
    play.field.hub_auditor = false;
    play.run();
    let waits = play.agenda();
    let draws: BTreeSet<_> = play.history().draws.keys().copied().collect();
    assert!(!waits.is_empty());
    for todo in waits {
        let Todo::NoAuditor { draw } = todo else { panic!("{todo:?}") };
        assert!(draws.contains(&draw));
    }
    play.field.hub_auditor = true;
    play.hub(usize::MAX);
    // It goes away, or gives up, before it has sealed: what counts waits for it.
    for gives_up in [false, true] {
        play.field.hub_auditor = gives_up;
        let hubs = play.history().due(&text(HUB_AUDITOR)).replays;
        assert!(!hubs.is_empty());
        play.field.given_up.extend(hubs.iter().filter(|_| gives_up).map(|id| (*id, GivenUp::Silent)));
        assert!(play.agenda().iter().all(|todo| matches!(todo, Todo::NoAuditor { .. })));
        for id in hubs {
            play.field.given_up.remove(&id);
        }
    }
    play.settles();
}

#[test]
fn what_was_rolled_back_does_not_wait_for_ever() {
    let mut play = Play::new("void", gold(12)).owners(&["acme"]).trains("east", Trainer::WrongState, 1);
    // The first interval is found wrong while four more stand on it.
    while play.history().jobs[&play.world.id].islands[0].path.len() < 5 {
        play.trains_on();
    }
    while play.history().jobs[&play.world.id].islands[0].rollbacks.is_empty() {
        if play.hub(usize::MAX) == 0 {
            play.actors();
        }
    }
    while !matches!(play.waits.first(), Some(Todo::AwaitSeal { .. })) {
        if play.hub(usize::MAX) == 0 && play.waits.is_empty() {
            break;
        }
    }
    // The window that was rolled back is drawn from; its start is gone, and the hub's auditor gives up.
    for id in play.history().due(&text(HUB_AUDITOR)).replays {
        play.field.given_up.insert(id, GivenUp::Declined);
    }
    play.settles();
}

#[test]
fn a_chain_may_be_used_up() {
    let mut play = Play::new("short", gold(12)).owners(&THREE);
    play.chain.truncate(2);
    play.run();
    assert_eq!(play.history().draws.len(), 2);
    assert!(play.agenda().contains(&Todo::ChainUsedUp));
    assert_eq!(play.agenda().iter().filter(|todo| **todo == Todo::ChainUsedUp).count(), 1);
}

#[test]
fn who_has_no_key_is_waited_for_no_more() {
    let mut play = Play::new("revoked", gold(12)).owners(&["globex", "initech"]);
    play.trains_on();
    while play.history().assigns.is_empty() {
        play.trains_on();
        play.hub(usize::MAX);
    }
    let (first, asked) = {
        let (id, assign) = play.history().assigns.iter().next().unwrap();
        (*id, assign.auditor.to_string())
    };
    let key = identity(&asked).key_id();
    let revoked = KeyRevocation { hub: play.world.job.hub.clone(), provider: text(&asked), key };
    play.push(&revoked.sign(&super::super::hub()).unwrap());
    play.hub(usize::MAX);
    assert!(play.history().assigns[&first].replaced);
    play.settles();
}

#[test]
fn without_a_tier_only_the_tenants_draws_are_audited() {
    let mut play = Play::new("none", |job| job.tier = Tier::None);
    play.run();
    assert!(play.ended() && play.agenda().is_empty());
    let first = play.history().jobs[&play.world.id].islands[0].path[0];
    let draw = Draw {
        job: play.world.id,
        kind: DrawKind::Tenant,
        subject: first,
        index: ChainIndex::new(0).unwrap(),
        preimage: play.chain[0],
        eligible: Some(auditors()),
    };
    play.push(&draw.sign(&super::super::hub()).unwrap());
    let play = play.settles();
    assert_eq!(play.verdicts(), [VerdictKind::Match]);
}

#[test]
fn all_islands_go_back_the_verdicts_own_first() {
    let two = |job: &mut Job| {
        gold(12)(job);
        job.islands = Islands::new(2).unwrap();
    };
    let mut play =
        Play::new("islands", two).owners(&["acme", "globex"]).trains("east", Trainer::WrongState, 1);
    play.trains_on();
    while play.history().jobs[&play.world.id].islands[0].path.is_empty() {
        play.trains_on();
    }
    let back = loop {
        let logs = play.agenda();
        if matches!(logs.first(), Some(Todo::Log(it)) if matches!(**it, Unsigned::Rollback(_))) {
            break logs;
        }
        if play.hub(usize::MAX) == 0 {
            play.actors();
        }
    };
    let islands: Vec<_> = back
        .iter()
        .map(|todo| match todo {
            Todo::Log(it) => match &**it {
                Unsigned::Rollback(it) => (it.island.get(), it.epoch.get()),
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(islands, [(0, 2), (1, 1)]);
    // A crash after the first: the other island still goes back.
    play.hub(1);
    assert_eq!(play.agenda(), back[1..]);
    play.hub(1);
    assert!(!play.agenda().iter().any(|todo| back.contains(todo)));
    assert_eq!(play.history().lowest_epoch(play.world.id, 1), 1);
}

/// All seals and openings are there, and who gave them could still be shown another log: nobody is judged by them.
#[test]
fn a_verdict_waits_for_a_head_that_counts() {
    for cheat in [Trainer::Honest, Trainer::WrongState] {
        let mut play = Play::new("unseen", gold(12)).owners(&THREE).trains("east", cheat, 1);
        play.train = vec!["east", "west"];
        play.seen = false;
        play.run();
        assert_eq!(play.verdicts(), []);
        let waits: Vec<_> = play.agenda();
        let size = waits.iter().filter_map(|todo| match todo {
            Todo::AwaitWitnesses { size, .. } => Some(*size),
            _ => None,
        });
        let least = size.min().unwrap();
        play.field.counted = least - 1;
        assert!(!play.agenda().iter().any(|todo| matches!(todo, Todo::Log(_))), "one entry is missing");
        play.field.counted = least;
        assert!(play.agenda().iter().any(|todo| matches!(todo, Todo::Log(_))));
        play.seen = true;
        let play = play.settles();
        assert_eq!(path(&play), right_path(&play, 12));
    }
}
