//! Tests of the crate's public interface, one binary.

// Helpers of tests: a failure in them is a failed test.
#![allow(clippy::unwrap_used)]

mod cases;
mod conformance;
mod gradient;
mod graph;
mod nonfinite;
mod spec;
