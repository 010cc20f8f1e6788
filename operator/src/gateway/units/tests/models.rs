//! What is signed of a checkpoint's files comes with its commit and stays beside it.
use muster_trainer::checkpoint::Manifest as CheckpointManifest;

use super::*;
use crate::store::{Entry, Noted};

impl Site {
    async fn left(&self, step: u64) -> Option<Envelope> {
        self.store.model(JOB, step).await.unwrap()
    }

    async fn parsed(&self, manifest: &Digest) -> CheckpointManifest {
        self.store.checkpoint_manifest(manifest).await.unwrap().unwrap()
    }

    /// The commit of a checkpoint that was put, by this key.
    async fn commit_by(&self, step: u64, manifest: &Digest, key: &SigningKey) -> Envelope {
        let found = work::find(self.work.as_ref(), "east", UNIT).await.unwrap();
        let root = self.parsed(manifest).await.state_root();
        let good = signed(&found.payload, step, manifest, root);
        Envelope::sign(good.payload_type(), good.unverified_payload(), key).unwrap()
    }

    async fn say(
        &self,
        manifest: &Digest,
        commit: &Envelope,
        model: &Envelope,
        key: &PublicKey,
    ) -> (u16, String) {
        refused(self.send(send_said(UNIT, 20, manifest, commit, model, key)).await).await
    }
}

#[rstest]
#[tokio::test]
async fn it_is_checked_before_the_commit_is_logged(#[values(On::Dir, On::Bucket)] on: On) {
    let site = Site::new(on).await;
    let manifest = site.put_checkpoint(UNIT, 20, "").await;
    let other = site.put_checkpoint(UNIT, 40, "").await;
    let stranger = SigningKey::generate([4; 32]).unwrap();
    let (own, others) = (site.parsed(&manifest).await, site.parsed(&other).await);
    let commit = site.commit_by(20, &manifest, &bound()).await;
    let mut two = site.model(&manifest, &bound()).await;
    two.add_signature(&stranger).unwrap();
    for model in [
        no_model(),
        commit.clone(),
        two,
        sign_files(&own, &manifest, &stranger).unwrap(),
        sign_files(&own, &other, &bound()).unwrap(),
        sign_files(&others, &other, &bound()).unwrap(),
    ] {
        let said = site.say(&manifest, &commit, &model, bound().public()).await;
        assert_eq!(said, (400, "BadModel".to_owned()));
    }
    // The key is that of the commit, and the commit has no other.
    let good = site.model(&manifest, &bound()).await;
    let by_stranger = sign_files(&own, &manifest, &stranger).unwrap();
    let said = site.say(&manifest, &commit, &by_stranger, stranger.public()).await;
    assert_eq!(said, (400, "BadCommit".to_owned()));
    let mut twice = commit.clone();
    twice.add_signature(&stranger).unwrap();
    assert_eq!(site.say(&manifest, &twice, &good, bound().public()).await, (400, "BadCommit".to_owned()));
    // Whether the key is bound, the log says.
    let unbound = site.commit_by(20, &manifest, &stranger).await;
    let (status, _) = site.say(&manifest, &unbound, &by_stranger, stranger.public()).await;
    assert!([400, 409].contains(&status), "{status}");
    assert_eq!((site.log.view().published.size(), site.left(20).await), (0, None));
    for _ in 0..2 {
        assert_eq!(site.say(&manifest, &commit, &good, bound().public()).await, (200, String::new()));
        assert_eq!(site.left(20).await.as_ref(), Some(&good));
    }
}

/// The gateway died after the log had the commit, or the store has lost what was left.
#[rstest]
#[tokio::test]
async fn it_is_left_again_with_the_same_commit(#[values(On::Dir, On::Bucket)] on: On) {
    let site = Site::new(on).await;
    let manifest = site.put_checkpoint(UNIT, 20, "").await;
    assert_eq!(site.commit(UNIT, 20, &manifest).await.0, 200);
    let good = site.left(20).await.unwrap();
    site.store.forget_checkpoint(JOB, 20).await.unwrap();
    let record = site.commit_by(20, &manifest, &bound()).await.record_id();
    site.store.note_commit(JOB, 20, &Noted::Begun(record)).await.unwrap();
    assert_eq!(site.commit(UNIT, 20, &manifest).await.0, 200);
    assert_eq!(site.left(20).await.as_ref(), Some(&good));
    let noted = site.store.noted_commit(JOB, 20).await.unwrap();
    assert_eq!(noted, Some(Noted::Logged(Entry { record, index: 0 })));
    site.store.leave_model(JOB, 20, &no_model()).await.unwrap();
    assert_eq!(site.commit(UNIT, 20, &manifest).await.0, 200);
    assert_eq!(site.left(20).await.as_ref(), Some(&good), "what is another's is replaced");
}

/// A commit that the log has takes no other signer: its record is the same, its entry is the first one's.
#[tokio::test]
async fn another_signer_of_a_logged_commit_leaves_nothing() {
    let site = Site::new(On::Dir).await;
    let manifest = site.put_checkpoint(UNIT, 20, "").await;
    assert_eq!(site.commit(UNIT, 20, &manifest).await.0, 200);
    let good = site.left(20).await.unwrap();
    let next = SigningKey::generate([4; 32]).unwrap();
    let commit = site.commit_by(20, &manifest, &next).await;
    let model = site.model(&manifest, &next).await;
    assert_eq!(
        site.say(&manifest, &commit, &model, next.public()).await.0,
        200,
        "the pod of the next attempt"
    );
    assert_eq!(site.left(20).await.as_ref(), Some(&good));
    assert_eq!(site.say(&manifest, &commit, &good, next.public()).await, (400, "BadModel".to_owned()));
}
