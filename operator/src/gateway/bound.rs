//! The Secrets that tokens are bound to (section 3): one for each accepted key, empty, and gone with it. Without its Secret a token is
//! dead within the seconds for which the API server remembers it. Only their metadata is ever read.
use std::collections::HashSet;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, ListParams, PostParams, Preconditions};
use kube::{Api, Client, ResourceExt};
use muster_api::names::labels;
use muster_proof::Digest;

use super::access::Refusal;
use super::join::owned_by;
use super::reviews::unavailable;
use super::{Gateway, MANAGER};
use crate::hub::apply::is_code;
use crate::runtime::Shutdown;
use crate::runtime::client::{ClientError, within};
use crate::wire::join_record::{NAMESPACE, bound_secret_name};

/// How often all are looked through without news.
const SWEEP: Duration = Duration::from_secs(60);
/// When the API server did not answer.
const AGAIN: Duration = Duration::from_secs(2);

/// A Secret as it was made or found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bound {
    /// Its name in namespace muster-agents.
    pub name: String,
    /// Its UID: another one of the same name is another.
    pub uid: String,
}

/// The Secret of a key; made if it is not there.
///
/// # Errors
/// 503; 409 `ForeignObject` for a Secret of that name that is not the gateway's.
pub async fn ensure(
    client: &Client,
    provider: &str,
    provider_uid: &str,
    key: &Digest,
) -> Result<Bound, Refusal> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), NAMESPACE);
    let name = bound_secret_name(provider, key);
    let found = within("get secret", secrets.get_metadata_opt(&name));
    let metadata = match found.await.map_err(|error| unavailable(&error))? {
        Some(found) => found.metadata,
        None => {
            let secret = Secret {
                metadata: owned_by(&name, provider, provider_uid),
                type_: Some("Opaque".into()),
                immutable: Some(true),
                ..Default::default()
            };
            let made = within("create secret", secrets.create(&PostParams::default(), &secret)).await;
            // 409: another request of the same agent was quicker; its next try finds the Secret.
            made.map_err(|error| unavailable(&error))?.metadata
        }
    };
    let ours = |name: &str, value: &str| {
        metadata.labels.as_ref().is_some_and(|all| all.get(name).is_some_and(|found| found == value))
    };
    let owned = metadata.owner_references.iter().flatten().any(|owner| owner.uid == provider_uid);
    if !ours(labels::MANAGED_BY, MANAGER) || !ours(labels::PROVIDER, provider) {
        tracing::error!(
            "Secret {NAMESPACE}/{name} exists and is not the gateway's; it is left alone: remove it"
        );
        return Err(Refusal::new(
            axum::http::StatusCode::CONFLICT,
            "ForeignObject",
            format!("Secret {NAMESPACE}/{name} is not the gateway's; the hub's admin must remove it"),
        ));
    }
    let going = metadata.deletion_timestamp.is_some() || !owned;
    // Of a provider that was here before under this name: garbage collection is about to take it.
    match metadata.uid.filter(|_| !going) {
        Some(uid) => Ok(Bound { name, uid }),
        None => Err(Refusal::unavailable("the key's old Secret is being removed; try again")),
    }
}

/// Removes one; a failure is left to the next sweep.
pub async fn remove(client: &Client, secret: &Bound) {
    if let Err(error) = delete(client, secret).await {
        tracing::warn!(%error, "bound Secret not removed, trying again");
    }
}

async fn delete(client: &Client, secret: &Bound) -> Result<(), ClientError> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), NAMESPACE);
    let preconditions = Some(Preconditions { uid: Some(secret.uid.clone()), resource_version: None });
    let params = DeleteParams { preconditions, ..DeleteParams::default() };
    match within(&format!("delete secret {}", secret.name), secrets.delete(&secret.name, &params)).await {
        Ok(_) => Ok(()),
        // Gone, or another one of the same name.
        Err(ClientError::Request { source, .. }) if is_code(&source, &[404, 409]) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Removes the Secrets of keys that are no longer accepted: at once on a change, and once a minute.
pub async fn sweep(gateway: &Gateway, shutdown: Shutdown) {
    loop {
        let again = match sweep_once(gateway, Timestamp::now()).await {
            Ok(()) => SWEEP,
            Err(error) => {
                tracing::warn!(%error, "Secrets of fallen keys are not removed yet, trying again");
                AGAIN
            }
        };
        tokio::select! {
            biased;
            () = shutdown.wait() => return,
            () = gateway.providers.changed.notified() => {}
            () = tokio::time::sleep(again) => {}
        }
    }
}

async fn sweep_once(gateway: &Gateway, now: Timestamp) -> Result<(), ClientError> {
    let secrets: Api<Secret> = Api::namespaced(gateway.client.clone(), NAMESPACE);
    let ours =
        ListParams::default().labels(&format!("{}={MANAGER},{}", labels::MANAGED_BY, labels::PROVIDER));
    let list = within("list secrets", secrets.list_metadata(&ours)).await?;
    // Asked after the list: a Secret is made only for a key that is accepted already, so none in the list is too new.
    let Some(accepted) = gateway.providers.all_accepted(now) else { return Ok(()) };
    let keep: HashSet<String> = accepted.iter().map(|(name, key)| bound_secret_name(name, key)).collect();
    let mut outcome = Ok(());
    for found in list.items {
        let (name, Some(uid)) = (found.name_any(), found.uid()) else { continue };
        if keep.contains(&name) || found.metadata.deletion_timestamp.is_some() {
            continue;
        }
        // One that cannot be deleted must not keep the others alive.
        if let Err(error) = delete(&gateway.client, &Bound { name: name.clone(), uid }).await {
            outcome = Err(error);
            continue;
        }
        gateway.metrics.swept.inc();
        tracing::info!(
            secret = name,
            "removed the Secret of a key that is no longer accepted: its tokens are dead"
        );
    }
    outcome
}
