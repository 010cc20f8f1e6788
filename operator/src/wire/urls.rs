//! URLs of single objects, for a short time and without other credentials (docs/spec/gateway.md section 10).
use muster_proof::Digest;
use serde::{Deserialize, Serialize};

/// What a URL is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum UrlMethod {
    /// Reading.
    #[serde(rename = "GET")]
    Get,
    /// Writing.
    #[serde(rename = "PUT")]
    Put,
}

/// `POST /v1/units/{unit}/urls`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UnitUrlRequest {
    /// Which blob.
    pub digest: Digest,
    /// To do what.
    pub method: UrlMethod,
    /// Its bytes; for PUT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
}

/// `POST /v1/namespaces/{ns}/jobs/{job}/urls`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JobUrlRequest {
    /// Which blob of the job.
    pub digest: Digest,
}

/// The answer to both. The URL is a credential: it is in no log and in no `Debug`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UrlAnswer {
    /// Where.
    pub url: String,
    /// With which method.
    pub method: UrlMethod,
    /// From now.
    pub expires_in_seconds: u64,
    /// It leads to the bucket, past the gateway.
    pub direct: bool,
    /// The upload is not the blob yet: publish it under this name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staging: Option<String>,
}

impl std::fmt::Debug for UrlAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UrlAnswer")
            .field("method", &self.method)
            .field("direct", &self.direct)
            .finish_non_exhaustive()
    }
}

/// `POST /v1/units/{unit}/blobs/sha256/{hex}/publish`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PublishRequest {
    /// As [`UrlAnswer::staging`].
    pub staging: String,
}
