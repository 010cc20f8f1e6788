//! The gateway as agents, users and strangers meet it: real TLS, real HTTP on both sides, an API server in memory behind it.
use std::time::{Duration, Instant};

use axum::extract::Request;
use axum::routing::{get, put};
use axum::{Extension, Router};
use futures::StreamExt;
use serde_json::{Value, json};

use super::Rooms;
use super::access::{Agent, Authorizer, User, Wanted};
use super::reviews::KubeAuthorizer;
use super::testing::{Client, Running};

const SOON: &str = "2100-01-01T00:00:00Z";
const LONG_AGO: &str = "2020-01-01T00:00:00Z";
const UNITS: &str = "/k8s/apis/muster.dev/v1alpha1/namespaces/muster-p-east/workunits";

fn join(provider: &str, secret: &[u8; 32]) -> Value {
    use base64::Engine as _;
    let secret = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(secret);
    json!({"provider": provider, "secret": secret, "agentVersion": "0.2.0"})
}

fn reason(answer: &(u16, Value)) -> (u16, &str) {
    (answer.0, answer.1["reason"].as_str().unwrap_or_default())
}

async fn heartbeat(client: &Client, token: &str) -> (u16, Value) {
    let request = client.http.post(format!("{}/v1/heartbeat", client.url)).bearer_auth(token);
    let response = request.json(&json!({"agentVersion": "0.2.0"})).send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

#[tokio::test]
async fn strangers_see_the_hub_and_nothing_else() {
    let running = Running::start(Rooms::default()).await;
    let nobody = running.nobody();
    assert_eq!(nobody.get("/healthz", None).await, (200, json!("ok\n")));
    let (status, hub) = nobody.get("/v1/hub", None).await;
    assert_eq!((status, &hub["incarnation"]), (200, &json!(4)));
    assert_eq!(reason(&nobody.post("/v1/join", json!({})).await), (401, "CertificateNeeded"));
    assert_eq!(reason(&nobody.post("/v1/challenge", json!({})).await), (401, "CertificateNeeded"));
    assert_eq!(reason(&nobody.get(UNITS, Some("token")).await), (401, "CertificateNeeded"));
    assert_eq!(reason(&nobody.get("/v2/hub", None).await), (404, "NoSuchPath"));
    assert_eq!(reason(&nobody.get("/v1/join", None).await), (405, "MethodNotAllowed"));
    let key = running.client(2);
    assert_eq!(reason(&key.ask_for_tokens().await), (403, "KeyNotPinned"));
    assert_eq!(reason(&key.get(UNITS, Some("token")).await), (403, "KeyNotPinned"));
}

#[tokio::test]
async fn from_a_join_token_to_the_api_server() {
    let running = Running::start(Rooms::default()).await;
    let (api, agent) = (&running.api, running.client(2));
    api.provider("east", &[], "Enabled");
    let hash = api.join_token("east", &[7; 32], SOON, "Manual");
    // 1. It joins; the same key may ask again.
    let (status, answer) = agent.post("/v1/join", join("east", &[7; 32])).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["accepted"], json!(false));
    assert_eq!(answer["fingerprint"], json!(agent.fingerprint()));
    assert_eq!(answer["hub"]["incarnation"], json!(4));
    assert_eq!(agent.post("/v1/join", join("east", &[7; 32])).await, (200, answer));
    let claim = api.claim("east", &hash).unwrap();
    assert_eq!(claim["data"]["fingerprint"], json!(agent.fingerprint()));
    assert_eq!(claim["metadata"]["ownerReferences"][0]["name"], json!("east"));
    assert!(claim["data"]["publicKey"].as_str().unwrap().contains("BEGIN PUBLIC KEY"));
    // 2. It waits for the admin.
    assert_eq!(reason(&agent.ask_for_tokens().await), (403, "WaitingForAdmin"));
    // 3. It is accepted.
    running.accept("east", &agent).await;
    assert_eq!(agent.post("/v1/join", join("east", &[7; 32])).await.1["accepted"], json!(true));
    let tokens = agent.tokens().await;
    assert_eq!((tokens.provider.as_str(), tokens.expires_in_seconds), ("east", 3600));
    let secrets = api.names("/api/v1/namespaces/muster-agents/secrets");
    assert_eq!(secrets, [format!("east-{}", &agent.fingerprint().to_hex()[..16])]);
    // 4. Each token opens its own door and not the other.
    let (status, beat) = heartbeat(&agent, &tokens.gateway_token).await;
    assert_eq!((status, beat), (200, json!({"incarnation": 4, "minEpoch": 3, "keySerial": 1, "logSize": 0})));
    assert_eq!(reason(&heartbeat(&agent, &tokens.api_token).await), (401, "BadToken"));
    let (status, list) = agent.get(UNITS, Some(&tokens.api_token)).await;
    assert_eq!((status, &list["kind"]), (200, &json!("List")));
    // 5. It renews; the Secret stays the same.
    let again = agent.tokens().await;
    assert_ne!(again.api_token, tokens.api_token);
    assert_eq!(api.names("/api/v1/namespaces/muster-agents/secrets").len(), 1);
}

#[tokio::test]
async fn of_two_racers_exactly_one_joins() {
    let running = Running::start(Rooms::default()).await;
    for round in 0..4u8 {
        let (name, secret) = (format!("p{round}x"), [round + 1; 32]);
        running.api.provider(&name, &[], "Enabled");
        running.api.join_token(&name, &secret, SOON, "Auto");
        let (one, two) = (running.client(10 + round), running.client(20 + round));
        let body = join(&name, &secret);
        let (a, b) = tokio::join!(one.post("/v1/join", body.clone()), two.post("/v1/join", body.clone()));
        let (winner, loser) = if a.0 == 200 { ((one, a), (two, b)) } else { ((two, b), (one, a)) };
        assert_eq!(winner.1.0, 200, "{}", winner.1.1);
        assert_eq!(reason(&loser.1), (409, "TokenReused"));
        assert_eq!(winner.0.post("/v1/join", body.clone()).await, winner.1, "the same answer again");
        assert_eq!(reason(&loser.0.post("/v1/join", body).await), (409, "TokenReused"));
        let collection = "/api/v1/namespaces/default/events";
        // They are sent after the answers; repeats are folded.
        let event = loop {
            let events: Vec<_> =
                running.api.names(collection).into_iter().filter(|n| n.starts_with(&name)).collect();
            assert!(events.len() <= 1, "{events:?}");
            let event = events.first().and_then(|name| running.api.get(&format!("{collection}/{name}")));
            match event.filter(|event| event["count"] == 2) {
                Some(event) => break event,
                None => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        };
        assert_eq!(event["type"], json!("Warning"));
        assert_eq!(event["involvedObject"]["name"], json!(name));
        assert!(event["message"].as_str().unwrap().contains(&loser.0.fingerprint().to_string()));
    }
}

#[tokio::test]
async fn tokens_that_do_not_count_are_told_apart() {
    let running = Running::start(Rooms::default()).await;
    let (api, agent) = (&running.api, running.client(2));
    api.provider("east", &[], "Enabled");
    api.provider("gone", &[], "Revoked");
    assert_eq!(reason(&agent.post("/v1/join", join("east", &[7; 32])).await), (401, "TokenUnknown"));
    api.join_token("east", &[7; 32], LONG_AGO, "Auto");
    api.join_token("gone", &[8; 32], SOON, "Auto");
    api.join_token("nobody", &[8; 32], SOON, "Auto");
    // A provider of this name had a token before this one was made.
    api.provider("again", &[], "Enabled");
    api.join_token("again", &[6; 32], SOON, "Auto");
    let path = "/api/v1/namespaces/muster-agents/configmaps/token-again";
    let mut stale = api.get(path).unwrap();
    stale["metadata"]["ownerReferences"] = json!([{
        "apiVersion": "muster.dev/v1alpha1", "kind": "ComputeProvider", "name": "again", "uid": "an-earlier-one",
    }]);
    api.put(path, stale);
    for (body, want) in [
        (join("east", &[7; 32]), (401, "TokenExpired")),
        (join("east", &[8; 32]), (401, "TokenUnknown")),
        (join("gone", &[8; 32]), (403, "Revoked")),
        (join("gone", &[7; 32]), (401, "TokenUnknown")),
        (join("nobody", &[8; 32]), (401, "TokenUnknown")),
        (join("again", &[6; 32]), (401, "TokenUnknown")),
        (join("../secrets", &[8; 32]), (400, "BadRequest")),
        (json!({"provider": "east", "secret": "short", "agentVersion": ""}), (400, "BadRequest")),
        (json!({"provider": "east"}), (400, "BadRequest")),
    ] {
        let answer = agent.post("/v1/join", body).await;
        assert_eq!(reason(&answer), want, "{}", answer.1);
        assert!(answer.1["message"].as_str().unwrap().len() > 10);
    }
    // Whoever came in time gets his answer after it, too.
    let hash = api.join_token("east", &[9; 32], SOON, "Auto");
    let first = agent.post("/v1/join", join("east", &[9; 32])).await;
    assert_eq!(first.0, 200, "{}", first.1);
    assert_eq!(api.join_token("east", &[9; 32], LONG_AGO, "Auto"), hash);
    assert_eq!(agent.post("/v1/join", join("east", &[9; 32])).await, first);
    let late = running.client(3);
    assert_eq!(reason(&late.post("/v1/join", join("east", &[9; 32])).await), (401, "TokenExpired"));
}

#[tokio::test]
async fn a_challenge_is_signed_by_its_key_and_used_once() {
    let running = Running::start(Rooms::default()).await;
    let (east, west) = (running.client(2), running.client(3));
    running.accept("east", &east).await;
    running.accept("west", &west).await;
    let nonce = |answer: (u16, Value)| answer.1["nonce"].as_str().unwrap().to_owned();
    let mine = nonce(east.post("/v1/challenge", json!({})).await);
    let answer = west.post("/v1/tokens", west.signed(&mine)).await;
    assert_eq!(reason(&answer), (401, "BadChallenge"), "another key's");
    let answer = east.post("/v1/tokens", west.signed(&mine)).await;
    assert_eq!(reason(&answer), (401, "BadSignature"), "another key's signature");
    let signed = east.signed(&mine);
    assert_eq!(east.post("/v1/tokens", signed.clone()).await.0, 200);
    assert_eq!(reason(&east.post("/v1/tokens", signed).await), (401, "BadChallenge"), "twice");
    let rubbish = json!({"nonce": "AAAA", "signature": "AAAA"});
    assert_eq!(reason(&east.post("/v1/tokens", rubbish).await), (401, "BadChallenge"));
    // No ServiceAccount yet: the hub is behind.
    running.api.delete("/api/v1/namespaces/muster-agents/serviceaccounts/west");
    assert_eq!(reason(&west.ask_for_tokens().await), (503, "Unavailable"));
}

#[tokio::test]
async fn certificate_and_token_name_one_provider() {
    let rooms = Rooms {
        agents: Router::new().route(
            "/v1/units/{unit}",
            get(|Extension(agent): Extension<Agent>| async move { agent.provider }),
        ),
        ..Rooms::default()
    };
    let running = Running::start(rooms).await;
    let (east, west) = (running.client(2), running.client(3));
    running.accept("east", &east).await;
    running.accept("west", &west).await;
    let (of_east, of_west) = (east.tokens().await, west.tokens().await);
    let ask = |client: &Client, token: &str| {
        let (client, token) = (client.clone(), token.to_owned());
        async move { client.get("/v1/units/u", Some(&token)).await }
    };
    assert_eq!(ask(&east, &of_east.gateway_token).await, (200, json!("east")));
    assert_eq!(reason(&ask(&east, &of_west.gateway_token).await), (403, "NotYourToken"));
    assert_eq!(reason(&ask(&running.nobody(), &of_east.gateway_token).await), (401, "CertificateNeeded"));
    assert_eq!(reason(&ask(&running.client(9), &of_east.gateway_token).await), (403, "KeyNotPinned"));
    assert_eq!(reason(&ask(&east, &of_east.api_token).await), (401, "BadToken"), "another audience");
    assert_eq!(reason(&ask(&east, "guess").await), (401, "BadToken"));
    assert_eq!(reason(&east.get("/v1/units/u", None).await), (401, "TokenNeeded"));
    running.api.token("user", "jane", "muster-gateway");
    assert_eq!(reason(&ask(&east, "user").await), (403, "NotYourToken"));
    // Answers are remembered, so that blobs do not cost a review each.
    let before = running.api.reviews.load(std::sync::atomic::Ordering::SeqCst);
    for _ in 0..5 {
        ask(&east, &of_east.gateway_token).await;
    }
    assert_eq!(running.api.reviews.load(std::sync::atomic::Ordering::SeqCst), before);
}

#[tokio::test]
async fn what_goes_through_is_the_callers_and_nothing_more() {
    let running = Running::start(Rooms::default()).await;
    let east = running.client(2);
    running.accept("east", &east).await;
    let unit = format!("{UNITS}/u1/status?fieldManager=muster-agent");
    let response = east
        .http
        .patch(format!("{}{unit}", running.url))
        .bearer_auth("my-own")
        .header("content-type", "application/merge-patch+json")
        .header("accept", "application/json")
        .header("impersonate-user", "system:admin")
        .header("impersonate-group", "system:masters")
        .header("x-remote-user", "system:admin")
        .header("x-forwarded-for", "127.0.0.1")
        .header("cookie", "a=b")
        .body(r#"{"metadata":{},"status":{}}"#)
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
    let mut names: Vec<_> = response.headers().keys().map(|name| name.as_str().to_owned()).collect();
    names.sort();
    assert_eq!(names, ["content-length", "content-type", "date"]);
    let seen = running.api.requests("/workunits/u1").pop().unwrap();
    assert_eq!(seen.method, "PATCH");
    assert_eq!(seen.target, unit.strip_prefix("/k8s").unwrap());
    assert_eq!(seen.headers["authorization"], "Bearer my-own");
    assert_eq!(seen.headers["content-type"], "application/merge-patch+json");
    assert_eq!(seen.body, br#"{"metadata":{},"status":{}}"#);
    let mut names: Vec<_> = seen.headers.keys().map(|name| name.as_str().to_owned()).collect();
    names.sort();
    assert_eq!(names, ["accept", "authorization", "content-length", "content-type", "host"]);
    // Never without the caller's token, and never with ours.
    assert_eq!(reason(&east.get(UNITS, None).await), (401, "TokenNeeded"));
    assert!(
        running.api.requests("muster-p-").iter().all(|seen| seen.headers["authorization"] == "Bearer my-own")
    );
    // What is refused does not reach the API server.
    let before = running.api.requests("").len();
    for path in [
        UNITS.replace("east", "west"),
        UNITS.replace("workunits", "secrets"),
        format!("{UNITS}/%2e%2e/x"),
        "/k8s/api/v1/namespaces/muster-agents/secrets".to_owned(),
    ] {
        assert_eq!(reason(&east.get(&path, Some("my-own")).await), (403, "NotAllowed"), "{path}");
    }
    let large = east.http.patch(format!("{}{unit}", running.url)).bearer_auth("my-own");
    let large = large.body(vec![b'x'; 256 * 1024 + 1]).send().await.unwrap();
    assert_eq!(large.status(), 413);
    assert_eq!(running.api.requests("").len(), before);
}

#[tokio::test]
async fn what_is_open_is_cut_when_the_key_falls() {
    for protocol in ["http/1.1", "h2"] {
        cut_when_the_key_falls(protocol).await;
    }
}

async fn cut_when_the_key_falls(protocol: &str) {
    let rooms = Rooms {
        agents: Router::new().route(
            "/v1/units/u",
            put(async |request: Request| {
                let bytes = axum::body::to_bytes(request.into_body(), 1 << 20).await;
                bytes.map(|bytes| bytes.len().to_string()).map_err(|_| axum::http::StatusCode::BAD_REQUEST)
            }),
        ),
        ..Rooms::default()
    };
    let running = Running::start(rooms).await;
    let (east, west) = (running.client_speaking(2, protocol), running.client(3));
    running.accept("east", &east).await;
    running.accept("west", &west).await;
    let tokens = east.tokens().await;
    // A watch that has shown something, one of another provider, and an upload that stands still.
    let watch = |client: &Client, name: &str, token: &str| {
        let url = format!("{}{}?watch=true", running.url, UNITS.replace("east", name));
        client.http.get(url).bearer_auth(token).send()
    };
    let mut hers = watch(&west, "west", "any").await.unwrap().bytes_stream();
    let his = watch(&east, "east", &tokens.api_token).await.unwrap();
    assert_eq!(his.version() == axum::http::Version::HTTP_2, protocol == "h2");
    let mut his = his.bytes_stream();
    let unit = |name: &str| UNITS.strip_prefix("/k8s").unwrap().replace("east", name) + "/u1";
    running.api.put(&unit("east"), json!({"metadata": {}}));
    assert!(String::from_utf8_lossy(&his.next().await.unwrap().unwrap()).contains("ADDED"));
    let forever =
        futures::stream::once(async { Ok::<_, std::io::Error>("half") }).chain(futures::stream::pending());
    let upload = east.http.put(format!("{}/v1/units/u", running.url)).bearer_auth(&tokens.gateway_token);
    let upload = tokio::spawn(upload.body(reqwest::Body::wrap_stream(forever)).send());
    running.until(|gateway| gateway.metrics.text().contains(r#"in_flight{class="Units"} 1"#)).await;

    let revoked = Instant::now();
    running.api.provider("east", &[east.fingerprint()], "Revoked");
    assert!(his.next().await.is_none_or(|part| part.is_err()), "the watch ends");
    let upload = upload.await.unwrap();
    assert!(upload.is_err() || upload.is_ok_and(|response| response.status() == 403));
    assert!(revoked.elapsed() < Duration::from_secs(1), "{:?}", revoked.elapsed());
    running.api.put(&unit("east"), json!({"metadata": {}}));
    assert!(his.next().await.is_none_or(|part| part.is_err()), "nothing new is seen");
    assert_eq!(reason(&watch_refused(&east, &tokens.api_token).await), (403, "Revoked"));
    assert_eq!(reason(&heartbeat(&east, &tokens.gateway_token).await), (403, "Revoked"));
    assert_eq!(reason(&east.ask_for_tokens().await), (403, "Revoked"));
    // Its tokens die with their Secret, at once and not at the next round.
    let secrets = || running.api.names("/api/v1/namespaces/muster-agents/secrets");
    running.until(|_| secrets().is_empty()).await;
    assert!(revoked.elapsed() < Duration::from_secs(5));
    // Another provider notices nothing.
    running.api.put(&unit("west"), json!({"metadata": {}}));
    assert!(String::from_utf8_lossy(&hers.next().await.unwrap().unwrap()).contains("ADDED"));
}

async fn watch_refused(client: &Client, token: &str) -> (u16, Value) {
    client.get(&format!("{UNITS}?watch=true"), Some(token)).await
}

#[tokio::test]
async fn a_flood_of_one_provider_does_not_slow_another() {
    let running = Running::start(Rooms::default()).await;
    let (east, west) = (running.client(2), running.client(3));
    running.accept("east", &east).await;
    running.accept("west", &west).await;
    let path = UNITS.replace("east", "west");
    // East has all its places taken by watches, and goes on asking.
    let url = format!("{}{UNITS}?watch=true", running.url);
    let mut open = Vec::new();
    loop {
        let response = east.http.get(&url).bearer_auth("any").send().await.unwrap();
        if response.status() == 429 {
            assert_eq!(response.headers()["retry-after"], "1");
            break;
        }
        open.push(response);
    }
    assert!(open.len() <= super::limits::AT_ONCE);
    let flooding = east.clone();
    let flood = tokio::spawn(async move {
        let requests = futures::stream::iter(0..300).map(|_| flooding.get(UNITS, Some("any")));
        requests.buffer_unordered(16).map(|(status, _)| status).collect::<Vec<_>>().await
    });
    let begun = Instant::now();
    for _ in 0..20 {
        assert_eq!(west.get(&path, Some("any")).await.0, 200);
    }
    // Generous: the machine may be busy. Waiting for the flood's turn would take as long as the watches are open.
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert!(flood.await.unwrap().iter().all(|status| *status == 429));
    drop(open);
}

#[tokio::test]
async fn strangers_wait_sooner_than_providers() {
    let running = Running::start(Rooms::default()).await;
    let (nobody, east) = (running.nobody(), running.client(2));
    running.accept("east", &east).await;
    let mut refused = None;
    for _ in 0..100 {
        let response = nobody.http.get(format!("{}/v1/hub", running.url)).send().await.unwrap();
        if response.status() == 429 {
            refused = Some(response);
            break;
        }
    }
    let refused = refused.expect("an address has a limit");
    assert!(refused.headers().contains_key("retry-after"));
    assert_eq!(east.get("/v1/hub", None).await.0, 200, "a provider at the same address has its own");
    assert!(running.gateway.metrics.text().contains("rate_limited_total 1"));
}

#[tokio::test]
async fn users_are_whom_the_cluster_says() {
    let rooms = Rooms {
        users: Router::new().route(
            "/v1/namespaces/{ns}/datasets",
            get(|Extension(user): Extension<User>| async move { format!("{} {:?}", user.name, user.groups) }),
        ),
        ..Rooms::default()
    };
    let running = Running::start(rooms).await;
    let nobody = running.nobody();
    let ask = |token: Option<&'static str>| nobody.get("/v1/namespaces/team-a/datasets", token);
    assert_eq!(reason(&ask(None).await), (401, "TokenNeeded"));
    assert_eq!(reason(&ask(Some("guess")).await), (401, "BadToken"));
    running.api.token("janes", "jane", "api");
    running.api.token("agents", "system:serviceaccount:muster-agents:east", "muster-gateway");
    assert_eq!(ask(Some("janes")).await, (200, json!(r#"jane ["system:authenticated"]"#)));
    assert_eq!(reason(&ask(Some("agents")).await), (401, "BadToken"), "made for another audience");
    for _ in 0..40 {
        assert_eq!(ask(Some("janes")).await.0, 200, "who is known is no stranger");
    }

    let authorizer = KubeAuthorizer::new(running.gateway.client.clone());
    let jane = User { name: "jane".into(), ..User::default() };
    let data = Wanted { verb: "create", subresource: "data", namespace: "team-a", name: None };
    let refused = authorizer.may(&jane, &data).await.unwrap_err();
    assert!(refused.status == 403 && refused.message.contains("kubectl auth can-i"), "{refused:?}");
    running.api.allowed.lock().unwrap().insert("jane create trainingjobs.muster.dev/data team-a".into());
    authorizer.may(&jane, &data).await.unwrap();
    let other = Wanted { namespace: "team-b", ..data };
    assert!(authorizer.may(&jane, &other).await.is_err());
    let named = Wanted { verb: "get", subresource: "checkpoints", namespace: "team-a", name: Some("j") };
    running
        .api
        .allowed
        .lock()
        .unwrap()
        .insert("jane get trainingjobs.muster.dev/checkpoints team-a j".into());
    authorizer.may(&jane, &named).await.unwrap();
}

#[tokio::test]
async fn an_api_server_that_is_away_closes_no_door_that_was_open() {
    let running = Running::start(Rooms::default()).await;
    let east = running.client(2);
    running.accept("east", &east).await;
    let tokens = east.tokens().await;
    assert_eq!(heartbeat(&east, &tokens.gateway_token).await.0, 200);
    running.api.down.store(true, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(heartbeat(&east, &tokens.gateway_token).await.0, 200, "remembered");
    let unknown = heartbeat(&east, "another").await;
    assert_eq!(reason(&unknown), (503, "Unavailable"));
    assert_eq!(reason(&east.ask_for_tokens().await), (503, "Unavailable"));
    assert_eq!(running.nobody().get("/v1/hub", None).await.0, 200);
    running.api.down.store(false, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(reason(&heartbeat(&east, "another").await), (401, "BadToken"), "an outage is not remembered");
    east.tokens().await;
}
