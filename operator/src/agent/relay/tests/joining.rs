//! How the workers of a round find each other.
use super::*;

#[tokio::test]
async fn workers_meet_and_get_one_signed_list() {
    let (_world, agent) = World::new().await;
    let assignment: Assignment = json(agent.get("pod-1", "/v1/rounds/1").await).await;
    assert_eq!((assignment.rank, assignment.workers, assignment.attempt, assignment.start), (1, 2, 1, None));
    // The late joiner is waited for.
    let (first, second) = tokio::join!(agent.join("pod-0", 1, 1000), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        agent.join("pod-1", 1, 1001).await
    });
    let (first, second): (Joined, Joined) = (json(first).await, json(second).await);
    assert_eq!(first, second);
    let want = [joining(1000).peer(), joining(1001).peer()];
    assert_eq!(agent.peers(&first, 2, 0, 1, 1000), want);
    assert_eq!(agent.peers(&second, 2, 1, 1, 1001), want);
}

/// The key of another rank is public; to join with it is refused, and so is what is no key.
#[tokio::test]
async fn a_worker_joins_with_a_key_of_its_own() {
    let (_world, agent) = World::new().await;
    agent.unit().update(|state| state.payload.as_mut().unwrap().workers = 1).await.unwrap();
    assert_eq!(agent.join("pod-0", 1, 1000).await.status(), StatusCode::OK);
    agent.unit().update(|state| state.payload.as_mut().unwrap().workers = 2).await.unwrap();
    let stolen = json!({ "address": "10.0.0.1:1001", "publicKey": joining(1000).public_key });
    let answer = agent.ask("pod-1", Method::POST, "/v1/rounds/1/join", Some(stolen)).await;
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    assert!(answer.text().await.unwrap().contains("key of rank 0"));
    assert_eq!(agent.join("pod-1", 1, 1001).await.status(), StatusCode::OK);
    // The same address with another key is another process: the next round.
    let reborn = json!({ "address": "10.0.0.1:1001", "publicKey": joining(1002).public_key });
    let answer = agent.ask("pod-1", Method::POST, "/v1/rounds/1/join", Some(reborn)).await;
    assert_eq!(answer.status(), StatusCode::CONFLICT);
    assert_eq!(answer.json::<OtherRound>().await.unwrap(), OtherRound { round: 2 });
}

#[tokio::test]
async fn one_and_three_workers_meet_too() {
    for workers in [1, 3] {
        let (world, agent) = World::new().await;
        agent.unit().update(|state| state.payload.as_mut().unwrap().workers = workers).await.unwrap();
        world.pods.add("pod-2", UNIT, 1, 2);
        let pods = ["pod-0", "pod-1", "pod-2"];
        let joins = (0..workers).map(|rank| agent.join(pods[rank as usize], 1, 1000 + rank as u16));
        for (rank, joined) in (0..).zip(futures::future::join_all(joins).await) {
            let joined: Joined = json(joined).await;
            let peers = agent.peers(&joined, workers as u32, rank, 1, 1000 + rank as u16);
            assert_eq!(peers.len(), workers as usize);
        }
    }
}

#[tokio::test]
async fn a_restart_of_the_agent_disturbs_nobody() {
    let (world, agent) = World::new().await;
    let (first, second) = tokio::join!(agent.join("pod-0", 1, 1000), agent.join("pod-1", 1, 1001));
    let told: Joined = json(first).await;
    drop(second); // its answer was lost with the agent
    agent.shutdown.trigger();
    let agent = world.start().await;
    let again: Joined = json(agent.join("pod-1", 1, 1001).await).await;
    assert_eq!(again, told, "the same list, with the same signature");
    // The next round is another one.
    let _: Assignment = json(agent.get("pod-0", "/v1/rounds/2").await).await;
    let behind = agent.join("pod-1", 1, 1001).await;
    assert_eq!(behind.status(), StatusCode::CONFLICT);
    assert_eq!(behind.json::<OtherRound>().await.unwrap(), OtherRound { round: 2 });
    let (first, second) = tokio::join!(agent.join("pod-0", 2, 1002), agent.join("pod-1", 2, 1003));
    let next: Joined = json(first).await;
    assert_eq!(agent.peers(&next, 2, 0, 2, 1002), [joining(1002).peer(), joining(1003).peer()]);
    assert_eq!(second.status(), StatusCode::OK);
}
