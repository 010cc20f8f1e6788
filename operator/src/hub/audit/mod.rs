//! The hub's audit controller: what the log says must be closed, drawn, asked, decided and rolled back is logged, auditors get
//! their WorkUnits, people their Audit objects, and the job's controller the sum of it.
//!
//! | file | what |
//! |---|---|
//! | `look` | one look at the audits of one job |
//! | `field` | who can be asked now, and who has given up, pure |
//! | `waits` | what is waited for, and for how long, pure |
//! | `unit`, `units` | the WorkUnit in which an auditor replays, pure; made and stopped |
//! | `object`, `objects` | the Audit object of a draw, pure; written and removed |
//! | `sum`, `book` | what a job's audits have come to, pure; for whoever decides about the job |
//! | `replayer` | whether the hub's own auditor is up |
//!
//! What is to be logged is `muster_proof::history`'s agenda, a function of the log. Nothing here decides a verdict.
pub mod book;
mod field;
mod look;
pub mod object;
mod objects;
mod replayer;
mod sum;
#[cfg(test)]
mod tests;
pub mod unit;
mod units;
mod waits;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt;
use muster_api::names::MANAGED_BY;
use muster_api::v1alpha1::{AssuranceTier, TrainingJob, WorkUnit};
use muster_core::audits::JobAudits;

use super::context::Context;
use super::error::Error;
use super::job::{Jobs, gather};
use super::ledger::follow::FollowError;
use super::site as here;
use crate::runtime::Shutdown;
use look::Known;
use replayer::Replayer;

/// The log is asked whether it has grown so often.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Runs until shutdown. `least` is how long any answer is waited for at least.
pub async fn run(ctx: Arc<Context>, jobs: Jobs, least: Duration, shutdown: Shutdown) {
    tokio::select! {
        biased;
        () = shutdown.wait() => return,
        ready = jobs.wait_until_ready() => if ready.is_err() { return },
    }
    let mut audits = Audits::new(least);
    loop {
        let all = jobs.state();
        let mut all: Vec<&TrainingJob> = all.iter().filter_map(|job| job.0.as_ref().ok()).collect();
        // The cache has them in an order of its own.
        all.sort_by_key(|job| (&job.metadata.namespace, &job.metadata.name));
        if let Err(error) = audits.pass(&ctx, &all).await {
            tracing::warn!(%error, "audits were not looked at, trying again");
        }
        tokio::select! {
            biased;
            () = shutdown.wait() => return,
            () = ctx.audits.woken() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

/// What is around all jobs, as of one pass.
pub struct Site {
    /// Providers and units.
    pub here: here::Site,
    /// Whether the hub's own auditor is up.
    pub hub_auditor: bool,
}

/// What is remembered between two passes; losing it costs time, never a decision.
pub struct Audits {
    least: Duration,
    known: BTreeMap<String, Known>,
    replayer: Replayer,
}

impl Audits {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(least: Duration) -> Self {
        Self { least, known: BTreeMap::new(), replayer: Replayer::default() }
    }

    /// One pass over the audits of all jobs. What fails for one job holds up no other.
    ///
    /// # Errors
    /// What concerns all of them: the log or the API server is away, or the log cannot be believed.
    pub async fn pass(&mut self, ctx: &Context, all: &[&TrainingJob]) -> Result<(), Error> {
        let uids: BTreeSet<String> = all.iter().filter_map(|job| job.uid()).collect();
        self.known.retain(|uid, _| uids.contains(uid));
        ctx.audits.keep(&uids);
        let jobs: Vec<&TrainingJob> = all.iter().copied().filter(|job| is_audited(job)).collect();
        let size = match ctx.follower.advance(&ctx.ledger).await {
            Ok(size) => size,
            Err(FollowError::Ledger(error)) => return Err(error.into()),
            Err(broken @ FollowError::Broken(_)) => {
                say_broken(ctx, &jobs, &broken.to_string());
                // Once it can be believed again, every job is looked at.
                self.known.clear();
                return Err(Error::Log(broken.to_string()));
            }
        };
        let open: Vec<&TrainingJob> =
            jobs.into_iter().filter(|job| self.known(job).is_none_or(|known| known.is_due(size))).collect();
        if open.is_empty() {
            return Ok(());
        }
        let hub_auditor = self.replayer.is_up(ctx).await?;
        ctx.audits.set_hub_auditor(hub_auditor);
        let site = Site { here: here::Site::read(ctx).await?, hub_auditor };
        for job in open {
            let uid = job.uid().unwrap_or_default();
            let known = self.known.entry(uid).or_default();
            let result = known.look(ctx, job, &site, self.least).await;
            known.told(job, result);
        }
        Ok(())
    }

    fn known(&self, job: &TrainingJob) -> Option<&Known> {
        self.known.get(job.metadata.uid.as_deref()?)
    }
}

/// Whether there is anything to audit: a job of this hub with a tier, that the log has.
fn is_audited(job: &TrainingJob) -> bool {
    let logged = job.status.as_ref().is_some_and(|status| status.job_id.is_some());
    job.spec.assurance.tier != AssuranceTier::None && job.spec.managed_by == MANAGED_BY && logged
}

/// Tells all jobs that nothing of theirs is audited.
fn say_broken(ctx: &Context, jobs: &[&TrainingJob], why: &str) {
    for uid in jobs.iter().filter_map(|job| job.uid()) {
        let before = ctx.audits.of(&uid);
        // Of a job that was never looked at nothing is known, and nothing must be believed.
        if let Some(before) = before {
            let audits = JobAudits { settled: false, no_auditor: Some(why.to_owned()), ..(*before).clone() };
            ctx.audits.put(&uid, audits);
        }
    }
}

/// Units of a job that audit it.
fn auditing(site: &here::Site, job_uid: &str) -> Vec<WorkUnit> {
    let of = |unit: &&WorkUnit| unit.spec.job_uid == job_uid && !gather::trains(unit);
    site.units.iter().map(|unit| &unit.object).filter(of).cloned().collect()
}
