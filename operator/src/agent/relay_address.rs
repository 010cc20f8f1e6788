//! Where pods find the relay.
use std::time::Duration;

use anyhow::{Context, bail};
use k8s_openapi::api::core::v1::Service;
use kube::{Api, Client};

use super::RelayAddress;
use crate::runtime::Shutdown;
use crate::runtime::client::{ClientError, within};

/// Pause between tries while the member's API does not answer.
const PAUSE: Duration = Duration::from_secs(2);

/// The relay as pods know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayAt {
    /// Without a slash at its end.
    pub url: String,
    /// The name or address in its certificate.
    pub host: String,
}

/// Finds the address, asking the member as long as it takes; `None` if the agent is told to end meanwhile.
///
/// # Errors
/// A flag that cannot be right, or a Service without an address: they would not become right by waiting.
pub async fn find(
    args: &RelayAddress,
    client: &Client,
    namespace: &str,
    shutdown: &Shutdown,
) -> anyhow::Result<Option<RelayAt>> {
    if let Some(url) = &args.relay_url {
        return of_url(url).map(Some);
    }
    let name = args.relay_service.as_deref().context("--relay-service or --relay-url")?;
    let services: Api<Service> = Api::namespaced(client.clone(), namespace);
    loop {
        match within("get service of --relay-service", services.get(name)).await {
            Ok(service) => return of_service(&service, name).map(Some),
            Err(error @ ClientError::Request { .. }) if is_final(&error) => {
                return Err(error).with_context(|| {
                    format!("--relay-service {name}: apply manifests/member in namespace {namespace}")
                });
            }
            Err(error) => tracing::warn!(%error, "cannot ask for the relay's address yet"),
        }
        tokio::select! {
            biased;
            () = shutdown.wait() => return Ok(None),
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}

fn is_final(error: &ClientError) -> bool {
    let ClientError::Request { source, .. } = error else { return false };
    matches!(&**source, kube::Error::Api(status) if [401, 403, 404].contains(&status.code))
}

fn of_url(text: &str) -> anyhow::Result<RelayAt> {
    let url = reqwest::Url::parse(text).context("--relay-url")?;
    let (Some(host), "https") = (url.host_str(), url.scheme()) else {
        bail!("--relay-url {text}: want https://HOST:PORT");
    };
    Ok(RelayAt { url: text.trim_end_matches('/').to_owned(), host: bare(host) })
}

fn of_service(service: &Service, name: &str) -> anyhow::Result<RelayAt> {
    let spec = service.spec.as_ref();
    let address = spec.and_then(|spec| spec.cluster_ip.as_deref()).filter(|ip| *ip != "None");
    let port = spec.and_then(|spec| spec.ports.as_ref()?.first()).map(|port| port.port);
    let (Some(address), Some(port)) = (address.and_then(|ip| ip.parse().ok()), port) else {
        bail!("--relay-service {name}: want a Service with a cluster address and a port, not a headless one");
    };
    let host = match address {
        std::net::IpAddr::V4(ip) => ip.to_string(),
        std::net::IpAddr::V6(ip) => format!("[{ip}]"),
    };
    Ok(RelayAt { url: format!("https://{host}:{port}"), host: bare(&host) })
}

fn bare(host: &str) -> String {
    host.trim_matches(['[', ']']).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_address_is_one_that_stays() {
        let service = |spec| serde_json::from_value(json!({ "spec": spec })).unwrap();
        let at =
            of_service(&service(json!({"clusterIP": "10.96.0.7", "ports": [{"port": 9443}]})), "r").unwrap();
        assert_eq!((at.url.as_str(), at.host.as_str()), ("https://10.96.0.7:9443", "10.96.0.7"));
        let at = of_service(&service(json!({"clusterIP": "fd00::7", "ports": [{"port": 1}]})), "r").unwrap();
        assert_eq!((at.url.as_str(), at.host.as_str()), ("https://[fd00::7]:1", "fd00::7"));
        for bad in [
            json!({}),
            json!({"clusterIP": "None", "ports": [{"port": 1}]}),
            json!({"clusterIP": "10.0.0.1"}),
        ] {
            assert!(of_service(&service(bad), "r").unwrap_err().to_string().contains("--relay-service r"));
        }
        assert_eq!(of_url("https://[::1]:9/").unwrap().host, "::1");
        assert!(of_url("http://10.0.0.1:9443").unwrap_err().to_string().contains("https"));
    }
}
