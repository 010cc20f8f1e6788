//! Faults of a process and of what it talks to: a [`Script`] says at which of its calls what happens.
//!
//! | file | thought |
//! |---|---|
//! | `service` | between `kube::Client` and an API server |
//! | `gate` | watches that freeze, expire or repeat themselves |
//!
//! Reads of this server are never stale, as those of a real one are not that name no resourceVersion: what is late is what watches
//! bring.

mod gate;
mod service;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

pub use service::Faulty;

/// For so long watches are frozen, or repeat themselves.
const AWHILE: Duration = Duration::from_secs(30);
/// Calls of one schedule. Whoever makes more of them runs in circles while no time passes; he is stopped, and a trace that long
/// helps nobody.
pub const MOST_CALLS: usize = 20_000;

/// What happens at one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// The process ends before the call is made.
    CrashBefore,
    /// It ends after the call had its effect, and before the answer.
    CrashAfter,
    /// The call has no effect and this answer.
    Refused(u16),
    /// It has its effect; the answer is lost.
    Lost,
    /// Nobody is reached.
    Unreached,
    /// Somebody changes the object just before, so that its version is another one.
    Edited,
    /// Somebody deletes the object just before.
    Deleted,
    /// From here on watches bring nothing for a while, and then everything.
    Frozen,
    /// All watches end; where they were is forgotten.
    Expired,
    /// For a while watches bring everything twice.
    Repeated,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::CrashBefore,
        Self::CrashAfter,
        Self::Refused(409),
        Self::Refused(429),
        Self::Refused(500),
        Self::Refused(503),
        Self::Lost,
        Self::Unreached,
        Self::Edited,
        Self::Deleted,
        Self::Frozen,
        Self::Expired,
        Self::Repeated,
    ];

    /// Which kind of fault it is, as results are counted.
    #[must_use]
    pub fn class(self) -> &'static str {
        match self {
            Self::CrashBefore | Self::CrashAfter => "crash",
            Self::Refused(_) => "refusal",
            Self::Lost | Self::Unreached => "connection",
            Self::Edited | Self::Deleted => "another's write",
            Self::Frozen | Self::Expired | Self::Repeated => "watch",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(code) => write!(f, "{code}"),
            other => write!(f, "{other:?}"),
        }
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|fault| fault.to_string() == text);
        found.ok_or_else(|| {
            format!("{text:?} is no fault; there are {:?}", Self::ALL.map(|it| it.to_string()))
        })
    }
}

/// What happens at which call, counted from 0 over all lives of the process.
pub type Plan = BTreeMap<usize, Fault>;

/// The faults of one process, and what it did. Clones are the same one.
#[derive(Clone)]
pub struct Script(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    crash: Notify,
    expiry: Notify,
}

struct State {
    plan: Plan,
    calls: usize,
    trace: Vec<String>,
    /// Grows with each crash: calls of an earlier life have no answer any more.
    life: u64,
    frozen: Option<Instant>,
    repeating: Option<Instant>,
    expired: u64,
}

/// How a call goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// As it is.
    Go,
    /// With this fault.
    Meets(Fault),
    /// Never: its process is dead, or has made [`MOST_CALLS`].
    Dead,
}

impl Script {
    #[must_use]
    pub fn new(plan: Plan) -> Self {
        let state =
            State { plan, calls: 0, trace: Vec::new(), life: 0, frozen: None, repeating: None, expired: 0 };
        Self(Arc::new(Shared { state: Mutex::new(state), crash: Notify::new(), expiry: Notify::new() }))
    }

    /// How the next call goes on, of a process in this life. What concerns all watches has happened then; a crash before the
    /// call, too.
    pub fn turn(&self, life: u64, what: impl FnOnce() -> String) -> Turn {
        let mut state = self.state();
        if state.life != life {
            return Turn::Dead;
        }
        let call = state.calls;
        state.calls += 1;
        let fault = state.plan.get(&call).copied();
        if call >= MOST_CALLS {
            return Turn::Dead;
        }
        let what = what();
        state.trace.push(match fault {
            Some(fault) => format!("{call} {what} <- {fault}"),
            None => format!("{call} {what}"),
        });
        match fault {
            None => return Turn::Go,
            Some(Fault::Frozen) => state.frozen = Some(Instant::now() + AWHILE),
            Some(Fault::Repeated) => state.repeating = Some(Instant::now() + AWHILE),
            Some(Fault::Expired) => {
                state.expired += 1;
                self.0.expiry.notify_waiters();
            }
            Some(Fault::CrashBefore) => {
                drop(state);
                self.crash();
                return Turn::Dead;
            }
            Some(fault) => return Turn::Meets(fault),
        }
        Turn::Go
    }

    /// The process ends.
    pub fn crash(&self) {
        self.state().life += 1;
        self.0.crash.notify_one();
    }

    /// Until it has ended.
    pub async fn crashed(&self) {
        self.0.crash.notified().await;
    }

    /// Which of its lives the process is in.
    #[must_use]
    pub fn life(&self) -> u64 {
        self.state().life
    }

    /// No more faults from here on.
    pub fn heal(&self) {
        let mut state = self.state();
        state.plan.clear();
        (state.frozen, state.repeating) = (None, None);
    }

    /// How many calls were made.
    #[must_use]
    pub fn calls(&self) -> usize {
        self.state().calls
    }

    /// These calls.
    #[must_use]
    pub fn trace(&self) -> Vec<String> {
        self.state().trace.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
