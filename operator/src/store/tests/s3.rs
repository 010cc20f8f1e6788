//! URLs, staging and faults against a real S3 server (`make test-s3`).
use axum::http::StatusCode;

use super::super::testing::versity::Server;
use super::super::{Published, Staged};
use super::bucket::{large, pieces};
use super::*;

const VALID: Duration = Duration::from_secs(600);

async fn put(staged: &Staged, bytes: &[u8]) -> StatusCode {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    client.put(&staged.url).body(bytes.to_vec()).send().await.unwrap().status()
}

async fn get(url: &str) -> (StatusCode, Vec<u8>) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer = client.get(url).send().await.unwrap();
    (answer.status(), answer.bytes().await.unwrap().to_vec())
}

#[tokio::test]
async fn a_signed_url_reads_one_object_for_a_while() {
    let Some(server) = Server::start("a_signed_url_reads_one_object_for_a_while").await else { return };
    let store = server.store();
    let (bytes, digest) = large();
    store.put(&digest, pieces(&bytes), 1 << 30).await.unwrap();
    let other = store.put_bytes(b"another".to_vec()).await.unwrap();
    let url = store.url_to_get(&digest, VALID).await.unwrap().unwrap();
    let (status, got) = get(&url).await;
    assert!(status == 200 && got == bytes);
    // Another object, another method, another signature, later: nothing.
    let tampered = url
        .replace(&digest.to_hex(), &other.to_hex())
        .replace(&format!("/{}/", &digest.to_hex()[..2]), &format!("/{}/", &other.to_hex()[..2]));
    assert_eq!(get(&tampered).await.0, 403);
    assert_eq!(put(&Staged { name: String::new(), url: url.clone() }, b"x").await, 403);
    let mut forged = url.clone();
    let last = forged.pop().unwrap();
    forged.push(if last == '0' { '1' } else { '0' });
    assert_eq!(get(&forged).await.0, 403);
    let short = store.url_to_get(&digest, Duration::from_secs(1)).await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!(get(&short).await.0, 403);
    assert!(store.read(&digest, 1 << 30).await.unwrap().unwrap() == bytes);
}

#[tokio::test]
async fn what_is_staged_becomes_a_blob_by_its_hash() {
    let Some(server) = Server::start("what_is_staged_becomes_a_blob_by_its_hash").await else { return };
    let store = server.store();
    let (bytes, digest) = large();
    let staged = store.url_to_stage(UNIT.name, VALID).await.unwrap().unwrap();
    let publish = async |digest: &Digest| store.publish(UNIT.name, &staged.name, digest, 1 << 30).await;
    assert_eq!(publish(&digest).await.unwrap(), Published::Nothing);
    // Truncated: refused, and gone.
    assert_eq!(put(&staged, &bytes[..20 << 20]).await, 200);
    assert_eq!(store.staged_bytes(UNIT.name).await.unwrap(), 20 << 20);
    assert!(matches!(publish(&digest).await, Err(PutError::Digest(_))));
    assert_eq!((store.size(&digest).await.unwrap(), store.staged_bytes(UNIT.name).await.unwrap()), (None, 0));
    // The same URL again: it binds nothing.
    assert_eq!(put(&staged, &bytes).await, 200);
    assert!(matches!(
        store.publish(UNIT.name, &staged.name, &digest, 1 << 20).await,
        Err(PutError::TooLarge(_))
    ));
    assert_eq!(put(&staged, &bytes).await, 200);
    let size = bytes.len() as u64;
    assert_eq!(publish(&digest).await.unwrap(), Published::Blob(Stored::New, size));
    // Replayed with other bytes: the blob is what it was, and what was staged goes with its time.
    assert_eq!(put(&staged, b"something else").await, 200);
    assert!(matches!(publish(&digest).await, Err(PutError::Digest(_))));
    assert_eq!(put(&staged, b"left over").await, 200);
    assert!(store.read(&digest, 1 << 30).await.unwrap().unwrap() == bytes);
    store.backend.tidy(SystemTime::now()).await.unwrap();
    assert_eq!(store.staged_bytes(UNIT.name).await.unwrap(), 9, "young");
    store.backend.tidy(SystemTime::now() + Duration::from_secs(2 * 3600)).await.unwrap();
    assert_eq!(store.staged_bytes(UNIT.name).await.unwrap(), 0);
    // Another unit does not find it.
    let staged = store.url_to_stage(UNIT.name, VALID).await.unwrap().unwrap();
    assert_eq!(put(&staged, b"mine").await, 200);
    let foreign = store.publish("4f2a9c1b-0-2", &staged.name, &Digest::of(b"mine"), 100).await;
    assert_eq!(foreign.unwrap(), Published::Nothing);
}

/// A source that does something in the middle.
fn interrupted(
    bytes: &[u8],
    at: usize,
    act: impl FnOnce() + Send + 'static,
) -> impl Stream<Item = io::Result<Bytes>> + Send {
    let mut act = Some(act);
    pieces(bytes).enumerate().map(move |(number, piece)| {
        if number == at
            && let Some(act) = act.take()
        {
            act();
        }
        piece
    })
}

#[tokio::test]
async fn a_server_that_stops_in_an_upload_has_nothing_of_it() {
    let Some(server) = Server::start("a_server_that_stops_in_an_upload_has_nothing_of_it").await else {
        return;
    };
    let store = server.store();
    let server = Arc::new(std::sync::Mutex::new(server));
    let (bytes, digest) = large();
    let killer = server.clone();
    let source = interrupted(&bytes, 18, move || killer.lock().unwrap().stop());
    let failed = store.put(&digest, source, 1 << 30).await;
    assert!(matches!(failed, Err(PutError::Io(_))), "{failed:?}");
    let Ok(server) = Arc::try_unwrap(server) else { panic!("somebody holds the server") };
    let mut server = server.into_inner().unwrap();
    assert!(store.size(&digest).await.is_err(), "a store that is down does not say that it has nothing");
    server.restart().await;
    assert_eq!(store.size(&digest).await.unwrap(), None);
    assert_eq!(store.put(&digest, pieces(&bytes), 1 << 30).await.unwrap(), Stored::New);
    assert!(store.read(&digest, 1 << 30).await.unwrap().unwrap() == bytes);
    // What was whole before a crash is whole after it.
    server.stop();
    server.restart().await;
    assert!(store.read(&digest, 1 << 30).await.unwrap().unwrap() == bytes);
}

#[tokio::test]
async fn a_server_that_pauses_is_waited_for() {
    let Some(server) = Server::start("a_server_that_pauses_is_waited_for").await else { return };
    let (store, server) = (server.store(), Arc::new(server));
    let (bytes, digest) = large();
    let paused = server.clone();
    let source = interrupted(&bytes, 10, move || {
        paused.pause();
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_secs(3));
            paused.go_on();
        });
    });
    assert_eq!(store.put(&digest, source, 1 << 30).await.unwrap(), Stored::New);
    assert!(store.read(&digest, 1 << 30).await.unwrap().unwrap() == bytes);
    // A truncated source is as invisible here as anywhere.
    let cut = pieces(&bytes[..20 << 20]).chain(futures::stream::iter([Err(io::Error::other("cut off"))]));
    let other = Digest::of(b"never");
    assert!(matches!(store.put(&other, cut, 1 << 30).await, Err(PutError::Source(_))));
    assert_eq!(store.size(&other).await.unwrap(), None);
}
