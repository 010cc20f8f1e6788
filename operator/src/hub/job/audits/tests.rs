//! Which checkpoints count, as far as the log was read.
use muster_core::audits::PathEntry;
use muster_core::lifecycle::audits::Tally;
use serde_json::json;

use super::*;

fn digest(text: &str) -> Digest {
    Digest::of(text.as_bytes())
}

fn entry(record: &str, index: u64) -> Entry {
    Entry { record: digest(record), index }
}

/// Steps 20 and 40 count, of a log of which 50 entries were read.
fn book() -> JobAudits {
    let of = |last: i64| PathEntry {
        first: last - 19,
        last,
        epoch: 1,
        record: digest(&format!("commit {last}")),
        state_root: digest(&format!("state {last}")),
        manifest: Some(digest(&format!("manifest {last}"))),
    };
    JobAudits { seen_log: 50, path: vec![of(20), of(40)], ..JobAudits::default() }
}

fn rolled_back() -> JobAudits {
    let rollback = Rollback {
        epoch: 2,
        step: 40,
        verdict: digest("verdict"),
        verdict_index: 48,
        provider: Some("east".into()),
        interval: 2,
    };
    JobAudits { rollback: Some(rollback), ..book() }
}

#[test]
fn a_checkpoint_counts_if_its_commit_is_on_the_path() {
    let (book, back) = (book(), rolled_back());
    let manifest = |step: u64| digest(&format!("manifest {step}"));
    let counts = |book: &JobAudits, step, logged: Option<Entry>| {
        is_on_path(book, step, &manifest(step), logged.as_ref())
    };
    assert!(counts(&back, 40, Some(entry("commit 40", 30))));
    assert!(!counts(&back, 40, Some(entry("another", 30))), "it was undone, and another stands in its place");
    assert!(!counts(&back, 60, Some(entry("commit 60", 40))), "it was undone");
    assert!(counts(&back, 60, Some(entry("commit 60", 50))), "it is newer than what was read");
    assert!(counts(&back, 40, None) && !counts(&back, 60, None), "its gateway has died before it could say");
    assert!(counts(&book, 60, None));
    assert!(!is_on_path(&back, 40, &digest("other"), None));
}

#[test]
fn so_does_what_a_status_says() {
    let says = |step: i64, log_index: Option<i64>| -> JobCheckpoint {
        serde_json::from_value(json!({
            "step": step, "stateRoot": digest(&format!("state {step}")), "manifest": digest("m"), "logIndex": log_index,
        }))
        .unwrap()
    };
    let (book, back) = (book(), rolled_back());
    assert!(still_counts(&back, &says(40, Some(30))) && !still_counts(&back, &says(60, Some(40))));
    assert!(still_counts(&back, &says(60, Some(50))) && !still_counts(&back, &says(60, None)));
    assert!(still_counts(&book, &says(60, None)));
    let other = JobCheckpoint { state_root: digest("other").to_string(), ..says(40, Some(30)) };
    assert!(!still_counts(&back, &other));
}

#[test]
fn why_it_goes_back_names_who_what_and_where() {
    let rollback = rolled_back().rollback.unwrap();
    let said = why(&rollback);
    assert_eq!(said.reason, "FaultFound");
    for part in ["provider east", "interval 2", "log index 48"] {
        assert!(said.message.contains(part), "{}", said.message);
    }
    let unclear = why(&Rollback { provider: None, ..rollback });
    assert!(unclear.reason == "Recovering" && unclear.message.contains("nobody could tell"));
}

#[test]
fn how_soon_to_look_again() {
    let tally = |faults| Tally { drawn: 2, faults, ..Tally::default() };
    assert_eq!(look_again(&Audits::None), None);
    assert_eq!(look_again(&Audits::Settled(tally(1))), None);
    assert_eq!(look_again(&Audits::Unknown), Some(SOON));
    assert_eq!(look_again(&Audits::Open(tally(0))), Some(NOW_AND_THEN));
    assert_eq!(look_again(&Audits::Open(tally(1))), Some(SOON));
}
