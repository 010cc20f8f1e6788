//! What goes past the routes of blobs: kept logs, URLs, uploads that the gateway did not see.
use super::*;

async fn keep(site: &Site, provider: &str, min_epoch: i64, path: &str, bytes: Vec<u8>) -> (u16, String) {
    let request = Request::put(format!("/v1/units/{path}")).body(Body::from(bytes)).unwrap();
    refused(site.send_as(provider, min_epoch, request).await).await
}

#[rstest]
#[tokio::test]
async fn the_log_of_a_failed_attempt_is_kept(#[values(On::Dir, On::Bucket)] on: On) {
    let site = Site::new(on).await;
    let is = |status: u16, reason: &str| (status, reason.to_owned());
    let path = format!("{UNIT}/attempts/3/logs/1");
    assert_eq!(keep(&site, "east", 0, &path, b"last words".to_vec()).await, is(201, ""));
    assert_eq!(keep(&site, "east", 0, &path, vec![b'x'; 64 << 10]).await, is(201, ""), "once more");
    assert_eq!(keep(&site, "east", 0, &path, vec![b'x'; (64 << 10) + 1]).await, is(413, "TooLarge"));
    assert_eq!(keep(&site, "west", 0, &path, b"x".to_vec()).await, is(404, "UnitNotFound"), "another's unit");
    for bad in [
        "attempts/0/logs/0",
        "attempts/1/logs/2",
        "attempts/01/logs/0",
        "attempts/9999999/logs/0",
        "attempts/1/logs/x",
    ] {
        assert_eq!(
            keep(&site, "east", 0, &format!("{UNIT}/{bad}"), b"x".to_vec()).await,
            is(400, "BadRequest"),
            "{bad}"
        );
    }
    // A unit that was superseded has just ended, and may still say why; one that a restore has made void may not.
    site.place("east", JOB, 2, None);
    site.store.raise_epoch(JOB, 0, 2).await.unwrap();
    assert_eq!(keep(&site, "east", 0, &path, b"why".to_vec()).await, is(201, ""));
    assert_eq!(keep(&site, "east", 2, &path, b"void".to_vec()).await, is(409, "OldEpoch"));
    let all = site.store.kept_logs(JOB).await.unwrap();
    assert_eq!(all.len(), 1);
    assert_eq!(site.store.kept_log(JOB, &all[0]).await.unwrap().unwrap(), b"why");
}

async fn url(
    site: &Site,
    unit: &str,
    body: serde_json::Value,
) -> Result<crate::wire::urls::UrlAnswer, (u16, String)> {
    let request = Request::post(format!("/v1/units/{unit}/urls")).body(Body::from(body.to_string())).unwrap();
    let answer = site.send(request).await;
    if answer.status() != 200 {
        return Err(refused(answer).await);
    }
    Ok(serde_json::from_slice(&bytes(answer).await).unwrap())
}

#[tokio::test]
async fn a_url_needs_the_rights_of_the_blob_itself() {
    let site = Site::new(On::Dir).await;
    let is = |status: u16, reason: &str| Err((status, reason.to_owned()));
    let get = url(&site, UNIT, json!({"digest": site.spec, "method": "GET"})).await.unwrap();
    assert!(!get.direct && get.url.contains("/v1/objects/") && get.expires_in_seconds == 600);
    let (_, others) = recorded(&site.store, OTHER_JOB, 60).await;
    let foreign = json!({"digest": others[1], "method": "GET"});
    assert_eq!(url(&site, UNIT, foreign).await, is(404, "BlobNotFound"));
    assert_eq!(
        url(&site, "4f2a9c1b-0-9", json!({"digest": site.spec, "method": "GET"})).await,
        is(404, "UnitNotFound")
    );
    let put = |size: u64| json!({"digest": Digest::of(b"x"), "method": "PUT", "size": size});
    assert!(url(&site, UNIT, put(1)).await.is_ok_and(|answer| !answer.direct && answer.staging.is_none()));
    assert_eq!(url(&site, UNIT, put(10_000_000)).await, is(413, "TooLarge"));
    for bad in [
        json!({"digest": site.spec, "method": "PUT"}),
        json!({"digest": site.spec, "method": "DELETE"}),
        json!({"digest": site.spec, "method": "GET", "expires": 1}),
    ] {
        assert_eq!(url(&site, UNIT, bad).await, is(400, "BadRequest"));
    }
    site.store.raise_epoch(JOB, 0, 2).await.unwrap();
    assert_eq!(url(&site, UNIT, put(1)).await, is(409, "OldEpoch"));
}

/// What came past the gateway is nothing until the gateway has seen all of it.
#[tokio::test]
async fn a_staged_upload_is_published_by_its_hash_alone() {
    use object_store::ObjectStoreExt;
    let inner = Arc::new(object_store::memory::InMemory::new());
    let store = Store::on_objects(inner.clone(), "");
    let site = Site::with(tempfile::tempdir().unwrap(), store).await;
    let at = |unit: &str, name: &str| object_store::path::Path::from(format!("staging/{unit}/{name}"));
    let name = "0123456789abcdef0123456789abcdef";
    let stage = async |bytes: &'static [u8]| {
        inner.put(&at(UNIT, name), bytes.into()).await.unwrap();
    };
    let publish = async |digest: &Digest, staging: &str| {
        let body = json!({"staging": staging}).to_string();
        let request =
            Request::post(format!("{}/publish", blob(UNIT, digest))).body(Body::from(body)).unwrap();
        refused(site.send(request).await).await
    };
    let is = |status: u16, reason: &str| (status, reason.to_owned());
    let digest = Digest::of(b"the true bytes");
    assert_eq!(publish(&digest, name).await, is(404, "BlobNotFound"), "nothing was put");
    assert_eq!(publish(&digest, "../../blobs/x").await, is(400, "BadRequest"));
    // Truncated, and gone with that.
    stage(b"the true byt").await;
    assert_eq!(publish(&digest, name).await, is(400, "DigestMismatch"));
    assert_eq!(publish(&digest, name).await, is(404, "BlobNotFound"));
    assert_eq!(site.store.size(&digest).await.unwrap(), None);
    stage(b"the true bytes").await;
    assert_eq!(publish(&digest, name).await, is(201, ""));
    assert_eq!(site.get(UNIT, &digest).await, 200, "the unit has put it");
    assert!(inner.head(&at(UNIT, name)).await.is_err(), "the staging object is gone");
    // The answer was lost; and the URL is used again, for something else.
    assert_eq!(publish(&digest, name).await, is(200, ""));
    stage(b"other bytes").await;
    assert_eq!(publish(&digest, name).await, is(200, ""));
    assert_eq!(site.store.read(&digest, 100).await.unwrap().unwrap(), b"the true bytes");
    assert!(inner.head(&at(UNIT, name)).await.is_err());
    // Larger than any file of a checkpoint, whatever was asked for.
    stage(Box::leak(vec![0; 1 << 20].into_boxed_slice())).await;
    assert_eq!(publish(&Digest::of(b"large"), name).await.0, 413);
    site.store.raise_epoch(JOB, 0, 2).await.unwrap();
    stage(b"late").await;
    assert_eq!(publish(&Digest::of(b"late"), name).await, is(409, "OldEpoch"));
}

/// The whole way past the gateway over a real S3 server.
#[tokio::test]
async fn a_bucket_that_signs_is_talked_to_directly() {
    let server =
        crate::store::testing::versity::Server::start("a_bucket_that_signs_is_talked_to_directly").await;
    let Some(server) = server else { return };
    let site = Site::with(tempfile::tempdir().unwrap(), server.store()).await;
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer = url(&site, UNIT, json!({"digest": site.spec, "method": "GET"})).await.unwrap();
    assert!(answer.direct);
    let got = http.get(&answer.url).send().await.unwrap().bytes().await.unwrap();
    assert_eq!(Digest::of(&got), site.spec);
    let blob_bytes = b"a checkpoint's file";
    let digest = Digest::of(blob_bytes);
    let ask = json!({"digest": digest, "method": "PUT", "size": blob_bytes.len()});
    let answer = url(&site, UNIT, ask).await.unwrap();
    let staging = answer.staging.clone().unwrap();
    assert!(
        answer.direct && http.put(&answer.url).body(&blob_bytes[..]).send().await.unwrap().status() == 200
    );
    assert_eq!(site.get(UNIT, &digest).await, 404, "not a blob yet");
    let body = json!({"staging": staging}).to_string();
    let request = Request::post(format!("{}/publish", blob(UNIT, &digest))).body(Body::from(body)).unwrap();
    assert_eq!(site.send(request).await.status(), 201);
    assert_eq!(site.get(UNIT, &digest).await, 200);
}
