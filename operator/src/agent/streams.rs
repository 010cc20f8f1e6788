//! Workers' logs for the users of the hub (docs/spec/gateway.md section 9). The agent asks the gateway what is wanted and brings
//! it in the body of a request of its own; what it gives is the provider's to say.
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use muster_core::policy::Logs;
use reqwest::{Method, StatusCode, header};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::gateway::{GatewayError, refusal};
use super::logs::{Log, Part, WorkerLogs};
use super::policy::Policies;
use super::session::Session;
use super::state::UnitState;
use super::units::Units;
use crate::runtime::{Shutdown, backoff};
use crate::wire::streams::{StreamReason, StreamRefusal, StreamRequest};

/// Streams at once.
const AT_ONCE: usize = 8;
/// The gateway answers a poll within 25 s.
const POLL: Duration = Duration::from_secs(40);
/// The longest pause after a poll that failed.
const PATIENCE: Duration = Duration::from_secs(15);
/// No wish is longer.
const MAX_WISH: usize = 4096;
/// A refusal is a small request.
const SMALL: Duration = Duration::from_secs(10);

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct Streams {
    /// With the gateway.
    pub session: Session,
    /// Ours.
    pub units: Arc<Units>,
    /// What is lent, and whether logs are.
    pub policies: Arc<Policies>,
    /// Where they are read.
    pub logs: Arc<dyn WorkerLogs>,
}

impl Streams {
    /// Until `shutdown`.
    pub async fn run(self, shutdown: Shutdown) {
        let slots = Arc::new(Semaphore::new(AT_ONCE));
        let mut failures = 0;
        loop {
            let polled = tokio::select! {
                biased;
                () = shutdown.wait() => return,
                polled = self.poll() => polled,
            };
            let pause = match polled {
                Ok(wish) => {
                    failures = 0;
                    if let Some(wish) = wish {
                        let slot = slots.clone().try_acquire_owned().ok();
                        tokio::spawn(self.clone().serve(wish, slot, shutdown.clone()));
                    }
                    Duration::ZERO
                }
                Err(error) => {
                    failures += 1;
                    // The heartbeat says it where people look.
                    tracing::debug!(%error, "cannot ask which logs are wanted");
                    let jitter = backoff::jitter_of("streams");
                    let pause = backoff::delay(Duration::from_secs(1), PATIENCE, failures, jitter);
                    pause.max(error.retry_after().unwrap_or_default())
                }
            };
            tokio::select! {
                biased;
                () = shutdown.wait() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn poll(&self) -> Result<Option<StreamRequest>, GatewayError> {
        let build =
            |gateway: &super::gateway::Gateway| gateway.request(Method::GET, "/v1/streams").timeout(POLL);
        let mut answer = self.session.send(build).await?;
        match answer.status() {
            StatusCode::NO_CONTENT => return Ok(None),
            StatusCode::OK => {}
            _ => return Err(refusal(answer).await),
        }
        let mut bytes = Vec::new();
        while let Some(piece) = answer.chunk().await.map_err(super::gateway::unreachable)? {
            bytes.extend_from_slice(&piece);
            if bytes.len() > MAX_WISH {
                return Err(malformed("longer than any"));
            }
        }
        let wish: StreamRequest =
            serde_json::from_slice(&bytes).map_err(|_| malformed("not of this version"))?;
        // It becomes part of a path.
        if wish.id.is_empty() || wish.id.len() > 64 || !wish.id.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(malformed("its id is none"));
        }
        Ok(Some(wish))
    }

    async fn serve(self, wish: StreamRequest, slot: Option<OwnedSemaphorePermit>, shutdown: Shutdown) {
        let answer = match &slot {
            Some(_) => self.open(&wish).await,
            None => Err((StreamReason::TooManyStreams, "its agent serves no more logs at once".to_owned())),
        };
        let sent = async {
            match answer {
                Ok(log) => self.send(&wish, log).await,
                Err((reason, message)) => self.refuse(&wish, StreamRefusal { reason, message }).await,
            }
        };
        let sent = tokio::select! {
            biased;
            () = shutdown.wait() => return,
            sent = sent => sent,
        };
        match sent {
            Ok(()) => tracing::debug!(unit = wish.unit, worker = wish.worker, "log sent"),
            // Whoever reads a log leaves when he has seen enough.
            Err(error) => tracing::debug!(unit = wish.unit, worker = wish.worker, %error, "log not sent"),
        }
    }

    async fn open(&self, wish: &StreamRequest) -> Result<Log, (StreamReason, String)> {
        if self.policies.current().logs() == Logs::Refuse {
            let text = "it does not let logs out (logs: Refuse in its policy)";
            return Err((StreamReason::LogsRefused, text.to_owned()));
        }
        let none = || {
            let text = format!("worker {} of unit {} does not run here now", wish.worker, wish.unit);
            (StreamReason::NoRunningWorker, text)
        };
        // Only what was accepted as work of this hub's.
        let known = match self.units.get(&wish.unit) {
            Some(unit) => unit.state().await,
            None => UnitState::default(),
        };
        if known.payload.is_none_or(|payload| i64::from(wish.worker) >= payload.workers) {
            return Err(none());
        }
        // After a restore of the hub a unit goes on with pods that bear an earlier name.
        let names: Vec<&str> = known.earlier.iter().map(String::as_str).chain([&*wish.unit]).collect();
        let part =
            Part { follow: wish.follow, tail_lines: wish.tail_lines, limit_bytes: Some(wish.limit_bytes) };
        match self.logs.of_worker(&names, wish.worker, part).await {
            Ok(log) => log.ok_or_else(none),
            Err(error) => {
                tracing::warn!(unit = wish.unit, worker = wish.worker, %error, "cannot read a log");
                Err((StreamReason::MemberAway, "its cluster does not give the log now; try again".to_owned()))
            }
        }
    }

    async fn send(&self, wish: &StreamRequest, log: Log) -> Result<(), GatewayError> {
        // The gateway cuts what is longer; a log that ends there should end well.
        let log = log.scan(wish.limit_bytes, |left, piece| {
            let fits = match &piece {
                Ok(piece) => left.checked_sub(piece.len() as u64),
                Err(_) => Some(*left),
            };
            *left = fits.unwrap_or(0);
            std::future::ready(fits.map(|_| piece))
        });
        let request = self.session.gateway().request(Method::POST, &path(wish));
        let request = request.header(header::CONTENT_TYPE, "text/plain; charset=utf-8");
        done(self.session.send_once(request.body(reqwest::Body::wrap_stream(log))).await?).await
    }

    async fn refuse(&self, wish: &StreamRequest, refusal: StreamRefusal) -> Result<(), GatewayError> {
        let build = |gateway: &super::gateway::Gateway| {
            gateway.request(Method::POST, &path(wish)).timeout(SMALL).json(&refusal)
        };
        done(self.session.send(build).await?).await
    }
}

fn path(wish: &StreamRequest) -> String {
    format!("/v1/streams/{}", wish.id)
}

fn malformed(problem: &str) -> GatewayError {
    GatewayError::Malformed { what: "GET /v1/streams", problem: problem.to_owned() }
}

async fn done(answer: reqwest::Response) -> Result<(), GatewayError> {
    if answer.status().is_success() { Ok(()) } else { Err(refusal(answer).await) }
}
