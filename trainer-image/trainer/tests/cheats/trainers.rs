//! Lies about the computation: each changes the state or the records, and costs its teller a Fault.
use muster_proof::records::{EvidenceKind, VerdictKind};

use muster_trainer::failed::Failed;

use crate::runs::{Came, Run};
use crate::world::{TRAINER, Trainer, World};

/// All that the trainer's cheats are (`worker/cheat.rs`) but the false failure, and whether the state is wrong or only what is
/// said of it.
const LIES: [(&str, bool); 8] = [
    ("skips-shard", true),
    ("stale-step", true),
    ("wrong-batch", true),
    ("one-ulp", true),
    ("wrong-learning-rate", true),
    ("false-loss", false),
    ("false-eval-loss", false),
    ("other-start", true),
];

#[test]
fn an_honest_run_matches() {
    let (run, mut world) = (Run::honest(), World::new("honest"));
    for k in 0..run.came.len() {
        assert_eq!(run.replay(k as u64), run.came[k]);
    }
    world.train(TRAINER, 1, &run);
    world.settle();
    assert!(world.verdicts.iter().all(|verdict| verdict.verdict == VerdictKind::Match));
    assert!(world.verdicts.len() >= 2, "first and last at least: {:?}", world.verdicts);
    world.ends_well(&[]);
}

#[test]
fn each_lie_changes_what_is_committed() {
    let honest = Run::honest();
    for (lie, state) in LIES {
        let run = Run::cheating(lie);
        assert_eq!(run.came[0].state != honest.came[0].state, state, "{lie}");
        // A replay of the first interval starts at genesis, whatever the liar started from.
        assert_eq!(run.replay(0), honest.came[0], "{lie}");
        assert_ne!(run.replay(0), run.came[0], "{lie}");
    }
}

#[test]
fn each_lie_is_a_fault_and_the_job_ends_with_the_right_bits() {
    for (lie, _) in LIES {
        let mut world = World::new(lie);
        world.train(TRAINER, 1, &Run::cheating(lie));
        world.settle();
        let fault = (VerdictKind::Fault, TRAINER.to_owned(), EvidenceKind::Replays);
        assert!(world.convicted().contains(&fault), "{lie}: {:?}", world.verdicts);
        assert!(world.convicted().iter().all(|convicted| *convicted == fault), "{lie}: {:?}", world.verdicts);
        // Whichever interval was judged first, the job has gone back to where the lies began.
        let back = world.rollbacks.iter().map(|rollback| rollback.to_interval.get()).min();
        assert_eq!(back, Some(0), "{lie}");
        world.ends_well(&[TRAINER]);
    }
}

/// Nothing is computed wrongly, and the job is said to be at its end: whoever replays the interval finds that it goes on.
#[test]
fn a_false_failure_is_a_fault_and_the_job_goes_on() {
    let (run, honest) = (Run::cheating("false-failure"), Run::honest());
    assert_eq!((run.came.as_slice(), run.failed.as_ref().map(Failed::step)), (&honest.came[..1], Some(7)));
    assert_eq!(run.replay(1), honest.came[1]);
    let mut world = World::new("false failure");
    world.start(TRAINER, 1);
    world.commit((TRAINER, 1), &run, None);
    world.fail((TRAINER, 1), &run);
    world.settle();
    let fault = (VerdictKind::Fault, TRAINER.to_owned(), EvidenceKind::Replays);
    assert_eq!(world.convicted(), [fault]);
    assert_eq!(world.rollbacks[0].to_interval.get(), 1, "what was right before stays");
    world.ends_well(&[TRAINER]);
}

#[test]
fn a_liar_who_says_nothing_is_convicted_by_two_replays() {
    let mut world = World::new("guilty and silent");
    world.trainer = Trainer::Silent;
    world.train(TRAINER, 1, &Run::cheating("one-ulp"));
    world.settle();
    let fault = (VerdictKind::Fault, TRAINER.to_owned(), EvidenceKind::Silence);
    assert!(world.convicted().contains(&fault), "{:?}", world.verdicts);
    world.ends_well(&[TRAINER]);
}

#[test]
fn an_honest_trainer_who_is_lost_is_cleared() {
    let mut world = World::new("innocent and silent");
    world.trainer = Trainer::Silent;
    world.train(TRAINER, 1, &Run::honest());
    world.settle();
    assert_eq!(world.convicted(), []);
    assert!(world.verdicts.iter().all(|verdict| verdict.verdict == VerdictKind::Match));
    world.ends_well(&[]);
}

/// Of a job with the same training digest everybody can see the state, nobody the records.
#[test]
fn a_copied_state_has_no_records() {
    let (run, mut world) = (Run::honest(), World::new("copied commit"));
    world.start(TRAINER, 1);
    let copied = Came { records: muster_proof::Digest::of(b"invented"), ..run.came[0] };
    world.commit((TRAINER, 1), &run, Some(copied));
    world.finish((TRAINER, 1), &run);
    world.settle();
    let fault = (VerdictKind::Fault, TRAINER.to_owned(), EvidenceKind::Replays);
    assert!(world.convicted().contains(&fault), "{:?}", world.verdicts);
    world.ends_well(&[TRAINER]);
}
