//! What tests of controllers stand on.
//!
//! | module | what |
//! |---|---|
//! | [`api`] | an API server in memory |
//! | [`cluster`] | what controllers of every cluster do: they collect garbage and empty namespaces |
//! | [`faults`] | what goes wrong between a process and an API server |
//! | [`clock`], [`entropy`] | time and randomness that a schedule decides |
//! | [`explore`] | many schedules, each of which can be run again |
//!
//! No part of any program: nothing here is linked into what runs in a cluster.

#![deny(unsafe_code)]

pub mod api;
pub mod clock;
pub mod cluster;
#[allow(unsafe_code, reason = "a symbol that the C library has, too")]
pub mod entropy;
pub mod explore;
pub mod faults;
