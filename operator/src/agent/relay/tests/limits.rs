//! What the relay gives to whoever reaches its port.
use futures::{StreamExt, stream};
use tokio::io::AsyncReadExt;

use super::*;

impl Agent {
    /// A notice whose body begins and does not end.
    fn endless(&self, token: &str) -> impl Future<Output = Response> + Send + use<> {
        let begun = stream::iter([Ok::<_, std::io::Error>("{".to_owned())]);
        let body = reqwest::Body::wrap_stream(begun.chain(stream::pending()));
        let request = self.client.post(format!("{}/v1/checkpoints", self.base)).bearer_auth(token).body(body);
        async move { request.send().await.unwrap() }
    }
}

#[tokio::test]
async fn bodies_are_closed_and_capped() {
    let (_world, agent) = World::new().await;
    let bad = [
        ("/v1/rounds/1/join", json!({"address": "10.0.0.1:1", "extra": 1}), "extra"),
        ("/v1/rounds/1/join", json!({"address": "nowhere"}), "socket address"),
        ("/v1/rounds/1/join", json!({"address": "10.0.0.1:1"}), "publicKey"),
        ("/v1/rounds/1/join", json!({"address": "10.0.0.1:1", "publicKey": "MFkw"}), "P-256 public key"),
        ("/v1/progress", json!({"step": 101, "loss": "1", "tokensPerSecond": 1}), "step"),
        ("/v1/progress", json!({"step": 1, "loss": "\u{1b}[31m", "tokensPerSecond": 1}), "loss"),
        ("/v1/checkpoints", json!({"step": 20}), "manifest"),
        (
            "/v1/checkpoints",
            json!({"step": 20, "manifest": Digest::of(b"m"), "stateRoot": Digest::of(b"s")}),
            "commit",
        ),
    ];
    for (path, body, want) in bad {
        let answer = agent.ask("pod-0", Method::POST, path, Some(body)).await;
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{path}");
        let text = answer.text().await.unwrap();
        assert!(text.contains(want), "{path}: {text}");
    }
    let long = json!({ "address": "x".repeat(100_000) });
    let answer = agent.ask("pod-0", Method::POST, "/v1/rounds/1/join", Some(long)).await;
    assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
    // The records of a long interval are as long, and no other body.
    let long = json!({ "step": "x".repeat(1_000_000) });
    let answer = agent.ask("pod-0", Method::POST, "/v1/checkpoints", Some(long)).await;
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
}

/// Forty of these and the agent was out of memory.
#[tokio::test]
async fn nothing_of_a_stranger_is_read() {
    let (_world, agent) = World::new().await;
    let answer = tokio::time::timeout(Duration::from_secs(5), agent.endless("nonsense")).await;
    assert_eq!(answer.expect("it is answered unread").status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_unit_says_one_thing_after_the_other() {
    let (_world, agent) = World::new().await;
    let begun = tokio::spawn(agent.endless("pod-0"));
    let short = || agent.ask("pod-0", Method::POST, "/v1/checkpoints", Some(json!({"step": 20})));
    let mut status = StatusCode::BAD_REQUEST;
    for _ in 0..100 {
        status = short().await.status();
        if status != StatusCode::BAD_REQUEST {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    // Small bodies are another matter.
    let report = json!({"step": 7, "loss": "2.5", "tokensPerSecond": 900});
    let progress = agent.ask("pod-0", Method::POST, "/v1/progress", Some(report)).await;
    assert_eq!(progress.status(), StatusCode::OK);
    begun.abort();
    for _ in 0..100 {
        status = short().await.status();
        if status == StatusCode::BAD_REQUEST {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the sender is gone and its place is not free: {status}");
}

#[tokio::test(start_paused = true)]
async fn who_says_nothing_is_hung_up_on() {
    let (_world, agent) = World::new().await;
    let address = agent.base.trim_start_matches("https://").to_owned();
    let mut silent = tokio::net::TcpStream::connect(address).await.unwrap();
    let read = tokio::time::timeout(Duration::from_secs(60), silent.read_u8()).await;
    assert!(read.expect("no handshake within a minute").is_err());
}

/// Any pod could fill the volume on which the units' state is.
#[tokio::test]
async fn a_unit_that_commits_nothing_runs_out_of_room() {
    let (_world, agent) = World::new().await;
    let sizes = crate::store::sizes::Sizes::of_spec(&spec()).unwrap();
    let bytes = |number: u8, more: u64| vec![number; usize::try_from(sizes.file + more).unwrap()];
    let put = async |pod: &'static str, bytes: Vec<u8>| agent.put(pod, &Digest::of(&bytes), &bytes).await;
    assert_eq!(put("pod-1", bytes(0, 0)).await, StatusCode::FORBIDDEN, "checkpoints are rank 0's");
    assert_eq!(put("pod-0", bytes(0, 1)).await, StatusCode::PAYLOAD_TOO_LARGE);
    agent.make(20).await;
    let mut answers = Vec::new();
    for number in 1..=13 {
        answers.push(put("pod-0", bytes(number, 0)).await);
    }
    // What no commit names fills eight checkpoints; what one names does not count.
    let (made, allowed) =
        (answers.iter().filter(|answer| **answer == StatusCode::CREATED).count(), 8 * sizes.checkpoint);
    assert_eq!(made as u64, allowed / sizes.file, "{answers:?}");
    assert_eq!(answers.last(), Some(&StatusCode::INSUFFICIENT_STORAGE));
    assert_eq!(put("pod-0", bytes(1, 0)).await, StatusCode::OK, "it is there already");
    // What is not there any more does not count either.
    agent.blobs.remove(&Digest::of(&bytes(1, 0))).await.unwrap();
    assert_eq!(put("pod-0", bytes(14, 0)).await, StatusCode::CREATED);
}

/// Small blobs fill a volume, too: each is a file.
#[tokio::test]
async fn a_unit_puts_only_so_many_blobs_that_no_commit_names() {
    let (_world, agent) = World::new().await;
    let mut made = 0;
    for number in 0..50_u8 {
        let bytes = [number];
        match agent.put("pod-0", &Digest::of(&bytes), &bytes).await {
            StatusCode::CREATED => made += 1,
            refused => {
                assert_eq!(refused, StatusCode::INSUFFICIENT_STORAGE);
                break;
            }
        }
    }
    assert_eq!(made, 40);
}
