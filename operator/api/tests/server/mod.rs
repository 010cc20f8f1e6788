//! The few requests that the API server test needs, with strict field validation as kubectl asks for it.

use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams, GetParams, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::Request;
use kube::{Client, Config};
use muster_api::v1alpha1::TrainingJob;
use serde_json::{Value, json};

use crate::support;

/// Where the test writes jobs.
pub const NAMESPACE: &str = "muster-api-test";
/// Where it writes units and reports: the namespace of a provider `api-units` that a hub has never heard of.
const PROVIDER_NAMESPACE: &str = "muster-p-api-units";
/// Whose requests these are. The hub's admission policies, where they are installed, let nobody else write
/// units and the status of units and reports; membership in system:masters makes the test independent of
/// RBAC.
const HUB: &str = "system:serviceaccount:muster-system:muster-hub";
const AGENT: &str = "system:serviceaccount:muster-agents:api-units";

/// A connection to the API server.
pub struct Server {
    client: Client,
}

impl Server {
    /// Connects to the context of the tests in this kubeconfig file.
    pub async fn connect(kubeconfig: &Path) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let context = std::env::var("MUSTER_TEST_CONTEXT").unwrap_or_else(|_| "hub".to_owned());
        let options = KubeConfigOptions { context: Some(context), ..Default::default() };
        let kubeconfig = Kubeconfig::read_from(kubeconfig).unwrap();
        let config = Config::from_custom_kubeconfig(kubeconfig, &options).await.unwrap();
        Self { client: Client::try_from(config).unwrap() }
    }

    /// Installs the definitions, waits until they are served, and makes the namespace.
    pub async fn install(&self) {
        let apply = PatchParams::apply("muster-api-test").force();
        let api: Api<CustomResourceDefinition> = Api::all(self.client.clone());
        for crd in muster_api::crds() {
            let name = crd.metadata.name.clone().unwrap();
            api.patch(&name, &apply, &Patch::Apply(&crd))
                .await
                .unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        for crd in muster_api::crds() {
            self.served(&crd).await;
        }
        let api: Api<Namespace> = Api::all(self.client.clone());
        for (name, labels) in
            [(NAMESPACE, json!({})), (PROVIDER_NAMESPACE, json!({"muster.dev/provider": "api-units"}))]
        {
            let metadata = json!({"name": name, "labels": labels});
            let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata});
            api.patch(name, &apply, &Patch::Apply(&namespace)).await.unwrap();
        }
    }

    async fn served(&self, crd: &CustomResourceDefinition) {
        let path = format!("/apis/{}/v1alpha1/{}", crd.spec.group, crd.spec.names.plural);
        for _ in 0..100 {
            let request = Request::new(path.as_str()).list(&ListParams::default().limit(1)).unwrap();
            if self.client.request::<Value>(request).await.is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("{path} is not served after 10 s");
    }

    /// Creates the object, without its status.
    pub async fn create(&self, object: &Value) -> Result<Value, String> {
        let request = Request::new(path(object)).create(&PostParams::default(), bytes(object)).unwrap();
        self.strict(request, HUB).await
    }

    /// Updates the object.
    pub async fn replace(&self, object: &Value) -> Result<Value, String> {
        self.update(object, None, HUB).await
    }

    /// Writes the object's status.
    pub async fn replace_status(&self, object: &Value) -> Result<Value, String> {
        let agents = matches!(support::kind(object), "WorkUnit" | "ProviderReport");
        self.update(object, Some("status"), if agents { AGENT } else { HUB }).await
    }

    /// Creates the object, or updates it if it `exists`, and writes its status if it has one.
    pub async fn put(&self, object: &Value, exists: bool) -> Result<Value, String> {
        let stored = if exists { self.replace(object).await? } else { self.create(object).await? };
        if object.get("status").is_some() { self.replace_status(object).await } else { Ok(stored) }
    }

    /// Deletes the object. Waits until it is gone, except for providers, which have finalizers and unique
    /// names.
    pub async fn delete(&self, object: &Value) {
        for _ in 0..100 {
            let delete = Request::new(path(object)).delete(name(object), &DeleteParams::default()).unwrap();
            let deleted = self.client.request::<Value>(delete).await;
            if support::kind(object) == "ComputeProvider"
                || deleted.is_err()
                || self.get(object).await.is_err()
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("{} {} does not go away", support::kind(object), name(object));
    }

    /// `kubectl get trainingjobs --field-selector status.phase=Running` works.
    pub async fn list_by_phase(&self) -> Result<(), String> {
        let api: Api<TrainingJob> = Api::namespaced(self.client.clone(), NAMESPACE);
        let selected = api.list(&ListParams::default().fields("status.phase=Running")).await;
        selected.map(drop).map_err(|error| format!("field selector status.phase: {error}"))
    }

    async fn get(&self, object: &Value) -> Result<Value, kube::Error> {
        let get = Request::new(path(object)).get(name(object), &GetParams::default()).unwrap();
        self.client.request(get).await
    }

    /// Replaces the object or a subresource over the newest stored one; again if another writer came between.
    async fn update(&self, object: &Value, subresource: Option<&str>, user: &str) -> Result<Value, String> {
        let mut refusal = String::new();
        for _ in 0..10 {
            let mut object = object.clone();
            object["metadata"] = match self.get(&object).await {
                Ok(stored) => stored["metadata"].clone(),
                Err(error) => return Err(format!("the object is gone: {error}")),
            };
            let (request, parameters) = (Request::new(path(&object)), PostParams::default());
            let request = match subresource {
                None => request.replace(name(&object), &parameters, bytes(&object)),
                Some(part) => request.replace_subresource(part, name(&object), &parameters, bytes(&object)),
            };
            match self.strict(request.unwrap(), user).await {
                Err(error) if error.contains("the object has been modified") => refusal = error,
                outcome => return outcome,
            }
        }
        Err(refusal)
    }

    /// Sends the request as this user, and wants unknown fields to be errors.
    async fn strict(&self, mut request: http::Request<Vec<u8>>, user: &str) -> Result<Value, String> {
        request.headers_mut().insert("impersonate-user", user.parse().unwrap());
        request.headers_mut().insert("impersonate-group", "system:masters".parse().unwrap());
        *request.uri_mut() = format!("{}&fieldValidation=Strict", request.uri()).parse().unwrap();
        self.client.request(request).await.map_err(|error| match error {
            kube::Error::Api(status) => status.message,
            other => panic!("{other}"),
        })
    }
}

fn path(object: &Value) -> String {
    let plural = format!("{}s", support::kind(object).to_lowercase());
    match object["metadata"]["namespace"].as_str() {
        Some(namespace) => format!("/apis/muster.dev/v1alpha1/namespaces/{namespace}/{plural}"),
        None => format!("/apis/muster.dev/v1alpha1/{plural}"),
    }
}

fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap()
}

fn bytes(object: &Value) -> Vec<u8> {
    serde_json::to_vec(object).unwrap()
}

/// How the stored object differs from what Rust makes of the file, defaults included.
pub fn difference_to_rust(object: &Value, stored: &Value) -> Option<String> {
    let rust = support::through_rust(object);
    let mut stored = stored.clone();
    if let Some(cpu) = stored.pointer_mut("/spec/workers/resources/cpu").filter(|cpu| cpu.is_number()) {
        *cpu = cpu.to_string().into();
    }
    let (got, want) = (&rust["spec"], &stored["spec"]);
    if got != want {
        return Some(format!("spec\n    Rust   {got}\n    server {want}"));
    }
    let (got, want) = (&rust["status"], &stored["status"]);
    (object.get("status").is_some() && got != want)
        .then(|| format!("status\n    Rust   {got}\n    server {want}"))
}
