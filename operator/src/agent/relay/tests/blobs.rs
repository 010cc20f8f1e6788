//! What pods read and put.
use super::*;
use muster_proof::inputs::Inputs;

#[tokio::test]
async fn a_pod_reads_what_its_unit_leads_to_and_nothing_else() {
    let (world, agent) = World::new().await;
    let spec = agent.unit().state().await.payload.unwrap().spec;
    world.hub.down.store(true, Ordering::SeqCst);
    assert_eq!(agent.blob("pod-1", &spec).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    world.hub.down.store(false, Ordering::SeqCst);
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
    let spec = agent.blob("pod-1", &spec).await;
    assert_eq!(spec.headers()["content-length"], super::spec().len().to_string());
    assert_eq!(agent.get("pod-1", "/v1/blobs/sha256/abc").await.status(), StatusCode::BAD_REQUEST);
}

/// The spec leads to the data that the job is evaluated on, and to the weights that it begins with, and says which steps' records have a loss there.
#[tokio::test]
async fn a_spec_leads_to_what_it_reads() {
    let (world, agent) = World::new().await;
    let shard = world.hub.insert(b"that is the question");
    let shards = vec![dataset::Shard { path: "tokens-00000.bin".to_owned(), size: 20, sha256: shard }];
    let manifest = dataset::Manifest::new(Digest::of(b"root"), shards).unwrap();
    let held_out = world.hub.insert(&manifest.to_bytes().unwrap());
    let (_dir, model, weights) = crate::store::testing::weights("");
    let model = world.hub.insert(&model);
    let [config, tensors] = [0, 1].map(|i| world.hub.insert(&weights[i]));
    let named = [shard, held_out, model, config, tensors];
    for digest in named {
        assert_eq!(agent.blob("pod-0", &digest).await.status(), StatusCode::NOT_FOUND);
    }
    let training = agent.unit().state().await.payload.unwrap().training_digest;
    let checkpoint = agent.upload(20, training).await;
    let inputs = Inputs { held_out: Some(held_out), init: Some(model) };
    let spec = world.hub.insert(&crate::store::testing::spec(inputs));
    agent.unit().update(|state| state.payload.as_mut().unwrap().spec = spec).await.unwrap();
    for digest in [spec].into_iter().chain(named) {
        assert_eq!(agent.blob("pod-1", &digest).await.status(), StatusCode::OK, "{digest}");
    }
    assert_eq!(agent.blob("pod-1", &Digest::of(b"x")).await.status(), StatusCode::NOT_FOUND);

    // Its records have none.
    let refused = agent.commit("pod-0", 20, &checkpoint).await;
    assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
    let text = refused.text().await.unwrap();
    assert!(text.contains("BadCommit: records: the record of step 10 has no evalLoss"), "{text}");
    assert_eq!(agent.unit().state().await.checkpoints, []);
    // What units lead to outlives a sweep, whatever its age.
    let live = upload::live(&agent.units, &agent.blobs).await;
    assert!([spec].iter().chain(&named).all(|digest| live.contains(digest)));
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
