//! The scratch directory that the containers of a pod share: what lies where, and whose it is.
//!
//! ```text
//! /work/
//!   spec.json, data/          the supervisor's: what it fetched
//!   out/                      the worker's job directory; under checkpoints/ only the state that its round starts from
//!   handover/<round>-<step>/  a state on its way from the worker to the sidecar
//!   handover/sidecar.sock     where the sidecar listens for the supervisor
//!   job/checkpoints/          the sidecar's: finished checkpoints, the last few
//!   uploads/                  the sidecar's: checkpoints on their way to the relay
//! ```

use std::path::{Path, PathBuf};

/// See the module.
#[derive(Debug, Clone)]
pub struct Work {
    dir: PathBuf,
}

impl Work {
    /// The layout under `dir`.
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// All of it.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The resolved spec.
    pub fn spec(&self) -> PathBuf {
        self.dir.join("spec.json")
    }

    /// The dataset directory.
    pub fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// The worker's job directory.
    pub fn out(&self) -> PathBuf {
        self.dir.join("out")
    }

    /// The directory of hand-overs.
    pub fn handovers(&self) -> PathBuf {
        self.dir.join("handover")
    }

    /// The hand-over of state `step` by the worker of round `round`.
    pub fn handover(&self, round: u32, step: u64) -> PathBuf {
        handover(&self.handovers(), round, step)
    }

    /// The sidecar's socket.
    pub fn socket(&self) -> PathBuf {
        self.handovers().join("sidecar.sock")
    }

    /// The sidecar's job directory.
    pub fn job(&self) -> PathBuf {
        self.dir.join("job")
    }

    /// Checkpoints on their way to the relay.
    pub fn uploads(&self) -> PathBuf {
        self.dir.join("uploads")
    }
}

/// The hand-over of state `step` by the worker of round `round` under `dir`. Two rounds may pass the same step.
pub fn handover(dir: &Path, round: u32, step: u64) -> PathBuf {
    dir.join(format!("{round}-{step}"))
}
