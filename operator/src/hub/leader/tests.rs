//! Several hubs on one API server, under virtual time.
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::task::Poll;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::{ObjectMeta, PostParams};
use kube::client::Body;
use muster_testkit::api::{Answer, Half, Server};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tower::{BoxError, Layer, Service};

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn server() -> Server {
    let server = Server::new(&[], Arc::new(|| "2026-01-01T00:00:00Z".to_owned()));
    server.namespace(NAME.0);
    server
}

/// The way to the API server, which can be cut: no answer comes then, as behind a pulled cable.
#[derive(Clone)]
struct Cable {
    server: Server,
    cut: Arc<AtomicBool>,
}

impl Service<axum::http::Request<Body>> for Cable {
    type Response = Answer;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Answer, BoxError>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: axum::http::Request<Body>) -> Self::Future {
        if self.cut.load(Ordering::Relaxed) {
            return futures::future::pending().boxed();
        }
        self.server.call(request)
    }
}

/// A hub's process, as far as it is about who leads.
struct Hub {
    cut: Arc<AtomicBool>,
    client: Client,
    /// Of its term.
    fence: Arc<Mutex<Fence>>,
    standing: Standing,
}

impl Hub {
    fn new(server: &Server) -> Self {
        let cut = Arc::new(AtomicBool::new(false));
        let cable = Cable { server: server.clone(), cut: cut.clone() };
        Self {
            cut,
            client: Client::new(cable, "default"),
            fence: Arc::default(),
            standing: Standing::default(),
        }
    }

    fn elector(&self, me: &str) -> Elector {
        Elector::new(self.client.clone(), me, self.standing.clone())
    }

    fn fence(&self) -> Fence {
        self.fence.lock().unwrap().clone()
    }

    fn holds(&self) -> bool {
        self.fence().holds()
    }

    /// Runs as the process does: wins, keeps, gives back if it was asked to stop. True if it was lost.
    fn runs(&self, me: &str, stop: &Shutdown) -> JoinHandle<bool> {
        let (mut elector, stop, term) = (self.elector(me), stop.clone(), self.fence.clone());
        tokio::spawn(async move {
            let Some(fence) = elector.win(&stop).await else { return false };
            *term.lock().unwrap() = fence;
            let lost = elector.keep(&stop).await;
            if !lost {
                elector.give_back().await;
            }
            lost
        })
    }

    async fn leads_within(&self, seconds: u64) -> Duration {
        let start = Instant::now();
        while !self.standing.leads() {
            assert!(start.elapsed() <= SECOND * u32::try_from(seconds).unwrap(), "does not lead");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        start.elapsed()
    }

    /// Writes something behind the fence.
    async fn writes(&self, server: &Server) -> Result<(), kube::Error> {
        let cable = Cable { server: server.clone(), cut: self.cut.clone() };
        let maps: Api<ConfigMap> = Api::namespaced(Client::new(self.fence().layer(cable), "default"), NAME.0);
        let map = ConfigMap {
            metadata: ObjectMeta { generate_name: Some("m-".into()), ..ObjectMeta::default() },
            ..ConfigMap::default()
        };
        maps.get_opt("reading-is-never-refused").await?;
        maps.create(&PostParams::default(), &map).await.map(drop)
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_asked_to_stop_hands_over_at_once() {
    let server = server();
    let (a, b) = (Hub::new(&server), Hub::new(&server));
    let (stop, never) = (Shutdown::manual(), Shutdown::manual());
    let first = a.runs("a", &stop);
    // Nobody made the Lease before: it is given the time that a leader has to make it anew.
    assert!(a.leads_within(16).await >= LEASE);
    b.runs("b", &never);
    tokio::time::sleep(SECOND * 30).await;
    assert!(a.standing.leads() && !b.standing.leads() && b.standing.is_ready());
    a.writes(&server).await.unwrap();
    assert!(b.writes(&server).await.unwrap_err().to_string().contains("does not lead"));
    stop.trigger();
    assert!(!first.await.unwrap());
    assert!(b.leads_within(2).await <= SECOND * 2);
    assert!(a.writes(&server).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_dead_one_is_followed_after_a_lease_and_by_its_own_pod_at_once() {
    let server = server();
    let never = Shutdown::manual();
    let (a, b, again) = (Hub::new(&server), Hub::new(&server), Hub::new(&server));
    let first = a.runs("pod-a", &never);
    a.leads_within(16).await;
    b.runs("pod-b", &never);
    tokio::time::sleep(SECOND * 11).await;
    first.abort();
    // Its container starts again: the Lease is its own.
    let second = again.runs("pod-a", &never);
    again.leads_within(1).await;
    tokio::time::sleep(SECOND * 5).await;
    second.abort();
    let took = b.leads_within(17).await;
    assert!(took >= LEASE - SECOND * 3, "{took:?} after a renewal at most three seconds ago");
}

#[tokio::test(start_paused = true)]
async fn who_is_cut_off_stops_before_another_one_begins() {
    let server = server();
    let never = Shutdown::manual();
    let (a, b) = (Hub::new(&server), Hub::new(&server));
    let first = a.runs("a", &never);
    a.leads_within(16).await;
    b.runs("b", &never);
    tokio::time::sleep(Duration::from_millis(12_700)).await;
    a.cut.store(true, Ordering::Relaxed);
    let start = Instant::now();
    assert!(first.await.unwrap(), "it has lost the Lease");
    assert!(start.elapsed() <= RENEW_WITHIN && !a.holds() && !b.standing.leads());
    b.leads_within(17).await;
    // The cable is whole again; its term is not.
    a.cut.store(false, Ordering::Relaxed);
    assert!(a.writes(&server).await.is_err());
    b.writes(&server).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_slept_for_two_leases_writes_nothing_when_it_wakes() {
    let server = server();
    let never = Shutdown::manual();
    let (a, b) = (Hub::new(&server), Hub::new(&server));
    let mut elector = a.elector("a");
    *a.fence.lock().unwrap() = elector.win(&never).await.unwrap();
    b.runs("b", &never);
    // Nothing of the process runs meanwhile.
    b.leads_within(17).await;
    tokio::time::sleep(LEASE).await;
    assert!(a.writes(&server).await.is_err(), "before it has looked at the Lease");
    assert!(elector.keep(&never).await);
    assert!(b.standing.leads() && b.holds());
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_somebody_edits_or_deletes_is_led_by_one() {
    let server = server();
    let never = Shutdown::manual();
    let (a, b) = (Hub::new(&server), Hub::new(&server));
    a.runs("a", &never);
    a.leads_within(16).await;
    b.runs("b", &never);
    let leases = ("coordination.k8s.io", "leases");
    for round in 0..40 {
        tokio::time::sleep(Duration::from_millis(700)).await;
        if round % 7 == 6 {
            let deleted = server.write(leases.0, leases.1, |write| {
                write.delete(Some(NAME.0), NAME.1, &serde_json::Value::Null)
            });
            deleted.unwrap();
        } else {
            let _ = server.change(leases, Some(NAME.0), NAME.1, Half::Main, |lease| {
                lease["metadata"]["annotations"]["round"] = round.to_string().into();
            });
        }
        assert!(!(a.holds() && b.holds()), "round {round}");
    }
    assert!(a.holds(), "it has never lost it");
}

/// Three hubs whose cables are cut and mended at times that the seed says; each process that loses starts again.
#[tokio::test(start_paused = true)]
async fn never_do_two_hold_and_in_the_end_one_does() {
    for seed in 0..40_u64 {
        let server = server();
        let never = Shutdown::manual();
        let mut hubs: Vec<(Hub, JoinHandle<bool>)> = Vec::new();
        for number in 0..3 {
            let hub = Hub::new(&server);
            let runs = hub.runs(&format!("{seed}-{number}"), &never);
            hubs.push((hub, runs));
        }
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        for tick in 0..1_500_u32 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let holders = hubs.iter().filter(|(hub, _)| hub.holds()).count();
            assert!(holders <= 1, "seed {seed}, {tick}: {holders} hold");
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let which = usize::try_from(random % 3).unwrap();
            if random % 37 < 2 {
                hubs[which].0.cut.fetch_xor(true, Ordering::Relaxed);
            }
            for (number, (hub, runs)) in hubs.iter_mut().enumerate() {
                if runs.is_finished() {
                    let next = Hub::new(&server);
                    next.cut.store(hub.cut.load(Ordering::Relaxed), Ordering::Relaxed);
                    *runs = next.runs(&format!("{seed}-{number}-{tick}"), &never);
                    *hub = next;
                }
            }
        }
        for (hub, _) in &hubs {
            hub.cut.store(false, Ordering::Relaxed);
        }
        // Whoever was cut off has looked again by then, and waited.
        tokio::time::sleep(SECOND * 50).await;
        let holders = hubs.iter().filter(|(hub, _)| hub.holds()).count();
        assert_eq!(holders, 1, "seed {seed}");
        for (_, runs) in hubs {
            runs.abort();
        }
    }
}
