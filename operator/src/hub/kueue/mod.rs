//! Kueue on the hub: a TrainingJob with label `kueue.x-k8s.io/queue-name` waits in that LocalQueue before it waits for a provider.
//!
//! For each such job the hub makes and owns one Workload. The job rests until Kueue has admitted it, stops at the end of its
//! interval when Kueue evicts it, and gives its place back once nothing of it runs. Without the label none of this happens, and
//! without Kueue a labelled job rests and says so: a quota that somebody asked for is not passed over.
//!
//! | file | what |
//! |---|---|
//! | `workload` | the object, and what is said to Kueue in its status; pure |
#[cfg(test)]
mod tests;
mod workload;

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use futures::{Stream, StreamExt};
use kube::api::{Patch, PostParams};
use kube::core::{DeserializeGuard, DynamicObject};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use muster_api::names::labels;
use muster_api::v1alpha1::TrainingJob;
use serde_json::json;

use super::apply;
use super::context::Context;
use super::error::Error;
use super::names::MANAGER;
use crate::runtime::client::within;
use crate::runtime::kueue::{self, conditions};
use crate::runtime::patience::Patience;
use crate::runtime::{Shutdown, sanitise};
pub use workload::Stage;

type Wakes = ObjectRef<DeserializeGuard<TrainingJob>>;

/// How often it is looked whether Kueue's API is served, while it is not.
const LOOK_FOR: Duration = Duration::from_secs(60);
/// A job that waits is looked at again after this even if no watch has said anything.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// Longest message of Kueue's that is repeated.
const MESSAGE: usize = 400;
/// Said of a job that waits for a Kueue that is not there.
const NOT_SERVED: &str = "label kueue.x-k8s.io/queue-name asks for Kueue, and this hub's API server does not serve \
                          kueue.x-k8s.io/v1beta2: install Kueue 0.15 or later, or remove the label";

/// How a job stands with Kueue.
#[derive(Debug, Clone)]
pub struct Gate {
    /// Its Workload, if there is one.
    workload: Option<DynamicObject>,
    /// Why it may not run now, if it may not.
    pub waits: Option<String>,
}

impl Gate {
    /// When to look again at a job that waits.
    #[must_use]
    pub fn look_again(&self) -> Option<Duration> {
        self.waits.as_ref().map(|_| LOOK_AGAIN)
    }
}

/// What is remembered of Workloads: whose there are, so that a job without the label needs no request.
#[derive(Debug)]
pub struct Kueue {
    known: Mutex<HashSet<String>>,
    wakes: (UnboundedSender<Wakes>, Mutex<Option<UnboundedReceiver<Wakes>>>),
}

impl Default for Kueue {
    fn default() -> Self {
        let (sender, receiver) = unbounded();
        Self { known: Mutex::default(), wakes: (sender, Mutex::new(Some(receiver))) }
    }
}

impl Kueue {
    /// Jobs to look at again. To be taken once.
    pub fn wakes(&self) -> impl Stream<Item = Wakes> + Send + 'static {
        let taken = self.wakes.1.lock().unwrap_or_else(PoisonError::into_inner).take();
        taken.unwrap_or_else(|| unbounded().1)
    }

    fn known(&self) -> MutexGuard<'_, HashSet<String>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A Workload of the hub's is another one now.
    fn changed(&self, workload: &DynamicObject) {
        let Some(owner) = workload.owner_references().iter().find(|owner| owner.controller == Some(true))
        else {
            return;
        };
        self.known().insert(owner.uid.clone());
        let job = ObjectRef::new(&owner.name).within(&workload.namespace().unwrap_or_default());
        let _ = self.wakes.0.unbounded_send(job);
    }
}

fn queue_of(job: &TrainingJob) -> Option<&str> {
    job.labels().get(kueue::QUEUE_NAME).map(String::as_str).filter(|queue| !queue.is_empty())
}

/// How the job stands, its Workload made if it has none and wants to run; `None` if Kueue has nothing to do with it.
///
/// # Errors
/// [`Error::Api`].
pub async fn gate(ctx: &Context, job: &TrainingJob, uid: &str) -> Result<Option<Gate>, Error> {
    let queue = queue_of(job);
    if queue.is_none() && !ctx.kueue.known().contains(uid) {
        return Ok(None);
    }
    let (api, name) = (api(ctx, job), workload::name(job, uid));
    let there = match within(&format!("get workload {name}"), api.get_opt(&name)).await.map_err(Error::from) {
        // That there is no such kind is said otherwise than that there is no such object.
        Err(error) if error.is_gone() => {
            return Ok(queue.map(|_| Gate { workload: None, waits: Some(NOT_SERVED.into()) }));
        }
        there => there?,
    };
    let Some(queue) = queue else {
        // The label is gone, and with it what it asked for.
        match there {
            Some(there) if workload::is_of(&there, uid) => remove(&api, &there).await?,
            _ => _ = ctx.kueue.known().remove(uid),
        }
        return Ok(None);
    };
    let wanted = workload::render(job, uid, queue)?;
    let workload = match there {
        Some(there) if !workload::is_of(&there, uid) => {
            return Err(Error::Foreign(format!("Workload {name}")));
        }
        Some(there) if there.metadata.deletion_timestamp.is_some() => Some(there),
        Some(there) if !workload::asks_the_same(&there, &wanted) => {
            remove(&api, &there).await?;
            None
        }
        Some(there) => Some(at_priority(&api, there, job.spec.priority).await?),
        // A person's pause needs no place in a queue.
        None if job.spec.suspend => None,
        None => {
            let params = PostParams::default();
            let made = within(&format!("create workload {name}"), api.create(&params, &wanted)).await?;
            tracing::info!(workload = name, namespace = job.namespace(), queue, "waits in Kueue");
            ctx.kueue.known().insert(uid.to_owned());
            Some(made)
        }
    };
    let waits = waits(workload.as_ref(), queue);
    Ok(Some(Gate { workload, waits }))
}

/// Why it may not run, in Kueue's words.
fn waits(workload: Option<&DynamicObject>, queue: &str) -> Option<String> {
    let all = workload.map(kueue::conditions_of).unwrap_or_default();
    let leaves = workload.is_none_or(|workload| workload.metadata.deletion_timestamp.is_some());
    let evicted = kueue::holds(&all, conditions::EVICTED);
    if !leaves && evicted.is_none() && kueue::holds(&all, conditions::ADMITTED).is_some() {
        return None;
    }
    let said = match (kueue::holds(&all, conditions::FINISHED), evicted) {
        (Some(finished), _) => Some(finished.message.as_str()),
        (None, Some(evicted)) => Some(evicted.message.as_str()),
        (None, None) => kueue::waits_for(&all),
    };
    let said = said.map_or_else(String::new, |said| format!(": {said}"));
    Some(sanitise::line(&format!("waits in Kueue's LocalQueue {queue}{said}"), MESSAGE))
}

/// Says in the Workload how the job is.
///
/// # Errors
/// [`Error::Api`]; 409 if the Workload changed since, and then it is looked at again.
pub async fn tell(ctx: &Context, job: &TrainingJob, gate: Option<&Gate>, stage: Stage) -> Result<(), Error> {
    let Some(workload) = gate.and_then(|gate| gate.workload.as_ref()) else { return Ok(()) };
    let api = api(ctx, job);
    // Resumed, it queues anew.
    if job.spec.suspend && stage == Stage::Rests {
        return remove(&api, workload).await;
    }
    let Some(change) = workload::status(workload, stage, ctx.now()).filter(|_| !planted!("place-kept"))
    else {
        return Ok(());
    };
    let name = workload.name_any();
    let patch = json!({"metadata": {"resourceVersion": workload.resource_version()}, "status": change});
    let (params, patch) = (apply::params(), Patch::Merge(&patch));
    let patched =
        within(&format!("patch status of workload {name}"), api.patch_status(&name, &params, &patch)).await;
    match patched.map_err(Error::from) {
        Err(error) if !error.is_gone() => Err(error),
        _ => Ok(()),
    }
}

/// Says in the Workload of a job that is over that it holds nothing any more.
///
/// # Errors
/// As [`tell`].
pub async fn finish(ctx: &Context, job: &TrainingJob, uid: &str, well: bool) -> Result<(), Error> {
    if queue_of(job).is_none() && !ctx.kueue.known().contains(uid) {
        return Ok(());
    }
    let name = workload::name(job, uid);
    let there = within(&format!("get workload {name}"), api(ctx, job).get_opt(&name)).await;
    let there = match there.map_err(Error::from) {
        Err(error) if error.is_gone() => return Ok(()),
        there => there?,
    };
    let gate = Gate { workload: there.filter(|there| workload::is_of(there, uid)), waits: None };
    tell(ctx, job, Some(&gate), Stage::Over { well }).await
}

fn api(ctx: &Context, job: &TrainingJob) -> Api<DynamicObject> {
    kueue::workloads(ctx.client.clone(), &job.namespace().unwrap_or_default())
}

async fn at_priority(
    api: &Api<DynamicObject>,
    there: DynamicObject,
    priority: i32,
) -> Result<DynamicObject, Error> {
    if there.data.pointer("/spec/priority").and_then(serde_json::Value::as_i64) == Some(i64::from(priority)) {
        return Ok(there);
    }
    let name = there.name_any();
    let patch =
        json!({"metadata": {"resourceVersion": there.resource_version()}, "spec": {"priority": priority}});
    let (params, patch) = (apply::params(), Patch::Merge(&patch));
    Ok(within(&format!("patch workload {name}"), api.patch(&name, &params, &patch)).await?)
}

async fn remove(api: &Api<DynamicObject>, workload: &DynamicObject) -> Result<(), Error> {
    apply::delete(api, "workload", &workload.name_any(), workload.uid()).await
}

/// Wakes jobs when Kueue says something about their Workloads, until shutdown.
pub async fn run(ctx: &Context, shutdown: Shutdown) {
    let following = async {
        loop {
            follow(ctx).await;
            tokio::time::sleep(LOOK_FOR).await;
        }
    };
    tokio::select! {
        biased;
        () = shutdown.wait() => {}
        () = following => {}
    }
}

/// Until its API is not served any more.
async fn follow(ctx: &Context) {
    let api = Api::<DynamicObject>::all_with(ctx.client.clone(), &kueue::resource());
    let ours = watcher::Config::default().labels(&format!("{}={MANAGER}", labels::MANAGED_BY));
    let mut events = std::pin::pin!(watcher(api, ours).backoff(Patience::default()));
    while let Some(event) = events.next().await {
        match event {
            Ok(
                watcher::Event::Apply(workload)
                | watcher::Event::InitApply(workload)
                | watcher::Event::Delete(workload),
            ) => ctx.kueue.changed(&workload),
            Ok(watcher::Event::Init) => {}
            Ok(watcher::Event::InitDone) => {
                tracing::info!("Kueue is here: jobs with label {} wait in its queues", kueue::QUEUE_NAME);
            }
            Err(error) => {
                tracing::debug!(%error, "workloads");
                if matches!(&error, watcher::Error::InitialListFailed(kube::Error::Api(status)) if status.code == 404)
                {
                    return;
                }
            }
        }
    }
}
