//! What the member's ResourceQuotas allow. It is counted against what this agent has taken, not against what a quota says
//! is used: pods of a unit that is ending still count there for a moment.
use k8s_openapi::api::core::v1::ResourceQuota;
use muster_core::quota::Limits;

use super::render::PRIORITY_CLASS;

/// What the quotas of the namespace allow to workers.
#[must_use]
pub fn limits(quotas: &[ResourceQuota]) -> Limits {
    let mut limits = Limits::default();
    for quota in quotas.iter().filter(|quota| counts_workers(quota)) {
        let hard = quota.spec.as_ref().and_then(|spec| spec.hard.as_ref());
        let hard = hard.into_iter().flatten().map(|(name, quantity)| (name.as_str(), quantity.0.as_str()));
        limits.add(hard);
    }
    limits
}

/// Whether pods of the agent's template are within a quota's scopes. A scope of a kind that is not known is taken to
/// hold: what is offered then is less, never more.
fn counts_workers(quota: &ResourceQuota) -> bool {
    let Some(spec) = &quota.spec else { return false };
    let scopes = spec.scopes.iter().flatten().map(String::as_str);
    let selected = spec.scope_selector.iter().flat_map(|s| s.match_expressions.iter().flatten());
    let strange = |scope: &str| matches!(scope, "BestEffort" | "Terminating" | "CrossNamespacePodAffinity");
    let elsewhere = |expression: &k8s_openapi::api::core::v1::ScopedResourceSelectorRequirement| {
        let values: Vec<&str> = expression.values.iter().flatten().map(String::as_str).collect();
        match (expression.scope_name.as_str(), expression.operator.as_str()) {
            ("PriorityClass", "In") => !values.contains(&PRIORITY_CLASS),
            ("PriorityClass", "NotIn") => values.contains(&PRIORITY_CLASS),
            ("PriorityClass", "DoesNotExist") => true,
            (scope, "Exists") => strange(scope),
            _ => false,
        }
    };
    !scopes.into_iter().any(strange) && !selected.into_iter().any(elsewhere)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn room(spec: Value) -> Option<i64> {
        let quota = serde_json::from_value(json!({"spec": spec})).unwrap();
        let worker = muster_core::quota::of_worker("900m", "768Mi").unwrap();
        limits(&[quota]).room(&muster_core::quota::Amounts::new(), &worker)
    }

    #[test]
    fn only_quotas_that_count_workers_bound_them() {
        let hard = json!({"requests.cpu": "4"});
        let scoped = |operator: &str, values: Value| {
            let expression = json!({"scopeName": "PriorityClass", "operator": operator, "values": values});
            room(json!({"hard": hard, "scopeSelector": {"matchExpressions": [expression]}}))
        };
        assert_eq!(room(json!({"hard": hard})), Some(4));
        assert_eq!(scoped("In", json!(["muster-lent"])), Some(4));
        assert_eq!(scoped("In", json!(["owner"])), None);
        assert_eq!(scoped("NotIn", json!(["muster-lent"])), None);
        assert_eq!(scoped("Exists", json!(null)), Some(4));
        assert_eq!(room(json!({"hard": hard, "scopes": ["BestEffort"]})), None);
        assert_eq!(room(json!({"hard": hard, "scopes": ["NotTerminating"]})), Some(4));
    }
}
