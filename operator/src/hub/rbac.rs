//! What the hub's ServiceAccount (muster-system/muster-hub) may do, each rule with its reason. `muster rbac hub` prints it.
//!
//! No wildcards, no `escalate`, no `impersonate`, no secrets, no tokens of others.
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
    let (muster, rbac) = ("muster.dev", "rbac.authorization.k8s.io");
    vec![
        cluster(
            "follow jobs; hold the finalizer that outlives their units; remove finished ones after their TTL",
            (muster, &["trainingjobs"], &[]),
            &["get", "list", "watch", "patch", "delete"],
        ),
        cluster("say what became of them", (muster, &["trainingjobs/status"], &[]), &["get", "patch"]),
        cluster(
            "follow providers; hold the finalizer that drains them",
            (muster, &["computeproviders"], &[]),
            &["get", "list", "watch", "patch"],
        ),
        cluster("say how they are", (muster, &["computeproviders/status"], &[]), &["get", "patch"]),
        cluster(
            "own what is made for a provider, so that it goes with it",
            (muster, &["computeproviders/finalizers"], &[]),
            &["update"],
        ),
        cluster(
            "read what agents report; make each provider's report object (a name cannot restrict create)",
            (muster, &["providerreports"], &[]),
            &["list", "watch", "create"],
        ),
        cluster("keep its labels right", (muster, &["providerreports"], &["report"]), &["get", "patch"]),
        cluster(
            "send work, ask it to stop, remove it",
            (muster, &["workunits"], &[]),
            &["get", "list", "watch", "create", "patch", "delete"],
        ),
        cluster(
            "a namespace for each provider",
            ("", &["namespaces"], &[]),
            &["get", "list", "watch", "create", "patch", "delete"],
        ),
        cluster(
            "notice when a provider's binding changes; make it",
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
        cluster(
            "hear agents' heartbeats; make each provider's Lease",
            ("coordination.k8s.io", &["leases"], &[]),
            &["list", "watch", "create"],
        ),
        cluster("keep its labels right", ("coordination.k8s.io", &["leases"], &["agent"]), &["get", "patch"]),
        cluster(
            "check the tokens of agents at the blob service",
            ("authentication.k8s.io", &["tokenreviews"], &[]),
            &["create"],
        ),
        cluster("tell people what happens to their job", ("", &["events"], &[]), &["create", "patch"]),
        within(
            "muster-agents",
            "an identity for each agent",
            ("", &["serviceaccounts"], &[]),
            &["get", "list", "watch", "create", "patch", "delete"],
        ),
        within(
            "muster-system",
            "publish blob URL, its CA and the signing key's public half",
            ("", &["configmaps"], &["muster-hub-public"]),
            &["get", "patch"],
        ),
        within(
            "muster-system",
            "make it on first start (a name cannot restrict create)",
            ("", &["configmaps"], &[]),
            &["create"],
        ),
    ]
}

type Target<'a> = (&'a str, &'a [&'a str], &'a [&'a str]);

fn cluster(why: &'static str, target: Target<'_>, verbs: &[&str]) -> Rule {
    Rule { why, namespace: None, rule: policy(target, verbs) }
}

fn within(namespace: &'static str, why: &'static str, target: Target<'_>, verbs: &[&str]) -> Rule {
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
    fn bind_names_its_one_role() {
        let bind: Vec<_> = rules().into_iter().filter(|r| r.rule.verbs.contains(&"bind".into())).collect();
        assert_eq!(bind.len(), 1);
        assert_eq!(bind[0].rule.resource_names.as_deref(), Some(&["muster-agent".to_string()][..]));
    }
}
