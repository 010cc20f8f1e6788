//! One hand-over after the other: files are digested, the manifest is written, the directory becomes a checkpoint. The
//! records of its interval are taken out of it and kept beside.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

use muster_proof::Digest;
use muster_proof::steps::Records;
use muster_trainer::checkpoint::{
    self, CONFIG_FILE, Error, Layout, MANIFEST_FILE, MAX_SCALARS, SCALARS_FILE, Scalars, Store,
};
use muster_trainer::failure::Failure;
use muster_trainer::files::{self, Named as _};
use muster_trainer::protocol::ExitCode;
use muster_trainer::protocol::handover::{Answer, FailedStep, Line, Written};
use muster_trainer::records::{self, RECORDS_FILE};
use muster_trainer::work::Work;

use crate::hear::Answers;
use crate::kept::{Kept, bad_records};
use crate::queue::{self, Item, Sealed};
use crate::upload::Uploads;
use crate::warn;

/// What a hand-over became.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// A checkpoint.
    Sealed(Sealed),
    /// One that is durable already, and forgotten here.
    Durable,
}

/// The thread that takes hand-overs, in the order in which it was told of them.
#[derive(Debug, Clone)]
pub struct Taker {
    to: Sender<Line>,
    /// Those that it has not finished.
    open: Arc<AtomicUsize>,
    thread: Arc<JoinHandle<()>>,
}

impl Taker {
    /// Starts the thread. Checkpoints go on to `uploads`.
    pub fn start(work: Work, kept: Kept, uploads: Uploads, answers: Arc<Answers>) -> Result<Self, Failure> {
        let (to, from) = channel();
        let open = Arc::new(AtomicUsize::new(0));
        let mine = open.clone();
        let thread = thread::Builder::new()
            .name("take".into())
            .spawn(move || {
                let taker = Take { work, kept, uploads, answers };
                taker.run(&from, &mine);
            })
            .map_err(|error| Failure::usage(format!("cannot start a thread: {error}")))?;
        Ok(Self { to, open, thread: Arc::new(thread) })
    }

    /// Notes a hand-over; never waits.
    pub fn push(&self, line: Line) {
        self.open.fetch_add(1, Ordering::Relaxed);
        // A thread that died ends the process soon.
        let _ = self.to.send(line);
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

/// The thread's own.
struct Take {
    work: Work,
    kept: Kept,
    uploads: Uploads,
    answers: Arc<Answers>,
}

impl Take {
    fn run(&self, from: &Receiver<Line>, open: &AtomicUsize) {
        // A state that is wrong ends the pod. What its worker has written meanwhile must not push out what shows why.
        let mut fault: Option<Failure> = None;
        for line in from {
            match line {
                Line::Written(written) => self.state(written, &mut fault),
                Line::Failed(failed) => self.failed(failed, fault.as_ref()),
            }
            open.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn state(&self, written: Written, fault: &mut Option<Failure>) {
        let step = written.step;
        let taken = match fault {
            None => take(&self.work, &self.kept, written),
            Some(failure) => Err(failure.clone()),
        };
        match taken {
            Ok(Taken::Sealed(sealed)) => self.pass_on(written, sealed),
            Ok(Taken::Durable) => self.answers.send(&Answer::Durable { step }),
            Err(failure) => {
                warn(&format!("the state of step {step} is no checkpoint: {failure}"));
                self.answers.send(&Answer::refused(step, failure.code.code(), &failure.message));
                let is_there = self.work.handover(written.round, step).is_dir();
                if failure.code == ExitCode::BadCheckpoint && is_there {
                    fault.get_or_insert(failure);
                }
            }
        }
    }

    /// A step that is not finite. There is nothing to make of it; the states before it are on their way already.
    fn failed(&self, FailedStep { round, step }: FailedStep, fault: Option<&Failure>) {
        let read = match fault {
            None => self.kept.failed(round, step),
            Some(failure) => Err(failure.clone()),
        };
        match read {
            Ok(failed) => {
                let before = failed.before();
                self.add(Item::Failure(queue::Failed { round, step, before }));
            }
            // Told once more after its answer was lost.
            Err(_) if step <= self.kept.durable_step() => self.answers.send(&Answer::Durable { step }),
            Err(failure) => {
                warn(&format!("step {step}: {failure}"));
                self.answers.send(&Answer::refused(step, failure.code.code(), &failure.message));
            }
        }
    }

    /// A checkpoint on its way to the relay. Here it waits while too many do, so that the worker waits, too.
    fn pass_on(&self, Written { step, keep_last, .. }: Written, sealed: Sealed) {
        let Sealed { state_root, manifest, .. } = sealed;
        self.answers.send(&Answer::Checkpoint { step, state_root, manifest });
        let store = Store::new(&self.work.job());
        let disk = |error: files::FileError| Failure::new(ExitCode::Disk, error.to_string());
        // Linked for the upload first: then the store may forget it.
        let linked = self
            .uploads
            .room()
            .and_then(|()| self.kept.link(step, &manifest, &store.path(step)).map_err(disk));
        match linked {
            Ok(()) => self.add(Item::Checkpoint(sealed)),
            Err(Failure { code, message }) => {
                warn(&format!("checkpoint of step {step} is not uploaded: {message}"));
                self.answers.send(&Answer::refused(step, code.code(), &message));
            }
        }
        if let Err(error) = store.keep_last(keep_last, step) {
            warn(&format!("an old checkpoint stays: {error}"));
        }
    }

    /// What an earlier round has brought to the hub, maybe just now, is not brought again.
    fn add(&self, item: Item) {
        if self.uploads.push(item) {
            return;
        }
        self.kept.forget(&item);
        self.answers.send(&Answer::Durable { step: item.step() });
    }
}

/// Makes a checkpoint of a hand-over.
fn take(work: &Work, kept: &Kept, written: Written) -> Result<Taken, Failure> {
    let from = work.handover(written.round, written.step);
    let store = Store::new(&work.job());
    let to = store.path(written.step);
    let is_there = || fs::symlink_metadata(&from).is_ok_and(|there| there.is_dir());
    if !is_there() {
        return gone(&store, kept, written, &from);
    }
    match seal(work, &store, kept, written, &from, &to) {
        // The supervisor has removed it meanwhile, as what nobody waits for.
        Err(_) if !is_there() => gone(&store, kept, written, &from),
        sealed => sealed.map(Taken::Sealed),
    }
}

fn seal(
    work: &Work,
    store: &Store,
    kept: &Kept,
    written: Written,
    from: &Path,
    to: &Path,
) -> Result<Sealed, Failure> {
    let step = written.step;
    check_plain(from, [CONFIG_FILE, SCALARS_FILE])?;
    let scalars = read_scalars(from)?;
    if scalars.step() != step {
        let message = format!("{}: is of step {}, not {step}", from.display(), scalars.step());
        return Err(Failure::new(ExitCode::BadCheckpoint, message));
    }
    let records = read_records(kept, from, step)?;
    let (_, graph) = checkpoint::graph_of(from)?;
    check_plain(from, Layout::of(&graph)?.names())?;
    let manifest = checkpoint::seal(from, &graph, &scalars)?;
    let bytes = manifest.to_bytes().map_err(Error::State)?;
    let sealed = Sealed { step, state_root: manifest.state_root(), manifest: Digest::of(&bytes) };
    match checkpoint::read_manifest(to) {
        Ok((_, there)) if there == sealed.manifest => {
            // A new round passes the same states again.
            kept.put(step, &records, &bytes)?;
            fs::remove_dir_all(from).named("remove", from).map_err(Error::Write)?;
            return Ok(sealed);
        }
        Ok((there, _)) => return Err(differs(to, there.state_root(), from, &sealed)),
        Err(Error::Missing(_)) => {}
        Err(_) => store.remove(step)?,
    }
    if let Some((there, digest)) = kept.manifest(step)
        && digest != sealed.manifest
    {
        return Err(differs(&work.kept(step).1, there.state_root(), from, &sealed));
    }
    kept.put(step, &records, &bytes)?;
    // Before it has the name of a checkpoint: none ever has its records in it. Whoever is interrupted here finds those
    // that are kept.
    drop(fs::remove_file(from.join(RECORDS_FILE)));
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

/// The records of a hand-over; those that are kept if this was interrupted after they were taken out of it.
fn read_records(kept: &Kept, from: &Path, step: u64) -> Result<Records, Failure> {
    let path = from.join(RECORDS_FILE);
    match records::read(&path, step) {
        Ok(records) => Ok(records),
        Err(records::Error::Read(error)) if error.is_missing() => {
            kept.records(step).map_err(|_| bad_records(&path, &error.into()))
        }
        Err(error) => Err(bad_records(&path, &error)),
    }
}

/// Files and nothing else: a link could lead to what only the sidecar may read, and a pipe would be waited for for ever.
fn check_plain<'a>(dir: &Path, names: impl IntoIterator<Item = &'a str>) -> Result<(), Failure> {
    for name in names {
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
    let bytes = files::read_plain(&path, MAX_SCALARS).map_err(Error::Read)?;
    Scalars::parse(&bytes).map_err(|problem| {
        Failure::new(ExitCode::BadCheckpoint, format!("{} is corrupt: {problem}", path.display()))
    })
}

/// A hand-over whose directory is not there: it was taken before.
fn gone(store: &Store, kept: &Kept, written: Written, from: &Path) -> Result<Taken, Failure> {
    let step = written.step;
    // The checkpoint itself may have made room for newer ones.
    if let Some((manifest, digest)) = kept.manifest(step) {
        // An interruption between the move and the end.
        drop(fs::remove_file(store.path(step).join(SCALARS_FILE)));
        return Ok(Taken::Sealed(Sealed { step, state_root: manifest.state_root(), manifest: digest }));
    }
    // After the look at what is kept: it goes once this is noted.
    if step <= kept.durable_step() {
        return Ok(Taken::Durable);
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
    use muster_proof::steps::{Bits, StepRecord};

    use super::*;

    const JOB: Digest = Digest::from_bytes([7; 32]);

    struct Site {
        _dir: tempfile::TempDir,
        work: Work,
        kept: Kept,
        model: ModelSpec,
        graph: Graph,
    }

    fn written(round: u32, step: u64) -> Written {
        Written { round, step, keep_last: 2 }
    }

    /// Of the four steps up to `step`.
    fn records(step: u64, loss: f32) -> Records {
        let record = |step| StepRecord {
            eval_loss: None,
            grad_norm: Bits::of(1.0),
            learning_rate: Bits::of(0.5),
            loss: Bits::of(loss),
            step,
        };
        Records::new(step - 3, (step - 3..=step).map(record).collect()).unwrap()
    }

    impl Site {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let work = Work::new(dir.path());
            let kept = Kept::open(&work).unwrap();
            let model = ModelSpec {
                architecture: Architecture::Gpt2,
                layers: 1,
                width: 16,
                heads: 2,
                context: 8,
                vocabulary: 20,
                tied_embeddings: TiedEmbeddings::Tied,
                llama: None,
            };
            let shape = StepShape { batch: 1, shards: 1 };
            let graph = Graph::build(&model, shape, Arithmetic::F32Chain).unwrap();
            Self { _dir: dir, work, kept, model, graph }
        }

        /// What a worker of round `round` writes at `step`; other `seed`s give other bits.
        fn write(&self, round: u32, step: u64, seed: u64) -> State {
            let mut state = State::genesis(&self.graph, seed);
            (state.step, state.b1p, state.b2p) = (step, 0.81, 0.9);
            state.m.iter_mut().zip((0u8..=255).cycle()).for_each(|(m, i)| *m = f32::from(i));
            let dir = self.work.handover(round, step);
            checkpoint::hand_over(&dir, &self.model, &self.graph, JOB, &state, &records(step, 1.0)).unwrap();
            state
        }

        fn take(&self, round: u32, step: u64) -> Result<Sealed, Failure> {
            match take(&self.work, &self.kept, written(round, step))? {
                Taken::Sealed(sealed) => Ok(sealed),
                Taken::Durable => panic!("durable"),
            }
        }

        fn records(&self, round: u32, step: u64) -> std::path::PathBuf {
            self.work.handover(round, step).join(RECORDS_FILE)
        }

        fn checkpoint(&self, step: u64) -> std::path::PathBuf {
            Store::new(&self.work.job()).path(step)
        }
    }

    #[test]
    fn a_hand_over_becomes_the_checkpoint_that_a_worker_alone_writes() {
        let site = Site::new();
        let state = site.write(1, 4, 0);
        let sealed = site.take(1, 4).unwrap();
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
        let first = site.take(1, 4).unwrap();
        assert_eq!(site.take(1, 4).unwrap(), first, "the sidecar was started again");
        site.write(2, 4, 0);
        assert_eq!(site.take(2, 4).unwrap(), first, "another round passes the same state");
        assert!(!site.work.handover(2, 4).exists());
        // Interrupted after the manifest, before the move.
        site.write(1, 8, 0);
        let eight = site.take(1, 8).unwrap();
        fs::remove_dir_all(site.checkpoint(8)).unwrap();
        site.write(1, 8, 0);
        fs::write(site.work.handover(1, 8).join(MANIFEST_FILE), b"{half").unwrap();
        assert_eq!(site.take(1, 8).unwrap(), eight);
        // Interrupted after the records were taken out of it.
        fs::remove_dir_all(site.checkpoint(8)).unwrap();
        site.write(1, 8, 0);
        fs::remove_file(site.records(1, 8)).unwrap();
        assert_eq!(site.take(1, 8).unwrap(), eight);
        // After the move: the checkpoint has even made room for newer ones.
        fs::remove_dir_all(site.checkpoint(8)).unwrap();
        assert_eq!(site.take(1, 8).unwrap(), eight);
    }

    #[test]
    fn records_are_kept_beside_and_never_in_a_checkpoint() {
        let site = Site::new();
        site.write(1, 4, 0);
        assert!(site.records(1, 4).is_file());
        site.take(1, 4).unwrap();
        assert!(!site.checkpoint(4).join(RECORDS_FILE).exists());
        assert_eq!(site.kept.records(4).unwrap(), records(4, 1.0));
        // The same state with other records was not computed the same way.
        site.write(2, 4, 0);
        fs::write(site.records(2, 4), records::to_bytes(&records(4, 2.0)).unwrap()).unwrap();
        let failure = site.take(2, 4).unwrap_err();
        assert!(
            failure.code == ExitCode::BadCheckpoint && failure.message.contains("computed wrongly"),
            "{failure}"
        );
        assert!(site.records(2, 4).is_file() && site.checkpoint(4).is_dir());
    }

    #[test]
    fn records_that_are_none_end_the_pod() {
        let text = String::from_utf8(records::to_bytes(&records(4, 1.0)).unwrap()).unwrap();
        let other = records::to_bytes(&records(5, 1.0)).unwrap();
        for (bad, want) in [
            (b"".to_vec(), "not a list"),
            (b"[]".to_vec(), "no step record"),
            (text.replace(",{", ", {").into_bytes(), "canonical"),
            (text.replacen("\"step\":1", "\"step\":2", 1).into_bytes(), "step"),
            (other, "ends with step 5"),
            (text.replace("3f800000", "7fc00000").into_bytes(), "finite"),
        ] {
            let site = Site::new();
            site.write(1, 4, 0);
            fs::write(site.records(1, 4), bad).unwrap();
            let failure = site.take(1, 4).unwrap_err();
            assert_eq!(failure.code, ExitCode::BadCheckpoint);
            assert!(
                failure.message.contains(want) && failure.message.contains(RECORDS_FILE),
                "{want}: {failure}"
            );
            assert!(!site.checkpoint(4).exists());
        }
        let site = Site::new();
        site.write(1, 4, 0);
        let path = site.records(1, 4);
        // Sparse: as large as may be, and one more.
        fs::File::create(&path).unwrap().set_len(records::MAX_FILE + 1).unwrap();
        assert!(site.take(1, 4).unwrap_err().message.contains("longer than"));
        let away = || fs::remove_file(&path).unwrap();
        away();
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        assert!(site.take(1, 4).unwrap_err().message.contains("not a file"));
        away();
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        assert_eq!(site.take(1, 4).unwrap_err().code, ExitCode::BadCheckpoint);
        away();
        fs::create_dir(&path).unwrap();
        assert_eq!(site.take(1, 4).unwrap_err().code, ExitCode::BadCheckpoint);
        fs::remove_dir(&path).unwrap();
        assert!(site.take(1, 4).unwrap_err().message.contains(RECORDS_FILE), "there are none");
    }

    #[test]
    fn other_bits_for_a_step_are_refused_and_both_kept() {
        let site = Site::new();
        site.write(1, 4, 0);
        let first = site.take(1, 4).unwrap();
        site.write(2, 4, 1);
        let failure = site.take(2, 4).unwrap_err();
        assert_eq!(failure.code, ExitCode::BadCheckpoint);
        assert!(failure.message.contains("computed wrongly") && failure.message.contains("2-4"), "{failure}");
        assert!(site.work.handover(2, 4).is_dir());
        assert_eq!(checkpoint::read_manifest(&site.checkpoint(4)).unwrap().1, first.manifest);
        // Its manifest is kept beside, in case it is damaged.
        fs::write(site.checkpoint(4).join(MANIFEST_FILE), b"{}").unwrap();
        assert!(site.take(2, 4).unwrap_err().message.contains("computed wrongly"));
        // A checkpoint that is none stands in nobody's way.
        fs::remove_file(site.work.kept(4).1).unwrap();
        assert_ne!(site.take(2, 4).unwrap().manifest, first.manifest);
    }

    #[test]
    fn a_damaged_hand_over_is_named_and_never_a_checkpoint() {
        for name in checkpoint::FILES.iter().chain([&SCALARS_FILE]) {
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
    fn what_is_gone_is_an_end_unless_it_is_durable() {
        let site = Site::new();
        let failure = site.take(1, 4).unwrap_err();
        assert_eq!(failure.code, ExitCode::BadCheckpoint);
        site.write(1, 8, 0);
        site.take(1, 8).unwrap();
        assert!(site.take(1, 4).is_err() && site.take(1, 12).is_err());
        site.kept.durable(8).unwrap();
        for step in [4, 8] {
            let taken = take(&site.work, &site.kept, written(1, step)).unwrap();
            assert_eq!(taken, Taken::Durable);
        }
        assert!(site.take(1, 12).is_err());
    }
}
