//! The keys of sidecars.
use super::*;

#[tokio::test]
async fn one_key_is_bound_to_a_rank_whoever_asks() {
    let (world, agent) = World::new().await;
    let me: SelfAnswer = json(agent.get("pod-1", "/v1/self").await).await;
    assert_eq!((me.unit.as_str(), me.attempt, me.rank), (UNIT, 1, 1));
    let binding = binding::bind(&key(8), "pod-1").unwrap();
    // A binding is good with the token that was signed only, and a key with its owner's signature only.
    assert_eq!(agent.bind("pod-0", &binding).await.status(), StatusCode::BAD_REQUEST);
    let stolen = KeyBinding { public_key: key(9).public().to_pem().unwrap(), ..binding.clone() };
    let answer = agent.bind("pod-1", &stolen).await;
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
    assert!(answer.text().await.unwrap().contains("BadSignature"));
    let none = KeyBinding { public_key: "-----BEGIN".to_owned(), ..binding.clone() };
    assert!(agent.bind("pod-1", &none).await.text().await.unwrap().contains("publicKey"));
    assert_eq!(agent.bind("nonsense", &binding).await.status(), StatusCode::UNAUTHORIZED);
    // Good, again, and then another one.
    assert_eq!(agent.bind("pod-1", &binding).await.status(), StatusCode::CREATED);
    assert_eq!(agent.bind("pod-1", &binding).await.status(), StatusCode::OK);
    let other = binding::bind(&key(9), "pod-1").unwrap();
    let answer = agent.bind("pod-1", &other).await;
    assert_eq!(answer.status(), StatusCode::CONFLICT);
    assert!(answer.text().await.unwrap().contains("another key is bound"));
    // An agent that starts again remembers.
    agent.shutdown.trigger();
    let agent = world.start().await;
    assert_eq!(agent.bind("pod-1", &other).await.status(), StatusCode::CONFLICT);
    assert_eq!(agent.bind("pod-1", &binding).await.status(), StatusCode::OK);
    // The next attempt's pods make keys of their own.
    agent.unit().update(|state| state.memory.attempt = 2).await.unwrap();
    assert_eq!(agent.bind("pod-1", &binding).await.status(), StatusCode::GONE);
    world.pods.add("pod-2", UNIT, 2, 1);
    let next = binding::bind(&key(9), "pod-2").unwrap();
    assert_eq!(agent.bind("pod-2", &next).await.status(), StatusCode::CREATED);
}
