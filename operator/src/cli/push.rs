//! A dataset or a model to the hub through its gateway. What is there already is not sent again, so the same command goes on where one
//! was cut off.
use super::data::{label, split};
use super::remote::{Gateway, Remote, Trouble, again, send, send_long};
use super::transfer::{AT_ONCE, Transfer};
use super::{Failure, Outcome, output};
use crate::store::Asset;
use crate::wire::gateway::{Datasets, ManifestRef, Models};
use axum::body::Bytes;
use clap::Args;
use futures::{StreamExt, TryStreamExt};
use muster_proof::Digest;
use reqwest::{Method, StatusCode, header};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio_util::io::ReaderStream;

/// A file is read in pieces of this size.
const PIECE: usize = 256 * 1024;
/// Rounds in which what the hub lost meanwhile is sent again.
const ROUNDS: usize = 3;

/// Where to, and what if something is there.
#[derive(Debug, Args)]
pub(super) struct Destination {
    /// Namespace and name that jobs use
    #[arg(value_name = "NAMESPACE/NAME")]
    name: String,
    /// Let the name lead to this one if it leads to another one now
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    remote: Remote,
}

/// A file of a manifest.
#[derive(Debug)]
pub(super) struct Part {
    pub path: PathBuf,
    pub sha256: Digest,
    pub size: u64,
}

/// What is sent.
#[derive(Debug)]
pub(super) struct Upload {
    pub asset: Asset,
    /// The manifest's bytes.
    pub manifest: Vec<u8>,
    pub parts: Vec<Part>,
    /// Of them, for whoever reads what is said at the end.
    pub description: String,
    /// The code to end with if a file is not what the manifest says.
    pub corrupt: u8,
}

impl Destination {
    /// Whether the name can be one, before much is read.
    pub fn check(&self) -> Result<(), Failure> {
        let (namespace, name) = split(&self.name)?;
        label(namespace)?;
        label(name)?;
        Ok(())
    }

    /// Sends it, and prints the manifest's digest.
    pub async fn send(&self, upload: &Upload) -> Outcome {
        let (namespace, name) = split(&self.name)?;
        let digest = Digest::of(&upload.manifest);
        let gateway = self.remote.connect().await?;
        let to = To { gateway: &gateway, namespace: label(namespace)?, name: label(name)? };
        if !self.replace {
            to.check_name(upload.asset, &digest).await?;
        }
        let bar = Transfer::start("sending", upload.parts.iter().map(|part| part.size).sum());
        let sent = to.send(upload, &digest, self.replace, &bar).await;
        bar.end();
        sent?;
        output::note(format_args!("{}: {}", self.name, upload.description));
        output::line(digest)?;
        Ok(0)
    }
}

/// A name at a gateway.
struct To<'a> {
    gateway: &'a Gateway,
    namespace: &'a str,
    name: &'a str,
}

impl To<'_> {
    async fn send(
        &self,
        upload: &Upload,
        digest: &Digest,
        replace: bool,
        bar: &Transfer,
    ) -> Result<(), Failure> {
        let mut round = 0;
        loop {
            round += 1;
            // First what is small: who may not hears why, which an answer to HEAD cannot say.
            self.put_bytes(digest, &upload.manifest).await?;
            let files =
                futures::stream::iter(&upload.parts).map(|part| self.send_file(part, upload.corrupt, bar));
            files.buffer_unordered(AT_ONCE).try_collect::<()>().await?;
            match self.place(upload.asset, digest, replace).await {
                Ok(()) => return Ok(()),
                // What was sent long ago may be gone: an upload of days.
                Err(Trouble::Refused(_, refused)) if refused.reason == "BlobMissing" && round < ROUNDS => {}
                Err(Trouble::Refused(_, refused)) if refused.reason == "NameTaken" => {
                    return Err(self.taken(upload.asset));
                }
                Err(trouble) => return Err(trouble.into()),
            }
        }
    }

    /// Says before anything is sent what would be said at the end. Who may push but not list hears it then.
    async fn check_name(&self, asset: Asset, digest: &Digest) -> Result<(), Failure> {
        let path = format!("/v1/namespaces/{}/{}", self.namespace, asset.plural());
        let there = match asset {
            Asset::Dataset => self.gateway.get::<Datasets>(&path).await.ok().and_then(|list| {
                list.datasets.into_iter().find(|one| one.name == self.name).map(|one| one.manifest)
            }),
            Asset::Model => self.gateway.get::<Models>(&path).await.ok().and_then(|list| {
                list.models.into_iter().find(|one| one.name == self.name).map(|one| one.manifest)
            }),
        };
        if there.is_some_and(|there| there != *digest) { Err(self.taken(asset)) } else { Ok(()) }
    }

    fn taken(&self, asset: Asset) -> Failure {
        Failure::new(format!(
            "{}/{} is another {}; give --replace, or take another name",
            self.namespace,
            self.name,
            asset.word()
        ))
    }

    fn blob(&self, digest: &Digest) -> String {
        format!("/v1/namespaces/{}/blobs/sha256/{}", self.namespace, digest.to_hex())
    }

    async fn send_file(&self, part: &Part, corrupt: u8, bar: &Transfer) -> Result<(), Failure> {
        let (url, path) = (self.blob(&part.sha256), &part.path);
        let there = again(|| async {
            match send(self.gateway.request(Method::HEAD, &url).await?).await {
                Ok(_) => Ok(true),
                Err(Trouble::Refused(StatusCode::NOT_FOUND, _)) => Ok(false),
                Err(trouble) => Err(trouble),
            }
        });
        if there.await? {
            bar.add(part.size);
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
            let request = self.gateway.request(Method::PUT, &url).await?;
            let request = request.header(header::CONTENT_LENGTH, part.size);
            let answer = send_long(request.body(reqwest::Body::wrap_stream(pieces)), &counted).await;
            if answer.is_err() {
                bar.take_back(counted.load(Ordering::Relaxed));
            }
            answer.map(|_| ())
        });
        match sent.await {
            Err(Trouble::Refused(_, refused)) if refused.reason == "DigestMismatch" => {
                let text = format!("{} is corrupt: its bytes are not what the manifest says", path.display());
                Err(Failure::with_code(corrupt, text))
            }
            other => Ok(other?),
        }
    }

    async fn put_bytes(&self, digest: &Digest, bytes: &[u8]) -> Result<(), Failure> {
        let url = self.blob(digest);
        let put = again(|| async {
            let request = self.gateway.request(Method::PUT, &url).await?;
            send(request.header(header::CONTENT_LENGTH, bytes.len()).body(bytes.to_vec())).await
        });
        Ok(put.await.map(|_| ())?)
    }

    async fn place(&self, asset: Asset, digest: &Digest, replace: bool) -> Result<(), Trouble> {
        let query = if replace { "?replace=true" } else { "" };
        let url = format!("/v1/namespaces/{}/{}/{}{query}", self.namespace, asset.plural(), self.name);
        let put = again(|| async {
            let request = self.gateway.request(Method::PUT, &url).await?;
            send(request.json(&ManifestRef { manifest: *digest })).await
        });
        put.await.map(|_| ())
    }
}
