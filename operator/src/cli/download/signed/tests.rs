//! Over a real log in a directory: what is written, and what a gateway that lies gets written.
use muster_proof::key::SigningKey;
use muster_proof::records::fields::{Epoch, Interval, Island, Step};
use muster_proof::records::{Commit, JobId, Payload as _};
use muster_trainer::checkpoint::{FILES, FileEntry, sign_files};

use super::*;
use crate::bundle::logdir::LogDir;
use crate::log::admit::WellFormed;
use crate::log::{Log, Submission};

struct Site {
    dir: tempfile::TempDir,
    manifest: Manifest,
    digest: Digest,
    answer: CheckpointSignature,
}

fn key(seed: u8) -> SigningKey {
    SigningKey::generate([seed; 32]).unwrap()
}

fn commit(manifest: Digest, state_root: Digest) -> Commit {
    Commit {
        job: JobId(Digest::of(b"job")),
        island: Island::new(0).unwrap(),
        epoch: Epoch::new(1).unwrap(),
        interval: Interval::new(0).unwrap(),
        first_step: Step::new(1).unwrap(),
        last_step: Step::new(20).unwrap(),
        previous: Digest::of(b"before"),
        state_root,
        record_seal: Digest::of(b"seal"),
        manifest,
        ends: false,
    }
}

impl Site {
    /// A log of three commits; the second is the checkpoint's.
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file =
            |path: &str| FileEntry { path: path.to_owned(), size: 1, sha256: Digest::of(path.as_bytes()) };
        let files = FILES.map(file).to_vec();
        let manifest =
            Manifest::new(20, Digest::of(b"job"), Digest::of(b"state"), [0.5, 0.5], files).unwrap();
        let digest = Digest::of(&manifest.to_bytes().unwrap());
        let log = Log::open(&dir.path().join("log"), "hub.example/log", Box::new(WellFormed)).unwrap();
        let mut index = 0;
        for of in [Digest::of(b"one"), digest, Digest::of(b"two")] {
            let envelope = commit(of, manifest.state_root()).sign(&key(3)).unwrap();
            let submission = Submission { envelope, known: vec![key(3).public().clone()] };
            let at = log.append(submission).await.unwrap();
            index = if of == digest { at } else { index };
        }
        let answer = CheckpointSignature {
            log: log.key().to_string(),
            index,
            commit: commit(digest, manifest.state_root()).sign(&key(3)).unwrap(),
            model: Some(sign_files(&manifest, &digest, &key(3)).unwrap()),
        };
        std::fs::create_dir(dir.path().join("out")).unwrap();
        Self { dir, manifest, digest, answer }
    }

    fn out(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join("out").join(name)
    }

    async fn put(&self, answer: &CheckpointSignature) -> Result<Beside, Failure> {
        let log = LogDir::new(self.dir.path().join("log"));
        let of = (&self.manifest, &self.digest);
        put(&log, answer, of, &self.dir.path().join("out"), Duration::ZERO).await
    }
}

#[tokio::test]
async fn what_holds_is_written_and_written_again() {
    let site = Site::new().await;
    for _ in 0..2 {
        let beside = site.put(&site.answer).await.unwrap();
        assert_eq!(beside, Beside { signer: Some(key(3).key_id()), proof: Some((3, 0)) });
    }
    let bundle = std::fs::read(site.out("model.sig")).unwrap();
    let files = signed_files(&site.manifest, &site.digest);
    model_signing::verify(&bundle, &files, &[key(3).public().clone()]).unwrap();
    let proof = std::fs::read(site.out("commit.tlog-proof")).unwrap();
    let policy = format!("log {}\nquorum none\n", site.answer.log).parse().unwrap();
    let state = State { manifest: site.digest, step: 20, state_root: site.manifest.state_root() };
    let proven = commit_proof::verify(&proof, &state, &policy).unwrap();
    assert_eq!((proven.index, &proven.key), (1, key(3).public()));
}

#[tokio::test]
async fn without_a_signature_the_proof_comes_alone() {
    let site = Site::new().await;
    let answer = CheckpointSignature { model: None, ..site.answer.clone() };
    let beside = site.put(&answer).await.unwrap();
    assert_eq!(beside, Beside { signer: None, proof: Some((3, 0)) });
    assert!(!site.out("model.sig").exists() && site.out("commit.tlog-proof").exists());
    let [model, commit] = say(&beside);
    assert!(model.contains("no signature") && commit.contains("no witness"), "{model} {commit}");
}

#[tokio::test]
async fn of_what_does_not_hold_nothing_is_written() {
    let site = Site::new().await;
    let good = || site.answer.clone();
    let root = site.manifest.state_root();
    let other_log = "hub.example/log+d3e5df27+AW56HN0psLeP0Tr0xVmP7/TvKpcWbjym8uT7/M2AUFvx";
    let signed = |of: Digest, root: Digest, by: u8| commit(of, root).sign(&key(by)).unwrap();
    for (answer, want) in [
        (CheckpointSignature { log: other_log.to_owned(), ..good() }, "log"),
        (CheckpointSignature { log: String::new(), ..good() }, ""),
        (CheckpointSignature { index: 0, ..good() }, "not the commit's"),
        (CheckpointSignature { index: 3, ..good() }, "has no proof for 3"),
        (CheckpointSignature { index: u64::MAX, ..good() }, "so long"),
        (CheckpointSignature { commit: signed(Digest::of(b"one"), root, 3), index: 0, ..good() }, "manifest"),
        (CheckpointSignature { commit: signed(site.digest, Digest::of(b"x"), 3), ..good() }, "stateRoot"),
        (CheckpointSignature { commit: signed(site.digest, root, 4), ..good() }, "commit"),
        (
            CheckpointSignature {
                model: Some(sign_files(&site.manifest, &site.digest, &key(4)).unwrap()),
                ..good()
            },
            "is signed by key",
        ),
        (
            CheckpointSignature {
                model: Some(sign_files(&site.manifest, &Digest::of(b"x"), &key(3)).unwrap()),
                ..good()
            },
            "manifest.json",
        ),
        (CheckpointSignature { model: Some(good().commit), ..good() }, "model.sig"),
    ] {
        let error = site.put(&answer).await.unwrap_err().to_string();
        assert!(error.contains(want) && error.contains("is whole"), "want {want}: {error}");
        assert!(!site.out("model.sig").exists() && !site.out("commit.tlog-proof").exists(), "{error}");
    }
}
