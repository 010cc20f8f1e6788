//! Reading a checkpoint back (section 6): its StateRoot is recomputed from what the store has, not from what an agent said of it.
//! Only then is a commit logged, for a state that nobody can fetch, or another one, would be worth nothing to an auditor.
//!
//! Blobs are streamed, a tensor at a time, on as many threads as there are cores. The threads are shared: whoever asks waits
//! for one with everybody else, tensor by tensor, and a provider has one checkpoint at a time read back.
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::available_parallelism;

use futures::{StreamExt, TryStreamExt};
use muster_proof::Digest;
use muster_trainer::checkpoint::{
    CONFIG_FILE, INDEX_FILE, Layout, MAX_CONFIG, Manifest, Part, render_config,
};
use muster_trainer::resolved::{MAX_SPEC, read_spec};
use sha2::{Digest as _, Sha256};
use tokio::runtime::Handle;
use tokio::sync::{Mutex as Turn, Semaphore};

use crate::store::Store;

/// What a provider's turn is; those of providers that ask nothing now are forgotten.
type Turns = Mutex<HashMap<String, Weak<Turn<()>>>>;

/// See the module.
#[derive(Debug)]
pub struct ReadBack {
    threads: Arc<Semaphore>,
    at_once: usize,
    turns: Turns,
}

/// Why there is no StateRoot.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file is not what such a checkpoint has.
    #[error("{file}: {problem}")]
    Wrong {
        /// Its name.
        file: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] io::Error),
    /// A fault of this program, or a spec that is none.
    #[error("{0}")]
    Internal(String),
}

impl Default for ReadBack {
    fn default() -> Self {
        let at_once = available_parallelism().map_or(1, usize::from);
        Self { threads: Arc::new(Semaphore::new(at_once)), at_once, turns: Mutex::default() }
    }
}

impl ReadBack {
    /// The StateRoot of the files that a manifest names, of a job with this resolved spec. The manifest's own is not looked at.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn state_root(
        &self,
        store: &Arc<Store>,
        provider: &str,
        spec: &Digest,
        manifest: &Manifest,
    ) -> Result<Digest, Error> {
        let turn = self.turn(provider);
        let _turn = turn.lock().await;
        let layout = Arc::new(layout(store, spec, manifest).await?);
        check_headers(store, &layout, manifest).await?;
        let roots = futures::stream::iter(0..layout.parts().len()).map(|index| {
            let (store, layout, threads) = (store.clone(), layout.clone(), self.threads.clone());
            let manifest = manifest.clone();
            async move {
                let _permit = threads.acquire_owned().await.map_err(internal)?;
                let runtime = Handle::current();
                let work = move || match layout.parts().get(index) {
                    Some(part) => runtime.block_on(root(&store, part, &manifest)),
                    None => Err(Error::Internal(format!("no tensor {index}"))),
                };
                tokio::task::spawn_blocking(work).await.map_err(internal)?
            }
        });
        let roots: Vec<Digest> = roots.buffered(self.at_once).try_collect().await?;
        layout.state_root(manifest.step(), manifest.beta_products(), &roots).map_err(internal)
    }

    /// Removes the files whose bytes are not those of their digest: then they can be put once more. Names them.
    ///
    /// # Errors
    /// The store's.
    pub async fn remove_damaged(&self, store: &Store, manifest: &Manifest) -> io::Result<Vec<String>> {
        let mut damaged = Vec::new();
        for file in manifest.files() {
            let Some(mut stream) = store.stream(&file.sha256, 0..file.size).await? else { continue };
            let mut sha = Sha256::new();
            while let Some(piece) = stream.try_next().await? {
                sha.update(&piece);
            }
            if Digest::from_bytes(sha.finalize().into()) != file.sha256 {
                tracing::error!(digest = %file.sha256, file = file.path, "blob is damaged in the store; removed");
                store.remove(&file.sha256).await?;
                damaged.push(file.path.clone());
            }
        }
        Ok(damaged)
    }

    fn turn(&self, provider: &str) -> Arc<Turn<()>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(turn) = turns.get(provider).and_then(Weak::upgrade) {
            return turn;
        }
        turns.retain(|_, turn| turn.strong_count() > 0);
        let turn = Arc::new(Turn::new(()));
        turns.insert(provider.to_owned(), Arc::downgrade(&turn));
        turn
    }
}

/// Where the tensors lie in the files of this job's model, which `config.json` must describe.
async fn layout(store: &Store, spec: &Digest, manifest: &Manifest) -> Result<Layout, Error> {
    let spec = store.read(spec, MAX_SPEC).await?;
    let spec = spec.ok_or_else(|| io::Error::other("the store does not have the job's resolved spec"))?;
    let config = file(manifest, CONFIG_FILE)?;
    let config = store.read(&config.0, MAX_CONFIG).await.map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => wrong(CONFIG_FILE, "is too long"),
        _ => Error::Store(error),
    })?;
    let made = tokio::task::spawn_blocking(move || {
        let (spec, graph) = read_spec(&spec).map_err(internal)?;
        Ok::<_, Error>((render_config(&spec.model), Layout::of(&graph).map_err(internal)?))
    });
    let (want, layout) = made.await.map_err(internal)??;
    match config {
        Some(config) if config == want.as_bytes() => Ok(layout),
        _ => Err(wrong(CONFIG_FILE, "does not describe the job's model")),
    }
}

/// Names, shapes and places of all tensors, before one of them is read.
async fn check_headers(store: &Store, layout: &Layout, manifest: &Manifest) -> Result<(), Error> {
    if let Some(want) = layout.index()
        && file(manifest, INDEX_FILE)?.0 != Digest::of(want)
    {
        return Err(wrong(INDEX_FILE, "does not say where the model's tensors are"));
    }
    for want in layout.files() {
        let (digest, size) = file(manifest, &want.name)?;
        let mut there = Vec::new();
        if size == want.size
            && let Some(mut stream) = store.stream(&digest, 0..want.header.len() as u64).await?
        {
            while let Some(piece) = stream.try_next().await? {
                there.extend_from_slice(&piece);
            }
        }
        if there != want.header {
            return Err(wrong(&want.name, "does not hold the model's tensors, and only them"));
        }
    }
    Ok(())
}

/// The root of one tensor; on a thread that may be kept busy.
async fn root(store: &Store, part: &Part, manifest: &Manifest) -> Result<Digest, Error> {
    let (digest, _) = file(manifest, &part.file)?;
    let mut hasher = part.hasher().map_err(internal)?;
    let stream = store.stream(&digest, part.range.clone()).await?;
    let mut stream = stream.ok_or_else(|| io::Error::other("the blob was collected meanwhile"))?;
    while let Some(piece) = stream.try_next().await? {
        hasher.update(&piece).map_err(internal)?;
    }
    hasher.finish().map_err(|_| wrong(&part.file, "is shorter in the store than its size"))
}

fn file(manifest: &Manifest, name: &str) -> Result<(Digest, u64), Error> {
    let found = manifest.files().iter().find(|file| file.path == name);
    found.map(|file| (file.sha256, file.size)).ok_or_else(|| wrong(name, "is not named by the manifest"))
}

fn wrong(file: &str, problem: &'static str) -> Error {
    Error::Wrong { file: file.to_owned(), problem }
}

fn internal(error: impl std::fmt::Display) -> Error {
    Error::Internal(error.to_string())
}
