//! The rooms of the operator. `hub` runs on the hub cluster, `auditor` beside it, `agent` on a member, `cli` is the person's side;
//! `runtime` is what all share (clients, TLS, logging, shutdown), `store` keeps blobs and names, `log` the transparency log,
//! `bundle` makes and reads a job's proof, `resolve` turns a TrainingJob into the
//! identity that is hashed, `text` makes tokens of text. Pure decisions live in `muster-core`.
pub mod agent;
pub mod auditor;
pub mod bundle;
pub mod cli;
pub mod gateway;
pub mod hub;
pub mod log;
pub mod resolve;
pub mod runtime;
pub mod store;
pub mod text;
pub mod wire;
