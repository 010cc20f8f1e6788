//! Requests as an agent makes them: under its own name, for nobody else may write what it says.
use kube::api::{Patch, PatchParams, PostParams};
use kube::core::{NamespaceResourceScope, Request, Resource};
use kube::{Client, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The agent of a provider; all of them share a client, as their requests share a gateway.
#[derive(Clone)]
pub struct Agent {
    client: Client,
    user: String,
    namespace: String,
}

impl Agent {
    /// Of the provider whose namespace this is.
    pub fn new(client: &Client, namespace: &str) -> Self {
        let provider = namespace.trim_start_matches("muster-p-");
        let user = format!("system:serviceaccount:muster-agents:{provider}");
        Self { client: client.clone(), user, namespace: namespace.to_owned() }
    }

    fn requests<K: Resource<DynamicType = (), Scope = NamespaceResourceScope>>(&self) -> Request {
        Request::new(K::url_path(&(), Some(&self.namespace)))
    }

    async fn send<K: DeserializeOwned>(&self, mut request: http::Request<Vec<u8>>) -> kube::Result<K> {
        let user = self.user.parse().map_err(|error| kube::Error::HttpError(http::Error::from(error)))?;
        request.headers_mut().insert("impersonate-user", user);
        self.client.request(request).await
    }

    /// Merges into a status.
    pub async fn say<K>(&self, name: &str, status: &Value) -> kube::Result<()>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned,
    {
        let patch = Patch::Merge(serde_json::json!({ "status": status }));
        let request = self.requests::<K>().patch_subresource("status", name, &PatchParams::default(), &patch);
        self.send::<K>(request.map_err(kube::Error::BuildRequest)?).await.map(drop)
    }

    /// What there is under a name.
    pub async fn get<K>(&self, name: &str) -> kube::Result<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned,
    {
        let request = self.requests::<K>().get(name, &kube::api::GetParams::default());
        self.send(request.map_err(kube::Error::BuildRequest)?).await
    }

    /// Puts an object in the place of the version that it is of.
    pub async fn replace<K>(&self, object: &K) -> kube::Result<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned + Serialize,
    {
        let bytes = serde_json::to_vec(object).map_err(kube::Error::SerdeError)?;
        let request = self.requests::<K>().replace(&object.name_any(), &PostParams::default(), bytes);
        self.send(request.map_err(kube::Error::BuildRequest)?).await
    }
}
