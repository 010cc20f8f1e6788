//! The registrar: makes what a provider needs on the hub (its namespace, Lease and report, the identity of its agent and
//! that identity's one RoleBinding), and takes it away again. It is a process of its own, `muster registrar`, under a
//! ServiceAccount of its own, muster-system/muster-registrar: the hub cannot hand out rights, and the registrar cannot send
//! work. All it does may be done twice, so it needs no election.
//!
//! | what happens to a ComputeProvider | what the registrar does |
//! |---|---|
//! | it is there | makes all of it, puts it right when somebody changed it |
//! | `scheduling: Revoked` | removes RoleBinding, then ServiceAccount: the agent's next request is refused |
//! | it is being deleted, units left | nothing: the agent must still be able to say that they ended |
//! | it is being deleted, no unit left | removes the ServiceAccount, then the namespace with the rest; the hub then lets go |
//!
//! Everything is owned by the ComputeProvider, so that nothing outlives it whoever was not running.
pub mod rbac;
mod render;
mod upkeep;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures::StreamExt;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::api::ListParams;
use kube::core::DeserializeGuard;
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher;
use kube::{Api, Client, Resource, ResourceExt};
use muster_api::names::{REPORT, finalizers, labels};
use muster_api::v1alpha1::{ComputeProvider, ProviderReport, Scheduling, WorkUnit};

use super::apply::{self, apply_as};
use super::error::Error;
use super::names::{AGENT_ROLE, AGENTS_NAMESPACE, LEASE, REGISTRAR, provider_namespace};
use super::{incarnation, long_after, provider};
use crate::runtime::Shutdown;
use crate::runtime::backoff::{Backoff, jitter_of};
use crate::runtime::client::{Target, within};
use crate::runtime::patience::Patience;
use crate::runtime::{lean, probes};
use upkeep::{Upkeep, Version};

type Guarded = DeserializeGuard<ComputeProvider>;

/// A provider that leaves is looked at again after this: its last unit's end wakes nobody here.
const LEAVING_AGAIN: Duration = Duration::from_secs(2);
/// Lease and report are not watched (they change all the time); that they are there is looked at so often. Without them a provider is
/// soon not Ready, and then each news of it is a reason to look.
const LOOK_AGAIN: Duration = Duration::from_secs(300);
/// The same for one that is not Ready.
const MISSED_AGAIN: Duration = Duration::from_secs(60);

struct Registrar {
    client: Client,
    upkeep: Arc<Upkeep>,
    failures: Backoff<String>,
}

/// Flags of `muster registrar`, beside which cluster it is on.
#[derive(Debug, Clone, clap::Args)]
pub struct RegistrarArgs {
    /// Where /metrics, /healthz and /readyz are, in plain HTTP [default: nowhere]
    #[arg(long, value_name = "ADDRESS:PORT")]
    metrics_listen: Option<SocketAddr>,
}

/// Runs until SIGTERM or SIGINT; a restored database is met with a new start inside the process.
///
/// # Errors
/// No client, or an address that cannot be listened on.
pub async fn process(target: Target, args: RegistrarArgs) -> anyhow::Result<()> {
    let asked = Shutdown::on_signals().context("cannot handle signals")?;
    probes::start(args.metrics_listen, Arc::new(|| Ok(())), Arc::new(|| "# EOF\n".to_owned()))?;
    loop {
        let (client, shutdown) = (target.client().await?, asked.child());
        tracing::info!("registrar starts");
        let restores = tokio::spawn(incarnation::end_on_restore(client.clone(), shutdown.clone()));
        tokio::select! {
            biased;
            () = run(client, shutdown.clone()) => {}
            // What does not end by itself is cut off; all of it may be done again.
            () = long_after(&shutdown) => {}
        }
        restores.abort();
        if asked.is_triggered() {
            tracing::info!("registrar stopped");
            return Ok(());
        }
        if !shutdown.is_triggered() {
            bail!("the registrar's watches ended by themselves; see the log above");
        }
        tracing::warn!(
            "the hub's database was restored: starting anew, for all that is cached is of the lost time"
        );
    }
}

/// Runs until shutdown; `client` is the registrar's own.
pub async fn run(client: Client, shutdown: Shutdown) {
    let ours = watcher::Config::default().labels(labels::PROVIDER);
    let upkeep = Arc::new(Upkeep::default());
    let registrar = Registrar {
        client: client.clone(),
        upkeep: upkeep.clone(),
        failures: Backoff::new(Duration::from_millis(500), Duration::from_secs(30)),
    };
    lean::controller(Api::<Guarded>::all(client.clone()))
        .watches(Api::<Namespace>::all(client.clone()), ours.clone(), made_for(&upkeep))
        .watches(Api::<RoleBinding>::all(client.clone()), ours.clone(), made_for(&upkeep))
        .watches(Api::<ServiceAccount>::namespaced(client, AGENTS_NAMESPACE), ours, made_for(&upkeep))
        .trigger_backoff(Patience::default())
        .graceful_shutdown_on(shutdown.wait())
        .run(reconcile, error_policy, Arc::new(registrar))
        .for_each(|result| async move {
            if let Err(error) = result {
                tracing::debug!(%error, "registrar");
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

fn error_policy(object: Arc<Guarded>, error: &Error, registrar: Arc<Registrar>) -> Action {
    let provider = object.name_any();
    let retry_in = registrar.failures.failed(&provider, jitter_of(&provider));
    if error.is_conflict() || error.is_gone() {
        tracing::debug!(provider, %error, "registrar: changed meanwhile, looking again");
    } else {
        tracing::warn!(provider, %error, ?retry_in, "registrar: cannot finish, trying again");
    }
    Action::requeue(retry_in)
}

async fn reconcile(object: Arc<Guarded>, registrar: Arc<Registrar>) -> Result<Action, Error> {
    let provider = match &object.0 {
        Ok(provider) => provider,
        Err(invalid) => {
            let provider = object.name_any();
            tracing::warn!(provider, %invalid, "registrar: ComputeProvider does not parse; left alone");
            return Ok(Action::await_change());
        }
    };
    let action = registrar.look(provider).await?;
    registrar.failures.succeeded(&provider.name_any());
    Ok(action)
}

impl Registrar {
    async fn look(&self, provider: &ComputeProvider) -> Result<Action, Error> {
        let name = provider.name_any();
        if provider.metadata.deletion_timestamp.is_some() {
            return self.leave(provider, &name).await;
        }
        let ready = provider::is_ready(provider);
        let may_lack = !ready || self.upkeep.whole_since(&name).is_none_or(|age| age >= LOOK_AGAIN);
        if may_lack && !planted!("lease-not-missed") {
            match self.is_whole(&name).await? {
                true => self.upkeep.is_whole(&name),
                false => self.upkeep.changed(&name),
            }
        }
        let uid = provider.uid().unwrap_or_default();
        let generation = provider.metadata.generation.unwrap_or(0);
        let version = Version { provider: &name, uid: &uid, generation };
        if let Some(ticket) = self.upkeep.due(&version) {
            self.ensure(provider, &name).await?;
            self.upkeep.done(&version, ticket);
        }
        Ok(Action::requeue(if ready { LOOK_AGAIN } else { MISSED_AGAIN }))
    }

    /// Whether what is not watched is there.
    async fn is_whole(&self, name: &str) -> Result<bool, Error> {
        let namespace = provider_namespace(name);
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), &namespace);
        let reports: Api<ProviderReport> = Api::namespaced(self.client.clone(), &namespace);
        let lease = within("get lease", leases.get_metadata_opt(LEASE)).await?;
        let report = within("get providerreport", reports.get_metadata_opt(REPORT)).await?;
        Ok(lease.is_some() && report.is_some())
    }

    /// Makes or puts right what the provider's agent needs. Idempotent; nothing is changed that is so already.
    async fn ensure(&self, provider: &ComputeProvider, name: &str) -> Result<(), Error> {
        let client = &self.client;
        let namespace = provider_namespace(name);
        let objects = render::Objects::of(provider)?;
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), AGENTS_NAMESPACE);
        let bindings: Api<RoleBinding> = Api::namespaced(client.clone(), &namespace);
        let revoked = provider.spec.scheduling == Scheduling::Revoked;
        if revoked && !planted!("revoked-keeps-rights") {
            // Before anything else, in this order: without the binding its tokens open nothing from the next request on;
            // without the account they are no tokens any more.
            apply::delete(&bindings, "rolebinding", AGENT_ROLE, None).await?;
            apply::delete(&accounts, "serviceaccount", name, None).await?;
        }
        let namespaces: Api<Namespace> = Api::all(client.clone());
        apply_as(REGISTRAR, &namespaces, "namespace", &namespace, &objects.namespace).await?;
        let leases: Api<Lease> = Api::namespaced(client.clone(), &namespace);
        apply_as(REGISTRAR, &leases, "lease", LEASE, &objects.lease).await?;
        let reports: Api<ProviderReport> = Api::namespaced(client.clone(), &namespace);
        apply_as(REGISTRAR, &reports, "providerreport", REPORT, &objects.report).await?;
        if !revoked {
            apply_as(REGISTRAR, &accounts, "serviceaccount", name, &objects.account).await?;
            apply_as(REGISTRAR, &bindings, "rolebinding", AGENT_ROLE, &objects.binding).await?;
        }
        Ok(())
    }

    /// Takes everything away once nothing of the provider is left to end.
    async fn leave(&self, provider: &ComputeProvider, name: &str) -> Result<Action, Error> {
        self.upkeep.forget(name);
        if !provider.finalizers().iter().any(|finalizer| finalizer == finalizers::PROVIDER) {
            // The hub has let it go; owner references do the rest, should anything be left.
            return Ok(Action::await_change());
        }
        let namespace = provider_namespace(name);
        let units: Api<WorkUnit> = Api::namespaced(self.client.clone(), &namespace);
        // Metadata only: a unit that does not parse counts as well.
        let left = within("list workunits", units.list_metadata(&ListParams::default().limit(1))).await?;
        if !left.items.is_empty() {
            return Ok(Action::requeue(LEAVING_AGAIN));
        }
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), AGENTS_NAMESPACE);
        apply::delete(&accounts, "serviceaccount", name, None).await?;
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        apply::delete(&namespaces, "namespace", &namespace, None).await?;
        tracing::info!(provider = name, "registrar: took away what was made for it");
        Ok(Action::requeue(LOOK_AGAIN))
    }
}

#[cfg(test)]
mod tests;
