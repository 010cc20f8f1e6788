//! Uploads that go wrong, with a real agent's identity at the real gateway: each is refused with its reason or may be sent again,
//! and never is anything of it to be seen. Then the same at a gateway whose disk is full or cannot be written.
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use muster_proof::Digest;
use muster_proof::dsse::Envelope;
use muster_proof::key::SigningKey;
use muster_proof::records::fields::{Epoch, Interval, Island, JobId, Step};
use muster_proof::records::{Commit, Payload as _};
use reqwest::Method;
use serde_json::{Value, json};

use super::attacks::expect;
use crate::cluster::{self, Cluster, WORK_UNIT};
use crate::gateway::{Caller, Key, Then};
use crate::harness::Verdict;
use crate::hostile::{Forge, LABEL, at_epoch};
use crate::job;
use crate::process;
use crate::south::{self, SOUTH};
use crate::world::{World, eventually};

/// Where the second gateway listens.
const SECOND: &str = "127.0.0.1:18443";
const SECOND_METRICS: &str = "127.0.0.1:18444";
/// Bytes of its disk.
const DISK: usize = 4 << 20;
/// A file of a checkpoint of the tiny job has about so many.
const FILE: usize = 150_000;

pub async fn uploads(world: &World) -> Result<Verdict> {
    job::apply(world, &job::tiny("uploads", 2)).await?;
    let done = job::wait_phase(world, "uploads", "Succeeded", Duration::from_secs(120)).await?;
    let units = job::units(world, &done).await?;
    let east = units.first().context("the job has no unit")?;
    let forge = Forge::new(&world.run.join("hub"), east)?;
    let (_, caller, tokens) = south::join(world).await?;
    // The real hub would sweep up units that are no job's.
    world.stack(&["stop-hub"]).await?;
    let hub = Cluster::connect_current(&world.run.join("hub.kubeconfig"), "the hub's account").await?;
    let site = Site { hub: &hub, caller, token: &tokens.gateway, store: world.run.join("store") };
    let outcome = all(world, &site, forge, east).await;
    for unit in world.hub.list(WORK_UNIT, Some(south::NAMESPACE), LABEL).await? {
        hub.delete(WORK_UNIT, Some(south::NAMESPACE), cluster::name(&unit), None).await?;
    }
    world.stack(&["start-hub"]).await?;
    south::leave(world).await?;
    outcome
}

async fn all(world: &World, site: &Site<'_>, mut forge: Forge, east: &Value) -> Result<Verdict> {
    let unit = site.unit(&mut forge, None).await?;
    refused(world, site, &unit, cluster::name(east)).await?;
    replayed(world, site, &unit).await?;
    quota(site, &site.unit(&mut forge, None).await?).await?;
    superseded(site, &mut forge, &unit).await?;
    scan(&site.store)?;
    broken_disk(world, site, &mut forge).await?;
    Ok(Verdict::Passed)
}

/// South's agent and the store behind its gateway.
struct Site<'a> {
    hub: &'a Cluster,
    caller: Caller,
    token: &'a str,
    store: PathBuf,
}

/// A unit of south, and its payload.
struct Unit {
    name: String,
    payload: Value,
}

impl Unit {
    fn blob(&self, digest: &Digest) -> String {
        format!("/v1/units/{}/blobs/sha256/{}", self.name, digest.to_hex())
    }
}

impl Site<'_> {
    /// A unit of a job of its own, or the next epoch of another unit.
    async fn unit(&self, forge: &mut Forge, after: Option<&Unit>) -> Result<Unit> {
        let mut payload = match after {
            Some(unit) => unit.payload.clone(),
            None => forge.payload(),
        };
        payload["provider"] = SOUTH.into();
        if let Some(epoch) = after.and_then(|unit| unit.payload["epoch"].as_i64()) {
            at_epoch(&mut payload, epoch + 1);
        }
        let mut object = forge.unit(&payload, &payload)?;
        object["metadata"]["namespace"] = south::NAMESPACE.into();
        self.hub.create(WORK_UNIT, Some(south::NAMESPACE), &object).await?;
        Ok(Unit { name: cluster::name(&object).to_owned(), payload })
    }

    /// Nothing of a blob is to be seen, by its agent or on disk.
    async fn invisible(&self, what: &str, unit: &Unit, digest: &Digest) -> Result<()> {
        let status = self.caller.head(&unit.blob(digest), self.token).await?;
        ensure!(status == 404, "{what}: HEAD is answered {status}");
        let hex = digest.to_hex();
        let file = self.store.join("blobs/sha256").join(&hex[..2]).join(&hex);
        ensure!(!file.exists(), "{what}: {} is there", file.display());
        Ok(())
    }

    async fn put(&self, unit: &Unit, bytes: &[u8]) -> Result<crate::gateway::Answer> {
        self.caller.put(&unit.blob(&Digest::of(bytes)), self.token, bytes.to_vec()).await
    }
}

/// Bytes that are in no store yet.
fn fresh(name: &str, size: usize) -> Vec<u8> {
    let mut state = std::time::UNIX_EPOCH.elapsed().map_or(1, |age| age.subsec_nanos() | 1);
    let mut bytes = name.as_bytes().to_vec();
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes
}

/// What is wrong with the request itself.
async fn refused(world: &World, site: &Site<'_>, unit: &Unit, of_east: &str) -> Result<()> {
    let (caller, token) = (&site.caller, site.token);
    // The watch may not have brought the unit yet.
    let known = || async {
        let status = caller.head(&unit.blob(&Digest::of(b"nothing")), token).await?;
        let spec: Digest = unit.payload["spec"].as_str().unwrap_or("").parse()?;
        Ok((status == 404 && caller.head(&unit.blob(&spec), token).await? == 200).then_some(()))
    };
    eventually("the gateway to know south's unit", Duration::from_secs(10), known).await?;

    let whole = fresh("flipped", FILE);
    let digest = Digest::of(&whole);
    let mut flipped = whole.clone();
    flipped[FILE / 2] ^= 1;
    let answer = caller.put(&unit.blob(&digest), token, flipped.clone()).await?;
    expect("one bit flipped", &answer, 400, "DigestMismatch")?;
    site.invisible("one bit flipped", unit, &digest).await?;
    site.invisible("one bit flipped, by its own name", unit, &Digest::of(&flipped)).await?;

    let other = Digest::of(b"something else entirely");
    let answer = caller.put(&unit.blob(&other), token, whole.clone()).await?;
    expect("another blob's digest", &answer, 400, "DigestMismatch")?;
    site.invisible("another blob's digest", unit, &other).await?;
    let path = format!("/v1/units/{}/blobs/sha256/{}", unit.name, digest.to_hex().to_uppercase());
    expect("a digest in capitals", &caller.put(&path, token, whole.clone()).await?, 400, "BadDigest")?;
    let path = format!("/v1/units/{}/blobs/sha256/..%2f..%2fcatalogue", unit.name);
    expect("a path for a digest", &caller.put(&path, token, whole.clone()).await?, 400, "BadDigest")?;

    let head = |digest: &Digest, length: &str| {
        format!(
            "PUT {} HTTP/1.1\r\nauthorization: Bearer {token}\r\n{length}connection: close",
            unit.blob(digest)
        )
    };
    let length = format!("content-length: {}\r\n", whole.len());
    let answer = caller.raw(&head(&digest, &length), &whole[..FILE / 2], Then::HangUp).await?;
    // Whoever hangs up may miss the answer.
    println!("     cut off in the middle: {answer}");
    ensure!(answer.status == 0 || answer.reason() == "BodyCutOff", "cut off in the middle: {answer}");
    site.invisible("cut off in the middle", unit, &digest).await?;
    // Short enough to be read at once: what a closed connection has not read takes the answer with it.
    let short = Digest::of(&whole[..1500]);
    let answer = caller.raw(&head(&short, "content-length: 1000\r\n"), &whole[..1500], Then::Listen).await?;
    expect("longer than its Content-Length", &answer, 400, "DigestMismatch")?;
    site.invisible("longer than its Content-Length", unit, &short).await?;
    site.invisible("longer than its Content-Length, the beginning", unit, &Digest::of(&whole[..1000]))
        .await?;
    let chunk = [format!("{:x}\r\n", whole.len()).as_bytes(), &whole, b"\r\n0\r\n\r\n"].concat();
    let answer = caller.raw(&head(&digest, "transfer-encoding: chunked\r\n"), &chunk, Then::Listen).await?;
    expect("no Content-Length", &answer, 411, "LengthRequired")?;
    let answer = caller.raw(&head(&digest, "content-length: -1\r\n"), b"x", Then::Listen).await?;
    expect("a Content-Length below nothing", &answer, 400, "")?;
    let twice = "content-length: 1\r\ncontent-length: 7\r\n";
    let answer = caller.raw(&head(&digest, twice), b"x", Then::Listen).await?;
    expect("two lengths", &answer, 400, "")?;
    let huge = fresh("larger than any file of this job", 1 << 20);
    expect("a file larger than any", &site.put(unit, &huge).await?, 413, "TooLarge")?;
    site.invisible("a file larger than any", unit, &Digest::of(&huge)).await?;
    site.invisible("all of these", unit, &digest).await?;

    let path = format!("/v1/units/{of_east}/blobs/sha256/{}", digest.to_hex());
    expect("another provider's unit", &caller.put(&path, token, whole.clone()).await?, 404, "UnitNotFound")?;
    let thief = Caller::new(world, Some(&Key::new()?)).await?;
    let small = fresh("small", 100);
    let answer = thief.put(&unit.blob(&Digest::of(&small)), token, small.clone()).await?;
    println!("     the token with another key: {answer}");
    ensure!(matches!(answer.status, 401 | 403), "the token with another key: {answer}");
    site.invisible("the thief's", unit, &Digest::of(&small)).await
}

/// The same upload again changes nothing, and a commit of what is not there is none.
async fn replayed(world: &World, site: &Site<'_>, unit: &Unit) -> Result<()> {
    let bytes = fresh("replayed", FILE);
    expect("a good upload", &site.put(unit, &bytes).await?, 201, "")?;
    expect("the same again", &site.put(unit, &bytes).await?, 200, "")?;
    let status = site.caller.head(&unit.blob(&Digest::of(&bytes)), site.token).await?;
    ensure!(status == 200, "HEAD of a good upload: {status}");
    // Recorded on the wire it is worth nothing: there is no key behind it.
    let (recorder, small) = (Caller::new(world, None).await?, fresh("recorded", 100));
    expect("a small upload", &site.put(unit, &small).await?, 201, "")?;
    let answer = recorder.put(&unit.blob(&Digest::of(&small)), site.token, small).await?;
    println!("     replayed without the key: {answer}");
    ensure!(matches!(answer.status, 401 | 403), "replayed without the key: {answer}");
    let path = format!("/v1/units/{}/checkpoints/10", unit.name);
    let commit = commit_of(unit, Digest::of(b"no manifest"))?;
    let answer = site.caller.ask(Method::POST, &path, Some(site.token), Some(commit)).await?;
    expect("a commit of what is not there", &answer, 409, "BlobMissing")
}

/// A commit of steps 1 to 10 that fits its unit, by a key that nobody has bound: that is looked at after the blobs.
fn commit_of(unit: &Unit, manifest: Digest) -> Result<Value> {
    let key = SigningKey::generate([7; 32])?;
    let commit = Commit {
        job: JobId(unit.payload["job"].as_str().unwrap_or("").parse()?),
        island: Island::new(0)?,
        epoch: Epoch::new(unit.payload["epoch"].as_u64().unwrap_or(0))?,
        interval: Interval::new(0)?,
        first_step: Step::new(1)?,
        last_step: Step::new(10)?,
        previous: manifest,
        state_root: manifest,
        record_seal: manifest,
        manifest,
        ends: false,
    };
    let model = Envelope::sign("application/json", b"{}", &key)?;
    Ok(json!({"manifest": manifest, "commit": commit.sign(&key)?, "model": model, "key": key.public()}))
}

/// Eight checkpoints' worth that no commit names, and not a byte more.
async fn quota(site: &Site<'_>, unit: &Unit) -> Result<()> {
    for count in 0..200 {
        let bytes = fresh(&format!("quota {count}"), FILE);
        let answer = site.put(unit, &bytes).await?;
        if answer.status == 201 {
            continue;
        }
        expect(&format!("file {count} of {FILE} bytes"), &answer, 507, "OverQuota")?;
        ensure!(count >= 8, "the quota is full after {count} files");
        return site.invisible("over quota", unit, &Digest::of(&bytes)).await;
    }
    anyhow::bail!("200 files of {FILE} bytes that no commit names were taken");
}

/// A newer unit of the island closes the store to the older one, whatever it has put before.
async fn superseded(site: &Site<'_>, forge: &mut Forge, unit: &Unit) -> Result<()> {
    let next = site.unit(forge, Some(unit)).await?;
    let fenced = || async {
        let answer = site.put(unit, &fresh("fence", 10)).await?;
        Ok((answer.status == 409).then_some(answer))
    };
    let answer = eventually("the fence to close", Duration::from_secs(10), fenced).await?;
    expect("a superseded unit", &answer, 409, "OldEpoch")?;
    let late = fresh("late", FILE);
    expect("a superseded unit's file", &site.put(unit, &late).await?, 409, "OldEpoch")?;
    site.invisible("a superseded unit's file", unit, &Digest::of(&late)).await?;
    expect("its successor's", &site.put(&next, &late).await?, 201, "")
}

/// A second gateway with a small disk of its own: full, then not to be written, then well again.
async fn broken_disk(world: &World, site: &Site<'_>, forge: &mut Forge) -> Result<()> {
    let mount = world.scratch.join("small-store");
    std::fs::create_dir_all(&mount)?;
    let options = format!("size={DISK}");
    change(world, "mount", &["-t", "tmpfs", "-o", &options, "muster-e2e", &mount.to_string_lossy()]).await?;
    let outcome = on_disk(world, site, forge, &mount).await;
    change(world, "umount", &[&mount.to_string_lossy()]).await?;
    outcome
}

async fn change(world: &World, program: &str, arguments: &[&str]) -> Result<()> {
    process::succeed(&world.root, Path::new(program), arguments, &[]).await.map(|_| ())
}

async fn on_disk(world: &World, site: &Site<'_>, forge: &mut Forge, mount: &Path) -> Result<()> {
    let unit = site.unit(forge, None).await?;
    let second = Site {
        hub: site.hub,
        caller: site.caller.at(&format!("https://{SECOND}")),
        token: site.token,
        store: mount.to_owned(),
    };
    let spec: Digest = unit.payload["spec"].as_str().unwrap_or("").parse()?;
    let place = |store: &Path| store.join("blobs/sha256").join(&spec.to_hex()[..2]).join(spec.to_hex());
    std::fs::create_dir_all(place(mount).parent().context("no folder")?)?;
    std::fs::copy(place(&site.store), place(mount))?;
    let mut gateway = start(world, mount).await?;
    let outcome = faults(world, &second, &unit, mount).await;
    // Ours, and it holds the disk.
    gateway.kill().await?;
    outcome?;
    scan(mount)
}

/// The same gateway as the stack's but for its place, its store and a copy of its state, for a log has one writer: it publishes
/// nothing that is new, and no witness sees what it logs.
async fn start(world: &World, store: &Path) -> Result<tokio::process::Child> {
    let map = world.hub.get(cluster::CONFIG_MAP, Some("muster-system"), "muster-gateway-public").await?;
    let url = map.context("no address of the gateway")?["data"]["url"].as_str().unwrap_or("").to_owned();
    let log = std::fs::File::create(world.scratch.join("second-gateway.log"))?;
    let at = |name: &str| world.run.join(name);
    let state = world.scratch.join("second-gateway");
    let _ = std::fs::remove_dir_all(&state);
    change(world, "cp", &["-aH", &at("gateway").to_string_lossy(), &state.to_string_lossy()]).await?;
    let child = tokio::process::Command::new(&world.muster)
        .arg("gateway")
        .arg("--kubeconfig")
        .arg(at("gateway.kubeconfig"))
        .arg("--state")
        .arg(state)
        .arg("--store")
        .arg(store)
        .args(["--listen", SECOND, "--metrics-listen", SECOND_METRICS, "--public-url", &url])
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .kill_on_drop(true)
        .spawn()?;
    let client = reqwest::Client::builder().no_proxy().build()?;
    let ready = || async {
        let answer = client.get(format!("http://{SECOND_METRICS}/readyz")).send().await?;
        Ok((answer.status() == 200).then_some(()))
    };
    eventually("the second gateway", Duration::from_secs(30), ready).await?;
    Ok(child)
}

async fn faults(world: &World, site: &Site<'_>, unit: &Unit, mount: &Path) -> Result<()> {
    // Until every unit has raised the fence it takes nothing.
    let first = || async {
        let answer = site.put(unit, &fresh("first", 100)).await?;
        Ok((answer.status == 201).then_some(()))
    };
    eventually("the second gateway to take uploads", Duration::from_secs(30), first).await?;

    let (bytes, filler) = (fresh("on a full disk", FILE), mount.join("filler"));
    // As much as there is, and a third of the file less.
    let left = usize::try_from(rustix::fs::statvfs(mount).map(|disk| disk.f_bavail * disk.f_bsize)?)?;
    std::fs::write(&filler, vec![0; left.saturating_sub(FILE / 3)])?;
    expect("a full disk", &site.put(unit, &bytes).await?, 507, "StoreFull")?;
    site.invisible("a full disk", unit, &Digest::of(&bytes)).await?;
    scan(mount)?;
    std::fs::remove_file(&filler)?;
    expect("the same with room again", &site.put(unit, &bytes).await?, 201, "")?;

    let (bytes, at) = (fresh("on a disk that cannot be written", FILE), mount.to_string_lossy().into_owned());
    change(world, "mount", &["-o", "remount,ro", &at]).await?;
    let answer = site.put(unit, &bytes).await;
    let seen = site.invisible("a disk that cannot be written", unit, &Digest::of(&bytes)).await;
    change(world, "mount", &["-o", "remount,rw", &at]).await?;
    expect("a disk that cannot be written", &answer?, 503, "Unavailable")?;
    seen?;
    expect("the same when it can", &site.put(unit, &bytes).await?, 201, "")
}

/// Every file that is a blob has the hash that it is named by.
fn scan(store: &Path) -> Result<()> {
    let mut count = 0;
    for folder in std::fs::read_dir(store.join("blobs/sha256"))? {
        for file in std::fs::read_dir(folder?.path())? {
            let path = file?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("").to_owned();
            // Collected meanwhile.
            let Ok(bytes) = std::fs::read(&path) else { continue };
            ensure!(Digest::of(&bytes).to_hex() == name, "{} is another blob", path.display());
            count += 1;
        }
    }
    println!("     {count} blobs in {}: each has the hash it is named by", store.display());
    Ok(())
}
