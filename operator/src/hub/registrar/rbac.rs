//! What the registrar's ServiceAccount (muster-system/muster-registrar) may do, each rule with its reason. `muster rbac
//! registrar` prints it.
//!
//! It is the one part of the hub that makes identities and hands out rights, so it may do nothing else: it reads
//! providers, writes no spec and no status, and can bind one role.
use crate::hub::rbac::{Rule, cluster, within};

/// All of them.
#[must_use]
pub fn rules() -> Vec<Rule> {
    let (muster, rbac, leases) = ("muster.dev", "rbac.authorization.k8s.io", "coordination.k8s.io");
    vec![
        cluster("follow providers", (muster, &["computeproviders"], &[]), &["get", "list", "watch"]),
        cluster(
            "see that nothing of a leaving provider is left to end",
            (muster, &["workunits"], &[]),
            &["list"],
        ),
        cluster(
            "a namespace for each provider",
            ("", &["namespaces"], &[]),
            &["get", "list", "watch", "create", "patch", "delete"],
        ),
        cluster(
            "notice when a provider's binding changes; make it (a name cannot restrict create)",
            (rbac, &["rolebindings"], &[]),
            &["list", "watch", "create"],
        ),
        cluster(
            "bind each provider's agent in its namespace, and cut a revoked one off",
            (rbac, &["rolebindings"], &["muster-agent"]),
            &["get", "patch", "delete"],
        ),
        cluster(
            "the only role it can ever hand out",
            (rbac, &["clusterroles"], &["muster-agent"]),
            &["bind"],
        ),
        cluster("make each provider's Lease", (leases, &["leases"], &[]), &["create"]),
        cluster("keep its labels right", (leases, &["leases"], &["agent"]), &["get", "patch"]),
        cluster("make each provider's report", (muster, &["providerreports"], &[]), &["create"]),
        cluster("keep its labels right", (muster, &["providerreports"], &["report"]), &["get", "patch"]),
        within(
            "muster-agents",
            "an identity for each agent",
            ("", &["serviceaccounts"], &[]),
            &["get", "list", "watch", "create", "patch", "delete"],
        ),
        within(
            "muster-system",
            "hear that the database was restored",
            ("", &["configmaps"], &["muster-hub-public"]),
            &["get"],
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_providers_and_writes_neither_work_nor_status() {
        for Rule { rule, .. } in rules() {
            let resources = rule.resources.unwrap_or_default();
            let writes = rule.verbs.iter().any(|verb| !["get", "list", "watch"].contains(&verb.as_str()));
            for resource in resources {
                assert!(!resource.ends_with("/status"), "{resource}");
                let harmless =
                    !["computeproviders", "workunits", "trainingjobs"].contains(&resource.as_str());
                assert!(harmless || !writes, "{resource}");
            }
        }
    }

    #[test]
    fn bind_names_its_one_role() {
        let bind: Vec<_> = rules().into_iter().filter(|r| r.rule.verbs.contains(&"bind".into())).collect();
        assert_eq!(bind.len(), 1);
        assert_eq!(bind[0].rule.resource_names.as_deref(), Some(&["muster-agent".to_string()][..]));
    }
}
