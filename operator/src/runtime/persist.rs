//! What must be done once, by a process that may start before the server it needs.
use std::fmt::Display;
use std::future::Future;
use std::time::Duration;

use super::Shutdown;
use super::backoff::delay;

/// Tries until it worked or shutdown; `what` says in the log what is tried.
pub async fn until_done<F, E>(what: &str, mut attempt: impl FnMut() -> F, shutdown: Shutdown)
where
    F: Future<Output = Result<(), E>>,
    E: Display,
{
    for failures in 1.. {
        match attempt().await {
            Ok(()) => return,
            Err(error) => tracing::warn!(%error, "cannot {what}, trying again"),
        }
        let wait = delay(Duration::from_secs(1), Duration::from_secs(30), failures, 1000);
        tokio::select! {
            biased;
            () = shutdown.wait() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}
