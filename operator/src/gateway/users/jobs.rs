//! From names to uids, under which the store keeps things: of a TrainingJob its checkpoints, of a namespace its datasets.
use std::future::Future;

use k8s_openapi::api::core::v1 as core;
use kube::{Api, Client};
use muster_api::v1alpha1::TrainingJob;

use crate::gateway::access::Refusal;
use crate::gateway::reviews::unavailable;
use crate::runtime::client::within;
use crate::store::Namespace;

/// TrainingJobs and their namespaces. A trait, so that the routes can be tested without an API server.
pub trait Jobs: Send + Sync + 'static {
    /// The uid of a job, `None` if there is no such job.
    ///
    /// # Errors
    /// 503.
    fn uid(
        &self,
        namespace: &str,
        name: &str,
    ) -> impl Future<Output = Result<Option<String>, Refusal>> + Send;

    /// The namespace of this name, `None` if there is none.
    ///
    /// # Errors
    /// 503.
    fn namespace(&self, name: &str) -> impl Future<Output = Result<Option<Namespace>, Refusal>> + Send;
}

/// The answers of an API server. Needs get on `trainingjobs` in all namespaces, and on `namespaces`.
pub struct KubeJobs {
    client: Client,
}

impl KubeJobs {
    /// Asks through this client.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client }
    }
}

impl Jobs for KubeJobs {
    async fn uid(&self, namespace: &str, name: &str) -> Result<Option<String>, Refusal> {
        let jobs: Api<TrainingJob> = Api::namespaced(self.client.clone(), namespace);
        let found = within("get trainingjob", jobs.get_metadata_opt(name)).await;
        Ok(found.map_err(|error| unavailable(&error))?.and_then(|job| job.metadata.uid))
    }

    async fn namespace(&self, name: &str) -> Result<Option<Namespace>, Refusal> {
        let all: Api<core::Namespace> = Api::all(self.client.clone());
        let found = within("get namespace", all.get_metadata_opt(name)).await;
        let uid = found.map_err(|error| unavailable(&error))?.and_then(|namespace| namespace.metadata.uid);
        let namespace = uid.map(|uid| Namespace::new(name, &uid)).transpose();
        namespace.map_err(|error| {
            tracing::error!(%error, "what the API server says of a namespace");
            Refusal::unavailable("the hub's API server has answered nonsense; try again")
        })
    }
}

/// Whether an object may have this name: nothing else becomes part of a path.
pub fn is_object_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let ends = [name.bytes().next(), name.bytes().last()];
    name.len() <= 253
        && ends.into_iter().all(|end| end.is_some_and(plain))
        && name.bytes().all(|b| plain(b) || b == b'-' || b == b'.')
}
