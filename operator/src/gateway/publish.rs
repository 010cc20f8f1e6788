//! Where the gateway is and whom to believe there: ConfigMap muster-system/muster-gateway-public, from which join tokens and the
//! commands of users take it.
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use muster_api::names::labels;

use super::MANAGER;
use crate::runtime::Shutdown;
use crate::runtime::client::{ClientError, within};
use crate::runtime::persist::until_done;
use crate::wire::gateway::{GATEWAY_PUBLIC, GatewayPublic};

/// Publishes until it worked or shutdown: the API server may come up after us.
pub async fn run(client: Client, public: GatewayPublic, shutdown: Shutdown) {
    let (namespace, name) = GATEWAY_PUBLIC;
    let api: Api<ConfigMap> = Api::namespaced(client, namespace);
    let map = render(&public);
    let attempt = || async {
        let params = PatchParams::apply(MANAGER).force();
        within("apply configmap", api.patch(name, &params, &Patch::Apply(&map))).await?;
        tracing::info!(url = public.url, ca_spki = %public.ca_spki, "published in ConfigMap {namespace}/{name}");
        Ok::<_, ClientError>(())
    };
    until_done("publish where the gateway is", attempt, shutdown).await;
}

fn render(public: &GatewayPublic) -> ConfigMap {
    let (namespace, name) = GATEWAY_PUBLIC;
    let GatewayPublic { url, ca, ca_spki } = public.clone();
    let data = [("url", url), ("ca", ca), ("caSpki", ca_spki.to_string())];
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(name.into()),
            namespace: Some(namespace.into()),
            labels: Some([(labels::MANAGED_BY.to_owned(), MANAGER.to_owned())].into()),
            ..Default::default()
        },
        data: Some(data.map(|(field, value)| (field.to_owned(), value)).into()),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_back_as_what_it_is() {
        let ca_spki = muster_proof::Digest::of(b"ca");
        let public = GatewayPublic { url: "https://h:8443".into(), ca: "PEM".into(), ca_spki };
        let data = serde_json::to_value(render(&public).data).unwrap();
        assert_eq!(serde_json::from_value::<GatewayPublic>(data).unwrap(), public);
    }
}
