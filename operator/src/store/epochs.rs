//! The fence: the highest epoch known of each island of a job. It only grows, whoever writes it and in whatever order the
//! news comes, and is forgotten with the job. What an older epoch still wants to do is refused against it.
use std::io;

use super::Store;
use super::catalogue::TRIES;
use super::checkpoints::job_folder;
use super::damaged;

impl Store {
    /// The highest epoch known of an island; 0 if none is.
    ///
    /// # Errors
    /// `InvalidInput` for a uid that is none, any other error of the backend but absence.
    pub async fn epoch(&self, job_uid: &str, island: i64) -> io::Result<i64> {
        let key = key(job_uid, island)?;
        self.backend.read(&key).await?.map_or(Ok(0), |line| parse(&key, &line))
    }

    /// Lets the store know of an epoch. Gives the highest known from now on, which may be another's. Durable when this
    /// returns.
    ///
    /// # Errors
    /// `InvalidInput` for a uid that is none, any other error of the backend.
    pub async fn raise_epoch(&self, job_uid: &str, island: i64, epoch: i64) -> io::Result<i64> {
        let key = key(job_uid, island)?;
        for _ in 0..TRIES {
            let line = self.backend.read(&key).await?;
            let known = line.as_deref().map_or(Ok(0), |line| parse(&key, line))?;
            if known >= epoch {
                return Ok(known);
            }
            if self.backend.swap(&key, line.as_deref(), &format!("{epoch}\n")).await? {
                return Ok(epoch);
            }
        }
        Err(io::Error::other(format!("{key} in the store is written all the time by others")))
    }
}

fn key(job_uid: &str, island: i64) -> io::Result<String> {
    Ok(format!("{}/epochs/{island}", job_folder(job_uid)?))
}

fn parse(key: &str, line: &str) -> io::Result<i64> {
    // A fence that cannot be read lets nobody pass: it is an error, not 0.
    let number = line.strip_suffix('\n').and_then(|text| text.parse().ok());
    number.filter(|&epoch: &i64| epoch > 0).ok_or_else(|| damaged(key, "one number from 1"))
}
