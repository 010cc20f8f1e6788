//! `records.json`: what each step of an interval reports, on a disk. One spelling: the canonical JSON of the array.
//!
//! A worker writes it into each hand-over, `muster local` into `DIR/records/`. It is secret until an audit: whoever has
//! it could claim to have computed the interval. So it is no part of a checkpoint and no blob.

use std::path::{Path, PathBuf};

use muster_proof::steps::{self, MAX_RECORD, MAX_RECORDS, Records, StepRecord};

use crate::failure::Failure;
use crate::files::{self, FileError};
use crate::protocol::ExitCode;

/// Its name in a hand-over.
pub const RECORDS_FILE: &str = "records.json";
/// The largest file that is read, in bytes.
pub const MAX_FILE: u64 = (MAX_RECORDS * (MAX_RECORD + 1) + 2) as u64;

/// What is wrong with a file of records.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It cannot be read, or is longer than [`MAX_FILE`].
    #[error(transparent)]
    Read(#[from] FileError),
    /// No list of records.
    #[error("not a list of step records: {0}")]
    Json(#[from] serde_json::Error),
    /// A list without a record: nobody hands over a state that no step led to.
    #[error("no step record in it")]
    Empty,
    /// Not what an interval has.
    #[error(transparent)]
    Records(#[from] steps::Error),
    /// Another spelling.
    #[error("not in canonical form (RFC 8785)")]
    NotCanonical,
    /// Of other steps.
    #[error("ends with step {got}, not {want}")]
    Last {
        /// The last record's step.
        got: u64,
        /// The state's.
        want: u64,
    },
}

/// The records of the steps up to `step` in the job directory or scratch directory `dir`.
pub fn path(dir: &Path, step: u64) -> PathBuf {
    dir.join("records").join(format!("step-{step:08}.json"))
}

/// The bytes of the file.
///
/// # Errors
/// Does not fail for records that were checked.
pub fn to_bytes(records: &Records) -> Result<Vec<u8>, Error> {
    let mut out = vec![b'['];
    for (at, record) in records.as_slice().iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        out.extend(record.to_bytes()?);
    }
    out.push(b']');
    Ok(out)
}

/// Reads the bytes of a file; steps that follow each other, at least one, in their one spelling.
///
/// # Errors
/// [`Error`].
pub fn parse(bytes: &[u8]) -> Result<Records, Error> {
    if bytes.len() as u64 > MAX_FILE {
        return Err(steps::Error::TooMany.into());
    }
    // Not by way of a JSON value, which for the longest interval would take more memory than a sidecar has.
    let records: Vec<StepRecord> = serde_json::from_slice(bytes)?;
    let first = records.first().ok_or(Error::Empty)?.step;
    let records = Records::new(first, records)?;
    if to_bytes(&records)? == bytes { Ok(records) } else { Err(Error::NotCanonical) }
}

/// Reads a file that anybody may have written: records up to the step `last`.
///
/// # Errors
/// [`Error`].
pub fn read(path: &Path, last: u64) -> Result<Records, Error> {
    let records = parse(&files::read_plain(path, MAX_FILE)?)?;
    let got = records.as_slice().last().map_or(0, |record| record.step);
    if got == last { Ok(records) } else { Err(Error::Last { got, want: last }) }
}

/// Writes records to `path`, durably. Others of the same steps that are there already end the run: one of the two was
/// computed wrongly.
///
/// # Errors
/// [`ExitCode::BadCheckpoint`] for others, [`ExitCode::Disk`].
pub fn put(path: &Path, records: &Records) -> Result<(), Failure> {
    let disk = |error: FileError| Failure::new(ExitCode::Disk, error.to_string());
    let bytes = to_bytes(records).map_err(|error| Failure::usage(error.to_string()))?;
    let steps = |records: &Records| {
        let of = |record: Option<&StepRecord>| record.map(|record| record.step);
        (of(records.as_slice().first()), of(records.as_slice().last()))
    };
    match files::read_plain(path, MAX_FILE) {
        Ok(there) if there == bytes => return Ok(()),
        // A run whose intervals were cut elsewhere, or a file that is none, gives way.
        Ok(there) if parse(&there).is_ok_and(|there| steps(&there) == steps(records)) => {
            let message = format!(
                "{} has other records of the same steps of the same job: one of the two runs computed wrongly; check \
                 this machine's memory, keep the file, and compare with a third run",
                path.display()
            );
            return Err(Failure::new(ExitCode::BadCheckpoint, message));
        }
        _ => {}
    }
    files::create_dirs(path.parent().unwrap_or(path)).map_err(disk)?;
    files::write_atomic(path, &bytes).map_err(disk)
}

#[cfg(test)]
mod tests {
    use muster_proof::steps::Bits;

    use super::*;

    pub(crate) fn records(first: u64, n: u64, loss: f32) -> Records {
        let record = |step| StepRecord {
            eval_loss: None,
            grad_norm: Bits::of(1.5),
            learning_rate: Bits::of(0.1),
            loss: Bits::of(loss),
            step,
        };
        Records::new(first, (first..first + n).map(record).collect()).unwrap()
    }

    #[test]
    fn a_file_has_one_spelling() {
        let bytes = to_bytes(&records(9, 2, 2.0)).unwrap();
        let text = String::from_utf8(bytes.clone()).unwrap();
        assert_eq!(
            text,
            r#"[{"gradNorm":"3fc00000","learningRate":"3dcccccd","loss":"40000000","step":9},{"gradNorm":"3fc00000","learningRate":"3dcccccd","loss":"40000000","step":10}]"#
        );
        assert_eq!(text.as_bytes(), muster_proof::jcs::serialize(&records(9, 2, 2.0).as_slice()).unwrap());
        assert_eq!(parse(&bytes).unwrap(), records(9, 2, 2.0));
        for (from, to, want) in [
            (",{", ", {", "canonical"),
            ("[{", "[ {", "canonical"),
            ("\"step\":9", "\"step\":8", "step"),
            ("40000000", "7f800000", "finite"),
            ("3fc00000", "3FC00000", "hex"),
            ("\"step\":9", "\"step\":9,\"x\":1", "unknown field"),
            ("\"step\":9", "\"step\":9,\"step\":9", "duplicate"),
            ("]", "]]", "trailing"),
        ] {
            let error = parse(text.replacen(from, to, 1).as_bytes()).unwrap_err().to_string();
            assert!(error.contains(want), "{want}: {error}");
        }
        assert!(matches!(parse(b"[]"), Err(Error::Empty)));
        assert!(parse(b"").is_err() && parse(b"{}").is_err() && parse(b"null").is_err());
    }

    #[test]
    fn links_pipes_and_long_files_are_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = path(dir.path(), 10);
        put(&path, &records(9, 2, 2.0)).unwrap();
        assert_eq!(read(&path, 10).unwrap(), records(9, 2, 2.0));
        assert!(matches!(read(&path, 11), Err(Error::Last { got: 10, want: 11 })));
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(matches!(read(&link, 10), Err(Error::Read(_))));
        let pipe = dir.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        assert!(read(&pipe, 10).unwrap_err().to_string().contains("not a file"));
        assert!(matches!(read(dir.path(), 10), Err(Error::Read(_))));
        let long = std::fs::File::create(dir.path().join("long")).unwrap();
        long.set_len(MAX_FILE + 1).unwrap();
        assert!(read(&dir.path().join("long"), 10).unwrap_err().to_string().contains("longer than"));
    }

    #[test]
    fn other_records_of_the_same_steps_are_kept_and_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = path(dir.path(), 10);
        put(&path, &records(9, 2, 2.0)).unwrap();
        put(&path, &records(9, 2, 2.0)).unwrap();
        assert_eq!(put(&path, &records(9, 2, 3.0)).unwrap_err().code, ExitCode::BadCheckpoint);
        assert_eq!(read(&path, 10).unwrap(), records(9, 2, 2.0));
        put(&path, &records(7, 4, 2.0)).unwrap();
        assert_eq!(read(&path, 10).unwrap(), records(7, 4, 2.0), "cut elsewhere");
    }
}
