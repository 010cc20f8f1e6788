//! A worker's log on its way from a member to a user, and what is kept of attempts that failed (docs/spec/gateway.md section 9).
use serde::{Deserialize, Serialize};

/// No kept log is longer.
pub const MAX_KEPT: usize = 64 << 10;

/// `GET /v1/streams`: what the gateway wants of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StreamRequest {
    /// Where the answer goes: `POST /v1/streams/{id}`.
    pub id: String,
    /// Name of a WorkUnit of the asked agent.
    pub unit: String,
    /// Rank of the worker within the unit.
    pub worker: u32,
    /// Go on as long as the worker writes.
    pub follow: bool,
    /// Begin so many lines before the end; absent: at the beginning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tail_lines: Option<u32>,
    /// Nobody takes more bytes than this.
    pub limit_bytes: u64,
}

/// `POST /v1/streams/{id}` in JSON: why there is no log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StreamRefusal {
    /// For programs.
    pub reason: StreamReason,
    /// For people, with the remedy.
    pub message: String,
}

/// Why an agent gives no log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum StreamReason {
    /// The provider's policy says so.
    LogsRefused,
    /// No such worker runs here now.
    NoRunningWorker,
    /// The member's API does not give it now.
    MemberAway,
    /// As many streams as the agent serves are open.
    TooManyStreams,
}

/// `GET /v1/namespaces/{ns}/jobs/{job}/logs/kept`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KeptLogs {
    /// The oldest first.
    pub logs: Vec<KeptLog>,
}

/// The end of the log of a worker whose attempt failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KeptLog {
    /// Name of the WorkUnit.
    pub unit: String,
    /// Which attempt at it, from 1.
    pub attempt: u64,
    /// Rank of the worker within the unit.
    pub worker: u32,
}
