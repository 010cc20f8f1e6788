use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::body::Bytes;
use muster_proof::Digest;
use muster_proof::inputs::Inputs;
use rstest::rstest;
use tempfile::TempDir;

use super::gc::{Collected, JobRoots, Retention};
use super::testing::{On, dataset, named_weights, recorded, spec, store, team};
use super::*;
use crate::runtime::blobdir::Stored;

mod bucket;
mod ledger;
mod rollbacks;
mod s3;

const JOB: &str = "4f2a9c1b-0000-4000-8000-000000000000";
const UNIT: Unit<'static> = Unit { job_uid: JOB, name: "4f2a9c1b-0-1" };

fn job(keep_last: usize) -> BTreeMap<String, JobRoots> {
    let roots = JobRoots {
        retention: Retention { keep_last, keep_every: None },
        pinned_steps: BTreeSet::new(),
        pinned_from: None,
        blobs: vec![],
        datasets: vec![],
    };
    BTreeMap::from([(JOB.to_string(), roots)])
}

const NO_GRACE: Duration = Duration::ZERO;

fn later() -> SystemTime {
    SystemTime::now() + Duration::from_secs(1)
}

#[rstest]
#[tokio::test]
async fn a_dataset_is_found_by_its_name_in_its_namespace_only(#[values(On::Dir, On::Bucket)] on: On) {
    let (_dir, store) = store(on).await;
    let digest = dataset(&store, &team("team-a"), "kjv", &[b'a'; 5000]).await;
    assert_eq!(store.named(Asset::Dataset, &team("team-a"), "kjv").await.unwrap(), Some(digest));
    assert_eq!(store.named(Asset::Dataset, &team("team-b"), "kjv").await.unwrap(), None);
    assert_eq!(store.names(Asset::Dataset, &team("team-a")).await.unwrap(), ["kjv"]);
    let manifest = store.dataset_manifest(&digest).await.unwrap().unwrap();
    assert_eq!(manifest.tokens(), 5000);
    for shard in manifest.shards() {
        assert_eq!(store.size(&shard.sha256).await.unwrap(), Some(shard.size));
    }
}

#[rstest]
#[tokio::test]
async fn offers_stay_until_they_are_answered_and_their_envelopes_with_them(
    #[values(On::Dir, On::Bucket)] on: On,
) {
    use offers::{Answer, MAX_ENVELOPE};
    let (_dir, store) = store(on).await;
    assert!(store.open_offers(2).await.unwrap().is_empty());
    store.record_offer(2, "east", "4f2a9c1b-0-1", b"first".to_vec()).await.unwrap();
    store.record_offer(2, "east", "4f2a9c1b-0-1", b"second".to_vec()).await.unwrap();
    store.record_offer(2, "west", "5f2a9c1b-0-3", b"another".to_vec()).await.unwrap();
    store.collect(&job(1), &[], later(), NO_GRACE).await.unwrap();
    let open = store.open_offers(2).await.unwrap();
    let names: Vec<_> = open.iter().map(|offer| (offer.provider.as_str(), offer.unit.as_str())).collect();
    assert_eq!(names, [("east", "4f2a9c1b-0-1"), ("west", "5f2a9c1b-0-3")]);
    let kept = store.read(&open[0].envelope, MAX_ENVELOPE).await.unwrap();
    assert_eq!(kept.as_deref(), Some(&b"first"[..]), "the first stays, and is not collected");

    let answer = async |unit: &str| store.offer_answer(2, "east", unit).await.unwrap();
    assert_eq!(answer("4f2a9c1b-0-1").await, None);
    let name = Answer::As("4f2a9c1b-0-1001".to_owned());
    store.answer_offer(2, &open[0], &name).await.unwrap();
    assert_eq!(answer("4f2a9c1b-0-1").await, Some(name));
    assert_eq!(store.open_offers(2).await.unwrap(), open[1..]);
    assert!(!store.has_offered_all(2, "east").await.unwrap());
    store.complete_offers(2, "east").await.unwrap();
    assert!(
        store.has_offered_all(2, "east").await.unwrap() && !store.has_offered_all(2, "west").await.unwrap()
    );

    store.forget_offers(2).await.unwrap();
    assert_eq!(store.open_offers(2).await.unwrap().len(), 1);
    store.forget_offers(3).await.unwrap();
    assert!(store.open_offers(2).await.unwrap().is_empty());
    for (provider, unit) in [("../east", "u"), ("east", "../../jobs"), ("east", "")] {
        assert!(store.record_offer(2, provider, unit, b"x".to_vec()).await.is_err(), "{provider} {unit}");
    }
}

#[rstest]
#[tokio::test]
async fn a_dataset_that_lost_a_shard_is_not_whole(#[values(On::Dir, On::Bucket)] on: On) {
    let (_dir, store) = store(on).await;
    assert!(store.whole_dataset(&team("team-a"), "kjv").await.unwrap().is_none());
    dataset(&store, &team("team-a"), "kjv", &[b'a'; 5000]).await;
    let manifest = store.whole_dataset(&team("team-a"), "kjv").await.unwrap().unwrap();
    store.remove(&manifest.shards()[0].sha256).await.unwrap();
    let error = store.whole_dataset(&team("team-a"), "kjv").await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
}

#[rstest]
#[tokio::test]
async fn names_never_become_paths(#[values(On::Dir, On::Bucket)] on: On) {
    let (_dir, store) = store(on).await;
    for bad in ["..", "a/b", "", "A", "-a", "a.b"] {
        assert_eq!(store.named(Asset::Dataset, &team("team-a"), bad).await.unwrap(), None);
        assert!(
            store.set_name(Asset::Dataset, &team("team-a"), bad, &Digest::of(b"")).await.is_err(),
            "{bad}"
        );
        assert!(Namespace::new(bad, JOB).is_err() && Namespace::new("team-a", bad).is_err(), "{bad}");
        assert!(store.record_checkpoint(bad, 1, &Digest::of(b"")).await.is_err());
        assert!(store.forget_job(bad).await.is_err());
    }
}

#[rstest]
#[tokio::test]
async fn a_truncated_dataset_is_not_imported(#[values(On::Dir, On::Bucket)] on: On) {
    let (dir, store) = store(on).await;
    let (input, out) = (dir.path().join("text"), dir.path().join("out"));
    std::fs::write(&input, vec![b'a'; 5000]).unwrap();
    let manifest = muster_trainer::dataset::prepare(&[&input], &out).unwrap();
    let shard = out.join(&manifest.shards()[0].path);
    let bytes = std::fs::read(&shard).unwrap();
    std::fs::write(&shard, &bytes[..bytes.len() - 2]).unwrap();
    let error = store.import_dataset(&team("team-a"), "kjv", &out).await.unwrap_err().to_string();
    assert!(error.contains("tokens-00000.bin"), "{error}");
    assert_eq!(store.named(Asset::Dataset, &team("team-a"), "kjv").await.unwrap(), None);
}

/// A tokenizer.json is part of the dataset: imported with it, kept as long, missed when it is gone.
#[rstest]
#[tokio::test]
async fn a_tokenizer_goes_with_its_dataset(#[values(On::Dir, On::Bucket)] on: On) {
    use muster_trainer::dataset::{MANIFEST_FILE, TOKENIZER_FILE, Text, Writer};
    let (dir, store) = store(on).await;
    let out = dir.path().join("out");
    std::fs::create_dir(&out).unwrap();
    let mut writer = Writer::new(&out, Text::file(b"{}", 70_000));
    writer.push(&[1, 69_999, 3]).unwrap();
    let manifest = writer.finish().unwrap();
    std::fs::write(out.join(MANIFEST_FILE), manifest.to_bytes().unwrap()).unwrap();
    let team = team("team-a");
    let import = || store.import_dataset(&team, "words", &out);
    let error = import().await.unwrap_err().to_string();
    assert!(error.contains(TOKENIZER_FILE), "{error}");
    std::fs::write(out.join(TOKENIZER_FILE), b"[]").unwrap();
    let error = import().await.unwrap_err().to_string();
    assert!(error.contains("tokenizer.json is corrupt"), "{error}");
    std::fs::write(out.join(TOKENIZER_FILE), b"{}").unwrap();
    import().await.unwrap();
    let done = store.collect(&job(1), &[], later(), NO_GRACE).await.unwrap();
    assert_eq!(done, Collected::default());
    let file = Digest::of(b"{}");
    assert_eq!(store.size(&file).await.unwrap(), Some(2));
    assert!(store.whole_dataset(&team, "words").await.unwrap().is_some());
    store.remove(&file).await.unwrap();
    let error = store.whole_dataset(&team, "words").await.unwrap_err().to_string();
    assert!(error.contains(&file.to_string()), "{error}");
}

#[rstest]
#[tokio::test]
async fn a_checkpoint_is_whole_when_every_file_is_there(#[values(On::Dir, On::Bucket)] on: On) {
    let (_dir, store) = store(on).await;
    let (manifest, files) = recorded(&store, JOB, 20).await;
    let Whole::Yes(parsed) = store.whole_checkpoint(&manifest).await.unwrap() else { panic!() };
    assert_eq!(parsed.step(), 20);
    if let Some(root) = store.root() {
        let hex = files[1].to_hex();
        std::fs::write(root.join("blobs/sha256").join(&hex[..2]).join(&hex), b"mod").unwrap();
        let whole = store.whole_checkpoint(&manifest).await.unwrap();
        assert!(matches!(whole, Whole::Missing(d) if d == files[1]));
    }
    store.remove(&files[1]).await.unwrap();
    assert!(matches!(store.whole_checkpoint(&manifest).await.unwrap(), Whole::Missing(d) if d == files[1]));
    let nonsense = store.put_bytes(b"{}".to_vec()).await.unwrap();
    assert!(matches!(store.whole_checkpoint(&nonsense).await.unwrap(), Whole::Invalid(_)));
    assert!(matches!(store.whole_checkpoint(&Digest::of(b"?")).await.unwrap(), Whole::Missing(_)));
}

#[tokio::test]
async fn what_a_crash_leaves_is_never_read() {
    let (dir, store) = store(On::Dir).await;
    let (manifest, _) = recorded(&store, JOB, 20).await;
    // A write of a name that never reached its rename, an upload cut off, and a name torn by something else.
    let names = dir.path().join("jobs").join(JOB).join("checkpoints");
    std::fs::write(names.join(".40.1.2.tmp"), b"sha256:00").unwrap();
    std::fs::write(dir.path().join("blobs/incoming/9-9"), b"half").unwrap();
    let store = Store::open(dir.path()).await.unwrap();
    assert_eq!(store.checkpoints(JOB).await.unwrap(), BTreeMap::from([(20, manifest)]));
    // It may be another process's upload under way, until nothing was written to it for long.
    let incoming = || std::fs::read_dir(dir.path().join("blobs/incoming")).unwrap().count();
    store.collect(&job(3), &store.jobs().await.unwrap(), later(), NO_GRACE).await.unwrap();
    assert_eq!(incoming(), 1);
    store
        .collect(
            &job(3),
            &store.jobs().await.unwrap(),
            SystemTime::now() + super::backend::LEFTOVER * 2,
            NO_GRACE,
        )
        .await
        .unwrap();
    assert_eq!(incoming(), 0);
    std::fs::write(names.join("60"), b"sha256:00\n").unwrap();
    let error = store.checkpoint(JOB, 60).await.unwrap_err().to_string();
    assert!(error.contains("/60"), "{error}");
}

#[tokio::test]
async fn many_put_one_blob_at_once() {
    let (dir, store) = store(On::Dir).await;
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
    assert_eq!(store.read(&digest, 2 << 20).await.unwrap().unwrap(), bytes);
    assert_eq!(std::fs::read_dir(dir.path().join("blobs/incoming")).unwrap().count(), 0);
}

#[tokio::test]
async fn another_process_leaves_uploads_alone() {
    let (dir, store) = store(On::Dir).await;
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
        Store::open(dir.path()).await.unwrap();
        sender.send(()).unwrap();
    };
    let (put, ()) = tokio::join!(store.put(&digest, slow, 10), import);
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

#[rstest]
#[tokio::test]
async fn collection_keeps_what_a_name_leads_to(#[values(On::Dir, On::Bucket)] on: On) {
    let (_dir, store) = store(on).await;
    let data = dataset(&store, &team("team-a"), "kjv", &[b'a'; 5000]).await;
    let (old, old_files) = recorded(&store, JOB, 20).await;
    let (new, new_files) = recorded(&store, JOB, 40).await;
    let orphan = store.put_bytes(b"orphan".to_vec()).await.unwrap();
    let done = store.collect(&job(1), &store.jobs().await.unwrap(), later(), NO_GRACE).await.unwrap();
    assert_eq!((done.checkpoints, done.blobs), (1, 1 + old_files.len()));
    assert_eq!(store.checkpoints(JOB).await.unwrap(), BTreeMap::from([(40, new)]));
    for gone in old_files.iter().chain([&old, &orphan]) {
        assert_eq!(store.size(gone).await.unwrap(), None);
    }
    for kept in new_files.iter().chain([&new, &data]) {
        assert!(store.size(kept).await.unwrap().is_some());
    }
    assert_eq!(
        store.collect(&job(1), &store.jobs().await.unwrap(), later(), NO_GRACE).await.unwrap(),
        Collected::default()
    );
}

/// The names of the held-out data and of the weights may go before the job.
#[rstest]
#[tokio::test]
async fn a_job_holds_what_its_spec_names(#[values(On::Dir, On::Bucket)] on: On) {
    let (_dir, store) = store(on).await;
    let held_out = dataset(&store, &team("team-a"), "psalms", &[b'b'; 5000]).await;
    let shard = store.dataset_manifest(&held_out).await.unwrap().unwrap().shards()[0].sha256;
    let (model, files) = named_weights(&store, &team("team-a"), "base").await;
    let inputs = Inputs { held_out: Some(held_out), init: Some(model) };
    let spec = store.put_bytes(spec(inputs)).await.unwrap();
    let named = [(Asset::Dataset, held_out), (Asset::Model, model)];
    assert_eq!(store.inputs(&spec).await.unwrap(), named);
    for other in [held_out, shard, model, Digest::of(b"nowhere")] {
        assert_eq!(store.inputs(&other).await.unwrap(), [], "no spec");
    }
    let all = [spec, held_out, shard, model, files[0], files[1]];
    store.collect(&BTreeMap::new(), &[], later(), NO_GRACE).await.unwrap();
    for kept in &all[1..] {
        assert!(store.size(kept).await.unwrap().is_some(), "names lead to it");
    }
    let spec = store.put_bytes(crate::store::testing::spec(inputs)).await.unwrap();
    store.forget_namespace(&team("team-a")).await.unwrap();
    let mut jobs = job(1);
    jobs.get_mut(JOB).unwrap().blobs = vec![spec];
    for _ in 0..2 {
        store.collect(&jobs, &[], later(), NO_GRACE).await.unwrap();
        for kept in all {
            assert!(store.size(&kept).await.unwrap().is_some());
        }
    }
    store.collect(&job(1), &[], later(), NO_GRACE).await.unwrap();
    for gone in all {
        assert!(store.size(&gone).await.unwrap().is_none());
    }
}

#[rstest]
#[tokio::test]
async fn collection_spares_fresh_blobs_pinned_steps_and_running_jobs_data(
    #[values(On::Dir, On::Bucket)] on: On,
) {
    let (_dir, store) = store(on).await;
    let fresh = store.put_bytes(b"uploaded before its name".to_vec()).await.unwrap();
    let hour = Duration::from_secs(3600);
    assert_eq!(
        store.collect(&BTreeMap::new(), &store.jobs().await.unwrap(), later(), hour).await.unwrap(),
        Collected::default()
    );
    assert!(store.touch(&fresh).await.unwrap());

    let data = dataset(&store, &team("team-a"), "kjv", &[b'a'; 5000]).await;
    store.backend.remove_tree("catalogue/team-a").await.unwrap();
    recorded(&store, JOB, 20).await;
    recorded(&store, JOB, 40).await;
    let mut jobs = job(1);
    let roots = jobs.get_mut(JOB).unwrap();
    roots.pinned_steps.insert(20);
    roots.datasets.push(data);
    roots.blobs.push(fresh);
    assert_eq!(
        store.collect(&jobs, &store.jobs().await.unwrap(), later(), NO_GRACE).await.unwrap(),
        Collected::default()
    );
}

#[tokio::test]
async fn everything_of_a_deleted_job_goes() {
    let (dir, store) = store(On::Dir).await;
    let (manifest, _) = recorded(&store, JOB, 20).await;
    std::fs::create_dir(dir.path().join("jobs/lost+found")).unwrap();
    let done =
        store.collect(&BTreeMap::new(), &store.jobs().await.unwrap(), later(), NO_GRACE).await.unwrap();
    assert_eq!((done.checkpoints, done.blobs), (1, 4));
    assert_eq!(store.size(&manifest).await.unwrap(), None);
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
        println!("SKIP a_full_disk_is_said_and_leaves_nothing: mounting a tmpfs needs root");
        return;
    };
    let store = Store::open(disk.0.path()).await.unwrap();
    let error = store.put_bytes(vec![1; 1 << 20]).await.unwrap_err();
    assert_eq!(error.status().as_u16(), 507, "{error}");
    assert_eq!(std::fs::read_dir(disk.0.path().join("blobs/incoming")).unwrap().count(), 0);
    store.put_bytes(b"there is room again".to_vec()).await.unwrap();
}

#[rstest]
#[tokio::test]
async fn a_part_of_a_blob_is_read(#[values(On::Dir, On::Bucket)] on: On) {
    let (_dir, store) = store(on).await;
    let digest = store.put_bytes(b"hello world".to_vec()).await.unwrap();
    for (range, want) in [(0..11, "hello world"), (6..11, "world"), (4..4, "")] {
        let pieces: Vec<Bytes> =
            store.stream(&digest, range).await.unwrap().unwrap().try_collect().await.unwrap();
        assert_eq!(pieces.concat(), want.as_bytes());
    }
    assert!(store.stream(&Digest::of(b"?"), 0..1).await.unwrap().is_none());
}

/// To name a digest is not to have the bytes.
#[rstest]
#[tokio::test]
async fn a_proof_reads_all_bytes_and_replaces_a_damaged_blob(#[values(On::Dir, On::Bucket)] on: On) {
    let (_dir, store) = store(on).await;
    let digest = store.put_bytes(b"hello world".to_vec()).await.unwrap();
    let body =
        |text: &'static str| futures::stream::iter([Ok::<_, io::Error>(Bytes::from_static(text.as_bytes()))]);
    let guess = store.put_proven(&digest, body("hello w0rld"), 11).await.unwrap_err();
    assert!(matches!(guess, PutError::Digest(_)), "{guess}");
    assert!(store.put_proven(&digest, body("hello"), 11).await.is_err());
    assert_eq!(store.put_proven(&digest, body("hello world"), 11).await.unwrap(), Stored::Existing);
    if let Some(root) = store.root() {
        let hex = digest.to_hex();
        std::fs::write(root.join("blobs/sha256").join(&hex[..2]).join(&hex), b"hell").unwrap();
        assert_eq!(store.put_proven(&digest, body("hello world"), 11).await.unwrap(), Stored::New);
        assert_eq!(store.read(&digest, 11).await.unwrap().unwrap(), b"hello world");
    }
}

#[rstest]
#[tokio::test]
async fn of_two_racers_for_a_step_one_is_told(#[values(On::Dir, On::Bucket)] on: On) {
    let (_dir, store) = store(on).await;
    let (one, two) = (Digest::of(b"1"), Digest::of(b"2"));
    let (a, b) = tokio::join!(store.record_checkpoint(JOB, 20, &one), store.record_checkpoint(JOB, 20, &two));
    match (a.unwrap(), b.unwrap()) {
        (Recorded::New, Recorded::Taken(first)) => assert_eq!(first, one),
        (Recorded::Taken(first), Recorded::New) => assert_eq!(first, two),
        other => panic!("{other:?}"),
    }
    let kept = store.checkpoint(JOB, 20).await.unwrap().unwrap();
    assert_eq!(store.record_checkpoint(JOB, 20, &kept).await.unwrap(), Recorded::Same);
}

#[rstest]
#[tokio::test]
async fn an_epoch_only_grows_and_goes_with_its_job(#[values(On::Dir, On::Bucket)] on: On) {
    let (_dir, store) = store(on).await;
    assert_eq!(store.epoch(JOB, 0).await.unwrap(), 0);
    assert_eq!(store.raise_epoch(JOB, 0, 2).await.unwrap(), 2);
    assert_eq!(store.raise_epoch(JOB, 0, 1).await.unwrap(), 2, "late news");
    let raised = futures::future::join_all((1..=20).map(|epoch| store.raise_epoch(JOB, 0, epoch))).await;
    assert!(raised.iter().all(Result::is_ok), "{raised:?}");
    assert_eq!((store.epoch(JOB, 0).await.unwrap(), store.epoch(JOB, 1).await.unwrap()), (20, 0));
    store.backend.write(&format!("jobs/{JOB}/epochs/0"), "none\n").await.unwrap();
    assert!(store.epoch(JOB, 0).await.is_err(), "a fence that cannot be read lets nobody pass");
    store.forget_job(JOB).await.unwrap();
    assert_eq!(store.epoch(JOB, 0).await.unwrap(), 0);
}

#[rstest]
#[tokio::test]
async fn a_name_that_leads_elsewhere_is_replaced_only_when_asked(#[values(On::Dir, On::Bucket)] on: On) {
    let (_dir, store) = store(on).await;
    let (one, two) = (Digest::of(b"1"), Digest::of(b"2"));
    let place = async |digest: &Digest, replace| {
        store.place(Asset::Dataset, &team("team-a"), "kjv", digest, replace).await.unwrap()
    };
    assert_eq!(place(&one, Replace::Never).await, Placed::New);
    assert_eq!(place(&one, Replace::Never).await, Placed::Same);
    assert_eq!(place(&two, Replace::Never).await, Placed::Taken);
    assert_eq!(store.named(Asset::Dataset, &team("team-a"), "kjv").await.unwrap(), Some(one));
    assert_eq!(place(&two, Replace::Existing).await, Placed::Replaced);
    assert_eq!(store.named(Asset::Dataset, &team("team-a"), "kjv").await.unwrap(), Some(two));
}

#[rstest]
#[tokio::test]
async fn what_a_unit_put_is_open_until_a_commit_names_it(#[values(On::Dir, On::Bucket)] on: On) {
    let (_dir, store) = store(on).await;
    let (one, two) = (Digest::of(b"1"), Digest::of(b"2"));
    store.record_unit_put(UNIT, &one, 10).await.unwrap();
    store.record_unit_put(UNIT, &two, 5).await.unwrap();
    store.name_unit_puts(UNIT, &[one, Digest::of(b"not put")]).await.unwrap();
    assert_eq!(store.open_puts(UNIT).await.unwrap(), BTreeMap::from([(two, 5)]));
    assert!(store.has_unit_put(UNIT, &one).await.unwrap());
    let other = Unit { name: "4f2a9c1b-0-2", ..UNIT };
    assert!(!store.has_unit_put(other, &one).await.unwrap(), "another unit's");
    store.record_unit_put(UNIT, &one, 10).await.unwrap();
    assert_eq!(store.open_puts(UNIT).await.unwrap().len(), 1, "what is named does not count again");
}

#[rstest]
#[tokio::test]
async fn puts_hold_their_blobs_for_a_day(#[values(On::Dir, On::Bucket)] on: On) {
    let (_dir, store) = store(on).await;
    let by_unit = store.put_bytes(b"by a unit".to_vec()).await.unwrap();
    let by_user = store.put_bytes(b"by a user".to_vec()).await.unwrap();
    let named = store.put_bytes(b"named, and its checkpoint is gone".to_vec()).await.unwrap();
    store.record_unit_put(UNIT, &by_unit, 9).await.unwrap();
    store.record_unit_put(UNIT, &named, 9).await.unwrap();
    store.name_unit_puts(UNIT, &[named]).await.unwrap();
    store.record_user_put(&team("team-a"), &by_user, 9).await.unwrap();
    assert_eq!(
        store.collect(&job(1), &store.jobs().await.unwrap(), later(), NO_GRACE).await.unwrap().blobs,
        1
    );
    assert_eq!(store.all_puts(UNIT).await.unwrap(), BTreeMap::from([(by_unit, 9)]));
    assert_eq!(store.user_puts(&team("team-a")).await.unwrap(), BTreeMap::from([(by_user, 9)]));
    let days = SystemTime::now() + Duration::from_secs(2 * 86_400);
    assert_eq!(store.collect(&job(1), &store.jobs().await.unwrap(), days, NO_GRACE).await.unwrap().blobs, 2);
    assert!(store.user_puts(&team("team-a")).await.unwrap().is_empty());
    assert!(store.all_puts(UNIT).await.unwrap().is_empty());
}

/// A job that was made after the directories were listed is in neither list, and keeps its fence.
#[tokio::test]
async fn a_collection_spares_what_came_while_it_ran() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).await.unwrap();
    let candidates = store.jobs().await.unwrap();
    let new = "99999999-0000-4000-8000-000000000000";
    store.raise_epoch(new, 0, 3).await.unwrap();
    store.collect(&BTreeMap::new(), &candidates, later(), NO_GRACE).await.unwrap();
    assert_eq!(store.epoch(new, 0).await.unwrap(), 3);
    let candidates = store.jobs().await.unwrap();
    store.collect(&BTreeMap::new(), &candidates, later(), NO_GRACE).await.unwrap();
    assert_eq!(store.epoch(new, 0).await.unwrap(), 0);
}
