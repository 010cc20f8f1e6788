//! Which worker is asking: from a pod's token to unit, attempt and rank.
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use muster_proof::Digest;
use tokio::sync::Semaphore;

use crate::agent::units::locked;
use crate::runtime::bucket::{ByAddress, Rate};

/// A review is believed for so long: a token that was good a minute ago belongs to the same pod.
const KEEP: Duration = Duration::from_secs(60);
/// A refusal is believed for so long: whoever asks again and again costs the member nothing.
const KEEP_REFUSED: Duration = Duration::from_secs(10);
/// No more reviews are kept, whoever asks; nor more addresses.
const MAX_KEPT: usize = 4096;
/// Reviews under way: a flood of tokens waits for itself, the member's API server does not.
const AT_ONCE: usize = 8;
/// Of tokens that are not known, from one address: the pods of a node may be one, and all come at once after a restart.
const STRANGERS: Rate = Rate::per_second(20, 400);

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
    /// This address has shown too many that are not known.
    #[error("too many unknown tokens from this address; try again later")]
    TooMany,
}

/// Asks who a token belongs to. A trait, so that the relay's tests need no cluster.
pub trait Reviewer: Send + Sync + std::fmt::Debug {
    /// The worker of this token.
    fn review<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Worker, ReviewError>>;
}

/// Reviews that are still believed, by the token's hash: the tokens themselves are not kept.
#[derive(Debug)]
pub struct Kept {
    workers: Mutex<HashMap<Digest, (Instant, Worker)>>,
    refused: Mutex<HashMap<Digest, (Instant, String)>>,
    strangers: ByAddress,
    turns: Semaphore,
}

impl Default for Kept {
    fn default() -> Self {
        Self {
            workers: Mutex::default(),
            refused: Mutex::default(),
            strangers: ByAddress::new(STRANGERS, MAX_KEPT),
            turns: Semaphore::new(AT_ONCE),
        }
    }
}

impl Kept {
    /// The worker of `token`, from memory or by asking, which each address may only so often.
    ///
    /// # Errors
    /// What the reviewer says, now or a moment ago; [`ReviewError::TooMany`].
    pub async fn review(
        &self,
        reviewer: &dyn Reviewer,
        token: &str,
        from: IpAddr,
    ) -> Result<Worker, ReviewError> {
        let hash = Digest::of(token.as_bytes());
        if let Some(known) = self.known(&hash) {
            return known;
        }
        self.strangers.take(from, self.strangers.now()).map_err(|_| ReviewError::TooMany)?;
        let turn = self.turns.acquire().await;
        let _turn = turn.map_err(|error| ReviewError::Unavailable(error.to_string()))?;
        // Another request with the same token may have asked while this one waited.
        if let Some(known) = self.known(&hash) {
            return known;
        }
        let reviewed = reviewer.review(token).await;
        match &reviewed {
            Ok(worker) if worker.address.is_some() => {
                let mut workers = locked(&self.workers);
                workers.retain(|_, (time, _)| time.elapsed() < KEEP);
                if workers.len() < MAX_KEPT {
                    workers.insert(hash, (Instant::now(), worker.clone()));
                }
            }
            Err(ReviewError::Refused(why)) => {
                let mut refused = locked(&self.refused);
                // Forgetting costs reviews, not safety.
                if refused.len() >= MAX_KEPT {
                    refused.clear();
                }
                refused.insert(hash, (Instant::now(), why.clone()));
            }
            _ => {}
        }
        reviewed
    }

    fn known(&self, hash: &Digest) -> Option<Result<Worker, ReviewError>> {
        if let Some((time, worker)) = locked(&self.workers).get(hash)
            && time.elapsed() < KEEP
        {
            return Some(Ok(worker.clone()));
        }
        let refused = locked(&self.refused);
        let (_, why) = refused.get(hash).filter(|(time, _)| time.elapsed() < KEEP_REFUSED)?;
        Some(Err(ReviewError::Refused(why.clone())))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Knows nobody, and how often and how many at once it was asked.
    #[derive(Debug, Default)]
    struct Nobody {
        asked: AtomicUsize,
        now: AtomicUsize,
        most: AtomicUsize,
    }

    impl Reviewer for Nobody {
        fn review<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Worker, ReviewError>> {
            Box::pin(async move {
                self.asked.fetch_add(1, Ordering::SeqCst);
                self.most.fetch_max(self.now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                self.now.fetch_sub(1, Ordering::SeqCst);
                Err(ReviewError::Refused("not one of ours".to_owned()))
            })
        }
    }

    #[tokio::test]
    async fn strangers_cost_the_member_only_so_many_reviews() {
        let (kept, nobody) = (Kept::default(), Nobody::default());
        let from: IpAddr = "10.0.0.1".parse().unwrap();
        for _ in 0..100 {
            assert!(matches!(kept.review(&nobody, "same", from).await, Err(ReviewError::Refused(_))));
        }
        assert_eq!(nobody.asked.load(Ordering::SeqCst), 1, "a refusal is remembered");
        let tokens: Vec<String> = (0..1000).map(|number| number.to_string()).collect();
        let all = tokens.iter().map(|token| kept.review(&nobody, token, from));
        let answers = futures::future::join_all(all).await;
        let too_many = answers.iter().filter(|answer| matches!(answer, Err(ReviewError::TooMany))).count();
        let asked = nobody.asked.load(Ordering::SeqCst);
        assert!(too_many > 500 && asked < 500, "{too_many} turned away, {asked} asked");
        assert!(nobody.most.load(Ordering::SeqCst) <= AT_ONCE);
        let elsewhere = kept.review(&nobody, "other", "10.0.0.2".parse().unwrap()).await;
        assert!(matches!(elsewhere, Err(ReviewError::Refused(_))), "another address has its own");
    }
}
