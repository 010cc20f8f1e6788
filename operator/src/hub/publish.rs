//! What everyone may know of the hub: ConfigMap muster-system/muster-hub-public, from which join files are made.
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Api, Client};
use muster_api::names::labels;

use super::apply::apply;
use super::error::Error;
use super::names::{MANAGER, SYSTEM_NAMESPACE};
use crate::runtime::Shutdown;
use crate::runtime::backoff::delay;
use crate::runtime::join::{HubPublic, PUBLIC_CONFIG_MAP};

/// Publishes until it worked or shutdown: the API server may come up after us.
pub async fn run(client: Client, public: HubPublic, shutdown: Shutdown) {
    for failures in 1.. {
        match publish(&client, &public).await {
            Ok(()) => {
                tracing::info!(blob_url = public.blob_url, keyid = public.keyid, "published");
                return;
            }
            Err(error) => tracing::warn!(%error, "cannot publish the hub's public half, trying again"),
        }
        let wait = delay(Duration::from_secs(1), Duration::from_secs(30), failures, 1000);
        tokio::select! {
            biased;
            () = shutdown.wait() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

async fn publish(client: &Client, public: &HubPublic) -> Result<(), Error> {
    let (namespace, name) = PUBLIC_CONFIG_MAP;
    debug_assert_eq!(namespace, SYSTEM_NAMESPACE);
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    apply(&api, "configmap", name, &render(public)?).await?;
    Ok(())
}

fn render(public: &HubPublic) -> Result<ConfigMap, Error> {
    let (namespace, name) = PUBLIC_CONFIG_MAP;
    Ok(ConfigMap {
        metadata: ObjectMeta {
            name: Some(name.into()),
            namespace: Some(namespace.into()),
            labels: Some([(labels::MANAGED_BY.to_owned(), MANAGER.to_owned())].into()),
            ..Default::default()
        },
        data: Some(serde_json::from_value(serde_json::to_value(public)?)?),
        ..Default::default()
    })
}
