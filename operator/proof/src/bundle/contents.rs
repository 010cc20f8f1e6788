//! What is in the files: the spec is that of the job's record, and the manifests say what the commits say.

use std::collections::{BTreeMap, BTreeSet};

use super::verify::Reader;
use super::{Bundle, FILE, FileRef, Manifest, Report, State};
use crate::Digest;
use crate::evaluation::Evaluation;
use crate::hash::{self, h};
use crate::records::Job;
use crate::records::fields::Step;

/// Most bytes of a resolved spec.
const MAX_SPEC: u64 = 64 * 1024;

/// Spec and dataset are the job's. Gives what the spec says of evaluation.
pub(super) fn spec(
    report: &mut Report,
    reader: &Reader<'_>,
    bundle: &Bundle,
    job: &Job,
) -> Option<Evaluation> {
    let (mut good, mut evaluation) = (true, None);
    for (what, file, want) in [("spec", bundle.spec, job.spec), ("dataset", bundle.dataset, job.dataset)] {
        if file.sha256 != want {
            good = false;
            let what = format!("{what}: the job's record names {want}, the bundle has {}", file.sha256);
            report.refute("job", what, Some(FILE));
        }
    }
    match reader.read(&bundle.spec) {
        None => {
            good = false;
            report.lacks("job", "the spec cannot be read", Some(&bundle.spec.name()));
        }
        Some(spec) => {
            let digest = h(hash::TRAINING, &[&spec]);
            if digest != job.training_digest {
                good = false;
                let what = format!(
                    "the spec has training digest {digest}, the job's record says {}",
                    job.training_digest
                );
                report.refute("job", what, Some(&bundle.spec.name()));
            } else if genesis(&spec).as_deref() != Some(job.genesis.to_string().as_str()) {
                good = false;
                let what = format!(
                    "the spec does not name the state {} that the job's record starts from",
                    job.genesis
                );
                report.refute("job", what, Some(&bundle.spec.name()));
            }
            match Evaluation::of_spec(&spec) {
                Ok(said) => {
                    if said.stop_every_steps() != job.stop_every_steps.map(Step::get) {
                        good = false;
                        let what = "the spec has another stop rule than the job's record";
                        report.refute("job", what, Some(&bundle.spec.name()));
                    }
                    evaluation = Some(said);
                }
                Err(error) => {
                    good = false;
                    report.lacks("job", error.to_string(), Some(&bundle.spec.name()));
                }
            }
        }
    }
    if good {
        report.holds("job", format!("spec and dataset are those of training {}", job.training_digest));
    }
    evaluation
}

/// The state that a resolved spec begins with, as it names it. Its own reader belongs to the trainer.
fn genesis(spec: &[u8]) -> Option<String> {
    let spec = Some(spec).filter(|spec| spec.len() as u64 <= MAX_SPEC)?;
    crate::jcs::parse_canonical(spec).ok()?.get("genesis")?.as_str().map(str::to_owned)
}

/// Manifests say what the commits say, and lead to the files of states.
pub(super) fn manifests(
    report: &mut Report,
    reader: &Reader<'_>,
    bundle: &Bundle,
    job: &Job,
    states: &BTreeMap<(u64, u64), State>,
) {
    let there: BTreeMap<Digest, &FileRef> = bundle.manifests.iter().map(|file| (file.sha256, file)).collect();
    let files: BTreeMap<Digest, u64> = bundle.states.iter().map(|file| (file.sha256, file.size)).collect();
    let (mut used, mut led) = (BTreeSet::new(), BTreeSet::new());
    let mut good = true;
    for state in states.values() {
        let Some(file) = state.manifest.and_then(|manifest| there.get(&manifest)) else { continue };
        used.insert(file.sha256);
        let name = file.name();
        let Some(bytes) = reader.read(file) else {
            good = false;
            report.lacks("checkpoints", "a manifest cannot be read", Some(&name));
            continue;
        };
        let manifest = match Manifest::parse(&bytes) {
            Ok(manifest) => manifest,
            Err(error) => {
                good = false;
                report.refute("checkpoints", error, Some(&name));
                continue;
            }
        };
        let own = (manifest.step, manifest.state_root, manifest.training_digest);
        if own != (state.step, state.state_root, job.training_digest) {
            good = false;
            let what = format!(
                "the manifest of interval {} says step {} and state {}, its commit says step {} and state {}",
                state.interval, manifest.step, manifest.state_root, state.step, state.state_root
            );
            report.refute("checkpoints", what, Some(&name));
        }
        led.extend(manifest.files.iter().map(|file| (file.sha256, file.size)));
        let whole = manifest.files.iter().all(|file| files.get(&file.sha256) == Some(&file.size));
        report.counts.states += u64::from(whole && !manifest.files.is_empty());
    }
    for file in bundle.manifests.iter().filter(|file| !used.contains(&file.sha256)) {
        good = false;
        let what = format!("{FILE} lists this manifest, and no commit that counts names it");
        report.refute("checkpoints", what, Some(&file.name()));
    }
    for file in bundle.states.iter().filter(|file| !led.contains(&(file.sha256, file.size))) {
        good = false;
        let what = format!("{FILE} lists this file, and no manifest of the bundle names it");
        report.refute("checkpoints", what, Some(&file.name()));
    }
    let last = states.values().filter(|state| state.manifest.is_some()).max_by_key(|state| state.step);
    if let Some(last) =
        last.filter(|last| !last.manifest.is_some_and(|manifest| there.contains_key(&manifest)))
    {
        good = false;
        report.lacks(
            "checkpoints",
            format!("the manifest of the last state, of step {}, is not there", last.step),
            Some(FILE),
        );
    }
    if good {
        report.holds("checkpoints", format!("{} manifests say what their commits say", used.len()));
    }
}
