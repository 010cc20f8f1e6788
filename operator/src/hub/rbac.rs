//! What the hub's ServiceAccount (muster-system/muster-hub) may do, each rule with its reason. `muster rbac hub` prints it.
//!
//! No wildcards, no `escalate`, no `impersonate`, no secrets, no tokens of others, and no way to hand out a right: that is
//! the registrar's (`registrar/rbac.rs`).
use k8s_openapi::api::rbac::v1::PolicyRule;

/// One rule and why it is there.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// For the reader of the manifest.
    pub why: &'static str,
    /// Where it applies: `None` = cluster-wide (ClusterRole), else a Role in this namespace.
    pub namespace: Option<&'static str>,
    /// What it allows.
    pub rule: PolicyRule,
}

/// All of them.
#[must_use]
pub fn rules() -> Vec<Rule> {
    let muster = "muster.dev";
    vec![
        cluster(
            "follow jobs; hold the finalizer that outlives their units; remove finished ones after their TTL",
            (muster, &["trainingjobs"], &[]),
            &["get", "list", "watch", "patch", "delete"],
        ),
        cluster("say what became of them", (muster, &["trainingjobs/status"], &[]), &["get", "patch"]),
        cluster(
            "follow providers; hold the finalizer that drains them; pin a key that the admin promised to accept",
            (muster, &["computeproviders"], &[]),
            &["get", "list", "watch", "patch"],
        ),
        cluster("say how they are", (muster, &["computeproviders/status"], &[]), &["get", "patch"]),
        cluster("read what agents report", (muster, &["providerreports"], &[]), &["get", "list", "watch"]),
        cluster(
            "send work, ask it to stop, remove it",
            (muster, &["workunits"], &[]),
            &["get", "list", "watch", "create", "patch", "delete"],
        ),
        cluster(
            "show what is audited, and remove what is too much of it",
            (muster, &["audits"], &[]),
            &["get", "list", "watch", "create", "patch", "delete"],
        ),
        cluster("say what came of it", (muster, &["audits/status"], &[]), &["get", "patch"]),
        cluster(
            "see that the registrar has taken a leaving provider's namespace away; tell a tenant's namespace from an \
             earlier one of its name; read tenants' weights",
            ("", &["namespaces"], &[]),
            &["get", "list", "watch"],
        ),
        cluster(
            "hear agents' heartbeats, and the hub's own auditor's",
            ("coordination.k8s.io", &["leases"], &[]),
            &["get", "list", "watch"],
        ),
        cluster(
            "let a job wait in Kueue's queues if it asks for that",
            ("kueue.x-k8s.io", &["workloads"], &[]),
            &["get", "list", "watch", "create", "patch", "delete"],
        ),
        cluster(
            "give back the place in them of who was evicted, paused or is done",
            ("kueue.x-k8s.io", &["workloads/status"], &[]),
            &["patch"],
        ),
        cluster("tell people what happens to their job", ("", &["events"], &[]), &["create", "patch"]),
        within(
            "muster-agents",
            "follow joins: the admins' token records and the gateway's claims",
            ("", &["configmaps"], &[]),
            &["get", "list", "watch"],
        ),
        within(
            "muster-system",
            "publish the incarnation and the public halves of the signing keys",
            ("", &["configmaps"], &["muster-hub-public"]),
            &["get", "patch"],
        ),
        within(
            "muster-system",
            "make it on first start (a name cannot restrict create)",
            ("", &["configmaps"], &[]),
            &["create"],
        ),
        within(
            "muster-system",
            "be the one of several hubs that acts; hand over",
            ("coordination.k8s.io", &["leases"], &["muster-hub"]),
            &["update"],
        ),
        within(
            "muster-system",
            "make that Lease (a name cannot restrict create)",
            ("coordination.k8s.io", &["leases"], &[]),
            &["create"],
        ),
    ]
}

pub(crate) type Target<'a> = (&'a str, &'a [&'a str], &'a [&'a str]);

pub(crate) fn cluster(why: &'static str, target: Target<'_>, verbs: &[&str]) -> Rule {
    Rule { why, namespace: None, rule: policy(target, verbs) }
}

pub(crate) fn within(namespace: &'static str, why: &'static str, target: Target<'_>, verbs: &[&str]) -> Rule {
    Rule { why, namespace: Some(namespace), rule: policy(target, verbs) }
}

fn policy((group, resources, names): Target<'_>, verbs: &[&str]) -> PolicyRule {
    let owned = |list: &[&str]| -> Vec<String> { list.iter().map(ToString::to_string).collect() };
    PolicyRule {
        api_groups: Some(vec![group.to_owned()]),
        resources: Some(owned(resources)),
        resource_names: (!names.is_empty()).then(|| owned(names)),
        verbs: owned(verbs),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_dangerous_is_asked_for() {
        for Rule { rule, .. } in rules() {
            let all = [rule.verbs, rule.resources.unwrap_or_default(), rule.api_groups.unwrap_or_default()];
            for word in all.iter().flatten() {
                assert!(
                    !["*", "escalate", "impersonate", "secrets", "serviceaccounts/token", "nodes/proxy"]
                        .contains(&word.as_str()),
                    "{word}"
                );
            }
        }
    }

    #[test]
    fn the_hub_hands_out_no_rights_and_makes_no_identities() {
        for Rule { rule, .. } in rules() {
            assert!(!rule.verbs.contains(&"bind".into()), "{rule:?}");
            for group in rule.api_groups.iter().flatten() {
                assert_ne!(group, "rbac.authorization.k8s.io");
            }
            for resource in rule.resources.iter().flatten() {
                assert!(!["serviceaccounts", "rolebindings"].contains(&resource.as_str()), "{rule:?}");
            }
        }
    }
}
