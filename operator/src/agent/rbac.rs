//! What the agent may do on the member cluster, each right with its reason. `muster rbac member` prints it; nothing
//! else grants rights to ServiceAccount `muster-agent`.

/// Where a rule applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The namespace of the lent capacity, by a Role.
    Namespace,
    /// The cluster, by a ClusterRole.
    Cluster,
}

/// One rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Where.
    pub scope: Scope,
    /// API group, empty for core.
    pub group: &'static str,
    /// Resources, plural.
    pub resources: &'static [&'static str],
    /// The only objects that it is about; empty for all.
    pub names: &'static [&'static str],
    /// Verbs.
    pub verbs: &'static [&'static str],
    /// Why the agent needs it.
    pub reason: &'static str,
}

/// All rules of ServiceAccount `muster-lent/muster-agent`.
pub const MEMBER: &[Rule] = &[
    Rule {
        scope: Scope::Namespace,
        group: "batch",
        resources: &["jobs"],
        names: &[],
        verbs: &["create", "get", "list", "watch", "delete"],
        reason: "one Job per attempt at a unit; never changed, only made, watched and deleted",
    },
    Rule {
        scope: Scope::Namespace,
        group: "",
        resources: &["pods"],
        names: &[],
        verbs: &["get", "list", "watch", "delete"],
        reason: "how workers end, who asks the relay, and ending a doomed attempt's survivors at once",
    },
    Rule {
        scope: Scope::Namespace,
        group: "",
        resources: &["pods/log"],
        names: &[],
        verbs: &["get"],
        reason: "workers' logs for whoever may read the job's, unless the policy refuses; the ends of failed ones",
    },
    Rule {
        scope: Scope::Namespace,
        group: "",
        resources: &["events"],
        names: &[],
        verbs: &["list"],
        reason: "why a Job cannot make its pods (Pod Security, quota) is said in events only",
    },
    Rule {
        scope: Scope::Namespace,
        group: "kueue.x-k8s.io",
        resources: &["workloads"],
        names: &[],
        verbs: &["list"],
        reason: "what a Job waits for that Kueue has not admitted, where the policy names a queue",
    },
    Rule {
        scope: Scope::Namespace,
        group: "",
        resources: &["resourcequotas"],
        names: &[],
        verbs: &["get", "list"],
        reason: "how much the provider lends",
    },
    Rule {
        scope: Scope::Namespace,
        group: "",
        resources: &["services"],
        names: &["muster-relay"],
        verbs: &["get"],
        reason: "at which address the pods find the relay",
    },
    Rule {
        scope: Scope::Cluster,
        group: "authentication.k8s.io",
        resources: &["tokenreviews"],
        names: &[],
        verbs: &["create"],
        reason: "which pod speaks to the relay; reads nothing",
    },
];

/// What the agent may do in addition where the provider's policy says `offer.observe`. `muster rbac observe` prints it; the chart has it
/// with `observe: true` only.
pub const OBSERVE: &[Rule] = &[Rule {
    scope: Scope::Cluster,
    group: "",
    resources: &["nodes", "pods"],
    names: &[],
    verbs: &["list", "watch"],
    reason: "how many more workers the nodes have room for; of a pod its node and requests are kept, nothing else",
}];

#[cfg(test)]
mod tests {
    use super::*;

    /// What no rule may ever hold, whoever edits the list.
    #[test]
    fn rights_stay_narrow() {
        for rule in OBSERVE {
            assert!(
                rule.verbs.iter().all(|verb| ["list", "watch"].contains(verb)),
                "looks and nothing else: {rule:?}"
            );
        }
        for rule in MEMBER {
            assert!(!rule.reason.is_empty());
            for word in rule.verbs.iter().chain(rule.resources) {
                assert!(
                    !["*", "secrets", "escalate", "bind", "impersonate", "patch", "update"].contains(word),
                    "{rule:?}"
                );
            }
            if rule.scope == Scope::Cluster {
                assert_eq!(rule.verbs, ["create"], "nothing cluster-wide can be read: {rule:?}");
            }
        }
    }
}
