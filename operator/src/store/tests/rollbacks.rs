//! What verdicts undo.
use super::*;
use crate::store::keys::Entry;

async fn site(on: On) -> (TempDir, Store, Vec<Digest>) {
    let (dir, store) = store(on).await;
    let mut manifests = Vec::new();
    for step in [20, 40, 60] {
        let (manifest, _) = recorded(&store, JOB, step).await;
        let record = Digest::of(&step.to_string().into_bytes());
        store.note_commit(JOB, step, &Noted::Logged(Entry { record, index: step })).await.unwrap();
        manifests.push(manifest);
    }
    store.note_commit(JOB, 80, &Noted::Begun(Digest::of(b"80"))).await.unwrap();
    store.note_end(JOB).await.unwrap();
    (dir, store, manifests)
}

#[rstest]
#[tokio::test]
async fn a_rollback_frees_the_steps_and_is_done_once(#[values(On::Dir, On::Bucket)] on: On) {
    let (_dir, store, manifests) = site(on).await;
    assert_eq!(store.rollbacks(JOB).await.unwrap(), Rollbacks::default());
    store.raise_epoch(JOB, 0, 3).await.unwrap();
    store.roll_back(JOB, 0, 4, 20).await.unwrap();
    assert_eq!(store.epoch(JOB, 0).await.unwrap(), 4, "the fence is up");
    let names = async || store.checkpoints(JOB).await.unwrap().into_keys().collect::<Vec<_>>();
    assert_eq!(names().await, [20]);
    for (step, stays) in [(20, true), (40, false), (60, false), (80, false)] {
        assert_eq!(store.noted_commit(JOB, step).await.unwrap().is_some(), stays, "{step}");
    }
    assert!(!store.noted_end(JOB).await.unwrap(), "the job trains again");
    let undone = store.rollbacks(JOB).await.unwrap();
    assert!(undone.is_done(4) && !undone.is_done(3) && undone.lowest_epoch() == 4);
    // Trained again, and the hub looks once more.
    store.record_checkpoint(JOB, 40, &manifests[2]).await.unwrap();
    store.roll_back(JOB, 0, 4, 20).await.unwrap();
    assert_eq!(names().await, [20, 40]);
    // Further back, later.
    store.roll_back(JOB, 0, 7, 0).await.unwrap();
    assert!(names().await.is_empty());
    let undone = store.rollbacks(JOB).await.unwrap();
    let void = |epoch, step| undone.void(epoch, step);
    assert!(void(3, 40) && void(3, 20) && void(6, 20) && !void(7, 20) && !void(9, 60));
    assert!(undone.reach(20) && !undone.reach(0) && undone.lowest_epoch() == 7);
    store.forget_job(JOB).await.unwrap();
    assert_eq!(store.rollbacks(JOB).await.unwrap(), Rollbacks::default());
}

#[rstest]
#[tokio::test]
async fn a_crash_in_between_is_completed(#[values(On::Dir, On::Bucket)] on: On) {
    let (_dir, store, _) = site(on).await;
    // It had noted what is void, and forgotten one name.
    store.backend.write(&format!("jobs/{JOB}/rollbacks/4"), "begun 20\n").await.unwrap();
    store.forget_checkpoint(JOB, 60).await.unwrap();
    let undone = store.rollbacks(JOB).await.unwrap();
    assert!(undone.void(1, 60) && !undone.is_done(4));
    store.roll_back(JOB, 0, 4, 20).await.unwrap();
    assert!(store.rollbacks(JOB).await.unwrap().is_done(4));
    assert_eq!(store.checkpoints(JOB).await.unwrap().len(), 1);
    store.backend.write(&format!("jobs/{JOB}/rollbacks/4"), "what\n").await.unwrap();
    assert_eq!(store.rollbacks(JOB).await.unwrap_err().kind(), ErrorKind::InvalidData);
}

#[rstest]
#[tokio::test]
async fn audits_of_what_was_undone_find_their_start(#[values(On::Dir, On::Bucket)] on: On) {
    let (_dir, store, manifests) = site(on).await;
    store.roll_back(JOB, 0, 4, 20).await.unwrap();
    let whole =
        async |at: usize| matches!(store.whole_checkpoint(&manifests[at]).await.unwrap(), Whole::Yes(_));
    let collect = async |pinned: &[u64], from: Option<u64>| {
        let mut jobs = job(1);
        let roots = jobs.get_mut(JOB).unwrap();
        roots.pinned_steps.extend(pinned);
        roots.pinned_from = from;
        store.collect(&jobs, &[], later(), NO_GRACE).await.unwrap();
    };
    collect(&[], Some(0)).await;
    assert!(whole(1).await && whole(2).await, "nobody has looked yet");
    collect(&[40], Some(20)).await;
    assert!(whole(0).await && whole(1).await && !whole(2).await, "an audit starts from step 40");
    assert_eq!(store.undone_checkpoints(JOB).await.unwrap(), [(40, manifests[1])]);
    collect(&[], Some(20)).await;
    assert!(whole(0).await && !whole(1).await);
    assert!(store.undone_checkpoints(JOB).await.unwrap().is_empty());
}

#[rstest]
#[tokio::test]
async fn what_audits_may_need_outlives_the_policy(#[values(On::Dir, On::Bucket)] on: On) {
    let (_dir, store, _) = site(on).await;
    let collect = async |pinned: &[u64], from: Option<u64>| {
        let mut jobs = job(1);
        let roots = jobs.get_mut(JOB).unwrap();
        roots.pinned_steps.extend(pinned);
        roots.pinned_from = from;
        store.collect(&jobs, &[], later(), NO_GRACE).await.unwrap();
        store.checkpoints(JOB).await.unwrap().into_keys().collect::<Vec<_>>()
    };
    assert_eq!(collect(&[], Some(0)).await, [20, 40, 60]);
    assert_eq!(collect(&[20], Some(60)).await, [20, 60]);
    assert_eq!(collect(&[], Some(60)).await, [60]);
}
