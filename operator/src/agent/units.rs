//! The units that this agent knows, shared by the controller and the relay. A unit's durable state changes in one
//! place only, [`Unit::update`], which saves it before anyone sees it; `handover` changes two together.
mod handover;

pub use handover::Handed;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use muster_core::envelope::Payload;
use muster_proof::Digest;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::brief::{Brief, Held};
use super::commits::{Committed, Ended};
use super::state::{StateDir, UnitState};
use super::status::Wanted;

/// The last report of the workers; not durable, it comes again.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Progress {
    /// Attempt that reported.
    pub attempt: i64,
    /// Last finished step.
    pub step: i64,
    /// Shortest f32 text.
    pub loss: String,
    /// Likewise, of the last step that evaluated.
    pub eval_loss: Option<String>,
    /// All workers together.
    pub tokens_per_second: i64,
    /// When it came.
    pub time: Timestamp,
}

/// One unit.
#[derive(Debug)]
pub struct Unit {
    name: String,
    born: Instant,
    dir: Arc<StateDir>,
    state: tokio::sync::Mutex<UnitState>,
    /// Of the state.
    brief: Mutex<Brief>,
    progress: Mutex<Option<Progress>>,
    /// By attempt: why the member has not taken its Job.
    refused_create: Mutex<Option<(i64, String)>>,
    /// When this process first saw it orphaned, and for how long it had been by then.
    orphaned: Mutex<Option<(Instant, Duration)>>,
    /// Wakes the controller: something happened that may change its decision.
    pub wake: Notify,
    /// Wakes the uploader: a checkpoint was committed.
    pub committed: Notify,
    /// Counts changes of rounds, for the long poll.
    pub round: watch::Sender<u64>,
    /// Step of the newest checkpoint that the hub's store has.
    pub durable: watch::Sender<i64>,
    /// The newest status that the controller wants the hub to see.
    pub wanted: watch::Sender<Option<Wanted>>,
    /// Held while a commit is checked and kept: two for one step are judged one after the other.
    pub committing: tokio::sync::Mutex<()>,
    /// By manifest: the blobs that a pod may read because of it.
    pub closures: Mutex<HashMap<Digest, Arc<Vec<Digest>>>>,
}

impl Unit {
    fn new(name: &str, dir: Arc<StateDir>, state: UnitState) -> Self {
        Self {
            name: name.to_owned(),
            born: Instant::now(),
            dir,
            brief: Mutex::new(Brief::of(&state)),
            state: tokio::sync::Mutex::new(state),
            progress: Mutex::new(None),
            refused_create: Mutex::new(None),
            orphaned: Mutex::new(None),
            wake: Notify::new(),
            committed: Notify::new(),
            round: watch::Sender::new(0),
            durable: watch::Sender::new(0),
            wanted: watch::Sender::new(None),
            committing: tokio::sync::Mutex::new(()),
            closures: Mutex::new(HashMap::new()),
        }
    }

    /// Its name, that of the WorkUnit.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// For how long this process knows the unit.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.born.elapsed()
    }

    /// A copy of what is remembered.
    pub async fn state(&self) -> UnitState {
        self.state.lock().await.clone()
    }

    /// The same, unless it is being changed at this moment.
    #[must_use]
    pub fn try_state(&self) -> Option<UnitState> {
        self.state.try_lock().ok().map(|state| state.clone())
    }

    /// Changes the state durably: what `change` did is saved before this returns, or is undone.
    ///
    /// # Errors
    /// The state could not be saved; nothing has changed.
    pub async fn update<R>(&self, change: impl FnOnce(&mut UnitState) -> R) -> io::Result<R> {
        let mut state = self.state.lock().await;
        let mut changed = state.clone();
        let answer = change(&mut changed);
        if changed == *state {
            return Ok(answer);
        }
        let (dir, name, save) = (self.dir.clone(), self.name.clone(), changed.clone());
        // A save is two fsyncs: not on the runtime's threads.
        tokio::task::spawn_blocking(move || dir.save(&name, &save)).await.map_err(io::Error::other)??;
        *locked(&self.brief) = Brief::of(&changed);
        *state = changed;
        Ok(answer)
    }

    /// Keeps what a pod has committed; durable when this returns.
    ///
    /// # Errors
    /// It could not be saved.
    pub async fn keep(&self, step: i64, committed: Committed) -> io::Result<()> {
        let (dir, name) = (self.dir.clone(), self.name.clone());
        let save = move || dir.commits.save(&name, step, &committed);
        tokio::task::spawn_blocking(save).await.map_err(io::Error::other)?
    }

    /// Keeps how the unit's last interval has ended; durable when this returns.
    ///
    /// # Errors
    /// It could not be saved.
    pub async fn keep_failure(&self, step: i64, ended: Ended) -> io::Result<()> {
        let (dir, name) = (self.dir.clone(), self.name.clone());
        let save = move || dir.commits.save_failure(&name, step, &ended);
        tokio::task::spawn_blocking(save).await.map_err(io::Error::other)?
    }

    /// The failure of a step.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn failure_at(&self, step: i64) -> io::Result<Option<Ended>> {
        let (dir, name) = (self.dir.clone(), self.name.clone());
        let load = move || dir.commits.load_failure(&name, step);
        tokio::task::spawn_blocking(load).await.map_err(io::Error::other)?
    }

    /// What was committed for a step, by this unit or by one that it continues.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn committed_at(&self, step: i64) -> io::Result<Option<Committed>> {
        let mut names = self.state().await.earlier;
        names.push(self.name.clone());
        let dir = self.dir.clone();
        let load = move || {
            let found = names.iter().rev().map(|name| dir.commits.load(name, step));
            found.filter_map(Result::transpose).next().transpose()
        };
        tokio::task::spawn_blocking(load).await.map_err(io::Error::other)?
    }

    /// Forgets what was committed under these names: nobody will ask for it any more.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn forget_committed<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> io::Result<()> {
        names.into_iter().try_for_each(|name| self.dir.commits.forget(name))
    }

    /// For how long the unit has been orphaned; `since` is what its state says. The wall clock counts only for the time
    /// before this process: afterwards it may be set at will.
    #[must_use]
    pub fn orphaned_for(&self, since: Timestamp) -> Duration {
        let before = || Duration::try_from(Timestamp::now().duration_since(since)).unwrap_or_default();
        let (at, before) = *locked(&self.orphaned).get_or_insert_with(|| (Instant::now(), before()));
        before + at.elapsed()
    }

    /// The hub counts the unit again.
    pub fn forget_orphaned(&self) {
        *locked(&self.orphaned) = None;
    }

    /// The last report.
    #[must_use]
    pub fn progress(&self) -> Option<Progress> {
        locked(&self.progress).clone()
    }

    /// What was reported was not about this object.
    pub fn forget_progress(&self) {
        *locked(&self.progress) = None;
    }

    /// Why the member has not taken the Job of this attempt, if it was asked in vain.
    #[must_use]
    pub fn refused_create(&self, attempt: i64) -> Option<String> {
        locked(&self.refused_create).as_ref().filter(|(of, _)| *of == attempt).map(|(_, why)| why.clone())
    }

    /// The member has not taken the Job of this attempt.
    pub fn refuse_create(&self, attempt: i64, why: String) {
        *locked(&self.refused_create) = Some((attempt, why));
    }

    /// Takes a report. Steps of one attempt may go back: a new round starts from an older checkpoint.
    pub fn report(&self, progress: Progress) {
        *locked(&self.progress) = Some(progress);
    }
}

/// All known units.
#[derive(Debug)]
pub struct Units {
    dir: Arc<StateDir>,
    units: Mutex<BTreeMap<String, Arc<Unit>>>,
    /// Wakes the report: the idle workers may be others than before.
    pub changed: Notify,
    /// Held from the look at what is idle until what a unit takes of it can be seen by the others.
    pub claims: tokio::sync::Mutex<()>,
}

impl Units {
    /// The units of the state directory.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn open(dir: StateDir) -> io::Result<Self> {
        let dir = Arc::new(dir);
        let remembered = dir.load()?;
        let units = remembered
            .into_iter()
            .map(|(name, state)| (name.clone(), Arc::new(Unit::new(&name, dir.clone(), state))))
            .collect();
        Ok(Self {
            dir,
            units: Mutex::new(units),
            changed: Notify::new(),
            claims: tokio::sync::Mutex::default(),
        })
    }

    /// A known unit.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Arc<Unit>> {
        locked(&self.units).get(name).cloned()
    }

    /// The unit of this name, made known if it is not.
    pub fn ensure(&self, name: &str) -> Arc<Unit> {
        let new = || Arc::new(Unit::new(name, self.dir.clone(), UnitState::default()));
        locked(&self.units).entry(name.to_owned()).or_insert_with(new).clone()
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Unit>> {
        locked(&self.units).values().cloned().collect()
    }

    /// Forgets a unit, on disk too.
    ///
    /// # Errors
    /// The file could not be removed.
    pub fn forget(&self, name: &str) -> io::Result<()> {
        self.dir.forget(name)?;
        locked(&self.units).remove(name);
        Ok(())
    }

    /// What units hold or will hold, but for the unit `except`.
    #[must_use]
    pub fn holding(&self, except: &str) -> Held {
        let mut all = Held::default();
        for (_, unit) in locked(&self.units).iter().filter(|(name, _)| *name != except) {
            locked(&unit.brief).add_to(&mut all);
        }
        all
    }

    /// The highest epoch known of what this unit is about, whatever became of it: of the island, of an audit of the assignment.
    #[must_use]
    pub fn highest_epoch(&self, of: &Payload) -> i64 {
        let units = locked(&self.units);
        units.values().filter_map(|unit| locked(&unit.brief).epoch_of(of)).max().unwrap_or(0)
    }
}

/// Whether the unit's current attempt may still do anything.
#[must_use]
pub fn is_live(state: &UnitState, attempt: i64) -> bool {
    state.memory.attempt == attempt && !state.memory.over && state.memory.outcome.is_none()
}

/// A lock whose holder panicked guards data that is replaced whole, so it is as good as before.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
