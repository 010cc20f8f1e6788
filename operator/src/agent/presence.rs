//! What an agent is to its hub, whatever it lends: it has joined, cosigns the log, announces its key, beats, and renews its Lease.
use std::sync::Arc;

use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client};
use muster_api::names::PROVIDER_NAMESPACE_PREFIX;
use tokio::sync::watch;

use super::fence::Fence;
use super::gateway::Gateway;
use super::heartbeat::Pulse;
use super::hub::{self, Contact};
use super::hub_keys::HubKeys;
use super::identity::Identity;
use super::joined::{JoinArgs, holder};
use super::membership::Membership;
use super::provider_key::Announcer;
use super::session::Session;
use super::units::Units;
use super::witness::Witness;
use super::{hub_client, pin};
use crate::log::client::HttpLog;
use crate::runtime::Shutdown;

/// Who we are, and how we reach whom we have joined.
pub struct Presence {
    pub identity: Arc<Identity>,
    pub membership: Membership,
    pub session: Session,
    pub witness: Arc<Witness>,
    /// Ours at the hub.
    pub namespace: String,
    /// The hub's API, through the gateway.
    pub hub: Client,
}

/// What a heartbeat acts on.
pub struct Beats {
    pub fence: Arc<Fence>,
    pub keys: Arc<HubKeys>,
    pub units: Arc<Units>,
    pub contact: Arc<Contact>,
}

impl Presence {
    /// Joins if we have not.
    ///
    /// # Errors
    /// No token, one that the gateway refuses, or a state directory that is not one.
    pub async fn of(join: &JoinArgs, shutdown: &Shutdown) -> anyhow::Result<Self> {
        let (identity, membership) = join.membership(shutdown).await?;
        let gateway = Gateway::new(pin::pinned(&identity, &membership.ca)?, &membership.url);
        let session = Session::new(gateway, identity.clone(), &membership.provider);
        let witness = Arc::new(Witness::open(&join.state, &membership.provider, &membership.log)?);
        let namespace = format!("{PROVIDER_NAMESPACE_PREFIX}{}", membership.provider);
        let hub = hub_client::client(&membership, &identity, &session, &namespace)?;
        Ok(Self { identity, membership, session, witness, namespace, hub })
    }

    /// Begins all of it, once the hub lets us; it ends with `shutdown`. Gives the size of the hub's log, as heartbeats tell it.
    ///
    /// # Errors
    /// No randomness.
    pub fn begin(&self, beats: Beats, shutdown: &Shutdown) -> anyhow::Result<watch::Receiver<u64>> {
        let Beats { fence, keys, units, contact } = beats;
        let log_size = watch::Sender::new(0);
        let heard = log_size.subscribe();
        let log = HttpLog::new(self.session.clone());
        tokio::spawn(self.witness.clone().run(log, log_size.subscribe(), shutdown.clone()));
        let announcer = Announcer {
            session: self.session.clone(),
            identity: self.identity.clone(),
            provider: self.membership.provider.clone(),
            witness: self.witness.clone(),
        };
        tokio::spawn(announcer.run(shutdown.clone()));
        let pulse = Pulse {
            session: self.session.clone(),
            fence,
            keys,
            units,
            contact: contact.clone(),
            reported: Arc::default(),
            log_size,
        };
        tokio::spawn(pulse.run(shutdown.clone()));
        let lease: Api<Lease> = Api::namespaced(self.hub.clone(), &self.namespace);
        tokio::spawn(hub::renew(lease, holder()?, contact, shutdown.clone()));
        Ok(heard)
    }
}
