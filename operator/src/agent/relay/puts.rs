//! What a unit's pod may put: files of its job's checkpoints, some checkpoints ahead of what it has committed, and never the last of
//! the volume, for what the agent remembers of its units lies there too.
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use muster_proof::Digest;
use muster_trainer::resolved::MAX_SPEC;

use super::Relay;
use super::asked::{Answer, Who, broken, refuse, said, unless_stalled};
use super::blobs::{checkpoint_files, leads_to};
use crate::agent::units::{Unit, locked};
use crate::runtime::blobdir::drain;
use crate::store::sizes::{CHECKPOINTS, Sizes};

/// Of the volume this much is left to the agent's own state, or a 16th of a small one.
const KEPT: u64 = 512 << 20;
/// Of the body of a blob that is refused so much is read, that its sender hears why: more than a part of a checkpoint has.
const PASSED_OVER: u64 = 2 << 30;
/// Blobs that no commit names: a checkpoint of a hundred thousand million parameters has some thousand files. In tests as many as one
/// can make.
const BLOBS: usize = if cfg!(test) { 40 } else { 4096 };

/// What was put and no commit names yet, of each unit. A restart forgets it; a blob that nobody names goes within hours anyway.
#[derive(Debug, Default)]
pub(super) struct Puts {
    sizes: Mutex<HashMap<Digest, Sizes>>,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    number: u64,
    units: HashMap<String, BTreeMap<u64, Put>>,
}

#[derive(Debug)]
struct Put {
    digest: Digest,
    size: u64,
    is_whole: bool,
}

/// Room for one blob; given back when it is dropped, unless the blob has come.
struct Room {
    relay: Arc<Relay>,
    unit: String,
    number: u64,
}

impl Room {
    fn has_come(self) {
        self.relay.puts.change(&self.unit, |puts| {
            if let Some(put) = puts.get_mut(&self.number) {
                put.is_whole = true;
            }
        });
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.relay.puts.change(&self.unit, |puts| {
            if puts.get(&self.number).is_some_and(|put| !put.is_whole) {
                puts.remove(&self.number);
            }
        });
    }
}

impl Puts {
    fn change(&self, unit: &str, change: impl FnOnce(&mut BTreeMap<u64, Put>)) {
        let mut open = locked(&self.open);
        if let Some(puts) = open.units.get_mut(unit) {
            change(puts);
            if puts.is_empty() {
                open.units.remove(unit);
            }
        }
    }

    fn add(&self, unit: &str, digest: Digest, size: u64) -> u64 {
        let mut open = locked(&self.open);
        open.number += 1;
        let number = open.number;
        let put = Put { digest, size, is_whole: false };
        open.units.entry(unit.to_owned()).or_default().insert(number, put);
        number
    }

    /// Bytes and blobs of a unit, those under way among them.
    fn of(&self, unit: &str) -> (u64, usize) {
        let open = locked(&self.open);
        let puts = open.units.get(unit);
        let bytes = puts.into_iter().flat_map(BTreeMap::values).map(|put| put.size);
        (bytes.fold(0, u64::saturating_add), puts.map_or(0, BTreeMap::len))
    }

    /// Bytes that all have under way.
    fn under_way(&self) -> u64 {
        let open = locked(&self.open);
        let puts = open.units.values().flat_map(BTreeMap::values).filter(|put| !put.is_whole);
        puts.map(|put| put.size).fold(0, u64::saturating_add)
    }
}

impl Relay {
    /// Answers PUT.
    pub(super) async fn take_blob(
        self: &Arc<Self>,
        who: &Who,
        digest: Digest,
        headers: &HeaderMap,
        body: Body,
    ) -> Answer {
        let mut body = unless_stalled(body);
        match self.may_put(who, digest, headers).await {
            Ok((room, max)) => {
                let answer = self.blobs.answer_put(&digest, body, max).await;
                if let Some(room) = room.filter(|_| answer.status() == StatusCode::CREATED) {
                    room.has_come();
                }
                Ok(answer)
            }
            Err(refusal) => {
                tracing::warn!(unit = who.unit.name(), status = %refusal.status(), "a blob of a pod is refused");
                drain(&mut body, PASSED_OVER).await;
                Err(refusal)
            }
        }
    }

    /// Room for a blob, unless it is there already, and how large it may be.
    async fn may_put(
        self: &Arc<Self>,
        who: &Who,
        digest: Digest,
        headers: &HeaderMap,
    ) -> Answer<(Option<Room>, u64)> {
        if who.worker.rank != 0 {
            return Err(said(StatusCode::FORBIDDEN, "checkpoints are rank 0's"));
        }
        let sizes = self.sizes(&who.unit).await?;
        if self.blobs.size(&digest).await.map_err(broken)?.is_some() {
            return Ok((None, sizes.file));
        }
        let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        let size = length.unwrap_or(sizes.file);
        Ok((Some(self.reserve(&who.unit, &sizes, digest, size).await?), size))
    }

    async fn reserve(
        self: &Arc<Self>,
        unit: &Unit,
        sizes: &Sizes,
        digest: Digest,
        size: u64,
    ) -> Answer<Room> {
        if size > sizes.file {
            let text = format!("a file of this job's checkpoints has at most {} bytes", sizes.file);
            return Err(said(StatusCode::PAYLOAD_TOO_LARGE, &text));
        }
        let spare = self.spare().map_err(broken)?;
        if size > spare {
            let text =
                "the agent's disk is nearly full: what is left is its state's; give its volume more room";
            return Err(said(StatusCode::INSUFFICIENT_STORAGE, text));
        }
        // Taken first and looked at then: two that come at once see each other.
        let number = self.puts.add(unit.name(), digest, size);
        let room = Room { relay: self.clone(), unit: unit.name().to_owned(), number };
        let allowed = sizes.checkpoint.saturating_mul(CHECKPOINTS);
        let fits = || {
            let (bytes, blobs) = self.puts.of(unit.name());
            bytes <= allowed && blobs <= BLOBS
        };
        if !fits() {
            self.settle(unit).await;
        }
        if !fits() {
            let text = format!(
                "OverQuota: unit {} has put what no commit names, at most {allowed} bytes in {BLOBS} blobs are kept; \
                 commit a checkpoint",
                unit.name()
            );
            return Err(said(StatusCode::INSUFFICIENT_STORAGE, &text));
        }
        Ok(room)
    }

    /// Forgets what a commit names by now, or what is not there any more, and units that are gone.
    async fn settle(&self, unit: &Unit) {
        let mut named = BTreeSet::new();
        for commit in unit.state().await.checkpoints {
            named.extend(leads_to(&self.blobs, &commit.manifest, checkpoint_files).await);
        }
        let mut whole = Vec::new();
        self.puts.change(unit.name(), |puts| {
            puts.retain(|_, put| !named.contains(&put.digest));
            whole.extend(
                puts.iter().filter(|(_, put)| put.is_whole).map(|(number, put)| (*number, put.digest)),
            );
        });
        for (number, digest) in whole {
            if matches!(self.blobs.size(&digest).await, Ok(None)) {
                self.puts.change(unit.name(), |puts| {
                    puts.remove(&number);
                });
            }
        }
        let known: BTreeSet<String> = self.units.all().iter().map(|unit| unit.name().to_owned()).collect();
        locked(&self.puts.open).units.retain(|name, _| known.contains(name));
    }

    /// The sizes of a unit's checkpoints.
    async fn sizes(&self, unit: &Unit) -> Answer<Sizes> {
        let spec = unit.state().await.payload.map(|payload| payload.spec);
        let spec = spec.ok_or_else(|| said(StatusCode::GONE, "the unit is gone"))?;
        if let Some(known) = locked(&self.puts.sizes).get(&spec) {
            return Ok(*known);
        }
        self.fetch(unit, &spec).await.map_err(refuse)?;
        let bytes = self.blobs.read(&spec, MAX_SPEC).await.map_err(broken)?.unwrap_or_default();
        let read = tokio::task::spawn_blocking(move || Sizes::of_spec(&bytes)).await;
        let sizes = read.map_err(|error| broken(std::io::Error::other(error)))?.map_err(|error| {
            tracing::error!(unit = unit.name(), %spec, %error, "the resolved spec of a unit is none");
            said(
                StatusCode::CONFLICT,
                "BadUnit: the job's resolved spec cannot be read; tell the hub's admin",
            )
        })?;
        locked(&self.puts.sizes).insert(spec, sizes);
        Ok(sizes)
    }

    /// Bytes that blobs may still take of the volume.
    pub(super) fn spare(&self) -> std::io::Result<u64> {
        let (free, all) = self.blobs.space()?;
        Ok(free.saturating_sub(kept(all)).saturating_sub(self.puts.under_way()))
    }
}

/// What of a volume of this many bytes is left to the agent's state.
fn kept(all: u64) -> u64 {
    KEPT.min(all / 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_small_volume_a_part_is_kept_and_of_a_large_one_no_more_than_is_used() {
        assert_eq!((kept(20 << 30), kept(1 << 30), kept(0)), (512 << 20, 64 << 20, 0));
    }
}
