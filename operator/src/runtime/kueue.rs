//! What of Kueue's API is read and written here, hub and member: Workloads of `kueue.x-k8s.io/v1beta2`
//! (<https://kueue.sigs.k8s.io/docs/reference/kueue.v1beta2/>). Its types are not generated: of a large kind a few fields matter.
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, Client};

/// Label that names the LocalQueue in which something waits.
pub const QUEUE_NAME: &str = "kueue.x-k8s.io/queue-name";
/// Label of a Workload: UID of what it stands for.
pub const JOB_UID: &str = "kueue.x-k8s.io/job-uid";

/// Conditions of a Workload.
pub mod conditions {
    /// It may run.
    pub const ADMITTED: &str = "Admitted";
    /// It has a place in its ClusterQueue; it may still wait for admission checks.
    pub const QUOTA_RESERVED: &str = "QuotaReserved";
    /// It must stop, and give back its place once it has.
    pub const EVICTED: &str = "Evicted";
    /// Whether it stands in the queue again after that.
    pub const REQUEUED: &str = "Requeued";
    /// All its pods run.
    pub const PODS_READY: &str = "PodsReady";
    /// It is over and holds nothing.
    pub const FINISHED: &str = "Finished";
}

/// Workloads as a kind.
#[must_use]
pub fn resource() -> ApiResource {
    ApiResource::from_gvk_with_plural(
        &GroupVersionKind::gvk("kueue.x-k8s.io", "v1beta2", "Workload"),
        "workloads",
    )
}

/// The Workloads of a namespace.
#[must_use]
pub fn workloads(client: Client, namespace: &str) -> Api<DynamicObject> {
    Api::namespaced_with(client, namespace, &resource())
}

/// A Workload's conditions; what is none is left out.
#[must_use]
pub fn conditions_of(workload: &DynamicObject) -> Vec<Condition> {
    let conditions = workload.data.pointer("/status/conditions").and_then(serde_json::Value::as_array);
    let read = |condition: &serde_json::Value| serde_json::from_value(condition.clone()).ok();
    conditions.into_iter().flatten().filter_map(read).collect()
}

/// The condition of this type, if it is True.
#[must_use]
pub fn holds<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == type_ && condition.status == "True")
}

/// In Kueue's words: why it is not admitted.
#[must_use]
pub fn waits_for(conditions: &[Condition]) -> Option<&str> {
    let not = |type_: &str| {
        let is = |condition: &&Condition| condition.type_ == type_ && condition.status == "False";
        conditions.iter().find(is).map(|condition| condition.message.as_str())
    };
    // With a reservation, a check is what it waits for.
    let reserved = holds(conditions, conditions::QUOTA_RESERVED).is_some();
    let said = if reserved { not(conditions::ADMITTED) } else { not(conditions::QUOTA_RESERVED) };
    said.filter(|said| !said.is_empty())
}

#[cfg(test)]
pub mod testing {
    use super::*;

    /// A Workload with these conditions: type, status, message.
    pub fn workload(conditions: &[(&str, &str, &str)]) -> DynamicObject {
        let conditions: Vec<_> = conditions
            .iter()
            .map(|(type_, status, message)| {
                serde_json::json!({"type": type_, "status": status, "reason": "Pending", "message": message,
                                   "lastTransitionTime": "2026-11-28T08:00:00Z"})
            })
            .collect();
        let mut workload = DynamicObject::new("w", &resource());
        workload.data = serde_json::json!({"status": {"conditions": conditions}});
        workload
    }
}

#[cfg(test)]
mod tests {
    use super::testing::workload;
    use super::*;

    #[test]
    fn what_a_workload_waits_for() {
        let said = |conditions: &[(&str, &str, &str)]| {
            waits_for(&conditions_of(&workload(conditions))).map(str::to_owned)
        };
        assert_eq!(said(&[]), None, "Kueue has not looked at it");
        assert_eq!(said(&[("QuotaReserved", "False", "1 more cpu")]).as_deref(), Some("1 more cpu"));
        let checks = [("QuotaReserved", "True", ""), ("Admitted", "False", "a check")];
        assert_eq!(said(&checks).as_deref(), Some("a check"));
        let mut odd = workload(&[("QuotaReserved", "False", "x")]);
        odd.data["status"]["conditions"][0] = serde_json::json!(7);
        assert_eq!(conditions_of(&odd), []);
    }
}
