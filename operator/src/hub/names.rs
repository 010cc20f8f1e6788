//! Names that the hub gives and looks for.
use muster_api::names::PROVIDER_NAMESPACE_PREFIX;

/// Field manager and reporting controller.
pub const MANAGER: &str = "muster-hub";
/// Field manager of what is made for a provider, and the registrar's ServiceAccount.
pub const REGISTRAR: &str = "muster-registrar";
/// Namespace of the hub's own objects.
pub const SYSTEM_NAMESPACE: &str = "muster-system";
/// Namespace of all agents' ServiceAccounts.
pub const AGENTS_NAMESPACE: &str = "muster-agents";
/// User names of agents' ServiceAccounts.
pub const AGENT_USER_PREFIX: &str = "system:serviceaccount:muster-agents:";
/// ClusterRole that each provider's namespace binds to its agent; made by the manifests.
pub const AGENT_ROLE: &str = "muster-agent";
/// Heartbeat of an agent, in its provider's namespace.
pub const LEASE: &str = "agent";
/// On a ComputeProvider: hash of the join token whose key the hub has pinned by itself.
pub const AUTO_ACCEPTED: &str = "muster.dev/auto-accepted";
/// On a WorkUnit: restarts of its job counted before it was made.
pub const RESTARTS_BEFORE: &str = "muster.dev/restarts-before";

/// A provider's namespace on the hub.
#[must_use]
pub fn provider_namespace(provider: &str) -> String {
    format!("{PROVIDER_NAMESPACE_PREFIX}{provider}")
}

/// The provider of a namespace, if it is one's.
#[must_use]
pub fn provider_of(namespace: &str) -> Option<&str> {
    namespace.strip_prefix(PROVIDER_NAMESPACE_PREFIX)
}

/// Name of a unit: deterministic, so that making it twice is AlreadyExists.
#[must_use]
pub fn unit(job_uid: &str, island: i32, epoch: i64) -> String {
    format!("{}-{island}-{epoch}", job_uid.get(..8).unwrap_or(job_uid))
}
