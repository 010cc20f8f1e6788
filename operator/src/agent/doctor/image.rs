//! Whether the member can pull and start the images that its owner allows: by doing it, in one small Job each, under the same
//! restrictions as a worker. Only this shows what registries, pull secrets, Pod Security, quota and admission webhooks do.
use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams, PostParams, PropagationPolicy};
use kube::{Api, Client};
use muster_api::names::labels;
use muster_core::attempt::PodState;
use serde_json::json;

use super::{Check, Verdict};
use crate::agent::observe;
use crate::agent::render::{PRIORITY_CLASS, SERVICE_ACCOUNT};
use crate::runtime::client::within;
use crate::runtime::sanitise;

/// How long an image may take to come and to start.
const PATIENCE: Duration = Duration::from_secs(120);
/// Pause between looks.
const LOOK: Duration = Duration::from_secs(1);
/// Label value of what the doctor makes: the agent leaves it alone.
const DOCTOR: &str = "muster-doctor";

/// One check for each image.
pub(super) async fn examine(client: &Client, namespace: &str, images: &[String]) -> Vec<Check> {
    let mut checks = Vec::new();
    for image in images {
        checks.push(try_out(client, namespace, image).await);
    }
    checks
}

async fn try_out(client: &Client, namespace: &str, image: &str) -> Check {
    let jobs: Api<Job> = Api::namespaced(client.clone(), namespace);
    let made = match job(image) {
        Ok(job) => within("create job", jobs.create(&PostParams::default(), &job)).await,
        Err(error) => return Check::bad("image", Verdict::Unknown, error.to_string(), ""),
    };
    let name = match made {
        Ok(job) => job.metadata.name.unwrap_or_default(),
        Err(error) => return Check::bad("image", Verdict::Failed, error.to_string(), "see the rights above"),
    };
    let check = watch(client, namespace, &name, image).await;
    let background =
        DeleteParams { propagation_policy: Some(PropagationPolicy::Background), ..DeleteParams::default() };
    // If this fails the Job goes by itself, by its ttl.
    let _ = within("delete job", jobs.delete(&name, &background)).await;
    check
}

async fn watch(client: &Client, namespace: &str, job: &str, image: &str) -> Check {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let ours = ListParams::default().labels(&format!("batch.kubernetes.io/job-name={job}"));
    let began = tokio::time::Instant::now();
    let mut waits = "no pod was made: Pod Security, quota or a webhook refuses it".to_owned();
    while began.elapsed() < PATIENCE {
        match within("list pods", pods.list(&ours)).await {
            Ok(list) => {
                if let Some(pod) = list.items.first() {
                    match observe::state(pod) {
                        PodState::Done => {
                            let seconds = began.elapsed().as_secs();
                            return Check::good(
                                "image",
                                format!("{image}: pulled and started within {seconds} s"),
                            );
                        }
                        PodState::Ended(end) => {
                            let code =
                                end.exit_code.map_or(String::new(), |code| format!(" with exit code {code}"));
                            let found = format!("{image}: its pod ended{code}: {}", end.message);
                            return Check::bad("image", Verdict::Failed, found, "is it a trainer's image?");
                        }
                        PodState::Running => waits = "its pod runs and does not end".to_owned(),
                        PodState::Waiting(Some(obstacle)) if obstacle.reason == "ImagePullFailed" => {
                            return Check::bad("image", Verdict::Failed, obstacle.message, "");
                        }
                        PodState::Waiting(Some(obstacle)) => waits = obstacle.message,
                        PodState::Waiting(None) => waits = "its pod is being set up".to_owned(),
                    }
                }
            }
            Err(error) => waits = error.to_string(),
        }
        tokio::time::sleep(LOOK).await;
    }
    let found =
        format!("{image}: not started after {} s: {}", PATIENCE.as_secs(), sanitise::line(&waits, 300));
    let remedy = format!("see `kubectl -n {namespace} get events`");
    Check::bad("image", Verdict::Failed, found, remedy)
}

/// The smallest thing that a trainer's image can do, as a worker would do it.
fn job(image: &str) -> serde_json::Result<Job> {
    let restricted = json!({
        "runAsNonRoot": true, "readOnlyRootFilesystem": true, "allowPrivilegeEscalation": false,
        "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"},
    });
    let little = json!({"cpu": "10m", "memory": "64Mi"});
    let ours = json!({(labels::MANAGED_BY): DOCTOR, (labels::COMPONENT): "doctor"});
    serde_json::from_value(json!({
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": {"generateName": "muster-doctor-", "labels": ours},
        "spec": {
            "backoffLimit": 0, "activeDeadlineSeconds": PATIENCE.as_secs(), "ttlSecondsAfterFinished": 60,
            "template": {
                "metadata": {"labels": ours},
                "spec": {
                    "restartPolicy": "Never", "serviceAccountName": SERVICE_ACCOUNT,
                    "automountServiceAccountToken": false, "enableServiceLinks": false,
                    "priorityClassName": PRIORITY_CLASS,
                    "securityContext": {
                        "runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532,
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                    "containers": [{
                        "name": "trainer", "image": image, "imagePullPolicy": "IfNotPresent", "args": ["isa"],
                        "resources": {"requests": little, "limits": little}, "securityContext": restricted,
                    }],
                },
            },
        },
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::render::{self, Site};
    use crate::agent::testing::payload;

    /// What is tried out must meet what a worker meets, or the answer is worth nothing.
    #[test]
    fn the_pod_is_as_restricted_as_a_worker() {
        let site = Site {
            namespace: "muster-lent".to_owned(),
            audience: String::new(),
            relay_url: String::new(),
            relay_ca: String::new(),
        };
        let pod = |job: Job| job.spec.unwrap().template.spec.unwrap();
        let (worker, ours) =
            (pod(render::job(&site, &payload(), "u", 1, None)), pod(job("i@sha256:0").unwrap()));
        assert_eq!(ours.service_account_name, worker.service_account_name);
        assert_eq!(ours.priority_class_name, worker.priority_class_name);
        let sorted = |context| serde_json::to_value::<Option<_>>(context).unwrap();
        let mut asked = sorted(worker.containers[0].security_context.clone());
        asked.as_object_mut().unwrap().remove("privileged");
        assert_eq!(sorted(ours.containers[0].security_context.clone()), asked);
        assert!(!ours.automount_service_account_token.unwrap());
    }
}
