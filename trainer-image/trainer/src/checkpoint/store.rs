//! The checkpoints of a job directory: finding the newest whole one, keeping the last few.

use std::fs;
use std::path::{Path, PathBuf};

use muster_numerics::graph::Graph;
use muster_numerics::spec::ModelSpec;
use muster_numerics::state::State;
use muster_proof::Digest;

use super::{Error, MANIFEST_FILE, Manifest, load};
use crate::files::{self, FileError, Named as _};

/// The directory `checkpoints` of a job directory.
#[derive(Debug, Clone)]
pub struct Store {
    dir: PathBuf,
}

/// The outcome of a search.
#[derive(Debug)]
pub struct Found {
    /// The newest whole checkpoint; `None` when there are no checkpoints at all.
    pub newest: Option<(State, Manifest)>,
    /// Newer ones that were passed over, with the reason. To be shown to a person.
    pub skipped: Vec<String>,
}

impl Store {
    /// The checkpoints of the job directory `out`, which need not exist yet.
    pub fn new(out: &Path) -> Self {
        Self { dir: out.join("checkpoints") }
    }

    /// The directory of the checkpoint of state `step`.
    pub fn path(&self, step: u64) -> PathBuf {
        self.dir.join(dir_name(step))
    }

    /// The steps that have a directory, ascending. Nothing is said about their contents.
    ///
    /// # Errors
    /// [`Error::Read`].
    pub fn steps(&self) -> Result<Vec<u64>, Error> {
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.named("list", &self.dir).map_err(Error::Read)?,
        };
        let mut steps = Vec::new();
        for entry in entries {
            let name = entry.named("list", &self.dir).map_err(Error::Read)?.file_name();
            let step = name.to_str().and_then(|name| name.strip_prefix("step-")?.parse().ok());
            // Only the name this store would give: `step-7` is somebody else's.
            steps.extend(step.filter(|step| self.path(*step).file_name() == Some(&name)));
        }
        steps.sort_unstable();
        Ok(steps)
    }

    /// Loads the checkpoint of state `step`.
    ///
    /// # Errors
    /// As [`load`].
    pub fn load(
        &self,
        step: u64,
        model: &ModelSpec,
        graph: &Graph,
        training_digest: Digest,
    ) -> Result<(State, Manifest), Error> {
        let path = self.path(step);
        let (state, manifest) = load(&path, model, graph, Some(training_digest))?;
        if manifest.step() != step {
            let problem = format!("step: is {}, the directory's name says {step}", manifest.step());
            return Err(Error::corrupt(&path.join(MANIFEST_FILE), problem));
        }
        Ok((state, manifest))
    }

    /// Loads the newest whole checkpoint, passing over damaged ones. One of another job ends the search: going on
    /// would bury its checkpoints under those of this job.
    ///
    /// # Errors
    /// [`Error::OtherJob`], [`Error::NoneWhole`], [`Error::Read`] when the directory cannot be listed.
    pub fn newest(&self, model: &ModelSpec, graph: &Graph, training_digest: Digest) -> Result<Found, Error> {
        let steps = self.steps()?;
        let mut skipped = Vec::new();
        for step in steps.iter().rev() {
            match self.load(*step, model, graph, training_digest) {
                Ok(found) => return Ok(Found { newest: Some(found), skipped }),
                Err(error) if error.is_damage() => skipped.push(error.to_string()),
                Err(error) => return Err(error),
            }
        }
        if steps.is_empty() {
            return Ok(Found { newest: None, skipped });
        }
        Err(Error::NoneWhole { path: self.dir.display().to_string(), count: steps.len() })
    }

    /// Removes what a crash left half-written.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn sweep(&self) -> Result<(), Error> {
        files::remove_unfinished(&self.dir).map_err(Error::Write)
    }

    /// Moves a checkpoint directory that cannot be used out of the way of a new one of the same step.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn remove(&self, step: u64) -> Result<(), Error> {
        let path = self.path(step);
        // Renamed first: a directory that is being removed must not look like a checkpoint.
        let doomed = self.dir.join(format!("{}old-step-{step:08}", files::TEMPORARY));
        let removed = (|| {
            if doomed.exists() {
                fs::remove_dir_all(&doomed)?;
            }
            fs::rename(&path, &doomed)?;
            fs::remove_dir_all(&doomed)
        })();
        match removed {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::Write(FileError::new("remove", &path, error)))
            }
            _ => Ok(()),
        }
    }

    /// Keeps the `keep` newest checkpoints (at least one) up to state `newest` and removes the older ones. Newer ones
    /// than `newest` are left alone: they are of a run that was started over from an earlier state.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Write`].
    pub fn keep_last(&self, keep: u32, newest: u64) -> Result<(), Error> {
        let steps: Vec<u64> = self.steps()?.into_iter().filter(|step| *step <= newest).collect();
        let surplus = steps.len().saturating_sub(keep.max(1) as usize);
        steps[..surplus].iter().try_for_each(|step| self.remove(*step))
    }
}

/// The checkpoint directory that `dir` means: itself if it has a manifest, else the newest of the job directory
/// `dir`.
///
/// # Errors
/// [`Error::Missing`] when it is neither.
pub fn resolve_dir(dir: &Path) -> Result<PathBuf, Error> {
    if dir.join(MANIFEST_FILE).exists() {
        return Ok(dir.to_owned());
    }
    let store = Store::new(dir);
    match store.steps()?.last() {
        Some(step) => Ok(store.path(*step)),
        None => Err(Error::Missing(dir.display().to_string())),
    }
}

/// The name of the directory of a state.
pub(super) fn dir_name(step: u64) -> String {
    format!("step-{step:08}")
}
