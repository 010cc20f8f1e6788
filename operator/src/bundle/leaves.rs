//! All entries of a log up to a head, and inclusion proofs out of them. Nothing is believed: the root is computed.
use std::collections::BTreeMap;

use muster_proof::tlog::checkpoint::Checkpoint;
use muster_proof::tlog::entry::MAX_ENTRY;
use muster_proof::tlog::frontier::Frontier;
use muster_proof::tlog::read::{self, NotFetched, TileSource, inclusion};
use muster_proof::tlog::tile::{Bundle, Resource, Tile, WIDTH, parse_entries};
use muster_proof::{Digest, merkle};

use crate::log::client::{self, ClientError, LogClient, ProofError};

/// Why there are no leaves.
#[derive(Debug, thiserror::Error)]
pub enum LeavesError {
    /// The log did not answer.
    #[error(transparent)]
    Log(#[from] ClientError),
    /// Its tiles do not lead to the root.
    #[error("the log's tiles: {0}")]
    Tiles(#[from] read::Error<NotFetched>),
    /// It answered with something else.
    #[error("{file} of the log: {problem}")]
    Wrong {
        /// Its path.
        file: String,
        /// What is wrong.
        problem: String,
    },
}

impl From<ProofError> for LeavesError {
    fn from(error: ProofError) -> Self {
        match error {
            ProofError::Client(error) => Self::Log(error),
            ProofError::Tiles(error) => Self::Tiles(error),
            ProofError::Range { at, .. } => {
                Self::Wrong { file: format!("entry {at}"), problem: error.to_string() }
            }
        }
    }
}

/// Entries of a log, from the first.
#[derive(Debug, Clone)]
pub struct Leaves {
    bodies: Vec<Vec<u8>>,
    root: Digest,
    tiles: BTreeMap<Tile, Vec<u8>>,
}

impl Leaves {
    /// Fetches `size` entries; `None` once they have more than `most` bytes.
    ///
    /// # Errors
    /// [`LeavesError`].
    pub async fn fetch(log: &dyn LogClient, size: u64, most: u64) -> Result<Option<Self>, LeavesError> {
        let (mut bodies, mut bytes) = (Vec::new(), 0u64);
        for index in 0..size.div_ceil(u64::from(WIDTH)) {
            let part = entries(log, index * u64::from(WIDTH), size).await?;
            bytes += part.iter().map(|body| body.len() as u64).sum::<u64>();
            if bytes > most {
                return Ok(None);
            }
            bodies.extend(part);
        }
        Ok(Some(Self::of(bodies)))
    }

    /// The tree over these entries.
    #[must_use]
    pub fn of(bodies: Vec<Vec<u8>>) -> Self {
        let hashes: Vec<Digest> = bodies.iter().map(|body| merkle::leaf(body)).collect();
        let mut frontier = Frontier::new();
        let files = frontier.append(&hashes).unwrap_or_default();
        let tiles = files.into_iter().map(|file| (file.tile, file.data)).collect();
        Self { bodies, root: frontier.root(), tiles }
    }

    /// The entries.
    #[must_use]
    pub fn bodies(&self) -> &[Vec<u8>] {
        &self.bodies
    }

    /// The root over them.
    #[must_use]
    pub fn root(&self) -> &Digest {
        &self.root
    }

    /// The tiles of their tree.
    #[must_use]
    pub fn tiles(&self) -> &BTreeMap<Tile, Vec<u8>> {
        &self.tiles
    }

    /// The root over the first `size` of them.
    #[must_use]
    pub fn root_of(&self, size: u64) -> Option<Digest> {
        let size = usize::try_from(size).ok()?;
        Some(merkle::root(self.bodies.get(..size)?))
    }

    /// The inclusion path of an entry.
    #[must_use]
    pub fn prove(&self, index: u64) -> Option<Vec<Digest>> {
        let size = self.bodies.len() as u64;
        let proof = inclusion(index, size, Some(&self.root), &mut Own(&self.tiles));
        proof.ok().map(|(_, path)| path)
    }
}

/// The tiles of [`Leaves`], not copied.
struct Own<'a>(&'a BTreeMap<Tile, Vec<u8>>);

impl TileSource for Own<'_> {
    type Error = NotFetched;

    fn tile(&mut self, tile: Tile) -> Result<Vec<u8>, NotFetched> {
        self.0.get(&tile).cloned().ok_or(NotFetched(tile))
    }
}

/// Entry `index` of a log and its inclusion path under a head whose signature was verified.
///
/// # Errors
/// [`LeavesError`].
pub async fn prove(
    log: &dyn LogClient,
    index: u64,
    head: &Checkpoint,
) -> Result<(Vec<u8>, Vec<Digest>), LeavesError> {
    let none = || LeavesError::Wrong {
        file: format!("entry {index}"),
        problem: "there is none under this head".to_owned(),
    };
    let (hash, path) = client::inclusion(log, index, head).await?;
    let bodies = entries(log, index, head.size()).await?;
    let body = bodies.into_iter().find(|body| merkle::leaf(body) == hash).ok_or_else(none)?;
    Ok((body, path))
}

/// The entries of the bundle that entry `index` is in, in a tree of `size`. A partial file that is gone has become a full one.
///
/// # Errors
/// [`LeavesError`].
pub async fn entries(log: &dyn LogClient, index: u64, size: u64) -> Result<Vec<Vec<u8>>, LeavesError> {
    let wrong = |file: String, problem: &dyn std::fmt::Display| LeavesError::Wrong {
        file,
        problem: problem.to_string(),
    };
    let none = || wrong(format!("entry {index}"), &"there is none under this head");
    let wanted = Bundle::with_entry(index, size).ok_or_else(none)?;
    let (taken, data) = match log.tile(&Resource::Entries(wanted)).await {
        Ok(data) => (wanted, data),
        Err(ClientError::Refused { status: 404, .. }) if !wanted.tile().is_full() => {
            let full = wanted.tile().full().and_then(Bundle::of).ok_or_else(none)?;
            (full, log.tile(&Resource::Entries(full)).await?)
        }
        Err(error) => return Err(error.into()),
    };
    let bodies = parse_entries(taken, &data).map_err(|error| wrong(taken.to_string(), &error))?;
    let bodies = bodies.into_iter().take(usize::from(wanted.tile().width()));
    let bodies: Vec<Vec<u8>> = bodies.map(<[u8]>::to_vec).collect();
    if bodies.iter().any(|body| body.len() > MAX_ENTRY) {
        return Err(wrong(taken.to_string(), &"an entry is longer than any is"));
    }
    Ok(bodies)
}
