//! Jobs: made, followed, deleted and made anew.
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use futures::{StreamExt, TryStreamExt, stream};
use kube::api::{Api, DeleteParams, PostParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, watcher};
use kube::{Client, ResourceExt};
use muster_api::v1alpha1::{TrainingJob, TrainingJobPhase};
use tokio::time::Instant;

use crate::units::Units;

/// Requests under way at once.
const PARALLEL: usize = 16;

/// See the module.
pub struct Jobs {
    client: Client,
    template: String,
    tenants: Vec<String>,
    next: AtomicUsize,
    known: Mutex<HashMap<Key, Job>>,
    /// Seconds from a request to the job's status that says that it is accepted.
    accepted: Mutex<Vec<f64>>,
    units: Arc<Units>,
}

/// Namespace and name.
type Key = (String, String);

#[derive(Default)]
struct Job {
    made: Option<Instant>,
    is_accepted: bool,
    /// Whose it is.
    provider: Option<String>,
    /// Its owner has had enough of it.
    goes: bool,
}

impl Jobs {
    pub fn new(client: Client, template: String, tenants: Vec<String>, units: Arc<Units>) -> Self {
        Self {
            client,
            template,
            tenants,
            next: AtomicUsize::new(0),
            known: Mutex::default(),
            accepted: Mutex::default(),
            units,
        }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Key, Job>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many are accepted, as their statuses say.
    pub fn accepted(&self) -> usize {
        self.known().values().filter(|job| job.is_accepted).count()
    }

    /// Seconds from the request for a job to its acceptance, since the beginning of the churn.
    pub fn times(&self) -> Vec<f64> {
        self.accepted.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Follows them until the end of the process.
    pub fn follow(self: &Arc<Self>) {
        let jobs = self.clone();
        tokio::spawn(async move {
            let api: Api<TrainingJob> = Api::all(jobs.client.clone());
            let mut events = watcher(api, watcher::Config::default()).default_backoff().boxed();
            while let Some(event) = events.next().await {
                match event {
                    Ok(watcher::Event::Apply(job) | watcher::Event::InitApply(job)) => jobs.saw(&job),
                    Ok(watcher::Event::Delete(job)) => _ = jobs.known().remove(&key(&job)),
                    Ok(_) => {}
                    Err(error) => eprintln!("jobs: {error}"),
                }
            }
        });
    }

    fn saw(&self, job: &TrainingJob) {
        let Some(status) = &job.status else { return };
        let mut known = self.known();
        let known = known.entry(key(job)).or_default();
        if status.job_id.is_some() && !known.is_accepted {
            known.is_accepted = true;
            if let Some(made) = known.made {
                let took = made.elapsed().as_secs_f64();
                self.accepted.lock().unwrap_or_else(PoisonError::into_inner).push(took);
            }
        }
        // One that waits again still names where it was.
        let trains = status.phase == Some(TrainingJobPhase::Running);
        let island = status.islands.first().filter(|_| trains);
        known.provider = island.and_then(|island| island.provider.clone());
    }

    /// Makes so many, at most `rate` of them a second.
    pub async fn make(&self, count: usize, rate: f64) -> anyhow::Result<()> {
        let began = Instant::now();
        let all = stream::iter(0..count).map(|number| async move {
            tokio::time::sleep_until(began + Duration::from_secs_f64(number as f64 / rate)).await;
            self.make_one().await
        });
        all.buffer_unordered(PARALLEL).try_collect().await
    }

    async fn make_one(&self) -> anyhow::Result<()> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let tenant = &self.tenants[number % self.tenants.len()];
        let text = self.template.replace("{N}", &number.to_string()).replace("{TENANT}", tenant);
        let job: TrainingJob = serde_json::from_str(&text).context("--template: no TrainingJob")?;
        let made = Some(Instant::now());
        self.known().insert(key(&job), Job { made, ..Job::default() });
        let api: Api<TrainingJob> = Api::namespaced(self.client.clone(), tenant);
        api.create(&PostParams::default(), &job).await.context("a job was refused")?;
        Ok(())
    }

    /// Every so often one that trains is deleted by its owner, and another one made.
    pub async fn churn(&self, every: Duration, lasts: Duration) -> anyhow::Result<()> {
        self.accepted.lock().unwrap_or_else(PoisonError::into_inner).clear();
        let until = Instant::now() + lasts;
        while Instant::now() + every < until {
            tokio::time::sleep(every).await;
            let found = {
                let mut known = self.known();
                let runs = |job: &Job| {
                    !job.goes && job.provider.as_ref().is_some_and(|provider| self.units.runs_at(provider))
                };
                let first = known.iter_mut().filter(|(_, job)| runs(job)).min_by(|(a, _), (b, _)| a.cmp(b));
                first.and_then(|(key, job)| {
                    job.goes = true;
                    Some((key.clone(), job.provider.clone()?))
                })
            };
            if let Some(((namespace, name), provider)) = found {
                let api: Api<TrainingJob> = Api::namespaced(self.client.clone(), &namespace);
                self.units.frees(&provider);
                api.delete(&name, &DeleteParams::default()).await.context("a job cannot be deleted")?;
            }
            self.make_one().await?;
        }
        tokio::time::sleep_until(until).await;
        Ok(())
    }
}

fn key(job: &TrainingJob) -> Key {
    (job.namespace().unwrap_or_default(), job.name_any())
}
