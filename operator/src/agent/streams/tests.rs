//! Logs against a gateway with real TLS; the member is a fake.
use std::collections::BTreeMap;
use std::sync::Mutex;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::routing::get;
use futures::TryStreamExt;
use futures::future::BoxFuture;
use muster_core::attempt::{End, Pod, PodState, Reason};
use muster_proof::Digest;
use tokio::fs::File;

use super::*;
use crate::agent::fake_gateway::FakeGateway;
use crate::agent::gateway_tests::Agent;
use crate::agent::hub_blobs::{HttpBlobs, HubBlobs};
use crate::agent::kept::KeptLogs;
use crate::agent::member::MemberError;
use crate::agent::state::StateDir;
use crate::agent::switch::Switch;
use crate::agent::testing::payload;
use crate::wire::urls::{UrlAnswer, UrlMethod};

const UNIT: &str = "4f2a9c1b-0-1";

/// Logs by pod; `worker-<rank>` is the unit's.
#[derive(Debug, Default)]
struct Member(Mutex<BTreeMap<String, Vec<Result<&'static str, ()>>>>);

impl Member {
    fn log(&self, pod: &str, part: Part) -> Result<Option<Log>, MemberError> {
        if pod == "slow" {
            return Ok(Some(futures::stream::pending().boxed()));
        }
        let Some(pieces) = self.0.lock().unwrap().get(pod).cloned() else { return Ok(None) };
        assert!(part.limit_bytes.is_some());
        let pieces = pieces.into_iter().map(|piece| match piece {
            Ok(text) => Ok(Bytes::from(text)),
            Err(()) => Err(std::io::Error::other("the kubelet went away")),
        });
        Ok(Some(futures::stream::iter(pieces).boxed()))
    }
}

impl WorkerLogs for Member {
    fn of_worker<'a>(
        &'a self,
        names: &'a [&'a str],
        rank: u32,
        part: Part,
    ) -> BoxFuture<'a, Result<Option<Log>, MemberError>> {
        Box::pin(async move {
            assert_eq!(names, [UNIT]);
            if rank == 1 {
                return Err(MemberError::Timeout("get pods/log"));
            }
            self.log(&format!("worker-{rank}"), part)
        })
    }

    fn of_pod<'a>(&'a self, pod: &'a str, part: Part) -> BoxFuture<'a, Result<Option<Log>, MemberError>> {
        Box::pin(async move { self.log(pod, part) })
    }
}

struct Site {
    gateway: FakeGateway,
    agent: Agent,
    streams: Streams,
    member: Arc<Member>,
    shutdown: Shutdown,
}

impl Drop for Site {
    fn drop(&mut self) {
        self.shutdown.trigger();
    }
}

fn policies(dir: &std::path::Path, policy: &str) -> Arc<Policies> {
    let path = dir.join("policy.yaml");
    std::fs::write(&path, format!("images: ['{}']\noffer: {{workers: 8}}\n{policy}", payload().image))
        .unwrap();
    Arc::new(Policies::from_file(&path, Arc::new(Switch::open(dir))).unwrap())
}

impl Site {
    async fn new(policy: &str) -> Self {
        let (gateway, _) = FakeGateway::simple().await;
        let agent = Agent::joined(&gateway).await;
        agent.session.renew(0).await.unwrap();
        let dir = agent.dir.path();
        let units = Arc::new(Units::open(StateDir::open(dir).unwrap()).unwrap());
        units.ensure(UNIT).update(|state| state.payload = Some(payload())).await.unwrap();
        let (member, shutdown) = (Arc::new(Member::default()), Shutdown::manual());
        let policies = policies(dir, policy);
        let streams = Streams { session: agent.session.clone(), units, policies, logs: member.clone() };
        Self { gateway, agent, streams, member, shutdown }
    }

    fn run(&self) {
        tokio::spawn(self.streams.clone().run(self.shutdown.clone()));
    }

    fn want(&self, id: &str, unit: &str, worker: u32) {
        let wish = StreamRequest {
            id: id.to_owned(),
            unit: unit.to_owned(),
            worker,
            follow: true,
            tail_lines: None,
            limit_bytes: 1000,
        };
        self.gateway.change(|hub| hub.logs.wishes.push_back(wish));
    }

    async fn brought(&self, number: usize) -> Vec<(String, String, String)> {
        for _ in 0..200 {
            let streams = self.gateway.hub.lock().unwrap().logs.streams.clone();
            if streams.len() >= number {
                let text = |bytes| String::from_utf8(bytes).unwrap();
                return streams.into_iter().map(|(id, kind, bytes)| (id, kind, text(bytes))).collect();
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("not brought within 5 s: {:?}", self.gateway.hub.lock().unwrap().logs);
    }

    async fn refusal(&self, id: &str, unit: &str, worker: u32) -> StreamReason {
        let before = self.gateway.hub.lock().unwrap().logs.streams.len();
        self.want(id, unit, worker);
        let all = self.brought(before + 1).await;
        let (_, kind, body) = all.last().unwrap();
        assert_eq!(kind, "application/json");
        serde_json::from_str::<StreamRefusal>(body).unwrap().reason
    }
}

#[tokio::test]
async fn a_log_is_brought_to_whom_wants_it() {
    let site = Site::new("").await;
    site.member.0.lock().unwrap().insert("worker-0".into(), vec![Ok("one\n"), Ok("two\x1b[31m\n")]);
    site.run();
    site.want("a1", UNIT, 0);
    let all = site.brought(1).await;
    assert_eq!((all[0].0.as_str(), all[0].2.as_str()), ("a1", "one\ntwo\x1b[31m\n"));
    assert!(all[0].1.starts_with("text/plain"));
    assert_eq!(site.refusal("a2", UNIT, 1).await, StreamReason::MemberAway);
    assert_eq!(site.refusal("a3", UNIT, 2).await, StreamReason::NoRunningWorker, "it has two workers");
    assert_eq!(
        site.refusal("a4", "4f2a9c1b-0-9", 0).await,
        StreamReason::NoRunningWorker,
        "never accepted here"
    );
    // A log that breaks is not brought as if it were whole; the next is none the worse.
    site.member.0.lock().unwrap().insert("worker-0".into(), vec![Ok("half"), Err(())]);
    site.want("a5", UNIT, 0);
    // Nor is anything sent to a path that the gateway makes up.
    site.want("../join", UNIT, 0);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    site.member.0.lock().unwrap().insert("worker-0".into(), vec![Ok("well\n")]);
    site.want("a6", UNIT, 0);
    let all = site.brought(5).await;
    assert_eq!((all[4].0.as_str(), all[4].2.as_str()), ("a6", "well\n"));
}

#[tokio::test]
async fn the_provider_may_refuse() {
    let site = Site::new("logs: Refuse\n").await;
    site.run();
    assert_eq!(site.refusal("a1", UNIT, 0).await, StreamReason::LogsRefused);
}

#[tokio::test]
async fn no_more_than_so_many_at_once() {
    let site = Site::new("").await;
    // Logs that never end, as of workers that train.
    let streams = Streams { logs: Arc::new(Slow), ..site.streams.clone() };
    tokio::spawn(streams.run(site.shutdown.clone()));
    for number in 0..=AT_ONCE {
        site.want(&format!("b{number}"), UNIT, 0);
    }
    for _ in 0..200 {
        let refused = site.gateway.hub.lock().unwrap().logs.streams.iter().any(|(_, _, body)| {
            serde_json::from_slice::<StreamRefusal>(body)
                .is_ok_and(|r| r.reason == StreamReason::TooManyStreams)
        });
        if refused {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("none was turned away");
}

#[derive(Debug)]
struct Slow;

impl WorkerLogs for Slow {
    fn of_worker<'a>(
        &'a self,
        _: &'a [&'a str],
        _: u32,
        _: Part,
    ) -> BoxFuture<'a, Result<Option<Log>, MemberError>> {
        Box::pin(async { Ok(Some(futures::stream::pending().boxed())) })
    }

    fn of_pod<'a>(&'a self, _: &'a str, _: Part) -> BoxFuture<'a, Result<Option<Log>, MemberError>> {
        Box::pin(async { Ok(None) })
    }
}

fn pod(name: &str, attempt: i64, rank: i64, state: PodState) -> Pod {
    Pod { name: name.into(), uid: "u".into(), attempt, rank, grace: None, terminal: false, state }
}

#[tokio::test]
async fn the_ends_of_failed_logs_reach_the_gateway() {
    let site = Site::new("").await;
    let kept = Arc::new(KeptLogs::open(site.agent.dir.path()).unwrap());
    {
        let mut logs = site.member.0.lock().unwrap();
        logs.insert("decided".into(), vec![Ok("bad "), Ok("end\n")]);
        logs.insert("other".into(), vec![Ok("peer lost\n")]);
        logs.insert("broken".into(), vec![Ok("x"), Err(())]);
        logs.insert("earlier".into(), vec![Ok("long ago")]);
    }
    let end = || PodState::Ended(End { reason: Reason::Crashed, exit_code: Some(1), message: String::new() });
    let pods = [
        pod("earlier", 2, 0, end()),
        pod("other", 3, 0, PodState::Running),
        pod("decided", 3, 1, end()),
        pod("gone", 3, 2, end()),
        pod("broken", 3, 3, end()),
        pod("slow", 3, 4, PodState::Running),
        pod("starting", 3, 5, PodState::Waiting(None)),
    ];
    let begin = std::time::Instant::now();
    kept.keep(UNIT, 3, Some(1), &pods, &*site.member).await;
    assert!(begin.elapsed() < Duration::from_secs(4), "the next attempt waits for it");
    // The gateway is away: they wait, over a restart too.
    site.gateway.change(|hub| hub.logs.refuses_kept = Some((503, "Unavailable")));
    let run = |kept: Arc<KeptLogs>| tokio::spawn(kept.run(site.agent.session.clone(), site.shutdown.clone()));
    let first = run(kept);
    tokio::time::sleep(Duration::from_millis(300)).await;
    first.abort();
    site.gateway.change(|hub| hub.logs.refuses_kept = None);
    run(Arc::new(KeptLogs::open(site.agent.dir.path()).unwrap()));
    let folder = site.agent.dir.path().join("logs");
    for _ in 0..200 {
        if std::fs::read_dir(&folder).unwrap().next().is_none() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    let want = [("4f2a9c1b-0-1/3/0", "peer lost\n"), ("4f2a9c1b-0-1/3/1", "bad end\n")];
    let want = want.map(|(path, text)| (path.to_owned(), text.as_bytes().to_vec()));
    assert_eq!(site.gateway.hub.lock().unwrap().logs.kept, BTreeMap::from(want));
}

#[tokio::test]
async fn what_the_gateway_will_never_keep_is_forgotten() {
    let site = Site::new("").await;
    let kept = Arc::new(KeptLogs::open(site.agent.dir.path()).unwrap());
    site.member.0.lock().unwrap().insert("p".into(), vec![Ok("x")]);
    kept.keep(UNIT, 1, None, &[pod("p", 1, 0, PodState::Done)], &*site.member).await;
    site.gateway.change(|hub| hub.logs.refuses_kept = Some((404, "UnitNotFound")));
    tokio::spawn(kept.run(site.agent.session.clone(), site.shutdown.clone()));
    for _ in 0..100 {
        if std::fs::read_dir(site.agent.dir.path().join("logs")).unwrap().next().is_none() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("it waits for a gateway that has said no");
}

/// A bucket that honours one URL and counts who came.
async fn bucket() -> (String, Arc<Mutex<Vec<String>>>) {
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let read = async |State(seen): State<Arc<Mutex<Vec<String>>>>, headers: HeaderMap| {
        assert!(!headers.contains_key("authorization"), "the bucket gets no token of ours");
        seen.lock().unwrap().push("GET".to_owned());
        "hello"
    };
    let write = async |State(seen): State<Arc<Mutex<Vec<String>>>>, headers: HeaderMap, body: Bytes| {
        assert_eq!(headers["content-length"], "5");
        seen.lock().unwrap().push(format!("PUT {}", String::from_utf8_lossy(&body)));
    };
    let app = Router::new().route("/signed", get(read).put(write)).with_state(seen.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/signed", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    (url, seen)
}

fn answer(url: &str, method: UrlMethod) -> UrlAnswer {
    let staging = (method == UrlMethod::Put).then(|| "0123456789abcdef".to_owned());
    UrlAnswer { url: url.to_owned(), method, expires_in_seconds: 600, direct: true, staging }
}

#[tokio::test]
async fn past_the_gateway_where_policy_and_store_allow_it() {
    let site = Site::new("directStore: true\n").await;
    let (url, seen) = bucket().await;
    let digest = Digest::of(b"hello");
    let blobs = HttpBlobs::new(site.agent.session.clone()).past_the_gateway(site.streams.policies.clone());
    let read = async || {
        let blob = blobs.get("u", digest).await.unwrap().unwrap();
        blob.try_fold(Vec::new(), |mut all, piece| async move {
            all.extend_from_slice(&piece);
            Ok(all)
        })
        .await
        .unwrap()
    };
    let path = site.agent.dir.path().join("file");
    std::fs::write(&path, b"hello").unwrap();
    let put = async || blobs.put("u", digest, File::open(&path).await.unwrap(), 5).await.unwrap();
    let offer = |url: &str, method| site.gateway.change(|hub| hub.logs.urls.push_back(answer(url, method)));
    offer(&url, UrlMethod::Get);
    assert_eq!(read().await, b"hello");
    offer(&url, UrlMethod::Put);
    put().await;
    assert_eq!(*seen.lock().unwrap(), ["GET", "PUT hello"]);
    let published = site.gateway.hub.lock().unwrap().logs.published.clone();
    assert_eq!(published, [(digest, "0123456789abcdef".to_owned())]);
    assert!(!site.gateway.hub.lock().unwrap().blobs.contains_key(&digest));
    // A bucket that is not there, one that is not over TLS: through the gateway, from the file's beginning.
    for bad in ["http://127.0.0.1:1/x", "http://192.0.2.1/x", "rubbish"] {
        site.gateway.change(|hub| drop(hub.blobs.remove(&digest)));
        offer(bad, UrlMethod::Put);
        put().await;
        offer(bad, UrlMethod::Get);
        assert_eq!(read().await, b"hello", "{bad}");
    }
    // And all of it where the policy says nothing.
    let dir = tempfile::tempdir().unwrap();
    let blobs = HttpBlobs::new(site.agent.session.clone()).past_the_gateway(policies(dir.path(), ""));
    offer(&url, UrlMethod::Get);
    assert!(blobs.get("u", digest).await.unwrap().is_some());
    assert_eq!(seen.lock().unwrap().len(), 2);
    assert_eq!(site.gateway.hub.lock().unwrap().logs.urls.len(), 1, "no URL is asked for");
}
