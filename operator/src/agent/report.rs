//! The ProviderReport: what this provider lends. Written on change, and not more often than it is worth.
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::Api;
use kube::api::{Patch, PatchParams};
use muster_api::names::REPORT;
use muster_api::v1alpha1::{Accepts, Arithmetic, Containers, Devices, ProviderReport, ProviderReportStatus};
use tokio::time::Instant;

use super::hub::TIMEOUT;
use super::member::{Member, MemberError};
use super::units::Units;
use super::{DEVICE_CLASS, Settings};
use crate::runtime::{Shutdown, sanitise};

/// How often the agent looks.
const LOOK: Duration = Duration::from_secs(5);
/// Nothing but a change is written before this has passed, and then only if something changed.
const INTERVAL: Duration = Duration::from_secs(30);

/// Reports until `shutdown`.
pub async fn run(
    api: Api<ProviderReport>,
    settings: Arc<Settings>,
    units: Arc<Units>,
    member: Arc<Member>,
    shutdown: Shutdown,
) {
    let mut written: Option<ProviderReportStatus> = None;
    let mut at = Instant::now();
    let mut version: Option<String> = None;
    loop {
        if version.is_none() {
            version = member.version().await.ok();
        }
        let quotas = member.quotas().await.map(|quotas| quotas.len());
        let status =
            compose(&settings, units.workers_in_use("").await, version.as_deref(), quotas, written.as_ref());
        let changed = written.as_ref().is_none_or(|written| !same(written, &status));
        // The text of a condition may flicker with the member's API; what placement uses is written at once.
        let urgent =
            written.as_ref().is_none_or(|w| w.devices != status.devices || w.accepts != status.accepts);
        if changed && (urgent || at.elapsed() > INTERVAL) {
            let patch = serde_json::json!({ "status": status });
            let request =
                async { api.patch_status(REPORT, &PatchParams::default(), &Patch::Merge(&patch)).await };
            match tokio::time::timeout(TIMEOUT, request).await {
                Ok(Ok(_)) => (written, at) = (Some(status), Instant::now()),
                Ok(Err(error)) => tracing::warn!(%error, "report not written yet"),
                Err(_) => tracing::warn!("report not written yet: no answer"),
            }
        }
        tokio::select! {
            biased;
            () = shutdown.wait() => return,
            () = units.changed.notified() => {}
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

fn compose(
    settings: &Settings,
    in_use: i64,
    version: Option<&str>,
    quotas: Result<usize, MemberError>,
    before: Option<&ProviderReportStatus>,
) -> ProviderReportStatus {
    let workers = i32::try_from(settings.workers).unwrap_or(i32::MAX);
    let idle = i32::try_from((settings.workers - in_use).max(0)).unwrap_or(0);
    let (known, reason, message) = match (quotas, version) {
        (Err(error), _) => ("False", "RbacMissing", error.to_string()),
        (Ok(_), None) => ("False", "RbacMissing", "the member's API server does not answer".to_owned()),
        (Ok(0), Some(_)) => {
            ("True", "Observed", format!("{workers} workers are offered; no ResourceQuota bounds them"))
        }
        (Ok(n), Some(_)) => {
            ("True", "Quota", format!("{workers} workers are offered within {n} ResourceQuota"))
        }
    };
    let now = Time(Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default());
    let since = before.and_then(|before| {
        let old = before.conditions.iter().find(|c| c.type_ == "CapacityKnown" && c.status == known)?;
        Some(old.last_transition_time.clone())
    });
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
            price: None,
            price_valid_until: None,
        }],
        accepts: Some(Accepts {
            images: settings.image_digests(),
            arithmetic: vec![Arithmetic::F32Chain],
            containers: Containers::Never,
        }),
        log_head: None,
        conditions: vec![Condition {
            type_: "CapacityKnown".to_owned(),
            status: known.to_owned(),
            reason: reason.to_owned(),
            message: sanitise::line(&message, 512),
            observed_generation: None,
            last_transition_time: since.unwrap_or(now),
        }],
    }
}

/// Equal but for the time of looking.
fn same(a: &ProviderReportStatus, b: &ProviderReportStatus) -> bool {
    let mut a = a.clone();
    a.observed_at.clone_from(&b.observed_at);
    a == *b
}
