//! Lies about commits and keys: the log does not take them, and nobody else is harmed.
use muster_proof::history::Refusal;
use muster_proof::records::{Payload as _, VerdictKind};

use crate::runs::Run;
use crate::world::{TRAINER, World, bound, key};

/// Nothing has changed: the job ends as if nobody had tried.
fn unharmed(mut world: World, run: &Run) {
    world.finish((TRAINER, 1), run);
    world.settle();
    assert!(world.verdicts.iter().all(|verdict| verdict.verdict == VerdictKind::Match));
    world.ends_well(&[]);
}

#[test]
fn the_first_commit_of_an_interval_stands() {
    let (honest, other) = (Run::honest(), Run::cheating("one-ulp"));
    let mut world = World::new("commits twice");
    world.start(TRAINER, 1);
    let second = world.next(1, other.came[0]).sign(&bound(TRAINER, 1)).unwrap();
    let again = world.next(1, honest.came[0]).sign(&bound(TRAINER, 1)).unwrap();
    let first = world.commit((TRAINER, 1), &honest, None);
    assert!(world.push(&second).is_err(), "another state of the same interval");
    assert_eq!(again.record_id(), first, "an honest crash and retry is the same record");
    unharmed(world, &honest);
}

#[test]
fn a_key_that_another_provider_binds_signs_nothing() {
    let (run, mut world) = (Run::honest(), World::new("forged binding"));
    world.grant(TRAINER, 1);
    let own = bound("west", 1);
    let forged = world.binding(1, &own).sign(&key("west")).unwrap();
    assert!(matches!(world.push(&forged), Err(Refusal::Signer { .. } | Refusal::Signature(_))));
    let commit = world.next(1, run.came[0]).sign(&own).unwrap();
    assert!(world.push(&commit).is_err(), "no key is bound");
    let binding = world.binding(1, &bound(TRAINER, 1)).sign(&key(TRAINER)).unwrap();
    world.push(&binding).unwrap();
    let commit = world.next(1, run.came[0]).sign(&own).unwrap();
    assert!(world.push(&commit).is_err(), "another key is bound");
    unharmed(world, &run);
}

#[test]
fn a_key_counts_from_its_binding_on() {
    let (run, mut world) = (Run::honest(), World::new("late binding"));
    world.grant(TRAINER, 1);
    let sidecar = bound(TRAINER, 1);
    let commit = world.next(1, run.came[0]).sign(&sidecar).unwrap();
    assert!(world.push(&commit).is_err(), "signed before it was bound");
    let binding = world.binding(1, &sidecar).sign(&key(TRAINER)).unwrap();
    world.push(&binding).unwrap();
    unharmed(world, &run);
}

#[test]
fn a_commit_is_good_for_its_job_and_epoch_only() {
    let run = Run::honest();
    let mut one = World::new("replayed commit");
    let mut other = World::new("another job of the same digest");
    assert_ne!(one.id, other.id);
    one.start(TRAINER, 1);
    other.start(TRAINER, 1);
    // The same provider, the same bits, and all but the job the same.
    let commit = one.next(1, run.came[0]).sign(&bound(TRAINER, 1)).unwrap();
    assert!(other.push(&commit).is_err(), "a commit of another job");
    let of_epoch_9 = one.next(9, run.came[0]).sign(&bound(TRAINER, 1)).unwrap();
    assert!(one.push(&of_epoch_9).is_err(), "a commit of another epoch");
    unharmed(one, &run);
    unharmed(other, &run);
}
