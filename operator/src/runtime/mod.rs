//! What hub, agent and command line share: clients, watches, TLS, logging, shutdown, backoff, clock, durable files.
//! Nothing here knows what a TrainingJob is.
pub mod answer;
pub mod backoff;
pub mod blobdir;
pub mod bucket;
pub mod client;
pub mod clock;
pub mod connections;
pub mod fence;
pub mod files;
pub mod joint;
pub mod kueue;
pub mod lean;
pub mod mirror;
pub mod offload;
pub mod patience;
pub mod persist;
pub mod probes;
pub mod sanitise;
pub mod shutdown;
pub mod slots;
pub mod telemetry;
pub mod tls;

pub use shutdown::Shutdown;
