//! What the gateway's ServiceAccount (muster-system/muster-gateway) may do, each rule with its reason. `muster rbac gateway` prints it.
//!
//! No wildcards, no `escalate`, no `impersonate`. Tokens and Secrets only in namespace muster-agents, where nothing but agents'
//! identities lives: cluster-wide, the right to make tokens would be that of an administrator.
use crate::hub::rbac::{Rule, cluster, within};

/// All of them.
#[must_use]
pub fn rules() -> Vec<Rule> {
    let agents = "muster-agents";
    let system = "muster-system";
    vec![
        cluster(
            "know whose key is accepted, and notice at once when it is not",
            ("muster.dev", &["computeproviders"], &[]),
            &["get", "list", "watch"],
        ),
        cluster(
            "know what a unit may read, put and commit, and that a newer one has taken over",
            ("muster.dev", &["workunits"], &[]),
            &["get", "list", "watch"],
        ),
        cluster(
            "find a job by its name, for whoever asks for its checkpoints",
            ("muster.dev", &["trainingjobs"], &[]),
            &["get"],
        ),
        cluster(
            "tell a namespace from an earlier one of its name, whose data it must not inherit",
            ("", &["namespaces"], &[]),
            &["get"],
        ),
        cluster("find out who holds a token", ("authentication.k8s.io", &["tokenreviews"], &[]), &["create"]),
        cluster(
            "find out what a user may",
            ("authorization.k8s.io", &["subjectaccessreviews"], &[]),
            &["create"],
        ),
        within(
            agents,
            "read the hash of a join token; write down which key came first with it",
            ("", &["configmaps"], &[]),
            &["get", "create"],
        ),
        within(
            agents,
            "the empty Secret that a key's tokens are bound to, and its removal with the key; only metadata is read",
            ("", &["secrets"], &[]),
            &["get", "list", "create", "delete"],
        ),
        within(
            agents,
            "make tokens of agents, bound to that Secret",
            ("", &["serviceaccounts/token"], &[]),
            &["create"],
        ),
        within(
            system,
            "hand on the hub's incarnation and keys",
            ("", &["configmaps"], &["muster-hub-public"]),
            &["get", "list", "watch"],
        ),
        within(
            system,
            "publish its URL and CA",
            ("", &["configmaps"], &["muster-gateway-public"]),
            &["get", "patch"],
        ),
        within(
            system,
            "make it on first start (a name cannot restrict create)",
            ("", &["configmaps"], &[]),
            &["create"],
        ),
        within(
            "default",
            "warn of a join token that is used twice; events about ComputeProviders live in this namespace",
            ("", &["events"], &[]),
            &["create", "patch"],
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_and_secrets_only_where_agents_are() {
        for Rule { namespace, rule, .. } in rules() {
            let all = [rule.verbs, rule.resources.unwrap_or_default(), rule.api_groups.unwrap_or_default()];
            for word in all.iter().flatten() {
                assert!(
                    !["*", "escalate", "bind", "impersonate", "nodes/proxy", "update"]
                        .contains(&word.as_str()),
                    "{word}"
                );
                if ["secrets", "serviceaccounts/token"].contains(&word.as_str()) {
                    assert_eq!(namespace, Some("muster-agents"));
                }
            }
        }
    }
}
