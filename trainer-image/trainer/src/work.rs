//! The scratch directory that the containers of a pod share: what lies where, and whose it is.
//!
//! ```text
//! /work/
//!   spec.json, data/          the supervisor's: what it fetched
//!   eval-data/                likewise, if the job evaluates
//!   init/                     likewise, if the job begins with the weights of a model
//!   out/                      the worker's job directory; under checkpoints/ only the state that its round starts from
//!   handover/<round>-<step>/  a state on its way from the worker to the sidecar, with the records of its interval
//!   handover/<round>-<step>.failed.json  that this step is not finite, on the same way
//!   handover/sidecar.sock     where the sidecar listens for the supervisor
//!   job/checkpoints/          the sidecar's: finished checkpoints, the last few
//!   uploads/                  the sidecar's: checkpoints on their way to the relay
//!   records/                  the sidecar's: step records and manifests of what is not durable yet
//! ```
//!
//! No state is ever given up. What bounds the disk is that each waits for the next: at most [`WAITING`] hand-overs lie
//! ready, then the worker waits; at most [`WAITING`] checkpoints wait for the relay, then the sidecar takes no more.

use std::path::{Path, PathBuf};

use crate::files::{FileError, Named as _};
use crate::records;

/// States that may wait between worker and sidecar, and checkpoints between sidecar and relay.
pub const WAITING: usize = 4;

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

    /// The directory of the dataset that the job is evaluated on.
    pub fn eval_data(&self) -> PathBuf {
        self.dir.join("eval-data")
    }

    /// The directory of the model whose weights the job begins with.
    pub fn init(&self) -> PathBuf {
        self.dir.join("init")
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

    /// What the worker of round `round` says of its step `step`, which is not finite.
    pub fn failed(&self, round: u32, step: u64) -> PathBuf {
        failed(&self.handovers(), round, step)
    }

    /// The sidecar's socket.
    pub fn socket(&self) -> PathBuf {
        self.handovers().join("sidecar.sock")
    }

    /// The sidecar's job directory.
    pub fn job(&self) -> PathBuf {
        self.dir.join("job")
    }

    /// Records and manifest of the checkpoint of `step`, until it is durable. The trainer can write here too: whoever
    /// reads them checks them.
    pub fn kept(&self, step: u64) -> (PathBuf, PathBuf) {
        let records = records::path(&self.dir, step);
        let manifest = records.with_extension("manifest.json");
        (records, manifest)
    }

    /// Checkpoints on their way to the relay.
    pub fn uploads(&self) -> PathBuf {
        self.dir.join("uploads")
    }
}

/// How many hand-overs lie in `dir`, besides `but`.
///
/// # Errors
/// As the system says; a directory that does not exist has none.
pub fn waiting(dir: &Path, but: &Path) -> Result<usize, FileError> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        other => other.named("list", dir)?,
    };
    let mut count = 0;
    for entry in entries {
        let path = entry.named("list", dir)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let is_one = name
            .split_once('-')
            .is_some_and(|(round, step)| round.parse::<u32>().is_ok() && step.parse::<u64>().is_ok());
        count += usize::from(is_one && path != but);
    }
    Ok(count)
}

/// The hand-over of state `step` by the worker of round `round` under `dir`. Two rounds may pass the same step.
pub fn handover(dir: &Path, round: u32, step: u64) -> PathBuf {
    dir.join(format!("{round}-{step}"))
}

/// What the worker of round `round` says under `dir` of its step `step`, which is not finite. Of this nothing waits.
pub fn failed(dir: &Path, round: u32, step: u64) -> PathBuf {
    dir.join(format!("{round}-{step}{FAILED}"))
}

/// How the names of such files end.
pub const FAILED: &str = ".failed.json";
