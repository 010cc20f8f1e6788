//! The one thread that writes. It takes what waits, asks for admission in order, and makes durable, each before the next:
//! envelopes; entry bundles and tiles; the signed head. Only then are the submitters answered.
//!
//! After any error of the disk nothing more is written by this process: what is durable then is known only to whoever reads
//! it anew ([`super::recover`]).
use std::collections::{BTreeSet, HashMap};
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use muster_proof::Digest;
use muster_proof::dsse::Envelope;
use muster_proof::key::PublicKey;
use muster_proof::tlog::checkpoint::{Checkpoint, SignedCheckpoint};
use muster_proof::tlog::entry::{self, Entry};
use muster_proof::tlog::note::NoteKey;
use tokio::sync::oneshot;

use super::admit::{Admit, Refusal};
use super::disk::{Disk, Writing};
use super::growth::{Growth, Tip, partials};
use super::metrics::LogMetrics;
use super::published::{Head, Published};
use super::{AppendError, layout};

/// Entries of one head, at most: one bundle's worth, so that a crash leaves few beyond the last head.
pub const MAX_BATCH: usize = 256;
/// The first of a batch waits for others so long.
const GATHER: Duration = Duration::from_millis(5);

/// A record on its way into the log.
#[derive(Debug, Clone)]
pub struct Submission {
    /// The record.
    pub envelope: Envelope,
    /// Keys for which the submitter's connection stands.
    pub known: Vec<PublicKey>,
}

/// One that waits for its index.
#[derive(Debug)]
pub struct Waiting {
    pub submission: Submission,
    pub since: Instant,
    pub answer: oneshot::Sender<Result<u64, AppendError>>,
}

/// See the module.
pub struct Writer {
    pub disk: Arc<dyn Disk>,
    pub key: NoteKey,
    pub admit: Box<dyn Admit>,
    pub published: Arc<Published>,
    pub metrics: LogMetrics,
    pub tip: Tip,
    /// Folders whose names are durable.
    pub folders: BTreeSet<String>,
}

/// One that was admitted in this batch.
struct Admitted {
    record: Digest,
    envelope: Vec<u8>,
    entry: Vec<u8>,
}

impl Writer {
    /// Until all submitters are gone, or the disk fails.
    pub fn run(mut self, queue: &Receiver<Waiting>) {
        while let Some(batch) = gather(queue) {
            if let Err(error) = self.batch(batch) {
                tracing::error!(%error, "the log stops: what is on the disk must be read anew");
                self.published.stop(error.to_string());
                break;
            }
        }
        // Whoever still waits, or comes before it is noticed.
        while let Ok(waiting) = queue.try_recv() {
            let _ = waiting.answer.send(Err(self.stopped()));
        }
    }

    fn stopped(&self) -> AppendError {
        AppendError::Stopped(self.published.stopped().unwrap_or_else(|| "the gateway stops".to_owned()))
    }

    pub(super) fn batch(&mut self, batch: Vec<Waiting>) -> io::Result<()> {
        let mut new: Vec<Admitted> = Vec::new();
        let mut here: HashMap<Digest, u64> = HashMap::new();
        let mut answers = Vec::with_capacity(batch.len());
        for Waiting { submission, since, answer } in batch {
            let record = submission.envelope.record_id();
            if let Some(index) = self.published.index(&record) {
                self.metrics.duplicates.inc();
                // Whoever no longer waits is not told.
                let _ = answer.send(Ok(index));
                continue;
            }
            if let Some(&index) = here.get(&record) {
                self.metrics.duplicates.inc();
                answers.push((answer, since, index));
                continue;
            }
            let index = self.tip.size() + new.len() as u64;
            match self.admit(index, record, &submission) {
                Ok(admitted) => {
                    new.push(admitted);
                    here.insert(record, index);
                    answers.push((answer, since, index));
                }
                Err(refusal) => {
                    self.metrics.refusals.inc();
                    let _ = answer.send(Err(AppendError::Refused(refusal)));
                }
            }
        }
        if let Err(error) = self.append(new) {
            for (answer, ..) in answers {
                let _ = answer.send(Err(AppendError::Stopped(error.to_string())));
            }
            return Err(error);
        }
        for (answer, since, index) in answers {
            self.metrics.publish.observe(since.elapsed().as_secs_f64());
            let _ = answer.send(Ok(index));
        }
        Ok(())
    }

    /// Shows what was published before; publishes the head of an empty log if nothing was.
    pub fn resume(&mut self, head: Option<&SignedCheckpoint>, records: Vec<Digest>) -> io::Result<()> {
        let Some(head) = head else {
            return self.head(0, Digest::of(b""), []);
        };
        let (size, root) = (head.checkpoint().size(), *head.checkpoint().root());
        self.show(Head { size, root, note: head.to_string().into() }, records.into_iter().zip(0..));
        Ok(())
    }

    /// Takes over entries that a crash left beyond the last head, as if they were submitted again.
    pub fn take_over(&mut self, tail: &[Submission]) -> io::Result<()> {
        for part in tail.chunks(MAX_BATCH) {
            let mut new: Vec<Admitted> = Vec::new();
            for submission in part {
                let record = submission.envelope.record_id();
                let index = self.tip.size() + new.len() as u64;
                let twice = new.iter().any(|before| before.record == record);
                if twice || self.published.index(&record).is_some() {
                    continue;
                }
                match self.admit(index, record, submission) {
                    Ok(admitted) => new.push(admitted),
                    // Nobody was told that it is in the log.
                    Err(refusal) => {
                        tracing::warn!(%record, %refusal, "an entry beyond the last head is cut off")
                    }
                }
            }
            self.append(new)?;
        }
        Ok(())
    }

    fn admit(&mut self, index: u64, record: Digest, submission: &Submission) -> Result<Admitted, Refusal> {
        let Submission { envelope, known } = submission;
        let signer = self.admit.signer(envelope, known).ok_or_else(|| {
            let named = envelope.signatures().first().map(|first| first.keyid.to_string());
            Refusal::conflict(
                "UnknownSigner",
                format!(
                    "the log knows no key {} (first signature of record {record}); log the record that brings the key first",
                    named.unwrap_or_default()
                ),
            )
        })?;
        let entry = Entry::of(envelope, &signer).map_err(|error| match error {
            entry::Error::BadSignature { .. } => Refusal::envelope("BadSignature", error.to_string()),
            other => Refusal::envelope("BadEnvelope", other.to_string()),
        })?;
        let json = envelope.to_json().map_err(|error| Refusal::envelope("BadEnvelope", error.to_string()))?;
        self.admit.admit(index, envelope)?;
        Ok(Admitted { record, envelope: json, entry: entry.body().to_vec() })
    }

    /// Makes a batch durable and publishes its head.
    fn append(&mut self, new: Vec<Admitted>) -> io::Result<()> {
        if new.is_empty() {
            return Ok(());
        }
        let disk = self.disk.clone();
        let mut writing = Writing::new(disk.as_ref(), &mut self.folders);
        let envelopes: Vec<_> =
            new.iter().map(|one| (layout::envelope(&one.record), one.envelope.as_slice())).collect();
        writing.put_all(&envelopes)?;
        writing.finish()?;

        let first = self.tip.size();
        let Growth { files, root, tip } = self.tip.grow(new.iter().map(|one| one.entry.as_slice()))?;
        let replaced: Vec<_> = files.iter().filter_map(|(path, _)| partials(path)).collect();
        let files: Vec<_> = files.into_iter().map(|(path, bytes)| (path.to_string(), bytes)).collect();
        let mut writing = Writing::new(disk.as_ref(), &mut self.folders);
        writing.put_all(&files)?;
        writing.finish()?;

        let size = tip.size();
        self.tip = tip;
        self.head(size, root, new.iter().map(|one| one.record).zip(first..))?;
        let count = new.len();
        self.metrics.appends.inc_by(count as u64);
        self.metrics.batch.observe(count as f64);
        // Partial tiles whose full one is published now are in nobody's way; a crash here leaves litter.
        for folder in replaced {
            if let Err(error) = disk.remove(&folder) {
                tracing::warn!(%error, "partial tiles that are not needed any more stay");
            }
        }
        Ok(())
    }

    /// Signs a head, makes it durable and shows it.
    fn head(
        &mut self,
        size: u64,
        root: Digest,
        records: impl IntoIterator<Item = (Digest, u64)>,
    ) -> io::Result<()> {
        let note = sign(&self.key, size, root)?;
        let disk = self.disk.clone();
        let mut writing = Writing::new(disk.as_ref(), &mut self.folders);
        writing.put(layout::CHECKPOINT, note.as_bytes())?;
        writing.finish()?;
        self.show(Head { size, root, note: note.into() }, records);
        Ok(())
    }

    fn show(&self, head: Head, records: impl IntoIterator<Item = (Digest, u64)>) {
        self.metrics.size.set(i64::try_from(head.size).unwrap_or(i64::MAX));
        self.published.publish(head, records);
    }
}

/// A head as it is published.
pub fn sign(key: &NoteKey, size: u64, root: Digest) -> io::Result<String> {
    let checkpoint = Checkpoint::new(key.public().name().as_str(), size, root).map_err(io::Error::other)?;
    Ok(SignedCheckpoint::sign(checkpoint, key).map_err(io::Error::other)?.to_string())
}

/// What waits: at least one, as many as come within [`GATHER`]. `None` when nobody is left who could submit.
fn gather(queue: &Receiver<Waiting>) -> Option<Vec<Waiting>> {
    let mut batch = vec![queue.recv().ok()?];
    let until = Instant::now() + GATHER;
    while batch.len() < MAX_BATCH {
        match queue.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(waiting) => batch.push(waiting),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
        }
    }
    Some(batch)
}
