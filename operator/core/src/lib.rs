//! Pure decisions of the operator: no kube, no tokio, no clock; time and randomness are arguments.

pub mod attempt;
pub mod audits;
pub mod election;
pub mod envelope;
pub mod epochs;
pub mod lifecycle;
pub mod nodes;
pub mod placement;
pub mod policy;
pub mod provider;
pub mod provider_keys;
pub mod queue;
pub mod quota;
pub mod recovery;
pub mod sidecar;

pub use muster_proof::hub_keys;
