//! Events to the parent: one JSON object a line on stdout.

use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::protocol::Event;

/// The parent's ear. Shared by the training loop and the saver.
#[derive(Debug, Default)]
pub(super) struct Events {
    broken: AtomicBool,
}

impl Events {
    pub fn new() -> Self {
        Self::default()
    }

    /// Sends an event; whole lines, whichever thread calls. A parent that no longer listens is not an error here: the
    /// end of stdin, which follows, is what stops a worker.
    pub fn send(&self, event: &Event) {
        let Ok(mut line) = serde_json::to_string(event) else { return };
        line.push('\n');
        let mut stdout = std::io::stdout().lock();
        if stdout.write_all(line.as_bytes()).and_then(|()| stdout.flush()).is_err() {
            self.broken.store(true, Ordering::Relaxed);
        }
    }

    /// Whether an event could not be sent.
    pub fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }
}
