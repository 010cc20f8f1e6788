//! What the sidecar keeps on the disk until a commit is durable, so that it needs no memory: the records and the manifest
//! of each checkpoint, and links to its files until the relay has them.
//!
//! The scratch directory is the trainer's too, so all of it is read as foreign bytes.

use std::fs;
use std::path::{Path, PathBuf};

use muster_proof::Digest;
use muster_proof::evaluation::Evaluation;
use muster_proof::steps::Records;
use muster_trainer::checkpoint::{self, MANIFEST_FILE, MAX_MANIFEST, Manifest};
use muster_trainer::failed::Failed;
use muster_trainer::failure::Failure;
use muster_trainer::files::{self, FileError, Named as _, NewDir};
use muster_trainer::protocol::ExitCode;
use muster_trainer::records;
use muster_trainer::resolved::{MAX_SPEC, training_digest};
use muster_trainer::work::Work;

use crate::queue::Item;
use crate::warn;

/// Name of the file that says up to which step everything is durable.
const DURABLE: &str = "durable";
/// A number has at most 20 digits.
const MAX_DURABLE: u64 = 32;

/// See the module.
#[derive(Debug, Clone)]
pub struct Kept {
    work: Work,
}

impl Kept {
    /// What an earlier process left half-written goes.
    ///
    /// # Errors
    /// A directory that cannot be used.
    pub fn open(work: &Work) -> Result<Self, FileError> {
        let kept = Self { work: work.clone() };
        files::create_dirs(&kept.dir())?;
        files::remove_unfinished(&kept.dir())?;
        files::remove_unfinished(&work.uploads())?;
        Ok(kept)
    }

    /// Keeps records and manifest of a checkpoint that is about to be made. Records that are kept already are the same,
    /// or one of the two runs computed wrongly.
    ///
    /// # Errors
    /// As [`records::put`].
    pub fn put(&self, step: u64, records: &Records, manifest: &[u8]) -> Result<(), Failure> {
        let paths = self.work.kept(step);
        records::put(&paths.0, records)?;
        files::write_atomic(&paths.1, manifest).map_err(disk)
    }

    /// The records of the interval that ends with this step.
    ///
    /// # Errors
    /// [`ExitCode::BadCheckpoint`]: there are none, or not those.
    pub fn records(&self, step: u64) -> Result<Records, Failure> {
        let path = self.work.kept(step).0;
        records::read(&path, step).map_err(|error| bad_records(&path, &error))
    }

    /// Whether the stop rule ends the job, before its last step, with these records, whose last is of the state that `manifest` is
    /// of. The job's spec decides it, which the supervisor has fetched; it is read only for a step that evaluates.
    ///
    /// # Errors
    /// [`ExitCode::BadCheckpoint`]: there is no spec, or another one than the checkpoint's.
    pub fn ends(&self, records: &Records, manifest: &Manifest) -> Result<bool, Failure> {
        let records = records.as_slice();
        if records.last().is_none_or(|last| last.eval_loss.is_none()) {
            return Ok(false);
        }
        let path = self.work.spec();
        let bad = |problem: &dyn std::fmt::Display| {
            let message = format!("{}: {problem}; a new attempt fetches it again", path.display());
            Failure::new(ExitCode::BadCheckpoint, message)
        };
        let spec = files::read_plain(&path, MAX_SPEC).map_err(|error| bad(&error))?;
        if training_digest(&spec) != manifest.training_digest() {
            return Err(bad(&"is not the spec of the checkpoint's job"));
        }
        let evaluation = Evaluation::of_spec(&spec).map_err(|error| bad(&error))?;
        Ok(evaluation.ends(records))
    }

    /// The manifest of the checkpoint of this step, and its digest; `None` if none is kept.
    pub fn manifest(&self, step: u64) -> Option<(Manifest, Digest)> {
        let bytes = files::read_plain(&self.work.kept(step).1, MAX_MANIFEST).ok()?;
        let manifest = Manifest::parse(&bytes).ok().filter(|manifest| manifest.step() == step)?;
        Some((manifest, Digest::of(&bytes)))
    }

    /// Gives the files of the checkpoint in `from` a second name each, until [`Kept::uploaded`]. Whether they are there
    /// already, or `from` is gone, is no error: the relay may have them all.
    ///
    /// # Errors
    /// They could not be linked.
    pub fn link(&self, step: u64, manifest: &Digest, from: &Path) -> Result<(), FileError> {
        let to = self.links(step);
        let of = |dir: &Path| checkpoint::read_manifest(dir).ok().filter(|(_, there)| there == manifest);
        if of(&to).is_some() {
            return Ok(());
        }
        let Some((there, _)) = of(from) else { return Ok(()) };
        remove(&to)?;
        let new = NewDir::create(&to)?;
        for name in there.files().iter().map(|file| file.path.as_str()).chain([MANIFEST_FILE]) {
            fs::hard_link(from.join(name), new.path().join(name)).named("link", &from.join(name))?;
        }
        new.commit()
    }

    /// Where a file of a checkpoint on its way to the relay is.
    pub fn file(&self, step: u64, name: &str) -> PathBuf {
        self.links(step).join(name)
    }

    /// The relay has all files of this step's checkpoint.
    pub fn uploaded(&self, step: u64) {
        // What stays goes when it is durable.
        drop(remove(&self.links(step)));
    }

    /// What the worker of a round says of a step that is not finite. It lies where the worker has left it.
    ///
    /// # Errors
    /// [`ExitCode::BadCheckpoint`]: nothing, or something else.
    pub fn failed(&self, round: u32, step: u64) -> Result<Failed, Failure> {
        let path = self.work.failed(round, step);
        let bad = |problem: &dyn std::fmt::Display| {
            Failure::new(ExitCode::BadCheckpoint, format!("{}: {problem}", path.display()))
        };
        let failed = Failed::read(&path).map_err(|error| bad(&error))?;
        if failed.step() == step {
            Ok(failed)
        } else {
            Err(bad(&format_args!("is of step {}", failed.step())))
        }
    }

    /// All up to this is durable: its records are secret, and stay no longer than they are needed.
    pub fn forget(&self, item: &Item) {
        if let Err(error) = self.durable(item.step()) {
            warn(&format!("what is durable stays: {error}"));
        }
        if let Item::Failure(failed) = item {
            drop(fs::remove_file(self.work.failed(failed.round, failed.step)));
        }
    }

    /// Everything up to this step is durable: nothing of it is needed any more.
    ///
    /// # Errors
    /// It could not be noted. That something was not removed is none.
    pub fn durable(&self, step: u64) -> Result<(), FileError> {
        if step > self.durable_step() {
            // First: who is asked about a step of which there is nothing must know why.
            files::write_atomic(&self.dir().join(DURABLE), step.to_string().as_bytes())?;
        }
        for dir in [self.dir(), self.work.uploads()] {
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                if step_of(&entry.file_name().to_string_lossy()).is_some_and(|old| old <= step) {
                    drop(remove(&entry.path()));
                }
            }
        }
        Ok(())
    }

    /// The step up to which everything is durable; 0 for none.
    pub fn durable_step(&self) -> u64 {
        let bytes = files::read_plain(&self.dir().join(DURABLE), MAX_DURABLE).unwrap_or_default();
        std::str::from_utf8(&bytes).ok().and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    fn dir(&self) -> PathBuf {
        let path = self.work.kept(0).0;
        path.parent().unwrap_or(&path).to_owned()
    }

    fn links(&self, step: u64) -> PathBuf {
        self.work.uploads().join(format!("step-{step:08}"))
    }
}

/// A failure that names the file of records.
pub fn bad_records(path: &Path, error: &records::Error) -> Failure {
    let message = format!("{}: {error}; the records are not those of this state's interval", path.display());
    Failure::new(ExitCode::BadCheckpoint, message)
}

fn disk(error: FileError) -> Failure {
    Failure::new(ExitCode::Disk, error.to_string())
}

/// The step in `step-00000020`, `step-00000020.json` and `step-00000020.manifest.json`.
fn step_of(name: &str) -> Option<u64> {
    name.strip_prefix("step-")?.split('.').next()?.parse().ok()
}

fn remove(path: &Path) -> Result<(), FileError> {
    let removed = match fs::symlink_metadata(path) {
        Ok(there) if there.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(FileError::new("remove", path, error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use muster_proof::steps::{Bits, StepRecord};
    use muster_trainer::checkpoint::FileEntry;

    use super::*;
    use crate::queue;

    fn records(step: u64) -> Records {
        let one = Bits::of(1.0);
        let record = StepRecord { eval_loss: None, grad_norm: one, learning_rate: one, loss: one, step };
        Records::new(step, vec![record]).unwrap()
    }

    #[test]
    fn a_failed_step_is_read_until_it_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let work = Work::new(dir.path());
        let kept = Kept::open(&work).unwrap();
        fs::create_dir_all(work.handovers()).unwrap();
        assert_eq!(kept.failed(1, 6).unwrap_err().code, ExitCode::BadCheckpoint);
        let failed = Failed::new(6, Digest::of(b"state"), records(5).as_slice().to_vec()).unwrap();
        failed.write(&work.failed(1, 6)).unwrap();
        assert_eq!(kept.failed(1, 6).unwrap(), failed);
        fs::copy(work.failed(1, 6), work.failed(1, 7)).unwrap();
        assert!(kept.failed(1, 7).unwrap_err().message.contains("is of step 6"));
        kept.forget(&Item::Failure(queue::Failed { round: 1, step: 6, before: Digest::of(b"state") }));
        assert!(kept.failed(1, 6).is_err());
    }

    #[test]
    fn the_stop_rule_is_that_of_the_checkpoints_job() {
        let dir = tempfile::tempdir().unwrap();
        let work = Work::new(dir.path());
        let kept = Kept::open(&work).unwrap();
        let spec = |stop_at: &str| {
            let data = format!(r#"{{"manifest":"{}"}}"#, Digest::of(b"held out"));
            format!(r#"{{"training":{{"eval":{{"data":{data},"everySteps":4{stop_at}}},"steps":12}}}}"#)
        };
        let stops = spec(r#","stopAt":"2.5""#);
        let manifest = |spec: &str| {
            let digest = training_digest(spec.as_bytes());
            let file = |path: &&str| FileEntry { path: (*path).into(), size: 1, sha256: digest };
            let files = checkpoint::FILES.iter().map(file).collect();
            Manifest::new(4, digest, Digest::of(b"s"), [0.5, 0.5], files).unwrap()
        };
        let ends = |spec: &str, step, loss: Option<f32>| {
            let one = Bits::of(1.0);
            let eval_loss = loss.map(Bits::of);
            let record = StepRecord { eval_loss, grad_norm: one, learning_rate: one, loss: one, step };
            kept.ends(&Records::new(step, vec![record]).unwrap(), &manifest(spec))
        };
        assert!(!ends(&stops, 4, None).unwrap(), "nothing to read for");
        let error = ends(&stops, 4, Some(2.0)).unwrap_err();
        assert!(error.code == ExitCode::BadCheckpoint && error.message.contains("spec.json"), "{error}");
        fs::write(work.spec(), &stops).unwrap();
        for (step, loss, want) in [
            (4, 2.0, true),
            (8, 2.5, true),
            (8, 2.6, false),
            // Training ends there anyway.
            (12, 2.0, false),
        ] {
            assert_eq!(ends(&stops, step, Some(loss)).unwrap(), want, "{step} {loss}");
        }
        let error = ends(&spec(""), 4, Some(2.0)).unwrap_err();
        assert!(error.message.contains("not the spec of the checkpoint's job"), "{error}");
        fs::write(work.spec(), spec("")).unwrap();
        assert!(!ends(&spec(""), 4, Some(2.0)).unwrap(), "no rule");
    }

    #[test]
    fn what_is_durable_goes_and_is_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let work = Work::new(dir.path());
        let kept = Kept::open(&work).unwrap();
        assert_eq!(kept.durable_step(), 0);
        for step in [4, 8, 12] {
            kept.put(step, &records(step), b"{}").unwrap();
            fs::create_dir_all(work.uploads().join(format!("step-{step:08}"))).unwrap();
        }
        kept.durable(8).unwrap();
        assert_eq!(kept.records(12).unwrap(), records(12));
        assert_eq!(kept.records(8).unwrap_err().code, ExitCode::BadCheckpoint);
        assert_eq!(fs::read_dir(work.uploads()).unwrap().count(), 1);
        kept.durable(4).unwrap();
        assert_eq!(Kept::open(&work).unwrap().durable_step(), 8);
        assert!(kept.manifest(12).is_none(), "it is no manifest");
        fs::write(work.kept(12).0.with_file_name(DURABLE), b"nonsense").unwrap();
        assert_eq!(kept.durable_step(), 0);
    }
}
