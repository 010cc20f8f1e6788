//! The tests: every story without faults, many schedules with them, and every planted mistake.
//!
//! `make simulate`, `make mistakes` and `make schedule NAME=...` run them by the thousand, optimised; here are as many as an unoptimised
//! build gets through in a minute.
use std::thread::available_parallelism;

use muster_testkit::explore::{Schedule, explore, run, schedules};
use muster_testkit::faults::{Fault, Plan};

use super::{planted, story, world};

fn setting<T: std::str::FromStr>(name: &str) -> Option<T>
where
    T::Err: std::fmt::Display,
{
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|error| panic!("{name}={text:?}: {error}")))
}

fn threads() -> usize {
    available_parallelism().map_or(1, Into::into)
}

fn without_faults(story: &str) -> Schedule {
    Schedule { story: story.to_owned(), seed: 1, faults: Plan::new() }
}

/// How many calls each story makes without a fault.
fn calls() -> Vec<(&'static str, usize)> {
    story::ALL.iter().map(|story| (story.name, run(&without_faults(story.name), world::run).calls)).collect()
}

#[test]
fn every_story_ends_well() {
    for story in story::ALL {
        let began = std::time::Instant::now();
        let outcome = run(&without_faults(story.name), world::run);
        println!("{}: {} calls in {:?}", story.name, outcome.calls, began.elapsed());
        assert_eq!(outcome.violations, Vec::<String>::new(), "{}: {:#?}", story.name, outcome.trace);
    }
}

#[test]
fn tenants_get_their_shares() {
    let outcome = run(&without_faults(story::WEIGHTS.name), world::run);
    assert_eq!(outcome.violations, Vec::<String>::new(), "{:#?}", outcome.trace);
}

#[test]
fn a_schedule_is_the_same_every_time() {
    let count = setting("MUSTER_SCHEDULES").unwrap_or(10);
    let seed = setting("MUSTER_SEED").unwrap_or(5);
    let all = schedules(&calls(), &Fault::ALL, count, seed);
    for schedule in &all {
        let (one, other) = (run(schedule, world::run), run(schedule, world::run));
        let differs = one.trace.iter().zip(&other.trace).position(|(one, other)| one != other);
        assert_eq!(
            differs,
            None,
            "{schedule}: {:?} {:?}",
            &one.trace[differs.unwrap_or(0)..],
            &other.trace[differs.unwrap_or(0)..]
        );
        assert_eq!(one, other, "{schedule}");
    }
}

#[test]
fn many() {
    let count = setting("MUSTER_SCHEDULES").unwrap_or(100);
    let seed = setting("MUSTER_SEED").unwrap_or(1);
    let summary = explore(&schedules(&calls(), &Fault::ALL, count, seed), threads(), 20, world::run);
    println!("{summary}");
    assert!(summary.broken.is_empty(), "{summary}");
}

/// Mistakes, and faults that show them; without any if a story is enough.
const MISTAKES: [(&str, &[Fault]); 27] = [
    ("no-job-finalizer", &[]),
    ("end-not-logged", &[]),
    ("no-grant-end", &[]),
    ("no-rollback", &[]),
    ("convicted-again", &[]),
    ("windows-ignored", &[]),
    ("transition-always", &[]),
    ("drain-ignored", &[]),
    ("suspend-ignored", &[]),
    ("queue-ignored", &[]),
    ("place-kept", &[]),
    ("revoked-keeps-rights", &[]),
    ("let-go-not-deleted", &[]),
    ("settles-forever", &[]),
    ("promises-not-kept", &[]),
    ("nobody-makes-way", &[]),
    ("stuck-for-ever", &[]),
    ("moves-though-deaf", &[]),
    ("no-retry", &[Fault::Refused(500)]),
    ("conflict-waits", &[Fault::Refused(409)]),
    ("lost-is-logged", &[Fault::Unreached]),
    ("end-noted-first", &[Fault::CrashBefore, Fault::Unreached]),
    ("keys-once", &[Fault::Refused(503)]),
    ("silence-by-watch", &[Fault::Frozen]),
    ("no-unit-finalizer", &[Fault::Deleted]),
    ("lease-not-missed", &[Fault::Deleted]),
    ("epoch-forgets-fence", &[Fault::CrashAfter, Fault::Deleted]),
];

/// One after the other, for there is one switch.
#[test]
#[ignore = "takes minutes, and no other simulation may run beside it: make mistakes"]
fn every_mistake_is_noticed() {
    let calls = calls();
    let mut missed = Vec::new();
    let only: Option<String> = setting("MUSTER_MISTAKE");
    for (mistake, faults) in MISTAKES {
        if only.as_ref().is_some_and(|only| only != mistake) {
            continue;
        }
        planted::switch(Some(mistake));
        let plain: Vec<Schedule> = story::ALL.iter().map(|story| without_faults(story.name)).collect();
        let all = if faults.is_empty() { plain } else { schedules(&calls, faults, 3000, 11) };
        let summary = explore(&all, threads(), 1, world::run);
        planted::switch(None);
        match summary.broken.first() {
            Some((schedule, why)) => {
                println!(
                    "{mistake}: noticed after {} schedules, in {:.1?}, by {schedule}: {}",
                    summary.ran,
                    summary.took,
                    why.join("; ")
                );
            }
            None => {
                println!("{mistake}: NOT NOTICED by {} schedules in {:.1?}", summary.ran, summary.took);
                missed.push(mistake);
            }
        }
    }
    assert!(missed.is_empty(), "not noticed: {missed:?}");
}

#[test]
fn one() {
    let Some(schedule) = setting::<Schedule>("MUSTER_SCHEDULE") else { return };
    if std::env::var_os("RUST_LOG").is_some() {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
    }
    let outcome = run(&schedule, world::run);
    println!("{}\n{} calls", outcome.trace.join("\n"), outcome.calls);
    assert!(outcome.violations.is_empty(), "{schedule}: {:#?}", outcome.violations);
}
