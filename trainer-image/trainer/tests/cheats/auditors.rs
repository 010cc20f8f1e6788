//! Lies of those who check. An honest trainer never has a fault because of them, and a lying one does not get away.
use muster_proof::records::{EvidenceKind, VerdictKind};

use crate::runs::Run;
use crate::world::{Auditor, TRAINER, World};

/// An honest run; one auditor is not. In whichever audit it is asked, it is found out.
fn alone(lie: Auditor, grounds: EvidenceKind) {
    let mut found = false;
    // Who is asked follows from the draw, and the draw from the world's name.
    for seed in 0..4 {
        let mut world = World::new(&format!("{lie:?} {seed}"));
        world.auditors.insert("west", lie);
        world.train(TRAINER, 1, &Run::honest());
        world.settle();
        let fault = (VerdictKind::AuditorFault, "west".to_owned(), grounds);
        assert!(world.convicted().iter().all(|convicted| *convicted == fault), "{:?}", world.verdicts);
        let guilty: &[&str] = if world.convicted().is_empty() { &[] } else { &["west"] };
        found |= !guilty.is_empty();
        world.ends_well(guilty);
        assert!(world.rollbacks.is_empty(), "the trainer's commits stand");
    }
    assert!(found, "west was asked in none of four worlds");
}

#[test]
fn who_hashes_the_checkpoint_has_no_records() {
    alone(Auditor::HashesCheckpoint, EvidenceKind::Replays);
}

#[test]
fn a_copied_seal_opens_to_nothing() {
    alone(Auditor::CopiesSeal, EvidenceKind::Silence);
}

#[test]
fn who_seals_and_does_not_open_is_convicted() {
    alone(Auditor::Silent, EvidenceKind::Silence);
}

#[test]
fn who_declines_is_not() {
    let mut world = World::new("all decline");
    world.auditors.insert("west", Auditor::Declines);
    world.auditors.insert("north", Auditor::Declines);
    world.train(TRAINER, 1, &Run::honest());
    world.settle();
    assert_eq!(world.convicted(), []);
    world.ends_well(&[]);
}

/// A liar trains and a liar checks, each for himself: both are found out, and the third's bits stand.
#[test]
fn both_parties_lie() {
    for seed in 0..3 {
        let mut world = World::new(&format!("both lie {seed}"));
        world.auditors.insert("west", Auditor::HashesCheckpoint);
        world.train(TRAINER, 1, &Run::cheating("one-ulp"));
        world.settle();
        let convicted = world.convicted();
        let trainer = (VerdictKind::Fault, TRAINER.to_owned(), EvidenceKind::Replays);
        let auditor = (VerdictKind::AuditorFault, "west".to_owned(), EvidenceKind::Replays);
        assert!(convicted.contains(&trainer), "{:?}", world.verdicts);
        assert!(convicted.iter().all(|one| *one == trainer || *one == auditor), "{:?}", world.verdicts);
        let mut guilty = vec![TRAINER];
        guilty.extend(convicted.contains(&auditor).then_some("west"));
        world.ends_well(&guilty);
    }
}
