//! The ends of the logs of workers whose attempt failed, `jobs/<job uid>/logs/<unit>-<attempt>-<rank>`. They go with the job.
use std::io;

use super::Store;
use super::catalogue::is_dns_label;
use super::checkpoints::job_folder;
use super::puts::Unit;
use crate::wire::streams::{KeptLog, MAX_KEPT};

/// Logs kept of one unit; beyond it the oldest attempts' go. That is 8 MiB.
const KEEP: usize = 128;

impl Store {
    /// Keeps the end of a worker's log, at most [`MAX_KEPT`] bytes. What was kept of the same worker before is replaced.
    ///
    /// # Errors
    /// `InvalidInput` for a unit that is none or a log that is too long, any other error of the backend.
    pub async fn keep_log(&self, unit: Unit<'_>, attempt: u64, worker: u32, bytes: &[u8]) -> io::Result<()> {
        if !is_dns_label(unit.name) || bytes.len() > MAX_KEPT {
            let text = format!("{:?}: not a unit, or a log of more than {MAX_KEPT} bytes", unit.name);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let log = KeptLog { unit: unit.name.to_owned(), attempt, worker };
        self.backend.write_bytes(&log_key(unit.job_uid, &log)?, bytes).await?;
        let mut all = self.kept_logs(unit.job_uid).await?;
        all.retain(|log| log.unit == unit.name);
        let too_many = all.len().saturating_sub(KEEP);
        for old in all.iter().take(too_many) {
            self.backend.remove(&log_key(unit.job_uid, old)?).await?;
        }
        Ok(())
    }

    /// What is kept of a job's workers, the oldest unit and attempt first.
    ///
    /// # Errors
    /// `InvalidInput` for a uid that is none, any other error of the backend but absence.
    pub async fn kept_logs(&self, job_uid: &str) -> io::Result<Vec<KeptLog>> {
        let entries = self.backend.list(&folder(job_uid)?).await?;
        let mut all: Vec<KeptLog> = entries.iter().filter_map(|entry| parse(&entry.name)).collect();
        // A unit's name ends with its epoch.
        let epoch = |log: &KeptLog| log.unit.rsplit('-').next().and_then(|text| text.parse::<u64>().ok());
        all.sort_by_cached_key(|log| (epoch(log), log.unit.clone(), log.attempt, log.worker));
        Ok(all)
    }

    /// The bytes that are kept of a worker's log.
    ///
    /// # Errors
    /// `InvalidInput` for names that are none, any other error of the backend but absence.
    pub async fn kept_log(&self, job_uid: &str, log: &KeptLog) -> io::Result<Option<Vec<u8>>> {
        if !is_dns_label(&log.unit) {
            return Ok(None);
        }
        self.backend.read_bytes(&log_key(job_uid, log)?, MAX_KEPT as u64).await
    }
}

fn folder(job_uid: &str) -> io::Result<String> {
    Ok(format!("{}/logs", job_folder(job_uid)?))
}

fn log_key(job_uid: &str, log: &KeptLog) -> io::Result<String> {
    Ok(format!("{}/{}", folder(job_uid)?, name(log)))
}

fn name(log: &KeptLog) -> String {
    format!("{}-{}-{}", log.unit, log.attempt, log.worker)
}

/// Only the one spelling that is written here.
fn parse(text: &str) -> Option<KeptLog> {
    let mut parts = text.rsplitn(3, '-');
    let (worker, attempt, unit) = (parts.next()?, parts.next()?, parts.next()?);
    let log = KeptLog { unit: unit.to_owned(), attempt: attempt.parse().ok()?, worker: worker.parse().ok()? };
    (is_dns_label(unit) && name(&log) == text).then_some(log)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::{Duration, SystemTime};

    use rstest::rstest;

    use super::super::testing::{On, store};
    use super::*;

    const JOB: &str = "4f2a9c1b-0000-4000-8000-000000000000";

    fn unit(name: &str) -> Unit<'_> {
        Unit { job_uid: JOB, name }
    }

    #[rstest]
    #[tokio::test]
    async fn logs_are_kept_in_order_and_go_with_the_job(#[values(On::Dir, On::Bucket)] on: On) {
        let (_dir, store) = store(on).await;
        assert!(store.kept_logs(JOB).await.unwrap().is_empty());
        for (name, attempt, worker) in
            [("4f2a9c1b-0-10", 1, 0), ("4f2a9c1b-0-9", 10, 1), ("4f2a9c1b-0-9", 9, 0)]
        {
            store.keep_log(unit(name), attempt, worker, name.as_bytes()).await.unwrap();
        }
        store.keep_log(unit("4f2a9c1b-0-9"), 9, 0, &[0xff; MAX_KEPT]).await.unwrap();
        let all = store.kept_logs(JOB).await.unwrap();
        let names: Vec<_> = all.iter().map(name).collect();
        assert_eq!(names, ["4f2a9c1b-0-9-9-0", "4f2a9c1b-0-9-10-1", "4f2a9c1b-0-10-1-0"]);
        assert_eq!(store.kept_log(JOB, &all[0]).await.unwrap().unwrap().len(), MAX_KEPT);
        let none = KeptLog { unit: "../x".to_owned(), ..all[0].clone() };
        assert_eq!(store.kept_log(JOB, &none).await.unwrap(), None);
        assert!(store.keep_log(unit("4f2a9c1b-0-9"), 1, 0, &[0; MAX_KEPT + 1]).await.is_err());
        assert!(store.keep_log(unit("a/b"), 1, 0, b"").await.is_err());
        // The job is gone, and the hub collects.
        let jobs = store.jobs().await.unwrap();
        store.collect(&BTreeMap::new(), &jobs, SystemTime::now(), Duration::ZERO).await.unwrap();
        assert!(store.kept_logs(JOB).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_unit_that_fails_for_ever_keeps_its_newest_logs() {
        let (_dir, store) = store(On::Bucket).await;
        store.keep_log(unit("4f2a9c1b-0-1"), 7, 0, b"another's").await.unwrap();
        for attempt in 1..=KEEP as u64 + 5 {
            store.keep_log(unit("4f2a9c1b-0-2"), attempt, 0, b"x").await.unwrap();
        }
        let all = store.kept_logs(JOB).await.unwrap();
        assert_eq!((all.len(), all[0].attempt, all[1].attempt), (KEEP + 1, 7, 6));
    }
}
