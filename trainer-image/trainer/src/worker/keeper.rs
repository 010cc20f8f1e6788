//! Rank 0's hold on the job directory.

use std::fs::File;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use super::Options;
use super::job::Job;
use super::saver::Target;
use crate::checkpoint::Store;
use crate::failed::FAILED_FILE;
use crate::failure::Failure;
use crate::files::{self, FileError, Named as _};
use crate::protocol::ExitCode;

/// Nobody else writes into the job directory while it lives.
pub(super) struct Keeper {
    _lock: File,
}

impl Keeper {
    /// Takes hold of the directory, and clears away what a run before it has not finished.
    pub fn claim(options: &Options, job: &Job) -> Result<Self, Failure> {
        let out = &options.out;
        files::create_dirs(out).map_err(disk)?;
        let path = out.join(".lock");
        let lock = File::create(&path).named("write", &path).map_err(disk)?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            let message =
                format!("another run is writing to {}; wait for it or choose another --out", out.display());
            return Err(Failure::usage(message));
        }
        Store::new(out).sweep()?;
        files::remove_unfinished(out).map_err(disk)?;
        // Of a run before, which may have been another interval's replay.
        drop(std::fs::remove_file(out.join(FAILED_FILE)));
        write_spec(&out.join("spec.json"), &job.spec_bytes)?;
        Ok(Self { _lock: lock })
    }

    /// Where states go.
    pub fn target(&self, options: &Options, job: &Job) -> Target {
        Target {
            store: Store::new(&options.out),
            out: options.out.clone(),
            model: job.spec.model.clone(),
            graph: job.graph.clone(),
            training_digest: job.training_digest,
            keep_last: options.keep_last,
            handover: options.handover.clone().zip(options.round),
        }
    }
}

/// Puts the job's spec into its directory, or checks that the directory is this job's.
fn write_spec(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    match files::read_at_most(path, bytes.len() as u64) {
        Ok(there) if there == bytes => Ok(()),
        Err(error) if error.is_missing() => files::write_atomic(path, bytes).map_err(disk),
        _ => Err(Failure::new(
            ExitCode::BadCheckpoint,
            format!(
                "{} is the spec of another job; choose another --out directory, or start with the YAML and data that \
                 made it",
                path.display()
            ),
        )),
    }
}

/// What failed is the disk.
pub(super) fn disk(error: FileError) -> Failure {
    Failure::new(ExitCode::Disk, error.to_string())
}
