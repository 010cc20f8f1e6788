//! The sign that the hub's auditor is up: Lease muster-system/muster-auditor, which the hub looks at before it counts on it.
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{ObjectMeta, Patch, PatchParams};
use kube::{Api, Client};
use tokio::sync::watch;

use crate::runtime::Shutdown;
use crate::runtime::client::{ClientError, within};

/// Namespace and name of the Lease.
pub const LEASE: (&str, &str) = ("muster-system", "muster-auditor");
/// How often it is renewed.
const EVERY: Duration = Duration::from_secs(5);
/// Who has not renewed it for so long is not up.
pub const SECONDS: i32 = 30;

/// Renews the Lease while the auditor is `well`, until `shutdown`.
pub async fn run(client: Client, well: watch::Receiver<bool>, shutdown: Shutdown) {
    let mut trouble = None;
    loop {
        if *well.borrow() {
            let problem = renew(&client).await.err().map(|error| error.to_string());
            // Said once, not every five seconds.
            if problem != trouble {
                match &problem {
                    Some(error) => tracing::warn!(error, "cannot say that this auditor is up"),
                    None => tracing::info!("the hub can see that this auditor is up"),
                }
            }
            trouble = problem;
        }
        tokio::select! {
            biased;
            () = shutdown.wait() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

async fn renew(client: &Client) -> Result<(), ClientError> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), LEASE.0);
    let params = PatchParams::apply(LEASE.1).force();
    let patch = Patch::Apply(lease(jiff::Timestamp::now()));
    within("patch lease muster-auditor", leases.patch(LEASE.1, &params, &patch)).await.map(drop)
}

fn lease(now: jiff::Timestamp) -> Lease {
    Lease {
        metadata: ObjectMeta { name: Some(LEASE.1.to_owned()), ..ObjectMeta::default() },
        spec: Some(LeaseSpec {
            holder_identity: Some(LEASE.1.to_owned()),
            lease_duration_seconds: Some(SECONDS),
            renew_time: Some(MicroTime(now)),
            ..LeaseSpec::default()
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lease_says_when_and_for_how_long() {
        let value = serde_json::to_value(lease(jiff::Timestamp::UNIX_EPOCH)).unwrap();
        assert_eq!(value["spec"]["leaseDurationSeconds"], 30);
        assert_eq!(value["spec"]["renewTime"], "1970-01-01T00:00:00.000000Z");
        assert_eq!(value["metadata"]["name"], "muster-auditor");
    }
}
