//! `muster logs`: what a job's worker writes, through the hub's gateway; or the end of what it wrote before its attempt failed.
use super::data::label;
use super::output::{bytes, note, print};
use super::remote::{Gateway, Remote, Trouble, send};
use super::run::block_on;
use super::{Failure, Outcome};
use crate::runtime::sanitise::{Terminal, line};
use crate::wire::streams::{KeptLog, KeptLogs};
use clap::Args;
use reqwest::Method;
use std::fmt::Write;
use std::io::IsTerminal;

/// Kept logs that are named when there is nothing else to show.
const NAMED: usize = 20;

/// Shows a worker's log.
#[derive(Debug, Args)]
pub struct LogsCommand {
    /// The job
    #[arg(value_name = "JOB")]
    job: String,
    /// Its namespace [default: the kubeconfig context's]
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// Which of its workers
    #[arg(long, value_name = "N", default_value_t = 0)]
    worker: u32,
    /// Go on as long as the worker writes
    #[arg(short, long, conflicts_with_all = ["attempt", "previous"])]
    follow: bool,
    /// Only so many lines from the end
    #[arg(long, value_name = "N")]
    tail: Option<u32>,
    /// The end of the log of this attempt, which failed
    #[arg(long, value_name = "N", conflicts_with = "previous")]
    attempt: Option<u64>,
    /// The end of the log of the last attempt that failed
    #[arg(short, long)]
    previous: bool,
    #[command(flatten)]
    remote: Remote,
}

impl LogsCommand {
    pub fn run(self) -> Outcome {
        block_on(self.show())?
    }

    async fn show(self) -> Outcome {
        let namespace = match &self.namespace {
            Some(namespace) => namespace.clone(),
            None => self.remote.namespace().await?,
        };
        let namespace = label(&namespace)?;
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
        if self.job.is_empty() || !self.job.bytes().all(plain) {
            return Err(Failure::usage(format!("{:?} is not the name of a TrainingJob", self.job)));
        }
        let gateway = self.remote.connect().await?;
        let base = format!("/v1/namespaces/{namespace}/jobs/{}/logs", self.job);
        let mut path = format!("{base}?worker={}", self.worker);
        if self.attempt.is_some() || self.previous {
            let kept: KeptLogs = gateway.get(&format!("{base}/kept")).await?;
            let log = self.choose(&kept)?;
            note(format_args!("{}", title(log)));
            let _ = write!(path, "&attempt={}&unit={}", log.attempt, label(&log.unit)?);
        }
        if let Some(lines) = self.tail {
            let _ = write!(path, "&tail={lines}");
        }
        if self.follow {
            path += "&follow=true";
        }
        match send(gateway.request(Method::GET, &path).await?).await {
            Ok(answer) => copy(answer).await,
            Err(Trouble::Refused(status, refused)) if refused.reason == "NoRunningWorker" => {
                self.explain(&gateway, &base, Trouble::Refused(status, refused).into()).await
            }
            // Not tried again: somebody waits for what is written now.
            Err(Trouble::Passing(text, _)) => Err(Failure::new(text)),
            Err(other) => Err(other.into()),
        }
    }

    /// The newest that is meant.
    fn choose<'a>(&self, kept: &'a KeptLogs) -> Result<&'a KeptLog, Failure> {
        let is_it = |log: &&KeptLog| {
            log.worker == self.worker && self.attempt.is_none_or(|attempt| attempt == log.attempt)
        };
        kept.logs.iter().rev().find(is_it).ok_or_else(|| {
            let worker = self.worker;
            Failure::new(format!("no log of a failed attempt of worker {worker} is kept{}", names(kept)))
        })
    }

    /// No such worker runs: what else there is.
    async fn explain(&self, gateway: &Gateway, base: &str, why: Failure) -> Outcome {
        let kept: KeptLogs = gateway.get(&format!("{base}/kept")).await?;
        Err(Failure::new(format!("{why}{}", names(&kept))))
    }
}

fn title(log: &KeptLog) -> String {
    format!("unit {}, attempt {}, worker {}", line(&log.unit, 63), log.attempt, log.worker)
}

fn names(kept: &KeptLogs) -> String {
    if kept.logs.is_empty() {
        return "; nothing is kept of failed attempts".to_owned();
    }
    let newest = kept.logs.iter().rev().take(NAMED);
    let lines: Vec<String> = newest.map(|log| format!("\n  {}", title(log))).collect();
    format!("; kept of failed attempts (--attempt N, --worker N):{}", lines.concat())
}

/// As the worker wrote it, but for a terminal: nothing in it may control that.
async fn copy(mut answer: reqwest::Response) -> Outcome {
    let mut terminal = std::io::stdout().is_terminal().then(Terminal::default);
    loop {
        match answer.chunk().await {
            Ok(Some(piece)) => match &mut terminal {
                Some(terminal) => print(&terminal.push(&piece))?,
                None => bytes(&piece)?,
            },
            Ok(None) => {
                if let Some(terminal) = &mut terminal {
                    print(&terminal.end())?;
                }
                return Ok(0);
            }
            Err(_) => {
                return Err(Failure::new(
                    "the log was cut off: agent, gateway or the connection to it went away, or it was followed for an \
                     hour; ask again",
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept() -> KeptLogs {
        let log = |unit: &str, attempt, worker| KeptLog { unit: unit.to_owned(), attempt, worker };
        KeptLogs {
            logs: vec![log("u-0-1", 1, 0), log("u-0-1", 2, 0), log("u-0-1", 2, 1), log("u-0-2", 1, 0)],
        }
    }

    fn command(arguments: &[&str]) -> LogsCommand {
        #[derive(clap::Parser)]
        struct Cli {
            #[command(flatten)]
            logs: LogsCommand,
        }
        let words = [&["logs", "job"], arguments].concat();
        <Cli as clap::Parser>::try_parse_from(words).unwrap().logs
    }

    #[test]
    fn the_newest_that_is_meant_is_shown() {
        let kept = kept();
        let chosen =
            |arguments: &[&str]| command(arguments).choose(&kept).map(title).map_err(|e| e.to_string());
        assert_eq!(chosen(&["--previous"]).unwrap(), "unit u-0-2, attempt 1, worker 0");
        assert_eq!(chosen(&["--attempt", "2"]).unwrap(), "unit u-0-1, attempt 2, worker 0");
        assert_eq!(chosen(&["--previous", "--worker", "1"]).unwrap(), "unit u-0-1, attempt 2, worker 1");
        let none = chosen(&["--attempt", "7"]).unwrap_err();
        assert!(none.contains("unit u-0-2, attempt 1, worker 0"), "{none}");
    }
}
