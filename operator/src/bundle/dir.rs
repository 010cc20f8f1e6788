//! The directory of a bundle as the check reads it.
use std::io;
use std::path::{Path, PathBuf};

use muster_proof::Digest;
use muster_proof::bundle::Files;
use muster_trainer::files;

use crate::runtime::files::read_capped;

/// See the module.
#[derive(Debug, Clone)]
pub struct Dir(PathBuf);

impl Dir {
    /// The bundle in this directory.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A file's path, if it is a plain file: others may never end.
    fn plain(&self, name: &str) -> Result<Option<PathBuf>, String> {
        let path = self.0.join(name);
        match path.symlink_metadata() {
            Ok(meta) if meta.is_file() => Ok(Some(path)),
            Ok(_) => Err("it is no plain file".to_owned()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.to_string()),
        }
    }
}

impl Files for Dir {
    fn read(&self, name: &str, max: u64) -> Result<Option<Vec<u8>>, String> {
        let Some(path) = self.plain(name)? else { return Ok(None) };
        read_capped(&path, max).map(Some).map_err(|error| error.to_string())
    }

    fn digest(&self, name: &str) -> Result<Option<(Digest, u64)>, String> {
        let Some(path) = self.plain(name)? else { return Ok(None) };
        files::digest(&path).map(Some).map_err(|error| error.to_string())
    }
}
