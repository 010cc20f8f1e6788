//! What a stranger needs to check a result of Muster, and nothing else.
//!
//! Everything here is a pure function of its arguments: no Kubernetes, no async runtime, no files, no
//! clock, no randomness of its own. The hub, the agents, the sidecars and an offline verifier run this same
//! code, and an auditor of the code can read it in one sitting. The byte-level definitions are in
//! `docs/spec/formats.md`; each module names the RFC it follows.
//!
//! | module | what | source |
//! |---|---|---|
//! | [`digest`] | `sha256:<64 hex>` | |
//! | [`hash`] | `H(context; parts)`, the one domain-separated hash | formats.md |
//! | [`jcs`] | canonical JSON, strict parsing | RFC 8785 |
//! | [`merkle`] | trees, inclusion and consistency proofs | RFC 6962 section 2.1 |
//! | [`tensor`], [`state_root`] | the digest of a training state | formats.md |
//! | [`steps`] | step records, their seal, failed states | formats.md |
//! | [`evaluation`] | which steps evaluate | numerics.md |
//! | [`inputs`] | which files a job reads beside its dataset | numerics.md |
//! | [`sigstore`], [`model_signing`] | bundles and `model.sig`, for others' tools | Sigstore bundle v0.3, Model Signing v1.0 |
//! | [`tlog`] | the transparency log: notes, checkpoints, tiles, witnesses, policies, proofs | C2SP, log.md |
//! | [`commit_proof`] | `commit.tlog-proof`: that the log has a checkpoint's commit | C2SP tlog-proof |
//! | [`key`], [`dsse`] | P-256 keys, signed envelopes | RFC 6979, DSSE v1 |
//! | [`hub_keys`] | the chain of a hub's keys | gateway.md section 5 |
//! | [`records`] | what the log holds, one closed schema a kind | records.md |
//! | [`selection`] | which interval is audited, and by whom | records.md |
//! | [`history`] | the fold over the log: what each record needs to count | records.md |
//! | [`bundle`] | a job's proof as files, and the check of it | bundle.md |
//!
//! What must not live here: anything that reads, waits or logs, or decides what shall happen. Still to come, each as a
//! module of its own: fraud proofs.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod bundle;
pub mod commit_proof;
pub mod digest;
pub mod dsse;
pub mod evaluation;
pub mod hash;
pub mod history;
pub mod hub_keys;
pub mod inputs;
pub mod jcs;
pub mod key;
pub mod merkle;
pub mod model_signing;
pub mod records;
pub mod selection;
pub mod sigstore;
pub mod state_root;
pub mod steps;
pub mod tensor;
pub mod tlog;

pub use digest::Digest;
pub use state_root::StateRootBuilder;
