//! Version `v1alpha1`: one file per kind, or one folder where a kind has more than one thought.
//!
//! - [`TrainingJob`]: what a tenant wants; the hub writes its status.
//! - [`ComputeProvider`]: what the hub's admin lets a provider do; the hub writes its status.
//! - [`ProviderReport`]: what a provider's agent says it has; the hub makes it, the agent writes its status.
//! - [`WorkUnit`]: one epoch of one island of a job on one provider, or one replay by an auditor; the hub writes spec,
//!   the agent status.
//! - [`Audit`]: one replay of one drawn interval; the hub writes all of it.
//!
//! A later kind gets its file and its line here and in [`crate::crds`].
//!
//! Defaults in Rust are the defaults in the schema, so a file parsed without an API server means the same.
//! Integers are `i32` or `i64` within +-(2^53 - 1), decimals are strings, and everything has a bound.

mod audit;
mod compute_provider;
mod provider_report;
mod rules;
mod schema;
mod shared;
mod training_job;
mod work_unit;

pub use audit::*;
pub use compute_provider::*;
pub use provider_report::*;
pub use shared::*;
pub use training_job::*;
pub use work_unit::*;

/// The version's name.
pub const VERSION: &str = "v1alpha1";
