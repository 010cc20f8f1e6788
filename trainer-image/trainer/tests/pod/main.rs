//! A pod's two containers, trainer and sidecar, against a relay with faults.
//!
//! | file | thought |
//! |---|---|
//! | `site` | a job, its relay and its pods as processes |
//! | `relay` | the relay, in memory |
//! | `rounds` | training, peers, what is fetched |
//! | `sidecar` | the sidecar comes, goes and is lied to |
//! | `commits` | every interval is committed, once and in order |
//! | `stopping` | all the ways in which a pod ends |

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../common/mod.rs"]
mod common;

mod commits;
mod failures;
mod relay;
mod rounds;
mod sidecar;
mod site;
mod stopping;
