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
use muster_api::v1alpha1::TrainingJob;
use tokio::time::Instant;

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
    /// Seconds from a request to delete one that trains to the next unit.
    places: Mutex<Places>,
}

/// Namespace and name.
type Key = (String, String);

#[derive(Default)]
struct Job {
    made: Option<Instant>,
    is_accepted: bool,
    trains: bool,
    /// Its owner has had enough of it.
    goes: bool,
}

#[derive(Default)]
struct Places {
    freed: std::collections::VecDeque<Instant>,
    took: Vec<f64>,
}

impl Jobs {
    pub fn new(client: Client, template: String, tenants: Vec<String>) -> Self {
        Self {
            client,
            template,
            tenants,
            next: AtomicUsize::new(0),
            known: Mutex::default(),
            accepted: Mutex::default(),
            places: Mutex::default(),
        }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Key, Job>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many are accepted, as their statuses say.
    pub fn accepted(&self) -> usize {
        self.known().values().filter(|job| job.is_accepted).count()
    }

    /// Seconds until jobs were accepted, and until a freed place was somebody's, since the beginning of the churn.
    pub fn times(&self) -> (Vec<f64>, Vec<f64>) {
        let lock = |times: &Mutex<Vec<f64>>| times.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let places = self.places.lock().unwrap_or_else(PoisonError::into_inner).took.clone();
        (lock(&self.accepted), places)
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
        if !status.islands.is_empty() && !known.trains {
            known.trains = true;
            let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(freed) = places.freed.pop_front() {
                places.took.push(freed.elapsed().as_secs_f64());
            }
        }
    }

    /// Makes so many.
    pub async fn make(&self, count: usize) -> anyhow::Result<()> {
        let all = stream::iter(0..count).map(|_| self.make_one());
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
                let trains = known.iter_mut().filter(|(_, job)| job.trains && !job.goes);
                let oldest = trains.min_by(|(a, _), (b, _)| a.cmp(b));
                oldest.map(|(key, job)| {
                    job.goes = true;
                    key.clone()
                })
            };
            if let Some((namespace, name)) = found {
                let api: Api<TrainingJob> = Api::namespaced(self.client.clone(), &namespace);
                self.places.lock().unwrap_or_else(PoisonError::into_inner).freed.push_back(Instant::now());
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
