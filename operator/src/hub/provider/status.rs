//! The status of a ComputeProvider from one look at it.
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kube::ResourceExt;
use muster_api::v1alpha1 as api;
use muster_core::provider::join::Admission;
use muster_core::provider::{self as core, Lent, Pulse, Report, Verdict};
use muster_proof::selection::{FAULT_INTERVALS, NEW_INTERVALS};

use crate::hub::apply::{self, Said};
use crate::hub::ledger::follow::Record;
use crate::hub::names::provider_namespace;
use crate::hub::site::Unit;
use crate::runtime::sanitise::line;

/// Condition of a provider whose `lastTransitionTime` says since when its agent has been silent. Ready cannot say it: a
/// provider may be unready for other reasons long before.
pub const CONNECTED: &str = "Connected";

/// What was seen.
pub struct Facts {
    /// WorkUnits in its namespace.
    pub units: Vec<Arc<Unit>>,
    /// Its report, if there is one, or why it does not parse.
    pub report: Option<Result<Arc<api::ProviderReport>, String>>,
    /// Its heartbeat, and how long the verdict holds.
    pub pulse: (Pulse, Option<Duration>),
    /// Whether its agent is let in.
    pub admission: Admission,
    /// No unit of this hub has a lower epoch.
    pub floor: i64,
    /// What the log has of it; `None` if it has nothing or was not read yet.
    pub record: Option<Record>,
}

/// The status, and when to look again without news.
pub fn render(
    provider: &api::ComputeProvider,
    facts: &Facts,
    now: Timestamp,
) -> (api::ComputeProviderStatus, Option<Duration>) {
    let old = provider.status.clone().unwrap_or_default();
    let (pulse, holds) = facts.pulse;
    let (verdict, report) = judge(facts.report.as_ref());
    let generation = provider.metadata.generation;
    let scheduling = scheduling(provider, now);
    let mut said = said(&old, pulse, &verdict, scheduling, &facts.admission);
    said.extend(facts.record.map(trusted).or_else(|| before(&old, "Trusted")));
    let highest = facts.units.iter().map(|unit| unit.object.spec.epoch).max();
    let mut new = api::ComputeProviderStatus {
        observed_generation: generation,
        namespace: Some(provider_namespace(&provider.name_any())),
        units: i32::try_from(facts.units.iter().filter(|unit| !finished(&unit.object)).count()).ok(),
        presented_key: facts.admission.presented.map(|key| key.to_string()),
        score: facts.record.map(score).or_else(|| old.score.clone()),
        min_epoch: Some(core::min_epoch(old.min_epoch, facts.floor, scheduling, highest)),
        conditions: apply::conditions(&old.conditions, said, generation, now),
        ..old
    };
    if let Some(report) = report {
        new.agent_version = report.agent_version.as_deref().map(|text| line(text, 64));
        new.capacity = Some(capacity(provider, report));
    }
    let drains = provider.spec.drain_at.as_ref().map(|at| at.0).filter(|at| *at > now);
    let until = facts.admission.holds_until.into_iter().chain(drains).map(|until| until.duration_since(now));
    let until = until.filter_map(|left| Duration::try_from(left).ok());
    (new, holds.into_iter().chain(until).min().map(|left| left + Duration::from_millis(50)))
}

fn finished(unit: &api::WorkUnit) -> bool {
    unit.status.as_ref().and_then(|status| status.phase).is_some_and(api::WorkUnitPhase::is_finished)
}

fn judge(
    report: Option<&Result<Arc<api::ProviderReport>, String>>,
) -> (Report, Option<&api::ProviderReportStatus>) {
    match report {
        Some(Err(why)) => (Report::Invalid(why.clone()), None),
        Some(Ok(report)) => match &report.status {
            Some(status) if status.observed_at.is_some() => (Report::Valid, Some(status)),
            _ => (Report::Missing, None),
        },
        None => (Report::Missing, None),
    }
}

/// What the admin wants of the provider now. Revoked weighs more than deleted.
pub fn scheduling(provider: &api::ComputeProvider, now: Timestamp) -> core::Scheduling {
    let drains = provider.spec.drain_at.as_ref().map(|at| at.0 <= now);
    match (provider.spec.scheduling, drains) {
        (api::Scheduling::Revoked, _) => core::Scheduling::Revoked,
        _ if provider.metadata.deletion_timestamp.is_some() => core::Scheduling::Deleting,
        (api::Scheduling::Drained, _) | (_, Some(true)) => core::Scheduling::Drained,
        (api::Scheduling::Cordoned, _) | (_, Some(false)) => core::Scheduling::Cordoned,
        (api::Scheduling::Enabled, None) => core::Scheduling::Enabled,
    }
}

fn said(
    old: &api::ComputeProviderStatus,
    pulse: Pulse,
    report: &Report,
    scheduling: core::Scheduling,
    admission: &Admission,
) -> Vec<Said> {
    let before = |kind| before(old, kind);
    let say = |kind, status, reason: &str, message: &str| Said {
        kind,
        status,
        reason: reason.into(),
        message: message.into(),
    };
    let verdict = |kind, verdict: &Verdict| {
        say(kind, if verdict.holds { "True" } else { "False" }, verdict.reason, &verdict.message)
    };
    let unknown = |kind| say(kind, "Unknown", "Starting", "the hub has not watched long enough to say");
    let ready = match core::ready(pulse, report, scheduling, admission) {
        Some(ready) => verdict("Ready", &ready),
        // What stood in the way of joining is over; what the heartbeat says is not known yet.
        None => before("Ready")
            .filter(|ready| !is_about_joining(&ready.reason))
            .unwrap_or_else(|| unknown("Ready")),
    };
    let connected = match pulse {
        Pulse::Fresh => say(CONNECTED, "True", "LeaseRenewed", "the agent renews its lease"),
        Pulse::Expired => say(CONNECTED, "False", "LeaseExpired", "the agent does not renew its lease"),
        Pulse::NeverSeen => say(CONNECTED, "False", "NeverSeen", "no agent has connected yet"),
        Pulse::TooEarly => before(CONNECTED).unwrap_or_else(|| unknown(CONNECTED)),
    };
    let (joined, accepted) = (verdict("Joined", &admission.joined), verdict("Accepted", &admission.accepted));
    vec![ready, connected, joined, accepted]
}

/// A condition as it was said before.
fn before(old: &api::ComputeProviderStatus, kind: &'static str) -> Option<Said> {
    let found = old.conditions.iter().find(|c| c.type_ == kind)?;
    let status = match found.status.as_str() {
        "True" => "True",
        "False" => "False",
        _ => "Unknown",
    };
    Some(Said { kind, status, reason: found.reason.clone(), message: found.message.clone() })
}

/// What its intervals and faults say: it decides about the size of its windows, and whether it audits others.
fn trusted(record: Record) -> Said {
    let standing = record.standing;
    let (status, reason, message) = if standing.recent_fault() {
        let text = format!(
            "an audit convicted it within its last {FAULT_INTERVALS} intervals: its windows are short and it audits nobody"
        );
        ("False", "RecentFault", text)
    } else if standing.intervals < NEW_INTERVALS {
        ("False", "NewProvider", format!("fewer than {NEW_INTERVALS} intervals of it were accepted so far"))
    } else {
        ("True", "Clean", format!("no fault in its last {FAULT_INTERVALS} intervals"))
    };
    Said { kind: "Trusted", status, reason: reason.to_owned(), message }
}

fn score(record: Record) -> api::Score {
    let number = |number: u64| i64::try_from(number).ok();
    api::Score {
        reliability_permille: record.reliability().and_then(|permille| i32::try_from(permille).ok()),
        intervals: number(record.standing.intervals),
        faults: number(record.faults),
    }
}

fn is_about_joining(reason: &str) -> bool {
    ["NoToken", "TokenIssued", "TokenExpired", "WaitingForAdmin", "KeyNotPinned", "KeyExpired"]
        .contains(&reason)
}

/// Whether it can be used, as its status says.
pub fn is_ready(provider: &api::ComputeProvider) -> bool {
    let conditions = provider.status.as_ref().map_or(&[][..], |status| &status.conditions);
    conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

/// What a report says of one class of devices.
pub struct Devices {
    pub class: String,
    pub lent: Lent,
    /// Workers of the hub's units that `lent.idle` leaves out, if it says that.
    pub in_use: Option<u32>,
    pub price: Option<i64>,
}

/// The provider's devices by class as they may be used, each class once.
pub fn devices(report: &api::ProviderReportStatus) -> Vec<Devices> {
    let number = |n: i32| u32::try_from(n).unwrap_or(0);
    let of = |found: &api::Devices| Devices {
        class: line(&found.class, 63),
        lent: Lent { workers: number(found.workers), idle: number(found.idle) },
        in_use: found.in_use.map(number),
        price: found.price,
    };
    report.devices.iter().map(of).collect()
}

/// The quota of workers as a limit.
pub fn worker_quota(provider: &api::ComputeProvider) -> Option<u32> {
    u32::try_from(provider.spec.quota.workers).ok()
}

fn capacity(provider: &api::ComputeProvider, report: &api::ProviderReportStatus) -> api::Capacity {
    let lent: Vec<_> = devices(report).into_iter().map(|found| (found.class, found.lent)).collect();
    let capped = core::capacity(&lent, worker_quota(provider));
    api::Capacity {
        text: Some(capped.text()),
        workers: i32::try_from(capped.workers).ok(),
        idle: i32::try_from(capped.idle).ok(),
        devices: capped.classes.into_keys().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn provider(status: serde_json::Value) -> api::ComputeProvider {
        serde_json::from_value(json!({
            "apiVersion": "muster.dev/v1alpha1", "kind": "ComputeProvider",
            "metadata": {"name": "east", "uid": "u", "generation": 2},
            "spec": {"owner": "acme", "quota": {"units": 10, "workers": 4}},
            "status": status,
        }))
        .unwrap()
    }

    fn report() -> api::ProviderReport {
        serde_json::from_value(json!({
            "apiVersion": "muster.dev/v1alpha1", "kind": "ProviderReport",
            "metadata": {"name": "report", "namespace": "muster-p-east"},
            "status": {
                "observedAt": "2026-11-22T19:00:00Z", "agentVersion": "0.1.0\u{1b}[31m",
                "devices": [{"class": "cpu", "workers": 8, "idle": 6}],
            },
        }))
        .unwrap()
    }

    /// Whose key is pinned.
    fn facts(pulse: Pulse) -> Facts {
        let key = muster_proof::Digest::of(b"key");
        let admission = Admission {
            presented: Some(key),
            joined: Verdict::yes("KeyPresented", "came"),
            accepted: Verdict::yes("KeyPinned", "is let in"),
            pin: None,
            holds_until: None,
        };
        Facts {
            units: vec![],
            report: Some(Ok(Arc::new(report()))),
            pulse: (pulse, None),
            admission,
            floor: 1,
            record: None,
        }
    }

    fn waits(pulse: Pulse) -> Facts {
        let mut facts = facts(pulse);
        facts.admission.accepted = Verdict::no("WaitingForAdmin", "muster provider accept east");
        facts
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).unwrap()
    }

    fn unit(epoch: i64) -> api::WorkUnit {
        serde_json::from_value(json!({
            "apiVersion": "muster.dev/v1alpha1", "kind": "WorkUnit",
            "metadata": {"name": format!("4f2a9c1b-0-{epoch}"), "namespace": "muster-p-east"},
            "spec": {
                "kind": "Train", "jobUID": "4f2a9c1b-0000-4000-8000-000000000000", "island": 0, "epoch": epoch, "workers": 1,
                "envelope": {"payloadType": "t", "payload": "e30=", "signatures": []}, "desired": "Run",
            },
        }))
        .unwrap()
    }

    fn reason(status: &api::ComputeProviderStatus, kind: &str) -> String {
        let found = status.conditions.iter().find(|c| c.type_ == kind);
        found.map_or_else(String::new, |c| format!("{} {}", c.status, c.reason))
    }

    #[test]
    fn a_connected_provider() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let (status, _) = render(&provider(json!({})), &facts(Pulse::Fresh), now);
        assert_eq!(reason(&status, "Ready"), "True Connected");
        assert_eq!(reason(&status, "Joined"), "True KeyPresented");
        assert_eq!(reason(&status, "Accepted"), "True KeyPinned");
        assert_eq!(status.presented_key, Some(muster_proof::Digest::of(b"key").to_string()));
        assert_eq!(status.agent_version.as_deref(), Some("0.1.0[31m"), "nothing that a terminal obeys");
        let capacity = status.capacity.unwrap();
        assert_eq!((capacity.text.as_deref(), capacity.idle), (Some("4/4 cpu"), Some(4)), "capped by quota");
        assert_eq!((status.min_epoch, status.units), (Some(1), Some(0)));
    }

    #[test]
    fn a_hub_that_just_started_does_not_judge() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let (first, _) = render(&provider(json!({})), &facts(Pulse::Fresh), now);
        let restarted = provider(serde_json::to_value(&first).unwrap());
        let later = Timestamp::from_second(1_000_100).unwrap();
        let (same, _) = render(&restarted, &facts(Pulse::TooEarly), later);
        assert_eq!(same, first, "nothing to write");
        let (gone, _) = render(&restarted, &facts(Pulse::Expired), later);
        assert_eq!(reason(&gone, "Ready"), "False LeaseExpired");
        assert_eq!(reason(&gone, "Joined"), "True KeyPresented");
    }

    #[test]
    fn a_key_that_waits_keeps_the_provider_from_work() {
        let (status, _) = render(&provider(json!({})), &waits(Pulse::Fresh), at(0));
        assert_eq!(reason(&status, "Ready"), "False WaitingForAdmin");
        assert_eq!(reason(&status, "Accepted"), "False WaitingForAdmin");
        let waiting = provider(serde_json::to_value(&status).unwrap());
        let (status, _) = render(&waiting, &facts(Pulse::TooEarly), at(1));
        assert_eq!(reason(&status, "Ready"), "Unknown Starting", "it waits for nobody any more");
    }

    #[test]
    fn a_verdict_that_ends_is_looked_at_then() {
        let mut facts = facts(Pulse::Fresh);
        facts.pulse.1 = Some(Duration::from_secs(15));
        facts.admission.holds_until = Some(at(10));
        assert_eq!(render(&provider(json!({})), &facts, at(0)).1, Some(Duration::from_millis(10_050)));
        facts.admission.holds_until = Some(at(60));
        assert_eq!(render(&provider(json!({})), &facts, at(0)).1, Some(Duration::from_millis(15_050)));
    }

    #[test]
    fn the_log_says_how_far_it_is_trusted() {
        use muster_proof::selection::Standing;
        let with = |intervals, since_fault, faults| Facts {
            record: Some(Record { standing: Standing { intervals, since_fault }, faults, lost: 0 }),
            ..facts(Pulse::Fresh)
        };
        for (intervals, since_fault, faults, want) in [
            (0, None, 0, "False NewProvider"),
            (199, None, 0, "False NewProvider"),
            (200, None, 0, "True Clean"),
            (812, Some(0), 1, "False RecentFault"),
            (100, Some(99), 1, "False RecentFault"),
            (812, Some(499), 1, "False RecentFault"),
            (813, Some(500), 1, "True Clean"),
        ] {
            let (status, _) = render(&provider(json!({})), &with(intervals, since_fault, faults), at(0));
            assert_eq!(reason(&status, "Trusted"), want, "{intervals} {since_fault:?}");
            let score = status.score.clone().unwrap();
            assert_eq!((score.intervals, score.faults), (Some(intervals as i64), Some(faults as i64)));
            // A hub that has not read its log yet leaves what was said.
            let before = provider(serde_json::to_value(&status).unwrap());
            assert_eq!(render(&before, &facts(Pulse::Fresh), at(0)).0, status);
        }
        let (unread, _) = render(&provider(json!({})), &facts(Pulse::Fresh), at(0));
        assert_eq!((reason(&unread, "Trusted"), unread.score), (String::new(), None));
    }

    #[test]
    fn an_announced_drain_cordons_first() {
        use muster_core::provider::Scheduling::*;
        let mut east = provider(json!({}));
        let mut cases = Vec::new();
        for scheduling in [api::Scheduling::Enabled, api::Scheduling::Cordoned, api::Scheduling::Drained] {
            east.spec.scheduling = scheduling;
            east.spec.drain_at = None;
            let never = super::scheduling(&east, at(0));
            east.spec.drain_at = Some(apply::time(at(10)));
            cases.push((never, super::scheduling(&east, at(9)), super::scheduling(&east, at(10))));
        }
        let want = [(Enabled, Cordoned, Drained), (Cordoned, Cordoned, Drained), (Drained, Drained, Drained)];
        assert_eq!(cases, want);
        east.spec.scheduling = api::Scheduling::Enabled;
        let (status, again) = render(&east, &facts(Pulse::Fresh), at(9));
        assert_eq!(reason(&status, "Ready"), "False Cordoned");
        assert_eq!(again, Some(Duration::from_millis(1050)), "and it is looked at then");
        let (status, again) = render(&east, &facts(Pulse::Fresh), at(10));
        assert_eq!((reason(&status, "Ready").as_str(), again), ("False Draining", None));
        east.spec.scheduling = api::Scheduling::Revoked;
        assert_eq!(super::scheduling(&east, at(9)), Revoked);
    }

    #[test]
    fn revoking_voids_what_it_has_and_a_restored_hub_voids_more() {
        let mut east = provider(json!({"minEpoch": 3}));
        let mut facts = Facts {
            units: [4, 7].map(|epoch| Arc::new(Unit::from(unit(epoch)))).to_vec(),
            ..facts(Pulse::Fresh)
        };
        assert_eq!(render(&east, &facts, at(0)).0.min_epoch, Some(3));
        east.spec.scheduling = api::Scheduling::Revoked;
        let (revoked, _) = render(&east, &facts, at(0));
        assert_eq!((revoked.min_epoch, reason(&revoked, "Ready")), (Some(8), "False Revoked".into()));
        facts.units.clear();
        let later = provider(serde_json::to_value(&revoked).unwrap());
        assert_eq!(render(&later, &facts, at(0)).0.min_epoch, Some(8), "also when the units are gone");
        facts.floor = 1008;
        assert_eq!(render(&later, &facts, at(0)).0.min_epoch, Some(1008));
    }
}
