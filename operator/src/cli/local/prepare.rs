//! From arguments to a job that may start. Everything a person can get wrong is found here, before a process is spawned.
use super::workers::Launch;
use super::{LocalCommand, Prepared};
use crate::cli::model;
use crate::cli::trainer;
use crate::cli::{Failure, job_file};
use crate::resolve::{self, Named, ResolveError, Resolved};
use crate::runtime::files::{Access, read_capped, write_atomic};
use muster_api::v1alpha1::{OptimizerState, Recompute, TrainingJobSpec};
use muster_numerics::spec::TrainingSpec;
use muster_trainer::checkpoint::Store;
use muster_trainer::dataset::{self, Dataset, MANIFEST_FILE, MAX_MANIFEST, Manifest, TOKENIZER_FILE};
use muster_trainer::inference::DATASET_FILE;
use muster_trainer::protocol::ExitCode;
use muster_trainer::resolved::{MAX_SPEC, training_digest};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// `NAME=DIR`: which directory a dataset's name means here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mount {
    name: String,
    dir: PathBuf,
}

impl FromStr for Mount {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('=') {
            Some((name, dir)) if !name.is_empty() && !dir.is_empty() => {
                Ok(Self { name: name.into(), dir: dir.into() })
            }
            _ => Err(
                "write it as NAME=DIR, NAME being spec.data.dataset or spec.training.eval.dataset of the job",
            ),
        }
    }
}

pub(super) fn prepare(command: &LocalCommand) -> Result<Prepared, Failure> {
    let bad_job = |text: String| Failure::with_code(ExitCode::BadSpec.code(), text);
    let job = job_file::read(&command.job).map_err(|e| bad_job(e.to_string()))?;
    let spec = &job.spec;
    resolve::check_supported(spec).map_err(|e| bad_job(format!("{}: {e}", command.job.display())))?;
    if i64::from(command.workers) > spec.training.shards {
        let shards = spec.training.shards;
        return Err(Failure::usage(format!(
            "--workers {} is more than spec.training.shards, {shards}; use at most {shards}",
            command.workers
        )));
    }
    check_mounts(spec, &command.data)?;
    let data = dataset_dir(&spec.data.dataset, &command.data)?;
    let manifest = read_manifest(data).map_err(bad_data)?;
    let eval_data = spec.training.eval.as_ref();
    let eval_data = eval_data.map(|eval| dataset_dir(&eval.dataset, &command.data)).transpose()?;
    let held_out = eval_data.map(read_manifest).transpose().map_err(bad_data)?;
    let given = command.init.as_deref().map(weights).transpose()?;
    if let (Some(wanted), None) = (&spec.init, &given) {
        let text = format!(
            "--init: the job begins with the weights of model {}; give their directory",
            wanted.model
        );
        return Err(Failure::usage(text));
    }
    let init = given.as_ref().map(|given| &given.manifest);
    let named = Named { data: &manifest, held_out: held_out.as_ref(), init };
    let resolved = resolve::resolve(spec, named).map_err(|e| refused(command, &e))?;
    let program = trainer::find()?;
    take_directory(&command.out, &resolved)?;
    keep_text(data, &manifest, &command.out)?;
    let steps = command.last_step.unwrap_or(resolved.spec.training.steps);
    Ok(Prepared {
        name: job.metadata.name.unwrap_or_default(),
        training_digest: resolved.training_digest.to_string(),
        launch: Launch {
            program,
            spec: command.out.join(SPEC_FILE),
            data: data.to_owned(),
            eval_data: eval_data.map(Path::to_owned),
            init: given.map(|given| given.dir),
            out: command.out.clone(),
            workers: command.workers,
            threads: command.threads.unwrap_or_else(|| share_of_cpus(command.workers)),
            interval_steps: spec.training.interval_steps,
            keep_last: spec.checkpoints.keep_last,
            from_step: command.from_step,
            last_step: command.last_step,
            isa: command.isa.clone(),
            recompute: spec.workers.recompute == Recompute::Layers,
            sharded: spec.workers.optimizer_state == OptimizerState::Sharded,
        },
        steps,
    })
}

fn weights(dir: &Path) -> Result<model::Weights, Failure> {
    model::read(dir).map_err(|failure| failure.before("--init: "))
}

/// What `muster sample` needs to know of the data, into the job directory.
fn keep_text(data: &Path, manifest: &Manifest, out: &Path) -> Result<(), Failure> {
    let disk = |error: std::io::Error| Failure::with_code(ExitCode::Disk.code(), error.to_string());
    if let Some(json) = Dataset::tokenizer_json(data, manifest).map_err(bad_data)? {
        write_atomic(&out.join(TOKENIZER_FILE), &json, Access::Public).map_err(disk)?;
    }
    write_atomic(&out.join(DATASET_FILE), &manifest.to_bytes()?, Access::Public).map_err(disk)
}

/// The resolved spec in the job directory; rank 0 would write the same bytes.
const SPEC_FILE: &str = "spec.json";

/// Refuses a dataset that the job does not name.
fn check_mounts(spec: &TrainingJobSpec, mounts: &[Mount]) -> Result<(), Failure> {
    let wanted = &spec.data.dataset;
    let held_out = spec.training.eval.as_ref().map(|eval| &eval.dataset);
    let Some(other) = mounts.iter().find(|m| m.name != *wanted && Some(&m.name) != held_out) else {
        return Ok(());
    };
    let and = held_out.map_or(String::new(), |name| format!(" and {name}"));
    Err(Failure::usage(format!(
        "--data {}=...: the job names dataset {wanted}{and} only; give --data {wanted}=DIR",
        other.name
    )))
}

fn dataset_dir<'a>(wanted: &str, mounts: &'a [Mount]) -> Result<&'a Path, Failure> {
    let mut found = mounts.iter().filter(|mount| mount.name == wanted);
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(&one.dir),
        _ => Err(Failure::usage(format!("--data {wanted}=...: give it exactly once"))),
    }
}

/// The manifest alone: workers check every byte of the data themselves.
fn read_manifest(dir: &Path) -> Result<Manifest, dataset::Error> {
    match read_capped(&dir.join(MANIFEST_FILE), MAX_MANIFEST) {
        Ok(bytes) => Manifest::parse(&bytes),
        Err(e) if e.kind() == ErrorKind::NotFound => Err(dataset::Error::Missing(dir.display().to_string())),
        Err(e) => Err(dataset::Error::Corrupt {
            path: dir.join(MANIFEST_FILE).display().to_string(),
            problem: e.to_string(),
        }),
    }
}

fn bad_data(error: dataset::Error) -> Failure {
    Failure::with_code(ExitCode::BadData.code(), error.to_string())
}

fn refused(command: &LocalCommand, error: &ResolveError) -> Failure {
    let code = if error.is_about_data() { ExitCode::BadData } else { ExitCode::BadSpec };
    Failure::with_code(code.code(), format!("{}: {error}", command.job.display()))
}

/// Makes or takes over the job directory, which is of this job or of none. That nobody else trains in it is for worker 0 to
/// see: it holds the lock.
fn take_directory(out: &Path, resolved: &Resolved) -> Result<(), Failure> {
    std::fs::create_dir_all(out).map_err(|e| {
        Failure::with_code(ExitCode::Disk.code(), format!("cannot make {}: {e}", out.display()))
    })?;
    let path = out.join(SPEC_FILE);
    match read_capped(&path, MAX_SPEC) {
        Ok(there) if there == resolved.bytes => return Ok(()),
        // A directory without checkpoints holds nothing that could be lost.
        Ok(there) if !Store::new(out).steps().is_ok_and(|steps| steps.is_empty()) => {
            return Err(Failure::with_code(
                ExitCode::BadCheckpoint.code(),
                format!(
                    "{} holds checkpoints of another job: its training digest is {}, this job's is {}; choose another \
                     --out, or give the YAML and data that made it{}",
                    out.display(),
                    training_digest(&there),
                    resolved.training_digest,
                    if was_given_weights(&there) { ", and the weights it began with as --init" } else { "" }
                ),
            ));
        }
        _ => {}
    }
    write_atomic(&path, &resolved.bytes, Access::Public)
        .map_err(|e| Failure::with_code(ExitCode::Disk.code(), e.to_string()))
}

fn was_given_weights(spec: &[u8]) -> bool {
    TrainingSpec::from_json(spec).is_ok_and(|spec| spec.init.is_some())
}

fn share_of_cpus(workers: u32) -> u16 {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let share = cpus / (workers as usize).max(1);
    u16::try_from(share.clamp(1, 64)).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_name_and_directory() {
        let mount: Mount = "kjv=/data/a=b".parse().unwrap();
        assert_eq!((mount.name.as_str(), mount.dir.to_str().unwrap()), ("kjv", "/data/a=b"));
        for bad in ["", "kjv", "kjv=", "=dir"] {
            assert!(bad.parse::<Mount>().is_err(), "{bad}");
        }
    }

    #[test]
    fn each_dataset_that_the_job_names_is_given_once_and_no_other() {
        let spec = |eval: serde_json::Value| -> TrainingJobSpec {
            let mut job = serde_json::json!({
                "model": {"architecture": "gpt2", "layers": 1, "width": 16, "heads": 1, "context": 8, "vocabulary": 256},
                "data": {"dataset": "kjv"}, "training": {"steps": 4, "batch": 2, "shards": 2}, "workers": {"count": 1}
            });
            if !eval.is_null() {
                job["training"]["eval"] = eval;
            }
            serde_json::from_value(job).unwrap()
        };
        let plain = spec(serde_json::Value::Null);
        let evaluated = spec(serde_json::json!({"everySteps": 2, "dataset": "psalms"}));
        let mounts = |names: &[&str]| -> Vec<Mount> {
            names.iter().map(|name| format!("{name}=/{name}").parse().unwrap()).collect()
        };
        check_mounts(&plain, &mounts(&["kjv"])).unwrap();
        check_mounts(&evaluated, &mounts(&["psalms", "kjv"])).unwrap();
        for (spec, names, want) in [
            (&plain, &["kjv", "psalms"][..], "--data psalms=...: the job names dataset kjv only"),
            (&evaluated, &["kjv", "acts"], "--data acts=...: the job names dataset kjv and psalms only"),
        ] {
            let error = check_mounts(spec, &mounts(names)).unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        }
        assert_eq!(dataset_dir("psalms", &mounts(&["kjv", "psalms"])).unwrap(), Path::new("/psalms"));
        for names in [&["kjv"][..], &["psalms", "psalms"]] {
            assert!(dataset_dir("psalms", &mounts(names)).is_err());
        }
    }

    #[test]
    fn threads_share_the_cpus_and_are_at_least_one() {
        assert!(share_of_cpus(1) >= 1);
        assert_eq!(share_of_cpus(256), 1.max(share_of_cpus(256)));
    }
}
