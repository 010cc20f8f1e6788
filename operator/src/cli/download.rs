//! `muster download`: a job's checkpoint through the hub's gateway, checked to the last bit, with what is signed of it (`signed`).
//!
//! Files arrive in a directory beside the one that is asked for, `.NAME.partial`, under their digests. What is there is not
//! fetched again, so the same command goes on where one was cut off. The directory appears when everything in it is right.
mod signed;

use super::data::{label, split};
use super::output::{line, note};
use super::remote::{Gateway, Remote, SILENCE, Trouble, again, piece, send};
use super::run::block_on;
use super::transfer::{AT_ONCE, Transfer};
use super::{Failure, Outcome};
use crate::runtime::files::{read_capped, sync_dir};
use crate::runtime::sanitise;
use crate::wire::gateway::{Checkpoint, Checkpoints};
use crate::wire::urls::{JobUrlRequest, UrlAnswer};
use clap::Args;
use futures::{StreamExt, TryStreamExt};
use muster_proof::Digest;
use muster_trainer::checkpoint::{self, MANIFEST_FILE, MAX_MANIFEST, Manifest};
use muster_trainer::files;
use reqwest::{Method, RequestBuilder, StatusCode, header};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::AsyncWriteExt;

/// Gets a checkpoint of a job.
#[derive(Debug, Args)]
pub struct DownloadCommand {
    /// The job
    #[arg(value_name = "NAMESPACE/JOB")]
    job: String,
    /// Directory to make; it appears whole or not at all
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Fetch from the hub's bucket itself, where its store is one: the gateway gives a URL for each file
    #[arg(long)]
    direct: bool,
    /// The step [default: the newest]
    #[arg(long, value_name = "N")]
    step: Option<u64>,
    #[command(flatten)]
    remote: Remote,
    /// How long to wait until a witness has cosigned the log's head with the checkpoint's commit
    #[arg(long, value_name = "SECONDS", default_value_t = 15)]
    wait: u64,
}

impl DownloadCommand {
    pub fn run(self) -> Outcome {
        block_on(self.get())?
    }

    async fn get(self) -> Outcome {
        let (namespace, job) = split(&self.job)?;
        let namespace = label(namespace)?;
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
        if !job.bytes().all(plain) {
            return Err(Failure::usage(format!("{job:?} is not the name of a TrainingJob")));
        }
        let gateway = self.remote.connect().await?;
        let base = format!("/v1/namespaces/{namespace}/jobs/{job}");
        let list: Checkpoints = gateway.get(&format!("{base}/checkpoints")).await?;
        let chosen = choose(&list, self.step, &self.job)?;
        if is_there(&self.out, chosen)? {
            note(format_args!("{}: is there already", self.out.display()));
        } else {
            let bucket = self.direct.then(bucket_client).transpose()?;
            let source = Source { gateway: &gateway, base: &base, bucket };
            fetch(&source, chosen, &self.out).await?;
        }
        let beside = signed::add(&gateway, &base, &self.out, Duration::from_secs(self.wait)).await?;
        for said in signed::say(&beside) {
            note(format_args!("{}: {said}", self.out.display()));
        }
        note(format_args!("{}: the state after step {}", self.out.display(), chosen.step));
        line(format_args!("stateRoot {}", chosen.state_root))?;
        Ok(0)
    }
}

fn choose<'a>(list: &'a Checkpoints, step: Option<u64>, job: &str) -> Result<&'a Checkpoint, Failure> {
    let all = &list.checkpoints;
    let found = match step {
        Some(step) => all.iter().find(|one| one.step == step),
        None => all.iter().max_by_key(|one| one.step),
    };
    found.ok_or_else(|| {
        let steps: Vec<_> = all.iter().map(|one| one.step.to_string()).collect();
        let have = if steps.is_empty() { "none yet".into() } else { steps.join(", ") };
        Failure::new(format!("job {job} has no such checkpoint; it has {have}"))
    })
}

/// Whether the directory is this very checkpoint. Anything else in its place is left alone.
fn is_there(out: &Path, chosen: &Checkpoint) -> Result<bool, Failure> {
    if fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_none()) || !out.exists() {
        return Ok(false);
    }
    let manifest = read_capped(&out.join(MANIFEST_FILE), MAX_MANIFEST);
    if manifest.is_ok_and(|bytes| Digest::of(&bytes) == chosen.manifest) {
        checkpoint::open(out)?;
        return Ok(true);
    }
    Err(Failure::new(format!("{} exists and holds something else; choose another --out", out.display())))
}

pub(super) struct Source<'a> {
    gateway: &'a Gateway,
    base: &'a str,
    /// For what is fetched past the gateway.
    bucket: Option<reqwest::Client>,
}

/// Believes the CAs of this machine; a bucket is no part of the hub.
fn bucket_client() -> Result<reqwest::Client, Failure> {
    let built = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .connect_timeout(Duration::from_secs(5))
        .build();
    built.map_err(|error| Failure::new(format!("--direct: {error}; fetch without it")))
}

impl<'a> Source<'a> {
    /// What comes through the gateway.
    pub(super) fn new(gateway: &'a Gateway, base: &'a str) -> Self {
        Self { gateway, base, bucket: None }
    }

    /// A file's bytes from `have` on. What the bucket does not give comes through the gateway.
    async fn open(&self, digest: &Digest, have: u64) -> Result<reqwest::Response, Trouble> {
        let part = |request: RequestBuilder| match have {
            0 => request,
            _ => request.header(header::RANGE, format!("bytes={have}-")),
        };
        if let Some(bucket) = &self.bucket {
            let asked = JobUrlRequest { digest: *digest };
            let answer: UrlAnswer = self.gateway.post(&format!("{}/urls", self.base), &asked).await?;
            if answer.direct {
                let sent = tokio::time::timeout(SILENCE, part(bucket.get(&answer.url)).send()).await;
                match sent.map_err(|_| "no answer".to_owned()).and_then(|sent| sent.map_err(without_url)) {
                    Ok(answer) if answer.status().is_success() => return Ok(answer),
                    Ok(answer) => tracing::debug!(status = %answer.status(), "not from the bucket"),
                    Err(error) => tracing::debug!(error, "not from the bucket"),
                }
            }
        }
        let url = format!("{}/blobs/sha256/{}", self.base, digest.to_hex());
        send(part(self.gateway.request(Method::GET, &url).await?)).await
    }
}

/// The URL is a credential.
fn without_url(error: reqwest::Error) -> String {
    error.without_url().to_string()
}

/// One file on its way.
#[derive(Debug, Clone)]
pub(super) struct File {
    pub name: String,
    pub digest: Digest,
    pub size: Option<u64>,
}

async fn fetch(source: &Source<'_>, chosen: &Checkpoint, out: &Path) -> Result<(), Failure> {
    let dir = partial(out)?;
    files::create_dirs(&dir)?;
    let manifest = File { name: MANIFEST_FILE.into(), digest: chosen.manifest, size: None };
    let path = whole(source, &dir, &manifest, MAX_MANIFEST, &Transfer::start("fetching", 0)).await?;
    let parsed = Manifest::parse(&read_capped(&path, MAX_MANIFEST)?).map_err(|problem| {
        Failure::new(format!("the checkpoint's manifest: {}", sanitise::line(&problem, 300)))
    })?;
    let entry = |file: &checkpoint::FileEntry| File {
        name: file.path.clone(),
        digest: file.sha256,
        size: Some(file.size),
    };
    let files: Vec<File> = parsed.files().iter().map(entry).collect();
    forget_others(&dir, files.iter().chain([&manifest]))?;

    let bar = Transfer::start("fetching", parsed.files().iter().map(|file| file.size).sum());
    let (seen, into) = (&bar, &dir);
    let fetched = futures::stream::iter(files.clone()).map(|file| async move {
        let size = file.size.unwrap_or(0);
        whole(source, into, &file, size, seen).await.map(|_| ())
    });
    let fetched: Result<(), Failure> = fetched.buffer_unordered(AT_ONCE).try_collect().await;
    bar.end();
    fetched?;
    for file in files.iter().chain([&manifest]) {
        let path = dir.join(&file.name);
        fs::rename(part(&dir, &file.digest), &path)
            .map_err(|e| Failure::new(format!("{}: {e}", path.display())))?;
    }
    // The files are what the manifest says; this recomputes the StateRoot from the values themselves.
    let opened = dir.clone();
    tokio::task::spawn_blocking(move || checkpoint::open(&opened).map(|_| ())).await??;
    if parsed.state_root() != chosen.state_root {
        return Err(Failure::new(
            "the gateway's list and the checkpoint's manifest differ; tell the hub's admin",
        ));
    }
    sync_dir(&dir)?;
    fs::rename(&dir, out).map_err(|error| Failure::new(format!("{}: {error}", out.display())))?;
    Ok(sync_dir(parent(out))?)
}

/// Where the files are until all are there.
fn partial(out: &Path) -> Result<PathBuf, Failure> {
    let name =
        out.file_name().ok_or_else(|| Failure::usage(format!("--out {}: not a name", out.display())))?;
    Ok(parent(out).join(format!(".{}.partial", name.to_string_lossy())))
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn part(dir: &Path, digest: &Digest) -> PathBuf {
    dir.join(format!("{}.part", digest.to_hex()))
}

/// Removes what an earlier command left for another checkpoint, and takes back names that it gave before it was stopped.
fn forget_others<'a>(dir: &Path, files: impl Iterator<Item = &'a File> + Clone) -> Result<(), Failure> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if files.clone().any(|file| path == part(dir, &file.digest)) {
            continue;
        }
        match files.clone().find(|file| path == dir.join(&file.name)) {
            Some(file) => fs::rename(&path, part(dir, &file.digest))?,
            None => fs::remove_file(&path)?,
        }
    }
    Ok(())
}

/// Fetches a file of at most `max` bytes, or the rest of it; gives its path once its digest is right.
pub(super) async fn whole(
    source: &Source<'_>,
    dir: &Path,
    file: &File,
    max: u64,
    bar: &Transfer,
) -> Result<PathBuf, Failure> {
    let path = part(dir, &file.digest);
    // Once more from the beginning if what was there, from an earlier time, is not what it should be.
    for _ in 0..2 {
        again(|| rest(source, &path, file, max, bar)).await?;
        let at = path.clone();
        let (digest, size) = tokio::task::spawn_blocking(move || files::digest(&at)).await??;
        if digest == file.digest {
            return Ok(path);
        }
        bar.take_back(size);
        fs::remove_file(&path)?;
    }
    let name = sanitise::line(&file.name, 63);
    Err(Failure::new(format!("{name} does not have the digest {}; tell the hub's admin", file.digest)))
}

/// Appends what is missing.
async fn rest(
    source: &Source<'_>,
    path: &Path,
    file: &File,
    max: u64,
    bar: &Transfer,
) -> Result<(), Trouble> {
    let disk = |error: std::io::Error| Trouble::Fatal(Failure::new(format!("{}: {error}", path.display())));
    let have = path.metadata().map_or(0, |meta| meta.len());
    if have > max {
        fs::remove_file(path).map_err(disk)?;
        return Err(Trouble::Passing(format!("{} is too long", path.display()), None));
    }
    // Seen anew in each try; the bar goes back if the try fails.
    bar.add(have);
    let fetched = async {
        if file.size == Some(have) {
            return Ok(have);
        }
        let mut answer = match source.open(&file.digest, have).await {
            // All of it is there: only for a file whose size was not known.
            Err(Trouble::Refused(StatusCode::RANGE_NOT_SATISFIABLE, _)) if file.size.is_none() => {
                return Ok(have);
            }
            other => other?,
        };
        let mut options = tokio::fs::OpenOptions::new();
        let mut done = have;
        if answer.status() == StatusCode::PARTIAL_CONTENT {
            options.append(true);
        } else {
            options.write(true).truncate(true);
            bar.take_back(have);
            done = 0;
        }
        let mut to = options.create(true).open(path).await.map_err(disk)?;
        while let Some(piece) = piece(&mut answer).await? {
            done += piece.len() as u64;
            if done > max {
                return Err(Failure::new(format!("the gateway sends more than {max} bytes of a file")).into());
            }
            to.write_all(&piece).await.map_err(disk)?;
            bar.add(piece.len() as u64);
        }
        to.flush().await.map_err(disk)?;
        to.sync_all().await.map_err(disk)?;
        Ok(done)
    };
    match fetched.await {
        Ok(done) if file.size.is_none_or(|size| size == done) => Ok(()),
        Ok(done) => {
            bar.take_back(done);
            Err(Trouble::Passing("the connection to the gateway broke".to_owned(), None))
        }
        Err(trouble) => {
            // What arrived stays in the file and is counted with the next try.
            bar.take_back(path.metadata().map_or(0, |meta| meta.len()));
            Err(trouble)
        }
    }
}
