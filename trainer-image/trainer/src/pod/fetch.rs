//! Spec, dataset, and what the attempt starts from, from the relay onto the disk, each blob checked against its digest. What is
//! there already is not fetched again, so a retry goes on where it broke off.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use muster_proof::Digest;
use muster_proof::inputs::Inputs;

use crate::checkpoint::{self, MANIFEST_FILE, Manifest, Store};
use crate::dataset;
use crate::failure::Failure;
use crate::files::{self, NewDir};
use crate::hf;
use crate::protocol::{Assignment, ExitCode, Start};
use crate::relay::{Relay, Unavailable};
use crate::resolved::MAX_SPEC;
use crate::work::Work;

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

/// What was fetched that not every job has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Dirs {
    /// The dataset that the job is evaluated on.
    pub eval_data: Option<PathBuf>,
    /// The model whose weights it begins with, if it begins now.
    pub init: Option<PathBuf>,
}

impl From<Unavailable> for Error {
    fn from(error: Unavailable) -> Self {
        Self::Later(error)
    }
}

/// Brings everything that the worker of this assignment reads.
pub(super) fn all(work: &Work, relay: &Relay, assignment: &Assignment) -> Result<Dirs, Error> {
    fatal(ExitCode::Disk, files::create_dirs(work.dir()))?;
    let spec = blob(relay, &assignment.spec, MAX_SPEC, ExitCode::BadSpec, "the spec")?;
    fatal(ExitCode::Disk, files::write_atomic(&work.spec(), &spec))?;
    data(&work.data(), relay, &assignment.dataset)?;
    let inputs = Inputs::of_spec(&spec).map_err(|error| Error::Fatal(Failure::usage(error.to_string())))?;
    let mut dirs = Dirs { eval_data: None, init: None };
    if let Some(digest) = &inputs.held_out {
        let dir = dirs.eval_data.insert(work.eval_data());
        data(dir, relay, digest)?;
    }
    start(work, relay, assignment.start.as_ref())?;
    if let (Some(digest), None) = (&inputs.init, &assignment.start) {
        let dir = dirs.init.insert(work.init());
        model(dir, relay, digest)?;
    }
    Ok(dirs)
}

fn data(dir: &Path, relay: &Relay, digest: &Digest) -> Result<(), Error> {
    let code = ExitCode::BadData;
    let path = dir.join(dataset::MANIFEST_FILE);
    let bytes = blob(relay, digest, dataset::MAX_MANIFEST, code, "the dataset's manifest")?;
    let manifest = dataset::Manifest::parse(&bytes).map_err(|error| Error::Fatal(error.into()))?;
    fatal(ExitCode::Disk, files::create_dirs(dir))?;
    for shard in manifest.shards() {
        part(dir, relay, &shard.path, (shard.sha256, shard.size), code)?;
    }
    fatal(ExitCode::Disk, files::write_atomic(&path, &bytes))
}

/// The files of a model. Whether they are the job's state 0 is for the worker to see.
fn model(dir: &Path, relay: &Relay, digest: &Digest) -> Result<(), Error> {
    let code = ExitCode::BadCheckpoint;
    let bytes = blob(relay, digest, hf::MAX_MANIFEST, code, "the manifest of the model to begin with")?;
    let manifest = hf::Manifest::parse(&bytes)
        .map_err(|problem| Error::Fatal(Failure::new(code, format!("the model to begin with: {problem}"))))?;
    fatal(ExitCode::Disk, files::create_dirs(dir))?;
    for file in manifest.files() {
        part(dir, relay, &file.path, (file.sha256, file.size), code)?;
    }
    Ok(())
}

/// One file of a directory, unless it is there.
fn part(dir: &Path, relay: &Relay, name: &str, want: (Digest, u64), code: ExitCode) -> Result<(), Error> {
    let path = dir.join(name);
    if files::digest(&path).is_ok_and(|there| there == want) {
        return Ok(());
    }
    // It gets its name only when the bytes are right.
    let temporary = dir.join(format!("{}{name}", files::TEMPORARY));
    download(relay, &want.0, want.1, &temporary, code)?;
    let renamed = fs::rename(&temporary, &path);
    fatal(ExitCode::Disk, files::Named::named(renamed, "write", &path))
}

/// The state that the worker starts from, and no other, into its own directory: what the sidecar keeps may go any time.
fn start(work: &Work, relay: &Relay, start: Option<&Start>) -> Result<(), Error> {
    let code = ExitCode::BadCheckpoint;
    let store = Store::new(&work.out());
    let fatal_store = |error: checkpoint::Error| Error::Fatal(error.into());
    for step in store.steps().map_err(fatal_store)? {
        if start.is_none_or(|start| start.step != step) {
            store.remove(step).map_err(fatal_store)?;
        }
    }
    let Some(start) = start else { return Ok(()) };
    let target = store.path(start.step);
    // That of the round before, or the sidecar's, most often. The worker checks its contents in full.
    let of = |dir: &Path| checkpoint::read_manifest(dir).ok().filter(|(_, digest)| *digest == start.manifest);
    if of(&target).is_some() {
        return Ok(());
    }
    store.remove(start.step).map_err(fatal_store)?;
    let own = Store::new(&work.job()).path(start.step);
    if of(&own).is_some_and(|(manifest, _)| link(&manifest, &own, &target).is_ok()) {
        return Ok(());
    }
    let bytes =
        blob(relay, &start.manifest, checkpoint::MAX_MANIFEST, code, "the start checkpoint's manifest")?;
    let manifest = Manifest::parse(&bytes)
        .map_err(|problem| Error::Fatal(Failure::new(code, format!("start checkpoint: {problem}"))))?;
    if manifest.step() != start.step {
        let problem = format!("start checkpoint: is of step {}, not {}", manifest.step(), start.step);
        return Err(Error::Fatal(Failure::new(code, problem)));
    }
    let new = fatal(ExitCode::Disk, NewDir::create(&target))?;
    for file in manifest.files() {
        download(relay, &file.sha256, file.size, &new.path().join(&file.path), code)?;
    }
    let mut file = fatal(ExitCode::Disk, new.file(MANIFEST_FILE))?;
    fatal(ExitCode::Disk, file.write(&bytes))?;
    fatal(ExitCode::Disk, file.finish())?;
    fatal(ExitCode::Disk, new.commit())
}

/// A second name for each file of a checkpoint. It may go away meanwhile; then there is nothing under `target`.
fn link(manifest: &Manifest, checkpoint: &Path, target: &Path) -> Result<(), files::FileError> {
    let new = NewDir::create(target)?;
    for name in manifest.files().iter().map(|file| file.path.as_str()).chain([MANIFEST_FILE]) {
        let linked = fs::hard_link(checkpoint.join(name), new.path().join(name));
        files::Named::named(linked, "link", &checkpoint.join(name))?;
    }
    new.commit()
}

fn fatal<T>(code: ExitCode, result: Result<T, files::FileError>) -> Result<T, Error> {
    result.map_err(|error| Error::Fatal(Failure::new(code, error.to_string())))
}

fn wrong(code: ExitCode, what: &str, digest: &Digest, got: &Digest) -> Error {
    let message =
        format!("{what}: the relay gave bytes of digest {got} for {digest}; the store may be corrupt");
    Error::Wrong(Failure::new(code, message))
}

/// A blob's bytes. The attempt may end between two of them: nothing is worth waiting for then.
fn open(relay: &Relay, digest: &Digest, limit: u64) -> Result<impl Read + use<>, Error> {
    let over = || Failure::new(ExitCode::Stopped, "the agent says that this attempt is over");
    relay.blob(digest, limit)?.ok_or_else(|| Error::Fatal(over()))
}

/// A small blob into memory.
fn blob(relay: &Relay, digest: &Digest, limit: u64, code: ExitCode, what: &str) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let read = open(relay, digest, limit)?.take(limit + 1).read_to_end(&mut bytes);
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
    let mut stream = open(relay, digest, size)?.take(size + 1);
    let mut file = fatal(ExitCode::Disk, files::DigestedFile::create(path))?;
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
