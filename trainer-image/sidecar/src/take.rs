//! One hand-over after the other: files are digested, the manifest is written, the directory becomes a checkpoint.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

use muster_proof::Digest;
use muster_trainer::checkpoint::{
    self, Error, FILES, MANIFEST_FILE, MAX_SCALARS, SCALARS_FILE, Scalars, Store,
};
use muster_trainer::failure::Failure;
use muster_trainer::files::{self, Named as _};
use muster_trainer::protocol::ExitCode;
use muster_trainer::protocol::handover::{Answer, Written};
use muster_trainer::work::Work;

use crate::hear::Answers;
use crate::upload::{Sealed, Uploads};
use crate::warn;

/// The thread that takes hand-overs, in the order in which it was told of them.
#[derive(Debug, Clone)]
pub struct Taker {
    to: Sender<Written>,
    /// Those that it has not finished.
    open: Arc<AtomicUsize>,
    thread: Arc<JoinHandle<()>>,
}

impl Taker {
    /// Starts the thread. Checkpoints go on to `uploads`.
    pub fn start(work: Work, uploads: Uploads, answers: Arc<Answers>) -> Result<Self, Failure> {
        let (to, from) = channel();
        let open = Arc::new(AtomicUsize::new(0));
        let mine = open.clone();
        let thread = thread::Builder::new()
            .name("take".into())
            .spawn(move || run(&work, &uploads, &answers, &from, &mine))
            .map_err(|error| Failure::usage(format!("cannot start a thread: {error}")))?;
        Ok(Self { to, open, thread: Arc::new(thread) })
    }

    /// Notes a hand-over; never waits.
    pub fn push(&self, written: Written) {
        self.open.fetch_add(1, Ordering::Relaxed);
        // A thread that died ends the process soon.
        let _ = self.to.send(written);
    }

    /// Whether a hand-over is not finished.
    pub fn is_busy(&self) -> bool {
        self.open.load(Ordering::Relaxed) > 0
    }

    /// Whether the thread has ended, which it never should.
    pub fn has_died(&self) -> bool {
        self.thread.is_finished()
    }
}

fn run(work: &Work, uploads: &Uploads, answers: &Answers, from: &Receiver<Written>, open: &AtomicUsize) {
    // A state that is wrong ends the pod. What its worker has written meanwhile must not push out what shows why. One that
    // is not there was given up for newer ones.
    let mut fault: Option<Failure> = None;
    for written in from {
        let step = written.step;
        let taken = match &fault {
            None => take(work, written),
            Some(failure) => Err(failure.clone()),
        };
        match taken {
            Ok(Some(sealed)) => {
                answers.send(&Answer::Checkpoint {
                    step,
                    state_root: sealed.state_root,
                    manifest: sealed.manifest,
                });
                let store = Store::new(&work.job());
                // Linked for the upload first: then the store may forget it.
                if let Err(error) = uploads.push(sealed, &store.path(step)) {
                    warn(&format!("checkpoint of step {step} is not uploaded: {error}"));
                    answers.send(&Answer::refused(step, ExitCode::Disk.code(), &error.to_string()));
                }
                if let Err(error) = store.keep_last(written.keep_last, step) {
                    warn(&format!("an old checkpoint stays: {error}"));
                }
            }
            // Nobody waits for it any more: an answer about a newer one follows.
            Ok(None) => {}
            Err(failure) => {
                warn(&format!("the state of step {step} is no checkpoint: {failure}"));
                answers.send(&Answer::refused(step, failure.code.code(), &failure.message));
                let is_there = work.handover(written.round, step).is_dir();
                fault = fault.or((failure.code == ExitCode::BadCheckpoint && is_there).then_some(failure));
            }
        }
        open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Makes a checkpoint of a hand-over. `None`: it is gone, and newer ones are here.
pub(crate) fn take(work: &Work, written: Written) -> Result<Option<Sealed>, Failure> {
    let from = work.handover(written.round, written.step);
    let store = Store::new(&work.job());
    let to = store.path(written.step);
    let is_there = || fs::symlink_metadata(&from).is_ok_and(|there| there.is_dir());
    if !is_there() {
        return gone(&store, written, &from);
    }
    match seal(work, &store, written, &from, &to) {
        // The supervisor has given it up meanwhile for newer ones.
        Err(_) if !is_there() => gone(&store, written, &from),
        sealed => sealed.map(Some),
    }
}

fn seal(work: &Work, store: &Store, written: Written, from: &Path, to: &Path) -> Result<Sealed, Failure> {
    check_plain(from)?;
    let scalars = read_scalars(from)?;
    if scalars.step() != written.step {
        let message = format!("{}: is of step {}, not {}", from.display(), scalars.step(), written.step);
        return Err(Failure::new(ExitCode::BadCheckpoint, message));
    }
    let (_, graph) = checkpoint::graph_of(from)?;
    let manifest = checkpoint::seal(from, &graph, &scalars)?;
    let bytes = manifest.to_bytes().map_err(Error::State)?;
    let sealed =
        Sealed { step: written.step, state_root: manifest.state_root(), manifest: Digest::of(&bytes) };
    match checkpoint::read_manifest(to) {
        Ok((_, there)) if there == sealed.manifest => {
            // A new round passes the same states again.
            fs::remove_dir_all(from).named("remove", from).map_err(Error::Write)?;
            return Ok(sealed);
        }
        Ok((there, _)) => return Err(differs(to, there.state_root(), from, &sealed)),
        Err(Error::Missing(_)) => {}
        Err(_) => store.remove(written.step)?,
    }
    files::write_atomic(&from.join(MANIFEST_FILE), &bytes).map_err(Error::Write)?;
    let parent = to.parent().unwrap_or(to);
    files::create_dirs(parent).map_err(Error::Write)?;
    fs::rename(from, to).named("create", to).map_err(Error::Write)?;
    files::sync_dir(parent).map_err(Error::Write)?;
    files::sync_dir(&work.handovers()).map_err(Error::Write)?;
    // Last, for who is interrupted before begins again with it.
    drop(fs::remove_file(to.join(SCALARS_FILE)));
    Ok(sealed)
}

/// Files and nothing else: a link could lead to what only the sidecar may read, and a pipe would be waited for for ever.
fn check_plain(dir: &Path) -> Result<(), Failure> {
    for name in FILES.iter().chain([&SCALARS_FILE]) {
        let path = dir.join(name);
        let kind = fs::symlink_metadata(&path).named("inspect", &path).map_err(Error::Read)?.file_type();
        if !kind.is_file() {
            let message = format!("{} is not a file", path.display());
            return Err(Failure::new(ExitCode::BadCheckpoint, message));
        }
    }
    Ok(())
}

fn read_scalars(dir: &Path) -> Result<Scalars, Failure> {
    let path = dir.join(SCALARS_FILE);
    let bytes = files::read_at_most(&path, MAX_SCALARS).map_err(Error::Read)?;
    Scalars::parse(&bytes).map_err(|problem| {
        Failure::new(ExitCode::BadCheckpoint, format!("{} is corrupt: {problem}", path.display()))
    })
}

/// A hand-over whose directory is not there: taken before, or given up for newer ones.
fn gone(store: &Store, written: Written, from: &Path) -> Result<Option<Sealed>, Failure> {
    if let Ok((manifest, digest)) = checkpoint::read_manifest(&store.path(written.step))
        && manifest.step() == written.step
    {
        let state_root = manifest.state_root();
        return Ok(Some(Sealed { step: written.step, state_root, manifest: digest }));
    }
    if store.steps()?.last().is_some_and(|newest| *newest > written.step) {
        return Ok(None);
    }
    let message = format!("{} is not there; nothing of it can be saved", from.display());
    Err(Failure::new(ExitCode::BadCheckpoint, message))
}

/// Two computations of one state differ. That must not be: one machine is faulty.
fn differs(there: &Path, root: Digest, here: &Path, sealed: &Sealed) -> Failure {
    let message = format!(
        "{} says stateRoot {root}, but {} of the same step of the same job is {}: one of the two was computed wrongly; \
         check this machine's memory, keep both, and compare with a third run",
        there.display(),
        here.display(),
        sealed.state_root
    );
    Failure::new(ExitCode::BadCheckpoint, message)
}

#[cfg(test)]
mod tests {
    use muster_numerics::graph::{Graph, StepShape};
    use muster_numerics::spec::{Architecture, Arithmetic, ModelSpec, TiedEmbeddings};
    use muster_numerics::state::State;

    use super::*;

    const JOB: Digest = Digest::from_bytes([7; 32]);

    struct Site {
        _dir: tempfile::TempDir,
        work: Work,
        model: ModelSpec,
        graph: Graph,
    }

    fn written(round: u32, step: u64) -> Written {
        Written { round, step, keep_last: 2 }
    }

    impl Site {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let work = Work::new(dir.path());
            let model = ModelSpec {
                architecture: Architecture::Gpt2,
                layers: 1,
                width: 16,
                heads: 2,
                context: 8,
                vocabulary: 20,
                tied_embeddings: TiedEmbeddings::Tied,
            };
            let shape = StepShape { batch: 1, shards: 1 };
            let graph = Graph::build(&model, shape, Arithmetic::F32Chain).unwrap();
            Self { _dir: dir, work, model, graph }
        }

        /// What a worker of round `round` writes at `step`; other `seed`s give other bits.
        fn write(&self, round: u32, step: u64, seed: u64) -> State {
            let mut state = State::genesis(&self.graph, seed);
            (state.step, state.b1p, state.b2p) = (step, 0.81, 0.9);
            state.m.iter_mut().zip((0u8..=255).cycle()).for_each(|(m, i)| *m = f32::from(i));
            let dir = self.work.handover(round, step);
            checkpoint::hand_over(&dir, &self.model, &self.graph, JOB, &state).unwrap();
            state
        }

        fn take(&self, round: u32, step: u64) -> Result<Option<Sealed>, Failure> {
            take(&self.work, written(round, step))
        }

        fn checkpoint(&self, step: u64) -> std::path::PathBuf {
            Store::new(&self.work.job()).path(step)
        }
    }

    #[test]
    fn a_hand_over_becomes_the_checkpoint_that_a_worker_alone_writes() {
        let site = Site::new();
        let state = site.write(1, 4, 0);
        let sealed = site.take(1, 4).unwrap().unwrap();
        let alone = site.work.dir().join("alone");
        let saved = checkpoint::save(&alone, &site.model, &site.graph, JOB, &state).unwrap();
        assert_eq!((sealed.manifest, sealed.state_root), (saved.manifest, saved.state_root));
        let names = |dir: &Path| {
            let mut names: Vec<_> =
                fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            names
        };
        assert_eq!(names(&site.checkpoint(4)), names(&alone));
        for name in names(&alone) {
            let there = fs::read(site.checkpoint(4).join(&name)).unwrap();
            assert_eq!(there, fs::read(alone.join(&name)).unwrap(), "{name:?}");
        }
        assert!(!site.work.handover(1, 4).exists());
        let (_, _, read, _) = checkpoint::open(&site.checkpoint(4)).unwrap();
        assert_eq!(read, state);
    }

    #[test]
    fn what_is_told_twice_is_one_checkpoint() {
        let site = Site::new();
        site.write(1, 4, 0);
        let first = site.take(1, 4).unwrap().unwrap();
        assert_eq!(site.take(1, 4).unwrap(), Some(first), "the sidecar was started again");
        site.write(2, 4, 0);
        assert_eq!(site.take(2, 4).unwrap(), Some(first), "another round passes the same state");
        assert!(!site.work.handover(2, 4).exists());
        // Interrupted after the manifest, before the move.
        site.write(1, 8, 0);
        let eight = site.take(1, 8).unwrap();
        fs::remove_dir_all(site.checkpoint(8)).unwrap();
        site.write(1, 8, 0);
        fs::write(site.work.handover(1, 8).join(MANIFEST_FILE), b"{half").unwrap();
        assert_eq!(site.take(1, 8).unwrap(), eight);
    }

    #[test]
    fn other_bits_for_a_step_are_refused_and_both_kept() {
        let site = Site::new();
        site.write(1, 4, 0);
        let first = site.take(1, 4).unwrap().unwrap();
        site.write(2, 4, 1);
        let failure = site.take(2, 4).unwrap_err();
        assert_eq!(failure.code, ExitCode::BadCheckpoint);
        assert!(failure.message.contains("computed wrongly") && failure.message.contains("2-4"), "{failure}");
        assert!(site.work.handover(2, 4).is_dir());
        assert_eq!(checkpoint::read_manifest(&site.checkpoint(4)).unwrap().1, first.manifest);
        // A checkpoint that is none stands in nobody's way.
        fs::write(site.checkpoint(4).join(MANIFEST_FILE), b"{}").unwrap();
        assert!(site.take(2, 4).unwrap().is_some_and(|second| second.manifest != first.manifest));
    }

    #[test]
    fn a_damaged_hand_over_is_named_and_never_a_checkpoint() {
        for name in FILES.iter().chain([&SCALARS_FILE]) {
            let site = Site::new();
            site.write(1, 4, 0);
            let path = site.work.handover(1, 4).join(name);
            let good = fs::read(&path).unwrap();
            for bad in [&good[..good.len() / 2], b"", b"garbage"] {
                fs::write(&path, bad).unwrap();
                let failure = site.take(1, 4).unwrap_err();
                assert_eq!(failure.code, ExitCode::BadCheckpoint, "{failure}");
                assert!(failure.message.contains(name), "{failure}");
                assert!(!site.checkpoint(4).exists());
            }
            // A link leads somewhere else, a pipe would be waited for.
            fs::remove_file(&path).unwrap();
            let elsewhere = site.work.dir().join("elsewhere");
            fs::write(&elsewhere, &good).unwrap();
            std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
            assert!(site.take(1, 4).unwrap_err().message.contains("is not a file"));
            fs::remove_file(&path).unwrap();
            assert!(site.take(1, 4).unwrap_err().message.contains(name), "it is not there");
        }
        let site = Site::new();
        site.write(1, 4, 0);
        fs::rename(site.work.handover(1, 4), site.work.handover(1, 8)).unwrap();
        assert!(site.take(1, 8).unwrap_err().message.contains("is of step 4, not 8"));
    }

    #[test]
    fn what_is_gone_is_an_end_only_if_nothing_newer_is_there() {
        let site = Site::new();
        let failure = site.take(1, 4).unwrap_err();
        assert_eq!(failure.code, ExitCode::BadCheckpoint);
        site.write(1, 8, 0);
        site.take(1, 8).unwrap();
        assert_eq!(site.take(1, 4).unwrap(), None);
        assert!(site.take(1, 12).is_err());
    }
}
