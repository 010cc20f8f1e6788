//! From a verified payload to the one Job of an attempt. Pure and infallible: what a hub can ask for ends here, in a
//! fixed, restricted template (docs/spec/protocol.md section 3). Nothing of the payload becomes a command, a volume,
//! a privilege or a name outside this unit's own.
use std::collections::BTreeMap;

use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{
    Capabilities, Container, EmptyDirVolumeSource, EnvVar, EnvVarSource, ObjectFieldSelector,
    PodSecurityContext, PodSpec, PodTemplateSpec, ProjectedVolumeSource, ResourceRequirements,
    SeccompProfile, SecurityContext, ServiceAccountTokenProjection, Toleration, Volume, VolumeMount,
    VolumeProjection,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::api::ObjectMeta;
use muster_api::names::labels;
use muster_core::envelope::Payload;
use muster_core::quota::thousandths;
use muster_core::sidecar as share;

use crate::runtime::kueue;

/// Value of the label managed-by on everything the agent makes.
pub const MANAGED_BY: &str = "muster-agent";
/// Annotation on Jobs: UID of the WorkUnit they belong to, to tell a unit from another of the same name.
pub const UNIT_UID: &str = "muster.dev/unit-uid";
/// ServiceAccount of the pods; it has no rights.
pub const SERVICE_ACCOUNT: &str = "muster-trainer";
/// PriorityClass of the pods (`manifests/member`): the owner's pods go first.
pub const PRIORITY_CLASS: &str = "muster-lent";
/// Where the pod finds its token (`token`).
pub const TOKEN_DIR: &str = "/var/run/muster";
/// The pod's scratch directory.
pub const WORK_DIR: &str = "/work";
/// Where the sidecar keeps its key.
pub const KEYS_DIR: &str = "/keys";
/// Name of the container that trains.
pub const TRAINER: &str = "trainer";
/// Name of the container that brings checkpoints to the relay.
pub const SIDECAR: &str = "sidecar";
/// The user and group of every worker.
const USER: i64 = 65532;
/// A worker's disk: dataset, and a few checkpoints.
const WORK_SIZE: &str = "16Gi";
/// One key of 240 bytes.
const KEYS_SIZE: &str = "1Mi";

/// What the template takes from the agent's own configuration.
#[derive(Debug, Clone)]
pub struct Site {
    /// Namespace of the pods.
    pub namespace: String,
    /// Audience of the pods' tokens, `muster-agent/<provider>`.
    pub audience: String,
    /// Base URL of the relay.
    pub relay_url: String,
    /// PEM that pods pin for it.
    pub relay_ca: String,
}

/// `<unit>-<attempt>`.
#[must_use]
pub fn job_name(unit: &str, attempt: i64) -> String {
    format!("{unit}-{attempt}")
}

/// The Indexed Job of this attempt; made suspended if it is to wait in a queue of the member's Kueue, which resumes it.
#[must_use]
pub fn job(site: &Site, payload: &Payload, unit_uid: &str, attempt: i64, queue: Option<&str>) -> Job {
    let labels = job_labels(payload, attempt);
    let queued = queue.map(|queue| (kueue::QUEUE_NAME.to_owned(), queue.to_owned()));
    let workers = i32::try_from(payload.workers).unwrap_or(i32::MAX);
    Job {
        metadata: ObjectMeta {
            name: Some(job_name(&payload.name, attempt)),
            namespace: Some(site.namespace.clone()),
            labels: Some(labels.clone().into_iter().chain(queued).collect()),
            annotations: Some(BTreeMap::from([(UNIT_UID.to_owned(), unit_uid.to_owned())])),
            ..ObjectMeta::default()
        },
        spec: Some(JobSpec {
            completion_mode: Some("Indexed".to_owned()),
            completions: Some(workers),
            parallelism: Some(workers),
            // Any pod's end ends the attempt. Failed is set only after all pods are terminal, and no pod is replaced
            // while another may still run.
            backoff_limit: Some(0),
            pod_replacement_policy: Some("Failed".to_owned()),
            suspend: queue.map(|_| true),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta { labels: Some(labels), ..ObjectMeta::default() }),
                spec: Some(pod(site, payload)),
            },
            ..JobSpec::default()
        }),
        status: None,
    }
}

fn job_labels(payload: &Payload, attempt: i64) -> BTreeMap<String, String> {
    BTreeMap::from(
        [
            (labels::JOB_UID, payload.job_uid.clone()),
            (labels::ISLAND, payload.island.to_string()),
            (labels::EPOCH, payload.epoch.to_string()),
            (labels::ATTEMPT, attempt.to_string()),
            (labels::UNIT, payload.name.clone()),
            (labels::MANAGED_BY, MANAGED_BY.to_owned()),
            (labels::COMPONENT, "trainer".to_owned()),
        ]
        .map(|(key, value)| (key.to_owned(), value)),
    )
}

fn pod(site: &Site, payload: &Payload) -> PodSpec {
    PodSpec {
        restart_policy: Some("Never".to_owned()),
        service_account_name: Some(SERVICE_ACCOUNT.to_owned()),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        priority_class_name: Some(PRIORITY_CLASS.to_owned()),
        // For both, one after the other: the trainer stops at a step boundary (12 s at most) and waits for what it has
        // handed over (20 s at most), then the sidecar ends the upload that is under way (8 s at most). A pod of an
        // attempt that is over is given a second only, whatever this says.
        termination_grace_period_seconds: Some(30),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(USER),
            run_as_group: Some(USER),
            fs_group: Some(USER),
            seccomp_profile: Some(SeccompProfile {
                type_: "RuntimeDefault".to_owned(),
                localhost_profile: None,
            }),
            ..PodSecurityContext::default()
        }),
        tolerations: Some(vec![toleration("not-ready"), toleration("unreachable")]),
        init_containers: Some(vec![sidecar(site, payload)]),
        containers: vec![trainer(site, payload)],
        volumes: Some(vec![
            Volume {
                name: "token".to_owned(),
                projected: Some(ProjectedVolumeSource {
                    sources: Some(vec![VolumeProjection {
                        service_account_token: Some(ServiceAccountTokenProjection {
                            audience: Some(site.audience.clone()),
                            expiration_seconds: Some(3600),
                            path: "token".to_owned(),
                        }),
                        ..VolumeProjection::default()
                    }]),
                    ..ProjectedVolumeSource::default()
                }),
                ..Volume::default()
            },
            Volume {
                name: "work".to_owned(),
                empty_dir: Some(EmptyDirVolumeSource {
                    size_limit: Some(Quantity(WORK_SIZE.to_owned())),
                    ..EmptyDirVolumeSource::default()
                }),
                ..Volume::default()
            },
            Volume {
                name: "keys".to_owned(),
                empty_dir: Some(EmptyDirVolumeSource {
                    medium: Some("Memory".to_owned()),
                    size_limit: Some(Quantity(KEYS_SIZE.to_owned())),
                }),
                ..Volume::default()
            },
        ]),
        ..PodSpec::default()
    }
}

fn trainer(site: &Site, payload: &Payload) -> Container {
    let pod_ip = ObjectFieldSelector { field_path: "status.podIP".to_owned(), api_version: None };
    let mut env = relay(site);
    env.push(EnvVar {
        name: "MUSTER_POD_IP".to_owned(),
        value: None,
        value_from: Some(EnvVarSource { field_ref: Some(pod_ip), ..EnvVarSource::default() }),
    });
    env.push(variable("MUSTER_THREADS", threads(&payload.resources.cpu).to_string()));
    Container {
        name: TRAINER.to_owned(),
        args: Some(args(payload)),
        env: Some(env),
        volume_mounts: Some(vec![token_mount(), mount("work", WORK_DIR)]),
        ..container(payload, &payload.resources.cpu, &payload.resources.memory)
    }
}

/// What a unit can say of the command is one number: where a replay ends.
fn args(payload: &Payload) -> Vec<String> {
    let last = payload.audit.map(|audit| ["--last-step".to_owned(), audit.last_step.to_string()]);
    std::iter::once("pod".to_owned()).chain(last.into_iter().flatten()).collect()
}

/// A native sidecar: up before the trainer, told to stop after it has ended, started again if it dies. It alone mounts the
/// volume with its key.
fn sidecar(site: &Site, payload: &Payload) -> Container {
    Container {
        name: SIDECAR.to_owned(),
        restart_policy: Some("Always".to_owned()),
        command: Some(vec!["/usr/bin/muster-sidecar".to_owned()]),
        env: Some(relay(site)),
        volume_mounts: Some(vec![token_mount(), mount("work", WORK_DIR), mount("keys", KEYS_DIR)]),
        ..container(payload, share::CPU, share::MEMORY)
    }
}

/// What both have: the image, no more than their share, no privilege.
fn container(payload: &Payload, cpu: &str, memory: &str) -> Container {
    let resources = BTreeMap::from([
        ("cpu".to_owned(), Quantity(cpu.to_owned())),
        ("memory".to_owned(), Quantity(memory.to_owned())),
    ]);
    let image = payload.image.clone();
    #[cfg(feature = "cheats")]
    let image = super::cheat::image(image);
    Container {
        image: Some(image),
        // The image is named by digest: what is there is what was asked for.
        image_pull_policy: Some("IfNotPresent".to_owned()),
        resources: Some(ResourceRequirements {
            requests: Some(resources.clone()),
            limits: Some(resources),
            claims: None,
        }),
        security_context: Some(SecurityContext {
            run_as_non_root: Some(true),
            read_only_root_filesystem: Some(true),
            allow_privilege_escalation: Some(false),
            privileged: Some(false),
            capabilities: Some(Capabilities { add: None, drop: Some(vec!["ALL".to_owned()]) }),
            seccomp_profile: Some(SeccompProfile {
                type_: "RuntimeDefault".to_owned(),
                localhost_profile: None,
            }),
            ..SecurityContext::default()
        }),
        ..Container::default()
    }
}

fn relay(site: &Site) -> Vec<EnvVar> {
    let env = vec![
        variable("MUSTER_RELAY", site.relay_url.clone()),
        variable("MUSTER_RELAY_CA", site.relay_ca.clone()),
    ];
    #[cfg(feature = "cheats")]
    let env = env.into_iter().chain(super::cheat::environment()).collect();
    env
}

fn variable(name: &str, value: String) -> EnvVar {
    EnvVar { name: name.to_owned(), value: Some(value), value_from: None }
}

fn token_mount() -> VolumeMount {
    VolumeMount { read_only: Some(true), ..mount("token", TOKEN_DIR) }
}

fn mount(name: &str, path: &str) -> VolumeMount {
    VolumeMount { name: name.to_owned(), mount_path: path.to_owned(), ..VolumeMount::default() }
}

/// The default of 300 s would leave a unit waiting for a node that is not coming back.
fn toleration(condition: &str) -> Toleration {
    Toleration {
        key: Some(format!("node.kubernetes.io/{condition}")),
        operator: Some("Exists".to_owned()),
        effect: Some("NoExecute".to_owned()),
        toleration_seconds: Some(10),
        value: None,
    }
}

/// Whole cores, at least one: more threads than cores only take turns. The bits do not depend on it.
fn threads(cpu: &str) -> i64 {
    let millis = thousandths(cpu).unwrap_or(1000);
    i64::try_from((millis + 999) / 1000).unwrap_or(i64::MAX).clamp(1, 256)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::testing::payload;

    fn site() -> Site {
        Site {
            namespace: "muster-lent".to_owned(),
            audience: "muster-agent/east".to_owned(),
            relay_url: "https://10.9.0.2:9443".to_owned(),
            relay_ca: "-----BEGIN CERTIFICATE-----\n".to_owned(),
        }
    }

    /// The whole template, for a person to read and to see change.
    #[test]
    fn the_job_of_an_attempt() {
        let job = job(&site(), &payload(), "0b5c6f0e-7d0d-4d0b-9f33-000000000001", 3, None);
        insta::assert_yaml_snapshot!("job", job);
    }

    /// Only what Kueue goes by is different.
    #[test]
    fn under_kueue_it_is_made_suspended() {
        let made = |queue| job(&site(), &payload(), "0b5c6f0e-7d0d-4d0b-9f33-000000000001", 3, queue);
        let (plain, mut queued) = (made(None), made(Some("lent")));
        let label = queued.metadata.labels.as_mut().unwrap().remove("kueue.x-k8s.io/queue-name");
        let suspend = queued.spec.as_mut().unwrap().suspend.take();
        assert_eq!((label.as_deref(), suspend), (Some("lent"), Some(true)));
        assert_eq!(queued, plain);
    }

    /// The same template but for the end of the replay.
    #[test]
    fn an_audit_runs_in_the_very_same_pod() {
        let (train, audit) = (pod(&site(), &payload()), pod(&site(), &crate::agent::testing::audit()));
        let args = |pod: &PodSpec| pod.containers[0].args.clone().unwrap_or_default();
        assert_eq!(
            (args(&train).join(" "), args(&audit).join(" ")),
            ("pod".into(), "pod --last-step 40".into())
        );
        let mut same = audit;
        same.containers[0].args = train.containers[0].args.clone();
        assert_eq!(same, train);
    }

    #[test]
    fn threads_are_whole_cores() {
        let got = ["1m", "600m", "1000m", "1001m", "2", "2500m", "9999"].map(threads);
        assert_eq!(got, [1, 1, 1, 2, 2, 3, 256]);
    }
}
