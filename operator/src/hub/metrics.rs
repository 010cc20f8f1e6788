//! What the hub measures of itself, and where it says so: `/healthz`, `/readyz` and `/metrics` of a hub, whether it leads or stands by.
use std::net::SocketAddr;
use std::sync::Arc;

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use tokio::time::Instant;

use super::leader::Standing;
use crate::runtime::probes;

/// Upper bounds in seconds. One second is what a reconciliation may take.
const BUCKETS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// Whose time it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Controller {
    /// TrainingJobs.
    Job,
    /// ComputeProviders.
    Provider,
    /// WorkUnits.
    Unit,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Of {
    controller: Controller,
}

/// Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct Metrics {
    reconciles: Family<Of, Histogram>,
    plans: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        let histogram: fn() -> Histogram = || Histogram::new(BUCKETS);
        Self { reconciles: Family::new_with_constructor(histogram), plans: histogram() }
    }
}

/// Measures until it is dropped.
pub struct Timer {
    began: Instant,
    into: Histogram,
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.into.observe(self.began.elapsed().as_secs_f64());
    }
}

impl Metrics {
    /// A reconciliation begins.
    pub fn reconciles(&self, controller: Controller) -> Timer {
        Timer { began: Instant::now(), into: self.reconciles.get_or_create(&Of { controller }).clone() }
    }

    /// A plan of the queue begins.
    pub fn plans(&self) -> Timer {
        Timer { began: Instant::now(), into: self.plans.clone() }
    }

    fn text(&self, leads: bool) -> String {
        let mut registry = Registry::with_prefix("muster_hub");
        let is_leader = Gauge::<i64>::default();
        is_leader.set(leads.into());
        registry.register("leads", "1 if this process is the one of several hubs that acts", is_leader);
        registry.register_with_unit(
            "reconcile_duration",
            "How long one look at an object took, with all requests that it made",
            Unit::Seconds,
            self.reconciles.clone(),
        );
        registry.register_with_unit(
            "plan_duration",
            "How long it took to plan which waiting job trains where",
            Unit::Seconds,
            self.plans.clone(),
        );
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &registry);
        text
    }
}

/// Serves all of it.
///
/// # Errors
/// The address cannot be listened on.
pub fn serve(address: Option<SocketAddr>, standing: Standing, metrics: Metrics) -> anyhow::Result<()> {
    let ready = standing.clone();
    let ready = move || if ready.is_ready() { Ok(()) } else { Err("the API server has not answered yet") };
    probes::start(address, Arc::new(ready), Arc::new(move || metrics.text(standing.leads())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_took_how_long_is_told_by_controller() {
        let metrics = Metrics::default();
        let timer = metrics.clone().reconciles(Controller::Job);
        tokio::time::advance(std::time::Duration::from_millis(300)).await;
        drop(timer);
        let text = metrics.text(true);
        for line in [
            "muster_hub_leads 1",
            r#"muster_hub_reconcile_duration_seconds_bucket{le="0.25",controller="Job"} 0"#,
            r#"muster_hub_reconcile_duration_seconds_bucket{le="0.5",controller="Job"} 1"#,
            "muster_hub_plan_duration_seconds_count 0",
        ] {
            assert!(text.lines().any(|one| one == line), "{line} is not in\n{text}");
        }
    }
}
