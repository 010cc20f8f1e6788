//! What hub, agent and command line share: clients, TLS, logging, shutdown, backoff, durable files.
//! Nothing here knows what a TrainingJob is.
pub mod answer;
pub mod backoff;
pub mod blobdir;
pub mod client;
pub mod files;
pub mod persist;
pub mod sanitise;
pub mod shutdown;
pub mod telemetry;
pub mod tls;

pub use shutdown::Shutdown;
