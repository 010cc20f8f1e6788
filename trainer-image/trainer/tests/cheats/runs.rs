//! What a run of the trainer comes to, interval by interval, and honest replays from its states.
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};

use muster_proof::Digest;
use muster_trainer::checkpoint::{self, Store};
use muster_trainer::failed::{FAILED_FILE, Failed};
use muster_trainer::records;

use crate::common::{INTERVAL, Job, Worker, model, training};

/// Two whole intervals.
pub const STEPS: u64 = 2 * INTERVAL;

/// What an interval comes to: StateRoot and record root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Came {
    pub state: Digest,
    pub records: Digest,
}

/// The one job that everybody trains.
pub fn job() -> &'static Job {
    static JOB: OnceLock<Job> = OnceLock::new();
    JOB.get_or_init(|| {
        let mut training = training();
        training.steps = STEPS;
        // Each interval evaluates: in its third step, and the last in its last too.
        Job::evaluated(&model(), &training, 3, 7)
    })
}

/// A run whose states are on the disk.
#[derive(Debug, Clone)]
pub struct Run {
    out: PathBuf,
    /// What its intervals are claimed to come to.
    pub came: Vec<Came>,
    /// In which step it is claimed to end, if it is not the last.
    pub failed: Option<Failed>,
}

impl Run {
    /// The honest one, made once.
    pub fn honest() -> Self {
        Self::with(None)
    }

    /// With this lie, made once.
    pub fn cheating(lie: &'static str) -> Self {
        Self::with(Some(lie))
    }

    fn with(lie: Option<&'static str>) -> Self {
        static MADE: Mutex<BTreeMap<&'static str, Run>> = Mutex::new(BTreeMap::new());
        // A test that failed while it held the lock has said so.
        let mut made = MADE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        made.entry(lie.unwrap_or("")).or_insert_with(|| Self::make(lie)).clone()
    }

    fn make(lie: Option<&str>) -> Self {
        let out = job().out(lie.unwrap_or("honest"));
        work(&out, lie, &["--keep-last", "99"]);
        let failed = Failed::read(&out.join(FAILED_FILE)).ok();
        let reached = failed.as_ref().map_or(STEPS, |failed| failed.step() - 1);
        let ends = (1..=reached / INTERVAL).map(|k| k * INTERVAL);
        let came = ends.map(|step| came(&out, step)).collect();
        Self { out, came, failed }
    }

    /// What an honest replay of interval `k` from this run's own states comes to.
    pub fn replay(&self, k: u64) -> Came {
        static DONE: Mutex<BTreeMap<(PathBuf, u64), Came>> = Mutex::new(BTreeMap::new());
        let place = (self.out.clone(), k);
        let mut done = DONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *done.entry(place).or_insert_with(|| {
            let (start, last) = (k * INTERVAL, (k + 1) * INTERVAL);
            let name = self.out.file_name().unwrap().to_string_lossy();
            let out = job().out(&format!("replay-{name}-{k}"));
            if start > 0 {
                copy(&Store::new(&self.out).path(start), &Store::new(&out).path(start));
            }
            work(&out, None, &["--from-step", &start.to_string(), "--last-step", &last.to_string()]);
            came(&out, last)
        })
    }
}

fn work(out: &Path, lie: Option<&str>, extra: &[&str]) {
    let mut command = job().worker(out, 0, 1);
    command.args(extra).env_remove("MUSTER_CHEAT");
    if let Some(lie) = lie {
        command.env("MUSTER_CHEAT", lie);
    }
    let ended = Worker::spawn(command).end();
    let code = if lie == Some("false-failure") { 65 } else { 0 };
    assert_eq!(ended.code, Some(code), "{ended:?}");
    assert_eq!(ended.stderr.contains("this worker cheats"), lie.is_some(), "{}", ended.stderr);
}

fn came(out: &Path, step: u64) -> Came {
    // As a stranger reads it: the root is computed from the tensors.
    let (.., manifest) = checkpoint::open(&Store::new(out).path(step)).unwrap();
    let records = records::read(&records::path(out, step), step).unwrap();
    Came { state: manifest.state_root(), records: records.root() }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}
