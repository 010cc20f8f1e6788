//! The member's side of the doctor: version, rights, Pod Security, quota.
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use k8s_openapi::api::core::v1::{Namespace, ResourceQuota};
use kube::api::{ListParams, PostParams};
use kube::{Api, Client, ResourceExt};
use muster_core::policy::ProviderPolicy;

use super::{Check, Verdict};
use crate::agent::rbac::{self, Scope};
use crate::runtime::client::{ClientError, within};
use crate::runtime::sanitise;

/// Indexed Jobs with `podReplacementPolicy` and Pod Security are stable from here on.
const MIN_VERSION: (u32, u32) = (1, 30);
/// The label that makes Pod Security enforce.
const ENFORCE: &str = "pod-security.kubernetes.io/enforce";

/// All checks of the member.
pub(super) async fn examine(client: &Client, namespace: &str, policy: Option<&ProviderPolicy>) -> Vec<Check> {
    let version = match within("get version", client.apiserver_version()).await {
        Ok(info) => version(&info.git_version),
        Err(error) => {
            let remedy = "see --member-kubeconfig: is the API server reachable, is the token good?";
            return vec![Check::bad("member", Verdict::Failed, error.to_string(), remedy)];
        }
    };
    // What the report's idle depends on where the policy wants nodes counted.
    let observes = policy.is_some_and(ProviderPolicy::observes);
    let observe = if observes { rbac::OBSERVE } else { &[] };
    vec![
        version,
        rights(client, namespace, observe).await,
        security(client, namespace).await,
        quota(client, namespace).await,
    ]
}

fn version(text: &str) -> Check {
    let shown = sanitise::line(text, 32);
    let mut numbers = text.trim_start_matches('v').split('.').map(|part| part.parse::<u32>().ok());
    let (Some(Some(major)), Some(Some(minor))) = (numbers.next(), numbers.next()) else {
        return Check::bad("member", Verdict::Unknown, format!("Kubernetes {shown:?}"), "want 1.30 or newer");
    };
    if (major, minor) < MIN_VERSION {
        let found = format!("Kubernetes {shown} is too old");
        return Check::bad("member", Verdict::Failed, found, "upgrade it to 1.30 or newer");
    }
    Check::good("member", format!("Kubernetes {shown}"))
}

/// Every right of the agent's role, and those that it needs `besides`, asked one by one: a role that was cut shows here, not in the
/// middle of a unit.
async fn rights(client: &Client, namespace: &str, besides: &[rbac::Rule]) -> Check {
    let observe = if besides.is_empty() {
        ""
    } else {
        "; for offer.observe set `observe: true` in the chart, or apply what `muster rbac observe` prints"
    };
    let remedy = format!(
        "apply manifests/member again (`muster rbac member` prints the rules; namespace {namespace}){observe}"
    );
    let mut missing = Vec::new();
    let mut asked = 0;
    for rule in rbac::MEMBER.iter().chain(besides) {
        for resource in rule.resources {
            for verb in rule.verbs {
                asked += 1;
                match may(client, rule, resource, verb, namespace).await {
                    Ok(true) => {}
                    Ok(false) => missing.push(format!("{verb} {resource}")),
                    Err(error) => {
                        return Check::bad(
                            "rights",
                            Verdict::Unknown,
                            error.to_string(),
                            "see --member-kubeconfig",
                        );
                    }
                }
            }
        }
    }
    if missing.is_empty() {
        return Check::good("rights", format!("all {asked} that the agent needs"));
    }
    Check::bad("rights", Verdict::Failed, format!("missing: {}", missing.join(", ")), remedy)
}

async fn may(
    client: &Client,
    rule: &rbac::Rule,
    resource: &str,
    verb: &str,
    namespace: &str,
) -> Result<bool, ClientError> {
    let (resource, subresource) = match resource.split_once('/') {
        Some((resource, subresource)) => (resource, Some(subresource.to_owned())),
        None => (resource, None),
    };
    let review = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(ResourceAttributes {
                group: Some(rule.group.to_owned()),
                resource: Some(resource.to_owned()),
                name: rule.names.first().map(|name| (*name).to_owned()),
                subresource,
                verb: Some(verb.to_owned()),
                namespace: (rule.scope == Scope::Namespace).then(|| namespace.to_owned()),
                ..ResourceAttributes::default()
            }),
            ..SelfSubjectAccessReviewSpec::default()
        },
        ..SelfSubjectAccessReview::default()
    };
    let reviews: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let answer =
        within("create selfsubjectaccessreview", reviews.create(&PostParams::default(), &review)).await?;
    Ok(answer.status.is_some_and(|status| status.allowed))
}

/// The agent's own role cannot read namespaces, so this is often unknown; a person's kubeconfig can.
async fn security(client: &Client, namespace: &str) -> Check {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    match within("get namespace", namespaces.get(namespace)).await {
        Ok(found) => enforced(found.labels().get(ENFORCE).map(String::as_str)),
        Err(ClientError::Request { source, .. }) if matches!(&*source, kube::Error::Api(s) if s.code == 404) => {
            Check::bad(
                "namespace",
                Verdict::Failed,
                format!("{namespace} is not there"),
                "apply manifests/member",
            )
        }
        Err(_) => {
            let found = "this kubeconfig may not read it (the agent need not)";
            let remedy =
                format!("see `kubectl get namespace {namespace} --show-labels`: want {ENFORCE}=restricted");
            Check::bad("namespace", Verdict::Unknown, found, remedy)
        }
    }
}

fn enforced(level: Option<&str>) -> Check {
    match level {
        Some("restricted") => Check::good("namespace", "Pod Security enforces restricted"),
        other => {
            let found = format!(
                "Pod Security enforces {}",
                other.map_or("nothing".to_owned(), |l| sanitise::line(l, 32))
            );
            Check::bad("namespace", Verdict::Failed, found, format!("label it {ENFORCE}=restricted"))
        }
    }
}

async fn quota(client: &Client, namespace: &str) -> Check {
    let quotas: Api<ResourceQuota> = Api::namespaced(client.clone(), namespace);
    match within("list resourcequotas", quotas.list(&ListParams::default())).await {
        Ok(list) if list.items.is_empty() => {
            let remedy = "add one: only it bounds what is lent whatever the hub or a mistake asks for";
            Check::bad("quota", Verdict::Warning, format!("no ResourceQuota in {namespace}"), remedy)
        }
        Ok(list) => Check::good("quota", format!("{} ResourceQuota", list.items.len())),
        Err(error) => Check::bad("quota", Verdict::Unknown, error.to_string(), "the rights above say why"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_members_are_refused_and_strange_ones_unknown() {
        for (text, verdict) in [
            ("v1.34.4", Verdict::Good),
            ("v1.30.0-eks-123", Verdict::Good),
            ("1.30+", Verdict::Unknown),
            ("v1.29.9", Verdict::Failed),
            ("v2.0.0", Verdict::Good),
            ("\u{1b}[31m", Verdict::Unknown),
        ] {
            let check = version(text);
            assert_eq!(check.verdict, verdict, "{text}");
            assert!(!check.to_string().contains('\u{1b}'));
        }
    }

    /// The report says NoNodes then, and idle 0.
    #[tokio::test]
    async fn a_policy_that_counts_nodes_needs_the_right_to() {
        let server = |request: axum::extract::Request| async move {
            let body = axum::body::to_bytes(request.into_body(), 1 << 16).await.unwrap();
            let mut review: serde_json::Value = serde_json::from_slice(&body).unwrap();
            let asked = &review["spec"]["resourceAttributes"];
            let is_cluster = asked["namespace"].is_null() && asked["group"] == "";
            review["status"] = serde_json::json!({"allowed": !is_cluster});
            axum::Json(review)
        };
        let client = Client::new(axum::Router::new().fallback(server), "muster-lent");
        assert_eq!(rights(&client, "muster-lent", &[]).await.verdict, Verdict::Good);
        let blind = rights(&client, "muster-lent", rbac::OBSERVE).await;
        assert_eq!(blind.verdict, Verdict::Failed);
        assert!(blind.found.contains("watch nodes") && blind.remedy.contains("observe: true"), "{blind}");
    }

    #[test]
    fn only_restricted_is_good() {
        assert_eq!(enforced(Some("restricted")).verdict, Verdict::Good);
        for other in [None, Some("baseline"), Some("privileged")] {
            assert_eq!(enforced(other).verdict, Verdict::Failed);
        }
    }
}
