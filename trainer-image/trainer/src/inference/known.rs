//! What is known of the data that a model was trained on: a job directory has a copy of its dataset's manifest.

use std::path::{Path, PathBuf};

use crate::dataset::{MAX_MANIFEST, Manifest};
use crate::failure::Failure;
use crate::files;
use crate::protocol::ExitCode;
use crate::resolved::{self, MAX_SPEC};

/// The copy's name in a job directory; the tokenizer's file, if there is one, lies beside it.
pub const DATASET_FILE: &str = "dataset.json";
/// The resolved spec in a job directory.
const SPEC_FILE: &str = "spec.json";

/// The data of a model.
#[derive(Debug)]
pub struct Known {
    /// The dataset's manifest.
    pub manifest: Manifest,
    /// Where its copy lies.
    pub dir: PathBuf,
}

/// Looks in the directory that was named, in the checkpoint that it led to, and in the job directory around that.
pub(super) fn known(named: Option<&Path>, checkpoint: &Path) -> Result<Option<Known>, Failure> {
    let job = checkpoint.parent().and_then(Path::parent);
    for dir in [named, Some(checkpoint), job].into_iter().flatten() {
        let path = dir.join(DATASET_FILE);
        let bytes = match files::read_at_most(&path, MAX_MANIFEST) {
            Err(error) if error.is_missing() => continue,
            other => other.map_err(|error| Failure::new(ExitCode::BadData, error.to_string()))?,
        };
        let manifest = Manifest::parse(&bytes)
            .map_err(|error| Failure::new(ExitCode::BadData, format!("{}: {error}", path.display())))?;
        // The copy of another job's dataset would give a text without sense.
        if let Ok(spec) = files::read_at_most(&dir.join(SPEC_FILE), MAX_SPEC)
            && let Ok((spec, _)) = resolved::read_spec(&spec)
            && spec.data.root != manifest.root().to_string()
        {
            let message = format!(
                "{} is not the dataset of the job in {}; remove it and name the tokenizer",
                path.display(),
                dir.display()
            );
            return Err(Failure::new(ExitCode::BadData, message));
        }
        return Ok(Some(Known { manifest, dir: dir.to_owned() }));
    }
    Ok(None)
}
