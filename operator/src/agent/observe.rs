//! From the member's Jobs and pods to what [`muster_core::attempt`] decides on. Pure; text by others is sanitised here.
use std::net::IpAddr;

use k8s_openapi::api::batch::v1 as batch;
use k8s_openapi::api::core::v1 as core;
use kube::ResourceExt;
use kube::core::DynamicObject;
use muster_api::names::labels;
use muster_core::attempt::{Container, End, Job, Obstacle, Pod, PodState, Reason, classify};

use super::render::{SIDECAR, TRAINER};
use crate::runtime::{kueue, sanitise};

/// The label and annotation that Kubernetes puts on the pods of an Indexed Job.
const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// A sidecar that was started again so often and is being held back by the kubelet will not get better: the kubelet's
/// pauses double, so this takes five minutes.
const SIDECAR_RESTARTS: i32 = 5;
/// Room for a message inside a message of 256 characters.
const MESSAGE: usize = 160;

/// A Job of ours; `None` if its attempt label is not a number.
#[must_use]
pub fn job(job: &batch::Job) -> Option<Job> {
    let conditions = job.status.as_ref().and_then(|status| status.conditions.as_ref());
    let failed = conditions.into_iter().flatten().find(|c| c.type_ == "Failed" && c.status == "True");
    Some(Job {
        name: job.name_any(),
        uid: job.uid().unwrap_or_default(),
        attempt: number(job, labels::ATTEMPT)?,
        created: job.metadata.creation_timestamp.as_ref().map(|time| time.0).unwrap_or_default(),
        deleting: job.metadata.deletion_timestamp.is_some(),
        failed: failed.map(|c| sanitise::line(c.message.as_deref().unwrap_or("the Job failed"), MESSAGE)),
        suspended: job
            .spec
            .as_ref()
            .is_some_and(|spec| spec.suspend == Some(true))
            .then(|| "its Job is suspended".to_owned()),
        failed_create: None,
    })
}

/// A pod of ours; `None` if it lacks the numbers that our template and the Job controller give it.
#[must_use]
pub fn pod(pod: &core::Pod) -> Option<Pod> {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    Some(Pod {
        name: pod.name_any(),
        uid: pod.uid().unwrap_or_default(),
        attempt: number(pod, labels::ATTEMPT)?,
        rank: rank(pod)?,
        grace: (pod.metadata.deletion_timestamp.is_some())
            .then(|| pod.metadata.deletion_grace_period_seconds.unwrap_or(0)),
        terminal: matches!(phase, Some("Succeeded" | "Failed")),
        state: state(pod),
    })
}

/// The completion index of a pod.
#[must_use]
pub fn rank(pod: &core::Pod) -> Option<i64> {
    let text = pod.annotations().get(INDEX).or_else(|| pod.labels().get(INDEX))?;
    text.parse().ok()
}

/// A label that holds a number of ours.
#[must_use]
pub fn number(object: &impl ResourceExt, label: &str) -> Option<i64> {
    object.labels().get(label)?.parse().ok()
}

/// The pod's address, once its status has it.
#[must_use]
pub fn address(pod: &core::Pod) -> Option<IpAddr> {
    pod.status.as_ref()?.pod_ip.as_deref()?.parse().ok()
}

/// The trainer's status is looked at before the pod's phase, which changes only when the sidecar has ended, too: how the
/// trainer ended decides, but until the phase is terminal something of the pod runs.
#[must_use]
pub fn state(pod: &core::Pod) -> PodState {
    let Some(status) = &pod.status else { return PodState::Waiting(None) };
    let container = status.container_statuses.iter().flatten().find(|c| c.name == TRAINER);
    let sidecar = status.init_container_statuses.iter().flatten().find(|c| c.name == SIDECAR);
    let state = container.and_then(|c| c.state.as_ref());
    let terminated = state.and_then(|state| state.terminated.as_ref());
    let deleting = pod.metadata.deletion_timestamp.is_some();
    if terminated.is_none() && !deleting && status.phase.as_deref() != Some("Failed") {
        if let Some(end) = sidecar.and_then(crash_loop) {
            return PodState::Ended(end);
        }
        // A DisruptionTarget comes just before the deletion; waiting for that loses nothing.
        if state.is_some_and(|state| state.running.is_some()) {
            return PodState::Running;
        }
        // While the sidecar is not up the trainer's status says only that it waits for that.
        let held = sidecar.and_then(|sidecar| sidecar.state.as_ref()?.waiting.as_ref());
        let waiting = held.or_else(|| state.and_then(|state| state.waiting.as_ref()));
        return PodState::Waiting(obstacle(pod, status, waiting));
    }
    let disruption =
        status.conditions.iter().flatten().find(|c| c.type_ == "DisruptionTarget" && c.status == "True");
    let end = terminated.map(|t| Container {
        exit_code: i64::from(t.exit_code),
        reason: t.reason.as_deref().unwrap_or(""),
        message: t.message.as_deref().unwrap_or(""),
    });
    let disruption_reason = disruption.map(|c| c.reason.as_deref().unwrap_or(""));
    let Some(reason) = classify(disruption_reason, status.reason.as_deref(), deleting, end) else {
        return PodState::Done;
    };
    let said = [
        end.map(|end| end.message),
        disruption.and_then(|c| c.message.as_deref()),
        status.message.as_deref(),
    ];
    let message = said.into_iter().flatten().find(|text| !text.trim().is_empty()).unwrap_or("");
    let exit_code = end.map(|end| end.exit_code);
    PodState::Ended(End { reason, exit_code, message: sanitise::line(message, MESSAGE) })
}

/// The end of a pod whose sidecar dies again and again. Its trainer may go on for long, but nothing of that would ever
/// be durable; another attempt has a new sidecar, and few such attempts without a checkpoint end the unit.
fn crash_loop(sidecar: &core::ContainerStatus) -> Option<End> {
    let waiting = sidecar.state.as_ref()?.waiting.as_ref()?;
    if waiting.reason.as_deref() != Some("CrashLoopBackOff") || sidecar.restart_count <= SIDECAR_RESTARTS {
        return None;
    }
    let last = sidecar.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    let exit_code = last.map(|last| i64::from(last.exit_code));
    let code = exit_code.map_or_else(String::new, |code| format!(", at last with exit code {code}"));
    let message = format!("its sidecar crashed {} times{code}; its log says why", sidecar.restart_count);
    Some(End { reason: Reason::Crashed, exit_code, message: sanitise::line(&message, MESSAGE) })
}

fn obstacle(
    pod: &core::Pod,
    status: &core::PodStatus,
    waiting: Option<&core::ContainerStateWaiting>,
) -> Option<Obstacle> {
    let said = |text: Option<&String>| sanitise::line(text.map_or("", String::as_str), MESSAGE);
    if let Some(waiting) = waiting {
        let reason = waiting.reason.as_deref().unwrap_or("");
        let image =
            pod.spec.as_ref().and_then(|spec| spec.containers.first()?.image.clone()).unwrap_or_default();
        match reason {
            "ErrImagePull"
            | "ImagePullBackOff"
            | "ErrImageNeverPull"
            | "InvalidImageName"
            | "ImageInspectError"
            | "RegistryUnavailable" => {
                let message = format!(
                    "image {image}: {}; load it into the member or make it pullable there",
                    pull_problem(reason, waiting.message.as_deref().unwrap_or(""))
                );
                return Some(Obstacle { reason: "ImagePullFailed", message });
            }
            "CrashLoopBackOff" => {
                let message = "the sidecar crashed and will be started again; its log says why".to_owned();
                return Some(Obstacle { reason: "Unschedulable", message });
            }
            "CreateContainerConfigError" | "CreateContainerError" => {
                return Some(Obstacle { reason: "Unschedulable", message: said(waiting.message.as_ref()) });
            }
            _ => {}
        }
    }
    let scheduled =
        status.conditions.iter().flatten().find(|c| c.type_ == "PodScheduled" && c.status == "False")?;
    Some(Obstacle { reason: "Unschedulable", message: said(scheduled.message.as_ref()) })
}

/// Why a Job cannot make its pods, from its FailedCreate event, without the pod's name, which changes with every try.
#[must_use]
pub fn create_problem(said: &str) -> String {
    refused("pods cannot be made", "ask for less in spec.workers, or lend more", said)
}

/// Why a Job was not made, from what the API server said.
#[must_use]
pub fn job_problem(said: &str) -> String {
    refused("the member has not taken the Job", "lend more", said)
}

fn refused(what: &str, for_quota: &str, said: &str) -> String {
    let why = said.split_once(" is forbidden: ").map_or(said, |(_, why)| why);
    let remedy = if why.starts_with("exceeded quota") {
        format!("{for_quota} (ResourceQuota on the member); ")
    } else {
        String::new()
    };
    sanitise::line(&format!("{what}: {remedy}{why}"), 2 * MESSAGE)
}

/// Of a suspended Job where Kueue's API is not served.
pub const NO_KUEUE: &str = "its Job waits for Kueue, and kueue.x-k8s.io/v1beta2 is not served here: install Kueue, or take \
                            kueue out of the agent's policy";

/// What a suspended Job waits for, by its Workload.
#[must_use]
pub fn queued(workload: Option<&DynamicObject>) -> String {
    let Some(workload) = workload else {
        return "its Job waits in Kueue, which has made no Workload of it yet".to_owned();
    };
    let conditions = kueue::conditions_of(workload);
    let said = match kueue::holds(&conditions, kueue::conditions::EVICTED) {
        Some(evicted) => Some(evicted.message.as_str()),
        None => kueue::waits_for(&conditions),
    };
    let said = said.map_or_else(String::new, |said| format!(": {said}"));
    sanitise::line(&format!("its Job waits in Kueue{said}"), 2 * MESSAGE)
}

/// In a few fixed words: the runtime's own change with every try, and each change would be a write and an event.
fn pull_problem(reason: &str, said: &str) -> &'static str {
    let says = |words: &[&str]| words.iter().any(|word| said.contains(word));
    match reason {
        "InvalidImageName" => "its name is not valid",
        "ErrImageNeverPull" => "not on the node, and pulling is forbidden",
        _ if says(&["not found", "manifest unknown"]) => "its registry does not have it",
        _ if says(&["unauthorized", "denied", "forbidden"]) => "its registry refuses access",
        _ if says(&["no such host", "dial tcp", "timeout", "connection refused", "lookup "]) => {
            "its registry cannot be reached"
        }
        _ => "cannot be pulled",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod_with(status: Value) -> Pod {
        let object = json!({
            "metadata": {
                "name": "u-0-1-2-1-abcde", "uid": "p1",
                "labels": {"muster.dev/attempt": "2"},
                "annotations": {"batch.kubernetes.io/job-completion-index": "1"},
            },
            "spec": {"containers": [{"name": "trainer", "image": "muster-trainer@sha256:00"}]},
            "status": status,
        });
        pod(&serde_json::from_value(object).unwrap()).unwrap()
    }

    fn container(state: Value) -> Value {
        let status = json!({"name": "trainer", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state});
        json!({"phase": "Running", "containerStatuses": [status]})
    }

    #[test]
    fn a_pod_is_read() {
        let running = pod_with(container(json!({"running": {}})));
        assert_eq!((running.attempt, running.rank, &running.state), (2, 1, &PodState::Running));
        assert!(!running.terminal && running.grace.is_none());
        let done = pod_with(container(json!({"terminated": {"exitCode": 0}})));
        assert_eq!(done.state, PodState::Done);
        let words = json!({"terminated": {"exitCode": 65, "reason": "Error", "message": "step 7: \u{1b}[31mloss is NaN\n"}});
        let PodState::Ended(end) = pod_with(container(words)).state else { panic!() };
        assert_eq!((end.reason, end.exit_code), (Reason::NonFinite, Some(65)));
        assert_eq!(end.message, "step 7: [31mloss is NaN");
    }

    /// A pod whose trainer and sidecar are so.
    fn beside(trainer: Value, sidecar: Value, restarts: i32) -> Pod {
        let status = |name: &str, state: Value, restarts: i32| {
            json!({"name": name, "image": "", "imageID": "", "ready": false, "restartCount": restarts, "state": state,
                   "lastState": {"terminated": {"exitCode": 74}}})
        };
        pod_with(json!({
            "phase": "Running",
            "containerStatuses": [status("trainer", trainer, 0)],
            "initContainerStatuses": [status("sidecar", sidecar, restarts)],
        }))
    }

    #[test]
    fn how_the_trainer_ended_decides_while_the_sidecar_still_runs() {
        let running = json!({"running": {}});
        let killed = beside(json!({"terminated": {"exitCode": 137}}), running.clone(), 0);
        let PodState::Ended(end) = &killed.state else { panic!() };
        assert_eq!((end.reason, killed.terminal), (Reason::Killed, false), "ended, and something still runs");
        let done = beside(json!({"terminated": {"exitCode": 0}}), running.clone(), 9);
        assert_eq!((done.state, done.terminal), (PodState::Done, false));
        assert_eq!(
            beside(running.clone(), json!({"terminated": {"exitCode": 1}}), 3).state,
            PodState::Running
        );
    }

    #[test]
    fn a_sidecar_that_does_not_come_up_is_an_obstacle_and_then_an_end() {
        let waits = json!({"waiting": {"reason": "PodInitializing"}});
        let pull = json!({"waiting": {"reason": "ErrImagePull", "message": "not found"}});
        let PodState::Waiting(Some(obstacle)) = beside(waits.clone(), pull, 0).state else { panic!() };
        assert_eq!(obstacle.reason, "ImagePullFailed");
        let create = json!({"waiting": {"reason": "CreateContainerError", "message": "no such file"}});
        let PodState::Waiting(Some(obstacle)) = beside(waits.clone(), create, 0).state else { panic!() };
        assert_eq!((obstacle.reason, obstacle.message.as_str()), ("Unschedulable", "no such file"));
        let backoff = json!({"waiting": {"reason": "CrashLoopBackOff"}});
        let PodState::Waiting(Some(obstacle)) = beside(waits.clone(), backoff.clone(), 2).state else {
            panic!()
        };
        assert!(obstacle.message.contains("sidecar crashed"), "{}", obstacle.message);
        let running = json!({"running": {}});
        assert_eq!(beside(running.clone(), backoff.clone(), 5).state, PodState::Running);
        for trainer in [waits, running.clone()] {
            let PodState::Ended(end) = beside(trainer, backoff.clone(), 6).state else { panic!() };
            assert_eq!((end.reason, end.exit_code), (Reason::Crashed, Some(74)));
            assert!(end.message.contains("crashed 6 times, at last with exit code 74"), "{}", end.message);
        }
        // Many restarts over a long time, and up now: nothing is wrong.
        assert_eq!(beside(running.clone(), running, 50).state, PodState::Running);
    }

    #[test]
    fn an_eviction_without_containers_is_an_end() {
        let evicted = pod_with(json!({"phase": "Failed", "reason": "Evicted", "message": "low on memory"}));
        let PodState::Ended(end) = evicted.state else { panic!() };
        assert_eq!((end.reason, end.message.as_str()), (Reason::Evicted, "low on memory"));
        assert!(evicted.terminal);
    }

    #[test]
    fn what_a_job_cannot_make_is_said_in_stable_words() {
        let quota = "Error creating: pods \"u-0-1-1-abcde\" is forbidden: exceeded quota: muster-lent, requested: pods=1";
        let want = "pods cannot be made: ask for less in spec.workers, or lend more (ResourceQuota on the member); \
                    exceeded quota: muster-lent, requested: pods=1";
        assert_eq!(create_problem(quota), want);
        let security = "Error creating: pods \"u\" is forbidden: violates PodSecurity \"restricted:latest\": seccompProfile";
        assert!(create_problem(security).contains("made: violates PodSecurity"));
        let jobs = "jobs.batch \"u-0-1-1\" is forbidden: exceeded quota: muster-objects, requested: count/jobs.batch=1";
        let want = "the member has not taken the Job: lend more (ResourceQuota on the member); exceeded quota: muster-objects, \
                    requested: count/jobs.batch=1";
        assert_eq!(job_problem(jobs), want);
        let long =
            job_problem(&format!("admission webhook denied the request: \u{1b}[31m{}", "x".repeat(1000)));
        assert!(long.contains("denied the request: [31mx") && long.chars().count() <= 2 * MESSAGE, "{long}");
    }

    #[test]
    fn what_a_suspended_job_waits_for_is_kueues_to_say() {
        use crate::runtime::kueue::testing::workload;
        let said = |conditions: &[(&str, &str, &str)]| queued(Some(&workload(conditions)));
        assert_eq!(said(&[]), "its Job waits in Kueue");
        let short = "couldn't assign flavors to pod set main: \u{1b}[31minsufficient unused quota for cpu";
        let want = "its Job waits in Kueue: couldn't assign flavors to pod set main: [31minsufficient unused quota for cpu";
        assert_eq!(said(&[("QuotaReserved", "False", short)]), want);
        let evicted =
            [("QuotaReserved", "False", short), ("Evicted", "True", "Preempted to accommodate a workload")];
        assert_eq!(said(&evicted), "its Job waits in Kueue: Preempted to accommodate a workload");
        assert!(queued(None).contains("no Workload"));
    }

    #[test]
    fn what_a_pod_waits_for_is_named() {
        let pull = json!({"waiting": {"reason": "ImagePullBackOff", "message": "Back-off: dial tcp: lookup muster.test: no such host"}});
        let PodState::Waiting(Some(obstacle)) = pod_with(container(pull)).state else { panic!() };
        assert_eq!(obstacle.reason, "ImagePullFailed");
        let want = "image muster-trainer@sha256:00: its registry cannot be reached; load it";
        assert!(obstacle.message.starts_with(want), "{}", obstacle.message);
        let creating = json!({"waiting": {"reason": "ContainerCreating"}});
        assert_eq!(pod_with(container(creating)).state, PodState::Waiting(None));
        let unschedulable = json!({"phase": "Pending", "conditions": [
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes: Insufficient cpu"}]});
        let PodState::Waiting(Some(obstacle)) = pod_with(unschedulable).state else { panic!() };
        assert_eq!(
            (obstacle.reason, obstacle.message.as_str()),
            ("Unschedulable", "0/1 nodes: Insufficient cpu")
        );
    }
}
