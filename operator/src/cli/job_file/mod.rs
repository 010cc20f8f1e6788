//! A TrainingJob from a file, as the API server would read it: the same schema (the CRD's own), the same rules, the same
//! defaults, and messages that name the field.
mod schema;

use crate::runtime::files::read_capped;
use muster_api::v1alpha1::TrainingJob;
use serde_json::Value;
use std::path::Path;

/// Longest file that is read; the API server takes no larger object either.
const MAX_BYTES: u64 = 1 << 20;

/// Why a file is not a TrainingJob.
#[derive(Debug, thiserror::Error)]
pub enum JobFileError {
    /// It cannot be read.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// It is not YAML, or not one document.
    #[error("{path}: {problem}")]
    File {
        /// The file.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Fields are wrong, all of them listed.
    #[error("{path}: this TrainingJob would be refused:\n  {}", .problems.join("\n  "))]
    Fields {
        /// The file.
        path: String,
        /// One `path.of.field: problem` each.
        problems: Vec<String>,
    },
}

/// Reads and checks `path`. A `status` in it is ignored, so that `kubectl get -o yaml` can be used as it is.
///
/// # Errors
/// See [`JobFileError`].
pub fn read(path: &Path) -> Result<TrainingJob, JobFileError> {
    let bytes = read_capped(path, MAX_BYTES)?;
    parse(&bytes, &path.display().to_string())
}

fn parse(bytes: &[u8], path: &str) -> Result<TrainingJob, JobFileError> {
    let file = |problem: String| JobFileError::File { path: path.into(), problem };
    let text = std::str::from_utf8(bytes)
        .map_err(|_| file("not a text file in UTF-8; give the YAML of a TrainingJob".into()))?;
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(text).map_err(|e| file(format!("not valid YAML: {e}")))?;
    let mut documents = documents.into_iter().filter(|d| !d.is_null());
    let mut object = match (documents.next(), documents.next()) {
        (None, _) => return Err(file("is empty; give the YAML of a TrainingJob".into())),
        (Some(_), Some(_)) => {
            return Err(file("has more than one document; keep one TrainingJob in a file of its own".into()));
        }
        (Some(object), None) => object,
    };
    let fields = |problems| JobFileError::Fields { path: path.into(), problems };
    check_head(&object).map_err(|problem| fields(vec![problem]))?;
    if let Some(map) = object.as_object_mut() {
        map.remove("status");
    }
    let object = schema::validate::<TrainingJob>(&object).map_err(&fields)?;
    // The schema is made from this very type, so nothing is left that could fail; if it does, say what.
    serde_json::from_value(object).map_err(|e| fields(vec![format!("{e}")]))
}

/// What the schema does not say: that it is a TrainingJob at all, and has a name.
fn check_head(object: &Value) -> Result<(), String> {
    if !object.is_object() {
        return Err("not an object; a TrainingJob starts with apiVersion, kind, metadata, spec".into());
    }
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    for (field, want) in [("apiVersion", "muster.dev/v1alpha1"), ("kind", "TrainingJob")] {
        let got = text(&format!("/{field}"));
        if got != want {
            return Err(format!("{field}: must be {want}, is {got:?}"));
        }
    }
    let name = text("/metadata/name");
    if name.is_empty() {
        return Err("metadata.name: Required value: give the job a name".into());
    }
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    if !name.chars().all(good)
        || !name.starts_with(char::is_alphanumeric)
        || !name.ends_with(char::is_alphanumeric)
    {
        return Err(format!(
            "metadata.name: Invalid value: {name:?}: use lower-case letters, digits and '-'"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
