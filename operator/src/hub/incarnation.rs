//! How another process of the hub hears that the database was restored: by the incarnation that the hub publishes.
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client};

use crate::runtime::Shutdown;
use crate::runtime::client::within;
use crate::wire::gateway::HUB_PUBLIC;

/// How often it is asked for.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Triggers `shutdown` when the hub's incarnation has grown since this began: after a restore of the hub's database a watch waits
/// at a resourceVersion of the lost time and sees nothing, so the ConfigMap is asked for and not waited for. Returns at shutdown.
pub async fn end_on_restore(client: Client, shutdown: Shutdown) {
    let (namespace, name) = HUB_PUBLIC;
    let api: Api<ConfigMap> = Api::namespaced(client, namespace);
    let mut first: Option<i64> = None;
    loop {
        tokio::select! {
            biased;
            () = shutdown.wait() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        let Ok(Some(map)) = within("get configmap muster-hub-public", api.get_opt(name)).await else {
            continue;
        };
        let now = map.data.as_ref().and_then(|data| data.get("incarnation")?.parse::<i64>().ok());
        let Some(now) = now else { continue };
        if first.is_some_and(|first| now > first) {
            return shutdown.trigger();
        }
        first.get_or_insert(now);
    }
}
