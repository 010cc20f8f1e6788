//! The provider controller: for each ComputeProvider a namespace with a role binding, a Lease and a report object, an
//! identity for its agent, and a status that says whether it can be used.
//!
//! | file | step |
//! |---|---|
//! | `render` | the objects, pure |
//! | `leases` | heartbeats by the hub's own clock |
//! | `status` | the status, pure but for the look at the lease |
pub mod leases;
mod render;
mod status;

pub use status::{CONNECTED, devices, worker_quota};

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::api::ListParams;
use kube::core::DeserializeGuard;
use kube::runtime::controller::{Action, Controller};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher;
use kube::{Api, Resource, ResourceExt};
use muster_api::names::{REPORT, finalizers, labels};
use muster_api::v1alpha1::{ComputeProvider, ComputeProviderStatus, ProviderReport, Scheduling, WorkUnit};

use super::apply::{self, Presence, Written, apply};
use super::context::{Context, What};
use super::error::Error;
use super::job::gather;
use super::names::{AGENT_ROLE, AGENTS_NAMESPACE, LEASE, provider_namespace, provider_of};
use super::patience::Patience;
use super::units;
use crate::runtime::Shutdown;
use crate::runtime::client::{ClientError, within};
use muster_core::provider::Pulse;

type Guarded = DeserializeGuard<ComputeProvider>;

/// A draining provider is looked at again after this even without news.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// While the API server is away: well below a lease's duration.
const UNREACHABLE_AGAIN: Duration = Duration::from_secs(3);

/// Counts changes of what the hub made for a provider, so that it is put right only after something happened to it.
#[derive(Default)]
struct Upkeep {
    seen: Mutex<HashMap<String, Tended>>,
}

#[derive(Default)]
struct Tended {
    /// Changes seen.
    changes: u64,
    /// Uid and generation of the provider and number of changes when all was last applied.
    applied: Option<(String, i64, u64)>,
}

impl Upkeep {
    fn changed(&self, provider: &str) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.entry(provider.to_owned()).or_default().changes += 1;
    }

    /// The ticket to hand to `done` afterwards; `None` if nothing happened since the last time.
    fn due(&self, provider: &str, uid: &str, generation: i64) -> Option<u64> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let tended = seen.entry(provider.to_owned()).or_default();
        let current = (uid.to_owned(), generation, tended.changes);
        (tended.applied.as_ref() != Some(&current)).then_some(tended.changes)
    }

    fn done(&self, provider: &str, uid: &str, generation: i64, ticket: u64) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.entry(provider.to_owned()).or_default().applied = Some((uid.to_owned(), generation, ticket));
    }

    fn forget(&self, provider: &str) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).remove(provider);
    }
}

struct Providers {
    ctx: Arc<Context>,
    upkeep: Arc<Upkeep>,
}

/// Runs until shutdown.
pub async fn run(ctx: Arc<Context>, shutdown: Shutdown) {
    let client = ctx.client.clone();
    let ours = watcher::Config::default().labels(labels::PROVIDER);
    let upkeep = Arc::new(Upkeep::default());
    let leases = ctx.clone();
    let controller = Controller::new(Api::<Guarded>::all(client.clone()), watcher::Config::default())
        .watches(Api::<Namespace>::all(client.clone()), ours.clone(), made_for(&upkeep))
        .watches(Api::<RoleBinding>::all(client.clone()), ours.clone(), made_for(&upkeep))
        .watches(
            Api::<ServiceAccount>::namespaced(client.clone(), AGENTS_NAMESPACE),
            ours.clone(),
            made_for(&upkeep),
        )
        // A heartbeat matters only when it changes the verdict; `Action::requeue` notices when it stops.
        .watches(Api::<Lease>::all(client.clone()), ours, move |lease: Lease| {
            let provider = provider_of(&lease.namespace().unwrap_or_default()).map(str::to_owned);
            provider.filter(|provider| leases.leases.saw(provider, &lease)).map(|name| ObjectRef::new(&name))
        })
        .watches(
            Api::<DeserializeGuard<ProviderReport>>::all(client.clone()),
            watcher::Config::default(),
            in_namespace_of,
        )
        .watches(Api::<DeserializeGuard<WorkUnit>>::all(client), watcher::Config::default(), in_namespace_of);
    controller
        .trigger_backoff(Patience::default())
        .graceful_shutdown_on(shutdown.wait())
        .run(reconcile, error_policy, Arc::new(Providers { ctx, upkeep }))
        .for_each(|result| async move {
            if let Err(error) = result {
                tracing::debug!(%error, "provider controller");
            }
        })
        .await;
}

/// An object made for a provider changed: look whether it is still right.
fn made_for<K: Resource<DynamicType = ()>>(
    upkeep: &Arc<Upkeep>,
) -> impl Fn(K) -> Option<ObjectRef<Guarded>> + Send + Sync + use<K> {
    let upkeep = upkeep.clone();
    move |object| {
        let provider = object.labels().get(labels::PROVIDER)?;
        upkeep.changed(provider);
        Some(ObjectRef::new(provider))
    }
}

fn in_namespace_of<K: Resource<DynamicType = ()>>(object: K) -> Option<ObjectRef<Guarded>> {
    provider_of(&object.namespace()?).map(ObjectRef::new)
}

fn error_policy(object: Arc<Guarded>, error: &Error, providers: Arc<Providers>) -> Action {
    let retry = providers.ctx.retry(&format!("computeprovider/{}", object.name_any()), error);
    if error.is_unreachable() {
        // Agents cannot renew at a server that is away. Looked at often, so that their time starts when it is back.
        providers.ctx.leases.blind();
        return Action::requeue(UNREACHABLE_AGAIN);
    }
    retry
}

async fn reconcile(object: Arc<Guarded>, providers: Arc<Providers>) -> Result<Action, Error> {
    let (ctx, upkeep) = (&providers.ctx, &providers.upkeep);
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
        return remove(ctx, upkeep, &api, provider).await;
    }
    // 3. From here on it cannot vanish without step 2.
    apply::finalizer(&api, "computeprovider", provider, finalizers::PROVIDER, Presence::Present).await?;
    // 4. Its objects.
    let uid = provider.uid().unwrap_or_default();
    let generation = provider.metadata.generation.unwrap_or(0);
    if let Some(ticket) = upkeep.due(&name, &uid, generation) {
        ensure(ctx, provider).await?;
        upkeep.done(&name, &uid, generation, ticket);
    }
    // 5. Its status.
    let facts = status::Facts {
        units: units_at(ctx, &name).await?,
        report: report(ctx, &name).await?,
        pulse: pulse(ctx, provider).await?,
    };
    if facts.report.is_none() {
        upkeep.changed(&name);
    }
    let (new, again) = status::render(provider, &facts, ctx.now());
    let old = provider.status.clone().unwrap_or_default();
    // The finalizer's patch changed the resourceVersion: the next look, which it triggers, writes the status.
    if provider.finalizers().iter().any(|f| f == finalizers::PROVIDER)
        && apply::status(&api, "computeprovider", provider, &old, &new).await? == Written::Changed
    {
        log_ready(&name, &old, &new);
    }
    ctx.succeeded(&format!("computeprovider/{name}"));
    Ok(again.map_or_else(Action::await_change, Action::requeue))
}

/// Silence is believed only after a look at the lease itself: the watch may be the one that is silent.
async fn pulse(ctx: &Context, provider: &ComputeProvider) -> Result<(Pulse, Option<Duration>), Error> {
    let (name, seconds) = (provider.name_any(), provider.spec.lease_duration_seconds);
    let pulse = ctx.leases.pulse(&name, seconds);
    if pulse.0 != Pulse::Expired {
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

/// Makes or puts right what the provider's agent needs. Idempotent; nothing is written that is so already.
async fn ensure(ctx: &Context, provider: &ComputeProvider) -> Result<(), Error> {
    let client = &ctx.client;
    let name = provider.name_any();
    let namespace = provider_namespace(&name);
    let objects = render::Objects::of(provider)?;
    apply(&Api::<Namespace>::all(client.clone()), "namespace", &namespace, &objects.namespace).await?;
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), AGENTS_NAMESPACE);
    apply(&accounts, "serviceaccount", &name, &objects.account).await?;
    let leases: Api<Lease> = Api::namespaced(client.clone(), &namespace);
    apply(&leases, "lease", LEASE, &objects.lease).await?;
    let reports: Api<ProviderReport> = Api::namespaced(client.clone(), &namespace);
    apply(&reports, "providerreport", REPORT, &objects.report).await?;
    let bindings: Api<RoleBinding> = Api::namespaced(client.clone(), &namespace);
    if provider.spec.scheduling == Scheduling::Revoked {
        // Its token may live on for hours; without the binding it opens nothing.
        return apply::delete(&bindings, "rolebinding", AGENT_ROLE, None).await;
    }
    apply(&bindings, "rolebinding", AGENT_ROLE, &objects.binding).await?;
    Ok(())
}

/// Drains, then removes everything, then lets the object go.
async fn remove(
    ctx: &Context,
    upkeep: &Upkeep,
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
            let (member, _) = gather::member(unit, Some(provider), ctx.now());
            if units::over(unit, member) && ctx.memory.first(&unit.name_any(), What::UnitEnded) >= units::READ
            {
                units::release(ctx, unit).await?;
            }
        }
        let report = report(ctx, &name).await?;
        let pulse = ctx.leases.pulse(&name, provider.spec.lease_duration_seconds);
        let (new, _) = status::render(provider, &status::Facts { units, report, pulse }, ctx.now());
        let old = provider.status.clone().unwrap_or_default();
        apply::status(api, "computeprovider", provider, &old, &new).await?;
        return Ok(Action::requeue(LOOK_AGAIN));
    }
    let accounts: Api<ServiceAccount> = Api::namespaced(ctx.client.clone(), AGENTS_NAMESPACE);
    apply::delete(&accounts, "serviceaccount", &name, None).await?;
    let namespaces: Api<Namespace> = Api::all(ctx.client.clone());
    apply::delete(&namespaces, "namespace", &provider_namespace(&name), None).await?;
    apply::finalizer(api, "computeprovider", provider, finalizers::PROVIDER, Presence::Absent).await?;
    tracing::info!(provider = name, "removed");
    upkeep.forget(&name);
    ctx.leases.forget(&name);
    Ok(Action::await_change())
}

async fn units_at(ctx: &Context, provider: &str) -> Result<Vec<WorkUnit>, Error> {
    let api: Api<DeserializeGuard<WorkUnit>> =
        Api::namespaced(ctx.client.clone(), &provider_namespace(provider));
    let list = within("list workunits", api.list(&ListParams::default())).await?;
    Ok(list.items.into_iter().filter_map(|unit| unit.0.ok()).collect())
}

/// `None` if there is no report object; `Err` inside if it does not parse.
async fn report(ctx: &Context, provider: &str) -> Result<Option<Result<ProviderReport, String>>, Error> {
    let api: Api<DeserializeGuard<ProviderReport>> =
        Api::namespaced(ctx.client.clone(), &provider_namespace(provider));
    match within("get providerreport", api.get_opt(REPORT)).await {
        Ok(found) => Ok(found.map(|guard| guard.0.map_err(|invalid| invalid.error))),
        Err(ClientError::Request { source, .. }) if apply::is_code(&source, &[404]) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
