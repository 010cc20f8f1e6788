//! `muster provider join-file`: what a hub's administrator hands to the owner of a member cluster.
use super::output::note;
use super::run::block_on;
use super::{Failure, Outcome};
use crate::runtime::client::{Target, client_of, within};
use crate::runtime::files::{Access, write_atomic};
use crate::runtime::join::{self, HubExtension, HubPublic, PUBLIC_CONFIG_MAP};
use base64::Engine;
use clap::{Args, Subcommand};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{ConfigMap, ServiceAccount};
use kube::api::PostParams;
use kube::config::Cluster;
use kube::{Api, Client, Config};
use muster_api::v1alpha1::{ComputeProvider, Scheduling};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Namespace of the agents' identities.
const AGENTS: &str = "muster-agents";
/// How long the token is valid: a day of work without a visit of the administrator.
const TOKEN_SECONDS: i64 = 24 * 3600;

#[derive(Debug, Args)]
pub struct ProviderCommand {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make the file with which a provider's agent joins: a token for 24 hours, the hub's address and key
    JoinFile(JoinFile),
}

#[derive(Debug, Args)]
struct JoinFile {
    /// Name of the ComputeProvider
    #[arg(value_name = "PROVIDER")]
    name: String,
    /// File to write, readable by you alone
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// How long to wait for the hub to have made the provider's identity, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    wait: u64,
    #[command(flatten)]
    target: Target,
}

impl ProviderCommand {
    pub fn run(self) -> Outcome {
        let Verb::JoinFile(command) = self.verb;
        block_on(command.run())?
    }
}

impl JoinFile {
    async fn run(self) -> Outcome {
        let config = self.target.config().await?;
        let cluster = cluster_of(&config);
        let client = client_of(config)?;
        check_provider(&client, &self.name).await?;
        let deadline = Instant::now() + Duration::from_secs(self.wait);
        self.wait_for_account(&client, deadline).await?;
        let hub = self.wait_for_hub(&client, deadline).await?;
        let (token, until) = self.token(&client).await?;
        let extension = HubExtension { provider: self.name.clone(), hub };
        let yaml = serde_saphyr::to_string(&join::build(&cluster, &token, &extension))?;
        write_atomic(&self.out, yaml.as_bytes(), Access::Private)?;
        note(format_args!(
            "{}: admits provider {} until {until}. Hand it to the cluster's owner on a safe way; on that cluster:\n  \
             muster agent run --join-file {} ...",
            self.out.display(),
            self.name,
            self.out.display()
        ));
        Ok(0)
    }

    /// The registrar makes the ServiceAccount soon after the provider was created.
    async fn wait_for_account(&self, client: &Client, deadline: Instant) -> Result<(), Failure> {
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), AGENTS);
        let what = format!("get serviceaccount {AGENTS}/{}", self.name);
        while within(&what, accounts.get_opt(&self.name)).await?.is_none() {
            if Instant::now() >= deadline {
                return Err(Failure::new(format!(
                    "ServiceAccount {AGENTS}/{} is not there after {} s; `muster hub` makes it: does it run?",
                    self.name, self.wait
                )));
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        Ok(())
    }

    async fn wait_for_hub(&self, client: &Client, deadline: Instant) -> Result<HubPublic, Failure> {
        let (namespace, name) = PUBLIC_CONFIG_MAP;
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
        let what = format!("get configmap {namespace}/{name}");
        loop {
            if let Some(map) = within(&what, maps.get_opt(name)).await? {
                let data = serde_json::to_value(map.data.unwrap_or_default())?;
                return serde_json::from_value(data).map_err(|e| {
                    Failure::new(format!("ConfigMap {namespace}/{name}: {e}; is the hub of another version?"))
                });
            }
            if Instant::now() >= deadline {
                return Err(Failure::new(format!(
                    "ConfigMap {namespace}/{name} is not there after {} s; `muster hub` publishes it: does it run?",
                    self.wait
                )));
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    async fn token(&self, client: &Client) -> Result<(String, String), Failure> {
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), AGENTS);
        let spec = TokenRequestSpec { expiration_seconds: Some(TOKEN_SECONDS), ..Default::default() };
        let request = TokenRequest { spec, ..Default::default() };
        let what = format!("create a token of serviceaccount {AGENTS}/{}", self.name);
        let post = PostParams::default();
        let answer = within(&what, accounts.create_token_request(&self.name, &post, &request)).await?;
        let status = answer.status.ok_or_else(|| Failure::new(format!("{what}: the answer has no token")))?;
        Ok((status.token, status.expiration_timestamp.0.to_string()))
    }
}

/// A provider that the hub does not know, or never wants again, gets no token.
async fn check_provider(client: &Client, name: &str) -> Result<(), Failure> {
    let providers: Api<ComputeProvider> = Api::all(client.clone());
    let found = within(&format!("get computeprovider {name}"), providers.get_opt(name)).await?;
    let Some(provider) = found else {
        return Err(Failure::new(format!(
            "there is no ComputeProvider {name}; create it first (manifests/examples/provider-east.yaml is one)"
        )));
    };
    if provider.spec.scheduling == Scheduling::Revoked {
        return Err(Failure::new(format!(
            "ComputeProvider {name} is Revoked, which is final; create another"
        )));
    }
    Ok(())
}

/// Where the API server is and whom to believe, as this administrator's own configuration has it.
fn cluster_of(config: &Config) -> Cluster {
    let encode = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
    let pem = config.root_cert.as_ref().map(|chain| {
        let block = |der: &Vec<u8>| {
            let text = encode(der);
            let lines: Vec<_> = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
            format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
        };
        chain.iter().map(block).collect::<String>()
    });
    Cluster {
        server: Some(config.cluster_url.to_string().trim_end_matches('/').into()),
        certificate_authority_data: pem.map(|pem| encode(pem.as_bytes())),
        tls_server_name: config.tls_server_name.clone(),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_admins_ca_goes_along_and_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        let authority = crate::runtime::tls::Authority::open(dir.path(), "test").unwrap();
        let encoded = base64::engine::general_purpose::STANDARD.encode(authority.pem());
        let kubeconfig = format!(
            "clusters: [{{name: c, cluster: {{server: 'https://10.0.0.1:6443', certificate-authority-data: {encoded}}}}}]\n\
             users: [{{name: u, user: {{token: admin}}}}]\ncontexts: [{{name: x, context: {{cluster: c, user: u}}}}]\n\
             current-context: x\n"
        );
        let path = dir.path().join("config");
        std::fs::write(&path, kubeconfig).unwrap();
        let target = Target { kubeconfig: Some(path), context: None };
        let config = block_on(target.config()).unwrap().unwrap();
        let cluster = cluster_of(&config);
        assert_eq!(cluster.server.as_deref(), Some("https://10.0.0.1:6443"));
        let pem = base64::engine::general_purpose::STANDARD
            .decode(cluster.certificate_authority_data.unwrap())
            .unwrap();
        let (pem, own) = (String::from_utf8(pem).unwrap(), authority.pem().replace("\r\n", "\n"));
        assert_eq!(pem.trim(), own.trim());
    }
}
