//! What the hub's controllers share.
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::runtime::controller::Action;
use kube::{Api, Client};
use muster_api::names::labels;
use muster_api::v1alpha1::{ComputeProvider, ProviderReport, WorkUnit};
use tokio::time::Instant;

use super::audit::book::AuditBook;
use super::error::Error;
use super::events::Recorder;
use super::job::resolutions::Resolutions;
use super::kueue::Kueue;
use super::ledger::Ledger;
use super::ledger::follow::Follower;
use super::metrics::Metrics;
use super::names::{AGENTS_NAMESPACE, MANAGER};
use super::provider::leases::LeaseBook;
use super::queue::Queue;
use super::signer::Signer;
use super::site::Unit;
use super::state::State;
use crate::runtime::Shutdown;
use crate::runtime::backoff::{Backoff, jitter_of};
use crate::runtime::client::ClientError;
use crate::runtime::clock;
use crate::runtime::joint::Joint;
use crate::runtime::mirror::Mirror;
use crate::store::Store;

/// See the module.
pub struct Context {
    /// The hub's API server.
    pub client: Client,
    /// Blobs, datasets, checkpoints.
    pub store: Arc<Store>,
    /// Who signs.
    pub signer: Arc<Signer>,
    /// Incarnation and floor of all epochs.
    pub state: Arc<State>,
    /// The way into the log.
    pub ledger: Ledger,
    /// All that the log says, as far as it was read.
    pub follower: Follower,
    /// What the audits of each job have come to.
    pub audits: AuditBook,
    /// `NAME@sha256:...` of the trainer.
    pub image: Image,
    /// What jobs' specs are.
    pub resolutions: Resolutions,
    /// Objects as their watches tell of them.
    pub mirrors: Mirrors,
    /// Heartbeats as this process saw them.
    pub leases: LeaseBook,
    /// Tells people.
    pub recorder: Recorder,
    /// The uids of the namespaces that live by these names; `None` where none does.
    pub namespaces: Joint<Result<Option<String>, ClientError>>,
    /// Which job trains where.
    pub queue: Queue,
    /// Whose turn it is in Kueue, where a job asks for that.
    pub kueue: Kueue,
    /// Held while a job's next unit is made.
    pub making: Keyed,
    /// What is remembered of objects between two looks; losing it costs a delay, never a decision.
    pub memory: Memory,
    /// How long all of it takes.
    pub metrics: Metrics,
    failures: Backoff<String>,
}

impl Context {
    /// Everything at its start.
    pub fn new(
        client: Client,
        store: Arc<Store>,
        (signer, state): (Arc<Signer>, Arc<State>),
        ledger: Ledger,
        image: Image,
    ) -> Self {
        Self {
            recorder: Recorder::new(client.clone(), MANAGER),
            mirrors: Mirrors::new(&client),
            client,
            store,
            signer,
            state,
            ledger,
            follower: Follower::default(),
            audits: AuditBook::default(),
            image,
            resolutions: Resolutions::default(),
            leases: LeaseBook::default(),
            namespaces: Joint::default(),
            queue: Queue::default(),
            kueue: Kueue::default(),
            making: Keyed::default(),
            memory: Memory::default(),
            metrics: Metrics::default(),
            failures: Backoff::new(Duration::from_millis(500), Duration::from_secs(60)),
        }
    }

    /// The hub's wall clock: for what is written into objects. Durations that decide are measured with [`Instant`].
    #[must_use]
    pub fn now(&self) -> Timestamp {
        clock::now()
    }

    /// After a failed look at `object`: again, later each time.
    pub fn retry(&self, object: &str, error: &Error) -> Action {
        let delay = self.failures.failed(&object.to_owned(), jitter_of(object));
        if planted!("no-retry") {
            return Action::await_change();
        }
        if error.is_conflict() && planted!("conflict-waits") {
            return Action::await_change();
        }
        if error.is_conflict() || error.is_gone() {
            // Somebody else wrote or deleted it first; the news is on its way.
            tracing::debug!(object, %error, "changed meanwhile, looking again");
        } else {
            tracing::warn!(object, %error, retry_in = ?delay, "cannot finish, trying again");
        }
        Action::requeue(delay)
    }

    /// After a successful look at `object`.
    pub fn succeeded(&self, object: &str) {
        self.failures.succeeded(&object.to_owned());
    }
}

/// What many looks read.
pub struct Mirrors {
    /// By the uid of their job.
    pub units: Mirror<WorkUnit, Unit>,
    /// As their admin has them.
    pub providers: Mirror<ComputeProvider>,
    /// What their agents report.
    pub reports: Mirror<ProviderReport>,
    /// Records of joins, by their provider.
    pub joins: Mirror<ConfigMap>,
}

impl Mirrors {
    fn new(client: &Client) -> Self {
        Self {
            units: Mirror::new(Api::all(client.clone())).grouped_by(labels::JOB_UID),
            providers: Mirror::new(Api::all(client.clone())),
            reports: Mirror::new(Api::all(client.clone())),
            joins: Mirror::new(Api::namespaced(client.clone(), AGENTS_NAMESPACE))
                .labelled(labels::PROVIDER.to_owned())
                .grouped_by(labels::PROVIDER),
        }
    }

    /// Follows all of them until shutdown.
    pub async fn follow(&self, shutdown: &Shutdown) {
        tokio::join!(
            self.units.follow(shutdown.clone()),
            self.providers.follow(shutdown.clone()),
            self.reports.follow(shutdown.clone()),
            self.joins.follow(shutdown.clone()),
        );
    }
}

/// The trainer's image as the flag names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// `NAME@sha256:...`.
    pub reference: String,
    /// `sha256:...`.
    pub digest: String,
}

impl std::str::FromStr for Image {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("{text:?} is not NAME@sha256:<64 hex>; a tag would let the image change under a job");
        let (name, digest) = text.split_once('@').ok_or_else(wrong)?;
        let valid = !name.is_empty() && digest.parse::<muster_proof::Digest>().is_ok();
        valid.then(|| Self { reference: text.into(), digest: digest.into() }).ok_or_else(wrong)
    }
}

/// One lock for each key, as long as anybody wants it.
#[derive(Debug, Default)]
pub struct Keyed {
    locks: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl Keyed {
    /// Waits until nobody else has it.
    pub async fn of(&self, key: &str) -> tokio::sync::OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
            // Those that nobody holds or waits for are only here.
            locks.retain(|_, lock| Arc::strong_count(lock) > 1);
            locks.entry(key.to_owned()).or_default().clone()
        };
        lock.lock_owned().await
    }
}

/// Moments by object and what happened then, on the monotonic clock.
#[derive(Debug, Default)]
pub struct Memory {
    moments: Mutex<HashMap<(String, What), Instant>>,
    marks: Mutex<HashMap<String, Standstill>>,
    written: Mutex<HashMap<String, u64>>,
}

/// What an object was seen to be, and since when.
#[derive(Debug)]
struct Standstill {
    mark: ([u64; 3], Instant),
    reached: (u64, Instant),
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum What {
    /// A provider was looked at.
    Looked,
    /// Progress was written into a job's status.
    Progress,
    /// A CheckpointSaved event was sent.
    CheckpointEvent,
    /// A unit was first seen at its end.
    UnitEnded,
    /// A unit was first seen to go on although its job has succeeded.
    Lingers,
}

impl Memory {
    /// How long ago it happened, if it did.
    pub fn since(&self, object: &str, what: What) -> Option<Duration> {
        let moments = self.moments.lock().unwrap_or_else(PoisonError::into_inner);
        moments.get(&(object.to_owned(), what)).map(Instant::elapsed)
    }

    /// It happens now.
    pub fn mark(&self, object: &str, what: What) {
        let mut moments = self.moments.lock().unwrap_or_else(PoisonError::into_inner);
        moments.insert((object.to_owned(), what), Instant::now());
    }

    /// How long ago it happened first; now, if this is the first time.
    pub fn first(&self, object: &str, what: What) -> Duration {
        let mut moments = self.moments.lock().unwrap_or_else(PoisonError::into_inner);
        moments.entry((object.to_owned(), what)).or_insert_with(Instant::now).elapsed()
    }

    /// For how long an object's mark has been this one, and for how long it has got no further than `reached`, as far as this
    /// process saw.
    pub fn unchanged(&self, object: &str, mark: [u64; 3], reached: u64) -> (Duration, Duration) {
        let now = Instant::now();
        let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = || Standstill { mark: (mark, now), reached: (reached, now) };
        let known = marks.entry(object.to_owned()).or_insert_with(fresh);
        if known.mark.0 != mark {
            known.mark = (mark, now);
        }
        if known.reached.0 < reached {
            known.reached = (reached, now);
        }
        (known.mark.1.elapsed(), known.reached.1.elapsed())
    }

    /// This hub could not see for a while, this object or (`None`) any: that nothing has changed meanwhile is not known.
    pub fn blind(&self, object: Option<&str>) {
        let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        match object {
            Some(object) => _ = marks.remove(object),
            None => marks.clear(),
        }
    }

    /// This process has made this version of an object.
    pub fn wrote(&self, object: &str, version: Option<String>) {
        if let Some(version) = version.and_then(|text| text.parse().ok()) {
            let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
            written.insert(object.to_owned(), version);
        }
    }

    /// Whether this version of an object is older than what this process has made of it: news of that is on its way, and whatever
    /// was decided of the older one would be refused.
    pub fn is_behind(&self, object: &str, version: Option<&str>) -> bool {
        let seen: Option<u64> = version.and_then(|text| text.parse().ok());
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        seen.is_some_and(|seen| written.get(object).is_some_and(|written| seen < *written))
    }

    /// Forgets all about an object.
    pub fn forget(&self, object: &str) {
        self.blind(Some(object));
        self.written.lock().unwrap_or_else(PoisonError::into_inner).remove(object);
        let mut moments = self.moments.lock().unwrap_or_else(PoisonError::into_inner);
        moments.retain(|(name, _), _| name != object);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_stays_the_same_gets_old() {
        let memory = Memory::default();
        let seconds = |mark: u64, reached| {
            let (same, no_further) = memory.unchanged("unit", [mark, 0, 0], reached);
            (same.as_secs(), no_further.as_secs())
        };
        assert_eq!(seconds(1, 7), (0, 0));
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(seconds(1, 7), (5, 5));
        assert_eq!(seconds(2, 6), (0, 5), "something else happens, and it gets no further");
        assert_eq!(seconds(2, 8), (0, 0));
        tokio::time::advance(Duration::from_secs(5)).await;
        memory.blind(None);
        assert_eq!(seconds(2, 8), (0, 0), "who knows");
        tokio::time::advance(Duration::from_secs(5)).await;
        memory.forget("unit");
        assert_eq!(seconds(2, 8), (0, 0));
    }

    #[test]
    fn what_is_older_than_the_last_write_is_known() {
        let memory = Memory::default();
        let is_behind = |version| memory.is_behind("job", version);
        assert!(!is_behind(Some("7")));
        memory.wrote("job", Some("9".into()));
        assert_eq!(
            [Some("7"), Some("9"), Some("10"), Some("x"), None].map(is_behind),
            [true, false, false, false, false]
        );
        memory.wrote("job", None);
        assert!(is_behind(Some("8")), "a write without a version says nothing");
        memory.forget("job");
        assert!(!is_behind(Some("7")));
    }

    #[tokio::test]
    async fn one_key_at_a_time() {
        let locks = Keyed::default();
        let held = locks.of("a").await;
        let _other = locks.of("b").await;
        let again = locks.of("a");
        tokio::pin!(again);
        assert!(futures::poll!(&mut again).is_pending());
        drop(held);
        drop(again.await);
        assert_eq!(locks.locks.lock().unwrap().len(), 2);
        drop(locks.of("c").await);
        assert_eq!(locks.locks.lock().unwrap().len(), 2, "a is wanted by nobody");
    }

    #[test]
    fn an_image_needs_a_digest() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let image: Image = format!("docker.io/library/muster-trainer@{digest}").parse().unwrap();
        assert_eq!(image.digest, digest);
        for bad in ["muster-trainer:1", "muster-trainer@sha256:12", &format!("@{digest}")] {
            assert!(bad.parse::<Image>().is_err(), "{bad}");
        }
    }
}
