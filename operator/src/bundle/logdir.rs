//! A log's files in a directory, as C2SP names them, as a log that can be read: a gateway's own directory, or a copy.
use std::path::PathBuf;

use futures::FutureExt as _;
use futures::future::{BoxFuture, ready};
use muster_proof::Digest;
use muster_proof::dsse::Envelope;
use muster_proof::tlog::note::MAX_NOTE;
use muster_proof::tlog::tile::Resource;

use crate::log::client::{ClientError, LogClient};
use crate::runtime::files::read_capped;
use crate::wire::log::{LogEntry, Logged};

/// No file of tiles or entries is longer.
const MAX_TILE: u64 = 1 << 20;

/// See the module.
#[derive(Debug, Clone)]
pub struct LogDir(PathBuf);

impl LogDir {
    /// The log in this directory.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    fn file(&self, name: &str, max: u64) -> Result<Vec<u8>, ClientError> {
        read_capped(&self.0.join(name), max).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => refused(404, "NotFound", &error),
            _ => ClientError::Unreachable(error.to_string()),
        })
    }
}

fn refused(status: u16, reason: &str, message: &dyn std::fmt::Display) -> ClientError {
    let (reason, message) = (reason.to_owned(), message.to_string());
    ClientError::Refused { status, reason, message, retry_after: None }
}

fn only_files<T>() -> Result<T, ClientError> {
    Err(refused(405, "OnlyFiles", &"a directory can only be read"))
}

impl LogClient for LogDir {
    fn submit<'a>(&'a self, _: &'a Envelope) -> BoxFuture<'a, Result<Logged, ClientError>> {
        ready(only_files()).boxed()
    }

    fn checkpoint(&self) -> BoxFuture<'_, Result<Vec<u8>, ClientError>> {
        ready(self.file("checkpoint", MAX_NOTE as u64)).boxed()
    }

    fn cosigned(&self, _: usize) -> BoxFuture<'_, Result<Option<Vec<u8>>, ClientError>> {
        ready(Ok(None)).boxed()
    }

    fn cosign<'a>(&'a self, _: u64, _: &'a str) -> BoxFuture<'a, Result<(), ClientError>> {
        ready(only_files()).boxed()
    }

    fn tile<'a>(&'a self, path: &'a Resource) -> BoxFuture<'a, Result<Vec<u8>, ClientError>> {
        ready(self.file(&path.to_string(), MAX_TILE)).boxed()
    }

    fn entry<'a>(&'a self, _: &'a Digest) -> BoxFuture<'a, Result<Option<LogEntry>, ClientError>> {
        ready(only_files()).boxed()
    }
}
