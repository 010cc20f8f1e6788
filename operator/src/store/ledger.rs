//! What hub and gateway remember of a job's records in the log. The log itself is the truth; these names spare reading it, and
//! say what was about to be logged when a process died.
use std::collections::BTreeMap;
use std::io;

use muster_proof::Digest;
use muster_proof::dsse::Envelope;

use super::checkpoints::job_folder;
use super::keys::Entry;
use super::{Store, damaged};

/// No statement about a checkpoint's files is longer, in JSON: it names four.
const MAX_MODEL: u64 = 16 << 10;

/// The commit of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Noted {
    /// It was about to be logged; whether it was, the log says.
    Begun(Digest),
    /// The log has it.
    Logged(Entry),
}

impl Noted {
    fn line(&self) -> String {
        match self {
            Self::Begun(record) => format!("{record}\n"),
            Self::Logged(entry) => entry.line(),
        }
    }
}

/// The grant of an island that was made last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Granted {
    /// The log has a grant of this epoch, or may have.
    Live(i64),
    /// Its end is logged.
    Ended(i64),
}

impl Store {
    /// Remembers the commit of a job's checkpoint after `step`.
    ///
    /// # Errors
    /// `InvalidInput` for a uid that is none, any other error of the backend.
    pub async fn note_commit(&self, job_uid: &str, step: u64, noted: &Noted) -> io::Result<()> {
        self.backend.write(&commit_key(job_uid, step)?, &noted.line()).await
    }

    /// Remembers that a commit is about to be logged, if what is noted is still what was `seen`: what is logged is never
    /// forgotten for what is only tried. False if it is not.
    ///
    /// # Errors
    /// `InvalidInput` for a uid that is none, any other error of the backend.
    pub async fn begin_commit(
        &self,
        job_uid: &str,
        step: u64,
        record: Digest,
        seen: Option<&Noted>,
    ) -> io::Result<bool> {
        let (before, now) = (seen.map(Noted::line), Noted::Begun(record).line());
        self.backend.swap(&commit_key(job_uid, step)?, before.as_deref(), &now).await
    }

    /// The commit of a job's checkpoint after `step`.
    ///
    /// # Errors
    /// `InvalidInput` for a uid that is none, any other error of the backend but absence.
    pub async fn noted_commit(&self, job_uid: &str, step: u64) -> io::Result<Option<Noted>> {
        let key = commit_key(job_uid, step)?;
        let Some(line) = self.backend.read(&key).await? else { return Ok(None) };
        match line.trim_end().parse() {
            Ok(record) => Ok(Some(Noted::Begun(record))),
            Err(_) => Entry::parse(&key, &line).map(|entry| Some(Noted::Logged(entry))),
        }
    }

    /// The steps of a job whose commit was begun and may have been logged, though the checkpoint is not the job's.
    ///
    /// # Errors
    /// `InvalidInput` for a uid that is none, any other error of the backend but absence.
    pub async fn begun_commits(&self, job_uid: &str) -> io::Result<BTreeMap<u64, Digest>> {
        let mut begun = BTreeMap::new();
        for step in self.commit_steps(job_uid).await? {
            if let Some(Noted::Begun(record)) = self.noted_commit(job_uid, step).await? {
                begun.insert(step, record);
            }
        }
        Ok(begun)
    }

    /// The steps of a job of which a commit is noted.
    pub(super) async fn commit_steps(&self, job_uid: &str) -> io::Result<Vec<u64>> {
        let entries = self.backend.list(&format!("{}/commits", job_folder(job_uid)?)).await?;
        Ok(entries.iter().filter_map(|entry| entry.name.parse().ok()).collect())
    }

    /// Leaves what the signer of a logged commit says of its checkpoint's files, instead of what was left before for the step.
    /// Whoever reads it compares it with the commit that is the step's then.
    ///
    /// # Errors
    /// `InvalidInput` for a uid that is none and a statement that is too long, any other error of the backend.
    pub async fn leave_model(&self, job_uid: &str, step: u64, model: &Envelope) -> io::Result<()> {
        let invalid = |text: String| io::Error::new(io::ErrorKind::InvalidInput, text);
        let bytes = model.to_json().map_err(|error| invalid(error.to_string()))?;
        if bytes.len() as u64 > MAX_MODEL {
            return Err(invalid(format!(
                "the statement has {} bytes, at most {MAX_MODEL} are kept",
                bytes.len()
            )));
        }
        self.backend.write_bytes(&model_key(job_uid, step)?, &bytes).await
    }

    /// What was left of a step with [`Store::leave_model`].
    ///
    /// # Errors
    /// `InvalidInput` for a uid that is none, `InvalidData` if it was damaged, any other error of the backend but absence.
    pub async fn model(&self, job_uid: &str, step: u64) -> io::Result<Option<Envelope>> {
        let key = model_key(job_uid, step)?;
        let Some(bytes) = self.backend.read_bytes(&key, MAX_MODEL).await? else { return Ok(None) };
        let model = Envelope::parse(&bytes, bytes.len());
        model.map(Some).map_err(|_| damaged(&key, "a DSSE envelope"))
    }

    /// Remembers the newest grant of an island.
    ///
    /// # Errors
    /// `InvalidInput` for a uid that is none, any other error of the backend.
    pub async fn note_grant(&self, job_uid: &str, island: i64, granted: Granted) -> io::Result<()> {
        let line = match granted {
            Granted::Live(epoch) => format!("live {epoch}\n"),
            Granted::Ended(epoch) => format!("ended {epoch}\n"),
        };
        self.backend.write(&grant_key(job_uid, island)?, &line).await
    }

    /// The newest grant of an island, if there was one.
    ///
    /// # Errors
    /// `InvalidInput` for a uid that is none, any other error of the backend but absence.
    pub async fn noted_grant(&self, job_uid: &str, island: i64) -> io::Result<Option<Granted>> {
        let key = grant_key(job_uid, island)?;
        let Some(line) = self.backend.read(&key).await? else { return Ok(None) };
        let parsed =
            line.trim_end().split_once(' ').and_then(|(state, epoch)| match (state, epoch.parse().ok()?) {
                ("live", epoch) => Some(Granted::Live(epoch)),
                ("ended", epoch) => Some(Granted::Ended(epoch)),
                _ => None,
            });
        parsed.map(Some).ok_or_else(|| damaged(&key, "`live <epoch>` or `ended <epoch>`"))
    }

    /// Remembers that the log has a job's end.
    ///
    /// # Errors
    /// `InvalidInput` for a uid that is none, any other error of the backend.
    pub async fn note_end(&self, job_uid: &str) -> io::Result<()> {
        self.backend.write(&end_key(job_uid)?, "logged\n").await
    }

    /// Whether the log has a job's end.
    ///
    /// # Errors
    /// `InvalidInput` for a uid that is none, any other error of the backend but absence.
    pub async fn noted_end(&self, job_uid: &str) -> io::Result<bool> {
        Ok(self.backend.read(&end_key(job_uid)?).await?.is_some())
    }
}

pub(super) fn commit_key(job_uid: &str, step: u64) -> io::Result<String> {
    Ok(format!("{}/commits/{step}", job_folder(job_uid)?))
}

pub(super) fn model_key(job_uid: &str, step: u64) -> io::Result<String> {
    Ok(format!("{}/models/{step}", job_folder(job_uid)?))
}

fn grant_key(job_uid: &str, island: i64) -> io::Result<String> {
    Ok(format!("{}/grants/{island}", job_folder(job_uid)?))
}

pub(super) fn end_key(job_uid: &str) -> io::Result<String> {
    Ok(format!("{}/end", job_folder(job_uid)?))
}
