//! Spec, dataset and start checkpoint from the relay onto the disk, each blob checked against its digest. What is
//! there already is not fetched again, so a retry goes on where it broke off.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use muster_proof::Digest;

use super::relay::{Relay, Unavailable};
use crate::checkpoint::{self, MANIFEST_FILE, Store};
use crate::dataset;
use crate::failure::Failure;
use crate::files::{self, NewDir};
use crate::protocol::{Assignment, ExitCode, Start};
use crate::resolved::MAX_SPEC;

/// Why something was not fetched.
#[derive(Debug)]
pub(super) enum Error {
    /// Try again later.
    Later(Unavailable),
    /// The relay's bytes are not the blob: trying again may help, for a while.
    Wrong(Failure),
    /// Nothing helps.
    Fatal(Failure),
}

impl From<Unavailable> for Error {
    fn from(error: Unavailable) -> Self {
        Self::Later(error)
    }
}

/// The scratch directory of a pod.
#[derive(Debug, Clone)]
pub(super) struct Work {
    dir: PathBuf,
}

impl Work {
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// The resolved spec.
    pub fn spec(&self) -> PathBuf {
        self.dir.join("spec.json")
    }

    /// The dataset directory.
    pub fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// The job directory.
    pub fn out(&self) -> PathBuf {
        self.dir.join("out")
    }

    /// Checkpoints on their way to the relay.
    pub fn uploads(&self) -> PathBuf {
        self.dir.join("uploads")
    }

    /// Brings everything that the worker of this assignment reads.
    pub fn fetch(&self, relay: &Relay, assignment: &Assignment) -> Result<(), Error> {
        fatal(ExitCode::Disk, files::create_dirs(&self.dir))?;
        let spec = blob(relay, &assignment.spec, MAX_SPEC, ExitCode::BadSpec, "the spec")?;
        fatal(ExitCode::Disk, files::write_atomic(&self.spec(), &spec))?;
        self.fetch_data(relay, &assignment.dataset)?;
        match &assignment.start {
            Some(start) => self.fetch_start(relay, start),
            None => Ok(()),
        }
    }

    fn fetch_data(&self, relay: &Relay, digest: &Digest) -> Result<(), Error> {
        let code = ExitCode::BadData;
        let (dir, path) = (self.data(), self.data().join(dataset::MANIFEST_FILE));
        let bytes = blob(relay, digest, dataset::MAX_MANIFEST, code, "the dataset's manifest")?;
        let manifest = dataset::Manifest::parse(&bytes).map_err(|error| Error::Fatal(error.into()))?;
        fatal(ExitCode::Disk, files::create_dirs(&dir))?;
        for shard in manifest.shards() {
            let path = dir.join(&shard.path);
            let there = files::digest(&path).is_ok_and(|there| there == (shard.sha256, shard.size));
            if !there {
                // Into a directory that becomes the file's place only when the bytes are right.
                let temporary = dir.join(format!("{}{}", files::TEMPORARY, shard.path));
                download(relay, &shard.sha256, shard.size, &temporary, code)?;
                let renamed = fs::rename(&temporary, &path);
                fatal(ExitCode::Disk, files::Named::named(renamed, "write", &path))?;
            }
        }
        fatal(ExitCode::Disk, files::write_atomic(&path, &bytes))
    }

    fn fetch_start(&self, relay: &Relay, start: &Start) -> Result<(), Error> {
        let code = ExitCode::BadCheckpoint;
        let store = Store::new(&self.out());
        let target = store.path(start.step);
        // This pod's own checkpoint, most often. The worker checks its contents in full.
        if checkpoint::read_manifest(&target).is_ok_and(|(_, digest)| digest == start.manifest) {
            return Ok(());
        }
        let bytes =
            blob(relay, &start.manifest, checkpoint::MAX_MANIFEST, code, "the start checkpoint's manifest")?;
        let manifest = checkpoint::Manifest::parse(&bytes)
            .map_err(|problem| Error::Fatal(Failure::new(code, format!("start checkpoint: {problem}"))))?;
        if manifest.step() != start.step {
            let problem = format!("start checkpoint: is of step {}, not {}", manifest.step(), start.step);
            return Err(Error::Fatal(Failure::new(code, problem)));
        }
        store.remove(start.step).map_err(|error| Error::Fatal(error.into()))?;
        let new = fatal(ExitCode::Disk, NewDir::create(&target))?;
        for file in manifest.files() {
            download(relay, &file.sha256, file.size, &new.path().join(&file.path), code)?;
        }
        let mut file = fatal(ExitCode::Disk, new.file(MANIFEST_FILE))?;
        fatal(ExitCode::Disk, file.write(&bytes))?;
        fatal(ExitCode::Disk, file.finish())?;
        fatal(ExitCode::Disk, new.commit())
    }
}

fn fatal<T>(code: ExitCode, result: Result<T, files::FileError>) -> Result<T, Error> {
    result.map_err(|error| Error::Fatal(Failure::new(code, error.to_string())))
}

fn wrong(code: ExitCode, what: &str, digest: &Digest, got: &Digest) -> Error {
    let message =
        format!("{what}: the relay gave bytes of digest {got} for {digest}; the store may be corrupt");
    Error::Wrong(Failure::new(code, message))
}

/// A small blob into memory.
fn blob(relay: &Relay, digest: &Digest, limit: u64, code: ExitCode, what: &str) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let read = relay.blob(digest, limit)?.take(limit + 1).read_to_end(&mut bytes);
    read.map_err(|error| Unavailable(format!("blob {digest} broke off: {error}")))?;
    if bytes.len() as u64 > limit {
        let message = format!("{what}: longer than {limit} bytes");
        return Err(Error::Fatal(Failure::new(code, message)));
    }
    match Digest::of(&bytes) {
        got if got == *digest => Ok(bytes),
        got => Err(wrong(code, what, digest, &got)),
    }
}

/// A blob of known size into a file, durable and right when this returns.
fn download(relay: &Relay, digest: &Digest, size: u64, path: &Path, code: ExitCode) -> Result<(), Error> {
    let mut stream = relay.blob(digest, size)?.take(size + 1);
    let mut file = fatal(ExitCode::Disk, files::NewFile::create(path))?;
    let mut buffer = vec![0; 1 << 16];
    loop {
        let n = stream
            .read(&mut buffer)
            .map_err(|error| Unavailable(format!("blob {digest} broke off: {error}")))?;
        if n == 0 {
            break;
        }
        fatal(ExitCode::Disk, file.write(&buffer[..n]))?;
    }
    let (got, length) = fatal(ExitCode::Disk, file.finish())?;
    if got != *digest || length != size {
        drop(fs::remove_file(path));
        return Err(wrong(code, &format!("{} of {length} bytes", path.display()), digest, &got));
    }
    Ok(())
}
