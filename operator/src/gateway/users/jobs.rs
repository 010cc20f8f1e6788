//! From the name of a TrainingJob to its uid, under which the store keeps its checkpoints.
use std::future::Future;

use kube::{Api, Client};
use muster_api::v1alpha1::TrainingJob;

use crate::gateway::access::Refusal;
use crate::runtime::client::within;

/// TrainingJobs. A trait, so that the routes can be tested without an API server.
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
}

/// The answers of an API server. Needs get on `trainingjobs` in all namespaces.
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
        let found = within("get trainingjob", jobs.get_metadata_opt(name)).await.map_err(|error| {
            tracing::warn!(%error, "cannot ask for a trainingjob");
            Refusal::unavailable("the hub's API server cannot be asked now; try again")
        })?;
        Ok(found.and_then(|job| job.metadata.uid))
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
