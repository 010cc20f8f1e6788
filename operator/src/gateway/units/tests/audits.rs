//! Replays: what they read, and that they leave nothing behind.
use super::*;

const REPLAY: &str = "4f2a9c1b-a77-3";

/// The replay of steps 41..=60 at "west", from this checkpoint.
fn replay(site: &Site, manifest: Digest) -> Payload {
    let assignment = Digest::of(b"assignment");
    let train = unit_with("west", JOB, 1, None, site.spec, site.dataset);
    let bytes = STANDARD.decode(&train.spec.envelope.payload).unwrap();
    Payload {
        kind: Kind::Audit,
        name: REPLAY.to_owned(),
        epoch: 3,
        grant: assignment,
        start: Some(CheckpointRef { step: 40, manifest }),
        audit: Some(Audit { assignment, epoch: 1, interval: 2, last_step: 60 }),
        ..read_payload(&bytes).unwrap()
    }
}

impl Site {
    fn place_replay(&self, payload: &Payload) {
        let key = ("west".to_owned(), payload.name.clone());
        self.work.units.lock().unwrap().insert(key, object(payload));
    }

    async fn west(&self, request: Request<Body>) -> (u16, String) {
        refused(self.send_as("west", 0, request).await).await
    }

    async fn west_gets(&self, digest: &Digest) -> u16 {
        self.west(Request::get(blob(REPLAY, digest)).body(Body::empty()).unwrap()).await.0
    }
}

#[rstest]
#[tokio::test]
async fn a_replay_reads_what_it_starts_from_and_not_what_it_is_to_find(
    #[values(On::Dir, On::Bucket)] on: On,
) {
    let site = Site::new(on).await;
    let (start, files) = recorded(&site.store, JOB, 40).await;
    let (end, end_files) = recorded(&site.store, JOB, 60).await;
    site.place_replay(&replay(&site, start));
    let shards = site.store.dataset_manifest(&site.dataset).await.unwrap().unwrap();
    for digest in [site.spec, site.dataset, shards.shards()[0].sha256, start, files[0]] {
        assert_eq!(site.west_gets(&digest).await, 200, "{digest}");
    }
    for digest in end_files.iter().chain([&end]) {
        assert_eq!(site.west_gets(digest).await, 404, "{digest}");
    }
    // Whatever the unit calls its start: a state of another step or job is none, nor is what is no checkpoint.
    let (other, other_files) = recorded(&site.store, OTHER_JOB, 20).await;
    for (manifest, file) in [(end, end_files[0]), (other, other_files[0]), (site.spec, site.spec)] {
        site.place_replay(&replay(&site, manifest));
        if manifest != site.spec {
            assert_eq!((site.west_gets(&manifest).await, site.west_gets(&file).await), (404, 404));
        }
        assert_eq!(site.west_gets(&start).await, 404);
    }
}

#[tokio::test]
async fn a_replay_puts_commits_and_tells_nothing() {
    let site = Site::new(On::Dir).await;
    let (start, _) = recorded(&site.store, JOB, 40).await;
    site.place_replay(&replay(&site, start));
    let before = site.store.epoch(JOB, 0).await.unwrap();
    let not_here = (403, "NotForAudits".to_owned());
    let bytes = b"what it found";
    assert_eq!(site.west(put_request(REPLAY, &Digest::of(bytes), bytes)).await, not_here);
    assert_eq!(site.store.size(&Digest::of(bytes)).await.unwrap(), None);
    let payload = replay(&site, start);
    let own = Payload { epoch: 1, ..payload.clone() };
    for commit in
        [signed(&payload, 60, &start, Digest::of(b"state")), signed(&own, 60, &start, Digest::of(b"state"))]
    {
        assert_eq!(site.west(send_commit(REPLAY, 60, &start, &commit)).await, not_here);
    }
    let post = |path: &str, body: serde_json::Value| {
        Request::post(format!("/v1/units/{REPLAY}{path}")).body(Body::from(body.to_string())).unwrap()
    };
    let url = json!({"digest": Digest::of(bytes), "method": "PUT", "size": bytes.len()});
    assert_eq!(site.west(post("/urls", url)).await, not_here);
    let publish = format!("/blobs/sha256/{}/publish", Digest::of(bytes).to_hex());
    let staging = json!({"staging": "0123456789abcdef0123456789abcdef"});
    assert_eq!(site.west(post(&publish, staging)).await, not_here);
    let log = Request::put(format!("/v1/units/{REPLAY}/attempts/1/logs/0")).body(Body::from("x")).unwrap();
    assert_eq!(site.west(log).await, not_here);
    assert!(site.store.kept_logs(JOB).await.unwrap().is_empty());
    assert_eq!(site.log.view().published.size(), 0);
    assert_eq!(site.store.epoch(JOB, 0).await.unwrap(), before, "its number is no epoch of the island");
    assert_eq!(site.store.checkpoint(JOB, 60).await.unwrap(), None);
    // It may still ask for URLs of what it reads.
    let get = json!({"digest": start, "method": "GET"});
    assert_eq!(site.west(post("/urls", get)).await.0, 200);
}
