//! The Workload of a job: what Kueue is asked for, and what is said to it afterwards. Pure.
use k8s_openapi::api::core::v1::{Container, PodSpec, PodTemplateSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, OwnerReference};
use kube::core::DynamicObject;
use kube::{Resource, ResourceExt};
use muster_api::names::labels;
use muster_api::v1alpha1::TrainingJob;
use muster_core::sidecar as share;
use muster_proof::Digest;
use serde_json::{Value, json};

use crate::hub::apply::{self, Said};
use crate::hub::error::Error;
use crate::hub::job::place;
use crate::hub::names::MANAGER;
use crate::runtime::kueue::{self, conditions};

/// What the Workload asks for, as a digest: another one needs another Workload, for Kueue does not change it under way.
const ASKS: &str = "muster.dev/asks";

/// The name, which the job's uid makes its own.
#[must_use]
pub fn name(job: &TrainingJob, uid: &str) -> String {
    format!("trainingjob-{}-{}", job.name_any(), uid.get(..8).unwrap_or(uid))
}

/// What the job waits for in this queue: its workers at their most, each with its sidecar.
///
/// # Errors
/// [`Error::Json`].
pub fn render(job: &TrainingJob, uid: &str, queue: &str) -> Result<DynamicObject, Error> {
    let resources = &job.spec.workers.resources;
    let template = PodTemplateSpec {
        metadata: None,
        spec: Some(PodSpec {
            containers: vec![container("trainer", &resources.cpu.0, &resources.memory.0)],
            // As the agent's template has it: a native sidecar counts beside the container, not before it.
            init_containers: Some(vec![Container {
                restart_policy: Some("Always".into()),
                ..container("sidecar", share::CPU, share::MEMORY)
            }]),
            restart_policy: Some("Never".into()),
            ..PodSpec::default()
        }),
    };
    let asks = json!({
        "queueName": queue,
        "podSets": [{"name": "main", "count": place::size(&job.spec).max, "template": serde_json::to_value(template)?}],
    });
    let digest = Digest::of(serde_json::to_string(&asks)?.as_bytes());
    let mut workload = DynamicObject::new(&name(job, uid), &kueue::resource());
    workload.metadata.namespace = job.namespace();
    workload.labels_mut().extend([
        (labels::MANAGED_BY.to_owned(), MANAGER.to_owned()),
        (kueue::JOB_UID.to_owned(), uid.to_owned()),
    ]);
    workload.annotations_mut().insert(ASKS.to_owned(), digest.to_string());
    workload.owner_references_mut().push(OwnerReference {
        api_version: TrainingJob::api_version(&()).into_owned(),
        kind: TrainingJob::kind(&()).into_owned(),
        name: job.name_any(),
        uid: uid.to_owned(),
        controller: Some(true),
        block_owner_deletion: Some(false),
    });
    workload.data = json!({"spec": asks});
    workload.data["spec"]["priority"] = job.spec.priority.into();
    workload.data["spec"]["active"] = true.into();
    Ok(workload)
}

fn container(name: &str, cpu: &str, memory: &str) -> Container {
    let of = |name: &str, amount: &str| (name.to_owned(), Quantity(amount.to_owned()));
    Container {
        name: name.to_owned(),
        image: Some("muster-trainer".to_owned()),
        resources: Some(ResourceRequirements {
            requests: Some([of("cpu", cpu), of("memory", memory)].into()),
            ..ResourceRequirements::default()
        }),
        ..Container::default()
    }
}

/// Whether it asks for the same.
#[must_use]
pub fn asks_the_same(there: &DynamicObject, wanted: &DynamicObject) -> bool {
    there.annotations().get(ASKS) == wanted.annotations().get(ASKS)
}

/// Whether this job's controller made it.
#[must_use]
pub fn is_of(workload: &DynamicObject, uid: &str) -> bool {
    workload.owner_references().iter().any(|owner| owner.uid == uid && owner.controller == Some(true))
}

/// How the job is, for its Workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Nothing of it runs.
    Rests,
    /// Some of its workers may run.
    Starts,
    /// All of its workers run.
    Runs,
    /// It is over, well or not.
    Over {
        /// Well.
        well: bool,
    },
}

/// The Workload's status as it ought to be, if it is not so. Who is evicted gives its place back once nothing of it runs.
#[must_use]
pub fn status(workload: &DynamicObject, stage: Stage, now: jiff::Timestamp) -> Option<Value> {
    let old = kueue::conditions_of(workload);
    if kueue::holds(&old, conditions::FINISHED).is_some() {
        return None;
    }
    let evicted = kueue::holds(&old, conditions::EVICTED);
    let has_place = workload.data.pointer("/status/admission").is_some_and(|admission| !admission.is_null());
    let say = |kind, status, reason: &str, message: &str| Said {
        kind,
        status,
        reason: reason.to_owned(),
        message: message.to_owned(),
    };
    let mut change = json!({});
    let said = match (stage, evicted) {
        (Stage::Over { well: true }, _) => {
            vec![say(conditions::FINISHED, "True", "Succeeded", "the TrainingJob has succeeded")]
        }
        (Stage::Over { well: false }, _) => {
            vec![say(conditions::FINISHED, "True", "Failed", "the TrainingJob has failed")]
        }
        (Stage::Rests, Some(evicted)) if has_place => {
            change["admission"] = Value::Null;
            // What was preempted stands in the queue again by itself; after anything else Kueue decides when.
            let again = if matches!(evicted.reason.as_str(), "Preempted" | "NodeFailures") {
                "True"
            } else {
                "False"
            };
            vec![
                say(conditions::QUOTA_RESERVED, "False", "Pending", &evicted.message),
                say(conditions::ADMITTED, "False", "NoReservation", "the workload has no reservation"),
                say(conditions::REQUEUED, again, &evicted.reason, &evicted.message),
            ]
        }
        (Stage::Runs, None) => vec![say(conditions::PODS_READY, "True", "Started", "all workers train")],
        (Stage::Starts | Stage::Rests, None) if kueue::holds(&old, conditions::PODS_READY).is_some() => {
            vec![say(conditions::PODS_READY, "False", "WaitForRecovery", "not all workers train")]
        }
        _ => return None,
    };
    let new = apply::conditions(&old, said, workload.metadata.generation, now);
    let same = |new: &Condition| {
        old.iter().any(|old| old.type_ == new.type_ && old.status == new.status && old.reason == new.reason)
    };
    if new.iter().all(same) && change == json!({}) {
        return None;
    }
    // A list in a merge patch is the whole list.
    let kept = old.iter().filter(|old| new.iter().all(|new| new.type_ != old.type_));
    change["conditions"] = kept.chain(&new).map(|condition| json!(condition)).collect();
    Some(change)
}
