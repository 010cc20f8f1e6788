//! One "stop now" that every task of a process can wait for.
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Cheap to clone; all clones see the same stop.
#[derive(Debug, Clone)]
pub struct Shutdown {
    sender: Arc<watch::Sender<bool>>,
    receiver: watch::Receiver<bool>,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self::manual()
    }
}

impl Shutdown {
    /// Stops only by [`Shutdown::trigger`]: for tests and for parts of a process.
    #[must_use]
    pub fn manual() -> Self {
        let (sender, receiver) = watch::channel(false);
        Self { sender: Arc::new(sender), receiver }
    }

    /// Stops at the first SIGTERM or SIGINT. A second one ends the process at once with the shell's exit code: a person
    /// who presses Ctrl-C twice means it.
    ///
    /// # Errors
    /// When the signal handlers cannot be installed.
    pub fn on_signals() -> std::io::Result<Self> {
        let shutdown = Self::manual();
        let (mut terminate, mut interrupt) =
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let trigger = shutdown.clone();
        tokio::spawn(async move {
            for round in 0.. {
                let code = tokio::select! {
                    biased;
                    _ = terminate.recv() => 143,
                    _ = interrupt.recv() => 130,
                };
                if round > 0 {
                    std::process::exit(code);
                }
                tracing::info!("stopping; a second signal stops at once");
                trigger.trigger();
            }
        });
        Ok(shutdown)
    }

    /// A stop of its own for one part of a process: it comes with this one's, or earlier by itself.
    #[must_use]
    pub fn child(&self) -> Self {
        let child = Self::manual();
        let (parent, own) = (self.clone(), child.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = parent.wait() => own.trigger(),
                () = own.wait() => {}
            }
        });
        child
    }

    /// Asks everything to stop. Calling it again changes nothing.
    pub fn trigger(&self) {
        self.sender.send_replace(true);
    }

    /// Whether a stop was asked for.
    #[must_use]
    pub fn is_triggered(&self) -> bool {
        *self.receiver.borrow()
    }

    /// Returns once a stop was asked for. Takes `self` by reference but borrows nothing for long: the future is `'static`
    /// and fits axum's graceful shutdown and kube's `Controller::graceful_shutdown_on`.
    pub fn wait(&self) -> impl Future<Output = ()> + Send + 'static + use<> {
        let mut this = self.clone();
        async move {
            // An error means that all senders are gone, which `this` itself prevents.
            let _ = this.receiver.wait_for(|stop| *stop).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Shutdown;

    #[tokio::test]
    async fn all_clones_see_one_stop() {
        let shutdown = Shutdown::manual();
        let waiting = tokio::spawn(shutdown.clone().wait());
        assert!(!shutdown.is_triggered());
        shutdown.trigger();
        shutdown.trigger();
        waiting.await.unwrap();
        assert!(shutdown.is_triggered());
        shutdown.wait().await; // also when it was long ago
    }

    #[tokio::test]
    async fn a_child_stops_with_its_parent_and_not_the_other_way_round() {
        let parent = Shutdown::manual();
        let (first, second) = (parent.child(), parent.child());
        first.trigger();
        first.wait().await;
        assert!(!parent.is_triggered() && !second.is_triggered());
        parent.trigger();
        second.wait().await;
    }
}
