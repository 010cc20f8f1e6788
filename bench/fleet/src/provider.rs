//! Providers: their keys, their Leases, what they lend.
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::Client;
use kube::api::{Api, PostParams};
use muster::store::Store;
use muster_api::v1alpha1::{ComputeProvider, ProviderReport};
use muster_proof::Digest;
use muster_proof::key::SigningKey;
use muster_proof::records::{Payload as _, ProviderKey};
use muster_proof::tlog::note::{Algorithm, KeyName, NoteKey, VerifierKey};
use serde_json::json;
use tokio::time::Instant;

use crate::agent::Agent;

/// Requests under way at once.
const PARALLEL: usize = 16;
/// The registrar makes what a provider needs; it is asked for so often.
const LOOK: Duration = Duration::from_secs(2);

/// Then it must have its rights.
const WITHIN: Duration = Duration::from_secs(60);

/// How all of them are.
pub struct Fleet {
    pub client: Client,
    pub image: String,
    pub renew: Duration,
}

impl Fleet {
    /// Makes them, and returns once each renews its Lease.
    pub async fn join(&self, count: usize, store: &Path) -> anyhow::Result<()> {
        let identity = key("the fleet")?;
        let connected = muster::hub::log::connect(&self.client, &identity, None).await;
        let (_, log) = connected.context("the hub's log")?;
        let log: VerifierKey = log.context("the gateway tells no log")?.parse().context("the log's key")?;
        let origin = log.name().to_string();
        let store = Arc::new(Store::open(store).await.context("--store")?);
        let join = |number: usize| {
            let (store, origin) = (store.clone(), origin.clone());
            async move {
                let name = name(number);
                self.make(&name, &origin, &store).await.with_context(|| format!("provider {name}"))?;
                self.begin(&name).await.with_context(|| format!("provider {name}"))
            }
        };
        stream::iter(0..count).map(join).buffer_unordered(PARALLEL).try_collect::<()>().await
    }

    /// The object, and its key where the gateway would leave it.
    async fn make(&self, name: &str, origin: &str, store: &Arc<Store>) -> anyhow::Result<()> {
        let (key, owner) = (key(name)?, format!("owner-{name}"));
        let seed = *Digest::of(format!("witness of {name}").as_bytes()).as_bytes();
        let witness = NoteKey::new(KeyName::new(name)?, Algorithm::CosignatureV1, seed);
        let record = ProviderKey {
            hub: origin.parse()?,
            provider: name.parse()?,
            owner: owner.parse()?,
            key: key.public().clone(),
            witness: witness.public().to_string().parse()?,
        };
        let provider = json!({
            "apiVersion": "muster.dev/v1alpha1", "kind": "ComputeProvider", "metadata": {"name": name},
            "spec": {
                "owner": owner, "trustTier": "Standard", "acceptedKeys": [{"fingerprint": key.public().key_id()}],
                "quota": {"units": 4, "workers": 1}, "leaseDurationSeconds": 3 * self.renew.as_secs(),
            },
        });
        let api: Api<ComputeProvider> = Api::all(self.client.clone());
        api.create(&PostParams::default(), &serde_json::from_value(provider)?).await?;
        // As an agent does: the hub drops the key of a provider that it does not know yet.
        let (record, name, store) = (record.sign(&key)?.to_json()?, name.to_owned(), store.clone());
        tokio::spawn(async move {
            while let Err(error) = announced(&store, &name, &record).await {
                eprintln!("{name}: {error:#}");
                tokio::time::sleep(LOOK).await;
            }
        });
        Ok(())
    }

    /// Reports, and renews for as long as the process lives.
    async fn begin(&self, name: &str) -> anyhow::Result<()> {
        let namespace = format!("muster-p-{name}");
        let reports: Api<ProviderReport> = Api::namespaced(self.client.clone(), &namespace);
        while reports.get_metadata_opt("report").await?.is_none() {
            tokio::time::sleep(LOOK).await;
        }
        let agent = Agent::new(&self.client, &namespace);
        let mut lease = None;
        let began = Instant::now();
        // Its rights are made last, and an authorizer hears of them a moment later.
        while let Err(error) = async {
            report(&agent, &self.image, 1).await?;
            renew(&agent, &mut lease).await
        }
        .await
        {
            if began.elapsed() > WITHIN {
                return Err(error.into());
            }
            tokio::time::sleep(LOOK).await;
        }
        let every = self.renew;
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(every).await;
                if let Err(error) = renew(&agent, &mut lease).await {
                    eprintln!("{namespace}: {error}");
                    lease = None;
                }
            }
        });
        Ok(())
    }
}

/// Leaves a key again and again until the hub has logged it.
async fn announced(store: &Store, name: &str, record: &[u8]) -> anyhow::Result<()> {
    while store.provider_keys(name).await?.logged.is_empty() {
        store.leave_key(name, record.to_vec()).await?;
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// What a provider of one worker says of it.
pub async fn report(agent: &Agent, image: &str, idle: u32) -> kube::Result<()> {
    let status = json!({
        "observedAt": Timestamp::now(), "agentVersion": "0", "protocols": ["muster.unit/1"],
        "devices": [{"class": "cpu", "workers": 1, "idle": idle, "inUse": 1 - idle}],
        "accepts": {"images": [image], "arithmetic": ["f32-chain"], "containers": "Never"},
    });
    agent.say::<ProviderReport>("report", &status).await
}

/// At the version that was seen.
async fn renew(agent: &Agent, lease: &mut Option<Lease>) -> kube::Result<()> {
    let mut next: Lease = match lease.take() {
        Some(lease) => lease,
        None => agent.get("agent").await?,
    };
    let spec = next.spec.get_or_insert_default();
    spec.holder_identity = Some("fleet".into());
    spec.renew_time = Some(MicroTime(Timestamp::now()));
    *lease = Some(agent.replace(&next).await?);
    Ok(())
}

fn name(number: usize) -> String {
    format!("p{number:04}")
}

fn key(name: &str) -> anyhow::Result<SigningKey> {
    Ok(SigningKey::generate(*Digest::of(name.as_bytes()).as_bytes())?)
}
