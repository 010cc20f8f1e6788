//! From text files to a dataset: one thread reads and cuts, some make tokens, one writes them in order. What they do at once shows
//! nowhere in the result.
//!
//! The work is done in `.NAME.partial` beside the directory that is asked for. There, `state.json` says now and then what is durable:
//! so many tokens, of so much of the inputs. The same command goes on from there. It reads what it had read before once more, for its
//! digest: files that have changed are noticed by their bytes, not by their dates.
mod input;
mod state;
#[cfg(test)]
mod tests;
mod work;

pub use state::State;

use self::input::{Inputs, Rules};
use super::cut::Split;
use super::{EncodeError, Tokenizer};
use muster_trainer::dataset::{
    self, MANIFEST_FILE, Manifest, TOKENIZER_FILE, Writer, is_occupied, same_there,
};
use muster_trainer::files::{self, FileError, Named};
use rustix::fs::{FlockOperation, flock};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// Bytes of text that are read and made tokens of at once.
const STEP: usize = 256 << 10;
/// Tokens between two states: some seconds of work.
const STATE_EVERY: u64 = 8 << 20;
/// Directory of the dataset while it is made.
const DATA: &str = "data";

/// Why there is no dataset.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk, an input that cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The dataset itself.
    #[error(transparent)]
    Dataset(#[from] dataset::Error),
    /// A text that has no tokens.
    #[error("{path}: {error}")]
    Text {
        /// The input.
        path: String,
        /// Where and what.
        error: EncodeError,
    },
    /// An input is not what it was when a part of it was read.
    #[error(
        "{path} or a file before it is not what the interrupted run had read; give the files as they were, or give \
         --restart to begin anew"
    )]
    Changed {
        /// The last that had been read.
        path: String,
    },
    /// Fewer inputs than were read before.
    #[error(
        "the interrupted run had read {0} files, fewer are given now; give the same, or --restart to begin anew"
    )]
    Fewer(usize),
    /// An input changes while it is read.
    #[error("{path} was changed while it was read; wait until nobody writes to it, and start again")]
    Moving {
        /// The input.
        path: String,
    },
    /// Other options than before.
    #[error("{what} is not that of the interrupted run; give the same options, or --restart to begin anew")]
    Options {
        /// The option.
        what: &'static str,
    },
    /// The state is none.
    #[error("{path}: {problem}; give --restart to begin anew")]
    State {
        /// The file.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Somebody else is at it.
    #[error("another `muster data prepare` is at work in {0}; wait for it")]
    Busy(String),
    /// A thread is gone.
    #[error("a thread that makes tokens has ended; this is a fault of the program, please report it")]
    Worker,
}

/// What is to be made.
#[derive(Debug, Clone, Copy)]
pub struct Job<'a> {
    /// Files, one after the other.
    pub inputs: &'a [PathBuf],
    /// Directory to make.
    pub out: &'a Path,
    /// What makes the tokens.
    pub tokenizer: &'a Tokenizer,
    /// What a document is.
    pub split: Split,
    /// Threads that make tokens.
    pub threads: usize,
    /// Whether to begin anew where another run was interrupted.
    pub restart: Restart,
}

/// What to do with the work of an interrupted run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// Go on.
    No,
    /// Remove it.
    Yes,
}

/// Who is told of the work.
pub trait Watch: Sync {
    /// So many more bytes of the inputs are done.
    fn read(&self, _bytes: u64) {}
    /// An interrupted run is taken up after so many tokens.
    fn resumed(&self, _tokens: u64) {}
    /// All up to here is durable.
    fn durable(&self, _tokens: u64) {}
}

/// How much is done at once; the result does not depend on it.
#[derive(Debug, Clone, Copy)]
struct Grain {
    step: usize,
    state_every: u64,
}

/// Makes a dataset. `job.out` appears whole or not at all; if it is there already with the same contents, that is fine. Memory does
/// not grow with the inputs.
///
/// # Errors
/// See [`Error`]. What was durable stays, for the next run.
pub fn prepare(job: &Job, watch: &dyn Watch) -> Result<Manifest, Error> {
    prepare_in(job, watch, Grain { step: STEP, state_every: STATE_EVERY })
}

fn prepare_in(job: &Job, watch: &dyn Watch, grain: Grain) -> Result<Manifest, Error> {
    let partial = partial(job.out);
    files::create_dirs(&partial)?;
    let lock = File::open(&partial).named("open", &partial)?;
    if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Err(Error::Busy(partial.display().to_string()));
    }
    let made = make(job, watch, grain, &partial);
    // Nothing durable, nothing to go on with.
    if made.is_ok() || !matches!(State::read(&partial), Err(_) | Ok(Some(_))) {
        fs::remove_dir_all(&partial).named("remove", &partial)?;
    }
    made
}

fn make(job: &Job, watch: &dyn Watch, grain: Grain, partial: &Path) -> Result<Manifest, Error> {
    let data = partial.join(DATA);
    // A run that ended between its last two steps has moved the data away and left the state.
    if job.restart == Restart::Yes || !data.exists() {
        let state = partial.join(state::STATE_FILE);
        crate::runtime::files::if_there(fs::remove_file(&state)).named("remove", &state)?;
    }
    let found = State::read(partial)?;
    let text = job.tokenizer.text().clone();
    let rules = Rules { split: job.split, unit: job.tokenizer.unit(), step: grain.step };
    let mut inputs = Inputs::new(job.inputs, rules);
    let mut writer = match &found {
        Some(state) => {
            state.check(job.tokenizer, job.split)?;
            inputs.skip_to(&state.place(), &|bytes| watch.read(bytes))?;
            let writer = Writer::resume(&data, text, &state.mark()).map_err(|error| Error::State {
                path: partial.display().to_string(),
                problem: error.to_string(),
            })?;
            watch.resumed(state.mark().tokens);
            writer
        }
        None => {
            crate::runtime::files::if_there(fs::remove_dir_all(&data)).named("remove", &data)?;
            files::create_dirs(&data)?;
            Writer::new(&data, text)
        }
    };
    let mut since = 0;
    work::in_order(job, &mut inputs, |piece, tokens| {
        writer.push(&tokens)?;
        watch.read(piece.bytes.len() as u64);
        since += tokens.len() as u64;
        if since >= grain.state_every {
            since = 0;
            let mark = writer.sync()?;
            State::new(job.tokenizer, job.split, &piece.after, &mark).write(partial)?;
            watch.durable(mark.tokens);
        }
        Ok(())
    })?;
    let manifest = writer.finish()?;
    if let Some(json) = job.tokenizer.json() {
        files::write_atomic(&data.join(TOKENIZER_FILE), json)?;
    }
    files::write_atomic(&data.join(MANIFEST_FILE), &manifest.to_bytes()?)?;
    if is_occupied(job.out) {
        same_there(job.out, &manifest)?;
        return Ok(manifest);
    }
    files::sync_dir(&data)?;
    fs::rename(&data, job.out).named("create", job.out)?;
    files::sync_dir(parent(job.out))?;
    Ok(manifest)
}

/// Where the work is done, beside what is made: a rename must not leave the file system.
fn partial(out: &Path) -> PathBuf {
    let name = out.file_name().unwrap_or_default().to_string_lossy();
    parent(out).join(format!(".{name}.partial"))
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}
