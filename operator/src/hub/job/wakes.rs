//! What makes the job controller look at a job: the job itself, its audits, its units, its provider.
use std::collections::HashMap;
use std::future::ready;
use std::sync::Arc;

use futures::{Stream, StreamExt, stream};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::core::DeserializeGuard;
use kube::runtime::controller::Controller;
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher;
use kube::{Api, ResourceExt};
use muster_api::v1alpha1::{Audit, ComputeProvider, Island, TrainingJobStatus};

use super::{Guarded, Jobs};
use crate::hub::context::Context;
use crate::runtime::lean;

/// The controller, not yet running, and its cache of jobs.
pub fn controller(ctx: &Arc<Context>) -> (Controller<Guarded>, Jobs) {
    let client = ctx.client.clone();
    let controller = lean::controller(Api::<Guarded>::all(client.clone()));
    let jobs = controller.store();
    ctx.queue.follow(controller.store());
    let controller = controller
        // What its audits have come to is in the book before it is in their objects.
        .owns(Api::<DeserializeGuard<Audit>>::all(client), watcher::Config::default())
        .reconcile_on(whose_units(ctx, jobs.clone()))
        .reconcile_on(whose_providers(ctx, jobs.clone()));
    (controller, jobs)
}

/// The jobs whose units change.
fn whose_units(ctx: &Arc<Context>, jobs: Jobs) -> impl Stream<Item = ObjectRef<Guarded>> + Send + 'static {
    let ctx = ctx.clone();
    let changes = ctx.mirrors.units.changes();
    changes.filter_map(move |unit| {
        ctx.queue.changed();
        let whose = unit.group.and_then(|uid| jobs.find(|job| job.uid().as_deref() == Some(&uid)));
        ready(whose.map(|job| ObjectRef::from_obj(job.as_ref())))
    })
}

/// What of a provider concerns the jobs that it has: what is wanted of it, and whether it is there. How much it has left is told
/// whenever a unit comes or goes, and concerns those that wait.
#[derive(PartialEq)]
struct Standing {
    uid: Option<String>,
    generation: Option<i64>,
    leaves: bool,
    conditions: Vec<(String, String, String, Time)>,
}

impl Standing {
    fn of(provider: &ComputeProvider) -> Self {
        let conditions = provider.status.iter().flat_map(|status| &status.conditions);
        let said = |it: &Condition| {
            (it.type_.clone(), it.status.clone(), it.reason.clone(), it.last_transition_time.clone())
        };
        Self {
            uid: provider.metadata.uid.clone(),
            generation: provider.metadata.generation,
            leaves: provider.metadata.deletion_timestamp.is_some(),
            conditions: conditions.map(said).collect(),
        }
    }
}

/// The jobs that a provider has when it is another one, comes or goes.
fn whose_providers(
    ctx: &Arc<Context>,
    jobs: Jobs,
) -> impl Stream<Item = ObjectRef<Guarded>> + Send + 'static {
    let ctx = ctx.clone();
    let changes = ctx.mirrors.providers.changes();
    let mut before: HashMap<String, Standing> = HashMap::new();
    changes.flat_map(move |provider| {
        ctx.queue.changed();
        let now = ctx.mirrors.providers.known("", &provider.name).map(|it| Standing::of(&it));
        if now.is_some() && before.get(&provider.name) == now.as_ref() {
            return stream::iter(Vec::new());
        }
        match now {
            Some(now) => drop(before.insert(provider.name.clone(), now)),
            None => drop(before.remove(&provider.name)),
        }
        let has = |status: &TrainingJobStatus| {
            let here = |island: &Island| island.provider.as_ref() == Some(&provider.name);
            !status.phase.is_some_and(|phase| phase.is_finished()) && status.islands.iter().any(here)
        };
        let theirs =
            jobs.state_filter(|job| job.0.as_ref().ok().and_then(|job| job.status.as_ref()).is_some_and(has));
        let mut theirs: Vec<_> = theirs.iter().map(|job| ObjectRef::from_obj(job.as_ref())).collect();
        // The cache has them in an order of its own.
        theirs.sort_by(|one, other| (&one.namespace, &one.name).cmp(&(&other.namespace, &other.name)));
        stream::iter(theirs)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn with(path: &str, value: Value) -> Standing {
        let mut provider = json!({
            "apiVersion": "muster.dev/v1alpha1", "kind": "ComputeProvider",
            "metadata": {"name": "east", "uid": "0b5c6f0e", "generation": 1, "deletionTimestamp": null},
            "spec": {"owner": "east"},
            "status": {"capacity": {"workers": 8, "idle": 4}, "conditions": [{
                "type": "Connected", "status": "True", "reason": "LeaseRenewed", "message": "m",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }]},
        });
        *provider.pointer_mut(path).unwrap() = value;
        Standing::of(&serde_json::from_value(provider).unwrap())
    }

    #[test]
    fn what_a_provider_has_left_concerns_none_of_its_jobs() {
        let before = with("/status/capacity/idle", json!(4));
        assert!(before == with("/status/capacity/idle", json!(3)));
        for (what, path, value) in [
            ("its loss", "/status/conditions/0/status", json!("False")),
            ("what is wanted of it", "/metadata/generation", json!(2)),
            ("its end", "/metadata/deletionTimestamp", json!("2026-01-01T00:00:00Z")),
            ("another of its name", "/metadata/uid", json!("1c6d7f1f")),
        ] {
            assert!(before != with(path, value), "{what}");
        }
    }
}
