//! Whether the hub's own auditor is up: it renews a Lease. Its clock is not asked; what counts is that the mark moves.
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use muster_core::provider::{LeaseWatch, Pulse};
use tokio::time::Instant;

use crate::hub::context::Context;
use crate::hub::error::Error;
use crate::hub::names::SYSTEM_NAMESPACE;
use crate::runtime::client::within;

/// The Lease, in the hub's own namespace.
pub const LEASE: &str = "muster-auditor";
/// One that was not renewed for so long is down.
const RENEWED_WITHIN: Duration = Duration::from_secs(30);

/// What was seen of it.
#[derive(Debug)]
pub struct Replayer {
    start: Instant,
    watch: Option<LeaseWatch>,
}

impl Default for Replayer {
    fn default() -> Self {
        Self { start: Instant::now(), watch: None }
    }
}

impl Replayer {
    /// Whether it is up, by a look at its Lease now.
    ///
    /// # Errors
    /// The API server's.
    pub async fn is_up(&mut self, ctx: &Context) -> Result<bool, Error> {
        let api: Api<Lease> = Api::namespaced(ctx.client.clone(), SYSTEM_NAMESPACE);
        let lease = within("get lease muster-auditor", api.get_opt(LEASE)).await?;
        Ok(self.saw(lease.as_ref(), self.start.elapsed()))
    }

    fn saw(&mut self, lease: Option<&Lease>, now: Duration) -> bool {
        let Some(lease) = lease else {
            self.watch = None;
            return false;
        };
        let renewed = lease.spec.as_ref().and_then(|spec| spec.renew_time.as_ref());
        let mark = renewed.map(|time| format!("{:?}", time.0));
        match &mut self.watch {
            Some(watch) => {
                watch.saw(mark, now);
            }
            None => self.watch = Some(LeaseWatch::new(mark, now)),
        }
        let pulse = self.watch.as_ref().map(|watch| watch.pulse(RENEWED_WITHIN, now).0);
        pulse == Some(Pulse::Fresh)
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::coordination::v1::LeaseSpec;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

    use super::*;

    #[test]
    fn it_is_up_while_its_mark_moves() {
        let lease = |second| {
            let renew_time = Some(MicroTime(jiff::Timestamp::from_second(second).unwrap()));
            Lease { spec: Some(LeaseSpec { renew_time, ..Default::default() }), ..Default::default() }
        };
        let s = Duration::from_secs;
        let mut replayer = Replayer::default();
        assert!(!replayer.saw(None, s(0)));
        assert!(!replayer.saw(Some(&lease(100)), s(2)), "an old Lease says nothing");
        assert!(replayer.saw(Some(&lease(105)), s(4)));
        assert!(replayer.saw(Some(&lease(105)), s(33)));
        assert!(!replayer.saw(Some(&lease(105)), s(34)), "30 s without a renewal");
        assert!(replayer.saw(Some(&lease(99)), s(40)), "a clock that was set back is no silence");
        assert!(!replayer.saw(None, s(41)));
    }
}
