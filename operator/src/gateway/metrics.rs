//! What is counted (Prometheus text under `/metrics`). Labels are few and of our choosing: nothing that a caller writes becomes one.
use std::sync::Arc;

use axum::http::StatusCode;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::providers::ProviderCount;
use crate::log::LogMetrics;

/// What kind of endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Class {
    /// `/healthz`, `GET /v1/hub`.
    Public,
    /// `/v1/join`.
    Join,
    /// `/v1/challenge`, `/v1/tokens`.
    Tokens,
    /// `/v1/heartbeat`.
    Heartbeat,
    /// `/k8s`.
    Api,
    /// `/v1/units`.
    Units,
    /// `/v1/namespaces`.
    Users,
    /// `/v1/streams`.
    Streams,
    /// `/v1/objects`.
    Objects,
    /// `/v1/log`.
    Log,
    /// Nothing of ours.
    Other,
}

impl Class {
    /// Of a path.
    #[must_use]
    pub fn of(path: &str) -> Self {
        let mut segments = path.split('/').skip(1);
        match (segments.next(), segments.next()) {
            (Some("healthz"), None) | (Some("v1"), Some("hub")) => Self::Public,
            (Some("v1"), Some("join")) => Self::Join,
            (Some("v1"), Some("challenge" | "tokens")) => Self::Tokens,
            (Some("v1"), Some("heartbeat")) => Self::Heartbeat,
            (Some("v1"), Some("units")) => Self::Units,
            (Some("v1"), Some("namespaces")) => Self::Users,
            (Some("v1"), Some("streams")) => Self::Streams,
            (Some("v1"), Some("objects")) => Self::Objects,
            (Some("v1"), Some("log")) => Self::Log,
            (Some("k8s"), Some(_)) => Self::Api,
            _ => Self::Other,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    class: Class,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfClass {
    class: Class,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct State {
    state: &'static str,
}

/// All of it; cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    requests: Family<Answered, Counter>,
    in_flight: Family<OfClass, Gauge>,
    joins: Family<Outcome, Counter>,
    mints: Family<Outcome, Counter>,
    received: Family<OfClass, Counter>,
    sent: Family<OfClass, Counter>,
    providers: Family<State, Gauge>,
    /// Keys that were cut off while something of theirs was open.
    pub cuts: Counter,
    /// Requests refused because of their number.
    pub limited: Counter,
    /// Bound Secrets removed because their key is no longer accepted.
    pub swept: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new(&LogMetrics::default())
    }
}

impl Metrics {
    /// With what the log counts.
    #[must_use]
    pub fn new(log: &LogMetrics) -> Self {
        let (requests, in_flight) = (Family::default(), Family::default());
        let (joins, mints) = (Family::default(), Family::default());
        let (received, sent, providers) = (Family::default(), Family::default(), Family::default());
        let (cuts, limited, swept) = (Counter::default(), Counter::default(), Counter::default());
        let mut registry = Registry::with_prefix("muster_gateway");
        let r = &mut registry;
        r.register("requests", "Requests answered, by kind of endpoint and status", requests.clone());
        r.register("requests_in_flight", "Requests whose answer has not ended", in_flight.clone());
        r.register("joins", "Join requests, by outcome", joins.clone());
        r.register("token_mints", "Token requests, by outcome", mints.clone());
        r.register_with_unit("received", "Bodies of requests", Unit::Bytes, received.clone());
        r.register_with_unit("sent", "Bodies of answers", Unit::Bytes, sent.clone());
        r.register("providers", "ComputeProviders, by state of their keys", providers.clone());
        r.register("cuts", "Keys cut off while in use", cuts.clone());
        r.register("rate_limited", "Requests refused because of their number", limited.clone());
        r.register("secrets_swept", "Bound Secrets removed with their key", swept.clone());
        log.register(r);
        Self {
            registry: Arc::new(registry),
            requests,
            in_flight,
            joins,
            mints,
            received,
            sent,
            providers,
            cuts,
            limited,
            swept,
        }
    }

    /// As Prometheus reads it (OpenMetrics text).
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }

    /// A request was answered; its body may still stream.
    pub fn answered(&self, class: Class, status: StatusCode) {
        self.requests.get_or_create(&Answered { class, status: status.as_u16() }).inc();
        if status == StatusCode::TOO_MANY_REQUESTS {
            self.limited.inc();
        }
    }

    /// A request is open until what is returned is dropped.
    #[must_use]
    pub fn open(&self, class: Class) -> InFlight {
        let gauge = self.in_flight.get_or_create(&OfClass { class }).clone();
        gauge.inc();
        InFlight(gauge)
    }

    /// Counts the bytes of requests.
    #[must_use]
    pub fn received(&self, class: Class) -> Counter {
        self.received.get_or_create(&OfClass { class }).clone()
    }

    /// Counts the bytes of answers.
    #[must_use]
    pub fn sent(&self, class: Class) -> Counter {
        self.sent.get_or_create(&OfClass { class }).clone()
    }

    /// How a join ended: the refusal's reason, or `Accepted`, `Waiting`.
    pub fn joined(&self, outcome: &'static str) {
        self.joins.get_or_create(&Outcome { outcome }).inc();
    }

    /// How a request for tokens ended: the refusal's reason, or `Minted`.
    pub fn minted(&self, outcome: &'static str) {
        self.mints.get_or_create(&Outcome { outcome }).inc();
    }

    /// How many providers there are.
    pub fn providers(&self, count: ProviderCount) {
        let ProviderCount { accepted, waiting, revoked, unknown } = count;
        for (state, number) in
            [("accepted", accepted), ("waiting", waiting), ("revoked", revoked), ("unknown", unknown)]
        {
            self.providers.get_or_create(&State { state }).set(number);
        }
    }
}

/// See [`Metrics::open`].
#[derive(Debug)]
pub struct InFlight(Gauge);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_as_prometheus_text() {
        let metrics = Metrics::default();
        metrics.answered(Class::of("/v1/join"), StatusCode::TOO_MANY_REQUESTS);
        metrics.received(Class::Units).inc_by(5);
        metrics.providers(ProviderCount { accepted: 2, ..ProviderCount::default() });
        let open = metrics.open(Class::Api);
        let text = metrics.text();
        for line in [
            r#"muster_gateway_requests_total{class="Join",status="429"} 1"#,
            r#"muster_gateway_received_bytes_total{class="Units"} 5"#,
            r#"muster_gateway_requests_in_flight{class="Api"} 1"#,
            r#"muster_gateway_providers{state="accepted"} 2"#,
            "muster_gateway_rate_limited_total 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
        drop(open);
        assert!(metrics.text().contains(r#"requests_in_flight{class="Api"} 0"#));
    }

    #[test]
    fn a_callers_words_are_no_labels() {
        assert_eq!(Class::of("/k8s/apis/x"), Class::Api);
        assert_eq!(Class::of("/v1/units/u/blobs/sha256/x"), Class::Units);
        for path in ["/", "", "/k8s", "/v2/hub", "/\u{1b}[31m", "/v1/huba"] {
            assert_eq!(Class::of(path), Class::Other, "{path}");
        }
    }
}
