use super::*;
use crate::store::testing::{On, dataset, named_weights, spec, state_files, state_manifest, store, team};
use muster_proof::records::JobId;
use muster_trainer::checkpoint::FileEntry;

/// The real checkpoint after `step` in the store; its manifest and StateRoot.
pub(in crate::auditor) async fn state(store: &Store, step: u64) -> Start {
    let mut files = Vec::new();
    for (path, bytes) in state_files(step, "") {
        let size = bytes.len() as u64;
        files.push(FileEntry { path, size, sha256: store.put_bytes(bytes).await.unwrap() });
    }
    let bytes = state_manifest(Digest::of(b"job"), step, "", files);
    let state_root = Manifest::parse(&bytes).unwrap().state_root();
    Start { step, state_root, manifest: store.put_bytes(bytes).await.unwrap() }
}

/// Spec and dataset in the store.
pub(in crate::auditor) async fn inputs(store: &Store) -> (Digest, Digest) {
    let spec = store.put_bytes(spec(Inputs::default())).await.unwrap();
    (spec, dataset(store, &team("team-a"), "kjv", b"In the beginning").await)
}

async fn task(store: &Store, start: Option<Start>) -> Task {
    let (spec, dataset) = inputs(store).await;
    Task {
        assignment: Digest::of(b"assignment"),
        job: JobId(Digest::of(b"job")),
        interval: 1,
        last: 40,
        spec,
        dataset,
        start,
    }
}

#[tokio::test]
async fn all_that_a_replay_reads_is_laid_out() {
    let (dir, store) = store(On::Dir).await;
    let work = dir.path().join("work");
    let start = state(&store, 20).await;
    let task = task(&store, Some(start.clone())).await;
    let laid = lay_out(&store, &work, &task).await.unwrap();
    assert_eq!((laid.start, laid.last), (20, 40));
    assert_eq!((fs::read(&laid.spec).unwrap(), &laid.eval_data), (spec(Inputs::default()), &None));
    let (.., manifest) = checkpoint::open(&Checkpoints::new(&laid.out).path(20)).unwrap();
    assert_eq!(manifest.state_root(), start.state_root);
    dataset::Dataset::open(&laid.data).unwrap();
    // What an earlier replay left goes, the dataset stays.
    fs::write(laid.out.join("left"), b"").unwrap();
    let marked = laid.data.join("mark");
    fs::write(&marked, b"").unwrap();
    let genesis = Task { start: None, last: 20, ..task.clone() };
    let laid = lay_out(&store, &work, &genesis).await.unwrap();
    assert_eq!((laid.start, laid.last), (0, 20));
    assert!(!laid.out.join("left").exists() && !Checkpoints::new(&laid.out).path(20).exists());
    assert!(marked.exists());
    let other = dataset(&store, &team("team-a"), "other", b"In the end").await;
    lay_out(&store, &work, &Task { dataset: other, ..genesis }).await.unwrap();
    assert!(!marked.exists(), "another dataset takes its place");
}

/// The spec leads to the data that the job is evaluated on; both datasets lie there at once.
#[tokio::test]
async fn a_replay_evaluates_on_what_the_spec_names() {
    let (dir, store) = store(On::Dir).await;
    let work = dir.path().join("work");
    let held_out = dataset(&store, &team("team-a"), "psalms", b"Blessed is the man").await;
    let evaluated = spec(Inputs { held_out: Some(held_out), init: None });
    let evaluated = store.put_bytes(evaluated).await.unwrap();
    let task = Task { spec: evaluated, ..task(&store, None).await };
    for _ in 0..2 {
        let laid = lay_out(&store, &work, &task).await.unwrap();
        dataset::Dataset::open(&laid.data).unwrap();
        let data = dataset::Dataset::open(laid.eval_data.as_ref().unwrap()).unwrap();
        assert_eq!(data.manifest().digest().unwrap(), held_out);
    }
    store.remove(&held_out).await.unwrap();
    fs::remove_dir_all(work.join(EVAL_DATA)).unwrap();
    let error = lay_out(&store, &work, &task).await.unwrap_err();
    assert!(matches!(error, FetchError::Missing { digest, .. } if digest == held_out), "{error}");
    let nonsense = Task { spec: store.put_bytes(b"a spec".to_vec()).await.unwrap(), ..task };
    let error = lay_out(&store, &work, &nonsense).await.unwrap_err();
    assert!(matches!(error, FetchError::Damaged { what: "the spec", .. }), "{error}");
}

/// The first interval of a job with given weights is replayed with those; later ones have a state to start from.
#[tokio::test]
async fn a_replay_from_the_beginning_has_the_weights_that_the_spec_names() {
    let (dir, store) = store(On::Dir).await;
    let work = dir.path().join("work");
    let (model, files) = named_weights(&store, &team("team-a"), "base").await;
    let begins = store.put_bytes(spec(Inputs { held_out: None, init: Some(model) })).await.unwrap();
    let start = state(&store, 20).await;
    let task = Task { spec: begins, ..task(&store, None).await };
    for _ in 0..2 {
        let laid = lay_out(&store, &work, &task).await.unwrap();
        let (_, _, state) = hf::open(laid.init.as_ref().unwrap(), &mut |_| {}).unwrap();
        let manifest = hf::Manifest::of(laid.init.as_ref().unwrap(), &state, &mut |_| {}).unwrap();
        assert_eq!(manifest.digest().unwrap(), model);
    }
    let later = Task { start: Some(start), ..task.clone() };
    assert_eq!(lay_out(&store, &work, &later).await.unwrap().init, None);
    store.remove(&files[1]).await.unwrap();
    let error = lay_out(&store, &work, &task).await.unwrap_err();
    assert!(matches!(error, FetchError::Missing { digest, .. } if digest == files[1]), "{error}");
}

#[tokio::test]
async fn what_is_missing_or_another_state_is_named() {
    let (dir, store) = store(On::Dir).await;
    let work = dir.path().join("work");
    let start = state(&store, 20).await;
    let task = task(&store, Some(start.clone())).await;
    let another = Start { state_root: Digest::of(b"claimed"), ..start.clone() };
    let error = lay_out(&store, &work, &Task { start: Some(another), ..task.clone() }).await.unwrap_err();
    assert!(matches!(error, FetchError::Start { step: 20, got, .. } if got == start.state_root), "{error}");
    let manifest = store.checkpoint_manifest(&start.manifest).await.unwrap().unwrap();
    store.remove(&manifest.files()[0].sha256).await.unwrap();
    let error = lay_out(&store, &work, &task).await.unwrap_err().to_string();
    assert!(error.contains("the start checkpoint") && error.contains("until its verdict"), "{error}");
    store.remove(&task.spec).await.unwrap();
    let error = lay_out(&store, &work, &task).await.unwrap_err().to_string();
    assert!(error.contains("the spec"), "{error}");
}
