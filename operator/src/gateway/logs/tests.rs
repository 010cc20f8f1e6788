//! An agent's end and a user's end over real sockets; who they are is said by a header, which jobs and units there are by a fake.
use std::convert::Infallible;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use futures::{Stream, StreamExt};
use muster_proof::Digest;
use reqwest::{Client, Response as Answer, header};
use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::gateway::access::{Agent, Wanted};
use crate::gateway::streams;
use crate::store::testing::{On, store};
use crate::store::{Namespace, Unit};
use crate::wire::gateway::Refused;
use crate::wire::streams::StreamRequest;

const JOB: &str = "4f2a9c1b-0000-4000-8000-000000000000";
const UNIT: &str = "4f2a9c1b-0-2";
const LOGS: &str = "/v1/namespaces/team-a/jobs/kjv/logs";

#[derive(Default)]
struct Fake {
    units: Mutex<Vec<WorkUnit>>,
}

impl Authorizer for Fake {
    async fn may(&self, user: &User, wanted: &Wanted<'_>) -> Result<(), Refusal> {
        assert_eq!((wanted.verb, wanted.subresource, wanted.name), ("get", "log", Some("kjv")));
        if user.name.starts_with(wanted.namespace) {
            return Ok(());
        }
        Err(Refusal::forbidden("Forbidden", "no"))
    }
}

impl Jobs for Fake {
    async fn uid(&self, namespace: &str, _: &str) -> Result<Option<String>, Refusal> {
        Ok((namespace == "team-a").then(|| JOB.to_owned()))
    }

    async fn namespace(&self, _: &str) -> Result<Option<Namespace>, Refusal> {
        panic!("logs belong to a job, by its uid");
    }
}

impl Work for Fake {
    async fn unit(&self, _: &str, _: &str) -> Result<Option<WorkUnit>, Refusal> {
        Ok(None)
    }

    fn of_job(&self, job_uid: &str) -> Vec<WorkUnit> {
        assert_eq!(job_uid, JOB);
        self.units.lock().unwrap().clone()
    }

    fn settled(&self) -> Result<(), Refusal> {
        Ok(())
    }
}

fn unit(provider: &str, island: i32, epoch: i64, phase: &str) -> WorkUnit {
    serde_json::from_value(json!({
        "apiVersion": "muster.dev/v1alpha1", "kind": "WorkUnit",
        "metadata": {"name": format!("4f2a9c1b-{island}-{epoch}"), "namespace": format!("muster-p-{provider}")},
        "spec": {
            "kind": "Train", "jobUID": JOB, "island": island, "epoch": epoch, "workers": 2,
            "envelope": {"payloadType": "x", "payload": "", "signatures": []},
        },
        "status": {"phase": phase},
    }))
    .unwrap()
}

struct Site {
    _dir: TempDir,
    store: Arc<Store>,
    work: Arc<Fake>,
    url: String,
    http: Client,
}

fn named(request: &Request, header: &str) -> Option<String> {
    request.headers().get(header).map(|value| value.to_str().unwrap().to_owned())
}

async fn who(mut request: Request, next: Next) -> Response {
    let (provider, user) = (named(&request, "x-provider"), named(&request, "x-user"));
    if let Some(provider) = provider {
        request.extensions_mut().insert(Agent { provider, min_epoch: 0, key: Digest::of(b"key") });
    }
    if let Some(name) = user {
        request.extensions_mut().insert(User { name, ..User::default() });
    }
    next.run(request).await
}

impl Site {
    async fn new() -> Self {
        crate::runtime::client::install_crypto();
        let (dir, store) = store(On::Dir).await;
        let (store, work, joint) = (Arc::new(store), Arc::new(Fake::default()), Arc::new(Streams::default()));
        work.units.lock().unwrap().extend([unit("west", 0, 1, "Running"), unit("east", 0, 2, "Running")]);
        let door = Door::new(Arc::new(Fake::default()), Arc::new(Fake::default()));
        let app = router(store.clone(), door, work.clone(), joint.clone())
            .merge(streams::router(joint))
            .layer(from_fn(who));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { _dir: dir, store, work, url, http: Client::builder().no_proxy().build().unwrap() }
    }

    async fn get(&self, user: &str, path: &str) -> Answer {
        let request = self.http.get(format!("{}{path}", self.url)).header("x-user", user);
        request.send().await.unwrap()
    }

    /// Asks in the background.
    fn ask(&self, user: &str, path: &str) -> tokio::task::JoinHandle<Answer> {
        let request = self.http.get(format!("{}{path}", self.url)).header("x-user", user);
        tokio::spawn(async move { request.send().await.unwrap() })
    }

    async fn poll(&self, provider: &str) -> StreamRequest {
        let request = self.http.get(format!("{}/v1/streams", self.url)).header("x-provider", provider);
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.json().await.unwrap()
    }

    fn post(&self, provider: &str, id: &str, kind: &str) -> reqwest::RequestBuilder {
        let request = self.http.post(format!("{}/v1/streams/{id}", self.url));
        request.header("x-provider", provider).header(header::CONTENT_TYPE, kind)
    }

    /// Sends a log in the background.
    fn send(
        &self,
        provider: &str,
        id: &str,
        log: impl Stream<Item = Result<Bytes, std::io::Error>> + Send + 'static,
    ) -> tokio::task::JoinHandle<reqwest::Result<Answer>> {
        let body = reqwest::Body::wrap_stream(log);
        tokio::spawn(self.post(provider, id, "text/plain").body(body).send())
    }
}

async fn reason(answer: Answer) -> (u16, String) {
    let status = answer.status().as_u16();
    let refused: Option<Refused> = answer.json().await.ok();
    (status, refused.map(|refused| refused.reason).unwrap_or_default())
}

fn is(status: u16, reason: &str) -> (u16, String) {
    (status, reason.to_owned())
}

/// Pieces that come when the test sends them.
fn by_hand() -> (
    futures::channel::mpsc::UnboundedSender<Result<Bytes, std::io::Error>>,
    impl Stream<Item = Result<Bytes, std::io::Error>> + Send,
) {
    futures::channel::mpsc::unbounded()
}

#[tokio::test]
async fn a_log_flows_while_it_is_written() {
    let site = Site::new().await;
    let user = site.ask("team-a", &format!("{LOGS}?worker=1&follow=true&tail=7"));
    let wish = site.poll("east").await;
    assert_eq!((wish.unit.as_str(), wish.worker, wish.follow, wish.tail_lines), (UNIT, 1, true, Some(7)));
    let (pieces, log) = by_hand();
    let sent = site.send("east", &wish.id, log);
    pieces.unbounded_send(Ok("one\n".into())).unwrap();
    let mut user = user.await.unwrap();
    assert_eq!(
        (user.status().as_u16(), &user.headers()[header::CONTENT_TYPE]),
        (200, &"text/plain; charset=utf-8".parse().unwrap())
    );
    assert_eq!(user.chunk().await.unwrap().unwrap(), "one\n", "before the log has ended");
    pieces.unbounded_send(Ok("two\x1b[31m\n".into())).unwrap();
    assert_eq!(user.chunk().await.unwrap().unwrap(), "two\x1b[31m\n", "as it was written");
    drop(pieces);
    assert_eq!(user.chunk().await.unwrap(), None);
    assert_eq!(sent.await.unwrap().unwrap().status(), 204);
    assert_eq!(
        reason(site.post("east", &wish.id, "text/plain").send().await.unwrap()).await,
        is(404, "StreamGone")
    );
}

#[tokio::test]
async fn an_end_that_goes_takes_the_other_with_it() {
    let site = Site::new().await;
    // The agent breaks off: that is no end of a log.
    let user = site.ask("team-a", LOGS);
    let wish = site.poll("east").await;
    let (pieces, log) = by_hand();
    let _sent = site.send("east", &wish.id, log);
    pieces.unbounded_send(Ok("one\n".into())).unwrap();
    let mut user = user.await.unwrap();
    assert_eq!(user.chunk().await.unwrap().unwrap(), "one\n");
    pieces.unbounded_send(Err(std::io::Error::other("gone"))).unwrap();
    assert!(user.chunk().await.is_err());
    // The user leaves.
    let user = site.ask("team-a", LOGS);
    let wish = site.poll("east").await;
    let (pieces, log) = by_hand();
    let sent = site.send("east", &wish.id, log);
    pieces.unbounded_send(Ok("one\n".into())).unwrap();
    drop(user.await.unwrap());
    let told = tokio::time::timeout(Duration::from_secs(5), sent).await.unwrap().unwrap();
    assert!(told.is_err() || told.is_ok_and(|answer| answer.status() == 404), "nobody reads any more");
}

#[tokio::test]
async fn who_does_not_read_is_waited_for() {
    let site = Site::new().await;
    let user = site.ask("team-a", LOGS);
    let wish = site.poll("east").await;
    let sent = Arc::new(AtomicU64::new(0));
    let count = sent.clone();
    let endless = futures::stream::repeat_with(move || {
        count.fetch_add(65_536, Ordering::SeqCst);
        Ok(Bytes::from_static(&[b'x'; 65_536]))
    });
    let _sending = site.send("east", &wish.id, endless);
    let user = user.await.unwrap();
    let mut before = 0;
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let now = sent.load(Ordering::SeqCst);
        if now == before {
            break;
        }
        before = now;
    }
    let stopped = sent.load(Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(sent.load(Ordering::SeqCst), stopped, "it goes on although nobody reads");
    assert!(stopped < 64 << 20, "{stopped} bytes lie between the two");
    drop(user);
}

#[tokio::test]
async fn an_agent_that_is_away_is_not_waited_for_long() {
    let site = Site::new().await;
    let begin = std::time::Instant::now();
    assert_eq!(reason(site.get("team-a", LOGS).await).await, is(504, "AgentAway"));
    assert!(begin.elapsed() < Duration::from_secs(15));
}

#[tokio::test]
async fn what_an_agent_refuses_is_said() {
    let site = Site::new().await;
    for (word, want) in [
        ("LogsRefused", is(403, "LogsRefused")),
        ("NoRunningWorker", is(404, "NoRunningWorker")),
        ("MemberAway", is(502, "MemberAway")),
        ("TooManyStreams", is(429, "TooManyRequests")),
    ] {
        let user = site.ask("team-a", LOGS);
        let wish = site.poll("east").await;
        // What is no refusal is not one, and the stream waits for a better one.
        for (bad, status) in [
            (json!({"reason": "Sorry", "message": "x"}).to_string(), 400),
            (json!({"reason": word, "message": "x".repeat(5000)}).to_string(), 413),
        ] {
            let answer = site.post("east", &wish.id, "application/json").body(bad).send().await.unwrap();
            assert_eq!(answer.status(), status);
        }
        let body = json!({"reason": word, "message": "\u{1b}[31mnot today"}).to_string();
        let answer = site.post("east", &wish.id, "application/json").body(body).send().await.unwrap();
        assert_eq!(answer.status(), 204);
        let answer = user.await.unwrap();
        let status = answer.status().as_u16();
        let refused: Refused = answer.json().await.unwrap();
        assert_eq!((status, refused.reason), want);
        assert_eq!(refused.message, "provider east: [31mnot today");
    }
}

#[tokio::test]
async fn a_provider_sees_and_answers_its_own_only() {
    let site = Site::new().await;
    let user = site.ask("team-a", LOGS);
    // The superseded unit's provider is not asked.
    let west = site.http.get(format!("{}/v1/streams", site.url)).header("x-provider", "west");
    assert!(tokio::time::timeout(Duration::from_millis(500), west.send()).await.is_err());
    let wish = site.poll("east").await;
    let forged = site.post("west", &wish.id, "text/plain").body("forged").send().await.unwrap();
    assert_eq!(reason(forged).await, is(404, "StreamGone"));
    let sent = site.send("east", &wish.id, futures::stream::iter([Ok("true".into())]));
    assert_eq!(user.await.unwrap().text().await.unwrap(), "true");
    assert_eq!(sent.await.unwrap().unwrap().status(), 204);
}

#[tokio::test]
async fn only_for_whom_it_is_and_of_what_runs() {
    let site = Site::new().await;
    assert_eq!(reason(site.get("team-b", LOGS).await).await, is(403, "Forbidden"));
    assert_eq!(reason(site.get("team-b", &format!("{LOGS}/kept")).await).await, is(403, "Forbidden"));
    let other = "/v1/namespaces/team-b/jobs/kjv/logs";
    assert_eq!(reason(site.get("team-b", other).await).await, is(404, "JobNotFound"));
    for bad in ["worker=-1", "tail=x", "colour=red", "unit=4f2a9c1b-0-1"] {
        assert_eq!(
            reason(site.get("team-a", &format!("{LOGS}?{bad}")).await).await,
            is(400, "BadRequest"),
            "{bad}"
        );
    }
    assert_eq!(
        reason(site.get("team-a", &format!("{LOGS}?worker=2")).await).await,
        is(404, "NoRunningWorker")
    );
    // Workers are counted through the islands.
    site.work.units.lock().unwrap().push(unit("north", 1, 1, "Starting"));
    let user = site.ask("team-a", &format!("{LOGS}?worker=3"));
    let wish = site.poll("north").await;
    assert_eq!((wish.unit.as_str(), wish.worker), ("4f2a9c1b-1-1", 1));
    user.abort();
    *site.work.units.lock().unwrap() = vec![unit("east", 0, 2, "Failed")];
    assert_eq!(reason(site.get("team-a", LOGS).await).await, is(404, "NoRunningWorker"));
}

#[tokio::test]
async fn a_flood_fills_its_own_share_only() {
    let site = Site::new().await;
    let ask = |user: &str| site.ask(user, LOGS);
    let mut waiting: Vec<_> = (0..4).map(|_| ask("team-a")).collect();
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(site.poll("east").await.id);
    }
    assert_eq!(reason(site.get("team-a", LOGS).await).await, is(429, "TooManyRequests"));
    waiting.extend((0..4).map(|_| ask("team-a-too")));
    for _ in 0..4 {
        ids.push(site.poll("east").await.id);
    }
    assert_eq!(
        reason(site.get("team-a-three", LOGS).await).await,
        is(429, "TooManyRequests"),
        "of one provider"
    );
    // Each is told once, and whoever leaves makes room.
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 8);
    waiting.iter().for_each(|one| one.abort());
    tokio::time::sleep(Duration::from_millis(300)).await;
    let user = ask("team-a");
    let wish = site.poll("east").await;
    let _sent = site.send(
        "east",
        &wish.id,
        futures::stream::iter([Ok("again".into())])
            .map(|piece: Result<Bytes, Infallible>| Ok(piece.unwrap())),
    );
    assert_eq!(user.await.unwrap().text().await.unwrap(), "again");
}

#[tokio::test]
async fn what_is_kept_outlives_member_and_unit() {
    let site = Site::new().await;
    site.work.units.lock().unwrap().clear();
    for (unit, attempt, text) in [("4f2a9c1b-0-1", 1, "first\n"), (UNIT, 1, "one\ntwo\nthree\n")] {
        site.store.keep_log(Unit { job_uid: JOB, name: unit }, attempt, 0, text.as_bytes()).await.unwrap();
    }
    let list: KeptLogs = site.get("team-a", &format!("{LOGS}/kept")).await.json().await.unwrap();
    let names: Vec<_> = list.logs.iter().map(|log| (log.unit.as_str(), log.attempt, log.worker)).collect();
    assert_eq!(names, [("4f2a9c1b-0-1", 1, 0), (UNIT, 1, 0)]);
    let text = async |query: &str| site.get("team-a", &format!("{LOGS}?{query}")).await.text().await.unwrap();
    assert_eq!(text("attempt=1").await, "one\ntwo\nthree\n", "the newest unit's");
    assert_eq!(text("attempt=1&unit=4f2a9c1b-0-1").await, "first\n");
    assert_eq!(text("attempt=1&tail=2").await, "two\nthree\n");
    assert_eq!(
        (text("attempt=1&tail=0").await, text("attempt=1&tail=9").await),
        (String::new(), "one\ntwo\nthree\n".into())
    );
    for none in ["attempt=2", "attempt=1&worker=1", "attempt=1&unit=../x"] {
        assert_eq!(
            reason(site.get("team-a", &format!("{LOGS}?{none}")).await).await,
            is(404, "LogNotFound"),
            "{none}"
        );
    }
}
