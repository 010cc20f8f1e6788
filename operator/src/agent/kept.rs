//! The ends of the logs of attempts that failed: read before their pods go, kept in the state directory until the gateway has
//! them. They are for people: losing one must never hold up what trains.
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use muster_core::attempt::{Pod, PodState};
use reqwest::{Method, StatusCode};
use tokio::sync::Notify;

use super::gateway::{GatewayError, refusal};
use super::logs::{Part, WorkerLogs, tail};
use super::session::Session;
use crate::runtime::files::{self, Access};
use crate::runtime::{Shutdown, backoff};
use crate::store::is_dns_label;
use crate::wire::streams::MAX_KEPT;

/// Workers of one attempt whose log is read, the one that decided first.
const WORKERS: usize = 8;
/// All of them together: the next attempt waits for it.
const READ_WITHIN: Duration = Duration::from_secs(2);
/// More than 64 KiB of any log that a worker writes.
const LINES: u32 = 2000;
/// What a pod may write in so many lines and still be read.
const READ_BYTES: u64 = 32 << 20;
/// Logs that wait for the gateway; the oldest go.
const WAITING: usize = 256;
/// One small request.
const PUT_WITHIN: Duration = Duration::from_secs(30);
/// The longest pause while the gateway is away.
const PATIENCE: Duration = Duration::from_secs(60);

/// See the module.
#[derive(Debug)]
pub struct KeptLogs {
    dir: PathBuf,
    news: Notify,
}

/// One that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Waiting {
    path: PathBuf,
    unit: String,
    attempt: u64,
    rank: u64,
}

impl KeptLogs {
    /// Those of the state directory.
    ///
    /// # Errors
    /// Any error of the file system.
    pub fn open(state: &Path) -> io::Result<Self> {
        let dir = state.join("logs");
        files::create_private_dir(&dir)?;
        Ok(Self { dir, news: Notify::new() })
    }

    /// Keeps the ends of the logs of a failed attempt's workers, as far as the member still has them.
    pub async fn keep(
        &self,
        unit: &str,
        attempt: i64,
        decided: Option<i64>,
        pods: &[Pod],
        logs: &dyn WorkerLogs,
    ) {
        let wrote = |pod: &&Pod| pod.attempt == attempt && !matches!(pod.state, PodState::Waiting(_));
        let mut chosen: Vec<&Pod> = pods.iter().filter(wrote).collect();
        chosen.sort_by_key(|pod| (Some(pod.rank) != decided, pod.rank));
        let part = Part { follow: false, tail_lines: Some(LINES), limit_bytes: Some(READ_BYTES) };
        let reading = chosen.into_iter().take(WORKERS).map(|pod| async move {
            let read = async {
                let log = logs.of_pod(&pod.name, part).await.map_err(|error| error.to_string())?;
                let Some(log) = log else { return Ok(None) };
                tail(log, MAX_KEPT).await.map(Some).map_err(|error| error.to_string())
            };
            let read: Result<Option<Vec<u8>>, String> =
                tokio::time::timeout(READ_WITHIN, read).await.unwrap_or_else(|_| Err("too slow".to_owned()));
            match read {
                Ok(Some(bytes)) if !bytes.is_empty() => self.save(unit, attempt, pod.rank, bytes).await,
                // It went with its pod, or never wrote a word.
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(unit, attempt, rank = pod.rank, error, "log of a failed worker lost")
                }
            }
        });
        futures::future::join_all(reading).await;
    }

    async fn save(&self, unit: &str, attempt: i64, rank: i64, bytes: Vec<u8>) {
        if !is_dns_label(unit) {
            return;
        }
        let path = self.dir.join(format!("{unit}-{attempt}-{rank}"));
        let dir = self.dir.clone();
        let saved = tokio::task::spawn_blocking(move || {
            files::write_atomic(&path, &bytes, Access::Private)?;
            forget_oldest(&dir)
        });
        match saved.await.map_err(io::Error::other).flatten() {
            Ok(()) => self.news.notify_one(),
            Err(error) => {
                tracing::warn!(unit, attempt, rank, %error, "cannot keep the log of a failed worker")
            }
        }
    }

    /// Brings them to the gateway until `shutdown`.
    pub async fn run(self: Arc<Self>, session: Session, shutdown: Shutdown) {
        let mut failures = 0;
        loop {
            let pause = match self.push(&session).await {
                Ok(()) => {
                    failures = 0;
                    PATIENCE
                }
                Err(error) => {
                    failures += 1;
                    tracing::debug!(%error, "kept logs wait for the gateway");
                    let jitter = backoff::jitter_of("logs");
                    backoff::delay(Duration::from_secs(1), PATIENCE, failures, jitter)
                }
            };
            tokio::select! {
                biased;
                () = shutdown.wait() => return,
                () = self.news.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn push(&self, session: &Session) -> Result<(), GatewayError> {
        let waiting = waiting(&self.dir).unwrap_or_default();
        for one in waiting {
            let Ok(bytes) = files::read_capped(&one.path, MAX_KEPT as u64) else { continue };
            let Waiting { unit, attempt, rank, path } = &one;
            let url = format!("/v1/units/{unit}/attempts/{attempt}/logs/{rank}");
            let build = |gateway: &super::gateway::Gateway| {
                gateway.request(Method::PUT, &url).timeout(PUT_WITHIN).body(bytes.clone())
            };
            let answer = session.send(build).await?;
            if !matches!(answer.status(), StatusCode::OK | StatusCode::CREATED) {
                let error = refusal(answer).await;
                // 403: not our key's day; it may be again.
                if error.is_transient() || matches!(error.status(), Some(401 | 403)) {
                    return Err(error);
                }
                tracing::info!(unit, attempt, rank, %error, "the gateway does not keep a log");
            }
            if let Err(error) = fs::remove_file(path) {
                tracing::warn!(path = %path.display(), %error, "cannot remove a log that was kept");
            }
        }
        Ok(())
    }
}

/// What waits, the oldest first.
fn waiting(dir: &Path) -> io::Result<Vec<Waiting>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let path = entry.path();
        let Some(one) = entry.file_name().to_str().and_then(|name| parse(name, path)) else { continue };
        found.push((entry.metadata()?.modified()?, one));
    }
    found.sort_by(|(a, x), (b, y)| a.cmp(b).then_with(|| x.path.cmp(&y.path)));
    Ok(found.into_iter().map(|(_, one)| one).collect())
}

fn parse(name: &str, path: PathBuf) -> Option<Waiting> {
    let mut parts = name.rsplitn(3, '-');
    let (rank, attempt) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let unit = parts.next().filter(|unit| is_dns_label(unit))?.to_owned();
    Some(Waiting { path, unit, attempt, rank })
}

fn forget_oldest(dir: &Path) -> io::Result<()> {
    let waiting = waiting(dir)?;
    for one in waiting.iter().take(waiting.len().saturating_sub(WAITING)) {
        fs::remove_file(&one.path)?;
    }
    Ok(())
}
