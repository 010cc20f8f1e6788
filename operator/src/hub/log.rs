//! The way to the log, which the gateway keeps: found and believed by ConfigMap muster-system/muster-gateway-public, entered with
//! the key that the hub signs with (docs/spec/gateway.md section 11).
use futures::future::{BoxFuture, ready};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client};
use muster_proof::key::SigningKey;

use super::error::Error;
use crate::log::client::{Ask, ClientError, Door, HttpLog, Plain};
use crate::runtime::client::within;
use crate::runtime::fence::Fence;
use crate::runtime::tls::{Introduction, introduced_client};
use crate::wire::gateway::{GATEWAY_PUBLIC, GatewayPublic, HubPublic};
use crate::wire::join_record;

/// The gateway says what it is within this time.
const WITHIN: std::time::Duration = std::time::Duration::from_secs(10);

/// A client of the log, as the hub whose key this is, and the log's verifier key if the gateway tells one.
/// Made anew when the key is replaced, or the gateway's address is.
///
/// # Errors
/// The map is not there or says something else, or the key makes no certificate.
pub async fn connect(
    client: &Client,
    key: &SigningKey,
    fence: Option<Fence>,
) -> Result<(HttpLog<Leading>, Option<String>), Error> {
    let (namespace, name) = GATEWAY_PUBLIC;
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let map = within("get configmap muster-gateway-public", maps.get(name)).await?;
    let public: GatewayPublic = join_record::read(&map)
        .map_err(|problem| Error::Log(format!("ConfigMap {namespace}/{name}: {problem}")))?;
    let http = through(&public, key).map_err(Error::Log)?;
    let what = format!("{}/v1/hub", public.url);
    let ask = async { http.get(&what).send().await?.error_for_status()?.json::<HubPublic>().await };
    let hub = tokio::time::timeout(WITHIN, ask).await;
    let hub = hub.map_err(|_| Error::Log(format!("GET {what}: no answer within {} s", WITHIN.as_secs())))?;
    let hub = hub.map_err(|error| Error::Log(format!("GET {what}: {}", error.without_url())))?;
    Ok((HttpLog::new(Leading { door: Plain::new(http, &public.url), fence }), hub.log))
}

/// The gateway's door, behind the fence of the hub that leads.
#[derive(Debug, Clone)]
pub struct Leading {
    door: Plain,
    fence: Option<Fence>,
}

impl Door for Leading {
    fn send(&self, ask: Ask) -> BoxFuture<'_, Result<reqwest::Response, ClientError>> {
        match self.fence.as_ref().map_or(Ok(()), |fence| fence.lets(&ask.method)) {
            Ok(()) => self.door.send(ask),
            Err(not) => Box::pin(ready(Err(ClientError::Unreachable(not.to_string())))),
        }
    }
}

fn through(public: &GatewayPublic, key: &SigningKey) -> Result<reqwest::Client, String> {
    let pem = key.to_pem().map_err(|error| error.to_string())?;
    let who = Introduction::new(&pem, "muster hub").map_err(|error| error.to_string())?;
    introduced_client(&public.ca, &who).map_err(|error| error.to_string())
}
