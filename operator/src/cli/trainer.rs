//! Finding `muster-trainer`: beside this program, where packages and `cargo build` put it, then in PATH.
use super::Failure;
use std::path::{Path, PathBuf};

const NAME: &str = "muster-trainer";

/// The trainer's path.
pub(super) fn find() -> Result<PathBuf, Failure> {
    let here = std::env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_owned));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = here.iter().cloned().chain(std::env::split_paths(&path));
    folders.map(|folder| folder.join(NAME)).find(|file| is_program(file)).ok_or_else(|| {
        let beside = here.map_or_else(|| "this program".into(), |h| h.display().to_string());
        Failure::new(format!(
            "{NAME} is neither in {beside} nor in PATH; install it beside muster, or build it with \
             `cargo build -p {NAME}`"
        ))
    })
}

fn is_program(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}
