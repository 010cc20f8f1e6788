//! The hub as the agent sees it: its WorkUnits, the Lease that is our heartbeat, and since when it is silent.
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::PostParams;
use kube::core::DeserializeGuard;
use kube::runtime::watcher;
use kube::{Api, ResourceExt};
use muster_api::v1alpha1::WorkUnit;

use tokio::sync::Notify;

use super::units::locked;
use crate::runtime::Shutdown;
use crate::runtime::files::{self, Access};

/// A Lease is renewed three times while it lasts, so that two renewals may be lost.
const RENEWALS: u32 = 3;
/// How long it lasts, unless the hub's admin says otherwise (`spec.leaseDurationSeconds` of the ComputeProvider).
const LASTS: i32 = 15;
/// No renewal comes later than this after the one before it: contact with the hub is measured by them.
const LATEST: Duration = Duration::from_secs(20);
/// One request may take this long; the next renewal must not wait for it.
pub const TIMEOUT: Duration = Duration::from_secs(4);
/// Name of our Lease, made by the hub.
const LEASE: &str = "agent";
/// How often the time of the last contact is saved.
const SAVE: Duration = Duration::from_secs(10);

/// The WorkUnits of our namespace as the watch last showed them.
#[derive(Debug, Default)]
pub struct View {
    objects: Mutex<BTreeMap<String, WorkUnit>>,
    synced: AtomicBool,
}

/// What the hub says about a unit.
#[derive(Debug)]
pub enum Look {
    /// It exists.
    Object(Box<WorkUnit>),
    /// The API said NotFound, to us, for this name.
    Gone,
    /// We do not know: not asked yet, or no answer.
    Unknown,
}

impl View {
    /// The object as last seen.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<WorkUnit> {
        locked(&self.objects).get(name).cloned()
    }

    /// As if the hub's list were this.
    #[cfg(test)]
    pub fn show(&self, objects: &[WorkUnit]) {
        *locked(&self.objects) = objects.iter().map(|object| (object.name_any(), object.clone())).collect();
        self.synced.store(true, Ordering::SeqCst);
    }

    /// The object, or proof that it is gone. That a list lacks it proves nothing (a new hub, an old snapshot, a lost
    /// right): then the API is asked for this very name.
    pub async fn look(&self, api: &Api<WorkUnit>, name: &str) -> Look {
        if let Some(object) = self.get(name) {
            return Look::Object(Box::new(object));
        }
        if !self.synced.load(Ordering::SeqCst) {
            return Look::Unknown;
        }
        match tokio::time::timeout(TIMEOUT, api.get_opt(name)).await {
            Ok(Ok(Some(object))) => Look::Object(Box::new(object)),
            Ok(Ok(None)) => Look::Gone,
            Ok(Err(error)) => {
                tracing::warn!(unit = name, %error, "cannot ask the hub for a unit that its list lacks");
                Look::Unknown
            }
            Err(_) => Look::Unknown,
        }
    }

    /// Follows the hub's list; `touched` is called with the name of each unit that changed. When the hub is `back`
    /// after a silence the list is taken anew: a watch that a partition has cut may look alive for minutes.
    pub async fn follow(&self, api: Api<Guarded>, touched: impl Fn(&str), back: &Notify, shutdown: Shutdown) {
        let watch = || watcher(api.clone(), watcher::Config::default()).boxed();
        let (mut events, mut listed) = (watch(), BTreeMap::new());
        let mut pause = Duration::ZERO;
        loop {
            let next = async {
                tokio::time::sleep(pause).await;
                events.next().await
            };
            let event = tokio::select! {
                biased;
                () = shutdown.wait() => return,
                () = back.notified() => {
                    (events, pause) = (watch(), Duration::ZERO);
                    continue;
                }
                event = next => event,
            };
            pause = match &event {
                Some(Err(_)) => (pause * 2).clamp(Duration::from_millis(500), Duration::from_secs(10)),
                _ => Duration::ZERO,
            };
            match event {
                None => events = watch(),
                Some(Err(error)) => tracing::warn!(%error, "watch of the hub interrupted"),
                Some(Ok(watcher::Event::Init)) => listed.clear(),
                Some(Ok(watcher::Event::InitApply(object))) => {
                    if let Some(object) = readable(object) {
                        listed.insert(object.name_any(), object);
                    }
                }
                Some(Ok(watcher::Event::InitDone)) => {
                    let new = std::mem::take(&mut listed);
                    let old = std::mem::replace(&mut *locked(&self.objects), new.clone());
                    self.synced.store(true, Ordering::SeqCst);
                    new.keys().chain(old.keys()).for_each(|name| touched(name));
                }
                Some(Ok(watcher::Event::Apply(object))) => {
                    if let Some(object) = readable(object) {
                        let name = object.name_any();
                        let status_alone = |known: &WorkUnit| is_of_status_alone(known, &object);
                        let is_echo = locked(&self.objects).get(&name).is_some_and(status_alone);
                        locked(&self.objects).insert(name.clone(), object);
                        if !is_echo {
                            touched(&name);
                        }
                    }
                }
                Some(Ok(watcher::Event::Delete(object))) => {
                    let name = object.name_any();
                    locked(&self.objects).remove(&name);
                    touched(&name);
                }
            }
        }
    }
}

/// A WorkUnit, or why it is not one: an object that this version cannot read must not hide the others.
pub type Guarded = DeserializeGuard<WorkUnit>;

fn readable(object: Guarded) -> Option<WorkUnit> {
    let name = object.name_any();
    match object.0 {
        Ok(unit) => Some(unit),
        Err(error) => {
            tracing::error!(unit = name, %error, "this version cannot read the unit; it is left alone");
            None
        }
    }
}

/// Since when the hub is silent.
#[derive(Debug)]
pub struct Contact {
    path: PathBuf,
    started: Instant,
    /// How long it had been silent when this process started.
    before: Duration,
    last: Mutex<Option<Instant>>,
    saved: Mutex<Option<Instant>>,
    /// Told when the hub answers again.
    pub back: Notify,
}

impl Contact {
    /// Reads when the previous process last heard from the hub. The file holds seconds since 1970.
    #[must_use]
    pub fn open(path: PathBuf) -> Self {
        let text = files::read_capped(&path, 64).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let then = text.and_then(|text| text.trim().parse::<i64>().ok());
        let silent = then.map_or(0, |then| Timestamp::now().as_second() - then);
        let before = Duration::from_secs(u64::try_from(silent).unwrap_or(0));
        Self {
            path,
            started: Instant::now(),
            before,
            last: Mutex::new(None),
            saved: Mutex::new(None),
            back: Notify::new(),
        }
    }

    /// The hub has answered.
    pub fn heard(&self) {
        *locked(&self.last) = Some(Instant::now());
        let mut saved = locked(&self.saved);
        if saved.is_none_or(|at| at.elapsed() > SAVE) {
            let now = Timestamp::now().as_second().to_string();
            if let Err(error) = files::write_atomic(&self.path, now.as_bytes(), Access::Private) {
                tracing::warn!(%error, "cannot save the time of the last contact");
            }
            *saved = Some(Instant::now());
        }
    }

    /// For how long nothing had been heard when this process started.
    #[must_use]
    pub fn before(&self) -> Duration {
        self.before
    }

    /// For how long nothing was heard, over restarts of the agent too.
    #[must_use]
    pub fn silence(&self) -> Duration {
        match *locked(&self.last) {
            Some(at) => at.elapsed(),
            None => self.before + self.started.elapsed(),
        }
    }
}

/// Renews the Lease until `shutdown`.
pub async fn renew(api: Api<Lease>, holder: String, contact: Arc<Contact>, shutdown: Shutdown) {
    let mut lease: Option<Lease> = None;
    let mut silent = false;
    loop {
        let turn = renew_once(&api, &holder, &mut lease);
        let pause = match tokio::time::timeout(TIMEOUT, turn).await {
            Ok(Ok(())) => {
                contact.heard();
                if std::mem::take(&mut silent) {
                    tracing::info!("the hub answers again");
                    contact.back.notify_one();
                }
                pause_of(lease.as_ref())
            }
            failed => {
                lease = None;
                if !std::mem::replace(&mut silent, true) {
                    let error = match failed {
                        Ok(Err(error)) => error.to_string(),
                        _ => "no answer".to_owned(),
                    };
                    tracing::warn!(%error, "the hub does not answer; units go on within their grace");
                }
                pause_of(None)
            }
        };
        tokio::select! {
            biased;
            () = shutdown.wait() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// From one renewal to the next.
fn pause_of(lease: Option<&Lease>) -> Duration {
    let lasts = lease.and_then(|lease| lease.spec.as_ref()?.lease_duration_seconds).unwrap_or(LASTS);
    let lasts = Duration::from_secs(u64::try_from(lasts).unwrap_or(0));
    (lasts / RENEWALS).clamp(Duration::from_secs(1), LATEST)
}

/// Renews what is there, if it is not what we saw: the hub has changed how long the Lease lasts, and would count a pause.
async fn renew_once(api: &Api<Lease>, holder: &str, lease: &mut Option<Lease>) -> Result<(), kube::Error> {
    match replace(api, holder, lease).await {
        Err(kube::Error::Api(status)) if status.code == 409 => replace(api, holder, lease).await,
        renewed => renewed,
    }
}

/// Replaces the Lease at the resourceVersion we saw: two agents of one provider would notice each other.
async fn replace(api: &Api<Lease>, holder: &str, lease: &mut Option<Lease>) -> Result<(), kube::Error> {
    let mut next = match lease.take() {
        Some(lease) => lease,
        None => api.get(LEASE).await?,
    };
    let now = MicroTime(Timestamp::now());
    let mut spec = next.spec.take().unwrap_or_default();
    let known = spec.holder_identity.as_deref().unwrap_or("");
    if known != holder {
        let recent =
            spec.renew_time.as_ref().is_some_and(|at| now.0.duration_since(at.0).as_secs().abs() < 15);
        if recent && !known.is_empty() {
            tracing::warn!(
                other = known,
                "another agent renewed this provider's Lease within 15 s; if it still runs, stop one of them"
            );
        }
        spec.holder_identity = Some(holder.to_owned());
        spec.acquire_time = Some(now.clone());
        spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(0).saturating_add(1));
    }
    spec.renew_time = Some(now);
    spec.lease_duration_seconds.get_or_insert(LASTS);
    next.spec = Some(spec);
    *lease = Some(api.replace(LEASE, &PostParams::default(), &next).await?);
    Ok(())
}

/// Whether nothing has changed but the status, which only we write.
fn is_of_status_alone(before: &WorkUnit, after: &WorkUnit) -> bool {
    let (before, after) = (&before.metadata, &after.metadata);
    before.uid == after.uid
        && before.generation.is_some()
        && before.generation == after.generation
        && before.deletion_timestamp == after.deletion_timestamp
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::coordination::v1::LeaseSpec;

    use super::*;

    #[test]
    fn what_we_have_written_ourselves_is_no_news() {
        let unit = |meta: serde_json::Value, phase: &str| -> WorkUnit {
            let spec = serde_json::json!({
                "jobUID": "j", "island": 0, "epoch": 1, "kind": "Train", "workers": 1, "desired": "Run",
                "envelope": {"payloadType": "t", "payload": "", "signatures": []},
            });
            serde_json::from_value(
                serde_json::json!({"metadata": meta, "spec": spec, "status": {"phase": phase}}),
            )
            .unwrap()
        };
        let seen = serde_json::json!({"uid": "a", "generation": 1});
        let before = unit(seen.clone(), "Accepted");
        assert!(is_of_status_alone(&before, &unit(seen, "Running")));
        for news in [
            serde_json::json!({"uid": "b", "generation": 1}),
            serde_json::json!({"uid": "a", "generation": 2}),
            serde_json::json!({"uid": "a", "generation": 1, "deletionTimestamp": "2026-11-22T19:15:00Z"}),
        ] {
            assert!(!is_of_status_alone(&before, &unit(news.clone(), "Accepted")), "{news}");
        }
        let unnumbered = unit(serde_json::json!({"uid": "a"}), "Accepted");
        assert!(!is_of_status_alone(&unnumbered, &unnumbered));
    }

    #[test]
    fn a_longer_lease_is_renewed_less_often() {
        let pause = |seconds: Option<i32>| {
            let spec = LeaseSpec { lease_duration_seconds: seconds, ..LeaseSpec::default() };
            pause_of(Some(&Lease { spec: Some(spec), ..Lease::default() })).as_secs()
        };
        assert_eq!([None, Some(15), Some(45), Some(3600), Some(-7)].map(pause), [5, 5, 15, 20, 1]);
        assert_eq!(pause_of(None), Duration::from_secs(5));
    }

    /// A Lease that the hub has changed since the agent saw it.
    #[tokio::test]
    async fn a_lease_that_the_hub_has_changed_is_renewed_at_once() {
        use axum::http::{Method, StatusCode};
        use axum::response::IntoResponse;
        let lease = |version: &str, seconds: i32| {
            serde_json::json!({"metadata": {"name": LEASE, "namespace": "muster-p-east", "resourceVersion": version},
                "spec": {"holderIdentity": "agent-1", "leaseDurationSeconds": seconds}})
        };
        let server = move |request: axum::extract::Request| async move {
            if request.method() == Method::GET {
                return axum::Json(lease("2", 15)).into_response();
            }
            let body = axum::body::to_bytes(request.into_body(), 1 << 16).await.unwrap();
            let put: serde_json::Value = serde_json::from_slice(&body).unwrap();
            if put["metadata"]["resourceVersion"] == "2" {
                return axum::Json(put).into_response();
            }
            let status = serde_json::json!({"kind": "Status", "status": "Failure", "code": 409, "reason": "Conflict", "message": ""});
            (StatusCode::CONFLICT, axum::Json(status)).into_response()
        };
        let client = kube::Client::new(axum::Router::new().fallback(server), "muster-p-east");
        let mut seen = Some(serde_json::from_value(lease("1", 45)).unwrap());
        renew_once(&Api::default_namespaced(client), "agent-1", &mut seen).await.unwrap();
        assert_eq!(pause_of(seen.as_ref()), Duration::from_secs(5), "by what it lasts now");
    }

    #[test]
    fn silence_counts_over_restarts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("contact");
        assert!(
            Contact::open(path.clone()).silence() < Duration::from_secs(5),
            "a first start is no silence"
        );
        let then = Timestamp::now().as_second() - 100;
        std::fs::write(&path, then.to_string()).unwrap();
        let contact = Contact::open(path.clone());
        assert!(contact.silence() >= Duration::from_secs(99));
        contact.heard();
        assert!(contact.silence() < Duration::from_secs(5));
        assert!(Contact::open(path).silence() < Duration::from_secs(5));
    }
}
