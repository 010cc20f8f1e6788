//! Which job trains where, over all jobs at once: the order of those that wait, and who makes way for whom.
//!
//! Pure: the hub hands over everything that waits ([`Ask`]), everything that trains ([`Holding`]) and all providers, and acts on
//! the [`Plan`]. It remembers nothing between two plans; whoever is to make way is asked to, and is seen to leave the next time.
//!
//! The rules, in words (docs/spec/placement.md has them with their reasons):
//!
//! 1. Tenants are served by weighted max-min fairness: whoever holds the fewest workers for its weight is next (Bertsekas and
//!    Gallager, *Data Networks*, section 6.5.2). A class of devices is a queue of its own.
//! 2. Within a tenant the higher priority goes first, then the older job. What does not fit lets the next one try.
//! 3. Nobody is held back from what is idle: a share is what counts once others want it, too.
//! 4. A job for which there is no room takes it from its own tenant's jobs of lower priority, or from a tenant that
//!    keeps at least as much for its weight as the taker then has. Whoever loses workers stops at the end of its interval.
//! 5. A job that has waited for [`STARVES_AFTER`] keeps what gets free on one provider, until all that it needs is free at once.
//! 6. What is left when nobody waits goes to jobs that can use more workers than they asked for.
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::placement::{Candidate, Request};

mod desk;
mod fair;
mod size;
#[cfg(test)]
mod tests;

pub use size::Size;

/// Who has waited for so long gets a provider kept free for it.
pub const STARVES_AFTER: Duration = Duration::from_secs(600);

/// A unit is not made again with more workers before it has lived for so long: each time costs it a start.
pub const GROWS_AFTER: Duration = Duration::from_secs(300);

/// The weight of a tenant that has none of its own.
pub const WEIGHT: u32 = 1;

/// A job that wants a provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// Names it, whatever else changes.
    pub job: String,
    /// Whose it is.
    pub tenant: String,
    /// Among its tenant's jobs; higher goes first.
    pub priority: i32,
    /// When the job was made, in seconds since some moment: older goes first.
    pub made: i64,
    /// How long it has waited for a provider.
    pub waited: Duration,
    /// Others have been asked to make way for it ([`Plan::owed`]): what they leave is not for anybody else.
    pub owed: bool,
    /// It has a unit with a silent member, which it keeps if nobody else has room: nobody is interrupted for it, and nothing kept.
    pub moves: bool,
    /// How many workers it can do with.
    pub size: Size,
    /// What it needs of its provider; its `workers` are those of `size`.
    pub request: Request,
}

/// A unit that trains, or is about to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holding {
    /// Its job.
    pub job: String,
    /// Whose job that is.
    pub tenant: String,
    /// Priority of the job.
    pub priority: i32,
    /// Where it is.
    pub provider: String,
    /// On what.
    pub device_class: String,
    /// Its workers.
    pub workers: u32,
    /// How many workers its job can do with.
    pub size: Size,
    /// How long it has been there.
    pub age: Duration,
    /// Whether it has been asked to leave.
    pub leaves: bool,
    /// What a unit with more workers would need of the provider, if its job can do with more: its next one is a new one.
    pub grows: Option<Request>,
}

/// What becomes of an ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// This provider is for it.
    On {
        /// Name of the provider.
        provider: String,
        /// Epoch floor of the provider; the new epoch must not be below it.
        min_epoch: u64,
        /// With so many workers.
        workers: u32,
    },
    /// There is no provider at all (reason `NoProviders`).
    NoProviders,
    /// Somebody could, but has no room (reason `NoCapacity`): waiting helps.
    NoCapacity {
        /// "0/2 providers: ..., and how far it is in the queue.
        message: String,
    },
    /// Nobody fits, and not only for lack of room (reason `NoneEligible`).
    NoneEligible {
        /// "0/2 providers: ..."
        message: String,
    },
}

/// Why a unit is asked to stop at the end of its interval.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leave {
    /// Somebody else needs its workers more.
    Preempted {
        /// Who, and by which rule, for people of the losing tenant: names no job of another one.
        message: String,
    },
    /// It goes on with another number of workers.
    Resized {
        /// With so many.
        workers: u32,
    },
}

/// What is to be done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// By job, one for each ask.
    pub answers: BTreeMap<String, Answer>,
    /// By job.
    pub leave: BTreeMap<String, Leave>,
    /// Jobs that workers were interrupted for, until they have a provider. Each gets what it was promised before anybody else gets
    /// anything, or one interruption would follow the other. To be handed back with the next plan's asks; what is lost of it costs
    /// an interruption that was for nothing.
    pub owed: BTreeSet<String>,
}

/// Decides over everything at once. The same input gives the same plan, whatever the order of its parts.
#[must_use]
pub fn plan(
    asks: &[Ask],
    holdings: &[Holding],
    candidates: &[Candidate],
    weights: &BTreeMap<String, u32>,
) -> Plan {
    let mut desk = desk::Desk::new(asks, holdings, candidates, weights);
    let (owed, others): (Vec<&Ask>, Vec<&Ask>) = asks.iter().partition(|ask| ask.owed);
    let mut queues = fair::queues(&others);
    for (class, mut first) in fair::queues(&owed) {
        let class_queues = queues.entry(class.clone()).or_default();
        while let Some(ask) = fair::next(&mut first, |tenant| desk.share(tenant, &class)) {
            // Whoever was to make way may have gone without leaving anything behind: then it is one of many again.
            if !desk.settle(ask) {
                fair::enqueue(class_queues, ask);
            }
        }
    }
    for held in holdings {
        queues.entry(held.device_class.clone()).or_default();
    }
    for (class, mut queues) in queues {
        while let Some(ask) = fair::next(&mut queues, |tenant| desk.share(tenant, &class)) {
            desk.serve(ask);
        }
        if !desk.lacks_room(&class) {
            desk.hand_out_the_rest(asks, &class);
        }
    }
    desk.plan
}
