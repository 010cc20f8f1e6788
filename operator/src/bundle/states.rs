//! StateRoots out of the tensors themselves: what the digests of a bundle's files do not show.
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use muster_proof::bundle::{Bundle, Files, Manifest, Outcome, Report, State};
use muster_trainer::checkpoint::{self, MANIFEST_FILE, MAX_MANIFEST};

use super::dir::Dir;

/// The check's name in a report.
pub const CHECK: &str = "state-roots";

/// A directory that goes away with its value.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// A new one among the system's temporary files.
    ///
    /// # Errors
    /// Any of the file system.
    pub fn new() -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("muster-verify-{}-{n}", std::process::id()));
        crate::runtime::files::create_private_dir(&path)?;
        Ok(Self(path))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left is among temporary files.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Lays a checkpoint out under the names of its manifest; `None` if the bundle has not all of it.
///
/// # Errors
/// Any of the file system.
pub fn lay_out(dir: &Dir, state: &State, into: &Path) -> io::Result<Option<()>> {
    let Some(digest) = state.manifest else { return Ok(None) };
    let Ok(Some(bytes)) = dir.read(&digest.to_hex(), MAX_MANIFEST) else { return Ok(None) };
    let Ok(manifest) = Manifest::parse(&bytes) else { return Ok(None) };
    let from = |hex: String| dir.path().join(hex);
    if manifest.files.is_empty() || !manifest.files.iter().all(|file| from(file.sha256.to_hex()).is_file()) {
        return Ok(None);
    }
    fs::create_dir_all(into)?;
    let files = manifest.files.iter().map(|file| (file.path.as_str(), file.sha256));
    for (name, digest) in files.chain([(MANIFEST_FILE, digest)]) {
        let (from, to) = (from(digest.to_hex()), into.join(name));
        // Another file system, or one without links.
        if fs::hard_link(&from, &to).is_err() {
            fs::copy(&from, &to)?;
        }
    }
    Ok(Some(()))
}

/// Adds to the report whether each whole state of the bundle has the root that its commit names.
pub fn check(report: &mut Report, dir: &Dir, bundle: &Bundle) {
    if bundle.states.is_empty() {
        return;
    }
    let mut right = 0u64;
    for state in report.states.clone() {
        let Some(name) = state.manifest.map(|manifest| manifest.to_hex()) else { continue };
        let scratch = match Scratch::new() {
            Ok(scratch) => scratch,
            Err(error) => {
                report.add(CHECK, Outcome::Incomplete, format!("no temporary directory: {error}"), None);
                return;
            }
        };
        let into = scratch.path().join("state");
        match lay_out(dir, &state, &into) {
            Ok(Some(())) => {}
            Ok(None) => continue,
            Err(error) => {
                report.add(CHECK, Outcome::Incomplete, format!("step {}: {error}", state.step), Some(&name));
                continue;
            }
        }
        // The bundle's files have been digested, each as what the manifest names it.
        match checkpoint::root_of(&into) {
            Ok(root) if root == state.state_root => right += 1,
            Ok(root) => {
                let what = format!("step {}: the tensors have root {root}", state.step);
                report.add(CHECK, Outcome::Refuted, what, Some(&name));
            }
            Err(error) => {
                let outcome = if error.is_damage() { Outcome::Refuted } else { Outcome::Incomplete };
                report.add(CHECK, outcome, format!("step {}: {error}", state.step), Some(&name));
            }
        }
    }
    if right > 0 {
        let what = format!("the tensors of {right} states have the roots that were committed");
        report.add(CHECK, Outcome::Holds, what, None);
    }
}
