//! Bodies of the log's endpoints (docs/spec/gateway.md section 11). Checkpoints, tiles and cosignatures are C2SP's own formats.
use muster_proof::Digest;
use muster_proof::dsse::Envelope;
use muster_proof::records::JobId;
use serde::{Deserialize, Serialize};

/// Where the log is under a gateway's URL; what C2SP calls its prefix.
pub const LOG: &str = "/v1/log";
/// No envelope that is submitted is longer, in JSON.
pub const MAX_SUBMISSION: usize = 512 << 10;
/// No list of cosignatures is longer.
pub const MAX_COSIGNATURES: usize = 4 << 10;

/// Answer to `POST /v1/log/entries`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Logged {
    /// From 0, in the order of the log.
    pub index: u64,
    /// Of the record that was submitted.
    pub record_id: Digest,
}

/// Answer to `GET /v1/log/entries/{hex}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LogEntry {
    /// From 0, in the order of the log.
    pub index: u64,
    /// The record.
    pub envelope: Envelope,
}

/// A record of the log, by what it is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LoggedRecord {
    /// From 0, in the order of the log.
    pub index: u64,
    /// The record.
    pub record_id: Digest,
}

/// Answer to `GET /v1/namespaces/{ns}/jobs/{job}/records`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JobRecords {
    /// The verifier key of the log.
    pub log: String,
    /// The job.
    pub job: JobId,
    /// Its resolved spec.
    pub spec: Digest,
    /// Its dataset's manifest.
    pub dataset: Digest,
    /// The job's records and all about keys, in the order of the log.
    pub records: Vec<LoggedRecord>,
}
