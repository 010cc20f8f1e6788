//! What makes the job controller look at a job: the job itself, its audits, its units, its provider.
use std::future::ready;
use std::sync::Arc;

use futures::{Stream, StreamExt, stream};
use kube::core::DeserializeGuard;
use kube::runtime::controller::Controller;
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher;
use kube::{Api, ResourceExt};
use muster_api::v1alpha1::{Audit, Island, TrainingJobStatus};

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

/// The jobs that a provider has when it changes: its loss and return concern them, its capacity those that wait.
fn whose_providers(
    ctx: &Arc<Context>,
    jobs: Jobs,
) -> impl Stream<Item = ObjectRef<Guarded>> + Send + 'static {
    let ctx = ctx.clone();
    let changes = ctx.mirrors.providers.changes();
    changes.flat_map(move |provider| {
        ctx.queue.changed();
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
