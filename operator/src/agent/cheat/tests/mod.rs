//! Agents that lie, over a gateway as it runs, and the log's own fold: what is said goes through real TLS and tokens, real read
//! back, and everything that makes a record count. Only Kubernetes is a fake, and no pod trains.
//!
//! | file | thought |
//! |---|---|
//! | `world` | the gateway, its log, the hub's records |
//! | `agents` | providers, and the processes of their agents |
//! | `commits` | lies about commits |
//! | `keys` | lies about key bindings |
//! | `seals` | lies about seals |
mod agents;
mod commits;
mod keys;
mod seals;
mod world;

use agents::{Agent, Provider};
use world::{Lent, World};

use super::records::{Lie, Told};

/// What was refused, with this reason.
fn no(what: &'static str, reason: &str) -> Told {
    (what, Err(reason.to_owned()))
}
