//! Stores for tests: a directory, a bucket in memory, and a bucket that fails when it is told to.
pub mod versity;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};

use async_trait::async_trait;
use futures::stream::{BoxStream, StreamExt};
use muster_numerics::graph::{Graph, StepShape};
use muster_numerics::spec::{Architecture, Arithmetic, ModelSpec, TiedEmbeddings};
use muster_numerics::state::State;
use muster_proof::Digest;
use muster_proof::inputs::Inputs;
use muster_trainer::checkpoint::{FILES, FileEntry, Manifest};
use muster_trainer::hf;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};
use tempfile::TempDir;

use super::{Asset, Namespace, Recorded, Store};

/// On what a store stands.
#[derive(Debug, Clone, Copy)]
pub enum On {
    /// A directory.
    Dir,
    /// A bucket in memory.
    Bucket,
}

/// A new store; the directory lives as long as the first value.
pub async fn store(on: On) -> (TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = match on {
        On::Dir => Store::open(dir.path()).await.unwrap(),
        On::Bucket => Store::on_objects(Arc::new(InMemory::new()), "some/prefix"),
    };
    (dir, store)
}

/// Puts files and manifest of a checkpoint, whose bytes begin with `flavour`; gives the manifest and all digests.
pub async fn checkpoint(store: &Store, training: Digest, step: u64, flavour: &str) -> (Digest, Vec<Digest>) {
    let mut files = Vec::new();
    for (path, bytes) in checkpoint_files(step, flavour) {
        let size = bytes.len() as u64;
        files.push(FileEntry { path, size, sha256: store.put_bytes(bytes).await.unwrap() });
    }
    let mut digests: Vec<Digest> = files.iter().map(|file| file.sha256).collect();
    let bytes = manifest_of(training, step, files);
    let manifest = store.put_bytes(bytes).await.unwrap();
    digests.insert(0, manifest);
    (manifest, digests)
}

/// The model of all real states here.
pub fn model() -> ModelSpec {
    ModelSpec {
        architecture: Architecture::Gpt2,
        layers: 1,
        width: 16,
        heads: 1,
        context: 16,
        vocabulary: 256,
        tied_embeddings: TiedEmbeddings::Tied,
        llama: None,
    }
}

type Made = (Vec<(String, Vec<u8>)>, Digest);

/// The files of the state after `step`, and its StateRoot; other `flavour`s are other states. Made once.
fn made(step: u64, flavour: &str) -> Made {
    static MADE: LazyLock<Mutex<HashMap<(u64, String), Made>>> = LazyLock::new(Mutex::default);
    let mut all = MADE.lock().unwrap();
    let make = || {
        let graph = Graph::build(&model(), StepShape { batch: 2, shards: 2 }, Arithmetic::F32Chain).unwrap();
        let seed = u64::from(Digest::of(flavour.as_bytes()).as_bytes()[0]);
        let mut state = State::genesis(&graph, seed);
        state.step = step;
        for (i, m) in state.m.iter_mut().enumerate() {
            *m = (step + seed) as f32 + i as f32;
        }
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("state");
        let saved =
            muster_trainer::checkpoint::save(&dir, &model(), &graph, Digest::of(b"job"), &state).unwrap();
        let files = FILES.iter().map(|name| ((*name).to_owned(), std::fs::read(dir.join(name)).unwrap()));
        (files.collect(), saved.state_root)
    };
    all.entry((step, flavour.to_owned())).or_insert_with(make).clone()
}

/// The real files of the state after `step`, by name. Its `config.json` is that of every state of this model.
pub fn state_files(step: u64, flavour: &str) -> Vec<(String, Vec<u8>)> {
    made(step, flavour).0
}

/// The bytes of a manifest of this state.
pub fn state_manifest(training: Digest, step: u64, flavour: &str, files: Vec<FileEntry>) -> Vec<u8> {
    let root = made(step, flavour).1;
    Manifest::new(step, training, root, [1.0, 1.0], files).unwrap().to_bytes().unwrap()
}

/// What stands for the files of a checkpoint, by name, where nobody reads them.
pub fn checkpoint_files(step: u64, flavour: &str) -> Vec<(String, Vec<u8>)> {
    FILES
        .iter()
        .map(|path| ((*path).to_owned(), format!("{flavour}{path} after {step}").into_bytes()))
        .collect()
}

/// The bytes of their manifest.
pub fn manifest_of(training: Digest, step: u64, files: Vec<FileEntry>) -> Vec<u8> {
    Manifest::new(step, training, Digest::of(b"state"), [1.0, 1.0], files).unwrap().to_bytes().unwrap()
}

/// As [`checkpoint`], recorded for the job.
pub async fn recorded(store: &Store, job: &str, step: u64) -> (Digest, Vec<Digest>) {
    let (manifest, digests) = checkpoint(store, Digest::of(b"job"), step, "").await;
    assert_eq!(store.record_checkpoint(job, step, &manifest).await.unwrap(), Recorded::New);
    (manifest, digests)
}

/// A namespace; its uid follows from its name.
pub fn team(name: &str) -> Namespace {
    let hex = Digest::of(name.as_bytes()).to_hex();
    Namespace::new(name, &format!("{}-0000-4000-8000-000000000000", &hex[..8])).unwrap()
}

/// Imports a dataset of this text.
pub async fn dataset(store: &Store, namespace: &Namespace, name: &str, text: &[u8]) -> Digest {
    let dir = tempfile::tempdir().unwrap();
    let (input, out) = (dir.path().join("text"), dir.path().join("out"));
    std::fs::write(&input, text).unwrap();
    muster_trainer::dataset::prepare(&[&input], &out).unwrap();
    store.import_dataset(namespace, name, &out).await.unwrap()
}

/// A model's directory, its manifest's bytes and its files by name.
pub fn weights(flavour: &str) -> (tempfile::TempDir, Vec<u8>, Vec<Vec<u8>>) {
    let dir = tempfile::tempdir().unwrap();
    let is_read = |(name, _): &(String, Vec<u8>)| name != FILES[2];
    let files: Vec<_> = state_files(0, flavour).into_iter().filter(is_read).collect();
    for (name, bytes) in &files {
        std::fs::write(dir.path().join(name), bytes).unwrap();
    }
    let (_, _, state) = hf::open(dir.path(), &mut |_| {}).unwrap();
    let manifest = hf::Manifest::of(dir.path(), &state, &mut |_| {}).unwrap();
    (dir, manifest.to_bytes().unwrap(), files.into_iter().map(|(_, bytes)| bytes).collect())
}

/// Puts that model under a name; its manifest and its files.
pub async fn named_weights(store: &Store, namespace: &Namespace, name: &str) -> (Digest, Vec<Digest>) {
    let (_dir, manifest, bytes) = weights("");
    let mut files = Vec::new();
    for bytes in bytes {
        files.push(store.put_bytes(bytes).await.unwrap());
    }
    let manifest = store.put_bytes(manifest).await.unwrap();
    store.set_name(Asset::Model, namespace, name, &manifest).await.unwrap();
    (manifest, files)
}

/// The part of a resolved spec of 40 steps that says what it reads beside its dataset.
pub fn spec(inputs: Inputs) -> Vec<u8> {
    let mut spec = serde_json::json!({"training": {"steps": 40}});
    if let Some(manifest) = inputs.held_out {
        spec["training"]["eval"] = serde_json::json!({"data": {"manifest": manifest}, "everySteps": 10});
    }
    if let Some(manifest) = inputs.init {
        spec["init"] = serde_json::json!({"manifest": manifest});
    }
    muster_proof::jcs::to_vec(&spec).unwrap()
}

/// A bucket in memory with faults.
#[derive(Debug, Default)]
pub struct Faulty {
    inner: Arc<InMemory>,
    faults: Arc<Faults>,
}

/// What is to go wrong. Each fault happens until it is taken back.
#[derive(Debug, Default)]
pub struct Faults {
    /// Words of the error with which every write ends.
    pub writes: Mutex<Option<&'static str>>,
    /// Words of the error with which parts from the second on end.
    pub parts: Mutex<Option<&'static str>>,
    /// Words of the error with which multipart uploads are not completed.
    pub complete: Mutex<Option<&'static str>>,
    /// Words of the error with which every read ends.
    pub reads: Mutex<Option<&'static str>>,
    /// Multipart uploads that were given up.
    pub aborted: AtomicUsize,
}

impl Faulty {
    /// The bucket's faults and what it holds.
    pub fn new() -> (Self, Arc<Faults>, Arc<InMemory>) {
        let bucket = Self::default();
        let (faults, inner) = (bucket.faults.clone(), bucket.inner.clone());
        (bucket, faults, inner)
    }
}

/// Sets a fault, or takes it back.
pub fn set(fault: &Mutex<Option<&'static str>>, words: Option<&'static str>) {
    *fault.lock().unwrap() = words;
}

fn check(fault: &Mutex<Option<&'static str>>) -> Result<()> {
    match *fault.lock().unwrap() {
        Some(words) => Err(Error::Generic { store: "test", source: words.into() }),
        None => Ok(()),
    }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Faulty")
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        check(&self.faults.writes)?;
        self.inner.put_opts(path, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        check(&self.faults.writes)?;
        let inner = self.inner.put_multipart_opts(path, options).await?;
        Ok(Box::new(FaultyUpload { inner, faults: self.faults.clone(), parts: 0 }))
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        check(&self.faults.reads)?;
        self.inner.get_opts(path, options).await
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match check(&self.faults.reads) {
            Ok(()) => self.inner.list(prefix),
            Err(error) => futures::stream::once(async { Err(error) }).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        check(&self.faults.reads)?;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

#[derive(Debug)]
struct FaultyUpload {
    inner: Box<dyn MultipartUpload>,
    faults: Arc<Faults>,
    parts: usize,
}

#[async_trait]
impl MultipartUpload for FaultyUpload {
    fn put_part(&mut self, payload: PutPayload) -> UploadPart {
        self.parts += 1;
        match check(&self.faults.parts) {
            Err(error) if self.parts > 1 => Box::pin(async { Err(error) }),
            _ => self.inner.put_part(payload),
        }
    }

    async fn complete(&mut self) -> Result<PutResult> {
        check(&self.faults.complete)?;
        self.inner.complete().await
    }

    async fn abort(&mut self) -> Result<()> {
        self.faults.aborted.fetch_add(1, Ordering::SeqCst);
        self.inner.abort().await
    }
}
