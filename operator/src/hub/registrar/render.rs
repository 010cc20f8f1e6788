//! The objects that the registrar makes for a provider. Pure; written by server-side apply.
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::api::rbac::v1::{RoleBinding, RoleRef, Subject};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Resource, ResourceExt};
use muster_api::names::{REPORT, labels};
use muster_api::v1alpha1::ComputeProvider;
use serde::Serialize;
use serde_json::{Value, json};

use crate::hub::error::Error;
use crate::hub::names::{AGENT_ROLE, AGENTS_NAMESPACE, LEASE, MANAGER, provider_namespace};

/// See the module.
#[derive(Debug, Serialize)]
pub struct Objects {
    /// Where everything of the provider on the hub lives.
    pub namespace: Namespace,
    /// Who its agent is.
    pub account: ServiceAccount,
    /// What its agent may do, there and nowhere else.
    pub binding: RoleBinding,
    /// Its heartbeat. The spec is the agent's.
    pub lease: Lease,
    /// Its report. The status is the agent's.
    pub report: Value,
}

impl Objects {
    /// Of one provider.
    ///
    /// # Errors
    /// [`Error::Incomplete`] for an object without name and uid, which no stored object is.
    pub fn of(provider: &ComputeProvider) -> Result<Self, Error> {
        let name = provider.name_any();
        let owner = provider.controller_owner_ref(&()).ok_or(Error::Incomplete("ComputeProvider", "uid"))?;
        let meta = |object: &str, namespace: Option<String>| ObjectMeta {
            name: Some(object.to_owned()),
            namespace,
            labels: Some(
                [(labels::PROVIDER, name.as_str()), (labels::MANAGED_BY, MANAGER)]
                    .map(|(key, value)| (key.to_owned(), value.to_owned()))
                    .into(),
            ),
            owner_references: Some(vec![owner.clone()]),
            ..Default::default()
        };
        let home = provider_namespace(&name);
        let mut namespace = Namespace { metadata: meta(&home, None), ..Default::default() };
        // Nothing shall ever run here; should anything try, it gets the strictest profile.
        let restricted = ("pod-security.kubernetes.io/enforce".to_owned(), "restricted".to_owned());
        namespace.metadata.labels.get_or_insert_default().extend([restricted]);
        Ok(Self {
            namespace,
            account: ServiceAccount {
                metadata: meta(&name, Some(AGENTS_NAMESPACE.into())),
                automount_service_account_token: Some(false),
                ..Default::default()
            },
            binding: RoleBinding {
                metadata: meta(AGENT_ROLE, Some(home.clone())),
                role_ref: RoleRef {
                    api_group: "rbac.authorization.k8s.io".into(),
                    kind: "ClusterRole".into(),
                    name: AGENT_ROLE.into(),
                },
                subjects: Some(vec![Subject {
                    kind: "ServiceAccount".into(),
                    name: name.clone(),
                    namespace: Some(AGENTS_NAMESPACE.into()),
                    ..Default::default()
                }]),
            },
            lease: Lease {
                metadata: meta(LEASE, Some(home.clone())),
                // Its agent keeps time by it.
                spec: Some(LeaseSpec {
                    lease_duration_seconds: Some(provider.spec.lease_duration_seconds),
                    ..Default::default()
                }),
            },
            report: json!({
                "apiVersion": "muster.dev/v1alpha1",
                "kind": "ProviderReport",
                "metadata": meta(REPORT, Some(home)),
            }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_of_a_provider() {
        let provider: ComputeProvider = serde_json::from_value(json!({
            "apiVersion": "muster.dev/v1alpha1",
            "kind": "ComputeProvider",
            "metadata": {"name": "east", "uid": "11111111-0000-4000-8000-000000000000"},
            "spec": {"owner": "acme"},
        }))
        .unwrap();
        insta::assert_yaml_snapshot!(Objects::of(&provider).unwrap());
    }
}
