//! One API server, read and written as JSON.
use std::path::Path;

use anyhow::{Context, Result};
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams,
};
use kube::api::{LogParams, PostParams};
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::Value;

/// A kind of object; plurals are spelled out so that nothing is guessed.
#[derive(Clone, Copy)]
pub struct Kind {
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    pub plural: &'static str,
}

const fn kind(group: &'static str, version: &'static str, kind: &'static str, plural: &'static str) -> Kind {
    Kind { group, version, kind, plural }
}

pub const TRAINING_JOB: Kind = kind("muster.dev", "v1alpha1", "TrainingJob", "trainingjobs");
pub const PROVIDER: Kind = kind("muster.dev", "v1alpha1", "ComputeProvider", "computeproviders");
pub const WORK_UNIT: Kind = kind("muster.dev", "v1alpha1", "WorkUnit", "workunits");
pub const AUDIT: Kind = kind("muster.dev", "v1alpha1", "Audit", "audits");
pub const JOB: Kind = kind("batch", "v1", "Job", "jobs");
pub const POD: Kind = kind("", "v1", "Pod", "pods");
pub const EVENT: Kind = kind("", "v1", "Event", "events");
pub const CONFIG_MAP: Kind = kind("", "v1", "ConfigMap", "configmaps");
pub const SECRET: Kind = kind("", "v1", "Secret", "secrets");
pub const NAMESPACE: Kind = kind("", "v1", "Namespace", "namespaces");
pub const LEASE: Kind = kind("coordination.k8s.io", "v1", "Lease", "leases");
pub const SERVICE: Kind = kind("", "v1", "Service", "services");
pub const ACCESS_REVIEW: Kind =
    kind("authorization.k8s.io", "v1", "SubjectAccessReview", "subjectaccessreviews");

/// What `kubectl get` would print: the server-side table.
pub struct Table {
    pub columns: Vec<String>,
    pub cells: Vec<String>,
}

impl Table {
    /// The cell under a column, matched without regard to case.
    pub fn cell(&self, column: &str) -> Option<&str> {
        let at = self.columns.iter().position(|name| name.eq_ignore_ascii_case(column))?;
        self.cells.get(at).map(String::as_str)
    }
}

#[derive(Clone)]
pub struct Cluster {
    pub name: &'static str,
    pub client: Client,
}

impl Cluster {
    /// Connects with a context of an administrator's kubeconfig.
    pub async fn connect(kubeconfig: &Path, context: &'static str) -> Result<Self> {
        let file = Kubeconfig::read_from(kubeconfig)
            .with_context(|| format!("reading {}: run `make clusters` first", kubeconfig.display()))?;
        let options = KubeConfigOptions { context: Some(context.into()), ..KubeConfigOptions::default() };
        let config = Config::from_custom_kubeconfig(file, &options)
            .await
            .with_context(|| format!("context {context} of {}", kubeconfig.display()))?;
        Ok(Self { name: context, client: Client::try_from(config)? })
    }

    /// Connects with a file's current context, under another name.
    pub async fn connect_current(kubeconfig: &Path, name: &'static str) -> Result<Self> {
        let file = Kubeconfig::read_from(kubeconfig).with_context(|| kubeconfig.display().to_string())?;
        let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
        Ok(Self { name, client: Client::try_from(config)? })
    }

    /// Connects as a ServiceAccount of this cluster, with a token that its administrator asks for.
    pub async fn as_account(
        &self,
        kubeconfig: &Path,
        namespace: &str,
        account: &str,
        name: &'static str,
    ) -> Result<Self> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), namespace);
        let request = TokenRequest::default();
        let answer = accounts.create_token_request(account, &PostParams::default(), &request).await?;
        let token = answer.status.context("the answer has no token")?.token;
        let file = Kubeconfig::read_from(kubeconfig)?;
        let options = KubeConfigOptions { context: Some(self.name.into()), ..KubeConfigOptions::default() };
        let mut config = Config::from_custom_kubeconfig(file, &options).await?;
        config.auth_info = AuthInfo { token: Some(token.into()), ..AuthInfo::default() };
        Ok(Self { name, client: Client::try_from(config)? })
    }

    /// For what the methods here do not do.
    pub fn api(&self, kind: Kind, namespace: Option<&str>) -> Api<DynamicObject> {
        let gvk = GroupVersionKind::gvk(kind.group, kind.version, kind.kind);
        let resource = ApiResource::from_gvk_with_plural(&gvk, kind.plural);
        match namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        }
    }

    pub async fn get(&self, kind: Kind, namespace: Option<&str>, name: &str) -> Result<Option<Value>> {
        let found = self.api(kind, namespace).get_opt(name).await?;
        Ok(found.map(serde_json::to_value).transpose()?)
    }

    pub async fn list(&self, kind: Kind, namespace: Option<&str>, labels: &str) -> Result<Vec<Value>> {
        let list = self.api(kind, namespace).list(&ListParams::default().labels(labels)).await?;
        list.items.into_iter().map(|item| Ok(serde_json::to_value(item)?)).collect()
    }

    /// Creates an object; the caller sees the server's refusal as it is.
    pub async fn create(&self, kind: Kind, namespace: Option<&str>, object: &Value) -> kube::Result<Value> {
        let object: DynamicObject =
            serde_json::from_value(object.clone()).map_err(kube::Error::SerdeError)?;
        let made = self.api(kind, namespace).create(&PostParams::default(), &object).await?;
        serde_json::to_value(made).map_err(kube::Error::SerdeError)
    }

    /// As `create`, but an object that is already there is fine.
    pub async fn ensure(&self, kind: Kind, namespace: Option<&str>, object: &Value) -> Result<()> {
        match self.create(kind, namespace, object).await {
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            other => Ok(other.map(|_| ())?),
        }
    }

    pub async fn patch(
        &self,
        kind: Kind,
        namespace: Option<&str>,
        name: &str,
        patch: &Value,
    ) -> kube::Result<()> {
        let api = self.api(kind, namespace);
        api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.map(|_| ())
    }

    /// Writes an object as it was read, changed; the caller sees the server's refusal as it is.
    pub async fn replace(&self, kind: Kind, namespace: Option<&str>, object: &Value) -> kube::Result<()> {
        let object: DynamicObject =
            serde_json::from_value(object.clone()).map_err(kube::Error::SerdeError)?;
        let name = object.metadata.name.clone().unwrap_or_default();
        self.api(kind, namespace).replace(&name, &PostParams::default(), &object).await.map(|_| ())
    }

    /// Deletes and does not wait. `grace` of 0 removes a pod's object at once, as a lost node would.
    pub async fn delete(
        &self,
        kind: Kind,
        namespace: Option<&str>,
        name: &str,
        grace: Option<u32>,
    ) -> Result<()> {
        let params = DeleteParams { grace_period_seconds: grace, ..DeleteParams::background() };
        match self.api(kind, namespace).delete(name, &params).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            other => Ok(other.map(|_| ())?),
        }
    }

    /// The server's own table for one object: what a person sees in `kubectl get`.
    pub async fn table(&self, kind: Kind, namespace: &str, name: &str) -> Result<Table> {
        let path =
            format!("/apis/{}/{}/namespaces/{namespace}/{}/{name}", kind.group, kind.version, kind.plural);
        let request = http::Request::get(path)
            .header("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
            .body(Vec::new())?;
        let table: Value = self.client.request(request).await?;
        let texts = |list: &Value, field: &str| -> Vec<String> {
            let items = list.as_array().cloned().unwrap_or_default();
            items.iter().map(|item| plain(if field.is_empty() { item } else { &item[field] })).collect()
        };
        Ok(Table {
            columns: texts(&table["columnDefinitions"], "name"),
            cells: texts(&table["rows"][0]["cells"], ""),
        })
    }

    pub async fn logs(&self, namespace: &str, pod: &str, tail: i64) -> Result<String> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let params = LogParams { tail_lines: Some(tail), ..LogParams::default() };
        Ok(pods.logs(pod, &params).await?)
    }
}

/// A JSON scalar as a person would read it.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// The condition of a type, as (status, reason, message).
pub fn condition<'a>(object: &'a Value, name: &str) -> Option<(&'a str, &'a str, &'a str)> {
    let conditions = object["status"]["conditions"].as_array()?;
    let found = conditions.iter().find(|condition| condition["type"] == name)?;
    Some((found["status"].as_str()?, found["reason"].as_str()?, found["message"].as_str().unwrap_or("")))
}

/// All conditions in one line, for messages and dumps.
pub fn conditions(object: &Value) -> String {
    let list = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let texts: Vec<String> = list
        .iter()
        .map(|c| {
            format!(
                "{}={} {} ({})",
                plain(&c["type"]),
                plain(&c["status"]),
                plain(&c["reason"]),
                plain(&c["message"])
            )
        })
        .collect();
    texts.join("; ")
}

pub fn phase(object: &Value) -> &str {
    object["status"]["phase"].as_str().unwrap_or("")
}

pub fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or("")
}
