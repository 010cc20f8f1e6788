//! Everybody who may lie does, one after the other, and the log and the hub's plan are asked what comes of it. Trainers are
//! real processes of this build, which has the lies in it; auditors replay with the same program, honestly. No cluster.
//!
//! | file | thought |
//! |---|---|
//! | `runs` | what a run of the trainer comes to, honest or not, and replays of it |
//! | `world` | a log, its hub, three owners; what the hub's plan asks for is done |
//! | `trainers` | lies about the computation |
//! | `commits` | lies about commits and keys |
//! | `auditors` | lies of those who check |
//!
//! `scripts/cheats.sh` runs them, and once more with a fold that does not look closely, to see them fail.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../common/mod.rs"]
mod common;

mod auditors;
mod commits;
mod runs;
mod trainers;
mod world;
