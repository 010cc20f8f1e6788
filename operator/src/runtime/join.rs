//! The join file: a kubeconfig with a provider's token, and one extension that says where the hub's blobs are and whose
//! signature to believe (protocol, section 7).
use kube::config::{
    AuthInfo, Cluster, Context, Kubeconfig, NamedAuthInfo, NamedCluster, NamedContext, NamedExtension,
};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Name of the extension in the kubeconfig.
pub const EXTENSION: &str = "muster.dev/hub";

/// Namespace and name of the ConfigMap in which the hub publishes [`HubPublic`].
pub const PUBLIC_CONFIG_MAP: (&str, &str) = ("muster-system", "muster-hub-public");

/// What every provider may know of the hub; also the data of ConfigMap `muster-system/muster-hub-public`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HubPublic {
    /// Base URL of the blob service.
    #[serde(rename = "blobURL")]
    pub blob_url: String,
    /// PEM of the CA to pin for it.
    #[serde(rename = "blobCA")]
    pub blob_ca: String,
    /// SHA-256 of the signing key's SPKI, 64 hex digits.
    pub keyid: String,
    /// PEM of the key that signs WorkUnits.
    #[serde(rename = "publicKey")]
    pub public_key: String,
}

/// The extension's content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HubExtension {
    /// Name of the ComputeProvider that this file admits.
    pub provider: String,
    /// The hub's own part.
    #[serde(flatten)]
    pub hub: HubPublic,
}

/// Why a file is not a join file.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The file is missing or not a kubeconfig.
    #[error("join file {path}: {source}")]
    Kubeconfig {
        /// The file.
        path: String,
        /// kube's reason.
        #[source]
        source: Box<kube::config::KubeconfigError>,
    },
    /// It is an ordinary kubeconfig.
    #[error(
        "join file {path}: no extension {EXTENSION}; make one with `muster provider join-file` at the hub"
    )]
    NoExtension {
        /// The file.
        path: String,
    },
    /// The extension has another shape.
    #[error(
        "join file {path}: extension {EXTENSION}: {reason}; make a new one with `muster provider join-file`"
    )]
    Extension {
        /// The file.
        path: String,
        /// What serde said.
        reason: String,
    },
}

/// Reads a join file: the kubeconfig as it is, and its extension.
///
/// # Errors
/// See [`JoinError`].
pub fn read(path: &Path) -> Result<(Kubeconfig, HubExtension), JoinError> {
    let name = || path.display().to_string();
    let kubeconfig = Kubeconfig::read_from(path)
        .map_err(|source| JoinError::Kubeconfig { path: name(), source: Box::new(source) })?;
    let found = kubeconfig.extensions.iter().flatten().find(|e| e.name == EXTENSION);
    let value = found.ok_or_else(|| JoinError::NoExtension { path: name() })?.extension.clone();
    let extension = serde_json::from_value(value)
        .map_err(|e| JoinError::Extension { path: name(), reason: e.to_string() })?;
    Ok((kubeconfig, extension))
}

/// Builds a join file for `token` at the API server of `cluster` (server URL and CA are taken over, nothing else: no
/// credentials, no proxy of the admin who makes it).
#[must_use]
pub fn build(cluster: &Cluster, token: &str, extension: &HubExtension) -> Kubeconfig {
    let hub = Cluster {
        server: cluster.server.clone(),
        certificate_authority_data: cluster.certificate_authority_data.clone(),
        tls_server_name: cluster.tls_server_name.clone(),
        ..Default::default()
    };
    let user = AuthInfo { token: Some(token.to_string().into()), ..Default::default() };
    let context = Context {
        cluster: "hub".into(),
        user: Some(extension.provider.clone()),
        namespace: Some(format!("muster-p-{}", extension.provider)),
        ..Default::default()
    };
    Kubeconfig {
        api_version: Some("v1".into()),
        kind: Some("Config".into()),
        clusters: vec![NamedCluster { name: "hub".into(), cluster: Some(hub), other: Default::default() }],
        auth_infos: vec![NamedAuthInfo {
            name: extension.provider.clone(),
            auth_info: Some(user),
            other: Default::default(),
        }],
        contexts: vec![NamedContext {
            name: "hub".into(),
            context: Some(context),
            other: Default::default(),
        }],
        current_context: Some("hub".into()),
        extensions: serde_json::to_value(extension)
            .ok()
            .map(|extension| vec![NamedExtension { name: EXTENSION.into(), extension }]),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> HubExtension {
        HubExtension {
            provider: "east".into(),
            hub: HubPublic {
                blob_url: "https://10.0.0.1:8443".into(),
                blob_ca: "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n".into(),
                keyid: "ab".repeat(32),
                public_key: "-----BEGIN PUBLIC KEY-----\nAA==\n-----END PUBLIC KEY-----\n".into(),
            },
        }
    }

    #[test]
    fn is_read_back_as_written_and_takes_no_credentials_along() {
        let admin = Cluster {
            server: Some("https://10.0.0.1:6443".into()),
            certificate_authority_data: Some("QUJD".into()),
            proxy_url: Some("http://proxy".into()),
            ..Default::default()
        };
        let yaml = serde_saphyr::to_string(&build(&admin, "TOKEN", &sample())).unwrap();
        assert!(!yaml.contains("proxy"), "{yaml}");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("join.yaml");
        std::fs::write(&path, &yaml).unwrap();
        let (kubeconfig, extension) = read(&path).unwrap();
        assert_eq!(extension, sample());
        assert_eq!(kubeconfig.current_context.as_deref(), Some("hub"));
        assert!(yaml.contains("token: TOKEN"), "{yaml}");
    }

    #[test]
    fn an_ordinary_kubeconfig_is_refused_with_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        std::fs::write(&path, "apiVersion: v1\nkind: Config\n").unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("muster provider join-file"));
    }

    #[test]
    fn an_unknown_field_is_named() {
        let mut value = serde_json::to_value(sample()).unwrap();
        value["surprise"] = 1.into();
        let error = serde_json::from_value::<HubExtension>(value).unwrap_err();
        assert!(error.to_string().contains("surprise"), "{error}");
    }
}
