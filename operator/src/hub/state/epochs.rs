//! `epochs.json`: incarnation, floor and mark in one file, so that they change together or not at all.
use std::path::Path;

use muster_core::epochs::Epochs;

use super::{StateError, keys};
use crate::runtime::files::{Access, read_if_there, write_atomic};

const FILE: &str = "epochs.json";
/// Where milestone 1 kept the incarnation.
const OLDER_FILE: &str = "incarnation";

/// Reads the numbers; makes them on the first start.
pub(super) fn open(dir: &Path) -> Result<Epochs, StateError> {
    let damaged = |problem: String| StateError::Damaged { file: FILE, problem };
    match read_if_there(&dir.join(FILE), 4096)? {
        Some(bytes) => {
            let epochs: Epochs =
                serde_json::from_slice(&bytes).map_err(|error| damaged(format!("is damaged ({error})")))?;
            if epochs.is_sound() { Ok(epochs) } else { Err(damaged(format!("cannot be true: {epochs:?}"))) }
        }
        None => {
            if keys::chain_exists(dir) {
                return Err(damaged("is missing, though this hub has run before".to_owned()));
            }
            let first = Epochs { incarnation: older(dir)?.unwrap_or(1), ..Epochs::default() };
            write(dir, &first)?;
            Ok(first)
        }
    }
}

/// Replaces the numbers, durable when this returns.
pub(super) fn write(dir: &Path, epochs: &Epochs) -> Result<(), StateError> {
    let text = serde_json::to_vec(epochs).map_err(std::io::Error::other)?;
    Ok(write_atomic(&dir.join(FILE), &text, Access::Private)?)
}

fn older(dir: &Path) -> Result<Option<i64>, StateError> {
    let Some(bytes) = read_if_there(&dir.join(OLDER_FILE), 64)? else { return Ok(None) };
    let text = String::from_utf8_lossy(&bytes).trim().to_owned();
    let number = text.parse().ok().filter(|&n: &i64| n >= 1);
    let problem = || format!("is {text:?}, not a number from 1");
    number.map(Some).ok_or_else(|| StateError::Damaged { file: OLDER_FILE, problem: problem() })
}
