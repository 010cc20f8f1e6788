//! Of all hubs that run on one cluster, one acts (`muster_core::election`): it holds Lease muster-system/muster-hub. The others
//! stand by, touch no state directory, and take over when it is silent.
//!
//! | file | what |
//! |---|---|
//! | `lease` | the Lease as it is read and written |
//!
//! `runtime::fence` stops the writes of a leader whose term is over, before they leave the process.
//!
//! Who loses the Lease drops all it knows and stands by like the others: whatever a hub has in memory is of its own term. Each term
//! has a fence of its own, so that nothing of an earlier one is sent in a later.
mod lease;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kube::Client;
use muster_core::election::{Candidate, LEASE, RENEW_EVERY, RENEW_WITHIN, RETRY, Seen, Step, Term};

use self::lease::Leases;
use super::error::Error;
use crate::runtime::Shutdown;
use crate::runtime::fence::Fence;

/// Namespace and name of the Lease.
pub const NAME: (&str, &str) = ("muster-system", "muster-hub");

/// What others may know of it.
#[derive(Debug, Clone, Default)]
pub struct Standing {
    answered: Arc<AtomicBool>,
    leads: Arc<AtomicBool>,
}

impl Standing {
    /// Whether the API server has answered since the process began: it leads, or could.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.answered.load(Ordering::Relaxed)
    }

    /// Whether it leads.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.leads.load(Ordering::Relaxed)
    }
}

/// A name that no other process has.
///
/// # Errors
/// No randomness.
pub fn nobody_elses() -> Result<String, getrandom::Error> {
    let mut random = [0; 16];
    getrandom::fill(&mut random)?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A name for `--identity`; what a Lease cannot hold, or a person not read, is none.
///
/// # Errors
/// Why it is none.
pub fn identity(text: &str) -> Result<String, String> {
    let readable = text.bytes().all(|byte| byte.is_ascii_graphic());
    if text.is_empty() || text.len() > 128 || !readable {
        return Err("want 1 to 128 printable characters without spaces, such as a pod's uid".to_owned());
    }
    Ok(text.to_owned())
}

/// One process among those that may lead.
pub struct Elector {
    leases: Leases,
    candidate: Candidate,
    fence: Fence,
    standing: Standing,
    /// Who held it when it was looked at last, so that each is named once.
    named: Option<String>,
}

impl Elector {
    /// `client` is behind no fence: it renews what the fence looks at.
    #[must_use]
    pub fn new(client: Client, me: impl Into<String>, standing: Standing) -> Self {
        let (leases, candidate) = (Leases::new(client), Candidate::new(me));
        Self { leases, candidate, fence: Fence::default(), standing, named: None }
    }

    /// Returns once this process leads, with the fence of its term; `None` if a stop was asked for first.
    pub async fn win(&mut self, shutdown: &Shutdown) -> Option<Fence> {
        self.fence = self.fence.next();
        let mut trouble = None;
        loop {
            let turn = tokio::select! {
                biased;
                () = shutdown.wait() => return None,
                // A way to the API server that is dead must not keep it from trying another one.
                turn = tokio::time::timeout(RENEW_WITHIN, self.turn()) => turn.unwrap_or(Ok(false)),
            };
            match turn {
                Ok(true) => {
                    self.standing.leads.store(true, Ordering::Relaxed);
                    tracing::info!(me = self.candidate.me(), "this hub leads");
                    self.named = None;
                    return Some(self.fence.clone());
                }
                Ok(false) => trouble = None,
                // Another one was quicker; the next look says which.
                Err(error) if error.is_conflict() => {}
                Err(error) => {
                    let error = error.to_string();
                    // Said once, not every second.
                    if trouble.as_ref() != Some(&error) {
                        tracing::warn!(error, "cannot see yet which hub leads, trying again");
                    }
                    trouble = Some(error);
                }
            }
            if stopped_within(RETRY, shutdown).await {
                return None;
            }
        }
    }

    /// Renews until `shutdown`, or until the term is over: true if it was lost. Nothing passes its fence from then on.
    pub async fn keep(&mut self, shutdown: &Shutdown) -> bool {
        let mut pause = self.pause();
        loop {
            if stopped_within(pause, shutdown).await {
                return false;
            }
            // Half of what is left: an answer that does not come leaves time for another request.
            let turn = tokio::time::timeout(self.fence.left() / 2, self.turn()).await;
            pause = match turn {
                Ok(Ok(true)) => self.pause(),
                // It is somebody else's.
                Ok(Ok(false)) => break,
                // The term that it has goes on meanwhile.
                Ok(Err(error)) => {
                    tracing::warn!(%error, "cannot renew the Lease of the hub that leads, trying again");
                    RETRY.min(self.fence.left() / 2)
                }
                Err(_) => RETRY.min(self.fence.left() / 2),
            };
            if !self.fence.holds() {
                break;
            }
        }
        self.lose();
        true
    }

    /// Until the next renewal; sooner if the last one took long.
    fn pause(&self) -> Duration {
        RENEW_EVERY.min(self.fence.left() / 2)
    }

    fn lose(&self) {
        self.fence.close();
        self.standing.leads.store(false, Ordering::Relaxed);
    }

    /// Gives the Lease back, so that the next one need not wait. Only after everything that writes has ended.
    pub async fn give_back(self) {
        self.lose();
        let me = self.candidate.me();
        let give = async {
            let Some(held) = self.leases.get().await?.filter(|lease| lease.holder == me) else {
                return Ok(());
            };
            self.leases.write(&held.version, "", held.transitions).await
        };
        let given = tokio::time::timeout(RENEW_WITHIN, give).await;
        if let Ok(Err(error)) = given {
            tracing::info!(%error, "the Lease was not given back; it ends by itself in {} s", LEASE.as_secs());
        }
    }

    /// One look, and what follows from it. Whether it leads now.
    async fn turn(&mut self) -> Result<bool, Error> {
        let lease = self.leases.get().await?;
        self.standing.answered.store(true, Ordering::Relaxed);
        let me = self.candidate.me().to_owned();
        // Before the request that renews.
        let began = self.fence.now();
        let written = match self.candidate.step(began, lease.as_ref(), self.fence.holds()) {
            Step::Wait => {
                self.name(lease.as_ref());
                return Ok(false);
            }
            Step::Create => self.leases.create(&me).await,
            Step::Write { version, transitions } => self.leases.write(&version, &me, transitions).await,
        };
        written?;
        self.fence.grant(Term::renewed(began));
        // Not if the answer took longer than the term.
        Ok(self.fence.holds())
    }

    fn name(&mut self, lease: Option<&Seen>) {
        let holder = lease.map(|lease| lease.holder.clone()).filter(|holder| !holder.is_empty());
        if holder.is_some() && holder != self.named {
            tracing::info!(holder, "another hub leads, this one stands by");
            self.named = holder;
        }
    }
}

/// Whether a stop was asked for within this time.
async fn stopped_within(time: Duration, shutdown: &Shutdown) -> bool {
    tokio::select! {
        biased;
        () = shutdown.wait() => true,
        () = tokio::time::sleep(time) => false,
    }
}

#[cfg(test)]
mod tests;
