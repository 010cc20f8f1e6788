//! From a log and from what the tenant may read to a bundle. Every answer is checked where it costs nothing; whether the result
//! holds is for `muster verify` to say.
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use futures::future::LocalBoxFuture;
use muster_proof::bundle::{self, Bundle, FILE, FORMAT, FileRef, Hints, MAX_ENTRIES, Manifest, RecordRef};
use muster_proof::dsse::Envelope;
use muster_proof::records::Record;
use muster_proof::tlog::checkpoint::{self, Checkpoint, SignedCheckpoint};
use muster_proof::tlog::note::{self, VerifierKey};
use muster_proof::{Digest, dsse};
use muster_trainer::checkpoint::MAX_MANIFEST;

use super::leaves::{self, Leaves, LeavesError};
use crate::log::client::{ClientError, LogClient};
use crate::runtime::files::{Access, sync_dir, write_atomic};
use crate::wire::log::{JobRecords, LogEntry};

/// Most bytes of a spec or of a dataset's manifest.
const MAX_INPUT: u64 = 4 << 20;
/// Between two looks for a head.
const HEAD_AGAIN: Duration = Duration::from_millis(500);

/// Why there is no bundle.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// The log.
    #[error(transparent)]
    Log(#[from] ClientError),
    /// Its entries.
    #[error(transparent)]
    Leaves(#[from] LeavesError),
    /// Its key.
    #[error("the log's key: {0}")]
    Key(note::Error),
    /// Its head.
    #[error("the log's head: {0}")]
    Head(#[from] checkpoint::Error),
    /// Its entries are not those of its head.
    #[error("the log's entries have another root than its head; try again, and keep both if it stays so")]
    Root,
    /// A record that cannot be written.
    #[error("a record: {0}")]
    Envelope(#[from] dsse::Error),
    /// The list.
    #[error(transparent)]
    Bundle(#[from] bundle::Error),
    /// The gateway, about the job.
    #[error("{0}")]
    Job(String),
    /// The disk.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// A job as its tenant reads it.
pub trait JobSource {
    /// Which records there are.
    fn records(&self) -> LocalBoxFuture<'_, Result<JobRecords, MakeError>>;
    /// One of them.
    fn record<'a>(&'a self, id: &'a Digest) -> LocalBoxFuture<'a, Result<LogEntry, MakeError>>;
    /// The spec or the dataset's manifest, at most `max` bytes.
    fn input<'a>(&'a self, digest: &'a Digest, max: u64) -> LocalBoxFuture<'a, Result<Vec<u8>, MakeError>>;
    /// A checkpoint's manifest of at most `max` bytes; `None` if the hub has given the checkpoint up.
    fn manifest<'a>(
        &'a self,
        digest: &'a Digest,
        max: u64,
    ) -> LocalBoxFuture<'a, Result<Option<Vec<u8>>, MakeError>>;
    /// Puts a checkpoint's file at `to`, whole.
    fn state<'a>(&'a self, file: &'a FileRef, to: &'a Path) -> LocalBoxFuture<'a, Result<(), MakeError>>;
}

/// Which states are taken along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum States {
    /// None: manifests only.
    Left,
    /// All that the hub still has.
    Taken,
}

/// What a bundle is made with.
#[derive(Debug, Clone)]
pub struct Wants {
    /// States.
    pub states: States,
    /// A head with so many cosignatures, if there is one.
    pub cosignatures: usize,
    /// How long such a head is waited for that has all of the job's records.
    pub patience: Duration,
    /// This head instead: what a witness of one's own keeps.
    pub head: Option<Vec<u8>>,
}

/// What was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Made {
    /// Entries under the head.
    pub size: u64,
    /// Cosignatures of providers on it.
    pub witnesses: usize,
    /// Records of the job that came after it.
    pub left_out: usize,
}

/// Makes the bundle in `out`, which is there; its list is written last.
///
/// # Errors
/// [`MakeError`].
pub async fn make(
    log: &dyn LogClient,
    job: &dyn JobSource,
    out: &Path,
    wants: &Wants,
) -> Result<Made, MakeError> {
    let list = job.records().await?;
    let key: VerifierKey = list.log.parse().map_err(MakeError::Key)?;
    let note = match &wants.head {
        Some(head) => head.clone(),
        None => {
            let newest = list.records.iter().map(|logged| logged.index + 1).max().unwrap_or(0);
            newest_head(log, &key, newest, wants.cosignatures, wants.patience).await?
        }
    };
    let signed = SignedCheckpoint::open(&note, std::slice::from_ref(&key))?;
    let (size, root) = (signed.checkpoint().size(), *signed.checkpoint().root());
    let all = Leaves::fetch(log, size, MAX_ENTRIES).await?;
    if all.as_ref().is_some_and(|all| *all.root() != root) {
        return Err(MakeError::Root);
    }
    let head = signed.checkpoint().clone();
    let mut making = Making { log, job, out, head, all, records: Vec::new(), story: Story::default() };
    let mut left_out = 0;
    for logged in &list.records {
        if logged.index < size {
            making.record(&logged.record_id, logged.index).await?;
        } else {
            left_out += 1;
        }
    }
    let (manifests, states) = making.checkpoints(wants.states).await?;
    let spec = making.input(&list.spec).await?;
    let dataset = making.input(&list.dataset).await?;
    let hinted = making.story.witnesses.iter().filter_map(|witness| witness.parse::<VerifierKey>().ok());
    let witnesses: Vec<String> = hinted
        .filter(|witness| matches!(signed.cosigned_by(witness), Ok(Some(_))))
        .map(|witness| witness.to_string())
        .collect();
    let entries = match &making.all {
        Some(all) => Some(entry_files(out, all)?),
        None => None,
    };
    let made = Made { size, witnesses: witnesses.len(), left_out };
    let bundle = Bundle {
        format: FORMAT.to_owned(),
        checkpoint: put(out, &note)?,
        dataset,
        entries,
        hints: Hints { log: list.log, witnesses },
        job: list.job,
        manifests,
        openings: Vec::new(),
        origin: key
            .name()
            .as_str()
            .parse()
            .map_err(|_| MakeError::Job("the log's name is no origin".into()))?,
        records: making.records,
        spec,
        states,
    };
    sync_dir(out)?;
    write_atomic(&out.join(FILE), &bundle.to_bytes()?, Access::Public)?;
    Ok(made)
}

/// A head that witnesses have cosigned and that has at least so many entries. They look at the log with their heartbeats, so it
/// is waited for; after that, what there is.
///
/// # Errors
/// [`MakeError`].
pub async fn newest_head(
    log: &dyn LogClient,
    key: &VerifierKey,
    least: u64,
    cosignatures: usize,
    patience: Duration,
) -> Result<Vec<u8>, MakeError> {
    let until = Instant::now() + patience;
    loop {
        let cosigned = log.cosigned(cosignatures).await?;
        let size = match &cosigned {
            Some(head) => SignedCheckpoint::open(head, std::slice::from_ref(key))?.checkpoint().size(),
            None => 0,
        };
        match cosigned {
            Some(head) if size >= least || Instant::now() >= until => return Ok(head),
            None if Instant::now() >= until => return Ok(log.checkpoint().await?),
            _ => tokio::time::sleep(HEAD_AGAIN).await,
        }
    }
}

/// Writes a file under its digest.
fn put(out: &Path, bytes: &[u8]) -> Result<FileRef, MakeError> {
    let file = FileRef::of(bytes);
    let path = out.join(file.name());
    if !path.is_file() {
        write_atomic(&path, bytes, Access::Public)?;
    }
    Ok(file)
}

fn entry_files(out: &Path, all: &Leaves) -> Result<Vec<FileRef>, MakeError> {
    use muster_proof::tlog::tile::{WIDTH, encode_entries};
    let parts = all.bodies().chunks(usize::from(WIDTH));
    parts
        .map(|part| {
            let bytes = encode_entries(part).map_err(|error| MakeError::Job(error.to_string()))?;
            put(out, &bytes)
        })
        .collect()
}

/// What of the records the choice of files depends on.
#[derive(Default)]
struct Story {
    /// Manifests of the commits that count, by island and interval.
    manifests: BTreeMap<(u64, u64), Digest>,
    witnesses: BTreeSet<String>,
}

impl Story {
    fn take(&mut self, envelope: &Envelope) {
        match Record::parse(envelope) {
            Ok(Record::ProviderKey(it)) => {
                self.witnesses.insert(it.witness.to_string());
            }
            Ok(Record::Commit(it)) => {
                self.manifests.insert((it.island.get(), it.interval.get()), it.manifest);
            }
            Ok(Record::Rollback(it)) => {
                let (island, from) = (it.island.get(), it.to_interval.get());
                self.manifests.retain(|(of, interval), _| *of != island || *interval < from);
            }
            // What this version cannot read, the check will name.
            _ => {}
        }
    }
}

struct Making<'a> {
    log: &'a dyn LogClient,
    job: &'a dyn JobSource,
    out: &'a Path,
    head: Checkpoint,
    all: Option<Leaves>,
    records: Vec<RecordRef>,
    story: Story,
}

impl Making<'_> {
    async fn record(&mut self, id: &Digest, index: u64) -> Result<(), MakeError> {
        let entry = self.job.record(id).await?;
        if entry.envelope.record_id() != *id {
            return Err(MakeError::Job(format!("the gateway gave another record than {id}")));
        }
        self.story.take(&entry.envelope);
        let (leaf, proof) = self.proof(index).await?;
        let envelope = put(self.out, &entry.envelope.to_json()?)?;
        let leaf = leaf.map(|leaf| put(self.out, &leaf)).transpose()?;
        self.records.push(RecordRef { envelope, index, leaf, proof });
        Ok(())
    }

    /// The entry, if the bundle has not all of them, and its path.
    async fn proof(&self, index: u64) -> Result<(Option<Vec<u8>>, Vec<Digest>), MakeError> {
        let none = || MakeError::Job(format!("entry {index} is not under the log's head"));
        if let Some(all) = &self.all {
            return Ok((None, all.prove(index).ok_or_else(none)?));
        }
        let (body, proof) = leaves::prove(self.log, index, &self.head).await?;
        Ok((Some(body), proof))
    }

    async fn input(&self, digest: &Digest) -> Result<FileRef, MakeError> {
        let bytes = self.job.input(digest, MAX_INPUT).await?;
        let file = put(self.out, &bytes)?;
        if file.sha256 == *digest {
            Ok(file)
        } else {
            Err(MakeError::Job(format!("the gateway gave another file than {digest}")))
        }
    }

    /// Manifests that the hub still has, and the files of their states.
    async fn checkpoints(&self, states: States) -> Result<(Vec<FileRef>, Vec<FileRef>), MakeError> {
        let (mut manifests, mut files) = (BTreeSet::new(), BTreeSet::new());
        for digest in self.story.manifests.values() {
            let Some(bytes) = self.job.manifest(digest, MAX_MANIFEST).await? else { continue };
            let file = put(self.out, &bytes)?;
            let manifest = Manifest::parse(&bytes)
                .map_err(|error| MakeError::Job(format!("the manifest {digest}: {error}")))?;
            manifests.insert(file);
            if states == States::Taken {
                files.extend(
                    manifest.files.iter().map(|file| FileRef { sha256: file.sha256, size: file.size }),
                );
            }
        }
        for file in &files {
            let to = self.out.join(file.name());
            if !to.is_file() {
                self.job.state(file, &to).await?;
            }
        }
        Ok((manifests.into_iter().collect(), files.into_iter().collect()))
    }
}
