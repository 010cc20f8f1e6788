//! Whose key is accepted (section 1), as the API server's watch last said. While the API server is away, the gateway goes on with
//! what it knows; before it knows anything, it answers 503.
//!
//! Whoever is let in gets a [`CancellationToken`] that falls the moment his key is no longer accepted.
use std::collections::{BTreeMap, HashMap};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use kube::core::DeserializeGuard;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use muster_api::v1alpha1::{ComputeProvider, Scheduling};
use muster_proof::Digest;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::metrics::Metrics;
use crate::runtime::Shutdown;
use crate::runtime::patience::Patience;

type Guarded = DeserializeGuard<ComputeProvider>;

/// How late an expiry may cut what is open; new requests are refused on the second.
const LOOK_FOR_EXPIRED: Duration = Duration::from_millis(500);

/// Keys that are remembered as waiting; forgetting one makes its agent's refusal less clear, no more.
const MAX_JOINED: usize = 1024;

/// What the gateway knows of a provider.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    uid: String,
    owner: String,
    revoked: bool,
    min_epoch: i64,
    keys: Vec<(Digest, Option<Timestamp>)>,
    presented: Option<Digest>,
}

/// A provider that was let in by its key.
#[derive(Debug, Clone)]
pub struct Admitted {
    /// Name of the ComputeProvider.
    pub provider: String,
    /// Its UID.
    pub uid: String,
    /// Units of lower epochs are void.
    pub min_epoch: i64,
    /// Falls when the key is no longer accepted.
    pub cut: CancellationToken,
}

/// Why a key is not let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stranger {
    /// Nothing is known yet.
    NotSynced,
    /// Its provider is revoked.
    Revoked(String),
    /// It was accepted until then.
    Expired(String, Timestamp),
    /// Two providers list it.
    Ambiguous(String, String),
    /// A provider's join has presented it; nobody has pinned it yet.
    Waiting(String),
    /// Nobody lists it.
    Unknown,
}

type CutKey = (String, String, Digest);

#[derive(Debug, Default)]
struct View {
    synced: bool,
    providers: BTreeMap<String, Known>,
    /// Who lists a key.
    by_key: HashMap<Digest, Vec<String>>,
    /// Keys that have joined at this gateway and are listed nowhere yet: the hub may be slow to show them.
    joined: HashMap<Digest, String>,
    /// By provider, its UID and key: what falls when the key does.
    cuts: HashMap<CutKey, CancellationToken>,
}

/// All ComputeProviders, by key.
#[derive(Debug)]
pub struct Providers {
    view: RwLock<View>,
    metrics: Metrics,
    /// Told of every change, for the sweeper.
    pub changed: Notify,
}

impl Providers {
    /// Knows nothing yet.
    #[must_use]
    pub fn new(metrics: Metrics) -> Self {
        Self { view: RwLock::default(), metrics, changed: Notify::new() }
    }

    /// Whether the first list has come.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.view.read().unwrap_or_else(PoisonError::into_inner).synced
    }

    /// The provider that this key stands for.
    ///
    /// # Errors
    /// [`Stranger`].
    pub fn admit(&self, key: &Digest, now: Timestamp) -> Result<Admitted, Stranger> {
        let mut view = self.view.write().unwrap_or_else(PoisonError::into_inner);
        let (provider, known) = view.accepted(key, now)?;
        let (provider, uid, min_epoch) = (provider.to_owned(), known.uid.clone(), known.min_epoch);
        let cut = view.cuts.entry((provider.clone(), uid.clone(), *key)).or_default().clone();
        Ok(Admitted { provider, uid, min_epoch, cut })
    }

    /// Who stands behind a provider, if it is known.
    #[must_use]
    pub fn owner(&self, provider: &str) -> Option<String> {
        let view = self.view.read().unwrap_or_else(PoisonError::into_inner);
        view.providers.get(provider).map(|known| known.owner.clone())
    }

    /// A key has joined: until it is pinned, its owner waits for the admin.
    pub fn note_join(&self, key: Digest, provider: &str) {
        let mut view = self.view.write().unwrap_or_else(PoisonError::into_inner);
        if view.joined.len() >= MAX_JOINED {
            view.joined.clear();
        }
        if !view.by_key.contains_key(&key) {
            view.joined.insert(key, provider.to_owned());
        }
    }

    /// Every accepted key with its provider; `None` before anything is known.
    #[must_use]
    pub fn all_accepted(&self, now: Timestamp) -> Option<Vec<(String, Digest)>> {
        let view = self.view.read().unwrap_or_else(PoisonError::into_inner);
        let accepted = |key: &Digest| Some((view.accepted(key, now).ok()?.0.to_owned(), *key));
        view.synced.then(|| view.by_key.keys().filter_map(accepted).collect())
    }

    /// Follows the API server until shutdown.
    pub async fn follow(&self, client: Client, shutdown: Shutdown) {
        let api: Api<Guarded> = Api::all(client);
        let watch = || watcher(api.clone(), watcher::Config::default()).backoff(Patience::default()).boxed();
        let (mut events, mut listed) = (watch(), Vec::new());
        loop {
            let event = tokio::select! {
                biased;
                () = shutdown.wait() => return,
                event = events.next() => event,
                () = tokio::time::sleep(LOOK_FOR_EXPIRED) => {
                    self.change(Timestamp::now(), |_| false);
                    continue;
                }
            };
            match event {
                None => events = watch(),
                Some(Err(error)) => tracing::warn!(%error, "watch of ComputeProviders interrupted"),
                Some(Ok(event)) => self.see(event, &mut listed),
            }
        }
    }

    fn see(&self, event: watcher::Event<Guarded>, listed: &mut Vec<(String, Option<Known>)>) {
        let now = Timestamp::now();
        match event {
            watcher::Event::Init => listed.clear(),
            watcher::Event::InitApply(object) => listed.push(read(object)),
            watcher::Event::InitDone => {
                let all = std::mem::take(listed);
                let all = all.into_iter().filter_map(|(name, known)| Some((name, known?))).collect();
                self.change(now, |view| {
                    let first = !std::mem::replace(&mut view.synced, true);
                    let before = std::mem::replace(&mut view.providers, all);
                    // Who was deleted while nobody watched is told so, and does not wait for an admin for ever.
                    let View { joined, providers, .. } = view;
                    joined.retain(|_, name| providers.contains_key(name) || !before.contains_key(name));
                    first || before != *providers
                });
            }
            watcher::Event::Apply(object) => {
                let (name, known) = read(object);
                self.change(now, |view| match known {
                    Some(known) => view.providers.insert(name, known.clone()) != Some(known),
                    None => view.providers.remove(&name).is_some(),
                });
            }
            watcher::Event::Delete(object) => {
                let name = object.name_any();
                self.change(now, |view| {
                    view.joined.retain(|_, provider| *provider != name);
                    view.providers.remove(&name).is_some()
                });
            }
        }
    }

    /// Changes the view (true: it is another), then cuts off whoever is no longer accepted, before anybody is admitted again.
    fn change(&self, now: Timestamp, change: impl FnOnce(&mut View) -> bool) {
        let mut view = self.view.write().unwrap_or_else(PoisonError::into_inner);
        let changed = change(&mut view);
        if changed {
            view.index();
        }
        let cuts = std::mem::take(&mut view.cuts);
        let mut fell = 0;
        for ((provider, uid, key), token) in cuts {
            let holds =
                view.accepted(&key, now).is_ok_and(|(name, known)| *name == provider && known.uid == uid);
            if holds {
                view.cuts.insert((provider, uid, key), token);
            } else {
                tracing::info!(provider, %key, "key is no longer accepted: its connections are cut");
                token.cancel();
                fell += 1;
            }
        }
        if changed || fell > 0 {
            self.metrics.providers(view.count(now));
        }
        drop(view);
        self.metrics.cuts.inc_by(fell);
        if changed || fell > 0 {
            self.changed.notify_one();
        }
    }
}

impl View {
    fn index(&mut self) {
        self.by_key.clear();
        for (name, known) in &self.providers {
            for (key, _) in &known.keys {
                self.by_key.entry(*key).or_default().push(name.clone());
            }
        }
        let by_key = &self.by_key;
        self.joined.retain(|key, _| !by_key.contains_key(key));
    }

    fn accepted(&self, key: &Digest, now: Timestamp) -> Result<(&String, &Known), Stranger> {
        if !self.synced {
            return Err(Stranger::NotSynced);
        }
        let listing = self.by_key.get(key).map_or(&[][..], Vec::as_slice);
        let mut found: Option<(&String, &Known)> = None;
        let mut why = Stranger::Unknown;
        for (name, known) in listing.iter().filter_map(|name| self.providers.get_key_value(name)) {
            let until = known.keys.iter().find(|(listed, _)| listed == key).and_then(|(_, until)| *until);
            match (known.revoked, until.filter(|until| *until <= now), found) {
                (true, _, _) => why = Stranger::Revoked(name.clone()),
                (false, Some(until), _) => why = Stranger::Expired(name.clone(), until),
                // Whom it stands for must not depend on who asks first.
                (false, None, Some((other, _))) => {
                    return Err(Stranger::Ambiguous(other.clone(), name.clone()));
                }
                (false, None, None) => found = Some((name, known)),
            }
        }
        if why == Stranger::Unknown {
            // A provider that the watch has not shown yet is no reason to send its agent away: the join has read it.
            let joined =
                self.joined.get(key).filter(|name| self.providers.get(*name).is_none_or(|p| !p.revoked));
            let presented =
                || self.providers.iter().find(|(_, known)| known.presented == Some(*key) && !known.revoked);
            let name = joined.or_else(|| presented().map(|(name, _)| name));
            why = name.map_or(why, |name| Stranger::Waiting(name.clone()));
        }
        found.ok_or(why)
    }

    fn count(&self, now: Timestamp) -> ProviderCount {
        let mut count = ProviderCount::default();
        for known in self.providers.values() {
            if known.revoked {
                count.revoked += 1;
            } else if known.keys.iter().any(|(_, until)| until.is_none_or(|until| until > now)) {
                count.accepted += 1;
            } else if known.presented.is_some() {
                count.waiting += 1;
            } else {
                count.unknown += 1;
            }
        }
        count
    }
}

/// How many providers are in which state, for the metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProviderCount {
    /// Have a key that is let in.
    pub accepted: i64,
    /// Have presented a key that nobody has pinned.
    pub waiting: i64,
    /// Are revoked.
    pub revoked: i64,
    /// Have shown nothing yet, or all of their keys have expired.
    pub unknown: i64,
}

/// What cannot be read is not let in: it might say Revoked.
fn read(object: Guarded) -> (String, Option<Known>) {
    let name = object.name_any();
    let provider = match object.0 {
        Ok(provider) => provider,
        Err(error) => {
            tracing::error!(provider = name, %error, "this version cannot read the ComputeProvider; it is not let in");
            return (name, None);
        }
    };
    let mut keys: Vec<(Digest, Option<Timestamp>)> = Vec::new();
    for key in &provider.spec.accepted_keys {
        match key.fingerprint.parse() {
            Ok(digest) => keys.push((digest, key.not_after.as_ref().map(|time| time.0))),
            Err(error) => {
                tracing::warn!(provider = name, %error, "spec.acceptedKeys: a fingerprint is not one");
            }
        }
    }
    let status = provider.status.as_ref();
    let known = Known {
        owner: provider.spec.owner.clone(),
        uid: provider.uid().unwrap_or_default(),
        revoked: provider.spec.scheduling == Scheduling::Revoked,
        min_epoch: status.and_then(|status| status.min_epoch).unwrap_or(1),
        presented: status.and_then(|status| status.presented_key.as_ref()?.parse().ok()),
        keys,
    };
    (name, Some(known))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn key(seed: u8) -> Digest {
        Digest::of(&[seed])
    }

    fn object(name: &str, keys: &[(Digest, Option<&str>)], scheduling: &str) -> Guarded {
        let keys: Vec<Value> = keys
            .iter()
            .map(|(key, until)| match until {
                Some(until) => json!({"fingerprint": key, "notAfter": until}),
                None => json!({"fingerprint": key}),
            })
            .collect();
        serde_json::from_value(json!({
            "apiVersion": "muster.dev/v1alpha1", "kind": "ComputeProvider",
            "metadata": {"name": name, "uid": format!("uid-{name}")},
            "spec": {"owner": "acme", "acceptedKeys": keys, "scheduling": scheduling},
            "status": {"minEpoch": 7, "presentedKey": key(99)},
        }))
        .unwrap()
    }

    fn knows(objects: Vec<Guarded>) -> Providers {
        let providers = Providers::new(Metrics::default());
        let mut listed = Vec::new();
        providers.see(watcher::Event::Init, &mut listed);
        for object in objects {
            providers.see(watcher::Event::InitApply(object), &mut listed);
        }
        providers.see(watcher::Event::InitDone, &mut listed);
        providers
    }

    fn why(providers: &Providers, key: &Digest, now: Timestamp) -> Stranger {
        providers.admit(key, now).unwrap_err()
    }

    #[test]
    fn a_key_names_the_provider_that_lists_it() {
        let providers = Providers::new(Metrics::default());
        assert_eq!(why(&providers, &key(1), at(0)), Stranger::NotSynced);
        let providers = knows(vec![
            object("east", &[(key(1), None), (key(2), Some("2026-01-01T00:00:00Z"))], "Cordoned"),
            object("gone", &[(key(3), None)], "Revoked"),
        ]);
        let new_year: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let admitted = providers.admit(&key(1), new_year).unwrap();
        assert_eq!((admitted.provider.as_str(), admitted.min_epoch), ("east", 7));
        let before = new_year - jiff::SignedDuration::from_secs(1);
        assert_eq!(providers.admit(&key(2), before).unwrap().provider, "east");
        assert_eq!(why(&providers, &key(2), new_year), Stranger::Expired("east".into(), new_year));
        assert_eq!(why(&providers, &key(3), new_year), Stranger::Revoked("gone".into()));
        assert_eq!(why(&providers, &key(99), new_year), Stranger::Waiting("east".into()));
        assert_eq!(why(&providers, &key(4), new_year), Stranger::Unknown);
        let count = providers.view.read().unwrap().count(new_year);
        assert_eq!(count, ProviderCount { accepted: 1, revoked: 1, ..ProviderCount::default() });
    }

    #[test]
    fn who_has_joined_waits_until_his_provider_is_gone() {
        let providers = knows(vec![object("gone", &[], "Revoked")]);
        providers.note_join(key(1), "young");
        assert_eq!(why(&providers, &key(1), at(0)), Stranger::Waiting("young".into()), "not seen yet");
        providers.note_join(key(2), "gone");
        assert_eq!(why(&providers, &key(2), at(0)), Stranger::Unknown);
        let young = || object("young", &[], "Enabled");
        providers.see(watcher::Event::Apply(young()), &mut Vec::new());
        assert_eq!(why(&providers, &key(1), at(0)), Stranger::Waiting("young".into()));
        providers.see(watcher::Event::Delete(young()), &mut Vec::new());
        assert_eq!(why(&providers, &key(1), at(0)), Stranger::Unknown);
    }

    #[test]
    fn a_key_of_two_providers_is_nobodys() {
        let two = |scheduling| {
            knows(vec![
                object("east", &[(key(1), None)], "Enabled"),
                object("west", &[(key(1), None)], scheduling),
            ])
        };
        let ambiguous = Stranger::Ambiguous("east".into(), "west".into());
        assert_eq!(why(&two("Enabled"), &key(1), at(0)), ambiguous);
        assert_eq!(
            two("Revoked").admit(&key(1), at(0)).unwrap().provider,
            "east",
            "revoked ones list nothing"
        );
    }

    #[test]
    fn who_is_no_longer_accepted_is_cut_and_nobody_else() {
        let east = |scheduling| object("east", &[(key(1), None)], scheduling);
        let west = || object("west", &[(key(2), None), (key(3), None)], "Enabled");
        let events: [(&str, watcher::Event<Guarded>, [bool; 3]); 5] = [
            ("revoked", watcher::Event::Apply(east("Revoked")), [true, false, false]),
            ("cordoned", watcher::Event::Apply(east("Cordoned")), [false, false, false]),
            (
                "unpinned",
                watcher::Event::Apply(object("west", &[(key(2), None)], "Enabled")),
                [false, false, true],
            ),
            ("deleted", watcher::Event::Delete(west()), [false, true, true]),
            (
                "pinned twice",
                watcher::Event::Apply(object("north", &[(key(1), None)], "Enabled")),
                [true, false, false],
            ),
        ];
        for (what, event, cut) in events {
            let providers = knows(vec![east("Enabled"), west()]);
            let open: Vec<_> = (1..=3).map(|seed| providers.admit(&key(seed), at(0)).unwrap().cut).collect();
            providers.see(event, &mut Vec::new());
            let fell: Vec<_> = open.iter().map(CancellationToken::is_cancelled).collect();
            assert_eq!(fell, cut, "{what}");
        }
    }

    #[test]
    fn an_expired_key_is_cut_without_news() {
        let providers = knows(vec![object("east", &[(key(1), Some("2100-01-01T00:00:00Z"))], "Enabled")]);
        let cut = providers.admit(&key(1), at(0)).unwrap().cut;
        providers.change("2099-12-31T23:59:59Z".parse().unwrap(), |_| false);
        assert!(!cut.is_cancelled());
        providers.change("2100-01-01T00:00:00Z".parse().unwrap(), |_| false);
        assert!(cut.is_cancelled());
    }

    #[test]
    fn another_provider_of_the_same_name_is_another() {
        let providers = knows(vec![object("east", &[(key(1), None)], "Enabled")]);
        let cut = providers.admit(&key(1), at(0)).unwrap().cut;
        let mut again = object("east", &[(key(1), None)], "Enabled");
        again.0.as_mut().unwrap().metadata.uid = Some("other".into());
        providers.see(watcher::Event::Apply(again), &mut Vec::new());
        assert!(cut.is_cancelled());
        assert!(!providers.admit(&key(1), at(0)).unwrap().cut.is_cancelled());
    }
}
