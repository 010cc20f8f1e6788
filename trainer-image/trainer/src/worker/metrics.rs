//! `metrics.jsonl`: one line a step, for plots. It holds what the `step` event holds; after a resume there is one
//! line per step again.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::files::{self, FileError, Named as _};
use crate::protocol::Event;

/// The largest file that is carried over at a resume, in bytes; a longer one is set aside by starting anew.
const MAX_METRICS: u64 = 1 << 30;

#[derive(Deserialize)]
struct Line {
    step: u64,
}

/// The open file.
#[derive(Debug)]
pub(super) struct Metrics {
    file: File,
    path: PathBuf,
}

impl Metrics {
    /// Opens the file for a run that starts from state `from`: lines of later steps, and one that a crash cut off, are
    /// dropped.
    pub fn open(path: PathBuf, from: u64) -> Result<Self, FileError> {
        let old = match files::read_at_most(&path, MAX_METRICS) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(_) => String::new(),
        };
        let kept: String =
            old.split_inclusive('\n').filter(|line| line.ends_with('\n') && is_until(line, from)).collect();
        if kept != old || !path.exists() {
            files::write_atomic(&path, kept.as_bytes())?;
        }
        let file = OpenOptions::new().append(true).open(&path).named("open", &path)?;
        Ok(Self { file, path })
    }

    /// Adds a step. Not flushed to the disk: the checkpoints are what counts.
    pub fn add(&mut self, event: &Event) -> Result<(), FileError> {
        let mut value = serde_json::to_value(event).unwrap_or_default();
        if let Some(fields) = value.as_object_mut() {
            fields.remove("event");
            fields.remove("etaSeconds");
        }
        self.file.write_all(format!("{value}\n").as_bytes()).named("write", &self.path)
    }
}

fn is_until(line: &str, step: u64) -> bool {
    serde_json::from_str::<Line>(line).is_ok_and(|line| line.step <= step)
}

/// Where the metrics of a job directory are.
pub(super) fn path(out: &Path) -> PathBuf {
    out.join("metrics.jsonl")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(step: u64) -> Event {
        Event::Step {
            step,
            loss: "1.5".into(),
            eval_loss: None,
            grad_norm: "2".into(),
            lr: "0.1".into(),
            tokens_per_second: 7,
            eta_seconds: 9,
        }
    }

    #[test]
    fn a_resumed_run_has_one_line_per_step() {
        let dir = tempfile::tempdir().unwrap();
        let path = path(dir.path());
        let mut metrics = Metrics::open(path.clone(), 0).unwrap();
        (1..=4).for_each(|n| metrics.add(&step(n)).unwrap());
        let torn = [std::fs::read(&path).unwrap(), b"{\"step\":2,\"lo".to_vec()].concat();
        std::fs::write(&path, torn).unwrap();
        Metrics::open(path.clone(), 2).unwrap().add(&step(3)).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let steps: Vec<u64> = text.lines().map(|l| serde_json::from_str::<Line>(l).unwrap().step).collect();
        assert_eq!(steps, [1, 2, 3]);
        let line = r#"{"gradNorm":"2","loss":"1.5","lr":"0.1","step":1,"tokensPerSecond":7}"#;
        assert_eq!(text.lines().next(), Some(line));
    }
}
