//! What hub, agent and command line share: clients, TLS, logging, shutdown, backoff.
pub mod blobdir;
