//! The hub's way to the log. Its calls are counted with those to the API server.
use std::sync::Arc;

use futures::future::{self, BoxFuture};
use muster_proof::Digest;
use muster_proof::dsse::Envelope;
use muster_proof::key::SigningKey;
use muster_proof::tlog::tile::Resource;
use muster_testkit::faults::{Fault, Script, Turn};

use crate::hub::ledger::testing::Local;
use crate::hub::ledger::way::{Found, Way};
use crate::log::client::{ClientError, LogClient};
use crate::wire::log::{LogEntry, Logged};

/// In one life of the hub.
#[derive(Clone)]
pub struct Faulty {
    pub log: Arc<Local>,
    pub script: Script,
    pub life: u64,
}

impl Faulty {
    async fn call<T>(
        &self,
        what: &'static str,
        call: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, ClientError> {
        let unreachable = |why: &str| Err(ClientError::Unreachable(why.to_owned()));
        match self.script.turn(self.life, || format!("log {what}")) {
            Turn::Dead => future::pending().await,
            Turn::Meets(Fault::Unreached) => unreachable("connection refused"),
            // The log says 409 of records alone, and never without a reason.
            Turn::Meets(Fault::Refused(code)) => Err(ClientError::Refused {
                status: if code == 409 { 503 } else { code },
                reason: "Unavailable".into(),
                message: "as the script says".into(),
                retry_after: None,
            }),
            Turn::Meets(Fault::Lost) => {
                let _ = call.await;
                unreachable("connection reset by peer")
            }
            Turn::Meets(Fault::CrashAfter) => {
                let _ = call.await;
                self.script.crash();
                future::pending().await
            }
            Turn::Meets(_) | Turn::Go => call.await,
        }
    }
}

impl LogClient for Faulty {
    fn submit<'a>(&'a self, envelope: &'a Envelope) -> BoxFuture<'a, Result<Logged, ClientError>> {
        Box::pin(self.call("submit", self.log.submit(envelope)))
    }

    fn checkpoint(&self) -> BoxFuture<'_, Result<Vec<u8>, ClientError>> {
        Box::pin(self.call("checkpoint", self.log.checkpoint()))
    }

    fn cosigned(&self, least: usize) -> BoxFuture<'_, Result<Option<Vec<u8>>, ClientError>> {
        Box::pin(self.call("cosigned", self.log.cosigned(least)))
    }

    fn cosign<'a>(&'a self, size: u64, lines: &'a str) -> BoxFuture<'a, Result<(), ClientError>> {
        Box::pin(self.call("cosign", self.log.cosign(size, lines)))
    }

    fn tile<'a>(&'a self, path: &'a Resource) -> BoxFuture<'a, Result<Vec<u8>, ClientError>> {
        Box::pin(self.call("tile", self.log.tile(path)))
    }

    fn entry<'a>(&'a self, record: &'a Digest) -> BoxFuture<'a, Result<Option<LogEntry>, ClientError>> {
        Box::pin(self.call("entry", self.log.entry(record)))
    }
}

impl Way for Faulty {
    fn connect<'a>(&'a self, _: &'a SigningKey) -> BoxFuture<'a, Result<Found, String>> {
        Box::pin(
            async move { Ok((Arc::new(self.clone()) as Arc<dyn LogClient>, self.log.log.key().to_string())) },
        )
    }
}
