//! The provider's policy as it is now: from flags, or from a file that is read again when it changes. A file that cannot be
//! read keeps the last good one in force; the report says so (condition PolicyLoaded). Beside it, what the ResourceQuotas of
//! the member allow, which the provider may change at any time too. Decisions are `muster_core::{policy, quota}`'s.
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jiff::Timestamp;
use muster_core::policy::{Error as PolicyError, MAX_BYTES, ProviderPolicy};
use muster_core::quota::Limits;

use super::nodes::{Observed, Standing};
use super::switch::Switch;
use super::units::Units;
use crate::runtime::{Shutdown, files};

/// How often the file is looked at.
const LOOK: Duration = Duration::from_secs(2);

/// Why there is no policy at the start. Later the old one stays.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file.
    #[error("--policy: {0}")]
    Io(#[from] std::io::Error),
    /// What it says.
    #[error("--policy {path}: {source}")]
    File {
        /// The file.
        path: String,
        /// Why.
        source: PolicyError,
    },
    /// What the flags say.
    #[error("--allow-image, --workers: {0}")]
    Flags(PolicyError),
}

/// See the module.
#[derive(Debug)]
pub struct Policies {
    path: Option<PathBuf>,
    now: RwLock<Now>,
    quota: RwLock<Arc<Limits>>,
    observed: Arc<Observed>,
    switch: Arc<Switch>,
}

#[derive(Debug, Clone)]
struct Now {
    policy: Arc<ProviderPolicy>,
    /// Why the file that is there is not in force.
    problem: Option<String>,
}

impl Policies {
    /// From a file.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn from_file(path: &Path, switch: Arc<Switch>) -> Result<Self, LoadError> {
        let now = Now { policy: Arc::new(load(path)?), problem: None };
        Ok(Self {
            path: Some(path.to_owned()),
            now: RwLock::new(now),
            quota: RwLock::default(),
            observed: Arc::default(),
            switch,
        })
    }

    /// From flags.
    ///
    /// # Errors
    /// [`LoadError::Flags`].
    pub fn from_flags(images: &[String], workers: u32, switch: Arc<Switch>) -> Result<Self, LoadError> {
        let policy = ProviderPolicy::simple(images.to_vec(), workers).map_err(LoadError::Flags)?;
        let now = Now { policy: Arc::new(policy), problem: None };
        Ok(Self {
            path: None,
            now: RwLock::new(now),
            quota: RwLock::default(),
            observed: Arc::default(),
            switch,
        })
    }

    /// The one in force.
    #[must_use]
    pub fn current(&self) -> Arc<ProviderPolicy> {
        self.now.read().unwrap_or_else(PoisonError::into_inner).policy.clone()
    }

    /// What the member's quotas allow, as last seen; nothing bounds before the first look.
    #[must_use]
    pub fn quota(&self) -> Arc<Limits> {
        self.quota.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes in what the member's quotas allow; says whether that is news.
    pub fn set_quota(&self, limits: Limits) -> bool {
        let news = *self.quota() != limits;
        *self.quota.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(limits);
        news
    }

    /// What the nodes have room for, where the policy lets the agent look.
    #[must_use]
    pub fn observed(&self) -> Arc<Observed> {
        self.observed.clone()
    }

    /// How many more workers of the size that the policy names the nodes have room for; `None` if nobody looks.
    #[must_use]
    pub fn on_nodes(&self) -> Option<Standing> {
        let policy = self.current();
        let worker = policy.worker().filter(|_| policy.observes())?;
        Some(self.observed.room(worker))
    }

    /// Why the newest file is not in force, if it is not.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        self.now.read().unwrap_or_else(PoisonError::into_inner).problem.clone()
    }

    /// Why everything lent must end now, if it must.
    #[must_use]
    pub fn stopped(&self) -> Option<String> {
        if self.switch.is_stopped() {
            return Some("the provider has stopped lending (`muster agent stop`)".to_owned());
        }
        self.current()
            .is_stopped()
            .then(|| "the provider has stopped lending (stop: true in its policy)".to_owned())
    }

    /// Why no new unit is taken now, if none is.
    #[must_use]
    pub fn closed(&self, now: Timestamp) -> Option<String> {
        self.stopped().or_else(|| self.current().closed(now))
    }

    /// Looks at the file; says whether anything is new.
    pub fn reread(&self) -> bool {
        let Some(path) = &self.path else { return false };
        let before = self.now.read().unwrap_or_else(PoisonError::into_inner).clone();
        let next = match load(path) {
            Ok(policy) => Now { policy: Arc::new(policy), problem: None },
            Err(error) => Now { problem: Some(error.to_string()), ..before.clone() },
        };
        let news = next.policy != before.policy || next.problem != before.problem;
        if news {
            match &next.problem {
                None => tracing::info!(path = %path.display(), "the provider's policy is in force"),
                Some(error) => tracing::error!(error, "the new policy is refused; the last good one stays"),
            }
        }
        *self.now.write().unwrap_or_else(PoisonError::into_inner) = next;
        news
    }

    /// Follows file and switch until `shutdown`; wakes units and report when something changed.
    pub async fn follow(self: Arc<Self>, units: Arc<Units>, shutdown: Shutdown) {
        loop {
            tokio::select! {
                biased;
                () = shutdown.wait() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
            let file = self.reread();
            let switched = self.switch.look();
            if file || switched {
                units.all().iter().for_each(|unit| unit.wake.notify_one());
                units.changed.notify_one();
            }
        }
    }
}

fn load(path: &Path) -> Result<ProviderPolicy, LoadError> {
    let bytes = files::read_capped(path, MAX_BYTES as u64)?;
    let text = String::from_utf8(bytes).map_err(|_| PolicyError::Syntax("not UTF-8".to_owned()));
    let policy = text.and_then(|text| ProviderPolicy::parse(&text));
    policy.map_err(|source| LoadError::File { path: path.display().to_string(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str =
        "images: ['t@sha256:1111111111111111111111111111111111111111111111111111111111111111']\n";

    #[test]
    fn a_bad_new_file_keeps_the_old_policy_and_says_why() {
        let dir = tempfile::tempdir().unwrap();
        let switch = Arc::new(Switch::open(dir.path()));
        let path = dir.path().join("policy.yaml");
        assert!(Policies::from_file(&path, switch.clone()).is_err());
        let write = |tail: &str| std::fs::write(&path, format!("{GOOD}{tail}")).unwrap();
        write("offer: {workers: 8}");
        let policies = Policies::from_file(&path, switch).unwrap();
        assert!(!policies.reread());
        write("offer: {workers: 9, wage: 1}");
        assert!(policies.reread() && !policies.reread());
        assert_eq!(policies.current().workers(), 8);
        assert!(policies.problem().unwrap().contains("wage"));
        std::fs::remove_file(&path).unwrap();
        assert!(policies.reread());
        assert_eq!(policies.current().workers(), 8);
        write("offer: {workers: 9}");
        assert!(policies.reread());
        assert_eq!((policies.current().workers(), policies.problem()), (9, None));
        assert_eq!(policies.closed(Timestamp::now()), None);
        write("offer: {workers: 9}\nstop: true");
        assert!(policies.reread());
        assert!(policies.stopped().unwrap().contains("stop: true"));
    }

    #[test]
    fn the_switch_stops_whatever_the_policy_says() {
        let dir = tempfile::tempdir().unwrap();
        let image = "t@sha256:1111111111111111111111111111111111111111111111111111111111111111".to_owned();
        let switch = Arc::new(Switch::open(dir.path()));
        let policies = Policies::from_flags(&[image], 4, switch.clone()).unwrap();
        assert_eq!(policies.closed(Timestamp::now()), None);
        super::super::switch::stop(dir.path()).unwrap();
        assert!(switch.look());
        assert!(policies.stopped().unwrap().contains("muster agent stop"));
    }
}
