//! Blobs that go into a bucket in parts, faults on their way, and a real server if there is one.
use std::sync::atomic::Ordering;

use super::super::testing::{Faulty, set};
use super::*;

pub fn pieces(bytes: &[u8]) -> impl Stream<Item = io::Result<Bytes>> + Send + use<> {
    let all: Vec<_> = bytes.chunks(1 << 20).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    futures::stream::iter(all)
}

/// Larger than three parts.
pub fn large() -> (Vec<u8>, Digest) {
    let bytes: Vec<u8> = (0..25_u32 << 20).map(|i| (i >> 8) as u8).collect();
    let digest = Digest::of(&bytes);
    (bytes, digest)
}

#[tokio::test]
async fn a_large_blob_goes_in_parts_and_comes_back() {
    let (_dir, store) = store(On::Bucket).await;
    let (bytes, digest) = large();
    assert_eq!(store.put(&digest, pieces(&bytes), 1 << 30).await.unwrap(), Stored::New);
    assert!(store.read(&digest, 1 << 30).await.unwrap().unwrap() == bytes);
}

#[tokio::test]
async fn a_broken_multipart_upload_leaves_nothing_visible() {
    let (bucket, faults, inside) = Faulty::new();
    let store = Store::on_objects(Arc::new(bucket), "");
    let (bytes, digest) = large();
    let invisible = async |what: &str| {
        assert_eq!(store.size(&digest).await.unwrap(), None, "{what}");
        assert!(inside.list(None).next().await.is_none(), "{what}");
    };

    set(&faults.parts, Some("connection reset"));
    let error = store.put(&digest, pieces(&bytes), 1 << 30).await.unwrap_err();
    assert_eq!(error.status().as_u16(), 500, "{error}");
    invisible("an error in the middle").await;
    set(&faults.parts, None);

    set(&faults.complete, Some("507 XMinioStorageFull"));
    let error = store.put(&digest, pieces(&bytes), 1 << 30).await.unwrap_err();
    assert_eq!(error.status().as_u16(), 507, "{error}");
    invisible("an error at the end").await;
    set(&faults.complete, None);

    let mut flipped = bytes.clone();
    flipped[20 << 20] ^= 1;
    assert!(matches!(store.put(&digest, pieces(&flipped), 1 << 30).await, Err(PutError::Digest(_))));
    invisible("one bit is another").await;
    let cut = pieces(&bytes[..20 << 20]).chain(futures::stream::iter([Err(io::Error::other("cut off"))]));
    assert!(matches!(store.put(&digest, cut, 1 << 30).await, Err(PutError::Source(_))));
    invisible("the sender went away").await;
    assert!(matches!(store.put(&digest, pieces(&bytes), 20 << 20).await, Err(PutError::TooLarge(_))));
    invisible("too long").await;

    // All five were given up, so that the bucket does not keep their parts.
    for _ in 0..100 {
        if faults.aborted.load(Ordering::SeqCst) == 5 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(faults.aborted.load(Ordering::SeqCst), 5);
    store.put(&digest, pieces(&bytes), 1 << 30).await.unwrap();
}

/// The whole of it once against a real server: MUSTER_TEST_S3=s3://BUCKET/PREFIX, endpoint and credentials as object_store
/// reads them.
#[tokio::test]
async fn a_real_bucket() {
    let Ok(url) = std::env::var("MUSTER_TEST_S3") else {
        println!("SKIP a_real_bucket: MUSTER_TEST_S3 is not set");
        return;
    };
    let unique = format!(
        "{}/{}-{}",
        url.trim_end_matches('/'),
        std::process::id(),
        SystemTime::now().elapsed().map_or(1, |t| t.as_nanos())
    );
    let location: Location = unique.parse().unwrap();
    let store = Store::open(location).await.unwrap();
    let (bytes, digest) = large();
    store.put(&digest, pieces(&bytes), 1 << 30).await.unwrap();
    assert!(store.read(&digest, 1 << 30).await.unwrap().unwrap() == bytes);
    assert!(store.touch(&digest).await.unwrap());
    let raised = futures::future::join_all((1..=4).map(|epoch| store.raise_epoch(JOB, 0, epoch))).await;
    assert!(raised.iter().all(Result::is_ok), "{raised:?}");
    assert_eq!(store.epoch(JOB, 0).await.unwrap(), 4);
    let (manifest, _) = recorded(&store, JOB, 20).await;
    assert_eq!(store.record_checkpoint(JOB, 20, &digest).await.unwrap(), Recorded::Taken(manifest));
    dataset(&store, &team("team-a"), "kjv", &[b'a'; 5000]).await;
    assert!(store.whole_dataset(&team("team-a"), "kjv").await.unwrap().is_some());
    store.backend.remove_tree("catalogue").await.unwrap();
    let done = store
        .collect(
            &BTreeMap::new(),
            &store.jobs().await.unwrap(),
            SystemTime::now() + Duration::from_secs(60),
            NO_GRACE,
        )
        .await
        .unwrap();
    assert_eq!(done.checkpoints, 1);
    assert_eq!(store.size(&digest).await.unwrap(), None);
}
