//! Steps that a verdict has undone are committed again, with other bits.
use super::*;
use crate::store::{Entry, Noted};

const AGAIN: &str = "4f2a9c1b-0-3";

impl Site {
    /// A unit of epoch 1 has committed step 20 and, falsely, 40 and 60; the hub has rolled it back and placed another one.
    async fn rolled_back(on: On) -> (Self, Digest) {
        let site = Self::new(on).await;
        for (step, flavour) in [(20, ""), (40, "false: "), (60, "false: ")] {
            let manifest = site.put_checkpoint(UNIT, step, flavour).await;
            assert_eq!(site.commit(UNIT, step, &manifest).await.0, 200);
        }
        let void = site.store.checkpoint(JOB, 40).await.unwrap().unwrap();
        site.store.roll_back(JOB, 0, 2, 20).await.unwrap();
        let start = site.store.checkpoint(JOB, 20).await.unwrap().unwrap();
        site.place("east", JOB, 3, Some(CheckpointRef { step: 20, manifest: start }));
        (site, void)
    }

    async fn noted(&self, step: u64) -> Option<Noted> {
        self.store.noted_commit(JOB, step).await.unwrap()
    }
}

#[rstest]
#[tokio::test]
async fn what_was_undone_is_committed_again(#[values(On::Dir, On::Bucket)] on: On) {
    let (site, void) = Site::rolled_back(on).await;
    assert_eq!(site.store.checkpoints(JOB).await.unwrap().len(), 1);
    let good = site.put_checkpoint(AGAIN, 40, "").await;
    assert_ne!(good, void);
    for _ in 0..2 {
        assert_eq!(site.commit(AGAIN, 40, &good).await, (200, String::new()));
    }
    assert_eq!(site.store.checkpoint(JOB, 40).await.unwrap(), Some(good));
    // It is as any other now.
    let twice = site.put_checkpoint(AGAIN, 40, "other bits: ").await;
    assert_eq!(site.commit(AGAIN, 40, &twice).await, (409, "StepTaken".to_owned()));
    assert_eq!(site.commit(UNIT, 60, &void).await.0, 409, "the old unit is fenced");
}

/// A gateway was about to commit for the old unit, and wrote its names after the hub had forgotten them.
#[rstest]
#[tokio::test]
async fn names_that_come_late_are_replaced(
    #[values(On::Dir, On::Bucket)] on: On,
    #[values(false, true)] noted_too: bool,
) {
    let (site, void) = Site::rolled_back(on).await;
    let found = work::find(site.work.as_ref(), "east", UNIT).await.unwrap();
    let root = site.store.checkpoint_manifest(&void).await.unwrap().unwrap().state_root();
    let record = signed(&found.payload, 40, &void, root).record_id();
    let (index, _) = site.log.entry(&record).unwrap().unwrap();
    if noted_too {
        site.store.note_commit(JOB, 40, &Noted::Logged(Entry { record, index })).await.unwrap();
    }
    site.store.record_checkpoint(JOB, 40, &void).await.unwrap();
    let good = site.put_checkpoint(AGAIN, 40, "").await;
    assert_eq!(site.commit(AGAIN, 40, &good).await, (200, String::new()));
    assert_eq!(site.store.checkpoint(JOB, 40).await.unwrap(), Some(good));
    let Some(Noted::Logged(entry)) = site.noted(40).await else { panic!("it is logged") };
    assert_ne!(entry.record, record);
}

/// It had only said that it was about to: the log has the commit, and it is void.
#[tokio::test]
async fn a_void_commit_is_not_concluded() {
    let (site, void) = Site::rolled_back(On::Dir).await;
    let found = work::find(site.work.as_ref(), "east", UNIT).await.unwrap();
    let root = site.store.checkpoint_manifest(&void).await.unwrap().unwrap().state_root();
    let record = signed(&found.payload, 40, &void, root).record_id();
    site.store.note_commit(JOB, 40, &Noted::Begun(record)).await.unwrap();
    let good = site.put_checkpoint(AGAIN, 40, "").await;
    assert_eq!(site.commit(AGAIN, 40, &good).await, (200, String::new()));
    assert_eq!(site.store.checkpoint(JOB, 40).await.unwrap(), Some(good));
}
