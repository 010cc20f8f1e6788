//! `--init DIR`: the weights that a job begins with, and the checkpoint of step 0 that they become.
use crate::cli::Failure;
use crate::cli::transfer::Transfer;
use crate::resolve::{self, Resolved};
use muster_api::v1alpha1::TrainingJobSpec;
use muster_numerics::state::State;
use muster_trainer::checkpoint::{self, CONFIG_FILE, Store};
use muster_trainer::hf;
use muster_trainer::protocol::ExitCode;
use std::path::Path;

/// Reads a directory of Hugging Face's form, or a checkpoint of ours, as state 0 of the job.
pub(super) fn read(dir: &Path, spec: &TrainingJobSpec) -> Result<State, Failure> {
    let model = resolve::model(&spec.model).map_err(|e| bad(ExitCode::BadSpec, &e))?;
    // The directory of a run has its model below.
    let dir = match dir.join(CONFIG_FILE).exists() {
        true => dir.to_owned(),
        false => checkpoint::resolve_dir(dir).unwrap_or_else(|_| dir.to_owned()),
    };
    if !hf::is_foreign(&dir) && dir.join(CONFIG_FILE).exists() {
        // It says what it is to the last bit: then it shall be that.
        checkpoint::open(&dir).map_err(|e| bad(ExitCode::BadCheckpoint, &e))?;
    }
    let bar = Transfer::start("reading weights", bytes(&dir));
    let state = hf::load(&dir, &model, &mut |bytes| bar.add(bytes));
    bar.end();
    state.map_err(|error| {
        let code = if matches!(error, hf::Error::OtherModel { .. } | hf::Error::Model(_)) {
            ExitCode::BadSpec
        } else {
            ExitCode::BadCheckpoint
        };
        Failure::with_code(code.code(), format!("--init: {error}"))
    })
}

/// Writes state 0 into the job directory, unless it is there.
pub(super) fn put(out: &Path, resolved: &Resolved, state: &State) -> Result<(), Failure> {
    let store = Store::new(out);
    let path = store.path(0);
    if checkpoint::read_manifest(&path).is_ok_and(|(there, _)| there.state_root() == resolved.genesis) {
        return Ok(());
    }
    let disk = |error: checkpoint::Error| bad(ExitCode::Disk, &error);
    store.remove(0).map_err(disk)?;
    let spec = &resolved.spec;
    let graph = spec.build_graph().map_err(|e| bad(ExitCode::BadSpec, &e))?;
    checkpoint::save(&path, &spec.model, &graph, resolved.training_digest, state).map_err(disk)?;
    Ok(())
}

/// All that tensors may lie in, for the bar.
fn bytes(dir: &Path) -> u64 {
    let files = dir.read_dir().into_iter().flatten().flatten();
    let tensors = files.filter(|file| file.path().extension().is_some_and(|end| end == "safetensors"));
    tensors
        .filter(|file| !file.file_name().to_string_lossy().starts_with("optimizer"))
        .filter_map(|f| f.path().metadata().ok())
        .map(|m| m.len())
        .sum()
}

fn bad(code: ExitCode, error: &dyn std::error::Error) -> Failure {
    Failure::with_code(code.code(), format!("--init: {error}"))
}
