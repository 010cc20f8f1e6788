//! ClusterRole `muster-agent`: what a provider's agent may do on the hub. The hub binds it in namespace
//! `muster-p-<provider>` and nowhere else.
//!
//! There is no `create` (resourceNames cannot restrict it): the hub makes report and Lease. No right on
//! serviceaccounts/token: a stolen token must not be able to renew itself. No events: the hub writes them from status.
use super::render::{Role, Rule};

pub(super) fn agent() -> Role {
    let muster = "muster.dev";
    Role {
        name: "muster-agent".into(),
        namespace: None,
        account: None,
        about: "What a provider's agent may do on the hub, in its own namespace.".into(),
        rules: vec![
            rule("what to run", muster, "workunits", None, &["get", "list", "watch"]),
            rule("how it goes", muster, "workunits/status", None, &["get", "patch"]),
            rule("its report, made by the hub", muster, "providerreports", Some("report"), &["get"]),
            rule("what it lends", muster, "providerreports/status", Some("report"), &["get", "patch"]),
            rule("its heartbeat", "coordination.k8s.io", "leases", Some("agent"), &["get", "update"]),
        ],
    }
}

fn rule(why: &str, group: &str, resource: &str, name: Option<&str>, verbs: &[&str]) -> Rule {
    Rule {
        groups: vec![group.into()],
        resources: vec![resource.into()],
        names: name.map(Into::into).into_iter().collect(),
        verbs: verbs.iter().map(ToString::to_string).collect(),
        why: why.into(),
    }
}
