//! The agent's memory: one small durable file per unit, in the state directory. Whatever a running pod or the hub
//! has been told is in here before it is told, so that an agent that starts again continues the same story.
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use muster_core::attempt::{Desired, Memory};
use muster_core::envelope::{CheckpointRef, Payload};
use muster_proof::Digest;
use muster_proof::dsse::Envelope;
use muster_trainer::protocol::Peer;
use serde::{Deserialize, Serialize};

use super::commits::Commits;
use crate::runtime::files::{self, Access};
use crate::wire::gateway::Recovered;

/// No state file is longer: a unit of 256 workers has some 90 KB.
const MAX_FILE: u64 = 1 << 20;

/// What is remembered of a unit.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UnitState {
    /// UID of the WorkUnit.
    pub uid: String,
    /// Its payload, once signature, mirror and policy were good.
    pub payload: Option<Payload>,
    /// Reason and message of a refusal; final.
    pub refused: Option<(String, String)>,
    /// The most that the hub has asked for.
    pub desired: Option<Desired>,
    /// Set when the API said NotFound for the unit.
    pub gone: bool,
    /// About its attempts.
    pub memory: Memory,
    /// About the current attempt's rounds.
    pub rounds: Rounds,
    /// Committed checkpoints, oldest first, their blobs all in the cache or at the hub.
    pub checkpoints: Vec<Commit>,
    /// The step that is not finite, once a pod has said so: after it nothing is committed.
    #[serde(default)]
    pub failure: Option<Failed>,
    /// By attempt: the binding of its rank 0's key. Of attempts before the current one those whose commits still wait.
    #[serde(default)]
    pub bindings: BTreeMap<i64, Binding>,
    /// When its first attempt began.
    #[serde(default)]
    pub started: Option<Timestamp>,
    /// Set when the gateway said that a newer epoch is there; what it said.
    #[serde(default)]
    pub superseded: Option<String>,
    /// What the hub signed, to be shown to a hub that has forgotten it.
    #[serde(default)]
    pub envelope: Option<Envelope>,
    /// Since when the hub, restored from a backup, does not know the unit or does not count it.
    #[serde(default)]
    pub orphaned: Option<Timestamp>,
    /// What the hub has said to the offer of the unit.
    #[serde(default)]
    pub recovered: Option<Answered>,
    /// The units that this one continues, oldest first: Jobs and pods may still have their names.
    #[serde(default)]
    pub earlier: Vec<String>,
    /// The unit that goes on in place of this one, which has no Jobs and pods of its own any more.
    #[serde(default)]
    pub continued_as: Option<String>,
}

/// The hub's final word about a unit of an earlier incarnation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Answered {
    /// Which incarnation of the hub said it.
    pub incarnation: i64,
    /// What.
    pub answer: Recovered,
}

/// One committed checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Commit {
    /// The state after this step.
    pub step: i64,
    /// Its manifest's blob.
    pub manifest: Digest,
    /// Digest of the state.
    pub state_root: Digest,
    /// Its commit's record id.
    pub record: Digest,
    /// The attempt whose pod of rank 0 signed the commit; 0 if only the hub knows that any more.
    pub attempt: i64,
    /// The log has it, and the gateway has recorded it as the job's.
    pub durable: bool,
    /// The stop rule ends the job with it.
    #[serde(default)]
    pub ends: bool,
}

/// A step that is not finite, where the commit of its interval would stand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Failed {
    /// The step that cannot be taken.
    pub step: i64,
    /// Its record id.
    pub record: Digest,
    /// The attempt whose pod of rank 0 signed it.
    pub attempt: i64,
    /// The log has it.
    pub durable: bool,
}

/// The binding of rank 0's key of one attempt, as the log gets it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Binding {
    /// The epoch that it is for.
    pub epoch: i64,
    /// The record, signed by the agent's identity key.
    pub record: Envelope,
    /// The log has it.
    pub logged: bool,
}

/// The rounds of one attempt. A round is one start of all its workers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rounds {
    /// The attempt these are rounds of.
    pub attempt: i64,
    /// The current round, from 1.
    pub number: u32,
    /// Where all its workers start.
    pub start: Option<CheckpointRef>,
    /// The last step known when it began.
    pub step: i64,
    /// Rounds in a row that ended without a step.
    pub barren: u32,
    /// By rank: who has joined, where it listens, and the fingerprint of its key.
    pub peers: BTreeMap<i64, Peer>,
    /// By rank: the one pod that is admitted.
    pub pods: BTreeMap<i64, String>,
    /// By rank: the one key whose signatures count, SPKI in PEM.
    #[serde(default)]
    pub keys: BTreeMap<i64, String>,
}

impl UnitState {
    /// Whether the unit is one that runs or shall run: taken, and nobody wants it to end.
    #[must_use]
    pub fn is_living(&self) -> bool {
        self.payload.is_some()
            && self.refused.is_none()
            && self.memory.outcome.is_none()
            && self.desired < Some(Desired::Stop)
            && self.continued_as.is_none()
    }

    /// The names that Jobs and pods of the unit of this name may have.
    #[must_use]
    pub fn names<'a>(&'a self, name: &'a str) -> Vec<&'a str> {
        self.earlier.iter().map(String::as_str).chain([name]).collect()
    }

    /// The newest committed checkpoint.
    #[must_use]
    pub fn newest(&self) -> Option<&Commit> {
        self.checkpoints.last()
    }

    /// The newest checkpoint that the hub has.
    #[must_use]
    pub fn newest_durable(&self) -> Option<&Commit> {
        self.checkpoints.iter().rev().find(|commit| commit.durable)
    }

    /// The oldest committed checkpoint that the log does not have: the next to be brought there.
    #[must_use]
    pub fn oldest_waiting(&self) -> Option<&Commit> {
        self.checkpoints.iter().find(|commit| !commit.durable)
    }

    /// Where the next round starts: the newest committed checkpoint, else what the envelope says. A replay always starts there.
    #[must_use]
    pub fn start(&self) -> Option<CheckpointRef> {
        let given = self.payload.as_ref().and_then(|payload| payload.start);
        if self.is_audit() {
            return given;
        }
        let newest = self.newest().map(|c| CheckpointRef { step: c.step, manifest: c.manifest });
        match (newest, given) {
            (Some(newest), Some(given)) if given.step > newest.step => Some(given),
            (newest, given) => newest.or(given),
        }
    }

    /// The newest step that need not be computed again, 0 for genesis.
    #[must_use]
    pub fn checkpoint_step(&self) -> i64 {
        let newest = self.newest().map_or(0, |newest| newest.step);
        self.start().map_or(0, |start| start.step).max(newest)
    }

    /// Whether the stop rule ends the job with the newest commit.
    #[must_use]
    pub fn ends(&self) -> bool {
        self.newest().is_some_and(|newest| newest.ends)
    }

    /// Whether it replays an interval of another.
    #[must_use]
    pub fn is_audit(&self) -> bool {
        self.payload.as_ref().is_some_and(Payload::is_audit)
    }
}

/// The directory of the unit files.
#[derive(Debug)]
pub struct StateDir {
    units: PathBuf,
    /// What the units' pods have committed.
    pub commits: Commits,
}

impl StateDir {
    /// Opens `root`, which only this user can read.
    ///
    /// # Errors
    /// Any error of the file system.
    pub fn open(root: &Path) -> io::Result<Self> {
        files::create_private_dir(root)?;
        let units = root.join("units");
        files::create_private_dir(&units)?;
        Ok(Self { units, commits: Commits::open(root)? })
    }

    /// All remembered units by name. A file that cannot be read is left alone and named in the log: the member's Jobs
    /// and the hub still know its unit.
    ///
    /// # Errors
    /// The directory itself cannot be listed.
    pub fn load(&self) -> io::Result<BTreeMap<String, UnitState>> {
        let mut all = BTreeMap::new();
        for entry in std::fs::read_dir(&self.units)? {
            let path = entry?.path();
            let Some(name) = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.strip_suffix(".json"))
            else {
                continue;
            };
            match files::read_capped(&path, MAX_FILE).and_then(|bytes| Ok(serde_json::from_slice(&bytes)?)) {
                Ok(state) => {
                    all.insert(name.to_owned(), state);
                }
                Err(error) => {
                    tracing::error!(path = %path.display(), %error, "unit state unreadable; ignored")
                }
            }
        }
        Ok(all)
    }

    /// Makes `state` durable.
    ///
    /// # Errors
    /// Any error of the file system; the old state stays.
    pub fn save(&self, name: &str, state: &UnitState) -> io::Result<()> {
        files::write_atomic(&self.path(name), &serde_json::to_vec_pretty(state)?, Access::Private)
    }

    /// Forgets a unit.
    ///
    /// # Errors
    /// Any error of the file system but absence.
    pub fn forget(&self, name: &str) -> io::Result<()> {
        files::if_there(std::fs::remove_file(self.path(name)))?;
        files::sync_dir(&self.units)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.units.join(format!("{name}.json"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::testing::{audit, payload};

    #[test]
    fn units_survive_and_damage_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        let peer = Peer { address: "10.1.2.3:4567".parse().unwrap(), key: Digest::of(b"key") };
        let one = UnitState {
            uid: "u".to_owned(),
            payload: Some(payload()),
            rounds: Rounds { peers: BTreeMap::from([(1, peer)]), ..Rounds::default() },
            ..UnitState::default()
        };
        state.save("a-0-1", &one).unwrap();
        std::fs::write(dir.path().join("units/b-0-1.json"), b"{\"uid\":").unwrap();
        std::fs::write(dir.path().join("units/.c.json.1.2.tmp"), b"{").unwrap();
        let all = StateDir::open(dir.path()).unwrap().load().unwrap();
        assert_eq!(all, BTreeMap::from([("a-0-1".to_owned(), one)]));
        state.forget("a-0-1").unwrap();
        state.forget("a-0-1").unwrap();
        assert!(state.load().unwrap().is_empty());
    }

    #[test]
    fn the_start_is_the_newest_known_state() {
        let given = CheckpointRef { step: 40, manifest: Digest::of(b"given") };
        let mut state = UnitState { payload: Some(payload()), ..UnitState::default() };
        assert_eq!((state.start(), state.checkpoint_step()), (None, 0));
        if let Some(payload) = &mut state.payload {
            payload.start = Some(given);
        }
        assert_eq!(state.start(), Some(given));
        let digest = Digest::of(b"m");
        state.checkpoints.push(Commit {
            step: 60,
            manifest: digest,
            state_root: digest,
            record: digest,
            attempt: 1,
            durable: false,
            ends: false,
        });
        assert_eq!(state.start(), Some(CheckpointRef { step: 60, manifest: digest }));
        assert_eq!(state.newest_durable(), None);
        // A replay that begins once more does so where it began.
        state.payload = Some(audit());
        assert_eq!((state.start(), state.checkpoint_step()), (audit().start, 60));
    }
}
