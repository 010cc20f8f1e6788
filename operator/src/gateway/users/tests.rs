//! The routes for users. Who may do what and which jobs there are is said by fakes.
use std::sync::Mutex;

use axum::body::Bytes;
use axum::http::{Request, header};
use rstest::rstest;
use serde_json::{Value, json};
use tempfile::TempDir;
use tower::ServiceExt;

use super::*;
use crate::gateway::access::Wanted;
use crate::gateway::testing::urls;
use crate::store::testing::{On, dataset, recorded, store, team, weights};
use crate::wire::gateway::Refused;

const JOB: &str = "4f2a9c1b-0000-4000-8000-000000000000";
const OTHER_JOB: &str = "5f2a9c1b-0000-4000-8000-000000000000";

/// `team-x` users may do everything in namespace `team-x`.
#[derive(Default)]
struct Fake {
    /// The uid of a namespace `team-a` that was made anew.
    again: Mutex<Option<String>>,
}

/// Bytes that a namespace may have.
const QUOTA: u64 = 1 << 16;

impl Authorizer for Fake {
    async fn may(&self, user: &User, wanted: &Wanted<'_>) -> Result<(), Refusal> {
        let known = [("create", "data", false), ("list", "data", false), ("get", "checkpoints", true)];
        assert!(known.contains(&(wanted.verb, wanted.subresource, wanted.name.is_some())), "{wanted:?}");
        if user.name == wanted.namespace {
            return Ok(());
        }
        Err(Refusal::new(StatusCode::FORBIDDEN, "Forbidden", "no"))
    }
}

impl Jobs for Fake {
    async fn uid(&self, namespace: &str, name: &str) -> Result<Option<String>, Refusal> {
        Ok(match (namespace, name) {
            ("team-a", "kjv-gpt") => Some(JOB.to_owned()),
            ("team-b", "other") => Some(OTHER_JOB.to_owned()),
            _ => None,
        })
    }

    async fn namespace(&self, name: &str) -> Result<Option<Namespace>, Refusal> {
        let uid = self.again.lock().unwrap().clone();
        Ok(match (name, uid) {
            ("team-a", Some(uid)) => Some(Namespace::new(name, &uid).unwrap()),
            ("nowhere", _) => None,
            _ => Some(team(name)),
        })
    }
}

struct Site {
    _dir: TempDir,
    store: Arc<Store>,
    fake: Arc<Fake>,
    router: Router,
}

impl Site {
    async fn new(on: On) -> Self {
        let (dir, store) = store(on).await;
        let store = Arc::new(store);
        let fake = Arc::new(Fake::default());
        let router = router(store.clone(), Door::new(fake.clone(), fake.clone()), urls(), QUOTA);
        Self { _dir: dir, store, fake, router }
    }

    async fn send(&self, user: &str, request: Request<Body>) -> Response {
        let mut request = request;
        request.extensions_mut().insert(User { name: user.to_owned(), ..User::default() });
        self.router.clone().oneshot(request).await.unwrap()
    }

    async fn put(&self, team: &str, bytes: &[u8]) -> u16 {
        self.try_put(team, bytes).await.0
    }

    async fn try_put(&self, team: &str, bytes: &[u8]) -> (u16, String) {
        let request = Request::put(blob(team, &Digest::of(bytes)))
            .header(header::CONTENT_LENGTH, bytes.len())
            .body(Body::from(bytes.to_vec()));
        refused(self.send(team, request.unwrap()).await).await
    }

    async fn head(&self, team: &str, digest: &Digest) -> u16 {
        let request = Request::head(blob(team, digest)).body(Body::empty()).unwrap();
        self.send(team, request).await.status().as_u16()
    }

    async fn name(&self, team: &str, name: &str, manifest: &Digest) -> (u16, String) {
        let body = json!({"manifest": manifest}).to_string();
        let path = format!("/v1/namespaces/{team}/datasets/{name}");
        refused(self.send(team, Request::put(path).body(Body::from(body)).unwrap()).await).await
    }

    async fn get(&self, user: &str, path: &str) -> Response {
        self.send(user, Request::get(path).body(Body::empty()).unwrap()).await
    }
}

fn blob(team: &str, digest: &Digest) -> String {
    format!("/v1/namespaces/{team}/blobs/sha256/{}", digest.to_hex())
}

async fn bytes(answer: Response) -> Bytes {
    axum::body::to_bytes(answer.into_body(), 1 << 24).await.unwrap()
}

async fn refused(answer: Response) -> (u16, String) {
    let status = answer.status().as_u16();
    let refused: Option<Refused> = serde_json::from_slice(&bytes(answer).await).ok();
    (status, refused.map(|refused| refused.reason).unwrap_or_default())
}

/// A dataset of this text: its manifest's bytes and its only shard's.
fn prepared(text: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let dir = tempfile::tempdir().unwrap();
    let (input, out) = (dir.path().join("text"), dir.path().join("out"));
    std::fs::write(&input, text).unwrap();
    muster_trainer::dataset::prepare(&[&input], &out).unwrap();
    let read = |name: &str| std::fs::read(out.join(name)).unwrap();
    (read("manifest.json"), read("tokens-00000.bin"))
}

#[rstest]
#[tokio::test]
async fn a_dataset_is_pushed_and_listed(#[values(On::Dir, On::Bucket)] on: On) {
    let site = Site::new(on).await;
    let (manifest, shard) = prepared(b"in the beginning");
    let digest = Digest::of(&manifest);
    assert_eq!(site.name("team-a", "kjv", &digest).await, (409, "BlobMissing".to_owned()));
    assert_eq!(site.put("team-a", &manifest).await, 201);
    assert_eq!(
        site.name("team-a", "kjv", &digest).await,
        (409, "BlobMissing".to_owned()),
        "its shard is not there"
    );
    assert_eq!(site.put("team-a", &shard).await, 201);
    assert_eq!(site.put("team-a", &shard).await, 200);
    assert_eq!(site.name("team-a", "kjv", &digest).await.0, 201);
    assert_eq!(site.name("team-a", "kjv", &digest).await.0, 200);
    let answer = bytes(site.get("team-a", "/v1/namespaces/team-a/datasets").await).await;
    let list: Value = serde_json::from_slice(&answer).unwrap();
    let want = json!({"datasets": [{"name": "kjv", "manifest": digest, "tokens": 16, "vocabulary": 256}]});
    assert_eq!(list, want);
}

/// A model beside a dataset of the same name.
#[rstest]
#[tokio::test]
async fn a_model_is_pushed_and_listed(#[values(On::Dir, On::Bucket)] on: On) {
    let site = Site::new(on).await;
    dataset(&site.store, &team("team-a"), "kjv", b"in the beginning").await;
    let (_dir, manifest, files) = weights("");
    let digest = Digest::of(&manifest);
    let name = async |digest: &Digest| {
        let body = serde_json::to_vec(&ManifestRef { manifest: *digest }).unwrap();
        let put = Request::put("/v1/namespaces/team-a/models/kjv").body(Body::from(body)).unwrap();
        refused(site.send("team-a", put).await).await
    };
    assert_eq!(site.put("team-a", &manifest).await, 201);
    assert_eq!(site.put("team-a", &files[0]).await, 201);
    assert_eq!(name(&digest).await, (409, "BlobMissing".to_owned()), "its tensors are not there");
    assert_eq!(site.put("team-a", &files[1]).await, 201);
    assert_eq!(name(&digest).await.0, 201);
    assert_eq!(name(&digest).await.0, 200);
    assert_eq!(site.head("team-a", &Digest::of(&files[1])).await, 200);
    assert_eq!(site.head("team-b", &Digest::of(&files[1])).await, 404);
    let (other, _) = prepared(b"in the beginning");
    assert_eq!(site.put("team-a", &other).await, 200);
    assert_eq!(name(&Digest::of(&other)).await, (400, "BadManifest".to_owned()), "a dataset is no model");
    assert_eq!(
        site.name("team-a", "base", &digest).await,
        (400, "BadManifest".to_owned()),
        "nor one a dataset"
    );

    let answer = bytes(site.get("team-a", "/v1/namespaces/team-a/models").await).await;
    let list: Models = serde_json::from_slice(&answer).unwrap();
    let [one] = list.models.as_slice() else { panic!("{list:?}") };
    assert_eq!((one.name.as_str(), one.manifest, one.model.width), ("kjv", digest, 16));
    assert_eq!(one.bytes, files.iter().map(|file| file.len() as u64).sum::<u64>());
    assert_eq!(site.get("team-b", "/v1/namespaces/team-a/models").await.status(), 403);
}

#[rstest]
#[tokio::test]
async fn a_name_is_replaced_only_when_asked(#[values(On::Dir, On::Bucket)] on: On) {
    let site = Site::new(on).await;
    let old = dataset(&site.store, &team("team-a"), "kjv", b"the old one").await;
    let (manifest, shard) = prepared(b"the new one");
    let digest = Digest::of(&manifest);
    site.put("team-a", &manifest).await;
    site.put("team-a", &shard).await;
    assert_eq!(site.name("team-a", "kjv", &digest).await, (409, "NameTaken".to_owned()));
    assert_eq!(site.store.named(Asset::Dataset, &team("team-a"), "kjv").await.unwrap(), Some(old));
    assert_eq!(site.name("team-a", "kjv?replace=maybe", &digest).await.0, 400);
    assert_eq!(site.name("team-a", "kjv?replace=true", &digest).await.0, 200);
    assert_eq!(site.store.named(Asset::Dataset, &team("team-a"), "kjv").await.unwrap(), Some(digest));
    assert_eq!(site.name("team-a", "No.Label", &digest).await.0, 400);
    site.put("team-a", b"{}").await;
    assert_eq!(site.name("team-a", "bad", &Digest::of(b"{}")).await, (400, "BadManifest".to_owned()));
}

#[rstest]
#[tokio::test]
async fn what_others_have_does_not_show(#[values(On::Dir, On::Bucket)] on: On) {
    let site = Site::new(on).await;
    let (manifest, shard) = prepared(b"a secret of team b");
    let (manifest_digest, shard_digest) = (Digest::of(&manifest), Digest::of(&shard));
    for bytes in [&manifest, &shard] {
        site.put("team-b", bytes).await;
    }
    assert_eq!(site.name("team-b", "secret", &manifest_digest).await.0, 201);
    for digest in [&manifest_digest, &shard_digest] {
        assert_eq!((site.head("team-b", digest).await, site.head("team-a", digest).await), (200, 404));
    }
    // Not by naming it either, nor by a dataset of one's own that leads to it.
    assert_eq!(site.name("team-a", "mine", &manifest_digest).await, (409, "BlobMissing".to_owned()));
    assert_eq!(site.put("team-a", &manifest).await, 201, "as new as anything");
    assert_eq!(site.name("team-a", "mine", &manifest_digest).await, (409, "BlobMissing".to_owned()));
    // Nor by "putting" only its digest.
    let guess = Request::put(blob("team-a", &shard_digest))
        .header(header::CONTENT_LENGTH, shard.len())
        .body(Body::from(vec![0; shard.len()]));
    assert_eq!(site.send("team-a", guess.unwrap()).await.status(), 400);
    assert_eq!(site.head("team-a", &shard_digest).await, 404);
    assert_eq!(site.put("team-a", &shard).await, 201);
    assert_eq!(site.head("team-a", &shard_digest).await, 200);
    // What a dataset of the namespace leads to is its own, whoever put it.
    dataset(&site.store, &team("team-c"), "given", b"by the admin").await;
    let (_, given) = prepared(b"by the admin");
    assert_eq!(
        (site.head("team-c", &Digest::of(&given)).await, site.head("team-a", &Digest::of(&given)).await),
        (200, 404)
    );
}

#[rstest]
#[tokio::test]
async fn checkpoints_of_a_job_are_listed_and_read(#[values(On::Dir, On::Bucket)] on: On) {
    let site = Site::new(on).await;
    let (first, _) = recorded(&site.store, JOB, 20).await;
    let (second, files) = recorded(&site.store, JOB, 100).await;
    let (_, others) = recorded(&site.store, OTHER_JOB, 60).await;
    let base = "/v1/namespaces/team-a/jobs/kjv-gpt";
    let answer = bytes(site.get("team-a", &format!("{base}/checkpoints")).await).await;
    let list: Checkpoints = serde_json::from_slice(&answer).unwrap();
    let steps: Vec<_> = list.checkpoints.iter().map(|one| (one.step, one.manifest)).collect();
    assert_eq!(steps, [(20, first), (100, second)]);
    let read =
        async |digest: &Digest| site.get("team-a", &format!("{base}/blobs/sha256/{}", digest.to_hex())).await;
    assert_eq!(read(&files[2]).await.status(), 200);
    assert_eq!(read(&first).await.status(), 200);
    assert_eq!(refused(read(&others[1]).await).await, refused(read(&Digest::of(b"nowhere")).await).await);
    assert_eq!(read(&others[1]).await.status(), 404);
    let request = Request::get(format!("{base}/blobs/sha256/{}", files[2].to_hex()))
        .header(header::RANGE, "bytes=2-4")
        .body(Body::empty());
    let part = site.send("team-a", request.unwrap()).await;
    assert_eq!((part.status().as_u16(), bytes(part).await.len()), (206, 3));
}

#[tokio::test]
async fn others_are_not_let_in() {
    let site = Site::new(On::Dir).await;
    recorded(&site.store, JOB, 20).await;
    let job = "/v1/namespaces/team-a/jobs/kjv-gpt/checkpoints";
    assert_eq!(site.get("team-b", job).await.status(), 403);
    assert_eq!(site.get("team-b", "/v1/namespaces/team-a/datasets").await.status(), 403);
    let put = Request::put(blob("team-a", &Digest::of(b"x")))
        .header(header::CONTENT_LENGTH, 1)
        .body(Body::from("x"));
    assert_eq!(site.send("team-b", put.unwrap()).await.status(), 403);
    assert_eq!(site.store.size(&Digest::of(b"x")).await.unwrap(), None);
    // The other job's name in the wrong namespace.
    assert_eq!(site.get("team-a", "/v1/namespaces/team-a/jobs/other/checkpoints").await.status(), 404);
    assert_eq!(site.get("team-a", "/v1/namespaces/team-a/jobs/..%2fx/checkpoints").await.status(), 400);
    assert_eq!(site.get("team-a", "/v1/namespaces/Team/datasets").await.status(), 400);
}

#[tokio::test]
async fn a_blob_has_an_end() {
    let site = Site::new(On::Dir).await;
    let digest = Digest::of(b"x");
    let large = Request::put(blob("team-a", &digest))
        .header(header::CONTENT_LENGTH, MAX_BLOB_BYTES + 1)
        .body(Body::empty());
    assert_eq!(site.send("team-a", large.unwrap()).await.status(), 413);
    let none = Request::put(blob("team-a", &digest)).body(Body::from("x"));
    assert_eq!(site.send("team-a", none.unwrap()).await.status(), 411);
}

#[rstest]
#[tokio::test]
async fn a_namespace_made_anew_inherits_nothing(#[values(On::Dir, On::Bucket)] on: On) {
    let site = Site::new(on).await;
    let (manifest, shard) = prepared(b"in the beginning");
    let digest = Digest::of(&manifest);
    site.put("team-a", &manifest).await;
    site.put("team-a", &shard).await;
    assert_eq!(site.name("team-a", "kjv", &digest).await.0, 201);
    *site.fake.again.lock().unwrap() = Some("22222222-0000-4000-8000-000000000000".to_owned());
    let answer = bytes(site.get("team-a", "/v1/namespaces/team-a/datasets").await).await;
    assert_eq!(serde_json::from_slice::<Datasets>(&answer).unwrap().datasets, []);
    for digest in [digest, Digest::of(&shard)] {
        assert_eq!(site.head("team-a", &digest).await, 404);
    }
    assert_eq!(site.name("team-a", "kjv", &digest).await, (409, "BlobMissing".to_owned()));
    assert_eq!(site.put("team-a", &shard).await, 201, "as new as anything");
    let nowhere = site.get("nowhere", "/v1/namespaces/nowhere/datasets").await;
    assert_eq!(refused(nowhere).await, (404, "NamespaceNotFound".to_owned()));
}

#[rstest]
#[tokio::test]
async fn a_namespace_has_its_quota_and_no_more(#[values(On::Dir, On::Bucket)] on: On) {
    let site = Site::new(on).await;
    let (manifest, shard) = prepared(&[b'a'; 1000]);
    for bytes in [&manifest, &shard] {
        assert_eq!(site.put("team-a", bytes).await, 201);
    }
    assert_eq!(site.name("team-a", "kjv", &Digest::of(&manifest)).await.0, 201);
    let used = u64::try_from(manifest.len() + shard.len()).unwrap();
    let rest = vec![b'b'; usize::try_from(QUOTA - used).unwrap()];
    assert_eq!(site.try_put("team-a", &[&rest[..], b"b"].concat()).await, (507, "OverQuota".to_owned()));
    assert_eq!(site.put("team-a", &rest).await, 201, "exactly as much as there is room");
    assert_eq!(site.try_put("team-a", b"!").await, (507, "OverQuota".to_owned()));
    assert_eq!(site.head("team-a", &Digest::of(b"!")).await, 404);
    assert_eq!(site.put("team-a", &shard).await, 200, "what a dataset leads to counts once");
    assert_eq!(site.put("team-b", &shard).await, 201, "others have a quota of their own");
}

#[tokio::test]
async fn a_url_is_given_for_a_blob_of_the_job() {
    let site = Site::new(On::Dir).await;
    let (manifest, _) = recorded(&site.store, JOB, 20).await;
    let (_, others) = recorded(&site.store, OTHER_JOB, 60).await;
    let ask = async |user: &str, digest: &Digest| {
        let body = json!({"digest": digest}).to_string();
        let request =
            Request::post("/v1/namespaces/team-a/jobs/kjv-gpt/urls").body(Body::from(body)).unwrap();
        site.send(user, request).await
    };
    let answer: crate::wire::urls::UrlAnswer =
        serde_json::from_slice(&bytes(ask("team-a", &manifest).await).await).unwrap();
    assert!(!answer.direct && answer.url.starts_with("https://127.0.0.1/v1/objects/"));
    assert_eq!(refused(ask("team-a", &others[1]).await).await, (404, "BlobNotFound".to_owned()));
    assert_eq!(refused(ask("team-b", &manifest).await).await.0, 403);
}
