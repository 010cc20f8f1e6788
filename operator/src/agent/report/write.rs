//! When a report is written. What this provider has changed itself is told at once: its policy, its own units, for jobs wait for the
//! workers that come free. What others do on its cluster is told more slowly: on a busy one that is counted node by node, idle moves
//! every second, and a hub of a thousand providers would be written to a thousand times a second.
use std::time::Duration;

use kube::Api;
use kube::api::{Patch, PatchParams};
use muster_api::names::REPORT;
use muster_api::v1alpha1::{ProviderReport, ProviderReportStatus};
use tokio::time::Instant;

use super::{LOG_CONSISTENT, POLICY_LOADED};
use crate::agent::hub::TIMEOUT;

/// From one write to the next, if others took or freed a tenth of what is lent, or the last of it, or the first.
const BY_OTHERS: Duration = Duration::from_secs(10);
/// The same for all that is less: fewer workers, a text that flickers with the member's API, the head of the log.
const INTERVAL: Duration = Duration::from_secs(30);
/// How often the agent looks whether its report still stands: somebody may have removed the object, and the hub made it
/// anew, or the hub's database was restored.
const CHECK: Duration = Duration::from_secs(30);

/// For so long after units of ours have begun or ended what changes on the nodes is theirs: pods that are bound, or go.
const FOLLOWS: Duration = Duration::from_secs(15);

/// Writes what has changed.
pub(super) struct Writer {
    api: Api<ProviderReport>,
    written: Option<Written>,
    checked: Instant,
    /// Workers of our own units.
    in_use: Option<i64>,
    /// When they became more or fewer.
    own: Option<Instant>,
}

struct Written {
    status: ProviderReportStatus,
    at: Instant,
}

impl Writer {
    pub(super) fn new(api: Api<ProviderReport>) -> Self {
        Self { api, written: None, checked: Instant::now(), in_use: None, own: None }
    }

    /// What was written last.
    pub(super) fn written(&self) -> Option<&ProviderReportStatus> {
        self.written.as_ref().map(|written| &written.status)
    }

    /// Now and then: whether what was written still stands.
    pub(super) async fn check(&mut self) {
        if self.checked.elapsed() <= CHECK {
            return;
        }
        self.checked = Instant::now();
        if let Some(known) = self.written()
            && !stands(&self.api, known).await
        {
            tracing::warn!("the hub's report is not the one that was written; writing it again");
            self.written = None;
        }
    }

    /// Writes it if it is worth a write now; `in_use` are the workers of our own units.
    pub(super) async fn write(&mut self, status: ProviderReportStatus, in_use: i64) {
        if self.in_use.replace(in_use).is_some_and(|before| before != in_use) {
            self.own = Some(Instant::now());
        }
        let follows = self.own.is_some_and(|at| at.elapsed() < FOLLOWS);
        if let Some(written) = &self.written {
            let is_own = follows || written.is_own(&status);
            let pause = if is_own { Duration::ZERO } else { written.pause(&status) };
            if same(&written.status, &status) || written.at.elapsed() < pause {
                return;
            }
        }
        let patch = serde_json::json!({ "status": status });
        let request =
            async { self.api.patch_status(REPORT, &PatchParams::default(), &Patch::Merge(&patch)).await };
        match tokio::time::timeout(TIMEOUT, request).await {
            Ok(Ok(_)) => self.written = Some(Written { status, at: Instant::now() }),
            Ok(Err(error)) => tracing::warn!(%error, "report not written yet"),
            Err(_) => tracing::warn!("report not written yet: no answer"),
        }
    }
}

impl Written {
    /// Whether that status tells of something that the provider itself did.
    fn is_own(&self, status: &ProviderReportStatus) -> bool {
        let without_idle = |status: &ProviderReportStatus| {
            let mut devices = status.devices.clone();
            devices.iter_mut().for_each(|devices| devices.idle = 0);
            devices
        };
        let before = &self.status;
        without_idle(before) != without_idle(status)
            || before.accepts != status.accepts
            || policy(before) != policy(status)
            || is_alarmed(before) != is_alarmed(status)
    }

    /// How long after this write what others did, as that status tells of it, is worth another one.
    fn pause(&self, status: &ProviderReportStatus) -> Duration {
        let before = &self.status;
        let is_much = before.devices.iter().zip(&status.devices).any(|(before, now)| {
            let moved = before.idle.abs_diff(now.idle);
            let crosses_none = (before.idle == 0) != (now.idle == 0);
            crosses_none || (moved > 0 && moved.saturating_mul(10) >= now.workers.unsigned_abs())
        });
        if is_much { BY_OTHERS } else { INTERVAL }
    }
}

/// Whether it says that the log contradicts itself.
fn is_alarmed(status: &ProviderReportStatus) -> bool {
    status.conditions.iter().any(|c| c.type_ == LOG_CONSISTENT && c.status == "False")
}

/// What it says of the policy: whether the newest is in force, and whether new units are welcome now.
fn policy(status: &ProviderReportStatus) -> Option<(&str, &str)> {
    let found = status.conditions.iter().find(|c| c.type_ == POLICY_LOADED)?;
    Some((&found.status, &found.message))
}

/// Whether the object still has what was written. No answer changes nothing.
async fn stands(api: &Api<ProviderReport>, written: &ProviderReportStatus) -> bool {
    match tokio::time::timeout(TIMEOUT, api.get_opt(REPORT)).await {
        Ok(Ok(Some(report))) => {
            // What placement uses; a text may come back spelt otherwise.
            let is_same = |status: ProviderReportStatus| {
                status.devices == written.devices && status.accepts == written.accepts
            };
            report.status.is_some_and(is_same)
        }
        _ => true,
    }
}

/// Equal but for the time of looking.
fn same(a: &ProviderReportStatus, b: &ProviderReportStatus) -> bool {
    let mut a = a.clone();
    a.observed_at.clone_from(&b.observed_at);
    a == *b
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use axum::extract::Request;
    use muster_api::v1alpha1::Devices;
    use serde_json::{Value, json};

    use super::*;

    /// A report that is written to a server which keeps what idle was, each time.
    fn writer() -> (Writer, Arc<Mutex<Vec<i64>>>) {
        let written: Arc<Mutex<Vec<i64>>> = Arc::default();
        let kept = written.clone();
        let server = move |request: Request| {
            let kept = kept.clone();
            async move {
                let body = axum::body::to_bytes(request.into_body(), 1 << 16).await.unwrap();
                let patch: Value = serde_json::from_slice(&body).unwrap();
                kept.lock().unwrap().push(patch["status"]["devices"][0]["idle"].as_i64().unwrap());
                axum::Json(
                    json!({"apiVersion": "muster.dev/v1alpha1", "kind": "ProviderReport", "metadata": {"name": REPORT}}),
                )
            }
        };
        let client = kube::Client::new(axum::Router::new().fallback(server), "muster-p-east");
        (Writer::new(Api::default_namespaced(client)), written)
    }

    fn lends(workers: i32, idle: i32) -> ProviderReportStatus {
        let class = "cpu".to_owned();
        let devices =
            vec![Devices { class, workers, idle, in_use: None, price: None, price_valid_until: None }];
        ProviderReportStatus { devices, ..ProviderReportStatus::default() }
    }

    async fn second() {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }

    /// It was a write a second.
    #[tokio::test(start_paused = true)]
    async fn what_others_do_on_a_busy_cluster_is_no_write_a_second() {
        let (mut writer, written) = writer();
        for at in 0..60 {
            writer.write(lends(8, [0, 5, 2, 7][at % 4]), 0).await;
            second().await;
        }
        assert!((3..=6).contains(&written.lock().unwrap().len()), "{written:?}");
        written.lock().unwrap().clear();
        for at in 0..60 {
            writer.write(lends(200, 100 + [0, 5, 2, 7][at % 4]), 0).await;
            second().await;
        }
        assert!(written.lock().unwrap().len() <= 3, "less than a tenth: {written:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_provider_does_itself_is_told_at_once() {
        let (mut writer, written) = writer();
        for (workers, idle, in_use) in [(8, 0, 8), (8, 4, 4), (8, 8, 0), (9, 9, 0)] {
            writer.write(lends(workers, idle), in_use).await;
            second().await;
        }
        assert_eq!(*written.lock().unwrap(), [0, 4, 8, 9]);
        tokio::time::sleep(BY_OTHERS).await;
        writer.write(lends(9, 3), 0).await;
        assert_eq!(written.lock().unwrap().last(), Some(&3), "and the first that others do, too");
        writer.write(lends(9, 2), 4).await;
        second().await;
        writer.write(lends(9, 6), 4).await;
        assert_eq!(written.lock().unwrap()[5..], [2, 6], "pods of a unit that has ended go a moment later");
    }
}
