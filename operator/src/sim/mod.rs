//! The hub in a simulation: its real controllers and the real log, on an API server in memory, under a virtual clock, while calls
//! fail, processes die and others interfere (docs/spec/simulation.md). One schedule is one run; all of it follows from its name.
//!
//! | file | what |
//! |---|---|
//! | `world` | one run: the server, the store, the log, everybody |
//! | `hub` | the hub's process: dies, and starts anew on what it kept |
//! | `log` | the hub's way to the log, on which faults happen too |
//! | `member` | what an agent and its pods do, as a model |
//! | `gateway` | what the gateway does with a commit, as a model |
//! | `kueue` | what Kueue does with the hub's Workloads, as a model |
//! | `story` | what people do meanwhile |
//! | `check` | what must hold, whatever happened |
//! | `planted` | mistakes that the simulation must notice |
//! | `explore` | the tests |
mod check;
mod explore;
mod gateway;
mod hub;
mod kueue;
mod log;
mod member;
pub mod planted;
mod story;
mod world;
