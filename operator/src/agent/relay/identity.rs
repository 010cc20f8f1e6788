//! Which worker is asking: from a pod's token to unit, attempt and rank.
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use muster_proof::Digest;

use crate::agent::units::locked;

/// A review is believed for so long: a token that was good a minute ago belongs to the same pod.
const KEEP: Duration = Duration::from_secs(60);
/// No more reviews are kept, whoever asks.
const MAX_KEPT: usize = 4096;

/// A pod of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Worker {
    /// Name of the WorkUnit.
    pub unit: String,
    /// Which attempt the pod belongs to.
    pub attempt: i64,
    /// Which worker it is.
    pub rank: i64,
    /// UID of the pod.
    pub pod: String,
    /// Its address, if the API knows it already.
    pub address: Option<IpAddr>,
}

/// Why a token names no worker.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReviewError {
    /// Not a token, or not one for this relay, or of something that is not a worker.
    #[error("{0}")]
    Refused(String),
    /// The member's API could not be asked.
    #[error("the member's API server cannot be asked who this is: {0}")]
    Unavailable(String),
}

/// Asks who a token belongs to. A trait, so that the relay's tests need no cluster.
pub trait Reviewer: Send + Sync + std::fmt::Debug {
    /// The worker of this token.
    fn review<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Worker, ReviewError>>;
}

/// Reviews that are still believed, by the token's hash: the tokens themselves are not kept.
#[derive(Debug, Default)]
pub struct Kept(Mutex<HashMap<Digest, (Instant, Worker)>>);

impl Kept {
    /// The worker of `token`, from memory or by asking.
    ///
    /// # Errors
    /// What the reviewer says; refusals are not kept.
    pub async fn review(&self, reviewer: &dyn Reviewer, token: &str) -> Result<Worker, ReviewError> {
        let hash = Digest::of(token.as_bytes());
        if let Some((time, worker)) = locked(&self.0).get(&hash)
            && time.elapsed() < KEEP
        {
            return Ok(worker.clone());
        }
        let worker = reviewer.review(token).await?;
        let mut kept = locked(&self.0);
        kept.retain(|_, (time, _)| time.elapsed() < KEEP);
        if kept.len() < MAX_KEPT && worker.address.is_some() {
            kept.insert(hash, (Instant::now(), worker.clone()));
        }
        Ok(worker)
    }
}
