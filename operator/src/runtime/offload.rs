//! Work that would hold up everything else on an async thread.
use tokio::task::JoinError;

/// Does it on a thread for such work. A simulation does it at once: its order of events must not depend on another thread.
///
/// # Errors
/// It has panicked.
pub async fn offload<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, JoinError> {
    #[cfg(test)]
    if muster_testkit::clock::now().is_some() {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await
}
