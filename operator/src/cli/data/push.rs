//! `muster data push`: a dataset to the hub through its gateway. What is there already is not sent again, so the same
//! command goes on where one was cut off.
use super::{Remote, Transfer, describe, label, split};
use crate::cli::output::{line, note};
use crate::cli::remote::{Gateway, Trouble, again, send, send_long};
use crate::cli::transfer::AT_ONCE;
use crate::cli::{Failure, Outcome};
use crate::runtime::files::read_capped;
use crate::wire::gateway::{Datasets, ManifestRef};
use axum::body::Bytes;
use clap::Args;
use futures::{StreamExt, TryStreamExt};
use muster_proof::Digest;
use muster_trainer::dataset::{self, MANIFEST_FILE, MAX_MANIFEST, Manifest, Shard};
use reqwest::{Method, StatusCode, header};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio_util::io::ReaderStream;

/// A file is read in pieces of this size.
const PIECE: usize = 256 * 1024;
/// Rounds in which what the hub lost meanwhile is sent again.
const ROUNDS: usize = 3;

#[derive(Debug, Args)]
pub struct Push {
    /// Namespace and name that jobs use
    #[arg(value_name = "NAMESPACE/NAME")]
    name: String,
    /// The dataset
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Let the name lead to this dataset if it leads to another one now
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    remote: Remote,
}

impl Push {
    pub async fn run(self) -> Outcome {
        let (namespace, name) = split(&self.name)?;
        let (namespace, name) = (label(namespace)?, label(name)?);
        let (manifest, bytes) = open(&self.dir)?;
        let digest = Digest::of(&bytes);
        let gateway = self.remote.connect().await?;
        if !self.replace {
            check_name(&gateway, namespace, name, &digest).await?;
        }
        let total = manifest.files().iter().map(|file| file.size).sum();
        let bar = Transfer::start("sending", total);
        let sent = self.send(&gateway, namespace, name, &manifest, &bytes, &bar).await;
        bar.end();
        sent?;
        note(format_args!("{namespace}/{name}: {}", describe(&manifest)));
        line(digest)?;
        Ok(0)
    }

    async fn send(
        &self,
        gateway: &Gateway,
        namespace: &str,
        name: &str,
        manifest: &Manifest,
        bytes: &[u8],
        bar: &Transfer,
    ) -> Result<(), Failure> {
        let mut round = 0;
        loop {
            round += 1;
            // First what is small: who may not hears why, which an answer to HEAD cannot say.
            let digest = Digest::of(bytes);
            put_bytes(gateway, namespace, &digest, bytes).await?;
            let files = futures::stream::iter(manifest.files()).map(|file| {
                let path = self.dir.join(&file.path);
                async move { send_file(gateway, namespace, &path, &file, bar).await }
            });
            files.buffer_unordered(AT_ONCE).try_collect::<()>().await?;
            match place(gateway, namespace, name, &digest, self.replace).await {
                Ok(()) => return Ok(()),
                // What was sent long ago may be gone: an upload of days.
                Err(Trouble::Refused(_, refused)) if refused.reason == "BlobMissing" && round < ROUNDS => {}
                Err(Trouble::Refused(_, refused)) if refused.reason == "NameTaken" => {
                    return Err(taken(namespace, name));
                }
                Err(trouble) => return Err(trouble.into()),
            }
        }
    }
}

/// The manifest and its bytes. Of the files only their sizes are looked at: the gateway hashes what it gets.
fn open(dir: &Path) -> Result<(Manifest, Vec<u8>), Failure> {
    let path = dir.join(MANIFEST_FILE);
    if !path.is_file() {
        return Err(dataset::Error::Missing(dir.display().to_string()).into());
    }
    let bytes = read_capped(&path, MAX_MANIFEST)?;
    let manifest = Manifest::parse(&bytes)?;
    for shard in manifest.files() {
        let path = dir.join(&shard.path);
        let size = path.metadata().map_err(|e| Failure::new(format!("{}: {e}", path.display())))?.len();
        if size != shard.size {
            let problem = format!("has {size} bytes, the manifest says {}", shard.size);
            return Err(dataset::Error::Corrupt { path: path.display().to_string(), problem }.into());
        }
    }
    Ok((manifest, bytes))
}

/// Says before anything is sent what would be said at the end. Who may push but not list hears it then.
async fn check_name(gateway: &Gateway, namespace: &str, name: &str, digest: &Digest) -> Result<(), Failure> {
    let list = gateway.get::<Datasets>(&format!("/v1/namespaces/{namespace}/datasets")).await;
    let Ok(list) = list else { return Ok(()) };
    match list.datasets.iter().find(|one| one.name == name) {
        Some(one) if one.manifest != *digest => Err(taken(namespace, name)),
        _ => Ok(()),
    }
}

fn taken(namespace: &str, name: &str) -> Failure {
    Failure::new(format!("{namespace}/{name} is another dataset; give --replace, or take another name"))
}

fn blob(namespace: &str, digest: &Digest) -> String {
    format!("/v1/namespaces/{namespace}/blobs/sha256/{}", digest.to_hex())
}

async fn send_file(
    gateway: &Gateway,
    namespace: &str,
    path: &Path,
    shard: &Shard,
    bar: &Transfer,
) -> Result<(), Failure> {
    let url = blob(namespace, &shard.sha256);
    let there = again(|| async {
        match send(gateway.request(Method::HEAD, &url).await?).await {
            Ok(_) => Ok(true),
            Err(Trouble::Refused(StatusCode::NOT_FOUND, _)) => Ok(false),
            Err(trouble) => Err(trouble),
        }
    });
    if there.await? {
        bar.add(shard.size);
        return Ok(());
    }
    let sent = again(|| async {
        let file = tokio::fs::File::open(path).await;
        let file = file.map_err(|error| Failure::new(format!("{}: {error}", path.display())))?;
        let counted = Arc::new(AtomicU64::new(0));
        let (count, seen) = (counted.clone(), bar.clone());
        let pieces = ReaderStream::with_capacity(file, PIECE).inspect_ok(move |piece: &Bytes| {
            count.fetch_add(piece.len() as u64, Ordering::Relaxed);
            seen.add(piece.len() as u64);
        });
        let request = gateway.request(Method::PUT, &url).await?;
        let request = request.header(header::CONTENT_LENGTH, shard.size);
        let answer = send_long(request.body(reqwest::Body::wrap_stream(pieces)), &counted).await;
        if answer.is_err() {
            bar.take_back(counted.load(Ordering::Relaxed));
        }
        answer.map(|_| ())
    });
    match sent.await {
        Err(Trouble::Refused(_, refused)) if refused.reason == "DigestMismatch" => {
            let problem = "its bytes are not what the manifest says".to_owned();
            Err(dataset::Error::Corrupt { path: path.display().to_string(), problem }.into())
        }
        other => Ok(other?),
    }
}

async fn put_bytes(gateway: &Gateway, namespace: &str, digest: &Digest, bytes: &[u8]) -> Result<(), Failure> {
    let url = blob(namespace, digest);
    let put = again(|| async {
        let request = gateway.request(Method::PUT, &url).await?;
        send(request.header(header::CONTENT_LENGTH, bytes.len()).body(bytes.to_vec())).await
    });
    Ok(put.await.map(|_| ())?)
}

async fn place(
    gateway: &Gateway,
    namespace: &str,
    name: &str,
    digest: &Digest,
    replace: bool,
) -> Result<(), Trouble> {
    let query = if replace { "?replace=true" } else { "" };
    let url = format!("/v1/namespaces/{namespace}/datasets/{name}{query}");
    let put = again(|| async {
        let request = gateway.request(Method::PUT, &url).await?;
        send(request.json(&ManifestRef { manifest: *digest })).await
    });
    put.await.map(|_| ())
}
