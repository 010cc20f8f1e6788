use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::body::Bytes;
use muster_proof::Digest;
use muster_trainer::checkpoint::{FILES, FileEntry, Manifest};
use tempfile::TempDir;

use super::gc::{Collected, JobRoots, Retention};
use super::*;
use crate::runtime::blobdir::Stored;

const JOB: &str = "4f2a9c1b-0000-4000-8000-000000000000";

async fn store() -> (TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).await.unwrap();
    (dir, store)
}

/// Puts the files and the manifest of a checkpoint and records it.
async fn checkpoint(store: &Store, step: u64) -> (Digest, Vec<Digest>) {
    let mut files = Vec::new();
    for path in FILES {
        let bytes = format!("{path} after {step}").into_bytes();
        let size = bytes.len() as u64;
        files.push(FileEntry { path: path.into(), size, sha256: store.put_bytes(bytes).await.unwrap() });
    }
    let digests = files.iter().map(|file| file.sha256).collect();
    let manifest = Manifest::new(step, Digest::of(b"job"), Digest::of(b"state"), [1.0, 1.0], files).unwrap();
    let digest = store.put_bytes(manifest.to_bytes().unwrap()).await.unwrap();
    store.record_checkpoint(JOB, step, &digest).await.unwrap();
    (digest, digests)
}

async fn dataset(store: &Store, name: &str, text: &[u8]) -> Digest {
    let dir = tempfile::tempdir().unwrap();
    let (input, out) = (dir.path().join("text"), dir.path().join("out"));
    std::fs::write(&input, text).unwrap();
    muster_trainer::dataset::prepare(&[&input], &out).unwrap();
    store.import_dataset("team-a", name, &out).await.unwrap()
}

fn job(keep_last: usize) -> BTreeMap<String, JobRoots> {
    let roots = JobRoots {
        retention: Retention { keep_last, keep_every: None },
        pinned_steps: BTreeSet::new(),
        blobs: vec![],
        datasets: vec![],
    };
    BTreeMap::from([(JOB.to_string(), roots)])
}

const NO_GRACE: Duration = Duration::ZERO;

fn later() -> SystemTime {
    SystemTime::now() + Duration::from_secs(1)
}

#[tokio::test]
async fn a_dataset_is_found_by_its_name_in_its_namespace_only() {
    let (_dir, store) = store().await;
    let digest = dataset(&store, "kjv", &[b'a'; 5000]).await;
    assert_eq!(store.dataset("team-a", "kjv").await.unwrap(), Some(digest));
    assert_eq!(store.dataset("team-b", "kjv").await.unwrap(), None);
    assert_eq!(store.datasets("team-a").await.unwrap(), ["kjv"]);
    let manifest = store.dataset_manifest(&digest).await.unwrap().unwrap();
    assert_eq!(manifest.tokens(), 5000);
    for shard in manifest.shards() {
        assert_eq!(store.blobs().size(&shard.sha256).await.unwrap(), Some(shard.size));
    }
}

#[tokio::test]
async fn a_dataset_that_lost_a_shard_is_not_whole() {
    let (_dir, store) = store().await;
    assert!(store.whole_dataset("team-a", "kjv").await.unwrap().is_none());
    dataset(&store, "kjv", &[b'a'; 5000]).await;
    let manifest = store.whole_dataset("team-a", "kjv").await.unwrap().unwrap();
    store.blobs().remove(&manifest.shards()[0].sha256).await.unwrap();
    let error = store.whole_dataset("team-a", "kjv").await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
}

#[tokio::test]
async fn names_never_become_paths() {
    let (_dir, store) = store().await;
    for bad in ["..", "a/b", "", "A", "-a", "a.b"] {
        assert_eq!(store.dataset("team-a", bad).await.unwrap(), None);
        assert_eq!(store.dataset(bad, "kjv").await.unwrap(), None);
        assert!(store.set_dataset(bad, "kjv", &Digest::of(b"")).await.is_err(), "{bad}");
        assert!(store.record_checkpoint(bad, 1, &Digest::of(b"")).await.is_err());
        assert!(store.forget_job(bad).await.is_err());
    }
}

#[tokio::test]
async fn a_truncated_dataset_is_not_imported() {
    let (dir, store) = store().await;
    let (input, out) = (dir.path().join("text"), dir.path().join("out"));
    std::fs::write(&input, vec![b'a'; 5000]).unwrap();
    let manifest = muster_trainer::dataset::prepare(&[&input], &out).unwrap();
    let shard = out.join(&manifest.shards()[0].path);
    let bytes = std::fs::read(&shard).unwrap();
    std::fs::write(&shard, &bytes[..bytes.len() - 2]).unwrap();
    let error = store.import_dataset("team-a", "kjv", &out).await.unwrap_err().to_string();
    assert!(error.contains("tokens-00000.bin"), "{error}");
    assert_eq!(store.dataset("team-a", "kjv").await.unwrap(), None);
}

#[tokio::test]
async fn a_checkpoint_is_whole_when_every_file_is_there() {
    let (_dir, store) = store().await;
    let (manifest, files) = checkpoint(&store, 20).await;
    let Whole::Yes(parsed) = store.whole_checkpoint(&manifest).await.unwrap() else { panic!() };
    assert_eq!(parsed.step(), 20);
    let truncated = store.blobs().path(&files[1]);
    std::fs::write(&truncated, b"mod").unwrap();
    assert!(matches!(store.whole_checkpoint(&manifest).await.unwrap(), Whole::Missing(d) if d == files[1]));
    std::fs::remove_file(truncated).unwrap();
    assert!(matches!(store.whole_checkpoint(&manifest).await.unwrap(), Whole::Missing(d) if d == files[1]));
    let nonsense = store.put_bytes(b"{}".to_vec()).await.unwrap();
    assert!(matches!(store.whole_checkpoint(&nonsense).await.unwrap(), Whole::Invalid(_)));
    assert!(matches!(store.whole_checkpoint(&Digest::of(b"?")).await.unwrap(), Whole::Missing(_)));
}

#[tokio::test]
async fn what_a_crash_leaves_is_never_read() {
    let (dir, store) = store().await;
    let (manifest, _) = checkpoint(&store, 20).await;
    // A write of a name that never reached its rename, an upload cut off, and a name torn by something else.
    let names = dir.path().join("jobs").join(JOB).join("checkpoints");
    std::fs::write(names.join(".40.1.2.tmp"), b"sha256:00").unwrap();
    std::fs::write(dir.path().join("blobs/incoming/9-9"), b"half").unwrap();
    let store = Store::open(dir.path()).await.unwrap();
    assert_eq!(store.checkpoints(JOB).await.unwrap(), BTreeMap::from([(20, manifest)]));
    assert_eq!(std::fs::read_dir(dir.path().join("blobs/incoming")).unwrap().count(), 0);
    std::fs::write(names.join("60"), b"sha256:00\n").unwrap();
    let error = store.checkpoint(JOB, 60).await.unwrap_err().to_string();
    assert!(error.contains("/60"), "{error}");
}

#[tokio::test]
async fn many_put_one_blob_at_once() {
    let (dir, store) = store().await;
    let store = Arc::new(store);
    let bytes = vec![7_u8; 1 << 20];
    let puts: Vec<_> = (0..8)
        .map(|_| {
            let (store, bytes) = (store.clone(), bytes.clone());
            tokio::spawn(async move { store.put_bytes(bytes).await.unwrap() })
        })
        .collect();
    for put in puts {
        assert_eq!(put.await.unwrap(), Digest::of(&bytes));
    }
    let digest = Digest::of(&bytes);
    assert_eq!(store.blobs().read(&digest, 2 << 20).await.unwrap().unwrap(), bytes);
    assert_eq!(std::fs::read_dir(dir.path().join("blobs/incoming")).unwrap().count(), 0);
}

#[tokio::test]
async fn an_attached_process_leaves_uploads_alone() {
    let (dir, store) = store().await;
    let (sender, receiver) = tokio::sync::oneshot::channel::<()>();
    let digest = Digest::of(b"ab");
    let slow = futures::stream::unfold((0, Some(receiver)), |(at, gate)| async move {
        match (at, gate) {
            (0, gate) => Some((Ok::<_, io::Error>(Bytes::from_static(b"a")), (1, gate))),
            (1, Some(gate)) => {
                gate.await.unwrap();
                Some((Ok(Bytes::from_static(b"b")), (2, None)))
            }
            _ => None,
        }
    });
    let import = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        Store::attach(dir.path()).await.unwrap();
        sender.send(()).unwrap();
    };
    let (put, ()) = tokio::join!(store.blobs().put(&digest, slow, 10), import);
    assert_eq!(put.unwrap(), Stored::New);
}

#[test]
fn retention_keeps_the_newest_and_multiples() {
    let steps = BTreeSet::from([10, 20, 30, 40, 50]);
    let policy = |keep_last, keep_every| Retention { keep_last, keep_every }.superfluous(&steps);
    assert_eq!(policy(3, None), [10, 20]);
    assert_eq!(policy(1, Some(20)), [10, 30]);
    assert_eq!(policy(0, None), [10, 20, 30, 40], "the newest stays whatever the policy says");
    assert_eq!(policy(9, None), Vec::<u64>::new());
}

#[tokio::test]
async fn collection_keeps_what_a_name_leads_to() {
    let (_dir, store) = store().await;
    let data = dataset(&store, "kjv", &[b'a'; 5000]).await;
    let (old, old_files) = checkpoint(&store, 20).await;
    let (new, new_files) = checkpoint(&store, 40).await;
    let orphan = store.put_bytes(b"orphan".to_vec()).await.unwrap();
    let done = store.collect(&job(1), later(), NO_GRACE).await.unwrap();
    assert_eq!((done.checkpoints, done.blobs), (1, 1 + 1 + old_files.len()));
    assert_eq!(store.checkpoints(JOB).await.unwrap(), BTreeMap::from([(40, new)]));
    for gone in old_files.iter().chain([&old, &orphan]) {
        assert_eq!(store.blobs().size(gone).await.unwrap(), None);
    }
    for kept in new_files.iter().chain([&new, &data]) {
        assert!(store.blobs().size(kept).await.unwrap().is_some());
    }
    assert_eq!(store.collect(&job(1), later(), NO_GRACE).await.unwrap(), Collected::default());
}

#[tokio::test]
async fn collection_spares_fresh_blobs_pinned_steps_and_running_jobs_data() {
    let (_dir, store) = store().await;
    let fresh = store.put_bytes(b"uploaded before its name".to_vec()).await.unwrap();
    let hour = Duration::from_secs(3600);
    assert_eq!(store.collect(&BTreeMap::new(), later(), hour).await.unwrap(), Collected::default());
    assert!(store.touch(&fresh).await.unwrap());

    let data = dataset(&store, "kjv", &[b'a'; 5000]).await;
    std::fs::remove_dir_all(store.root.join("catalogue/team-a")).unwrap();
    checkpoint(&store, 20).await;
    checkpoint(&store, 40).await;
    let mut jobs = job(1);
    let roots = jobs.get_mut(JOB).unwrap();
    roots.pinned_steps.insert(20);
    roots.datasets.push(data);
    roots.blobs.push(fresh);
    assert_eq!(store.collect(&jobs, later(), NO_GRACE).await.unwrap(), Collected::default());
}

#[tokio::test]
async fn everything_of_a_deleted_job_goes() {
    let (dir, store) = store().await;
    let (manifest, _) = checkpoint(&store, 20).await;
    std::fs::create_dir(dir.path().join("jobs/lost+found")).unwrap();
    let done = store.collect(&BTreeMap::new(), later(), NO_GRACE).await.unwrap();
    assert_eq!((done.checkpoints, done.blobs), (1, 4));
    assert_eq!(store.blobs().size(&manifest).await.unwrap(), None);
    assert_eq!(store.jobs().await.unwrap(), ["lost+found"], "what is no job is left alone");
}

/// A disk of 64 KiB, unmounted on drop. `None` where mounting is not allowed.
struct TinyDisk(TempDir);

impl TinyDisk {
    fn mount() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"])
            .arg(dir.path())
            .stderr(std::process::Stdio::null())
            .status();
        mounted.is_ok_and(|status| status.success()).then_some(Self(dir))
    }
}

impl Drop for TinyDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(self.0.path()).status();
    }
}

#[tokio::test]
async fn a_full_disk_is_said_and_leaves_nothing() {
    let Some(disk) = TinyDisk::mount() else {
        eprintln!("SKIPPED a_full_disk_is_said_and_leaves_nothing: mounting a tmpfs needs root");
        return;
    };
    let store = Store::open(disk.0.path()).await.unwrap();
    let error = store.put_bytes(vec![1; 1 << 20]).await.unwrap_err();
    assert_eq!(error.status().as_u16(), 507, "{error}");
    assert_eq!(std::fs::read_dir(disk.0.path().join("blobs/incoming")).unwrap().count(), 0);
    store.put_bytes(b"there is room again".to_vec()).await.unwrap();
}
