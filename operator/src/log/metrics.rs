//! What is counted of the log.
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// Cheap to clone.
#[derive(Debug, Clone)]
pub struct LogMetrics {
    /// Entries under the newest published head.
    pub size: Gauge,
    /// Entries appended by this process.
    pub appends: Counter,
    /// Records that were in the log already.
    pub duplicates: Counter,
    /// Records that were not admitted.
    pub refusals: Counter,
    /// Entries of one published head.
    pub batch: Histogram,
    /// From submitting a record to the head that has it, in seconds.
    pub publish: Histogram,
    /// Cosignatures that were kept.
    pub cosignatures: Counter,
}

impl Default for LogMetrics {
    fn default() -> Self {
        Self {
            size: Gauge::default(),
            appends: Counter::default(),
            duplicates: Counter::default(),
            refusals: Counter::default(),
            batch: Histogram::new(exponential_buckets(1.0, 2.0, 9)),
            publish: Histogram::new(exponential_buckets(0.002, 2.0, 12)),
            cosignatures: Counter::default(),
        }
    }
}

impl LogMetrics {
    /// Under `log_...` of this registry.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("log");
        registry.register("entries", "Entries under the newest published head", self.size.clone());
        registry.register("appends", "Entries appended", self.appends.clone());
        registry.register("duplicates", "Records that were in the log already", self.duplicates.clone());
        registry.register("refusals", "Records that were not admitted", self.refusals.clone());
        registry.register("batch", "Entries of one published head", self.batch.clone());
        let help = "From submitting a record to the head that has it";
        registry.register_with_unit("publish", help, Unit::Seconds, self.publish.clone());
        registry.register("cosignatures", "Cosignatures that were kept", self.cosignatures.clone());
    }
}
