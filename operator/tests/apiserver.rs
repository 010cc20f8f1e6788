//! The admission policies of the chart on a real API server: `MUSTER_TEST_KUBECONFIG` names a kubeconfig whose context
//! `hub` (or `MUSTER_TEST_CONTEXT`) is an administrator's. Without it nothing is tested, and a line says so. The policies
//! call CEL functions that only the API server has, so nothing less will do.
//!
//! Needs the CRDs. Writes the policies of this checkout and namespaces `muster-policy-test` and `muster-p-policy-test`, which
//! go again. A hub may be running: the job is not managed by it, and the unit is the job's, or the hub would remove it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that panics has failed")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, Config, Resource};
use muster::runtime::client::{Target, client_of};
use muster_api::v1alpha1::{TrainingJob, WorkUnit};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

const TENANT: &str = "muster-policy-test";
const PROVIDER: &str = "muster-p-policy-test";
const HUB: &str = "system:serviceaccount:muster-system:muster-hub";
const AGENT: &str = "system:serviceaccount:muster-agents:policy-test";
const GARBAGE_COLLECTOR: &str = "system:serviceaccount:kube-system:generic-garbage-collector";

#[tokio::test]
async fn policies_decide_who_writes_what() {
    let Ok(kubeconfig) = std::env::var("MUSTER_TEST_KUBECONFIG") else {
        println!(
            "SKIP apiserver policies: MUSTER_TEST_KUBECONFIG is not set (make clusters, make clusters-kubeconfig)"
        );
        return;
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let context = std::env::var("MUSTER_TEST_CONTEXT").unwrap_or_else(|_| "hub".into());
    let target = Target { kubeconfig: Some(root.join(kubeconfig)), context: Some(context) };
    let site = Site { config: target.config().await.unwrap() };
    site.install(&root.join("charts/muster/templates/policies")).await;
    let uid = job_is_made(&site).await;
    units(&site, &uid).await;
    finished_job(&site).await;
    for name in [TENANT, PROVIDER] {
        site.all::<Namespace>().delete(name, &DeleteParams::default()).await.unwrap();
    }
}

/// Only the hub writes units, only in a provider's namespace; only that provider's agent writes their status.
async fn units(site: &Site, uid: &str) {
    let unit = unit(uid);
    let at = |user: Option<&str>, namespace: &str| site.within::<WorkUnit>(user, namespace);
    let post = PostParams::default();
    // Policies take a moment to be seen; a dry run leaves nothing if one is not.
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    denied("written by muster hub only", || async { at(None, PROVIDER).create(&dry, &unit).await }).await;
    denied("belongs to no provider", || async { at(Some(HUB), TENANT).create(&dry, &unit).await }).await;
    at(Some(HUB), PROVIDER).create(&post, &unit).await.unwrap();

    let patch = |value: Value| Patch::Merge(value);
    let (name, params) = (&*format!("{}-0-1", &uid[..8]), PatchParams::default());
    let status = patch(json!({"status": {"phase": "Accepted"}}));
    denied("by the agent of that provider only", || async {
        at(None, PROVIDER).patch_status(name, &params, &status).await
    })
    .await;
    at(Some(AGENT), PROVIDER).patch_status(name, &params, &status).await.unwrap();

    let drain = patch(json!({"spec": {"desired": "Drain"}}));
    denied("written by muster hub only", || async {
        at(Some(GARBAGE_COLLECTOR), PROVIDER).patch(name, &params, &drain).await
    })
    .await;
    at(Some(HUB), PROVIDER).patch(name, &params, &drain).await.unwrap();
    let label = patch(json!({"metadata": {"labels": {"policy-test": "metadata"}}}));
    at(Some(GARBAGE_COLLECTOR), PROVIDER).patch(name, &params, &label).await.unwrap();
}

/// No job in a provider's namespace; in a tenant's it is made, and its UID comes back.
async fn job_is_made(site: &Site) -> String {
    let at = |namespace: &str| site.within::<TrainingJob>(None, namespace);
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    denied("belongs to a provider", || async { at(PROVIDER).create(&dry, &job()).await }).await;
    at(TENANT).create(&PostParams::default(), &job()).await.unwrap().metadata.uid.unwrap()
}

/// A finished job is a record.
async fn finished_job(site: &Site) {
    let at = |namespace: &str| site.within::<TrainingJob>(None, namespace);
    let params = PatchParams::default();
    let patch = |value: Value| Patch::Merge(value);
    let suspend = patch(json!({"spec": {"suspend": true}}));
    at(TENANT).patch("policy-test", &params, &suspend).await.unwrap();
    let done = patch(json!({"status": {"phase": "Succeeded"}}));
    at(TENANT).patch_status("policy-test", &params, &done).await.unwrap();
    for change in [
        json!({"suspend": false}),
        json!({"priority": 5}),
        json!({"budget": {"maxMicroCredits": 5}}),
        json!({"workers": {"count": 2}}),
        json!({"placement": {"providers": ["east"]}}),
        json!({"activeDeadlineSeconds": 60}),
    ] {
        let change = patch(json!({"spec": change}));
        let dry = PatchParams { dry_run: true, ..PatchParams::default() };
        denied("only spec.ttlSecondsAfterFinished may change", || async {
            at(TENANT).patch("policy-test", &dry, &change).await
        })
        .await;
    }
    let ttl = patch(json!({"spec": {"ttlSecondsAfterFinished": 60}}));
    at(TENANT).patch("policy-test", &params, &ttl).await.unwrap();
}

/// Asks until the answer is a refusal with these words; a policy that was just written needs a second or two.
async fn denied<T, F>(words: &str, ask: impl Fn() -> F)
where
    F: Future<Output = Result<T, kube::Error>>,
{
    let mut last = String::from("nothing was refused");
    for _ in 0..40 {
        match ask().await {
            Err(error) if error.to_string().contains(words) => return,
            Err(error) => last = error.to_string(),
            Ok(_) => {}
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    panic!("want a refusal with {words:?}, got: {last}");
}

struct Site {
    config: Config,
}

impl Site {
    fn client(&self, user: Option<&str>) -> Client {
        let mut config = self.config.clone();
        config.auth_info.impersonate = user.map(Into::into);
        // Policies look at the name alone; RBAC, which is not the matter here, must let the request through.
        config.auth_info.impersonate_groups = user.map(|_| vec!["system:masters".into()]);
        client_of(config).unwrap()
    }

    fn all<K: Resource<Scope = kube::core::ClusterResourceScope, DynamicType = ()>>(&self) -> Api<K> {
        Api::all(self.client(None))
    }

    fn within<K>(&self, user: Option<&str>, namespace: &str) -> Api<K>
    where
        K: Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client(user), namespace)
    }

    async fn install(&self, dir: &Path) {
        self.earlier_run_is_gone().await;
        for file in policies(dir) {
            let text = std::fs::read_to_string(&file).unwrap();
            let documents: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
            for document in documents {
                match document["kind"].as_str() {
                    Some("ValidatingAdmissionPolicy") => {
                        self.apply::<ValidatingAdmissionPolicy>(document).await;
                    }
                    _ => self.apply::<ValidatingAdmissionPolicyBinding>(document).await,
                }
            }
        }
        self.apply::<Namespace>(
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": TENANT}}),
        )
        .await;
        let labels = json!({"muster.dev/provider": "policy-test"});
        let metadata = json!({"name": PROVIDER, "labels": labels});
        self.apply::<Namespace>(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})).await;
    }

    /// Nothing can be made in a namespace that is being deleted.
    async fn earlier_run_is_gone(&self) {
        let namespaces = self.all::<Namespace>();
        for name in [TENANT, PROVIDER] {
            for _ in 0..120 {
                match namespaces.get_opt(name).await.unwrap() {
                    Some(found) if found.metadata.deletion_timestamp.is_some() => {
                        tokio::time::sleep(Duration::from_millis(500)).await;
                    }
                    _ => break,
                }
            }
        }
    }

    async fn apply<K>(&self, object: Value)
    where
        K: Resource<Scope = kube::core::ClusterResourceScope, DynamicType = ()>
            + DeserializeOwned
            + Clone
            + std::fmt::Debug
            + Serialize,
    {
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let params = PatchParams::apply("muster-policy-test").force();
        self.all::<K>().patch(&name, &params, &Patch::Apply(object)).await.unwrap();
    }
}

fn policies(dir: &Path) -> Vec<PathBuf> {
    let found: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(found.len() >= 4, "{found:?}");
    found
}

fn unit(uid: &str) -> WorkUnit {
    let object = json!({
        "apiVersion": "muster.dev/v1alpha1", "kind": "WorkUnit", "metadata": {"name": format!("{}-0-1", &uid[..8])},
        "spec": {
            "kind": "Train", "jobUID": uid, "island": 0, "epoch": 1, "workers": 1,
            "envelope": {
                "payloadType": "application/vnd.muster.workunit.v1+json", "payload": "e30=",
                "signatures": [{"keyid": "ab".repeat(32), "sig": "AAAA"}]
            },
            "desired": "Run"
        }
    });
    serde_json::from_value(object).unwrap()
}

fn job() -> TrainingJob {
    let object = json!({
        "apiVersion": "muster.dev/v1alpha1", "kind": "TrainingJob", "metadata": {"name": "policy-test"},
        "spec": {
            "model": {"architecture": "gpt2", "layers": 1, "width": 16, "heads": 1, "context": 8, "vocabulary": 256},
            "data": {"dataset": "none"}, "training": {"steps": 20, "batch": 2, "shards": 2}, "workers": {"count": 1},
            "managedBy": "example.com/policy-test"
        }
    });
    serde_json::from_value(object).unwrap()
}
