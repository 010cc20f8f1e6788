//! `muster provider create-token NAME`: the token with which a cluster's agent joins (docs/spec/gateway.md section 2). The
//! hub gets its hash, the person the token, and nobody else either.
use super::{Failure, MANAGER, Outcome, find, not_revoked};
use crate::cli::output::{line, note};
use crate::cli::remote::published;
use crate::runtime::client::{ClientError, Target, within};
use crate::runtime::files::{Access, write_atomic};
use crate::wire::gateway::{GATEWAY_PUBLIC, GatewayPublic};
use crate::wire::join_record::{self, NAMESPACE, TokenRecord, token_name};
use crate::wire::join_token::{JoinToken, SECRET_BYTES};
use clap::Args;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource, ResourceExt};
use muster_api::names::labels;
use muster_api::v1alpha1::ComputeProvider;
use muster_proof::Digest;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// A token is used within minutes of being made, or it lies around.
const LONGEST: SignedDuration = SignedDuration::from_mins(15);
/// The gateway may be starting.
const WAIT: Duration = Duration::from_secs(30);

#[derive(Debug, Args)]
pub(super) struct CreateToken {
    /// Name of the ComputeProvider
    #[arg(value_name = "NAME")]
    name: String,
    /// How long the token is valid, like 90s or 15m; at most 15m
    #[arg(long, value_name = "TIME", default_value = "15m", value_parser = ttl)]
    ttl: SignedDuration,
    /// Accept the key of whoever comes with the token, unseen
    #[arg(long)]
    auto_accept: bool,
    /// Make the ComputeProvider, if there is none
    #[arg(long, requires = "owner")]
    create: bool,
    /// Who stands behind the cluster; with --create
    #[arg(long, value_name = "NAME", requires = "create")]
    owner: Option<String>,
    /// Where the cluster is; with --create
    #[arg(long, value_name = "NAME", requires = "create")]
    region: Option<String>,
    /// Write the token into this file, readable by you alone, instead of printing it
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    target: Target,
}

impl CreateToken {
    pub(super) async fn run(self) -> Outcome {
        let client = self.target.client().await?;
        let provider = self.provider(&client).await?;
        let gateway = gateway(&client).await?;
        let mut secret = [0; SECRET_BYTES];
        getrandom::fill(&mut secret).map_err(|error| Failure::new(format!("no randomness: {error}")))?;
        let token = JoinToken::new(&gateway.url, gateway.ca_spki, &self.name, &secret);
        let record = TokenRecord {
            token_hash: Digest::of(&secret),
            expires: expiry(Timestamp::now(), self.ttl),
            accept: if self.auto_accept { join_record::Accept::Auto } else { join_record::Accept::Manual },
        };
        // The record first: a token that the hub does not know is worth nothing to anybody.
        write(&client, &config_map(&provider, &record)?).await?;
        match &self.out {
            Some(path) => write_atomic(path, format!("{}\n", token.encode()).as_bytes(), Access::Private)?,
            None => line(token.encode())?,
        }
        self.explain(&record);
        Ok(0)
    }

    async fn provider(&self, client: &Client) -> Result<ComputeProvider, Failure> {
        let (api, name) = (Api::<ComputeProvider>::all(client.clone()), &self.name);
        match (find(&api, name).await?, &self.owner) {
            (Some(found), owner) => {
                not_revoked(&found, name)?;
                if let Some(owner) = owner.as_ref().filter(|owner| **owner != found.spec.owner) {
                    let has = &found.spec.owner;
                    return Err(Failure::new(format!(
                        "ComputeProvider {name} is there and its owner is {has}, not {owner}; an owner cannot change"
                    )));
                }
                Ok(found)
            }
            (None, Some(owner)) => {
                let provider = new_provider(name, owner, self.region.as_deref())?;
                let params = PostParams { field_manager: Some(MANAGER.into()), ..PostParams::default() };
                let made = api.create(&params, &provider);
                let made = within(&format!("create computeprovider {name}"), made).await?;
                note(format_args!("computeprovider/{name} created"));
                Ok(made)
            }
            (None, None) => Err(Failure::new(format!(
                "there is no ComputeProvider {name}; make it with --create --owner OWNER, or from a file like \
                 manifests/examples/provider-east.yaml"
            ))),
        }
    }

    fn explain(&self, record: &TokenRecord) {
        let (name, until) = (&self.name, record.expires);
        let file = self.out.as_ref().map_or_else(|| "FILE".into(), |path| path.display().to_string());
        note(format_args!(
            "The token admits one agent to provider {name}, once, until {until}. Hand it over on a safe way; on the member:\n  \
             muster agent run --join-token-file {file} ..."
        ));
        note(match record.accept {
            join_record::Accept::Auto => "Whoever comes with it is accepted unseen.".to_owned(),
            join_record::Accept::Manual => {
                format!("Then compare its key and let it in:\n  muster provider accept {name}")
            }
        });
    }
}

fn ttl(text: &str) -> Result<SignedDuration, String> {
    let time: SignedDuration = text.parse().map_err(|error| format!("{error}; write it like 90s or 15m"))?;
    if time < SignedDuration::from_secs(1) || time > LONGEST {
        return Err("a join token is valid for 1s to 15m".into());
    }
    Ok(time)
}

/// In whole seconds, as people read it.
fn expiry(now: Timestamp, ttl: SignedDuration) -> Timestamp {
    let then = now.checked_add(ttl).unwrap_or(Timestamp::MAX);
    Timestamp::from_second(then.as_second()).unwrap_or(then)
}

fn new_provider(name: &str, owner: &str, region: Option<&str>) -> Result<ComputeProvider, Failure> {
    let mut object = json!({
        "apiVersion": ComputeProvider::api_version(&()), "kind": ComputeProvider::kind(&()),
        "metadata": {"name": name}, "spec": {"owner": owner},
    });
    if let Some(region) = region {
        object["spec"]["region"] = Value::from(region);
    }
    Ok(serde_json::from_value(object)?)
}

/// The record, owned by its provider: it goes with it, and the next provider of that name does not inherit it.
fn config_map(provider: &ComputeProvider, record: &TokenRecord) -> Result<ConfigMap, Failure> {
    let name = provider.name_any();
    Ok(ConfigMap {
        metadata: ObjectMeta {
            name: Some(token_name(&name)),
            namespace: Some(NAMESPACE.into()),
            labels: Some([(labels::PROVIDER.to_owned(), name)].into()),
            owner_references: provider.owner_ref(&()).map(|owner| vec![owner]),
            ..Default::default()
        },
        data: Some(serde_json::from_value(serde_json::to_value(record)?)?),
        ..Default::default()
    })
}

/// Replaces whatever record was there: a newer token makes an older one void.
async fn write(client: &Client, map: &ConfigMap) -> Result<(), ClientError> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
    let (name, params, patch) = (map.name_any(), PatchParams::apply(MANAGER).force(), Patch::Apply(map));
    let request = api.patch(&name, &params, &patch);
    within(&format!("apply configmap {NAMESPACE}/{name}"), request).await?;
    Ok(())
}

/// Where the gateway is and whom to believe there, as it has published it.
async fn gateway(client: &Client) -> Result<GatewayPublic, Failure> {
    let (namespace, name) = GATEWAY_PUBLIC;
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let what = format!("get configmap {namespace}/{name}");
    let begun = Instant::now();
    loop {
        if let Some(map) = within(&what, maps.get_opt(name)).await? {
            return published(&map);
        }
        if begun.elapsed() >= WAIT {
            return Err(Failure::new(format!(
                "ConfigMap {namespace}/{name} is not there after {} s; `muster gateway` publishes it: does it run?",
                WAIT.as_secs()
            )));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_lives_for_minutes() {
        assert_eq!(ttl("15m"), Ok(LONGEST));
        assert_eq!(ttl("90s"), Ok(SignedDuration::from_secs(90)));
        for bad in ["16m", "0s", "-1m", "15", "1d", ""] {
            assert!(ttl(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_record_has_the_hash_and_goes_with_its_provider() {
        let mut provider = new_provider("east", "acme", Some("eu-north")).unwrap();
        assert_eq!(provider.spec.region.as_deref(), Some("eu-north"));
        provider.metadata.uid = Some("u".into());
        let now = "2026-11-22T19:00:00.75Z".parse().unwrap();
        let record = TokenRecord {
            token_hash: Digest::of(&[7; SECRET_BYTES]),
            expires: expiry(now, LONGEST),
            accept: join_record::Accept::Auto,
        };
        let map = config_map(&provider, &record).unwrap();
        insta::assert_yaml_snapshot!(map, @r#"
        apiVersion: v1
        kind: ConfigMap
        data:
          accept: Auto
          expires: "2026-11-22T19:15:00Z"
          tokenHash: "sha256:4bb06f8e4e3a7715d201d573d0aa423762e55dabd61a2c02278fa56cc6d294e0"
        metadata:
          labels:
            muster.dev/provider: east
          name: token-east
          namespace: muster-agents
          ownerReferences:
            - apiVersion: muster.dev/v1alpha1
              kind: ComputeProvider
              name: east
              uid: u
        "#);
        let back: TokenRecord =
            serde_json::from_value(serde_json::to_value(map.data.unwrap()).unwrap()).unwrap();
        assert_eq!(back, record);
    }

    #[test]
    fn what_the_gateway_publishes_is_checked() {
        let map = |url: &str| ConfigMap {
            data: Some(
                [("url", url), ("ca", "PEM"), ("caSpki", &Digest::of(b"ca").to_string())]
                    .map(|(key, value)| (key.to_owned(), value.to_owned()))
                    .into(),
            ),
            ..Default::default()
        };
        assert_eq!(published(&map("https://h:8443")).unwrap().ca_spki, Digest::of(b"ca"));
        assert!(published(&map("http://h:8443")).unwrap_err().to_string().contains("https"));
        let text = published(&ConfigMap::default()).unwrap_err().to_string();
        assert!(text.contains("muster-gateway-public") && text.contains("version"), "{text}");
    }
}
