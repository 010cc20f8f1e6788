//! The provider controller: for each ComputeProvider a status that says whether it can be used. What the provider needs on
//! the hub is made by the registrar.
//!
//! | file | step |
//! |---|---|
//! | `join` | the records of its join; pins a key that was promised to be accepted |
//! | `leases` | heartbeats by the hub's own clock |
//! | `hearing` | whether anybody is heard of at all |
//! | `status` | the status, pure but for the look at the lease |
mod hearing;
mod join;
pub mod leases;
mod status;

pub use status::{CONNECTED, Devices, devices, is_ready, scheduling, worker_quota};

use std::future::{Ready, ready};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Namespace;
use kube::core::DeserializeGuard;
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher;
use kube::{Api, ResourceExt};
use muster_api::names::{REPORT, finalizers, labels};
use muster_api::v1alpha1::{ComputeProvider, ComputeProviderStatus, ProviderReport};

use super::apply::{self, Presence};
use super::context::{Context, What};
use super::error::Error;
use super::job::gather;
use super::names::{LEASE, provider_namespace, provider_of};
use super::site::Unit;
use super::{metrics, units};
use crate::runtime::Shutdown;
use crate::runtime::client::{ClientError, within};
use crate::runtime::lean;
use crate::runtime::mirror::{Age, Change};
use crate::runtime::patience::{Patience, at_once};
use muster_core::provider::Pulse;

type Guarded = DeserializeGuard<ComputeProvider>;

/// A draining provider is looked at again after this even without news.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// From one look to the next, if its admin has changed nothing: each of its units brings news of it.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// One whose units are gone, while the registrar takes its namespace away.
const GONE_AGAIN: Duration = Duration::from_secs(1);

/// While the API server is away: well below a lease's duration.
const UNREACHABLE_AGAIN: Duration = Duration::from_secs(3);

/// Runs until shutdown.
pub async fn run(ctx: Arc<Context>, shutdown: Shutdown) {
    let client = ctx.client.clone();
    let ours = watcher::Config::default().labels(labels::PROVIDER);
    let leases = ctx.clone();
    let controller = lean::controller(Api::<Guarded>::all(client.clone()))
        // Join tokens and claims.
        .reconcile_on(
            ctx.mirrors
                .joins
                .changes()
                .filter_map(|change| ready(change.group.map(|name| ObjectRef::new(&name)))),
        )
        // A heartbeat matters only when it changes the verdict; `Action::requeue` notices when it stops.
        .watches(Api::<Lease>::all(client.clone()), ours, move |lease: Lease| {
            let provider = provider_of(&lease.namespace().unwrap_or_default()).map(str::to_owned);
            provider.filter(|provider| leases.leases.saw(provider, &lease)).map(|name| ObjectRef::new(&name))
        })
        .reconcile_on(ctx.mirrors.reports.changes().filter_map(in_namespace_of))
        .reconcile_on(ctx.mirrors.units.changes().filter_map(in_namespace_of));
    controller
        .with_config(at_once())
        .trigger_backoff(Patience::default())
        .graceful_shutdown_on(shutdown.wait())
        .run(reconcile, error_policy, ctx)
        .for_each(|result| async move {
            if let Err(error) = result {
                tracing::debug!(%error, "provider controller");
            }
        })
        .await;
}

fn in_namespace_of(change: Change) -> Ready<Option<ObjectRef<Guarded>>> {
    ready(provider_of(&change.namespace).map(ObjectRef::new))
}

fn error_policy(object: Arc<Guarded>, error: &Error, ctx: Arc<Context>) -> Action {
    let retry = ctx.retry(&format!("computeprovider/{}", object.name_any()), error);
    if error.is_unreachable() {
        // Agents cannot renew at a server that is away. Looked at often, so that their time starts when it is back.
        ctx.leases.blind();
        ctx.memory.blind(None);
        return Action::requeue(UNREACHABLE_AGAIN);
    }
    retry
}

async fn reconcile(object: Arc<Guarded>, ctx: Arc<Context>) -> Result<Action, Error> {
    let ctx = &*ctx;
    let _timer = ctx.metrics.reconciles(metrics::Controller::Provider);
    // 1. What does not parse cannot be acted on; its next change wakes us.
    let provider = match &object.0 {
        Ok(provider) => provider,
        Err(invalid) => {
            tracing::warn!(provider = object.name_any(), %invalid, "ComputeProvider does not parse; left alone");
            return Ok(Action::await_change());
        }
    };
    let name = provider.name_any();
    let api: Api<ComputeProvider> = Api::all(ctx.client.clone());
    // 2. On its way out.
    if provider.metadata.deletion_timestamp.is_some() {
        return remove(ctx, &api, provider).await;
    }
    // 3. From here on it cannot vanish without step 2. The patch itself wakes us again.
    let finalizer = finalizers::PROVIDER;
    if apply::finalizer(&api, "computeprovider", provider, finalizer, Presence::Present).await?.is_some() {
        return Ok(Action::await_change());
    }
    let memory = format!("computeprovider/{name}");
    let age = ctx.memory.since(&memory, What::Looked).filter(|age| *age < LOOK_EVERY);
    let status = provider.status.as_ref();
    if let Some(age) = age
        && status.is_some_and(|status| status.observed_generation == provider.metadata.generation)
    {
        return Ok(Action::requeue(LOOK_EVERY - age));
    }
    ctx.memory.mark(&memory, What::Looked);
    // 4. A key that its admin promised to accept. This patch wakes us again, too.
    let facts = facts(ctx, provider, units_at(ctx, &name).await?).await?;
    if facts.admission.pin.is_some() {
        let records = join::records(ctx, provider, Age::Now).await?;
        if let Some(pin) = &join::admission(provider, &records, ctx.now()).pin {
            join::pin(ctx, &api, provider, pin).await?;
            return Ok(Action::await_change());
        }
        // Taken back a moment ago; the watch will tell.
        return Ok(Action::requeue(LOOK_EVERY));
    }
    // 5. Its status.
    let (new, again) = status::render(provider, &facts, ctx.now());
    let old = provider.status.clone().unwrap_or_default();
    if let Some(written) = apply::status(&api, "computeprovider", provider, &old, &new).await? {
        ctx.mirrors.providers.wrote(&written.metadata);
        log_ready(&name, &old, &new);
    }
    ctx.succeeded(&memory);
    Ok(again.map_or_else(Action::await_change, Action::requeue))
}

async fn facts(
    ctx: &Context,
    provider: &ComputeProvider,
    units: Vec<Arc<Unit>>,
) -> Result<status::Facts, Error> {
    let records = join::records(ctx, provider, Age::Told).await?;
    Ok(status::Facts {
        units,
        report: report(ctx, &provider.name_any()).await?,
        pulse: pulse(ctx, provider).await?,
        admission: join::admission(provider, &records, ctx.now()),
        floor: ctx.state.epochs().floor,
        record: ctx.follower.record(&provider.name_any()),
    })
}

/// Silence is believed only after a look at the lease itself: the watch may be the one that is silent.
///
/// # Errors
/// [`Error::Api`].
pub async fn pulse(ctx: &Context, provider: &ComputeProvider) -> Result<(Pulse, Option<Duration>), Error> {
    let (name, seconds) = (provider.name_any(), provider.spec.lease_duration_seconds);
    let pulse = ctx.leases.pulse(&name, seconds);
    if pulse.0 != Pulse::Expired || planted!("silence-by-watch") {
        return Ok(pulse);
    }
    let leases: Api<Lease> = Api::namespaced(ctx.client.clone(), &provider_namespace(&name));
    if let Some(lease) = within("get lease", leases.get_opt(LEASE)).await? {
        ctx.leases.saw(&name, &lease);
    }
    Ok(ctx.leases.pulse(&name, seconds))
}

fn log_ready(name: &str, old: &ComputeProviderStatus, new: &ComputeProviderStatus) {
    let ready = |status: &ComputeProviderStatus| {
        let found = status.conditions.iter().find(|c| c.type_ == "Ready")?;
        Some((found.status.clone(), found.reason.clone()))
    };
    if let Some((status, reason)) = ready(new).filter(|now| ready(old).as_ref() != Some(now)) {
        tracing::info!(provider = name, ready = status, reason, "provider");
    }
}

/// Drains, waits until the registrar has taken everything away, then lets the object go.
async fn remove(
    ctx: &Context,
    api: &Api<ComputeProvider>,
    provider: &ComputeProvider,
) -> Result<Action, Error> {
    let name = provider.name_any();
    if !provider.finalizers().iter().any(|f| f == finalizers::PROVIDER) {
        return Ok(Action::await_change());
    }
    let units = units_at(ctx, &name).await?;
    if !units.is_empty() {
        // The job controller drains them because of our deletion; what is over goes once its job has read it.
        for unit in &units {
            let unit = &unit.object;
            let (member, _) = gather::member(unit, Some(provider), ctx.now());
            if units::over(unit, member) && ctx.memory.first(&unit.name_any(), What::UnitEnded) >= units::READ
            {
                units::release(ctx, unit).await?;
            }
        }
        let facts = facts(ctx, provider, units).await?;
        let (new, _) = status::render(provider, &facts, ctx.now());
        let old = provider.status.clone().unwrap_or_default();
        apply::status(api, "computeprovider", provider, &old, &new).await?;
        return Ok(Action::requeue(LOOK_AGAIN));
    }
    let namespaces: Api<Namespace> = Api::all(ctx.client.clone());
    let home = within("get namespace", namespaces.get_opt(&provider_namespace(&name))).await?;
    if home.is_some_and(|home| home.metadata.deletion_timestamp.is_none()) {
        return Ok(Action::requeue(GONE_AGAIN));
    }
    apply::finalizer(api, "computeprovider", provider, finalizers::PROVIDER, Presence::Absent).await?;
    tracing::info!(provider = name, "removed");
    ctx.leases.forget(&name);
    ctx.memory.forget(&format!("computeprovider/{name}"));
    Ok(Action::await_change())
}

async fn units_at(ctx: &Context, provider: &str) -> Result<Vec<Arc<Unit>>, Error> {
    Ok(ctx.mirrors.units.in_namespace(&provider_namespace(provider)).await?)
}

/// `None` if there is no report object; `Err` inside if it does not parse.
async fn report(ctx: &Context, provider: &str) -> Result<Option<Result<Arc<ProviderReport>, String>>, Error> {
    if let Some(known) = ctx.mirrors.reports.known(&provider_namespace(provider), REPORT) {
        return Ok(Some(Ok(known)));
    }
    // None, or one that does not parse, or none that the watch has told of.
    let api: Api<DeserializeGuard<ProviderReport>> =
        Api::namespaced(ctx.client.clone(), &provider_namespace(provider));
    match within("get providerreport", api.get_opt(REPORT)).await {
        Ok(found) => Ok(found.map(|guard| guard.0.map(Arc::new).map_err(|invalid| invalid.error))),
        Err(ClientError::Request { source, .. }) if apply::is_code(&source, &[404]) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests;
