//! The custom resources of Muster, group `muster.dev`, and nothing else: types, their schemas and a check of
//! objects against those, the CEL rules that the API server enforces, and the names that both sides of a field must spell alike.
//!
//! No logic lives here: nothing reads a clock, talks to a server or decides. What a value *means* is
//! `muster-core`'s, what a hash is `muster-proof`'s. The files in `crds/` are printed from these types by
//! [`crd_yaml`]; `docs/spec/api.md` explains the objects and who writes which half of them.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod check;
mod crd;
pub mod names;
pub mod v1alpha1;

pub use crd::{CrdFile, crd_yaml, crds};
