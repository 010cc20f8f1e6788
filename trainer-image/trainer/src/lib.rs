//! The trainer: everything between the arithmetic (`muster-numerics`) and the outside of a worker process.
//!
//! | module | what |
//! |---|---|
//! | [`protocol`] | events, commands, relay bodies, exit codes: `docs/spec/protocol.md` as types |
//! | [`dataset`] | token files and their manifest |
//! | [`resolved`] | the resolved spec, training digest, genesis, StateRoot |
//! | [`checkpoint`], [`safetensors`] | states on disk, in files that `transformers` loads |
//! | [`hf`] | models in Hugging Face's form: import and export |
//! | [`exchange`] | sums over the workers of a run, over TLS |
//! | [`peers`] | the signed list of a round's workers |
//! | [`worker`] | one process of a training run |
//! | [`pod`] | process 1 of a pod: rounds, hand-over to the sidecar |
//! | [`records`], [`commit`] | what the steps of an interval report, and what is signed of it |
//! | [`failed`] | the same of an interval that ends in a step that is not finite |
//! | [`relay`], [`binding`], [`work`] | what supervisor and sidecar share: the agent's relay, its key, the scratch directory |
//! | [`inference`] | logits, gradients, text from a trained model |
//! | [`cli`] | the command line |
//! | [`files`], [`failure`] | whole-or-absent files; how a process ends badly |
//!
//! What must not live here: arithmetic on parameters (numerics) and Kubernetes (the operator).

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod binding;
pub mod checkpoint;
pub mod cli;
pub mod commit;
pub mod dataset;
pub mod exchange;
pub mod failed;
pub mod failure;
pub mod files;
pub mod hf;
pub mod inference;
pub mod peers;
pub mod pod;
pub mod protocol;
pub mod records;
pub mod relay;
pub mod resolve;
pub mod resolved;
pub mod safetensors;
pub mod work;
pub mod worker;
