//! What the hub has declared void: incarnations and epochs below these. Both only grow, here too, over every restart of
//! the agent and whatever a gateway says later (docs/spec/gateway.md section 5).
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use muster_core::envelope::Payload;
use serde::{Deserialize, Serialize};

use super::units::locked;
use crate::runtime::files::{self, Access};

const FILE: &str = "fence.json";
const MAX_FILE: u64 = 4096;

/// The highest that were heard of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Floor {
    /// Envelopes of a lower incarnation of the hub are void.
    pub incarnation: i64,
    /// Envelopes of a lower epoch are void.
    pub min_epoch: i64,
}

impl Floor {
    /// Why this payload is void, if it is.
    #[must_use]
    pub fn voids(&self, payload: &Payload) -> Option<String> {
        if payload.incarnation < self.incarnation {
            return Some(format!(
                "it is of incarnation {} of the hub, which is at {}",
                payload.incarnation, self.incarnation
            ));
        }
        (payload.epoch < self.min_epoch).then(|| {
            format!("it is of epoch {}, the hub accepts {} and later", payload.epoch, self.min_epoch)
        })
    }
}

/// What became of an announcement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// Nothing is new.
    Same,
    /// Something was raised.
    Raised,
    /// It was lower than what is known, or no number at all: refused.
    Lower,
}

/// See the module.
#[derive(Debug)]
pub struct Fence {
    path: PathBuf,
    floor: Mutex<Floor>,
}

impl Fence {
    /// The fence of `state`, as high as it was.
    ///
    /// # Errors
    /// Any error of the file system but absence; a damaged file, which must not read as "anything goes".
    pub fn open(state: &Path) -> io::Result<Self> {
        let path = state.join(FILE);
        let floor = match files::read_if_there(&path, MAX_FILE)? {
            Some(bytes) => serde_json::from_slice(&bytes).map_err(|error| {
                let text = format!(
                    "{}: {error}; restore it from a backup, or join anew with an empty directory",
                    path.display()
                );
                io::Error::new(io::ErrorKind::InvalidData, text)
            })?,
            None => Floor::default(),
        };
        Ok(Self { path, floor: Mutex::new(floor) })
    }

    /// The fence of another hub than the one before: what that one said is forgotten.
    ///
    /// # Errors
    /// Any error of the file system.
    pub fn begin(state: &Path, floor: Floor) -> io::Result<()> {
        files::write_atomic(&state.join(FILE), &serde_json::to_vec(&floor)?, Access::Private)
    }

    /// The highest that were heard of.
    #[must_use]
    pub fn floor(&self) -> Floor {
        *locked(&self.floor)
    }

    /// Takes an announcement; durable before anybody acts on it.
    ///
    /// # Errors
    /// It could not be saved; then nothing has changed.
    pub fn hear(&self, said: Floor) -> io::Result<Heard> {
        let bounds = 0..=i64::from(i32::MAX);
        let mut floor = locked(&self.floor);
        let raised = Floor {
            incarnation: floor.incarnation.max(said.incarnation),
            min_epoch: floor.min_epoch.max(said.min_epoch),
        };
        // Beyond what an envelope can have, so nobody's word: it would lock this agent out for good.
        if !bounds.contains(&said.incarnation) || !bounds.contains(&said.min_epoch) {
            return Ok(Heard::Lower);
        }
        if raised != *floor {
            let bytes = serde_json::to_vec(&raised)?;
            files::write_atomic(&self.path, &bytes, Access::Private)?;
            *floor = raised;
            return Ok(if raised == said { Heard::Raised } else { Heard::Lower });
        }
        Ok(if raised == said { Heard::Same } else { Heard::Lower })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::testing::payload;

    #[test]
    fn never_goes_down_over_restarts_too() {
        let dir = tempfile::tempdir().unwrap();
        let floor = |incarnation, min_epoch| Floor { incarnation, min_epoch };
        let fence = Fence::open(dir.path()).unwrap();
        assert_eq!(fence.hear(floor(1, 1)).unwrap(), Heard::Raised);
        assert_eq!(fence.hear(floor(2, 5)).unwrap(), Heard::Raised);
        assert_eq!(fence.hear(floor(2, 5)).unwrap(), Heard::Same);
        let fence = Fence::open(dir.path()).unwrap();
        for lower in [floor(1, 5), floor(2, 4), floor(0, 0), floor(-1, 5), floor(i64::MAX, i64::MAX)] {
            assert_eq!(fence.hear(lower).unwrap(), Heard::Lower);
            assert_eq!(fence.floor(), floor(2, 5));
        }
        assert_eq!(fence.hear(floor(1, 7)).unwrap(), Heard::Lower, "half of it was news");
        assert_eq!(fence.floor(), floor(2, 7));
        std::fs::write(dir.path().join(FILE), "{}x").unwrap();
        assert!(Fence::open(dir.path()).unwrap_err().to_string().contains(FILE));
    }

    #[test]
    fn voids_what_is_older() {
        let floor = Floor { incarnation: 1, min_epoch: 1 };
        assert_eq!(floor.voids(&payload()), None);
        assert!(Floor { min_epoch: 2, ..floor }.voids(&payload()).unwrap().contains("epoch 1"));
        assert!(Floor { incarnation: 2, ..floor }.voids(&payload()).unwrap().contains("incarnation 1"));
    }
}
