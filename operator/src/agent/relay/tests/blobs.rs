//! What pods read and put.
use super::*;

#[tokio::test]
async fn a_pod_reads_what_its_unit_leads_to_and_nothing_else() {
    let (world, agent) = World::new().await;
    let secret = world.hub.insert(b"another tenant's data");
    assert_eq!(agent.blob("pod-0", &secret).await.status(), StatusCode::NOT_FOUND);
    let shard = Digest::of(b"to be or not to be");
    // Two ranks ask at once; the hub is asked once.
    let before = world.hub.gets.load(Ordering::SeqCst);
    let (first, second) = tokio::join!(agent.blob("pod-0", &shard), agent.blob("pod-1", &shard));
    assert_eq!(first.bytes().await.unwrap(), &b"to be or not to be"[..]);
    assert_eq!(second.status(), StatusCode::OK);
    assert!(world.hub.gets.load(Ordering::SeqCst) <= before + 2, "the shard once, the manifest at most once");
    // From now on the hub is not needed.
    world.hub.down.store(true, Ordering::SeqCst);
    assert_eq!(agent.blob("pod-1", &shard).await.status(), StatusCode::OK);
    let spec = agent.unit().state().await.payload.unwrap().spec;
    assert_eq!(agent.blob("pod-1", &spec).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    world.hub.down.store(false, Ordering::SeqCst);
    let spec = agent.blob("pod-1", &spec).await;
    assert_eq!(spec.headers()["content-length"], "4");
    assert_eq!(agent.get("pod-1", "/v1/blobs/sha256/abc").await.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn blobs_are_taken_if_they_are_what_they_are_called() {
    let (_world, agent) = World::new().await;
    let digest = Digest::of(b"blob");
    assert_eq!(agent.put("pod-0", &digest, b"blub").await, StatusCode::BAD_REQUEST);
    assert_eq!(agent.put("pod-0", &digest, b"blob").await, StatusCode::CREATED);
    assert_eq!(agent.put("pod-0", &digest, b"blob").await, StatusCode::OK);
    assert_eq!(agent.put("nonsense", &digest, b"blob").await, StatusCode::UNAUTHORIZED);
    let path = format!("/v1/blobs/sha256/{}", digest.to_hex());
    assert_eq!(agent.ask("pod-0", Method::HEAD, &path, None).await.status(), StatusCode::OK);
    let absent = format!("/v1/blobs/sha256/{}", Digest::of(b"x").to_hex());
    assert_eq!(agent.ask("pod-0", Method::HEAD, &absent, None).await.status(), StatusCode::NOT_FOUND);
}
