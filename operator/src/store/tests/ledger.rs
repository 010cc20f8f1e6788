//! What is remembered of the log.
use muster_proof::dsse::Envelope;
use muster_proof::key::SigningKey;

use super::*;
use crate::store::keys::{Entry, MAX_RECORD, ProviderKeys};

fn entry(text: &str, index: u64) -> Entry {
    Entry { record: Digest::of(text.as_bytes()), index }
}

#[rstest]
#[tokio::test]
async fn a_key_waits_until_it_is_logged_and_then_until_it_is_revoked(#[values(On::Dir, On::Bucket)] on: On) {
    let (_dir, store) = store(on).await;
    let keys = async || store.provider_keys("east").await.unwrap();
    assert_eq!(keys().await, ProviderKeys::default());
    store.leave_key("east", b"first".to_vec()).await.unwrap();
    store.leave_key("east", b"second".to_vec()).await.unwrap();
    store.collect(&job(1), &[], later(), NO_GRACE).await.unwrap();
    let pending = keys().await.pending.unwrap();
    assert_eq!(store.read(&pending, MAX_RECORD).await.unwrap().unwrap(), b"second", "the last one stays");
    let key = Digest::of(b"key");
    store.key_logged("east", &key, &entry("record", 7)).await.unwrap();
    // Another came meanwhile.
    store.settle_key("east", &Digest::of(b"first")).await.unwrap();
    assert_eq!(keys().await.pending, Some(pending));
    store.settle_key("east", &pending).await.unwrap();
    store.key_revoked("east", &key, &entry("revocation", 9)).await.unwrap();
    let logged = [(key, entry("record", 7))].into();
    assert_eq!(keys().await, ProviderKeys { pending: None, logged, revoked: [key].into() });
    assert_eq!(store.providers_with_keys().await.unwrap(), ["east"]);
    for bad in ["", "..", "a/b", "East"] {
        assert!(
            store.leave_key(bad, vec![]).await.is_err() && store.provider_keys(bad).await.is_err(),
            "{bad}"
        );
    }
}

#[rstest]
#[tokio::test]
async fn commits_grants_and_the_end_are_remembered_as_long_as_the_job(#[values(On::Dir, On::Bucket)] on: On) {
    let (_dir, store) = store(on).await;
    let noted = async |step| store.noted_commit(JOB, step).await.unwrap();
    assert_eq!(noted(20).await, None);
    let begun = Noted::Begun(Digest::of(b"commit"));
    assert!(store.begin_commit(JOB, 20, Digest::of(b"commit"), None).await.unwrap());
    assert!(
        !store.begin_commit(JOB, 20, Digest::of(b"other"), None).await.unwrap(),
        "another was there first"
    );
    assert!(store.begin_commit(JOB, 20, Digest::of(b"commit"), Some(&begun)).await.unwrap());
    store.note_commit(JOB, 40, &begun).await.unwrap();
    assert_eq!(noted(20).await, Some(begun));
    let logged = Noted::Logged(entry("commit", 12));
    store.note_commit(JOB, 20, &logged).await.unwrap();
    assert_eq!(noted(20).await, Some(logged));
    assert_eq!(store.begun_commits(JOB).await.unwrap(), [(40, Digest::of(b"commit"))].into());
    let grant = async || store.noted_grant(JOB, 0).await.unwrap();
    assert_eq!(grant().await, None);
    for granted in [Granted::Live(3), Granted::Ended(3), Granted::Live(4)] {
        store.note_grant(JOB, 0, granted).await.unwrap();
        assert_eq!(grant().await, Some(granted));
    }
    assert!(!store.noted_end(JOB).await.unwrap());
    store.note_end(JOB).await.unwrap();
    assert!(store.noted_end(JOB).await.unwrap());
    store.forget_job(JOB).await.unwrap();
    assert!(noted(20).await.is_none() && grant().await.is_none() && !store.noted_end(JOB).await.unwrap());
}

#[rstest]
#[tokio::test]
async fn what_is_signed_of_the_files_stays_with_the_checkpoint(#[values(On::Dir, On::Bucket)] on: On) {
    let (_dir, store) = store(on).await;
    let key = SigningKey::generate([1; 32]).unwrap();
    let signed = |text: &str| Envelope::sign("x", text.as_bytes(), &key).unwrap();
    let model = async |step| store.model(JOB, step).await.unwrap();
    assert_eq!(model(20).await, None);
    for text in ["first", "second"] {
        store.leave_model(JOB, 20, &signed(text)).await.unwrap();
        assert_eq!(model(20).await, Some(signed(text)), "the last one stays");
    }
    assert!(store.leave_model(JOB, 20, &signed(&"x".repeat(16 << 10))).await.is_err());
    assert!(store.leave_model("..", 20, &signed("x")).await.is_err() && store.model("..", 20).await.is_err());
    // It goes with its checkpoint, with a rollback, and with the job.
    store.forget_checkpoint(JOB, 20).await.unwrap();
    assert_eq!(model(20).await, None);
    for step in [20, 40] {
        store.note_commit(JOB, step, &Noted::Begun(Digest::of(b"commit"))).await.unwrap();
        store.leave_model(JOB, step, &signed("x")).await.unwrap();
    }
    store.roll_back(JOB, 0, 2, 20).await.unwrap();
    assert_eq!((model(20).await, model(40).await), (Some(signed("x")), None));
    store.forget_job(JOB).await.unwrap();
    assert_eq!(model(20).await, None);
}
