//! The Lease of the hub that leads, as it is read and written. Every write names the version that was read.
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use muster_api::names::labels;
use muster_core::election::{LEASE, Seen};

use super::NAME;
use crate::hub::error::Error;
use crate::hub::names::MANAGER;
use crate::runtime::client::within;
use crate::runtime::clock;

pub struct Leases(Api<Lease>);

impl Leases {
    pub fn new(client: Client) -> Self {
        Self(Api::namespaced(client, NAME.0))
    }

    pub async fn get(&self) -> Result<Option<Seen>, Error> {
        let found = within("get lease muster-system/muster-hub", self.0.get_opt(NAME.1)).await?;
        Ok(found.map(seen))
    }

    pub async fn create(&self, holder: &str) -> Result<(), Error> {
        let (params, lease) = (PostParams::default(), render(None, holder, 0));
        let made = self.0.create(&params, &lease);
        within("create lease muster-system/muster-hub", made).await.map(drop).map_err(Error::from)
    }

    pub async fn write(&self, version: &str, holder: &str, transitions: i32) -> Result<(), Error> {
        let (params, lease) = (PostParams::default(), render(Some(version), holder, transitions));
        let written = self.0.replace(NAME.1, &params, &lease);
        within("update lease muster-system/muster-hub", written).await.map(drop).map_err(Error::from)
    }
}

fn seen(lease: Lease) -> Seen {
    let spec = lease.spec.unwrap_or_default();
    Seen {
        version: lease.metadata.resource_version.unwrap_or_default(),
        holder: spec.holder_identity.unwrap_or_default(),
        renewed: spec.renew_time.map(|time| time.0.to_string()).unwrap_or_default(),
        seconds: spec.lease_duration_seconds.unwrap_or_default(),
        transitions: spec.lease_transitions.unwrap_or_default(),
    }
}

/// The times are for people; nobody compares them with a clock.
fn render(version: Option<&str>, holder: &str, transitions: i32) -> Lease {
    let seconds = i32::try_from(LEASE.as_secs()).unwrap_or(i32::MAX);
    Lease {
        metadata: ObjectMeta {
            name: Some(NAME.1.to_owned()),
            namespace: Some(NAME.0.to_owned()),
            resource_version: version.map(ToOwned::to_owned),
            labels: Some([(labels::MANAGED_BY.to_owned(), MANAGER.to_owned())].into()),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            // 0 is refused by the API server; an empty holder is what gives it back.
            lease_duration_seconds: Some(seconds),
            lease_transitions: Some(transitions),
            renew_time: Some(MicroTime(clock::now())),
            ..LeaseSpec::default()
        }),
    }
}
