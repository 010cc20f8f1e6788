//! What tests of controllers stand on.
//!
//! | module | what |
//! |---|---|
//! | [`api`] | an API server in memory |
//!
//! No part of any program: nothing here is linked into what runs in a cluster.

#![forbid(unsafe_code)]

pub mod api;
