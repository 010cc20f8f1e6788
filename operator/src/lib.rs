//! The rooms of the operator. `hub` runs on the hub cluster, `auditor` beside it, `agent` on a member, `cli` is the person's side;
//! `runtime` is what all share (clients, TLS, logging, shutdown), `store` keeps blobs and names, `log` the transparency log,
//! `bundle` makes and reads a job's proof, `resolve` turns a TrainingJob into the
//! identity that is hashed, `text` makes tokens of text. Pure decisions live in `muster-core`.
/// A mistake that tests make on purpose, by name, to see that a simulation notices it. In what runs in a cluster it is `false`.
#[cfg(test)]
macro_rules! planted {
    ($name:literal) => {
        crate::sim::planted::is($name)
    };
}
#[cfg(not(test))]
macro_rules! planted {
    ($name:literal) => {
        false
    };
}

pub mod agent;
pub mod auditor;
pub mod bundle;
pub mod cli;
pub mod gateway;
pub mod hub;
pub mod log;
pub mod resolve;
pub mod runtime;
#[cfg(test)]
mod sim;
pub mod store;
pub mod text;
pub mod wire;
