//! The log: whole requests at the gateway's routes for it, and its directory with a file that somebody has changed.
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use axum::Router;
use muster::gateway::access::{Agent, Member};
use muster::gateway::log as routes;
use muster::log::admit::WellFormed;
use muster::log::cosignatures::NoWitnesses;
use muster::log::disk::Disk;
use muster::log::{Log, Submission, fsck};
use muster_proof::Digest;
use muster_proof::dsse::Envelope;
use muster_proof::key::SigningKey;
use muster_proof::tlog::note::{Algorithm, KeyName, NoteKey};

use crate::Target;
use crate::requests::{answer, block_on, parse};

/// Of a kind that agents bring.
const TYPE: &str = "application/vnd.muster.key-binding.v1+json";

pub fn targets() -> Vec<Target> {
    vec![
        Target { name: "gateway-log", run: requests, seeds: request_seeds },
        Target { name: "log-directory", run: directory, seeds: directory_seeds },
    ]
}

/// Files in memory; everything is durable at once.
#[derive(Default, Clone)]
struct Memory(Arc<Mutex<BTreeMap<String, Vec<u8>>>>);

impl Memory {
    fn files(&self) -> MutexGuard<'_, BTreeMap<String, Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same files, but nobody else's.
    fn fork(&self) -> Self {
        Self(Arc::new(Mutex::new(self.files().clone())))
    }
}

impl Disk for Memory {
    fn read(&self, path: &str, max: u64) -> io::Result<Option<Vec<u8>>> {
        match self.files().get(path) {
            Some(bytes) if bytes.len() as u64 > max => Err(io::ErrorKind::InvalidData.into()),
            found => Ok(found.cloned()),
        }
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        let files = self.files();
        let below = files.keys().filter_map(|path| path.strip_prefix(folder)?.strip_prefix('/'));
        let mut names: Vec<_> = below.filter_map(|rest| Some(rest.split('/').next()?.to_owned())).collect();
        names.dedup();
        Ok(names)
    }

    fn write(&self, path: &str, bytes: &[u8]) -> io::Result<()> {
        self.files().insert(path.to_owned(), bytes.to_vec());
        Ok(())
    }

    fn sync(&self, _: &str) -> io::Result<()> {
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut files = self.files();
        let bytes = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.to_owned(), bytes);
        Ok(())
    }

    fn sync_folder(&self, _: &str) -> io::Result<()> {
        Ok(())
    }

    fn make_folder(&self, _: &str) -> io::Result<()> {
        Ok(())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let below = format!("{path}/");
        self.files().retain(|file, _| file != path && !file.starts_with(&below));
        Ok(())
    }
}

fn log_key() -> Option<NoteKey> {
    Some(NoteKey::new(KeyName::new("hub.example/log").ok()?, Algorithm::Ed25519, [5; 32]))
}

fn signer() -> Option<SigningKey> {
    SigningKey::generate([7; 32]).ok()
}

fn envelope(text: &str) -> Option<Envelope> {
    Envelope::sign(TYPE, text.as_bytes(), &signer()?).ok()
}

fn open(disk: &Memory) -> Option<Log> {
    Log::on(Arc::new(disk.clone()), log_key()?, Box::new(WellFormed)).ok()
}

/// A log of two records.
fn filled() -> Option<&'static Memory> {
    static FILLED: OnceLock<Option<Memory>> = OnceLock::new();
    FILLED.get_or_init(fill).as_ref()
}

fn fill() -> Option<Memory> {
    let disk = Memory::default();
    let log = open(&disk)?;
    let known = vec![signer()?.public().clone()];
    for text in ["one", "two"] {
        let submission = Submission { envelope: envelope(text)?, known: known.clone() };
        futures::executor::block_on(log.append(submission)).ok()?;
    }
    Some(disk)
}

fn router(log: &Arc<Log>) -> Router {
    routes::anyone(log.clone())
        .merge(routes::members(log.clone()))
        .merge(routes::agents(log.clone(), Arc::new(NoWitnesses)))
}

/// One log for all runs: what one has appended, others may find.
fn shared() -> Option<&'static Arc<Log>> {
    static LOG: OnceLock<Option<Arc<Log>>> = OnceLock::new();
    LOG.get_or_init(|| open(&filled()?.fork()).map(Arc::new)).as_ref()
}

/// One log for all commits, which takes whatever the routes let through.
pub fn for_commits() -> Option<Arc<Log>> {
    static LOG: OnceLock<Option<Arc<Log>>> = OnceLock::new();
    LOG.get_or_init(|| {
        let disk = Arc::new(Memory::default());
        Log::on(disk, log_key()?, Box::new(WellFormed)).ok().map(Arc::new)
    })
    .clone()
}

/// Whatever is sent: an answer, and none that is a fault of the gateway; the log never shrinks.
fn requests(data: &[u8]) {
    let (Some(log), Some(key), Some((mut request, _))) = (shared(), signer(), parse(data)) else { return };
    let agent = Agent { provider: "east".to_owned(), min_epoch: 1, key: Digest::of(b"key") };
    request.extensions_mut().insert(Member::Agent { agent, key: key.public().clone() });
    let before = log.view().published.size();
    block_on(async {
        answer(router(log), request).await;
    });
    assert!(log.view().published.size() >= before && before >= 2);
}

fn request_seeds() -> Vec<Vec<u8>> {
    let json = |text: &str| {
        let json = envelope(text).and_then(|envelope| envelope.to_json().ok()).unwrap_or_default();
        String::from_utf8(json).unwrap_or_default()
    };
    let record = envelope("one").map(|envelope| envelope.record_id().to_hex()).unwrap_or_default();
    [
        "GET /v1/log/checkpoint\n\n".to_owned(),
        "GET /v1/log/checkpoint/cosigned?least=2\n\n".to_owned(),
        "GET /v1/log/tile/0/000.p/2\n\n".to_owned(),
        "GET /v1/log/tile/entries/000.p/1\n\n".to_owned(),
        format!("GET /v1/log/entries/{record}\n\n"),
        format!("POST /v1/log/entries\n\n{}", json("one")),
        format!("POST /v1/log/entries\n\n{}", json("three")),
        "POST /v1/log/cosignatures?size=2\n\n\u{2014} a.example/witness AAAAAAAAAAAA\n".to_owned(),
    ]
    .map(String::into_bytes)
    .to_vec()
}

/// `path`, a newline, and what is in that file instead: the log opens as it was, or not at all, and fsck finds something.
fn directory(data: &[u8]) {
    let (Some(filled), Some(key)) = (filled(), log_key()) else { return };
    let end = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (path, bytes) = (data.get(..end).unwrap_or_default(), data.get(end + 1..).unwrap_or_default());
    let (Ok(path), disk) = (std::str::from_utf8(path), filled.fork()) else { return };
    let was = disk.files().insert(path.to_owned(), bytes.to_vec());
    let found = fsck::check(&disk, key.public());
    if was.as_deref().is_some_and(|was| was != bytes) {
        assert!(found.is_ok_and(|report| !report.problems.is_empty()), "{path}");
    }
    if let Some(log) = open(&disk) {
        let (now, then) =
            (disk.files().get("checkpoint").cloned(), filled.files().get("checkpoint").cloned());
        assert!(now == then || log.view().published.size() > 2, "{path}");
    }
}

fn directory_seeds() -> Vec<Vec<u8>> {
    let files = filled().map(|filled| filled.files().clone()).unwrap_or_default();
    files.into_iter().map(|(path, bytes)| [path.as_bytes(), b"\n", &bytes].concat()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tower::ServiceExt;

    #[tokio::test]
    async fn the_seeds_go_far() {
        let log = Arc::new(open(&filled().unwrap().fork()).unwrap());
        let mut statuses = Vec::new();
        for seed in request_seeds() {
            let (mut request, _) = parse(&seed).unwrap();
            let agent = Agent { provider: "east".to_owned(), min_epoch: 1, key: Digest::of(b"key") };
            let key = signer().unwrap().public().clone();
            request.extensions_mut().insert(Member::Agent { agent, key });
            statuses.push(router(&log).oneshot(request).await.unwrap().status().as_u16());
        }
        assert_eq!(statuses, [200, 404, 200, 200, 200, 200, 200, 403]);
        assert!(directory_seeds().len() > 5);
    }
}
