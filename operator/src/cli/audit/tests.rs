use muster_proof::Digest;
use muster_proof::history::StartView;

use super::*;

fn digest(name: &str) -> Digest {
    Digest::of(name.as_bytes())
}

/// Interval 2 of east's was drawn from a window; west was asked.
fn audit() -> AuditView {
    AuditView {
        job: JobId(digest("job")),
        draw: digest("draw"),
        index: 41,
        kind: DrawKind::Window,
        subject: digest("window"),
        preimage: digest("preimage"),
        from: (0, 5),
        island: 0,
        epoch: 1,
        interval: 2,
        first_step: 41,
        last_step: 60,
        commit: digest("commit"),
        commit_index: 30,
        counts: true,
        subject_provider: "east".parse().unwrap(),
        subject_owner: "acme".parse().unwrap(),
        state_root: digest("state"),
        opened: None,
        grant: digest("grant"),
        start: StartView {
            step: 40,
            state_root: digest("before"),
            manifest: None,
            record: digest("earlier"),
        },
        shared: None,
        order: vec!["west".parse().unwrap(), "north".parse().unwrap()],
        second: None,
        assigns: vec![asked_of("west", AssignReason::First)],
        convictions: Vec::new(),
        verdict: None,
    }
}

fn asked_of(auditor: &str, reason: AssignReason) -> AssignView {
    AssignView {
        id: digest(auditor),
        index: 42,
        draw: digest("draw"),
        auditor: auditor.parse().unwrap(),
        owner: (auditor != "hub").then(|| "globex".parse().unwrap()),
        place: 0,
        reason,
        second: false,
        sealed: false,
        opened: None,
        replaced: false,
        convicted: false,
    }
}

fn verdict(kind: VerdictKind, party: Option<&str>, evidence: Option<EvidenceKind>) -> Option<VerdictView> {
    let party = party.map(|party| party.parse().unwrap());
    Some(VerdictView { id: digest("verdict"), index: 60, kind, party, evidence })
}

#[test]
fn every_record_of_an_audit_has_its_line_in_the_order_of_the_log() {
    let mut audit = audit();
    audit.second = Some(SecondView {
        draw: digest("s"),
        index: 44,
        preimage: digest("p"),
        joins: false,
        order: Vec::new(),
    });
    let own = (audit.state_root, digest("records"));
    audit.assigns[0] = AssignView { sealed: true, opened: Some(own), ..audit.assigns[0].clone() };
    audit.opened = Some(own.1);
    audit.verdict = verdict(VerdictKind::Match, None, None);
    assert_eq!(
        explain(&audit),
        [
            "#41     Window: interval 2 (steps 41 to 60) of island 0, the number of preimage and window-close mod 5 is 2, of \
             intervals 0 to 4; committed by east of acme under epoch 1 at #30",
            "#42       asked west (globex), place 0 in the order west north: the first of the order; it came to the committed \
             state",
            "#44       second: nobody joins, the number of preimage and draw mod 5 is not 0 or the hub's auditor has answered",
            "#60       Match: all replays have the committed state and step records",
        ]
    );
}

#[test]
fn what_an_audit_waits_for_is_said() {
    let last = |audit: &AuditView| explain(audit).pop().unwrap();
    let mut audit = audit();
    assert!(last(&audit).ends_with("no verdict yet: west must seal"));
    audit.assigns[0].sealed = true;
    assert!(last(&audit).ends_with("whether a second auditor joins is not drawn"));
    let second =
        SecondView { draw: digest("s"), index: 44, preimage: digest("p"), joins: true, order: Vec::new() };
    audit.second = Some(second);
    assert!(last(&audit).ends_with("west must open"));
    audit.assigns[0].opened = Some((audit.state_root, digest("records")));
    assert!(last(&audit).ends_with("the trainer east must open"));
    audit.opened = Some(digest("records"));
    assert!(last(&audit).ends_with("the hub must say what came out"));
    audit.assigns.clear();
    assert!(last(&audit).ends_with("nobody was asked"));
    audit.shared = Some(digest("other"));
    assert!(last(&audit).ends_with("that of the shared audit"));
    assert!(explain(&audit)[0].contains("whose verdict it shares"));
}

#[test]
fn verdicts_and_answers_name_who_was_wrong_and_on_what_ground() {
    let mut audit = audit();
    audit.counts = false;
    let mut hub = asked_of("hub", AssignReason::LastResort);
    hub.opened = Some((digest("other state"), digest("records")));
    audit.assigns.push(hub);
    audit.convictions.extend(verdict(VerdictKind::AuditorFault, Some("west"), Some(EvidenceKind::Silence)));
    audit.verdict = verdict(VerdictKind::Fault, Some("east"), Some(EvidenceKind::Replays));
    let text = explain(&audit).join("\n");
    for want in [
        "since rolled back",
        "asked hub (the hub's own auditor)",
        "nobody of the order is left; it came to another state",
        "Fault of the auditor west: it did not open",
        "Fault of the trainer east: two owners or more have replayed and agree on something else",
    ] {
        assert!(text.contains(want), "{want}: {text}");
    }
    audit.verdict = verdict(VerdictKind::Inconclusive, None, None);
    assert!(explain(&audit).pop().unwrap().contains("Inconclusive"));
}

#[test]
fn what_is_open_or_wrong_stands_below() {
    let mut report = Report::new(false);
    assert_eq!(rest(&report)[1..], ["settled: nothing that had to follow is missing", "result: holds"]);
    report.add("end", Came::Incomplete, "draw x has no verdict", None);
    report.add("history", Came::Refuted, "record 7 of the log does not count", None);
    let want =
        ["wrong: record 7 of the log does not count", "open: draw x has no verdict", "result: refuted"];
    assert_eq!(rest(&report)[1..], want);
    let json = serde_json::to_value(explained(&report)).unwrap();
    assert_eq!(
        (json["outcome"].as_str(), json["open"][0].as_str()),
        (Some("refuted"), Some("draw x has no verdict"))
    );
}
