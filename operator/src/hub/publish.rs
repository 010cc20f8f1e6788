//! What everyone may know of the hub: ConfigMap muster-system/muster-hub-public, which the gateway serves as `GET /v1/hub`.
//!
//! A rotation is noticed here: the new key set is published first, and the hub signs with the new key only after agents had
//! time to hear of it. An agent that knows the signer of no envelope yet would refuse a unit that is all right.
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Api, Client};
use muster_api::names::labels;
use muster_proof::key::PublicKey;
use tokio::time::Instant;

use super::apply::apply;
use super::error::Error;
use super::names::MANAGER;
use super::signer::Signer;
use super::state::{Keys, State};
use crate::runtime::Shutdown;
use crate::runtime::client::within;
use crate::wire::gateway::{HUB_PUBLIC, HubPublic};

/// How often the state directory is looked at: a rotation is seen after this at the latest.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How often the ConfigMap itself is looked at, should somebody have changed or removed it.
const CHECK_EVERY: Duration = Duration::from_secs(60);
/// From publishing a new key to signing with it: three heartbeats of an agent.
const SPREAD: Duration = Duration::from_secs(15);

/// What was published last, and when the signer of that set may be used.
struct Published {
    public: HubPublic,
    checked: Instant,
    since: Instant,
}

/// Publishes, and again when something changed, until shutdown.
pub async fn run(client: Client, state: Arc<State>, signer: Arc<Signer>, shutdown: Shutdown) {
    let mut last: Option<Published> = None;
    loop {
        match state.keys() {
            Ok(keys) => {
                if let Err(error) = publish(&client, &state, &keys, &mut last).await {
                    tracing::warn!(%error, "cannot publish the hub's public half, trying again");
                }
                let current = signer.identity().key;
                if current.key_id() != keys.signer().key_id()
                    && may_sign(last.as_ref(), &keys, current.public(), Instant::now())
                {
                    signer.replace(keys.signer().clone());
                    tracing::info!(keyid = %keys.signer().key_id(), "signs with the new key from now on");
                }
            }
            // The hub goes on with what it has: that was right when it started.
            Err(error) => tracing::error!(%error, "the hub's keys cannot be read"),
        }
        tokio::select! {
            biased;
            () = shutdown.wait() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

/// Whether agents had time to hear of the newest set; or the key that signs now is no longer believed, and nothing is worse.
fn may_sign(last: Option<&Published>, keys: &Keys, current: &PublicKey, now: Instant) -> bool {
    let known =
        |last: &Published| last.public.keys == keys.chain() && now.duration_since(last.since) >= SPREAD;
    !keys.set().keys().contains(current) || last.is_some_and(known)
}

async fn publish(
    client: &Client,
    state: &State,
    keys: &Keys,
    last: &mut Option<Published>,
) -> Result<(), Error> {
    let public =
        HubPublic { incarnation: state.epochs().incarnation, keys: keys.chain().to_vec(), log: None };
    let now = Instant::now();
    if let Some(last) = &last
        && last.public == public
        && now.duration_since(last.checked) < CHECK_EVERY
    {
        return Ok(());
    }
    let is_new = put(client, HUB_PUBLIC, data(&public)?).await?;
    let same_keys = last.as_ref().filter(|last| last.public.keys == public.keys);
    let since = same_keys.map_or(now, |last| last.since);
    if is_new {
        let (incarnation, serial) = (public.incarnation, keys.set().serial());
        tracing::info!(incarnation, serial, keyid = %keys.signer().key_id(), "published");
    }
    *last = Some(Published { public, checked: now, since });
    Ok(())
}

/// Each field as a JSON text.
fn data(public: &HubPublic) -> Result<BTreeMap<String, String>, Error> {
    let (incarnation, keys) = (public.incarnation.to_string(), serde_json::to_string(&public.keys)?);
    Ok([("incarnation".to_owned(), incarnation), ("keys".to_owned(), keys)].into())
}

/// Makes a ConfigMap hold exactly this. Whether it did not.
async fn put(
    client: &Client,
    (namespace, name): (&str, &str),
    data: BTreeMap<String, String>,
) -> Result<bool, Error> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let found = within(&format!("get configmap {namespace}/{name}"), api.get_opt(name)).await?;
    if found.is_some_and(|found| found.data.as_ref() == Some(&data)) {
        return Ok(false);
    }
    let map = ConfigMap {
        metadata: ObjectMeta {
            name: Some(name.into()),
            namespace: Some(namespace.into()),
            labels: Some([(labels::MANAGED_BY.to_owned(), MANAGER.to_owned())].into()),
            ..Default::default()
        },
        data: Some(data),
        ..Default::default()
    };
    apply(&api, "configmap", name, &map).await?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::state::{Change, rotate};
    use muster_core::hub_keys;

    #[test]
    fn a_reader_gets_the_chain_back() {
        let dir = tempfile::tempdir().unwrap();
        let (_, keys) = State::open(dir.path()).unwrap();
        let public = HubPublic { incarnation: 3, keys: keys.chain().to_vec(), log: None };
        let data = data(&public).unwrap();
        assert_eq!(data["incarnation"], "3");
        let chain: Vec<_> = serde_json::from_str(&data["keys"]).unwrap();
        assert_eq!(hub_keys::trust_first(&chain).unwrap(), *keys.set());
    }

    #[test]
    fn a_new_key_signs_only_after_agents_could_hear_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let (state, old) = State::open(dir.path()).unwrap();
        let published = |keys: &Keys, since| {
            let public = HubPublic { incarnation: 1, keys: keys.chain().to_vec(), log: None };
            Published { public, checked: since, since }
        };
        let start = Instant::now();
        let new = rotate(dir.path(), Change::Add).unwrap();
        assert_eq!(state.keys().unwrap(), new, "a running hub sees it");
        let late = start + SPREAD;
        let may_sign = |last: &Keys, keys: &Keys, now| {
            super::may_sign(Some(&published(last, start)), keys, old.signer().public(), now)
        };
        assert!(!may_sign(&old, &new, late), "not published yet");
        assert!(!may_sign(&new, &new, start + SPREAD / 2));
        assert!(may_sign(&new, &new, late));
        let retired = rotate(dir.path(), Change::Retire).unwrap();
        assert!(may_sign(&old, &retired, start), "the old key's signature is worth nothing any more");
    }
}
