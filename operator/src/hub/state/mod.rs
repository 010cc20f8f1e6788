//! The hub's own state, outside the API server: a directory of mode 0700 that must be backed up and must never be restored
//! to an older time.
//!
//! | file | what |
//! |---|---|
//! | `signing.key` | the key that signs WorkUnits and the next key set |
//! | `keys.json` | the chain of key sets, DSSE, oldest first (docs/spec/gateway.md section 5) |
//! | `next.key` | only between two writes of a rotation |
//! | `epochs.json` | incarnation, floor of all epochs, highest resourceVersion seen (`muster_core::epochs`) |
//! | `beacons/<job uid>` | the seed of a job's draws, and its job record |
//! | `log.vkey` | the verifier key of the log that this hub writes into |
//! | `audits/<hex>.json` | what the hub's own auditor came to (`crate::auditor`) |
//! | `lock` | held while one of them is read or written |
//!
//! It stands here and not on the gateway's volume: the hub signs, so the hub must know, even while no gateway runs.
mod beacons;
mod epochs;
mod keys;
mod pinned;

pub use beacons::Beacon;
pub use keys::{Change, Keys};

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use muster_core::epochs::{Epochs, Seen};
use muster_core::hub_keys;

use crate::runtime::files::create_private_dir;

/// Why the state cannot be used. The hub does not start then: new keys or numbers would orphan every agent.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The directory.
    #[error("state: {0}")]
    Io(#[from] io::Error),
    /// There is none.
    #[error("{0} is no state directory of a hub: it has no signing.key; name the hub's --state")]
    NoState(String),
    /// A key.
    #[error("state: {file}: {source}; restore the whole state directory from one backup")]
    Key {
        /// Which.
        file: &'static str,
        /// Why.
        source: muster_proof::key::Error,
    },
    /// The chain.
    #[error("state: keys.json: {0}; restore the whole state directory from one backup")]
    Chain(#[from] hub_keys::Error),
    /// A file is missing, damaged, or of another time than the others.
    #[error("state: {file} {problem}; restore the whole state directory from one backup")]
    Damaged {
        /// Which.
        file: &'static str,
        /// Why.
        problem: String,
    },
    /// No randomness.
    #[error("state: cannot draw a key: {0}")]
    Random(String),
    /// The gateway shows another log than before.
    #[error(
        "the log's key is now {got}, and was {known}: this is another log. Restore the gateway's state directory from a \
         backup; if the log is lost for good, stop the hub and remove log.vkey from its state directory: no job of the old \
         log can go on in the new one"
    )]
    OtherLog {
        /// Pinned.
        known: String,
        /// Shown.
        got: String,
    },
    /// Too many keys are trusted at once.
    #[error(
        "the hub has {} keys already, and agents believe no more; drop the old ones first: muster hub rotate-key --retire",
        hub_keys::MAX_KEYS
    )]
    TooManyKeys,
}

/// The state directory of a hub that runs.
#[derive(Debug)]
pub struct State {
    dir: PathBuf,
    epochs: Mutex<Epochs>,
    /// The newest resourceVersion that somebody waits to have written.
    mark: AtomicU64,
    /// As they were read last.
    keys: Mutex<Option<keys::Known>>,
}

impl State {
    /// Opens the directory; makes keys and numbers on the first start, and ends a rotation that a crash cut short.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn open(dir: &Path) -> Result<(Self, Keys), StateError> {
        create_private_dir(dir)?;
        let _lock = lock(dir)?;
        // Numbers first: a chain without them shows that they were lost, not that this is the first start.
        let numbers = epochs::open(dir)?;
        let keys = keys::open(dir)?;
        Ok((
            Self {
                dir: dir.to_owned(),
                epochs: Mutex::new(numbers),
                mark: AtomicU64::new(0),
                keys: Mutex::default(),
            },
            keys,
        ))
    }

    /// Opens the directory of a hub that was started before; makes nothing.
    ///
    /// # Errors
    /// [`StateError::NoState`], or any other.
    pub fn of_hub(dir: &Path) -> Result<(Self, Keys), StateError> {
        if !keys::exist(dir) {
            return Err(StateError::NoState(dir.display().to_string()));
        }
        Self::open(dir)
    }

    /// The keys as they are now: `muster hub rotate-key` may have changed them.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn keys(&self) -> Result<Keys, StateError> {
        let _lock = lock(&self.dir)?;
        if !keys::chain_exists(&self.dir) {
            // Not a first start: a chain that begins again would look like a forgery to every agent.
            return Err(StateError::Damaged { file: "keys.json", problem: "is missing".to_owned() });
        }
        let mut known = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys::reopen(&self.dir, &mut known)
    }

    /// Incarnation, floor and mark as they are now.
    #[must_use]
    pub fn epochs(&self) -> Epochs {
        *self.epochs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The database was at this resourceVersion; durable when this returns. Not for one that is lower than the mark. Of many who
    /// wait, one writes for all.
    ///
    /// # Errors
    /// [`StateError::Io`]; then nothing changed.
    pub fn onward(&self, resource_version: u64) -> Result<(), StateError> {
        self.mark.fetch_max(resource_version, Ordering::SeqCst);
        self.change(|epochs| epochs.onward(self.mark.swap(0, Ordering::SeqCst).max(resource_version)))
    }

    /// The database was restored (see [`Epochs::restored`]); durable when this returns. Only if `before` still holds:
    /// of two who notice it, one is enough.
    ///
    /// # Errors
    /// [`StateError::Io`]; then nothing changed.
    pub fn restored(&self, before: Epochs, resource_version: u64, highest: i64) -> Result<(), StateError> {
        self.change(|epochs| {
            let same = epochs.incarnation == before.incarnation;
            match epochs.judge(resource_version) {
                Seen::Restored if same => epochs.restored(resource_version, highest),
                _ => *epochs,
            }
        })
    }

    /// What the agents hold is known ([`Epochs::settled`]); durable when this returns.
    ///
    /// # Errors
    /// [`StateError::Io`]; then nothing changed.
    pub fn settled(&self) -> Result<(), StateError> {
        self.change(Epochs::settled)
    }

    /// What is kept of a job's beacon and record, if anything is.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn beacon(&self, job_uid: &str) -> Result<Option<Beacon>, StateError> {
        beacons::read(&self.dir, job_uid)
    }

    /// Keeps what is made for a job, unless something is kept already; gives what is kept. Durable when this returns.
    ///
    /// # Errors
    /// [`StateError`]; then nothing changed.
    pub fn keep_beacon(&self, job_uid: &str, beacon: Beacon) -> Result<Beacon, StateError> {
        let _lock = lock(&self.dir)?;
        beacons::keep(&self.dir, job_uid, beacon)
    }

    /// The log with this verifier key is this hub's from the first time on that it is asked.
    ///
    /// # Errors
    /// [`StateError::OtherLog`] for another one.
    pub fn pin_log(&self, key: &str) -> Result<(), StateError> {
        let _lock = lock(&self.dir)?;
        pinned::pin(&self.dir, key)
    }

    fn change(&self, next: impl FnOnce(&Epochs) -> Epochs) -> Result<(), StateError> {
        let mut epochs = self.epochs.lock().unwrap_or_else(PoisonError::into_inner);
        let next = next(&epochs);
        if next != *epochs {
            epochs::write(&self.dir, &next)?;
            *epochs = next;
        }
        Ok(())
    }
}

/// Adds a key or drops the old ones, in the directory of a hub that may be running: it notices within seconds.
///
/// # Errors
/// [`StateError`]; then the hub goes on with what it had.
pub fn rotate(dir: &Path, change: Change) -> Result<Keys, StateError> {
    if !keys::exist(dir) {
        return Err(StateError::NoState(dir.display().to_string()));
    }
    let _lock = lock(dir)?;
    // An older directory gets its numbers before its chain, as when a hub starts there.
    epochs::open(dir)?;
    keys::rotate(dir, change)
}

/// Waits for whoever reads or writes the directory now; that takes milliseconds.
fn lock(dir: &Path) -> io::Result<File> {
    let path = dir.join("lock");
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
    let file = file.and_then(|file| file.lock().map(|()| file));
    file.map_err(|error| io::Error::new(error.kind(), format!("cannot lock {}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn made_once_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let (state, first) = State::open(&path).unwrap();
        assert_eq!((state.epochs(), first.set().serial()), (Epochs::default(), 1));
        let (_, second) = State::open(&path).unwrap();
        assert_eq!(first, second);
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o700);
        for file in ["signing.key", "keys.json", "epochs.json", "lock"] {
            assert_eq!(mode(&path.join(file)), 0o600, "{file}");
        }
    }

    #[test]
    fn numbers_survive_and_a_restore_is_said_once() {
        let dir = tempfile::tempdir().unwrap();
        let (state, _) = State::open(dir.path()).unwrap();
        state.onward(500).unwrap();
        state.onward(400).unwrap();
        let before = State::open(dir.path()).unwrap().0.epochs();
        assert_eq!((before.resource_version, before.incarnation), (500, 1));
        state.restored(before, 300, 7).unwrap();
        state.restored(before, 300, 7).unwrap();
        let after = State::open(dir.path()).unwrap().0.epochs();
        assert_eq!(after, Epochs { incarnation: 2, floor: 1007, resource_version: 300, recovering: true });
        // A hub that is killed while it waits for its agents waits anew.
        let state = State::open(dir.path()).unwrap().0;
        state.settled().unwrap();
        assert!(!State::open(dir.path()).unwrap().0.epochs().recovering);
    }

    #[test]
    fn one_writes_the_marks_of_all_who_wait() {
        let dir = tempfile::tempdir().unwrap();
        let (state, _) = State::open(dir.path()).unwrap();
        // Of one who waits for its turn.
        state.mark.fetch_max(900, Ordering::SeqCst);
        state.onward(700).unwrap();
        assert_eq!(State::open(dir.path()).unwrap().0.epochs().resource_version, 900);
        let before = state.epochs();
        state.restored(before, 300, 7).unwrap();
        state.onward(310).unwrap();
        assert_eq!(
            state.epochs().resource_version,
            310,
            "a mark of the time that is lost is not written again"
        );
    }

    #[test]
    fn who_works_beside_the_hub_makes_no_keys() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(State::of_hub(dir.path()), Err(StateError::NoState(_))));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        let (_, made) = State::open(dir.path()).unwrap();
        assert_eq!(State::of_hub(dir.path()).unwrap().1, made);
    }

    #[test]
    fn what_was_lost_is_not_made_anew() {
        for (file, content) in [
            ("epochs.json", None),
            ("epochs.json", Some("{\"incarnation\":0,\"floor\":1,\"resourceVersion\":1}")),
            ("epochs.json", Some("zero")),
            ("signing.key", None),
            ("signing.key", Some("-----BEGIN")),
            ("keys.json", Some("[]")),
            ("keys.json", Some("{}")),
        ] {
            let dir = tempfile::tempdir().unwrap();
            State::open(dir.path()).unwrap();
            let path = dir.path().join(file);
            match content {
                Some(text) => std::fs::write(&path, text).unwrap(),
                None => std::fs::remove_file(&path).unwrap(),
            }
            let text = State::open(dir.path()).unwrap_err().to_string();
            assert!(text.contains(file) && text.contains("backup"), "{file} {content:?}: {text}");
        }
    }

    #[test]
    fn a_chain_that_vanishes_under_a_running_hub_is_not_begun_again() {
        let dir = tempfile::tempdir().unwrap();
        let (state, _) = State::open(dir.path()).unwrap();
        std::fs::remove_file(dir.path().join("keys.json")).unwrap();
        assert!(state.keys().unwrap_err().to_string().contains("keys.json"));
    }

    /// Milestone 1 had `signing.key` and `incarnation`.
    #[test]
    fn an_older_directory_goes_on_with_its_key_and_number() {
        let dir = tempfile::tempdir().unwrap();
        let (_, keys) = State::open(dir.path()).unwrap();
        for file in ["keys.json", "epochs.json"] {
            std::fs::remove_file(dir.path().join(file)).unwrap();
        }
        std::fs::write(dir.path().join("incarnation"), "3\n").unwrap();
        let (state, again) = State::open(dir.path()).unwrap();
        assert_eq!((state.epochs().incarnation, again.set().serial()), (3, 1));
        assert_eq!(again.signer().key_id(), keys.signer().key_id());

        for file in ["keys.json", "epochs.json"] {
            std::fs::remove_file(dir.path().join(file)).unwrap();
        }
        rotate(dir.path(), Change::Add).unwrap();
        let (state, rotated) = State::open(dir.path()).unwrap();
        assert_eq!(
            (state.epochs().incarnation, rotated.set().serial()),
            (3, 2),
            "rotated before its hub ran"
        );
    }
}
