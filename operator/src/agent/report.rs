//! The ProviderReport: what this provider lends. Written on change, and not more often than it is worth (`write`).
mod write;

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::Api;
use muster_api::v1alpha1::{
    Accepts, Arithmetic, Containers, Devices, LogHead, ProviderReport, ProviderReportStatus, Replays,
};
use muster_core::policy::ProviderPolicy;
use muster_core::quota::Amounts;
use tokio::time::Instant;

use super::DEVICE_CLASS;
use super::member::{Member, MemberError};
use super::nodes::Standing as OnNodes;
use super::policy::Policies;
use super::quota;
use super::units::Units;
use super::witness::{Standing, Witness};
use crate::runtime::{Shutdown, sanitise};
use write::Writer;

/// The condition about the hub's log.
const LOG_CONSISTENT: &str = "LogConsistent";
/// The condition about the provider's policy.
const POLICY_LOADED: &str = "PolicyLoaded";
/// How often the agent looks.
const LOOK: Duration = Duration::from_secs(5);
/// From one look to the next, if units change one after the other.
const GAP: Duration = Duration::from_secs(1);

/// Reports until `shutdown`.
pub async fn run(
    api: Api<ProviderReport>,
    policies: Arc<Policies>,
    units: Arc<Units>,
    member: Arc<Member>,
    witness: Arc<Witness>,
    shutdown: Shutdown,
) {
    let mut writer = Writer::new(api);
    let mut version: Option<String> = None;
    loop {
        let began = Instant::now();
        writer.check().await;
        if version.is_none() {
            version = member.version().await.ok();
        }
        let quotas = member.quotas().await.map(|quotas| {
            if policies.set_quota(quota::limits(&quotas)) {
                units.all().iter().for_each(|unit| unit.wake.notify_one());
            }
            quotas.len()
        });
        let holding = units.holding("");
        let offer = Offer {
            policy: policies.current(),
            problem: policies.problem(),
            closed: policies.closed(Timestamp::now()),
            in_use: holding.workers,
            room: room(&policies, &holding.amounts),
            nodes: policies.on_nodes(),
            log: witness.standing(),
        };
        let status = compose(&offer, version.as_deref(), quotas, writer.written());
        writer.write(status, holding.workers).await;
        let changed = async {
            units.changed.notified().await;
            tokio::time::sleep_until(began + GAP).await;
        };
        tokio::select! {
            biased;
            () = shutdown.wait() => return,
            () = changed => {}
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

/// The same for an agent that lends nothing.
pub async fn of_witness(api: Api<ProviderReport>, witness: Arc<Witness>, shutdown: Shutdown) {
    let mut writer = Writer::new(api);
    loop {
        writer.check().await;
        let status = compose_witness(&witness.standing(), writer.written());
        writer.write(status, 0).await;
        tokio::select! {
            biased;
            () = shutdown.wait() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

/// What the provider offers now.
struct Offer {
    policy: Arc<ProviderPolicy>,
    /// Why the newest policy file is not in force.
    problem: Option<String>,
    /// Why no new unit is taken.
    closed: Option<String>,
    /// Workers of units that hold capacity.
    in_use: i64,
    /// How many more the ResourceQuotas have room for, if that can be said.
    room: Option<i64>,
    /// What the nodes have room for, if the agent may look.
    nodes: Option<OnNodes>,
    /// What was seen of the hub's log.
    log: Standing,
}

/// Status, reason and message of the condition about the log.
fn consistency(log: &Standing) -> (&'static str, &'static str, String) {
    match log {
        Standing { alarm: Some(alarm), .. } => ("False", alarm.kind.name(), alarm.text.clone()),
        Standing { trouble: Some(trouble), .. } => ("Unknown", "LogUnavailable", trouble.clone()),
        Standing { head: Some(_), .. } => {
            ("True", "Consistent", "each head continues all that this agent has seen before".to_owned())
        }
        _ => ("Unknown", "NothingSeen", "this agent has not seen a head of the log yet".to_owned()),
    }
}

/// Counted in workers of the size that the provider names; without one, a quota on the number of pods still counts.
fn room(policies: &Policies, held: &Amounts) -> Option<i64> {
    let policy = policies.current();
    let pod = Amounts::from([("pods", 1000)]);
    policies.quota().room(held, policy.worker().unwrap_or(&pod))
}

fn compose(
    offer: &Offer,
    version: Option<&str>,
    quotas: Result<usize, MemberError>,
    before: Option<&ProviderReportStatus>,
) -> ProviderReportStatus {
    let workers = i32::try_from(offer.policy.workers()).unwrap_or(i32::MAX);
    let idle = (offer.policy.workers() - offer.in_use).min(offer.room.unwrap_or(i64::MAX));
    let idle = i32::try_from(idle.max(0)).unwrap_or(0);
    let idle = if offer.closed.is_some() { 0 } else { idle };
    let on_nodes = match &offer.nodes {
        Some(OnNodes::Known { room, .. }) => i32::try_from(*room).unwrap_or(i32::MAX),
        _ => i32::MAX,
    };
    let idle = idle.min(on_nodes);
    let (known, reason, message) = match (quotas, version) {
        (Ok(_), Some(_)) if let Some(OnNodes::Unknown(why)) = &offer.nodes => {
            ("False", "NoNodes", why.clone())
        }
        (Err(error), _) => ("False", "RbacMissing", error.to_string()),
        (Ok(_), None) => ("False", "RbacMissing", "the member's API server does not answer".to_owned()),
        (Ok(_), Some(_)) if let Some(OnNodes::Known { nodes, room }) = &offer.nodes => (
            "True",
            "Observed",
            format!("{workers} workers are offered; {nodes} nodes have room for {room} more"),
        ),
        (Ok(0), Some(_)) => {
            ("True", "Unbounded", format!("{workers} workers are offered; no ResourceQuota bounds them"))
        }
        (Ok(n), Some(_)) => {
            let room = offer.room.map_or(String::new(), |room| format!(", which have room for {room} more"));
            ("True", "Quota", format!("{workers} workers are offered within {n} ResourceQuotas{room}"))
        }
    };
    let now = now();
    let condition = conditions(before, &now);
    let loaded = match (&offer.problem, &offer.closed) {
        (Some(problem), _) => condition(POLICY_LOADED, "False", "Invalid", problem),
        (None, Some(closed)) => condition(POLICY_LOADED, "True", "Loaded", closed),
        (None, None) => condition(POLICY_LOADED, "True", "Loaded", "new units are welcome"),
    };
    let (status, reason_of_log, message_of_log) = consistency(&offer.log);
    let consistent = condition(LOG_CONSISTENT, status, reason_of_log, &message_of_log);
    ProviderReportStatus {
        observed_at: Some(now.clone()),
        agent_version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        protocols: vec!["muster.unit/1".to_owned()],
        kubernetes_version: version.map(|version| sanitise::line(version, 32)),
        devices: vec![Devices {
            class: DEVICE_CLASS.to_owned(),
            workers,
            // What the member cannot confirm is not offered.
            idle: if known == "True" { idle } else { 0 },
            // Nodes have room for a unit's workers until their pods are on them, so it is not said what `idle` leaves out.
            in_use: (on_nodes == i32::MAX)
                .then(|| i32::try_from(offer.in_use).unwrap_or(i32::MAX).clamp(0, 100_000)),
            price: offer.policy.price(),
            price_valid_until: None,
        }],
        accepts: Some(Accepts {
            images: offer.policy.image_digests(),
            arithmetic: Arithmetic::ALL.to_vec(),
            containers: Containers::Never,
            audits: if offer.policy.audits() { Replays::Any } else { Replays::Never },
        }),
        log_head: log_head(&offer.log),
        conditions: vec![condition("CapacityKnown", known, reason, &message), loaded, consistent],
    }
}

/// Of an agent that lends nothing.
fn compose_witness(log: &Standing, before: Option<&ProviderReportStatus>) -> ProviderReportStatus {
    let now = now();
    let (status, reason, message) = consistency(log);
    let consistent = conditions(before, &now)(LOG_CONSISTENT, status, reason, &message);
    ProviderReportStatus {
        observed_at: Some(now.clone()),
        agent_version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        protocols: Vec::new(),
        kubernetes_version: None,
        devices: Vec::new(),
        accepts: None,
        log_head: log_head(log),
        conditions: vec![consistent],
    }
}

fn now() -> Time {
    Time(Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default())
}

/// Makes conditions that keep since when they are so.
fn conditions(
    before: Option<&ProviderReportStatus>,
    now: &Time,
) -> impl Fn(&str, &str, &str, &str) -> Condition {
    move |kind, status, reason, message| {
        let old = before
            .and_then(|before| before.conditions.iter().find(|c| c.type_ == kind && c.status == status));
        Condition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message: sanitise::line(message, 512),
            observed_generation: None,
            last_transition_time: old.map_or_else(|| now.clone(), |old| old.last_transition_time.clone()),
        }
    }
}

/// Root in base64, as in the log's own checkpoint.
fn log_head(log: &Standing) -> Option<LogHead> {
    let (size, root) = log.head?;
    Some(LogHead { size: i64::try_from(size).ok()?, root: STANDARD.encode(root.as_bytes()) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::witness::{Alarm, Alarmed};

    fn offer(problem: Option<&str>, closed: Option<&str>) -> Offer {
        let image = format!("t@{}", muster_proof::Digest::of(b"image"));
        Offer {
            policy: Arc::new(ProviderPolicy::simple(vec![image], 8).unwrap()),
            problem: problem.map(str::to_owned),
            closed: closed.map(str::to_owned),
            in_use: 3,
            room: None,
            nodes: None,
            log: Standing { head: None, alarm: None, trouble: None },
        }
    }

    fn devices(status: &ProviderReportStatus) -> (i32, i32) {
        (status.devices[0].workers, status.devices[0].idle)
    }

    #[test]
    fn says_what_is_offered_and_why_it_is_nothing() {
        let open = compose(&offer(None, None), Some("v1.34.0"), Ok(1), None);
        assert_eq!(devices(&open), (8, 5));
        let reasons = |status: &ProviderReportStatus| {
            status.conditions.iter().map(|c| c.reason.clone()).collect::<Vec<_>>()
        };
        assert_eq!(reasons(&open), ["Quota", "Loaded", "NothingSeen"]);
        let image = format!("t@{}", muster_proof::Digest::of(b"image"));
        let policy = ProviderPolicy::parse(&format!(
            "images: ['{image}']\noffer: {{workers: 8, price: 120}}\naudits: false"
        ));
        let unwilling = Offer { policy: Arc::new(policy.unwrap()), ..offer(None, None) };
        let replays =
            [&offer(None, None), &unwilling].map(|it| compose(it, None, Ok(1), None).accepts.unwrap().audits);
        assert_eq!(replays, [Replays::Any, Replays::Never]);
        let device = |offer: &Offer| compose(offer, None, Ok(1), None).devices.remove(0);
        let said = [&offer(None, None), &unwilling].map(|it| (device(it).in_use, device(it).price));
        assert_eq!(said, [(Some(3), None), (Some(3), Some(120))]);
        let closed = compose(&offer(None, Some("lends again at night")), Some("v1.34.0"), Ok(1), Some(&open));
        assert_eq!(devices(&closed), (8, 0));
        assert_eq!(closed.conditions[1].message, "lends again at night");
        assert_eq!(closed.conditions[1].last_transition_time, open.conditions[1].last_transition_time);
        let bad =
            compose(&offer(Some("offer.workers: x\u{1b}[31m"), None), Some("v1.34.0"), Ok(1), Some(&closed));
        assert_eq!((devices(&bad), bad.conditions[1].status.as_str()), ((8, 5), "False"));
        assert_eq!(reasons(&bad), ["Quota", "Invalid", "NothingSeen"]);
        assert!(!bad.conditions[1].message.contains('\u{1b}'));
        let full = compose(&Offer { room: Some(2), ..offer(None, None) }, Some("v1.34.0"), Ok(2), None);
        assert_eq!(devices(&full), (8, 2), "what the quota has no room for is not offered");
        assert!(full.conditions[0].message.contains("room for 2 more"));
        let seen = |nodes| {
            compose(
                &Offer { nodes: Some(nodes), room: Some(4), ..offer(None, None) },
                Some("v1.34.0"),
                Ok(1),
                None,
            )
        };
        let counted = seen(OnNodes::Known { nodes: 3, room: 1 });
        assert_eq!((devices(&counted), &*counted.conditions[0].reason), ((8, 1), "Observed"));
        let unseen = seen(OnNodes::Unknown("forbidden".to_owned()));
        assert_eq!(
            (devices(&unseen), &*unseen.conditions[0].reason),
            ((8, 0), "NoNodes"),
            "asked to look, and cannot"
        );
        let log = |head, alarm: Option<Alarm>, trouble: Option<&str>| {
            let alarm = alarm.map(|kind| Alarmed { kind, text: "two histories".to_owned() });
            let log = Standing { head, alarm, trouble: trouble.map(str::to_owned) };
            let status = compose(&Offer { log, ..offer(None, None) }, Some("v1.34.0"), Ok(1), None);
            let said = status.conditions[2].clone();
            (status.log_head.map(|head| head.size), said.status, said.reason)
        };
        let root = muster_proof::Digest::of(b"root");
        let said = |size, status: &str, reason: &str| (size, status.to_owned(), reason.to_owned());
        assert_eq!(log(Some((7, root)), None, None), said(Some(7), "True", "Consistent"));
        assert_eq!(log(Some((7, root)), None, Some("away")), said(Some(7), "Unknown", "LogUnavailable"));
        assert_eq!(log(Some((7, root)), Some(Alarm::Fork), None), said(Some(7), "False", "Fork"));
        assert_eq!(log(None, Some(Alarm::Rollback), Some("x")), said(None, "False", "Rollback"));
        let deaf = compose(&offer(None, None), None, Ok(1), None);
        assert_eq!(devices(&deaf), (8, 0), "what the member cannot confirm is not offered");
    }
}
