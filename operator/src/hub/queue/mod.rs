//! The queue: all jobs that want a provider, and one plan for all of them (`muster_core::queue`).
//!
//! A job's look at itself asks for its turn and gets an answer. Many that ask at once share one plan. While jobs wait, the plan is made
//! anew when something has changed, and those whose answer is another one are woken, as are those that must make way.
//! All of it is forgotten with the process: jobs ask again.
//!
//! | file | what |
//! |---|---|
//! | `table` | who waits, what the last plan said |
//! | `plan` | from objects to the input of a plan |
//! | `weights` | what tenants' namespaces say of their weight |
mod plan;
mod table;
#[cfg(test)]
mod tests;
mod weights;

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use futures::Stream;
use futures::channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use kube::ResourceExt;
use kube::core::DeserializeGuard;
use kube::runtime::reflector::ObjectRef;
use muster_api::v1alpha1::{TrainingJob, WorkUnit};
use muster_core::placement::Candidate;
use muster_core::queue::{Answer, Ask, Leave};
use tokio::sync::Notify;

use super::context::Context;
use super::error::Error;
use super::job::Jobs;
use super::site::Site;
use crate::runtime::Shutdown;
use table::{Entered, Table};
use weights::Weights;

type Wakes = ObjectRef<DeserializeGuard<TrainingJob>>;

/// While jobs wait, a plan is made after this even if nothing has changed, as far as anybody knows.
const AGAIN: Duration = Duration::from_secs(30);
/// From one plan to the next, if changes come one after the other.
const GAP: Duration = Duration::from_millis(250);
/// After a plan that could not be made.
const RETRY: Duration = Duration::from_secs(1);

fn wake(job: &TrainingJob) -> Wakes {
    ObjectRef::new(&job.name_any()).within(&job.namespace().unwrap_or_default())
}

/// See the module.
pub struct Queue {
    table: Mutex<Table>,
    /// Held while a plan is made.
    planning: tokio::sync::Mutex<()>,
    changed: Notify,
    jobs: OnceLock<Jobs>,
    weights: Weights,
    wakes: (UnboundedSender<Wakes>, Mutex<Option<UnboundedReceiver<Wakes>>>),
}

impl Default for Queue {
    fn default() -> Self {
        let (sender, receiver) = unbounded();
        Self {
            table: Mutex::default(),
            planning: tokio::sync::Mutex::default(),
            changed: Notify::new(),
            jobs: OnceLock::new(),
            weights: Weights::default(),
            wakes: (sender, Mutex::new(Some(receiver))),
        }
    }
}

/// What a job is told when it asks.
pub struct Turn {
    /// What becomes of it.
    pub answer: Answer,
    /// All providers, as they were seen.
    pub candidates: Arc<Vec<Candidate>>,
}

impl Queue {
    /// All jobs that there are, as their controller knows them.
    pub fn follow(&self, jobs: Jobs) {
        let _ = self.jobs.set(jobs);
    }

    /// Jobs to look at again. To be taken once.
    pub fn wakes(&self) -> impl Stream<Item = Wakes> + Send + 'static {
        let taken = self.wakes.1.lock().unwrap_or_else(PoisonError::into_inner).take();
        taken.unwrap_or_else(|| unbounded().1)
    }

    /// Something that a plan is made of is another one now.
    pub fn changed(&self) {
        if self.table().is_awaited() {
            self.changed.notify_one();
        }
    }

    /// What becomes of a job that wants a provider. An answer `On` is for it, until it has made its unit and says so with
    /// [`Queue::made`] or wants none any more ([`Queue::withdraw`]), asks otherwise, or a minute has passed.
    ///
    /// # Errors
    /// What reading the objects of a plan came to.
    pub async fn turn(&self, ctx: &Context, job: &TrainingJob, ask: Ask) -> Result<Turn, Error> {
        let uid = ask.job.clone();
        let dataset = job.status.as_ref().and_then(|status| Some(status.resolved.as_ref()?.dataset.clone()));
        let number = match self.table().enter(ask, wake(job), dataset) {
            Entered::Answered(turn) => return Ok(turn),
            Entered::Waits(number) => number,
        };
        let _one = self.planning.lock().await;
        // Whoever was here before may have made a plan for this one, too.
        if self.table().planned() < number {
            self.plan(ctx).await?;
        }
        self.table().turn(&uid).ok_or(Error::Incomplete("plan", "answer for a job that asked"))
    }

    /// What the job was told has become this unit.
    pub fn made(&self, job: &str, unit: &WorkUnit) {
        if self.table().made(job, unit) {
            self.changed();
        }
    }

    /// The job wants no provider, or has one.
    pub fn withdraw(&self, job: &str) {
        if self.table().withdraw(job) {
            // What was kept for it may be somebody else's now.
            self.changed();
        }
    }

    /// Whether the job's unit is to make way, and why.
    pub fn leave(&self, job: &str) -> Option<Leave> {
        self.table().leave(job)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whoever calls holds `planning`.
    async fn plan(&self, ctx: &Context) -> Result<(), Error> {
        let _timer = ctx.metrics.plans();
        let number = self.table().asked();
        if let Some(jobs) = self.jobs.get()
            && jobs.wait_until_ready().await.is_err()
        {
            return Err(Error::Incomplete("cache of jobs", "writer"));
        }
        // What is promised may become a unit, and no promise any more, after the units are read.
        let made = self.table().made_so_far();
        let site = Site::read(ctx).await?;
        let jobs = plan::jobs(ctx, self.jobs.get());
        let input = plan::Input::new(ctx, (&site, made), &jobs, &self.weights.all(), &mut self.table());
        let plan = muster_core::queue::plan(&input.asks, &input.holdings, &input.candidates, &input.weights);
        let woken = self.table().conclude(number, plan, &input, &jobs);
        for job in woken {
            let _ = self.wakes.0.unbounded_send(job);
        }
        Ok(())
    }
}

/// Makes plans while jobs wait, until shutdown.
pub async fn run(ctx: &Context, shutdown: Shutdown) {
    let queue = &ctx.queue;
    let planning = async {
        loop {
            tokio::select! {
                biased;
                () = queue.changed.notified() => {}
                () = tokio::time::sleep(AGAIN) => {}
            }
            if !queue.table().is_awaited() {
                continue;
            }
            let planned = async {
                let _one = queue.planning.lock().await;
                queue.plan(ctx).await
            };
            let pause = match planned.await {
                Ok(()) => GAP,
                Err(error) => {
                    tracing::warn!(%error, "jobs wait, and no plan can be made for them yet");
                    queue.changed.notify_one();
                    RETRY
                }
            };
            tokio::time::sleep(pause).await;
        }
    };
    tokio::select! {
        biased;
        () = shutdown.wait() => {}
        () = planning => {}
        () = weights::follow(ctx.client.clone(), &queue.weights, || queue.changed()) => {}
    }
}
