//! Until the agent has joined no unit has a task: what an earlier agent has left goes on untouched, but the provider's stop holds.
use std::convert::Infallible;
use std::time::Duration;

use super::member::Member;
use super::policy::Policies;

/// From one look to the next.
const LOOK: Duration = Duration::from_secs(2);

/// Ends what there is if the provider has stopped lending.
pub async fn obey(member: &Member, policies: &Policies) {
    let Some(why) = policies.stopped() else { return };
    match member.end_all().await {
        Ok(0) => {}
        Ok(objects) => tracing::warn!(why, objects, "Jobs and pods of a previous run are ended"),
        Err(error) => tracing::warn!(%error, "cannot end Jobs and pods of a previous run yet"),
    }
}

/// Does so until it is dropped.
pub async fn go_on(member: &Member, policies: &Policies) -> Infallible {
    loop {
        tokio::time::sleep(LOOK).await;
        obey(member, policies).await;
    }
}
