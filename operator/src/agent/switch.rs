//! The provider's off switch: a file in the state directory, so that it holds for the running agent and for every later
//! start, and works when nothing else does.
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use jiff::Timestamp;

use crate::runtime::files::{self, Access};

const FILE: &str = "stopped";

/// See the module.
#[derive(Debug)]
pub struct Switch {
    path: PathBuf,
    stopped: AtomicBool,
}

impl Switch {
    /// The switch of `state` as it is now.
    #[must_use]
    pub fn open(state: &Path) -> Self {
        let switch = Self { path: state.join(FILE), stopped: AtomicBool::new(false) };
        switch.look();
        switch
    }

    /// Whether everything lent must end.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    /// Looks at the file again; says whether that is news.
    pub fn look(&self) -> bool {
        let stopped = match std::fs::symlink_metadata(&self.path) {
            Ok(_) => true,
            Err(error) if error.kind() == ErrorKind::NotFound => false,
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "cannot look at the off switch; it stays as it was");
                return false;
            }
        };
        let news = self.stopped.swap(stopped, Ordering::SeqCst) != stopped;
        if news && stopped {
            tracing::warn!(
                "stopped by the provider: everything lent is ended; `muster agent resume` lends again"
            );
        } else if news {
            tracing::info!("the provider lends again");
        }
        news
    }
}

/// Stops the agent of `state`, running or not.
///
/// # Errors
/// Any error of the file system; the directory must be there. The text says how to stop without it.
pub fn stop(state: &Path) -> io::Result<()> {
    exists(state)?;
    let written =
        files::write_atomic(&state.join(FILE), Timestamp::now().to_string().as_bytes(), Access::Private);
    written.map_err(|error| {
        let text = format!(
            "{error}; nothing is stopped: make room or make it writable, or set `stop: true` in the agent's policy file, which \
             needs no state directory"
        );
        io::Error::new(error.kind(), text)
    })
}

/// Undoes [`stop`]; says whether it was stopped.
///
/// # Errors
/// Any error of the file system but that it was not stopped.
pub fn resume(state: &Path) -> io::Result<bool> {
    exists(state)?;
    match std::fs::remove_file(state.join(FILE)) {
        Ok(()) => files::sync_dir(state).map(|()| true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn exists(state: &Path) -> io::Result<()> {
    if state.is_dir() {
        return Ok(());
    }
    let text = format!("{}: no such directory; name the --state of `muster agent run`", state.display());
    Err(io::Error::new(ErrorKind::NotFound, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_over_restarts_until_it_is_undone() {
        let dir = tempfile::tempdir().unwrap();
        let switch = Switch::open(dir.path());
        assert!(!switch.is_stopped() && !switch.look());
        stop(dir.path()).unwrap();
        stop(dir.path()).unwrap();
        assert!(switch.look() && switch.is_stopped() && !switch.look());
        assert!(Switch::open(dir.path()).is_stopped());
        assert!(resume(dir.path()).unwrap() && !resume(dir.path()).unwrap());
        assert!(switch.look() && !switch.is_stopped());
        std::fs::create_dir_all(dir.path().join("stopped/in the way")).unwrap();
        let full = stop(dir.path()).unwrap_err().to_string();
        assert!(full.contains("cannot write") && full.contains("`stop: true`"), "{full}");
        assert!(stop(&dir.path().join("none")).unwrap_err().to_string().contains("--state"));
    }
}
