//! Labels, finalizers and other names that more than one program must spell alike.

/// The API group of all kinds.
pub const GROUP: &str = "muster.dev";
/// Default and only understood value of a TrainingJob's `spec.managedBy`.
pub const MANAGED_BY: &str = "muster.dev/hub";
/// The one ProviderReport of a provider's namespace has this name.
pub const REPORT: &str = "report";
/// A provider's namespace on the hub is this and the provider's name.
pub const PROVIDER_NAMESPACE_PREFIX: &str = "muster-p-";

/// Labels on every object that belongs to a job, on the hub and on members. They take the place of owner
/// references, which do not reach across namespaces or clusters.
pub mod labels {
    /// UID of the TrainingJob.
    pub const JOB_UID: &str = "muster.dev/job-uid";
    /// Number of the island, from 0.
    pub const ISLAND: &str = "muster.dev/island";
    /// Epoch of the unit, from 1.
    pub const EPOCH: &str = "muster.dev/epoch";
    /// Attempt of the unit on its member, from 1.
    pub const ATTEMPT: &str = "muster.dev/attempt";
    /// Name of the WorkUnit.
    pub const UNIT: &str = "muster.dev/unit";
    /// Name of the provider, on what the hub makes for it.
    pub const PROVIDER: &str = "muster.dev/provider";
    /// On a tenant's namespace: its weight beside other tenants, a number from 1; 1 without the label.
    pub const WEIGHT: &str = "muster.dev/weight";
    /// Who keeps the object: `muster-hub` or `muster-agent`.
    pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
    /// What the object is part of.
    pub const COMPONENT: &str = "app.kubernetes.io/component";
}

/// Finalizers, all held by the hub: agents cannot write metadata.
pub mod finalizers {
    /// On a TrainingJob until its units are gone.
    pub const JOB: &str = "muster.dev/job";
    /// On a WorkUnit until its phase is `Released` or the disconnect grace has passed.
    pub const UNIT: &str = "muster.dev/unit";
    /// On a ComputeProvider until it is drained.
    pub const PROVIDER: &str = "muster.dev/provider";
}
